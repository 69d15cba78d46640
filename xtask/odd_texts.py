"""Texts on which tokenizers differ first."""

TEXTS = [
    "Hello world",
    " ",
    "  two  spaces ",
    "<s>hi</s> there <unk>",
    "a<|im_start|>user\nb<|im_end|> c",
    "<|endoftext|> x <|eot_id|>y",
    "déjà ﬁ vu é naïve ÀB",
    "日本語 👩‍👩‍👧 ½",
    "tab\tnl\n\n\r\nend \n",
    "it's 12345 THE'S <new> tok<new>en <New> <x>  <x> end<z>",
    "[CLS] [MASK] hi [PAD]",
    " lead <s> trail ",
]  # fmt: skip
