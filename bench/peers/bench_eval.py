"""mlx-lm's perplexity on a text of our choice, for `cargo xtask bench eval`: its `eval_ppl` under the clock, after the
weights were read.
"""

import argparse
import json
import time
from pathlib import Path

import mlx.core as mx
from mlx_lm.perplexity import eval_ppl
from mlx_lm.utils import load

from bench_quality import windows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--windows", type=int, required=True)
    parser.add_argument("--sequence-length", type=int, required=True)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    model, tokenizer = load(str(arguments.model))
    model.set_dtype(mx.float32)
    data = windows(tokenizer, arguments.data.read_text(), arguments.windows, arguments.sequence_length)
    mx.eval(model.parameters(), data)
    started = time.perf_counter()
    perplexity, _ = eval_ppl(model, data)
    seconds = time.perf_counter() - started
    scores = {"perplexity": perplexity, "tokens_per_second": data.size / seconds}
    arguments.json.write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
