"""Stock mlx-lm against mixbit, on every fixture, the bundled model and, with --models, other model folders.

For each model: mixbit converts it to float16; stock mlx-lm must load the result, and its logits and its greedy text, both
computed in float32 as ours are on the CPU, must equal ours. The trained models are also quantized to 4.5 bpw and
compared the same way, the bundled one also in each floating-point mode, and dequantized again; some with a quantized
embedding. Where mlx-lm is known to compute something else than transformers (case.json says so), only loading and
generating is checked, and the reason printed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map
from mlx_lm import stream_generate
from mlx_lm.quant.dynamic_quant import estimate_sensitivities
from mlx_lm.utils import load

TOLERANCE = 1e-4
LENGTH = 24
# What conversion cannot change: mlx-lm has no window, chunk or temperature for these.
SEMANTIC = {
    "ernie4-5-moe-correction": "mlx-lm leaves out the correction of the choice",
    "gemma2-caps": "mlx-lm ignores the sliding window",
    "glm-half": "mlx-lm rotates the whole head",
    "gpt-bigcode-every-head": "mlx-lm reads the rows of heads in another order",
    "gpt-bigcode-tanh": "mlx-lm computes GELU exactly",
    "gpt-neox-exact-gelu": "mlx-lm computes GELU by its approximation",
    "gpt-oss-yarn-as-it-is": "mlx-lm rounds the ends of yarn's ramp",
    "llama4-text-nope-mixed": "mlx-lm's llama4_text has neither chunks nor temperature tuning",
    "mimo-v2-flash-dense-first-layer": "mlx-lm's windows are one position narrower",
    "mimo-v2-flash-groups-and-sinks": "mlx-lm's windows are one position narrower, and other groups have a score of 0",
    "ministral3-window-tied": "mlx-lm ignores the sliding window",
    "mistral-sliding-window": "mlx-lm ignores the sliding window",
    "mixtral-tied-sliding-window": "mlx-lm ignores the sliding window",
    "nanochat-grouped": "mlx-lm has another epsilon",
    "nanochat-plain": "mlx-lm has another epsilon",
    "phi3-longrope-partial": "mlx-lm takes the long factors always",
    "plamo3-tied": "mlx-lm's windows are one position wider without a cache",
    "plamo3-untied": "mlx-lm's windows are one position wider without a cache",
    "qwen2-untied-window-yarn": "mlx-lm ignores the sliding window",
    "qwen3-max-window-layers": "mlx-lm ignores the sliding window",
    "qwen3-layer-types": "mlx-lm ignores the sliding window",
    "qwen3-moe-sliding-window": "mlx-lm ignores the sliding window",
    "solar-open-groups": "mlx-lm gives the experts of other groups a score of 0",
    "starcoder2-window": "mlx-lm ignores the sliding window",
}
# What stock mlx-lm cannot run. `parity_architectures.py` compares these types with a corrected one.
FAILING = {
    "exaone-untied": "transformers fails on rope_scaling of a type that it has no class of",
    "olmo-clipped": "mlx-lm's olmo fails on prompts",
    "olmo-tied": "mlx-lm's olmo fails on prompts",
    "olmo-transformers": "mlx-lm's olmo fails on prompts",
    "olmo-untied": "mlx-lm's olmo fails on prompts",
}

# Models whose embedding mlx-lm can run quantized: tied and untied heads.
EMBEDDINGS = {
    "llama-dynamic-rope", "llama-mha-untied", "qwen2-tied", "qwen3-tied", "qwen3-moe-mixed", "qwen3-moe-untied", "llama2xs-281k",
}  # fmt: skip


def run(mixbit, *arguments):
    done = subprocess.run([mixbit, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mixbit {' '.join(map(str, arguments))}\n{done.stderr}")
    return done.stdout


def our_logits(mixbit, model, tokens, home):
    out = home / "logits.npz"
    run(mixbit, "logits", "--model", model, "--tokens", ",".join(map(str, tokens)), "--out", out, "--overwrite")
    return np.load(out)["logits"]


def in_float32(model):
    cast = lambda x: x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x
    model.update(tree_map(cast, model.parameters()))


def their_text(model, tokenizer, prompt):
    """Greedy, without special tokens and ids that the tokenizer does not know."""
    tokens = [part.token for part in stream_generate(model, tokenizer, prompt, max_tokens=LENGTH)]
    known = [token for token in tokens if token < len(tokenizer)]
    return tokenizer.decode(known, skip_special_tokens=True)


def prompt_of(folder):
    golden = folder / "golden.safetensors"
    if golden.is_file():
        return np.array(mx.load(str(golden))["tokens"]).tolist()
    config = json.loads((folder / "config.json").read_text())
    return [(i * 37 + 11) % min(config["vocab_size"], 1000) for i in range(48)]


def compare(mixbit, name, folder, tokens, home):
    """Logits and greedy text of one MLX folder. Returns a line of the report and whether all is well."""
    model, tokenizer = load(str(folder))
    in_float32(model)
    prompt = ",".join(map(str, tokens[:16]))
    ours = run(mixbit, "run", "--model", folder, "--prompt-tokens", prompt, "--max-tokens", LENGTH)
    theirs = their_text(model, tokenizer, tokens[:16])
    text_equal = ours.strip() == theirs.strip()
    found = our_logits(mixbit, folder, tokens, home)
    expected = np.array(model(mx.array([tokens]))[0])
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    if name in SEMANTIC:
        return f"{name:46} loads and runs ({SEMANTIC[name]})", True
    well = error < TOLERANCE and text_equal
    verdict = "ok" if well else "DIFFERS"
    text = "same text" if text_equal else f"text differs:\n  ours   {ours!r}\n  theirs {theirs!r}"
    return f"{name:46} logits {error:.1e}  {text}  {verdict}", well


def check_story(mixbit, folder):
    """The continuation that llama2.c's README made well known."""
    expected = ", there was a little girl named Lily. She loved to play outside in the park."
    text = run(mixbit, "run", "--model", folder, "--prompt", "Once upon a time", "--max-tokens", 64)
    return f"{'stories260K: Once upon a time':46} {'ok' if text.startswith(expected) else 'DIFFERS ' + text!r}", text.startswith(expected)


