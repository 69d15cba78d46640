//! Classes over words: WordPiece, and BPE with `</w>` at the end of a word.

use super::parts::{
    Around, Class, Decoder, Extra, Flag, InputKind, Mask, Model, Normalizer, Parts, Piece, PreTokenizer,
};

const LOWERCASE: Flag = Flag::Setting { key: "do_lower_case", default: true };
const ALWAYS: Flag = Flag::Always;

const BASE: Class = Class {
    model: Model::WordPiece,
    normalizer: &[Normalizer::Bert(ALWAYS, LOWERCASE)],
    pre_tokenizer: &[PreTokenizer::Bert],
    decoder: Decoder::WordPiece,
    around: Around::Put(&[Piece::NamedOr("cls_token", 2)], &[Piece::NamedOr("sep_token", 3)]),
    named: BERT,
    ..Class::PLAIN
};

const BERT: &[(&str, &str)] = &[
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];

/// BPE that marks the end of a word.
const WORD_ENDS: Model = Model::Bpe { unk: true, fuses: false, bytes: false, suffix: "</w>" };

const AMINO_ACIDS: &[&str] = &[
    "<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "V", "S", "E", "R", "T", "I", "D", "P", "K", "Q", "N",
    "F", "Y", "M", "H", "W", "C", "X", "B", "U", "Z", "O", ".", "-", "|", "<mask>",
];

