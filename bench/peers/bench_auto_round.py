"""AutoRound on one model and text, for `cargo xtask bench quality --auto-round`.

Each result is a folder of its MLX export, with groups of 64 and a float embedding and head. What is float there is float16,
as in mlx-lm's results. Everything is computed in float32; on some processors its default is bfloat16. `torch.compile` is
off: it saves time on large models. Its other settings are its own: batches of 8, seed 42, sign gradient descent with a rate
of one over the iterations, from 1000 iterations on twice that for at most 3 bits. Prints a JSON line per result: name,
folder, seconds.

- uniform: asymmetric, 200 iterations, its default recipe
- best: the same with 1000 iterations, as in its recipe `auto-round-best`
- v2: symmetric, with SignRoundV2 (`enable_alg_ext`), which its asymmetric quantizer does not have; 200 iterations, or 1000
- scheme: AutoScheme chooses from 2, 3, 4, 5 and 6 bits by all sequences, and the default recipe rounds. A name has the bits
  per weight with a float16 scale and bias per group, as the bench counts them: half a bit more than its `avg_bits` of codes
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

# What the package prints to standard output would stand between the results.
results = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import torch
from auto_round import AutoRound, AutoScheme, QuantizationScheme
from auto_round.calib_dataset import register_dataset
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from windows import arguments, windows

GROUP_SIZE = 64
OVERHEAD = 32 / GROUP_SIZE
TARGETS = (3.0, 3.5, 4.0, 4.5, 5.0)
DEFAULT, BEST = 200, 1000
TEXT = "windows"


def integers(bits, sym=False):
    return QuantizationScheme(bits=bits, group_size=GROUP_SIZE, sym=sym, data_type="int", act_bits=16)


def load(path):
    config = AutoConfig.from_pretrained(path)
    if config.model_type == "llama4_text":
        # transformers would make experts of what the config does not mention; mlx-lm's llama4_text has none.
        config.moe_layers = []
    return AutoModelForCausalLM.from_pretrained(path, config=config, dtype=torch.float32)


def in_float16(folder):
    for path in Path(folder).glob("*.safetensors"):
        tensors = {name: x.half() if x.is_floating_point() else x for name, x in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float16"}, indent=2))


class AutoRounds:
    def __init__(self, model, tokenizer, out, data):
        self.model, self.tokenizer, self.out, self.data = model, tokenizer, out, data

        @register_dataset(TEXT)
        def sequences(tokenizer, seqlen, **_):
            return Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * seqlen} for ids in data])

    def quantize(self, name, scheme, iters, **settings):
        started = time.time()
        rounding = AutoRound(
            load(self.model),
            self.tokenizer,
            scheme=scheme,
            dataset=TEXT,
            nsamples=len(self.data),
            seqlen=len(self.data[0]),
            iters=iters,
            device_map="cpu",
            amp=False,
            enable_torch_compile=False,
            **settings,
        )
        _, folder = rounding.quantize_and_save(str(self.out / name), format="mlx")
        seconds = time.time() - started
        in_float16(folder)
        row = {"name": name, "folder": folder, "seconds": seconds}
        print(json.dumps(row), file=results, flush=True)

    def uniform(self, name, bits, iters):
        self.quantize(name, integers(bits), iters)

    def v2(self, name, bits, iters):
        self.quantize(name, integers(bits, sym=True), iters, enable_alg_ext=True)

    def mixed(self, name, target):
        chosen = AutoScheme(
            avg_bits=target - OVERHEAD,
            options=[integers(bits) for bits in (2, 3, 4, 5, 6)],
            ignore_scale_zp_bits=True,
            nsamples=len(self.data),
            seqlen=len(self.data[0]),
        )
        self.quantize(name, chosen, DEFAULT)


def main():
    given = arguments()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    data = windows(tokenizer, given.text.read_text(), given.samples, given.sequence_length)
    peer = AutoRounds(given.model, tokenizer, given.out, data)
    attempts = {f"uniform-{bits}": (peer.uniform, bits, DEFAULT) for bits in (2, 3, 4)}
    attempts |= {f"scheme-at-{target}": (peer.mixed, target) for target in TARGETS}
    attempts |= {f"v2-{bits}": (peer.v2, bits, DEFAULT) for bits in (2, 3, 4)}
    attempts |= {f"best-{bits}": (peer.uniform, bits, BEST) for bits in (2, 3, 4)}
    attempts |= {"best-v2-2": (peer.v2, 2, BEST)}
    if unknown := set(given.only or ()) - set(attempts):
        sys.exit(f"there is no result {min(unknown)}, expected some of {', '.join(attempts)}")
    for name, (attempt, *settings) in attempts.items():
        if given.only and name not in given.only:
            continue
        try:
            attempt(name, *settings)
        except Exception as error:  # a peer that cannot do this model is a row of the table
            print(json.dumps({"name": name, "failed": f"{type(error).__name__}: {error}"}), file=results, flush=True)


if __name__ == "__main__":
    # Layer scores that AutoScheme keeps serve all its targets, and no later text.
    with tempfile.TemporaryDirectory() as scores:
        os.environ.update(AR_AUTO_SCHEME_CACHE=scores, AR_DISABLE_DATASET_SUBPROCESS="1", AR_WORK_SPACE=scores)
        main()