def check_answer(mixbit, folder):
    """A fact that the smallest of useful models knows, asked through its chat template."""
    text = run(mixbit, "run", "--model", folder, "--prompt", "What is the capital of France?", "--max-tokens", 32)
    return f"{folder.name + ': the capital of France':46} {'ok' if 'Paris' in text else 'DIFFERS ' + text!r}", "Paris" in text


def check_sinks(mixbit, folder, home):
    """A text of four times the context: bounded with the first tokens kept, much worse without (arXiv 2309.17453)."""
    text = Path(__file__).resolve().parent.parent / "src/text/corpus/default.txt"
    (home / "long.txt").write_text(text.read_text().replace("<|endoftext|>", ""))

    def perplexity(*more):
        stdout = run(mixbit, "eval", "--model", folder, "--data", home / "long.txt", "--max-tokens", 1024, "--json", "-", *more)
        return json.loads(stdout)["perplexity"]

    stream = ("--stream", "--context-size", 256)
    whole, four, none = perplexity("--sequence-length", 1024), perplexity(*stream), perplexity(*stream, "--num-sink-tokens", 0)
    well = four < 1.2 * whole and none > 1.5 * four
    line = f"whole {whole:.2f}, 256 tokens and 4 sinks {four:.2f}, without sinks {none:.2f}"
    return f"{folder.name + ': sinks':46} {line}  {'ok' if well else 'DIFFERS'}", well


def check_modes(mixbit, folder, tokens, home):
    """The floating-point modes, and a model of mixed ones back in float. Yields lines and whether all is well."""
    mixed = ["--bits", "3", "--layer", "*.0.*=mxfp4", "--layer", "*.1.*=mxfp8", "--layer", "*.2.*=nvfp4"]
    for name, flags in [(mode, ["--mode", mode]) for mode in ("mxfp4", "mxfp8", "nvfp4")] + [("mixed modes", mixed)]:
        quantized = home / "modes"
        run(mixbit, "quantize", "--hf-path", folder, "--mlx-path", quantized, "--overwrite", *flags)
        yield compare(mixbit, f"{folder.name} in {name}", quantized, tokens, home)
    for dtype in ("float16", "float32"):
        run(mixbit, "dequantize", "--model", quantized, "--out", home / "float", "--dtype", dtype, "--overwrite")
        yield compare(mixbit, f"{folder.name} back in {dtype}", home / "float", tokens, home)
    difference = our_logits(mixbit, home / "float", tokens, home) - our_logits(mixbit, quantized, tokens, home)
    error = float(np.abs(difference).max())
    well = error < TOLERANCE
    yield f"{'float32 against quantized':46} logits {error:.1e}  {'ok' if well else 'DIFFERS'}", well


def check_embeddings(mixbit, folder, tokens, home):
    """The embedding quantized too, and with it a tied head."""
    quantized = home / "embeddings"
    run(mixbit, "quantize", "--hf-path", folder, "--mlx-path", quantized, "--overwrite", "--bits", "4:32",
        "--quantize-embeddings", "8:32")
    return compare(mixbit, f"{folder.name} with its embedding", quantized, tokens, home)


