"""Arguments and calibration sequences of the Python peers of `cargo xtask bench quality`."""

import argparse
from pathlib import Path


def arguments():
    """The arguments of a script that quantizes `model` in several ways, each to a folder in `out`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--sequence-length", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of results; all without")
    return parser.parse_args()


def windows(tokenizer, text, samples, length):
    """`samples` lists of `length` token ids, evenly spread over the documents of `text`."""
    tokens = []
    for document in text.split("\n<|endoftext|>\n"):
        tokens += tokenizer.encode(document)
    count = len(tokens) // length
    chosen = [i * count // samples for i in range(samples)]
    return [tokens[i * length : (i + 1) * length] for i in chosen]
