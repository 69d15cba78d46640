"""Token ids, prompts and stop tokens of mixbit against transformers and stock mlx-lm, on folders of different make.

Tokenizers of every make are trained on the bundled text, with a fixed seed, and put into folders with the quirks that model
folders have: tokens that only one of the side files knows, classes that transformers builds anew, lists and numbers of stop
tokens, templates of several styles. The committed fixtures come on top. In each, mixbit's ids of a dozen odd texts must be
those of `AutoTokenizer`, its prompts those of `apply_chat_template`, and its stop tokens those of mlx-lm with config.json's.
"""

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
from base64 import b64encode
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from mlx_lm.utils import load_config, load_tokenizer
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "fixtures"))
import parity_classes  # noqa: E402
from checkpoints import weight_shapes  # noqa: E402
from odd_texts import TEXTS  # noqa: E402

ROWS, HIDDEN = 1024, 32
# What stock mlx-lm cannot open here.
UNREADABLE = {
    "exaone-untied": "transformers fails on rope_scaling of a type that it has no class of",
    "olmo-clipped": "mlx-lm's olmo needs the package ai2-olmo",
    "olmo-tied": "mlx-lm's olmo needs the package ai2-olmo",
    "olmo-transformers": "mlx-lm's olmo needs the package ai2-olmo",
    "olmo-untied": "mlx-lm's olmo needs the package ai2-olmo",
}
# For the folders of one class each, of which there are many.
FEW_TEXTS = [
    "Hello world ",
    "  two  spaces déjà ﬁ vu é naïve ÀB\n\n日本語 👩‍👩‍👧 ½ привет\tx ",
    "<s>hi</s> there <unk>a<|endoftext|>  <mask> b[MASK]c [CLS] <x> <extra_id_0>en_XX",
    "it's 12345 THE'S ``quoted'' (a) [b] {c}!!,,.. don't <0.02>",
    " lead\u3000ＡＢＣ ㍿ ß İ trail \n",
]
FILLS = ["a b<FILL_ME> c d", "<FILL_ME>x"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
# A system message, where there is one, and what the user says.
CHATS = [(None, "Hi there"), ("Be brief.", " a \n b"), (None, "<s> é </s>")]


def lines():
    """Lines of the bundled text, and one with what it lacks."""
    text = (ROOT / "src/text/corpus/default.txt").read_text().splitlines()[:400]
    return text + ["déjà vu naïve 日本語 привет 12345; tabs\tand  spaces"] * 20


def trained(tokenizer, trainer):
    tokenizer.train_from_iterator(lines(), trainer)
    return json.loads(tokenizer.to_str())


def byte_level(special=("<|endoftext|>",), size=600):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(tokenizer, trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False))


def begins_with(bos, bos_id):
    return processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A $B:1", special_tokens=[(bos, bos_id)])


