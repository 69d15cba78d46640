//! Classes of BPE in the manner of SentencePiece: `▁` for spaces.

use super::languages::NLLB;
use super::parts::{
    AddedAgain, Around, Class, Code, Decoder, Extra, Flag, Mask, Model, Normalizer, Piece, PreTokenizer,
    ROBERTA, Scheme,
};

const BASE: Class = Class {
    model: Model::Bpe { unk: true, fuses: true, bytes: false, suffix: "" },
    pre_tokenizer: &[PreTokenizer::Metaspace(Scheme::Always)],
    decoder: Decoder::Metaspace(Scheme::Always),
    ..Class::PLAIN
};

/// SentencePiece's table, then single spaces.
const CHARSMAP: &[Normalizer] = &[Normalizer::Charsmap(&[Normalizer::ReplaceAll(" {2,}", " ")], &[])];

const GEMMA: &[(&str, &str)] = &[
    ("bos_token", "<bos>"),
    ("eos_token", "<eos>"),
    ("unk_token", "<unk>"),
    ("pad_token", "<pad>"),
    ("mask_token", "<mask>"),
];

const NLLB_LANGUAGE: Piece = Piece::Language("src_lang", "eng_Latn");

pub(super) static CLASSES: [Class; 8] = [
    Class {
        names: &["LlamaTokenizer", "Phi3Tokenizer"],
        model: Model::Bpe { unk: false, fuses: true, bytes: true, suffix: "" },
        pre_tokenizer: &[PreTokenizer::MetaspaceWhole(Scheme::Llama)],
        decoder: Decoder::SpacesButPrefix,
        named: &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
        ..BASE
    },
    Class {
        names: &["CodeLlamaTokenizer"],
        model: Model::Bpe { unk: true, fuses: true, bytes: true, suffix: "" },
        pre_tokenizer: &[PreTokenizer::MetaspaceWhole(Scheme::FirstOrNever)],
        decoder: Decoder::SpacesButFirst,
        around: Around::Put(&[Piece::IfNamed("bos_token")], &[]),
        named: &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
            ("prefix_token", "▁<PRE>"),
            ("middle_token", "▁<MID>"),
            ("suffix_token", "▁<SUF>"),
            ("eot_token", "▁<EOT>"),
            ("fill_token", "<FILL_ME>"),
        ],
        extra: Extra::Named(&[
            ("prefix_token", "▁<PRE>"),
            ("middle_token", "▁<MID>"),
            ("suffix_token", "▁<SUF>"),
            ("eot_token", "▁<EOT>"),
            ("fill_token", "<FILL_ME>"),
        ]),
        code: Code::Infilling,
        ..BASE
    },
    Class {
        names: &["GemmaTokenizer"],
        model: Model::Bpe { unk: true, fuses: true, bytes: true, suffix: "" },
        normalizer: &[Normalizer::Replace(" ", "▁")],
        pre_tokenizer: &[PreTokenizer::AfterSpace],
        decoder: Decoder::Spaces,
        named: GEMMA,
        ..BASE
    },
    Class {
        names: &["Siglip2Tokenizer"],
        model: Model::Bpe { unk: true, fuses: true, bytes: true, suffix: "" },
        normalizer: &[Normalizer::Lowercase, Normalizer::Replace(" ", "▁")],
        pre_tokenizer: &[PreTokenizer::AfterSpace],
        decoder: Decoder::Spaces,
        named: GEMMA,
        ..BASE
    },
    Class {
        names: &["NllbTokenizer"],
        normalizer: CHARSMAP,
        around: Around::If(
            Flag::Setting { key: "legacy_behaviour", default: false },
            &Around::Put(&[], &[Piece::Named("eos_token"), NLLB_LANGUAGE]),
            &Around::Put(&[NLLB_LANGUAGE], &[Piece::Named("eos_token")]),
        ),
        named: ROBERTA,
        mask: Mask::StripsNormalized,
        extra: Extra::Fallback(&NLLB),
        ..BASE
    },
    Class {
        names: &["SeamlessM4TTokenizer"],
        normalizer: &[
            Normalizer::ReplaceAll(r"[\n\r\t]", " "),
            Normalizer::Nfkc,
            Normalizer::StripEnd,
            Normalizer::ReplaceAll(" +▁", "▁"),
            Normalizer::ReplaceAll("^▁+$", ""),
            Normalizer::ReplaceAll(" {2,}", "▁"),
        ],
        pre_tokenizer: &[PreTokenizer::Metaspace(Scheme::First)],
        decoder: Decoder::Metaspace(Scheme::First),
        around: Around::Put(
            &[Piece::Named("eos_token"), Piece::Underscored("tgt_lang", "fra")],
            &[Piece::Named("eos_token")],
        ),
        named: &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("sep_token", "</s>"),
            ("cls_token", "<s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
        ],
        ..BASE
    },
    Class {
        names: &["ReformerTokenizer"],
        normalizer: CHARSMAP,
        named: &[("eos_token", "</s>"), ("unk_token", "<unk>")],
        again: AddedAgain::WithFlags,
        ..BASE
    },
    Class {
        names: &["Tipsv2Tokenizer"],
        model: Model::Bpe { unk: false, fuses: true, bytes: true, suffix: "" },
        normalizer: &[
            Normalizer::If(Flag::Setting { key: "do_lower_case", default: true }, &[Normalizer::Lowercase]),
            Normalizer::Charsmap(&[], &[]),
        ],
        pre_tokenizer: &[PreTokenizer::WhitespaceSplit, PreTokenizer::Metaspace(Scheme::Always)],
        decoder: Decoder::MetaspaceBytes,
        named: &[("unk_token", "<unk>"), ("pad_token", "<pad>")],
        ..BASE
    },
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::testing::{check_classes, of_class, sentencepiece};

    /// The numbers are those of transformers 5.23.
    #[test]
    fn sentencepiece_classes_encode_as_in_transformers() {
        let legacy = json!({"legacy_behaviour": true, "additional_special_tokens": ["eng_Latn"]});
        check_classes(
            &sentencepiece(true),
            "A <s> ab",
            &[
                (
                    "NllbTokenizer",
                    json!({}),
                    &[313, 259, 0, 259, 1, 262, 261, 2],
                    "eng_Latn <unk> <s> ab</s>",
                    Some(2),
                    469,
                ),
                (
                    "NllbTokenizer",
                    legacy,
                    &[259, 0, 259, 1, 262, 261, 2, 267],
                    "<unk> <s> ab</s>eng_Latn",
                    Some(2),
                    268,
                ),
                (
                    "SeamlessM4TTokenizer",
                    json!({}),
                    &[2, 0, 259, 0, 1, 262, 261, 2],
                    "</s><unk> <unk><s> ab</s>",
                    Some(2),
                    266,
                ),
                (
                    "ReformerTokenizer",
                    json!({}),
                    &[1, 259, 0, 259, 1, 262, 261],
                    "<s> <unk> <s> ab",
                    Some(2),
                    265,
                ),
                ("Siglip2Tokenizer", json!({}), &[1, 260, 259, 1, 262, 261], "<s>a <s> ab", Some(266), 269),
                ("Tipsv2Tokenizer", json!({}), &[1, 262, 1, 262, 261], "<s> a<s> ab", None, 266),
            ],
        );
    }

    /// Ids are those of transformers 5.23.
    #[test]
    fn llama_places_spaces_anew() {
        let ids = |settings: Value| {
            let tokenizer = of_class(&sentencepiece(true), "LlamaTokenizer", &settings);
            assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(1), Some(2)));
            [" a<s>a  b", "a <s> ab"].map(|text| tokenizer.encode(text, true).unwrap())
        };
        assert_eq!(ids(json!({})), [vec![1, 262, 1, 260, 263, 261], vec![1, 262, 259, 1, 262, 261]]);
        let legacy = [vec![1, 262, 1, 262, 263, 261], vec![1, 262, 259, 1, 262, 261]];
        assert_eq!(ids(json!({"legacy": true})), legacy);
        let none = [vec![1, 262, 1, 260, 263, 261], vec![1, 260, 259, 1, 262, 261]];
        assert_eq!(ids(json!({"add_prefix_space": false})), none);
        let gemma = of_class(&sentencepiece(true), "GemmaTokenizer", &json!({"bos_token": "<s>"}));
        assert_eq!(gemma.encode("a <s> ab", true).unwrap(), [1, 260, 259, 1, 262, 261]);
    }

    /// Ids are those of transformers 5.23.
    #[test]
    fn code_llama_fills_in() {
        let tokenizer = of_class(&sentencepiece(false), "CodeLlamaTokenizer", &json!({}));
        let ids = |text: &str, bos: bool| tokenizer.encode(text, bos).unwrap();
        assert_eq!(ids("a <s> ab", true), [1, 262, 259, 1, 262, 261]);
        assert_eq!((tokenizer.eos_token_id(), tokenizer.vocab_size()), (Some(2), 270));
        assert_eq!(ids("a b<FILL_ME>ab", true), [1, 265, 262, 259, 261, 267, 262, 261, 266]);
        assert_eq!(ids("a b<FILL_ME>ab", false), [265, 262, 259, 261, 267, 262, 261, 266]);
        assert_eq!(ids("<FILL_ME>a", true), [1, 265, 259, 267, 262, 266]);
        assert_eq!(ids("ab<FILL_ME>", true), [1, 262, 261]);
        let error = tokenizer.encode("<FILL_ME> <FILL_ME>", true).unwrap_err().to_string();
        assert!(error.contains("`<FILL_ME>` occurs 2 times, expected once"), "{error}");
        // Tokens that the settings name are added beside the class's own, which fill in all the same.
        let own =
            json!({"prefix_token": "<P>", "suffix_token": "<S>", "middle_token": "<M>", "fill_token": "<F>"});
        let tokenizer = of_class(&sentencepiece(false), "CodeLlamaTokenizer", &own);
        let ids = |text: &str| tokenizer.encode(text, true).unwrap();
        assert_eq!(ids("a b<F>ab"), [1, 262, 259, 261, 269, 264]);
        assert_eq!(ids("a<FILL_ME>b"), [1, 270, 262, 272, 259, 261, 271]);
        assert_eq!(tokenizer.vocab_size(), 274);
        let none = of_class(&sentencepiece(false), "CodeLlamaTokenizer", &json!({"prefix_token": null}));
        assert_eq!(none.encode("ab<FILL_ME>", true).unwrap(), [1, 262, 261]);
        let error = none.encode("a b<FILL_ME>ab", true).unwrap_err().to_string();
        assert!(error.contains("needs a `prefix_token`"), "{error}");
        let plain = of_class(&sentencepiece(false), "CodeLlamaTokenizer", &json!({"fill_token": null}));
        let spelled = [1, 262, 63, 73, 76, 79, 79, 98, 80, 72, 65, 261];
        assert_eq!(plain.encode("a<FILL_ME>b", true).unwrap(), spelled);
    }
}
