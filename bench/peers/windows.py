"""The calibration sequences of the Python peers of `cargo xtask bench quality`."""


def windows(tokenizer, text, samples, length):
    """`samples` lists of `length` token ids, evenly spread over the documents of `text`."""
    tokens = []
    for document in text.split("\n<|endoftext|>\n"):
        tokens += tokenizer.encode(document)
    count = len(tokens) // length
    chosen = [i * count // samples for i in range(samples)]
    return [tokens[i * length : (i + 1) * length] for i in chosen]
