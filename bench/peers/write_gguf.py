"""Writes a checkpoint as a float32 GGUF without a vocabulary, for programs that are given token ids.

MobileLLM-R1 goes as a Qwen3 whose q and k norms are ones: the same function, and llama.cpp's own Llama 4 wants experts or stops
at dense layers without a window.
"""

import argparse
import itertools
import json
from pathlib import Path

import gguf
import numpy as np


def read_safetensors(path):
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    dtypes = {"F32": "<f4", "F16": "<f2", "I32": "<i4"}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            count = (end - start) // np.dtype(dtypes[entry["dtype"]]).itemsize
            values = np.fromfile(path, dtypes[entry["dtype"]], count, offset=8 + length + start)
            yield name, values.reshape(entry["shape"])


def halves_to_pairs(weight, heads):
    """Rows of each head from halves, as transformers rotates Llama's, to pairs, as llama.cpp does."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def pairs_to_halves(weight, heads):
    """The other way: Llama 4 rotates pairs, and Qwen3 halves."""
    return weight.reshape(heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(model, path):
    config = json.loads((model / "config.json").read_text())
    arch = {"llama": "llama", "llama4_text": "qwen3"}.get(config["model_type"])
    if arch is None:
        raise NotImplementedError(f"no GGUF for {config['model_type']}")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config["num_hidden_layers"])
    for name, values in read_safetensors(model / "model.safetensors"):
        values = values.astype(np.float32)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            order = halves_to_pairs if arch == "llama" else pairs_to_halves
            values = order(values, heads if "q_proj" in name else kv_heads)
        mapped = names.get_name(name, try_suffixes=(".weight",))
        if mapped is None:
            raise NotImplementedError(f"no GGUF name for {name}")
        writer.add_tensor(mapped, values)
    if arch == "qwen3":
        for layer, name in itertools.product(range(config["num_hidden_layers"]), ("attn_q_norm", "attn_k_norm")):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(config["head_dim"], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write_gguf(arguments.model, arguments.out)


if __name__ == "__main__":
    main()
