//! Classes of byte-level BPE.

use super::parts::{
    AddedAgain, Around, Class, Code, Decoder, Extra, Flag, InputKind, Mask, Model, Normalizer, Padding,
    Piece, PreTokenizer, ROBERTA,
};

const ENDOFTEXT: &str = "<|endoftext|>";

const PREFIX: Flag = Flag::Setting { key: "add_prefix_space", default: false };
const PREFIX_BY_DEFAULT: Flag = Flag::Setting { key: "add_prefix_space", default: true };
const NO_PREFIX: Flag = Flag::Never;

const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_WITH_MARKS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Meant as a pattern, but taken as a text by transformers, so that it hardly ever splits anything.
const NOUGAT: &str = r##"[\(\)\[\]\{\}]|([!\"#\$%\&'\*\+,\-\./:;<=>\?\\\^_`\|\~])\1*"##;

const BASE: Class = Class {
    model: Model::Bpe { unk: false, fuses: false, bytes: false, suffix: "" },
    pre_tokenizer: &[PreTokenizer::ByteLevel(PREFIX)],
    decoder: Decoder::ByteLevel,
    ..Class::PLAIN
};

const CLS_SEP: Around = Around::Put(&[Piece::Named("cls_token")], &[Piece::Named("sep_token")]);

pub(super) static CLASSES: [Class; 15] = [
    Class {
        names: &["GPT2Tokenizer"],
        named: &[("bos_token", ENDOFTEXT), ("eos_token", ENDOFTEXT), ("unk_token", ENDOFTEXT)],
        padding: Padding::Absent,
        ..BASE
    },
    Class {
        names: &["CodeGenTokenizer"],
        named: &[("bos_token", ENDOFTEXT), ("eos_token", ENDOFTEXT), ("unk_token", ENDOFTEXT)],
        padding: Padding::Absent,
        ..BASE
    },
    Class {
        names: &["GPTNeoXTokenizer"],
        normalizer: &[Normalizer::Nfc],
        around: Around::Nothing,
        named: &[
            ("bos_token", ENDOFTEXT),
            ("eos_token", ENDOFTEXT),
            ("unk_token", ENDOFTEXT),
            ("pad_token", "<|padding|>"),
        ],
        ..BASE
    },
    Class {
        names: &["Qwen2Tokenizer"],
        normalizer: &[Normalizer::Nfc],
        pre_tokenizer: &[PreTokenizer::Isolate(QWEN), PreTokenizer::Bytes(PREFIX)],
        named: &[("eos_token", ENDOFTEXT), ("unk_token", ENDOFTEXT), ("pad_token", ENDOFTEXT)],
        again: AddedAgain::AsTexts,
        ..BASE
    },
    Class {
        names: &["Qwen3_5Tokenizer"],
        normalizer: &[Normalizer::Nfc],
        pre_tokenizer: &[PreTokenizer::Isolate(QWEN_WITH_MARKS), PreTokenizer::Bytes(PREFIX)],
        named: &[("eos_token", ENDOFTEXT), ("unk_token", ENDOFTEXT), ("pad_token", ENDOFTEXT)],
        ..BASE
    },
    Class {
        names: &["CohereTokenizer"],
        normalizer: &[Normalizer::Nfc],
        pre_tokenizer: &[PreTokenizer::Digits, PreTokenizer::ByteLevel(PREFIX)],
        named: &[
            ("bos_token", "<BOS_TOKEN>"),
            ("eos_token", "<|END_OF_TURN_TOKEN|>"),
            ("unk_token", "<UNK>"),
            ("sep_token", "<SEP>"),
            ("pad_token", "<PAD>"),
            ("cls_token", "<CLS>"),
            ("mask_token", "<MASK_TOKEN>"),
        ],
        again: AddedAgain::WithFlags,
        ..BASE
    },
    Class {
        names: &["RobertaTokenizer", "BartTokenizer", "LEDTokenizer", "LongformerTokenizer", "MvpTokenizer"],
        around: CLS_SEP,
        named: ROBERTA,
        ..BASE
    },
    Class {
        names: &["BlenderbotTokenizer"],
        pre_tokenizer: &[PreTokenizer::ByteLevel(PREFIX_BY_DEFAULT)],
        named: ROBERTA,
        mask: Mask::Strips,
        ..BASE
    },
    Class {
        names: &["DebertaTokenizer"],
        around: CLS_SEP,
        named: &[
            ("bos_token", "[CLS]"),
            ("eos_token", "[SEP]"),
            ("sep_token", "[SEP]"),
            ("cls_token", "[CLS]"),
            ("unk_token", "[UNK]"),
            ("pad_token", "[PAD]"),
            ("mask_token", "[MASK]"),
        ],
        ..BASE
    },
    Class {
        names: &["LukeTokenizer"],
        around: CLS_SEP,
        named: &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("sep_token", "</s>"),
            ("cls_token", "<s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
            ("entity_1_token", "<ent>"),
            ("entity_2_token", "<ent2>"),
            ("entity_unk_token", "[UNK]"),
            ("entity_pad_token", "[PAD]"),
            ("entity_mask_token", "[MASK]"),
            ("entity_mask2_token", "[MASK2]"),
        ],
        extra: Extra::Entities("", &[]),
        ..BASE
    },
    Class {
        names: &["MarkupLMTokenizer"],
        around: CLS_SEP,
        named: ROBERTA,
        mask: Mask::Strips,
        code: Code::SplitWords,
        ..BASE
    },
    Class {
        names: &["LayoutLMv3Tokenizer"],
        pre_tokenizer: &[PreTokenizer::ByteLevel(PREFIX_BY_DEFAULT)],
        around: CLS_SEP,
        named: ROBERTA,
        takes: InputKind::Boxes,
        ..BASE
    },
    Class {
        names: &["NougatTokenizer"],
        normalizer: &[Normalizer::Nfkc],
        pre_tokenizer: &[
            PreTokenizer::Remove("SPL1T-TH1S-Pl3A5E"),
            PreTokenizer::Digits,
            PreTokenizer::IsolateText(NOUGAT),
            PreTokenizer::IsolateText("\n"),
            PreTokenizer::ByteLevel(NO_PREFIX),
        ],
        around: Around::Put(&[Piece::Named("bos_token")], &[Piece::Named("eos_token")]),
        named: &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>")],
        ..BASE
    },
    Class {
        names: &["WhisperTokenizer"],
        around: Around::Whisper,
        named: &[("unk_token", ENDOFTEXT), ("bos_token", ENDOFTEXT), ("eos_token", ENDOFTEXT)],
        code: Code::Transcript,
        ..BASE
    },
    Class {
        names: &["CLIPTokenizer"],
        model: Model::Bpe { unk: true, fuses: false, bytes: false, suffix: "</w>" },
        normalizer: &[Normalizer::Nfc, Normalizer::ReplaceAll(r"\s+", " "), Normalizer::Lowercase],
        pre_tokenizer: &[
            PreTokenizer::Matches(
                r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
            ),
            PreTokenizer::ByteLevel(NO_PREFIX),
        ],
        around: Around::Put(&[Piece::Named("bos_token")], &[Piece::Named("eos_token")]),
        named: &[
            ("unk_token", ENDOFTEXT),
            ("bos_token", "<|startoftext|>"),
            ("eos_token", ENDOFTEXT),
            ("pad_token", ENDOFTEXT),
        ],
        code: Code::WordEnds,
        ..BASE
    },
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::super::super::testing::{check_classes, of_class, sentencepiece};

    /// The numbers are those of transformers 5.23.
    #[test]
    fn byte_level_classes_encode_as_in_transformers() {
        check_classes(
            &sentencepiece(true),
            "a <s> ab",
            &[
                ("GPT2Tokenizer", json!({}), &[1, 260, 1, 264], "<s>a<s>ab", Some(265), 266),
                ("CodeGenTokenizer", json!({}), &[1, 260, 1, 264], "<s>a<s>ab", Some(265), 266),
                ("GPTNeoXTokenizer", json!({}), &[260, 1, 264], "a<s>ab", Some(265), 267),
                ("Qwen2Tokenizer", json!({}), &[1, 260, 1, 264], "<s>a<s>ab", Some(265), 266),
                ("Qwen3_5Tokenizer", json!({}), &[1, 260, 1, 264], "<s>a<s>ab", Some(265), 266),
                ("CohereTokenizer", json!({}), &[1, 260, 1, 264], "<s>a<s>ab", Some(266), 272),
                ("RobertaTokenizer", json!({}), &[1, 260, 1, 264, 2], "<s>a<s>ab</s>", Some(2), 267),
                ("BlenderbotTokenizer", json!({}), &[1, 260, 1, 264], "<s>a<s>ab", Some(2), 267),
                ("DebertaTokenizer", json!({}), &[265, 260, 1, 264, 266], "[CLS]a<s>ab[SEP]", Some(266), 270),
                ("LukeTokenizer", json!({}), &[1, 260, 1, 264, 2], "<s>a<s>ab</s>", Some(2), 273),
                ("MarkupLMTokenizer", json!({}), &[1, 260, 1, 264, 2], "<s>a<s>ab</s>", Some(2), 267),
                ("NougatTokenizer", json!({}), &[1, 260, 1, 264, 2], "<s>a<s>ab</s>", Some(2), 266),
                (
                    "WhisperTokenizer",
                    json!({}),
                    &[265, 265, 260, 1, 264, 265],
                    "<|endoftext|><|endoftext|>a<s>ab<|endoftext|>",
                    Some(265),
                    266,
                ),
            ],
        );
        let words =
            [("MarkupLMTokenizer", json!({}), &[1, 260, 261, 264, 2][..], "<s>abab</s>", Some(2), 267)];
        check_classes(&sentencepiece(true), "a  b ab", &words);
    }

    /// The numbers are those of transformers 5.23.
    #[test]
    fn clip_ends_words_as_in_transformers() {
        let mut json = sentencepiece(true);
        for (token, id) in [("<|endoftext|>", 265), ("a</w>", 266), ("b</w>", 267)] {
            json["model"]["vocab"][token] = id.into();
        }
        let decoded = "<|startoftext|>a b <s>a <|endoftext|>";
        let row = ("CLIPTokenizer", json!({}), &[268, 266, 267, 1, 266, 265][..], decoded, Some(265), 269);
        check_classes(&json, "A  b <s>a", &[row]);
        let clip = of_class(&json, "CLIPTokenizer", &json!({}));
        assert_eq!(clip.decode(&[266, 1, 260], false).unwrap(), "a <s>a");
    }

    /// Texts are those of transformers 5.23.
    #[test]
    fn whisper_decodes_transcripts_as_in_transformers() {
        let tokens = json!({"additional_special_tokens": ["<|startofprev|>", "<|startoftranscript|>"]});
        let whisper = of_class(&sentencepiece(true), "WhisperTokenizer", &tokens);
        for (ids, whole, plain) in [
            (&[266, 260, 267, 261][..], "<|startofprev|>a<|startoftranscript|>b", "b"),
            (&[266, 260], "<|startofprev|>a", ""),
            (&[260, 266, 267, 261], "a<|startofprev|><|startoftranscript|>b", "ab"),
        ] {
            assert_eq!(whisper.decode(ids, false).unwrap(), whole);
            assert_eq!(whisper.decode(ids, true).unwrap(), plain);
        }
        let mut json = sentencepiece(true);
        let stamp = json!({"id": 265, "content": "<|0.00|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false});
        json["added_tokens"].as_array_mut().unwrap().push(stamp);
        let whisper = of_class(&json, "WhisperTokenizer", &json!({}));
        assert_eq!(whisper.decode(&[260, 265, 261], false).unwrap(), "ab");
    }
}
