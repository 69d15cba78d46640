"""llama.cpp against mixbit on a GGUF: token ids of odd texts, and logits of one.

    PEERS/bin/python xtask/parity_gguf.py MODEL.gguf [--mixbit target/release/mixbit] [--text FILE] [--tokens 64]

By hand, in an environment with bench/peers/requirements-llama-cpp.txt. llama.cpp computes quantized layers with activations of
eight bits, so logits agree to what that rounds away; with `--float32` both read the values of the file's layers in float32, which
takes four bytes for each weight. Ids must be the same, and fail the script where they are not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from llama_cpp import GGML_TYPE_F32, Llama
from odd_texts import TEXTS

ROOT = Path(__file__).resolve().parent.parent


def by_mixbit(mixbit, model, home, *arguments):
    """Token ids and logits."""
    out = home / "logits.npz"
    subprocess.run([mixbit, "logits", "--model", model, "--out", out, "--overwrite", "--quiet", *arguments], check=True)
    with np.load(out) as arrays:
        return arrays["tokens"].tolist(), arrays["logits"]


def by_llama_cpp(llama, tokens):
    llama.reset()
    llama.eval(tokens)
    return np.array(llama.scores[: len(tokens)])


def as_float32(source, target):
    """Writes a GGUF with the values of all quantized tensors in float32, and everything else as it is."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, dequantize

    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kinds = [*field.types, None]
        writer.add_key_value(key, field.contents(), kinds[0], sub_type=kinds[1] if kinds[0] == GGUFValueType.ARRAY else None)
    floats = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    for tensor in reader.tensors:
        data = tensor.data if tensor.tensor_type in floats else dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--mixbit", type=Path, default=ROOT / "target/release/mixbit")
    parser.add_argument("--text", type=Path, default=ROOT / "LICENSE-MIT", help="the text whose logits are compared")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of that text")
    parser.add_argument("--float32", action="store_true", help="compare the values of quantized layers in float32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        home, model = Path(home), arguments.model
        if arguments.float32:
            model = home / "float32.gguf"
            as_float32(arguments.model, model)
        # Keys and values are float16 unless told otherwise.
        cache = {"type_k": GGML_TYPE_F32, "type_v": GGML_TYPE_F32} if arguments.float32 else {}
        llama = Llama(str(model), n_ctx=max(arguments.tokens, 64), logits_all=True, verbose=False, **cache)
        tokenize = lambda text: llama.tokenize(text.encode(), add_bos=True, special=True)
        differ = 0
        for text in TEXTS:
            theirs, (ours, _) = tokenize(text), by_mixbit(arguments.mixbit, model, home, "--prompt", text)
            if ours != theirs:
                differ += 1
                print(f"{text!r}: mixbit {ours}, llama.cpp {theirs}")
        tokens = tokenize(arguments.text.read_text())[: arguments.tokens]
        ids = ",".join(map(str, tokens))
        _, ours = by_mixbit(arguments.mixbit, model, home, "--tokens", ids)
        theirs = by_llama_cpp(llama, tokens)
    error = np.abs(ours - theirs).max()
    row = {
        "texts": len(TEXTS),
        "texts that differ": differ,
        "tokens": len(tokens),
        "largest difference of logits": float(error),
        "relative to the largest logit": float(error / np.abs(theirs).max()),
        "same likeliest token": float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
    }
    print(json.dumps(row, indent=1))
    sys.exit(differ > 0)


if __name__ == "__main__":
    main()
