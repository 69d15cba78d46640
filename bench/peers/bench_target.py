"""mlx-lm's dynamic_quant on a text of our choice, for `cargo xtask bench target`: what its `main` does, through its Python
API, with float32 weights (its formula needs gradients) and float embeddings, as `bench_quality.py` has them.
"""

import argparse
from pathlib import Path

from bench_quality import Peers, windows
from mlx_lm.utils import load


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--sequence-length", type=int, required=True)
    parser.add_argument("--low", type=int, default=4)
    parser.add_argument("--high", type=int, default=5)
    parser.add_argument("--target", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    _, tokenizer = load(str(arguments.model), lazy=True)
    data = windows(tokenizer, arguments.text.read_text(), arguments.samples, arguments.sequence_length)
    peers = Peers(arguments.model, arguments.out, data)
    peers.dynamic(arguments.low, arguments.high, [arguments.target])


if __name__ == "__main__":
    main()