pub(super) static CLASSES: [Class; 10] = [
    Class { names: &["ConvBertTokenizer"], parts: Parts::Stored, ..BASE },
    Class {
        names: &[
            "BertTokenizer",
            "DistilBertTokenizer",
            "ElectraTokenizer",
            "LayoutLMTokenizer",
            "LxmertTokenizer",
            "MobileBertTokenizer",
            "SqueezeBertTokenizer",
        ],
        ..BASE
    },
    Class {
        names: &["DPRContextEncoderTokenizer", "DPRQuestionEncoderTokenizer", "DPRReaderTokenizer"],
        normalizer: &[Normalizer::Bert(ALWAYS, ALWAYS)],
        ..BASE
    },
    Class { names: &["LayoutLMv2Tokenizer"], takes: InputKind::Boxes, ..BASE },
    Class {
        names: &["MPNetTokenizer"],
        around: Around::Put(&[Piece::NamedOr("cls_token", 0)], &[Piece::NamedOr("sep_token", 2)]),
        named: &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("sep_token", "</s>"),
            ("cls_token", "<s>"),
            ("unk_token", "[UNK]"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
        mask: Mask::Strips,
        ..BASE
    },
    Class {
        names: &["FunnelTokenizer"],
        normalizer: &[Normalizer::Bert(Flag::Setting { key: "clean_text", default: true }, LOWERCASE)],
        decoder: Decoder::WordPiecePrefix,
        named: &[
            ("unk_token", "<unk>"),
            ("sep_token", "<sep>"),
            ("pad_token", "<pad>"),
            ("cls_token", "<cls>"),
            ("mask_token", "<mask>"),
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
        ],
        ..BASE
    },
    Class {
        names: &["SplinterTokenizer"],
        around: Around::PutAll(&[Piece::Named("cls_token")], &[Piece::Named("sep_token")]),
        named: &[
            ("unk_token", "[UNK]"),
            ("sep_token", "[SEP]"),
            ("pad_token", "[PAD]"),
            ("cls_token", "[CLS]"),
            ("mask_token", "[MASK]"),
            ("question_token", "[QUESTION]"),
        ],
        ..BASE
    },
    Class {
        names: &["OpenAIGPTTokenizer"],
        model: WORD_ENDS,
        normalizer: &[Normalizer::BertLowercase],
        decoder: Decoder::WordEnds,
        around: Around::Stored,
        named: &[("unk_token", "<unk>")],
        ..BASE
    },
    Class {
        names: &["HerbertTokenizer"],
        model: WORD_ENDS,
        normalizer: &[Normalizer::BertCased],
        decoder: Decoder::WordEnds,
        around: Around::Put(&[Piece::At(0)], &[Piece::At(2)]),
        named: &[
            ("cls_token", "<s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
            ("sep_token", "</s>"),
        ],
        ..BASE
    },
    Class {
        names: &["EsmcTokenizer"],
        model: Model::Fixed(AMINO_ACIDS),
        normalizer: &[],
        pre_tokenizer: &[],
        decoder: Decoder::None,
        around: Around::Put(&[Piece::Named("cls_token")], &[Piece::Named("eos_token")]),
        named: &[
            ("unk_token", "<unk>"),
            ("cls_token", "<cls>"),
            ("bos_token", "cls_token"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
            ("eos_token", "<eos>"),
            ("chain_break_token", "|"),
        ],
        extra: Extra::Newer,
        ..BASE
    },
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::testing::{check_classes, sentencepiece};

    /// The numbers are those of transformers 5.23.
    #[test]
    fn wordpiece_classes_encode_as_in_transformers() {
        let vocab = json!({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, "b": 6, "##b": 7,
            "e": 8, "A": 9, ".": 10, "日": 11});
        let model = json!({"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "+",
            "max_input_chars_per_word": 3, "vocab": vocab});
        let json = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": null, "model": model});
        let cased = json!({"do_lower_case": false});
        let unk = json!({"unk_token": "[UNK]"});
        let whole = json!({"tokenize_chinese_chars": false});
        check_classes(
            &json,
            "Abbbb é.日a [MASK]",
            &[
                (
                    "BertTokenizer",
                    json!({}),
                    &[2, 5, 7, 7, 7, 7, 8, 10, 11, 5, 4, 3],
                    "[CLS] abbbb e. 日 a [MASK] [SEP]",
                    None,
                    12,
                ),
                (
                    "BertTokenizer",
                    cased.clone(),
                    &[2, 9, 7, 7, 7, 7, 1, 10, 11, 5, 4, 3],
                    "[CLS] Abbbb [UNK]. 日 a [MASK] [SEP]",
                    None,
                    12,
                ),
                (
                    "DPRReaderTokenizer",
                    cased,
                    &[2, 5, 7, 7, 7, 7, 8, 10, 11, 5, 4, 3],
                    "[CLS] abbbb e. 日 a [MASK] [SEP]",
                    None,
                    12,
                ),
                (
                    "MPNetTokenizer",
                    json!({}),
                    &[12, 5, 7, 7, 7, 7, 8, 10, 11, 5, 1, 1, 1, 13],
                    "<s> abbbb e. 日 a [UNK] [UNK] [UNK] </s>",
                    Some(13),
                    16,
                ),
                (
                    "FunnelTokenizer",
                    unk,
                    &[16, 5, 7, 7, 7, 7, 8, 10, 11, 5, 1, 1, 1, 14],
                    "<cls> abbbb e. 日 a [UNK] [UNK] [UNK] <sep>",
                    Some(13),
                    18,
                ),
                (
                    "SplinterTokenizer",
                    whole,
                    &[2, 5, 7, 7, 7, 7, 8, 10, 1, 4, 3],
                    "[CLS] abbbb e. [UNK] [MASK] [SEP]",
                    None,
                    13,
                ),
                (
                    "SplinterTokenizer",
                    json!({"cls_token": null}),
                    &[5, 7, 7, 7, 7, 8, 10, 11, 5, 4],
                    "abbbb e. 日 a [MASK]",
                    None,
                    13,
                ),
            ],
        );
    }

    /// The numbers are those of transformers 5.23.
    #[test]
    fn word_end_classes_encode_as_in_transformers() {
        check_classes(
            &sentencepiece(true),
            "A <s> ab",
            &[
                ("OpenAIGPTTokenizer", json!({}), &[1, 0, 1, 260, 0], "<s><unk><s>a<unk>", None, 265),
                ("HerbertTokenizer", json!({}), &[0, 0, 1, 260, 0, 2], "<unk><unk><s>a<unk></s>", None, 267),
                (
                    "EsmcTokenizer",
                    json!({}),
                    &[0, 5, 3, 33, 3, 3, 3, 2],
                    "<cls> A <unk> <s> <unk> <unk> <unk> <eos>",
                    Some(2),
                    35,
                ),
            ],
        );
    }
}
