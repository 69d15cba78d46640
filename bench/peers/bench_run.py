"""The reference side of `cargo xtask bench run`: mlx-lm's generation loop under the clock of its `stream_generate`.

`stream_generate` itself also turns tokens into text; with random weights they are outside the tokenizer's vocabulary.
"""

import argparse
import time
from pathlib import Path

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompt-tokens", required=True, help="token ids, separated by commas")
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--dtype", help="convert the weights after loading, for example to float32")
    args = parser.parse_args()

    start = time.perf_counter()
    model, _ = load_model(args.model)
    if args.dtype:
        model.set_dtype(getattr(mx, args.dtype))
    mx.eval(model.parameters())
    print(f"load time: {time.perf_counter() - start:.3f} s")
    prompt = mx.array([int(token) for token in args.prompt_tokens.split(",")])

    start = time.perf_counter()
    count = 0
    for count, _ in enumerate(generate_step(prompt, model, max_tokens=args.max_tokens), 1):
        if count == 1:
            prompt_seconds = time.perf_counter() - start
            start = time.perf_counter()
    generation_seconds = time.perf_counter() - start
    print(f"prompt: {prompt.size} tokens, {prompt.size / prompt_seconds:.1f} tokens/s")
    print(f"generation: {count} tokens, {count / generation_seconds:.1f} tokens/s")


if __name__ == "__main__":
    main()
