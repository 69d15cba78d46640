"""llama.cpp's quantizers on one model, for `cargo xtask bench quality`.

The checkpoint becomes a float32 GGUF (write_gguf.py). llama.cpp quantizes it without an importance matrix and with a float32
embedding, and scores it against its own float32 logits on the windows of a reference that `mixbit eval --save-reference` wrote.
Prints a JSON line a result: name, bpw of the linear layers, scores; the float32 row's divergence from mixbit's
log-probabilities shows that both read the same model.
"""

import argparse
import ctypes
import json
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from write_gguf import read_safetensors, write_gguf

TYPES = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_0", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K")


def quantize(source, target, name):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    params.token_embedding_type = params.output_tensor_type = llama_cpp.GGML_TYPE_F32
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise RuntimeError("llama_model_quantize failed")


def bits_per_weight(path):
    """Over the matrices of the blocks, as mixbit counts them."""
    matrices = [t for t in gguf.GGUFReader(path).tensors if len(t.shape) == 2 and t.name.startswith("blk.")]
    return 8 * sum(t.n_bytes for t in matrices) / sum(t.n_elements for t in matrices)


def log_probs(path, windows):
    """[windows, tokens, vocabulary] in float64."""
    model = llama_cpp.Llama(
        str(path), n_ctx=windows.shape[1], n_batch=windows.shape[1], logits_all=True, verbose=False
    )
    for window in windows:
        model.reset()
        model.eval(window.tolist())
        logits = np.array(model.scores[: len(window)], dtype=np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        yield logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def scores(reference, found, windows):
    divergences, losses, same = [], [], []
    for p, q, window in zip(reference, found, windows):
        # As everywhere: every token of a window but the first is predicted.
        p, q = p[: len(window) - 1], q[: len(window) - 1]
        divergences.append((np.exp(p) * (p - q)).sum(axis=-1))
        losses.append(-q[np.arange(len(q)), window[1:]])
        same.append(p.argmax(axis=-1) == q.argmax(axis=-1))
    divergences, losses, same = map(np.concatenate, (divergences, losses, same))
    return {
        "kl_mean": float(divergences.mean()),
        "kl_stderr": float(divergences.std(ddof=1) / np.sqrt(divergences.size)),
        "perplexity": float(np.exp(losses.mean())),
        "same_top": float(same.mean()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = dict(read_safetensors(arguments.reference))
    windows = kept["tokens"]
    source, target = arguments.out / "float32.gguf", arguments.out / "quantized.gguf"
    try:
        write_gguf(arguments.model, source)
        reference = list(log_probs(source, windows))
    except Exception as error:
        print(json.dumps({"name": "llama.cpp", "failed": f"{type(error).__name__}: {error}"}), flush=True)
        return
    float32 = scores(kept["log_probs"].reshape(len(windows), -1, kept["log_probs"].shape[-1]), reference, windows)
    print(json.dumps({"name": "float32", "bpw": bits_per_weight(source), "scores": float32}), flush=True)
    for name in TYPES:
        try:
            quantize(source, target, name)
            row = {"bpw": bits_per_weight(target), "scores": scores(reference, log_probs(target, windows), windows)}
        except Exception as error:
            row = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps({"name": name, **row}), flush=True)


if __name__ == "__main__":
    main()