def split_byte_level():
    made = byte_level(special=(), size=600)
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer.from_str(json.dumps(made))
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte])
    tokenizer.model.ignore_merges = True
    tokenizer.add_special_tokens([AddedToken(t) for t in ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")])
    begin = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = begins_with("<|begin_of_text|>", begin)
    return json.loads(tokenizer.to_str())


def sentencepiece(metaspace):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", "<s>", "</s>"]
    made = trained(tokenizer, trainers.BpeTrainer(
        vocab_size=700, special_tokens=special + bytes_, show_progress=False))
    made["added_tokens"] = made["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(made))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        made = json.loads(tokenizer.to_str()) | {"pre_tokenizer": None}
        tokenizer = Tokenizer.from_str(json.dumps(made))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = begins_with("<s>", 1)
    return json.loads(tokenizer.to_str())


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return trained(tokenizer, trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False))


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    made = trained(tokenizer, trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    around = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                           special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made | {"post_processor": json.loads(around.__getstate__())}


def tekken():
    """Mistral's own file: single bytes, then merges of the byte-level vocabulary as bytes."""
    made = byte_level(special=(), size=600)
    alphabet = {letter: byte for byte, letter in enumerate(decode_table())}
    pieces = sorted(made["model"]["vocab"], key=made["model"]["vocab"].get)
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes(alphabet[c] for c in piece) for piece in pieces if len(piece) > 1]
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    return {
        "config": {"pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+", "num_vocab_tokens": len(tokens),
                   "default_vocab_size": len(tokens) + 10 - 20, "default_num_special_tokens": 10, "version": "v7"},
        "vocab": [{"rank": rank, "token_bytes": b64encode(token).decode(), "token_str": None}
                  for rank, token in enumerate(tokens)],
        "special_tokens": [{"rank": rank, "token_str": token, "is_control": True} for rank, token in enumerate(special)],
    }


def decode_table():
    """The letter of each byte in byte-level vocabularies."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def token(content, typed=False, **flags):
    """A token as an object, in tokenizer_config.json with its type."""
    base = {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return base | flags | ({"__type": "AddedToken"} if typed else {})


def without(made, *contents):
    """The tokenizer with added tokens taken out of the file, but not out of the vocabulary."""
    made = copy.deepcopy(made)
    made["added_tokens"] = [t for t in made["added_tokens"] if t["content"] not in contents]
    return made


def folders():
    """Name -> files, model type, and the stop tokens of config.json and generation_config.json."""
    level, split = byte_level(), split_byte_level()
    spm, meta, uni, piece = sentencepiece(False), sentencepiece(True), unigram(), wordpiece()
    ends, eot = len(level["model"]["vocab"]), split["added_tokens"][-1]["id"]
    st = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    end = {"eos_token": "<|endoftext|>"}
    im = ["<|im_start|>", "<|im_end|>"]
    swapped = {"<|im_end|>": ends, "<|im_start|>": ends + 1}
    decoder = {"0": token("<|endoftext|>", special=True), str(ends + 1): token("<|im_end|>", special=True),
               str(ends): token("<new>", special=False, lstrip=True, normalized=True)}
    return {
        "added-tokens-only": ("llama", level, end | {"chat_template": CHATML}, {"added_tokens.json": swapped}, 0, None),
        "added-tokens-and-map": ("llama", level, end | {"chat_template": CHATML}, {
            "added_tokens.json": swapped, "special_tokens_map.json": {"additional_special_tokens": im}}, 0, [0, ends]),
        "map-of-objects": ("mistral", spm, {"chat_template": INST}, {"special_tokens_map.json": {
            "bos_token": token("<s>"), "eos_token": token("<x>", rstrip=True), "pad_token": "<new>"}}, [2], 2),
        "decoder-of-added-tokens": ("qwen3_moe", level, end | {"added_tokens_decoder": decoder, "chat_template": CHATML,
            "tokenizer_class": "PreTrainedTokenizerFast"}, {"special_tokens_map.json": {"eos_token": "<ignored>"}}, 0, None),
        "extra-special-tokens": ("llama", split, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
            "extra_special_tokens": {"image_token": "<x>", "boi_token": "<new>"}, "chat_template": CHATML,
            "tokenizer_class": "LlamaTokenizerFast"}, {}, [eot - 1], [eot - 1, eot]),
        "additional-special-tokens": ("llama4_text", split, {"bos_token": token("<|begin_of_text|>", True),
            "eos_token": token("<|im_end|>", True), "additional_special_tokens": im}, {}, eot, None),
        "split-special-tokens": ("mixtral", spm, st | {"split_special_tokens": True}, {}, 2, None),
        "llama-rebuilt": ("llama", spm, st | {"tokenizer_class": "LlamaTokenizer", "chat_template": INST}, {}, 2, None),
        "llama-rebuilt-legacy": ("llama", meta, st | {"tokenizer_class": "LlamaTokenizer", "legacy": True,
            "add_bos_token": False, "add_eos_token": True}, {}, None, [2]),
        "llama-no-prefix": ("llama", meta, st | {"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": False,
            "pad_token": "<pad>"}, {}, 2, 2),
        "code-llama": ("llama", spm, st | {"tokenizer_class": "CodeLlamaTokenizer"}, {}, 2, None),
        "gemma-rebuilt": ("llama", without(meta, "<s>"), {"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>",
            "eos_token": "</s>", "unk_token": "<unk>"}, {}, 2, None),
        "qwen2-class-not-believed": ("qwen2", level, end | {"chat_template": CHATML, "tokenizer_class": "LlamaTokenizerFast"},
            {}, 0, None),
        "qwen-without-class": ("qwen3", level, {"chat_template": CHATML, "extra_special_tokens": im}, {}, 0, [0, 1]),
        "gpt2-prefix": ("llama", level, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, {}, 0, None),
        "gpt-neox": ("llama", split, {"tokenizer_class": "GPTNeoXTokenizerFast", "eos_token": "<|eot_id|>"}, {}, eot, None),
        "cohere": ("llama", level, {"tokenizer_class": "CohereTokenizerFast"}, {}, 0, None),
        "unigram": ("llama", uni, st | {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True}, {}, [2, 2], None),
        "wordpiece": ("llama", without(piece, "[MASK]"), {"cls_token": "[CLS]", "mask_token": token("[MASK]", True, lstrip=True),
            "sep_token": "[SEP]", "eos_token": "[SEP]"}, {}, None, None),
        "tekken": ("mistral", None, {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}, {
            "tekken.json": tekken()}, 2, 2),
    }  # fmt: skip


def write(folder, model_type, made, config, more, eos, generation):
    """A folder with a random model whose embedding has a row for every id."""
    folder.mkdir()
    put = lambda name, value: (folder / name).write_text(json.dumps(value))
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": HIDDEN, "num_local_experts": 2}
    put("config.json", {
        "model_type": model_type, "vocab_size": ROWS, "hidden_size": HIDDEN, "intermediate_size": HIDDEN,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5,
        "rope_theta": 1e4, "max_position_embeddings": 512, "tie_word_embeddings": True, "eos_token_id": eos,
        "intermediate_size_mlp": HIDDEN, "attn_temperature_tuning": False, "use_qk_norm": False, "hidden_act": "silu",
    } | (experts if "moe" in model_type or model_type == "mixtral" else {}))
    put("tokenizer_config.json", config)
    if made is not None:
        put("tokenizer.json", made)
    if generation is not None:
        put("generation_config.json", {"eos_token_id": generation})
    for name, value in more.items():
        put(name, value)
    random = np.random.default_rng(1)
    shapes = weight_shapes(json.loads((folder / "config.json").read_text()))
    weights = {name: random.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


class Mixbit:
    """The program, asked for what it makes of prompts."""

    def __init__(self, path, home):
        self.path, self.file = path, home / "prompt.txt"

    def ask(self, folder, *arguments):
        run = [self.path, "run", "--model", folder, "--max-tokens", "1", "--json", "--verbose", *arguments]
        done = subprocess.run(list(map(str, run)), capture_output=True, text=True)
        if done.returncode:
            return None, done.stderr.strip()
        return json.loads(done.stdout)["prompt_tokens"], done.stderr

    def ids(self, folder, text, *more):
        # One line end at the end of the file is no part of the prompt.
        self.file.write_bytes(text.encode() + b"\n")
        return self.ask(folder, "--prompt-file", self.file, *more)

    def generated(self, folder):
        """Tokens that a model writes at random, and their text."""
        run = [self.path, "run", "--model", folder, "--prompt-tokens", "9", "--max-tokens", "24", "--temperature", "2",
               "--seed", "1", "--ignore-eos", "--json"]  # fmt: skip
        made = json.loads(subprocess.run(list(map(str, run)), capture_output=True, check=True).stdout)
        return made["tokens"], made["text"]

    def stop_tokens(self, folder):
        _, said = self.ask(folder, "--prompt-tokens", "0")
        line = re.search(r"^stop tokens: (.*)$", said, re.M)
        return {int(i) for i in re.findall(r"(?:^|, )(\d+) [`(]", line[1])} if line else said


def stop_tokens(folder, tokenizer):
    """mlx-lm's, and config.json's, which it leaves out where generation_config.json names any."""
    named = json.loads((folder / "config.json").read_text()).get("eos_token_id")
    named = [] if named is None else named if isinstance(named, list) else [named]
    return set(tokenizer.eos_token_ids) | set(named)


def once(ids, bos):
    """mixbit never doubles BOS."""
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def compare(mixbit, name, folder, texts, chats):
    """Returns a line of the report and how many of how many agree."""
    theirs = load_tokenizer(folder, eos_token_ids=load_config(folder).get("eos_token_id"))
    tokenizer = theirs._tokenizer
    agree, of, wrong = 0, 0, []

    def check(what, ours, expected):
        nonlocal agree, of
        of += 1
        agree += ours == expected
        if ours != expected:
            wrong.append(f"\n  {what}\n    ours   {ours}\n    theirs {expected}")

    for text in texts:
        # Filling in changes how transformers' tokenizer encodes from then on.
        encoder = AutoTokenizer.from_pretrained(folder) if "<FILL_ME>" in text else tokenizer
        ours, said = mixbit.ids(folder, text, "--disable-chat-template")
        check(repr(text), ours or said, once(encoder.encode(text), tokenizer.bos_token_id))
    if tokenizer.chat_template is not None:
        for system, text in chats:
            messages = [{"role": "user", "content": text}]
            more = []
            if system is not None:
                messages.insert(0, {"role": "system", "content": system})
                more = ["--system", system]
            ours, said = mixbit.ids(folder, text, *more)
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            check(f"prompt of {text!r}", ours or said, prompt)
    ids, text = mixbit.generated(folder)
    check(f"text of {ids}", text, tokenizer.decode(ids, skip_special_tokens=True))
    check("stop tokens", mixbit.stop_tokens(folder), stop_tokens(folder, theirs))
    return f"{name:46} {agree} of {of}  {'ok' if agree == of else 'DIFFERS'}{''.join(wrong)}", agree, of


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mixbit", required=True, type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="further model folders")
    arguments = parser.parse_args()
    committed = sorted(path.parent for path in (ROOT / "fixtures").glob("**/tokenizer.json"))
    total, well = 0, 0
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        mixbit = Mixbit(arguments.mixbit, home)
        cases = []
        for name, case in folders().items():
            write(home / name, *case)
            cases.append((name, home / name, TEXTS, CHATS))
        for name, case in parity_classes.folders(lines(), CHATML).items():
            write(home / name, *case)
            fills = FILLS if name.startswith("CodeLlama") else []
            cases.append((name, home / name, FEW_TEXTS + fills, CHATS[2:]))
        cases += [(folder.name, folder, TEXTS, CHATS) for folder in committed + arguments.models]
        for case in cases:
            if case[0] in UNREADABLE:
                print(f"{case[0]:46} not compared ({UNREADABLE[case[0]]})", flush=True)
                continue
            line, agree, of = compare(mixbit, *case)
            print(line, flush=True)
            total, well = total + of, well + agree
    print(f"text: {well} of {total} agree")
    sys.exit(0 if well == total else 1)


if __name__ == "__main__":
    main()
