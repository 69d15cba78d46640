"""Peak memory of `mixbit convert` and `mixbit quantize` on a model whose experts are larger than memory.

    .venv/bin/python benches/large_experts.py --mixbit target/release/mixbit [--layers 24] [--out target/large-experts]

The model has the layout of Qwen3-30B-A3B: one bfloat16 tensor per expert and matrix, in shards. Its files are holes, which take
no room on disk and read as zeros. What mixbit writes is zeros as well: blocks of it are given back to the disk while it is
written, so that 30 GB of weights need little room. Peak memory is VmHWM and the highest RssAnon of /proc/PID/status: the first
counts pages of mapped files too, the second only what the process cannot give back. Linux only.
"""

import argparse
import json
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARD_BYTES = 5 << 30
CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "decoder_sparse_step": 1,
    "eos_token_id": 2,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}


def tensors(layers):
    """Name -> shape, in the order of the files."""
    c = CONFIG
    hidden, head, width = c["hidden_size"], c["head_dim"], c["moe_intermediate_size"]
    queries, keys = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", [c["vocab_size"], hidden]
    for layer in range(layers):
        block = f"model.layers.{layer}"
        for name, shape in [("q", [queries, hidden]), ("k", [keys, hidden]), ("v", [keys, hidden]), ("o", [hidden, queries])]:
            yield f"{block}.self_attn.{name}_proj.weight", shape
        for name in ("q_norm", "k_norm"):
            yield f"{block}.self_attn.{name}.weight", [head]
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{block}.{name}.weight", [hidden]
        yield f"{block}.mlp.gate.weight", [c["num_experts"], hidden]
        for expert in range(c["num_experts"]):
            for name, shape in [("gate", [width, hidden]), ("up", [width, hidden]), ("down", [hidden, width])]:
                yield f"{block}.mlp.experts.{expert}.{name}_proj.weight", shape
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [c["vocab_size"], hidden]


def shards(layers):
    """Lists of (name, shape, bytes), each for one file."""
    shard, size = [], 0
    for name, shape in tensors(layers):
        length = 2
        for n in shape:
            length *= n
        if size + length > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append((name, shape, length))
        size += length
    yield shard


def write_model(folder, layers):
    """Writes the model; returns the bytes of its weights."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    all_shards, places, total = list(shards(layers)), {}, 0
    for number, shard in enumerate(all_shards, 1):
        file = f"model-{number:05}-of-{len(all_shards):05}.safetensors"
        header, offset = {}, 0
        for name, shape, length in shard:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + length]}
            places[name] = file
            offset += length
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + offset)
        total += offset
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
    bundled = next((ROOT / "fixtures" / "models").glob("*/tokenizer.json")).parent
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled / file, folder / file)
    return total


def status(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return [int(fields[key].split()[0]) / 1024 if key in fields else 0 for key in ("VmHWM", "RssAnon")]


def run(mixbit, arguments, written):
    """Runs mixbit; returns seconds, and the peaks of resident and of anonymous memory in MiB."""
    shutil.rmtree(written, ignore_errors=True)
    begin = time.monotonic()
    process = subprocess.Popen([mixbit, *map(str, arguments), "--mlx-path", str(written)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    resident = anonymous = 0.0
    while process.poll() is None:
        try:
            now = status(process.pid)
            resident, anonymous = max(resident, now[0]), max(anonymous, now[1])
        except (FileNotFoundError, ProcessLookupError):
            break
        try:
            files = list(written.parent.glob(f"*{written.name}*/**/*.safetensors"))
        except FileNotFoundError:  # the folder got its name
            files = []
        for file in files:
            subprocess.run(["fallocate", "--dig-holes", str(file)], stderr=subprocess.DEVNULL, check=False)
        time.sleep(0.2)
    if process.wait():
        sys.exit(f"mixbit {arguments[0]} failed")
    return time.monotonic() - begin, resident, anonymous


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixbit", required=True, type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--out", type=Path, default=ROOT / "target" / "large-experts")
    arguments = parser.parse_args()
    model, written = arguments.out / "model", arguments.out / "written"
    total = write_model(model, arguments.layers)
    c = CONFIG
    stack = 2 * c["num_experts"] * c["moe_intermediate_size"] * c["hidden_size"] / 2**20
    print(f"{total / 1e9:.1f} GB of weights in holes, {arguments.layers} blocks; one stack of experts: {stack:.0f} MiB")
    quantize = ["quantize", "--hf-path", model, "--rounding", "rtn"]
    jobs = {
        "convert": ["convert", "--hf-path", model],
        "quantize --bits 4 --rounding rtn": [*quantize, "--bits", 4],
        "quantize --recipe mixed-4-6 --rounding rtn": [*quantize, "--recipe", "mixed-4-6"],
    }
    print("| job | seconds | peak resident MiB | of it anonymous |\n|---|---:|---:|---:|")
    try:
        for name, job in jobs.items():
            seconds, resident, anonymous = run(arguments.mixbit, job, written)
            print(f"| {name} | {seconds:.0f} | {resident:.0f} | {anonymous:.0f} |", flush=True)
    finally:
        shutil.rmtree(arguments.out, ignore_errors=True)


if __name__ == "__main__":
    main()
