"""Folders of every tokenizer class that transformers builds anew, for `parity_text.py`: vocabularies trained on the bundled text,
and in `tokenizer.json` parts that the class must not keep."""

import base64
import copy
import io
import json

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

# Special tokens of all classes; the first four stand where most Unigram classes expect them.
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]", "<mask>", "<|endoftext|>",
           "<|startoftext|>", "en_XX", "eng_Latn", "__fra__", "<|startoftranscript|>", "<|en|>", "<|transcribe|>",
           "<|notimestamps|>", "<extra_id_0>", "<unk_2>", "<sep>", "<cls>"]  # fmt: skip

# Name, vocabulary, and the settings of each folder.
CLASSES = [
    ("AlbertTokenizer", "unigram", {}, {"do_lower_case": False, "keep_accents": True, "add_prefix_space": False}),
    ("BartTokenizer", "byte", {}),
    ("BarthezTokenizer", "unigram", {}),
    ("BertTokenizer", "piece", {"clean_up_tokenization_spaces": True},
     {"do_lower_case": False, "tokenize_chinese_chars": False, "strip_accents": True}),
    ("BigBirdTokenizer", "unigram", {}),
    ("BlenderbotTokenizer", "byte", {}, {"add_prefix_space": False}),
    ("CLIPTokenizer", "word", {}),
    ("CamembertTokenizer", "unigram", {}, {"additional_special_tokens": ["<x>"]}),
    ("ConvBertTokenizer", "piece", {}),
    ("FNetTokenizer", "unigram", {}),
    ("CodeGenTokenizer", "byte", {}, {"add_prefix_space": True, "pad_token": "<x>"}),
    ("CodeLlamaTokenizer", "spaces", {}, {"add_prefix_space": False}),
    ("CohereTokenizer", "byte", {}),
    ("DPRReaderTokenizer", "piece", {"do_lower_case": False}),
    ("DebertaTokenizer", "byte", {}),
    ("DebertaV2Tokenizer", "unigram", {}, {"do_lower_case": True, "split_by_punct": True, "add_prefix_space": False}),
    ("DistilBertTokenizer", "piece", {"mask_token": "<x>"}),
    ("ElectraTokenizerFast", "piece", {}),
    ("EsmcTokenizer", "byte", {}),
    ("FunnelTokenizer", "piece", {}, {"clean_text": False, "wordpieces_prefix": "##", "unk_token": "[UNK]"}),
    ("GPT2Tokenizer", "byte", {}),
    ("GPTNeoXTokenizer", "byte", {}),
    ("GemmaTokenizer", "spaces", {}),
    ("HerbertTokenizer", "word", {}),
    ("LasrTokenizer", "unigram", {}),
    ("LlamaTokenizer", "spaces", {}, {"legacy": True}),
    ("LukeTokenizer", "byte", {}, {"entity_token_1": "<x>"}),
    ("MBart50Tokenizer", "unigram", {}),
    ("MBartTokenizer", "unigram", {}, {"src_lang": "ro_RO", "additional_special_tokens": ["<x>"]}),
    ("MLukeTokenizer", "unigram", {}),
    ("MPNetTokenizer", "piece", {}),
    # With "chat_template": None, transformers fails when it applies one.
    ("MarkupLMTokenizer", "byte", {"tags_dict": {}, "chat_template": None}),
    ("NllbTokenizer", "spaces", {}, {"legacy_behaviour": True, "additional_special_tokens": ["eng_Latn", "<x>"]}),
    ("NougatTokenizer", "byte", {}),
    ("OpenAIGPTTokenizer", "word", {}),
    ("ParakeetTokenizer", "unigram", {}),
    ("PegasusTokenizer", "unigram", {}, {"offset": 4, "mask_token_sent": None}),
    ("Phi3Tokenizer", "spaces", {}),
    ("Qwen2Tokenizer", "byte", {}),
    ("Qwen3_5Tokenizer", "byte", {}, {"add_prefix_space": True, "additional_special_tokens": ["<x>"]}),
    ("ReformerTokenizer", "spaces", {}),
    ("RemBertTokenizer", "unigram", {}, {"keep_accents": False, "do_lower_case": True}),
    ("RobertaTokenizer", "byte", {}, {"add_prefix_space": True, "mask_token": "<x>"}),
    ("SeamlessM4TTokenizer", "spaces", {}, {"tgt_lang": "eng"}),
    ("Siglip2Tokenizer", "spaces", {}),
    ("SplinterTokenizer", "piece", {}, {"strip_accents": False}),
    ("T5Tokenizer", "unigram", {}, {"extra_ids": 3}),
    ("Tipsv2Tokenizer", "spaces", {}, {"do_lower_case": False}),
    ("UdopTokenizer", "unigram", {"chat_template": None}),
    ("VideoPrismTokenizer", "unigram", {"extra_ids": 2}),
    ("WhisperTokenizer", "byte", {}, {"language": "English", "task": "transcribe"}),
    ("XGLMTokenizer", "unigram", {}, {"additional_special_tokens": ["<madeupword0>", "<x>"]}),
    ("XLMRobertaTokenizer", "unigram", {}, {"add_prefix_space": False}),
    ("XLNetTokenizer", "unigram", {"unk_id": 3}, {"unk_id": 3, "do_lower_case": True}),
]  # fmt: skip


def vocabularies(lines):
    """Tokenizers of each kind by name."""
    def trained(tokenizer, trainer, **arguments):
        tokenizer.train_from_iterator(lines, trainer(vocab_size=500, show_progress=False, **arguments))
        return json.loads(tokenizer.to_str())

    byte = Tokenizer(models.BPE())
    byte.pre_tokenizer, byte.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    spaces = Tokenizer(models.BPE(unk_token="<unk>"))
    spaces.pre_tokenizer, spaces.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    piece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    piece.normalizer, piece.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Whitespace()
    word = Tokenizer(models.BPE(unk_token="<unk>"))
    word.pre_tokenizer = pre_tokenizers.Whitespace()
    made = {
        "byte": trained(byte, trainers.BpeTrainer, special_tokens=SPECIAL, initial_alphabet=letters),
        "spaces": trained(spaces, trainers.BpeTrainer, special_tokens=SPECIAL + bytes_),
        "unigram": trained(unigram, trainers.UnigramTrainer, special_tokens=SPECIAL, unk_token="<unk>"),
        "piece": trained(piece, trainers.WordPieceTrainer, special_tokens=SPECIAL),
        "word": trained(word, trainers.BpeTrainer, special_tokens=SPECIAL, end_of_word_suffix="</w>"),
    }
    for tokenizer in made.values():
        # The rest are in the vocabulary alone.
        tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["id"] < 6]
        around = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        tokenizer["post_processor"] = json.loads(around.__getstate__())
    for kind in ("unigram", "spaces"):
        made[kind]["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap(lines)}
    return made


def charsmap(lines):
    """SentencePiece's table of the normalization NFKC."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=300, normalization_rule_name="nmt_nfkc", minloglevel=2)
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()


def folders(lines, template):
    """Name -> files, model type, and stop tokens, as `parity_text.py` has them."""
    made = vocabularies(lines)
    plain = {kind: tokenizer | {"normalizer": None, "post_processor": None} for kind, tokenizer in made.items()}
    cases = {}
    for name, kind, *settings in CLASSES:
        for number, config in enumerate(settings):
            # The second folder has neither normalizer nor post-processor.
            tokenizer = copy.deepcopy((plain if number else made)[kind])
            config = {"tokenizer_class": name, "chat_template": template} | config
            cases[f"{name}-{number + 1}"] = ("llama", tokenizer, config, {}, None, None)
    return cases