def check_perplexity(mixbit, folder, home):
    """On the same token windows, in float32."""
    model, _ = load(str(folder))
    in_float32(model)
    windows = np.random.default_rng(1).integers(16, 500, (6, 64), dtype=np.int32)
    np.save(home / "tokens.npy", windows.reshape(-1))
    ours = json.loads(run(mixbit, "eval", "--model", folder, "--data", home / "tokens.npy", "--sequence-length", 64, "--json", "-"))
    losses = nn.losses.cross_entropy(model(mx.array(windows[:, :-1])), mx.array(windows[:, 1:]))
    theirs = float(mx.exp(losses.mean()))
    error = abs(ours["perplexity"] / theirs - 1)
    well = error < TOLERANCE and ours["tokens"] == losses.size
    return f"{folder.name + ': perplexity':46} {ours['perplexity']:.4f}, {error:.1e} from mlx-lm's  {'ok' if well else 'DIFFERS'}", well


class FloatEmbedding(nn.Embedding):
    """An embedding that mlx-lm does not take for a candidate, as it is none for us."""

    @property
    def to_quantized(self):
        raise AttributeError("stays float")


def check_alignment(mixbit, folder, home):
    """`--method alignment` against mlx-lm's dynamic_quant, on the same tokens and in float32."""
    windows = np.random.default_rng(2).integers(16, 1000, (8, 48), dtype=np.int32)
    np.save(home / "tokens.npy", windows.reshape(-1))
    # The last of eight windows is held out.
    run(mixbit, "analyze", "--model", folder, "--out", home / "alignment.json", "--overwrite", "--method", "alignment",
        "--rounding", "rtn", "--calibration", home / "tokens.npy", "--samples", 7, "--sequence-length", 48,
        "--dtype", "float32", "--candidates", "4,5")
    layers = json.loads((home / "alignment.json").read_text())["layers"]
    model, _ = load(str(folder))
    in_float32(model)
    model.model.embed_tokens.__class__ = FloatEmbedding
    theirs = dict(estimate_sensitivities(model, mx.array(windows[:7]), 4, 64, 5, 64, batch_size=7))
    ours = {}
    for layer in layers:
        kl = {score["bits"]: score["kl"] for score in layer["scores"]}
        ours[layer["path"]] = (kl[4] - kl[5]) * 1e6 / (layer["rows"] * layer["columns"])
    scale = max(abs(value) for value in theirs.values())
    error = max(abs(ours[path] - value) for path, value in theirs.items()) / scale
    well = ours.keys() == theirs.keys() and error < 1e-2
    return f"{folder.name + ': alignment':46} within {error:.1e} of dynamic_quant's  {'ok' if well else 'DIFFERS'}", well


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mixbit", required=True, type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--models", type=Path, help="a folder of further trained models")
    parser.add_argument("--smollm2", type=Path, help="the folder of SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    fixtures = Path(__file__).resolve().parent.parent / "fixtures"
    trained = [fixtures / "models" / "mobilellm-docs-1m"]
    if arguments.models:
        trained += sorted(path.parent for path in arguments.models.glob("*/config.json"))
    if arguments.smollm2:
        trained.append(arguments.smollm2)
    goldens = sorted(path.parent for path in fixtures.glob("golden/**/golden.safetensors"))
    results = []

    def report(line, well):
        print(line, flush=True)
        results.append(well)

    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        for folder in goldens + trained:
            if folder.name in FAILING:
                print(f"{folder.name:46} not compared ({FAILING[folder.name]})", flush=True)
                continue
            tokens = prompt_of(folder)
            converted = home / "converted"
            run(arguments.mixbit, "convert", "--hf-path", folder, "--mlx-path", converted, "--dtype", "float16", "--overwrite")
            report(*compare(arguments.mixbit, folder.name, converted, tokens, home))
            if folder in trained:
                quantized = home / "quantized"
                run(arguments.mixbit, "quantize", "--hf-path", folder, "--mlx-path", quantized, "--target-bpw", "4.5",
                    "--samples", 8, "--sequence-length", 128, "--overwrite")
                report(*compare(arguments.mixbit, f"{folder.name} at 4.5 bpw", quantized, tokens, home))
                report(*check_perplexity(arguments.mixbit, folder, home))
            if folder.name in EMBEDDINGS:
                report(*check_embeddings(arguments.mixbit, folder, tokens, home))
            if folder == trained[0]:
                report(*check_alignment(arguments.mixbit, folder, home))
                for line, well in check_modes(arguments.mixbit, folder, tokens, home):
                    report(line, well)
            if folder == arguments.smollm2:
                report(*check_answer(arguments.mixbit, converted))
                report(*check_answer(arguments.mixbit, quantized))
                report(*check_sinks(arguments.mixbit, folder, home))
            if folder.name == "stories260K":
                report(*check_story(arguments.mixbit, folder))
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
