//! Classes of Unigram models.

use super::languages::{MBART, MBART50};
use super::parts::{
    AddedAgain, Around, Class, Code, Decoder, Extra, Flag, InputKind, Mask, Model, Normalizer, Parts, Piece,
    PreTokenizer, ROBERTA, Scheme, UnkId,
};

const BASE: Class = Class {
    model: Model::Unigram(UnkId::At(3)),
    pre_tokenizer: &[PreTokenizer::WhitespaceSplit, PreTokenizer::Metaspace(Scheme::Always)],
    decoder: Decoder::Metaspace(Scheme::Always),
    ..Class::PLAIN
};

const CHARSMAP: Normalizer = Normalizer::Charsmap(&[], &[]);
const SINGLE_SPACES: Normalizer = Normalizer::ReplaceAll(" {2,}", " ");
const NO_LINES: Normalizer = Normalizer::ReplaceAll(r"\s{2,}|[\n\r\t]", " ");
const DOUBLE_QUOTES: [Normalizer; 2] = [Normalizer::Replace("``", "\""), Normalizer::Replace("''", "\"")];
const LOWERCASE: Flag = Flag::Setting { key: "do_lower_case", default: false };
const NO_ACCENTS: &[Normalizer] = &[Normalizer::Nfkd, Normalizer::StripAccents];

const EOS: Piece = Piece::Named("eos_token");
const BOS: Piece = Piece::Named("bos_token");
const ENDS_WITH_EOS: Around = Around::Put(&[], &[EOS]);
const BOS_EOS: Around = Around::Put(&[BOS], &[EOS]);
const CLS: &[Piece] = &[Piece::Named("cls_token")];
const SEP: &[Piece] = &[Piece::Named("sep_token")];
const CLS_SEP: Around = Around::Put(CLS, SEP);

const T5: &[(&str, &str)] = &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];
const ALBERT: &[(&str, &str)] = &[
    ("bos_token", "[CLS]"),
    ("eos_token", "[SEP]"),
    ("sep_token", "[SEP]"),
    ("cls_token", "[CLS]"),
    ("unk_token", "<unk>"),
    ("pad_token", "<pad>"),
    ("mask_token", "[MASK]"),
];

pub(super) static CLASSES: [Class; 20] = [
    Class { names: &["ParakeetTokenizer"], parts: Parts::Stored, code: Code::Ctc, ..BASE },
    Class { names: &["FNetTokenizer"], parts: Parts::Stored, named: ALBERT, ..BASE },
    Class {
        names: &["T5Tokenizer"],
        model: Model::Unigram(UnkId::At(2)),
        normalizer: &[CHARSMAP],
        around: ENDS_WITH_EOS,
        named: T5,
        extra: Extra::Sentinels,
        ..BASE
    },
    Class {
        names: &["VideoPrismTokenizer"],
        model: Model::Unigram(UnkId::At(2)),
        normalizer: &[CHARSMAP],
        named: T5,
        extra: Extra::Sentinels,
        ..BASE
    },
    Class {
        names: &["LasrTokenizer"],
        normalizer: &[CHARSMAP],
        around: ENDS_WITH_EOS,
        named: T5,
        extra: Extra::Sentinels,
        code: Code::Ctc,
        ..BASE
    },
    Class {
        names: &["UdopTokenizer"],
        model: Model::Unigram(UnkId::Named(2)),
        around: ENDS_WITH_EOS,
        named: &[
            ("eos_token", "</s>"),
            ("sep_token", "</s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
        ],
        extra: Extra::Fallback(&[]),
        ..BASE
    },
    Class {
        names: &["XGLMTokenizer"],
        normalizer: &[CHARSMAP, SINGLE_SPACES],
        pre_tokenizer: &[PreTokenizer::Metaspace(Scheme::Prefix)],
        decoder: Decoder::Metaspace(Scheme::Prefix),
        around: Around::Put(&[EOS], &[]),
        named: &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("sep_token", "</s>"),
            ("cls_token", "<s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
        ],
        extra: Extra::Complete(&[
            "<madeupword0>",
            "<madeupword1>",
            "<madeupword2>",
            "<madeupword3>",
            "<madeupword4>",
            "<madeupword5>",
            "<madeupword6>",
        ]),
        ..BASE
    },
    Class {
        names: &["XLNetTokenizer"],
        model: Model::Unigram(UnkId::Setting),
        normalizer: &[
            DOUBLE_QUOTES[0],
            DOUBLE_QUOTES[1],
            Normalizer::Nfkd,
            Normalizer::StripAccents,
            Normalizer::If(LOWERCASE, &[Normalizer::Lowercase]),
            CHARSMAP,
        ],
        around: Around::Put(&[], &[Piece::Named("sep_token"), Piece::Named("cls_token")]),
        named: &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
            ("sep_token", "<sep>"),
            ("pad_token", "<pad>"),
            ("cls_token", "<cls>"),
            ("mask_token", "<mask>"),
        ],
        mask: Mask::Strips,
        extra: Extra::Default(&["<eop>", "<eod>"]),
        ..BASE
    },
    Class {
        names: &["AlbertTokenizer"],
        model: Model::Unigram(UnkId::At(1)),
        normalizer: &[
            DOUBLE_QUOTES[0],
            DOUBLE_QUOTES[1],
            Normalizer::Unless(Flag::Setting { key: "keep_accents", default: false }, NO_ACCENTS),
            Normalizer::If(Flag::Setting { key: "do_lower_case", default: true }, &[Normalizer::Lowercase]),
            CHARSMAP,
        ],
        pre_tokenizer: &[PreTokenizer::WhitespaceSplit, PreTokenizer::Metaspace(Scheme::Prefix)],
        decoder: Decoder::Metaspace(Scheme::Prefix),
        around: Around::StoredOr(CLS, SEP),
        named: ALBERT,
        ..BASE
    },
    Class {
        names: &["CamembertTokenizer"],
        model: Model::Unigram(UnkId::Named(0)),
        normalizer: &[CHARSMAP],
        pre_tokenizer: &[PreTokenizer::WhitespaceSplit, PreTokenizer::Metaspace(Scheme::Prefix)],
        decoder: Decoder::Metaspace(Scheme::Prefix),
        around: BOS_EOS,
        named: ROBERTA,
        mask: Mask::Strips,
        extra: Extra::Default(&["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]),
        ..BASE
    },
    Class {
        names: &["XLMRobertaTokenizer"],
        normalizer: &[CHARSMAP],
        pre_tokenizer: &[PreTokenizer::WhitespaceSplit, PreTokenizer::Metaspace(Scheme::Prefix)],
        decoder: Decoder::Metaspace(Scheme::Prefix),
        around: BOS_EOS,
        named: ROBERTA,
        ..BASE
    },
    Class {
        names: &["MBartTokenizer"],
        around: Around::Put(&[], &[EOS, Piece::Language("src_lang", "en_XX")]),
        named: ROBERTA,
        mask: Mask::Strips,
        extra: Extra::Prepend(&MBART),
        ..BASE
    },
    Class {
        names: &["MBart50Tokenizer"],
        model: Model::UnigramOfLanguages(&MBART50),
        normalizer: &[CHARSMAP, SINGLE_SPACES],
        pre_tokenizer: &[PreTokenizer::Metaspace(Scheme::Always)],
        around: Around::Put(&[Piece::Language("src_lang", "en_XX")], &[EOS]),
        named: &[
            ("eos_token", "</s>"),
            ("sep_token", "</s>"),
            ("cls_token", "<s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
        mask: Mask::Strips,
        extra: Extra::Append(&MBART50),
        ..BASE
    },
    Class {
        names: &["PegasusTokenizer"],
        model: Model::Unigram(UnkId::UnscoredLater),
        normalizer: &[Normalizer::Charsmap(
            &[SINGLE_SPACES],
            &[Normalizer::ReplaceAll(r"\n", " "), SINGLE_SPACES],
        )],
        pre_tokenizer: &[PreTokenizer::Metaspace(Scheme::Always)],
        around: ENDS_WITH_EOS,
        named: &[
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask_2>"),
        ],
        extra: Extra::Pegasus,
        ..BASE
    },
    Class {
        names: &["RemBertTokenizer"],
        model: Model::Unigram(UnkId::At(2)),
        normalizer: &[
            DOUBLE_QUOTES[0],
            DOUBLE_QUOTES[1],
            SINGLE_SPACES,
            Normalizer::Unless(Flag::Setting { key: "keep_accents", default: true }, NO_ACCENTS),
            Normalizer::If(LOWERCASE, &[Normalizer::Lowercase]),
            CHARSMAP,
        ],
        pre_tokenizer: &[PreTokenizer::Metaspace(Scheme::Prefix)],
        decoder: Decoder::Metaspace(Scheme::Prefix),
        around: Around::IfStored(CLS, SEP),
        named: ALBERT,
        again: AddedAgain::WithFlags,
        ..BASE
    },
    Class {
        names: &["BigBirdTokenizer"],
        model: Model::Unigram(UnkId::Unscored(100)),
        normalizer: &[Normalizer::ReplaceAll(" {2,}", "▁")],
        pre_tokenizer: &[PreTokenizer::Metaspace(Scheme::Prefix)],
        decoder: Decoder::Metaspace(Scheme::Prefix),
        around: CLS_SEP,
        named: &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
            ("sep_token", "[SEP]"),
            ("mask_token", "[MASK]"),
            ("cls_token", "[CLS]"),
        ],
        mask: Mask::Strips,
        ..BASE
    },
    Class {
        names: &["DebertaV2Tokenizer"],
        model: Model::Unigram(UnkId::UnscoredOrSetting),
        normalizer: &[
            Normalizer::If(LOWERCASE, &[Normalizer::Lowercase]),
            NO_LINES,
            Normalizer::Nfc,
            Normalizer::StripEnd,
        ],
        pre_tokenizer: &[PreTokenizer::Punctuation, PreTokenizer::Metaspace(Scheme::PrefixOrFirst)],
        decoder: Decoder::Metaspace(Scheme::PrefixOrFirst),
        around: Around::Put(&[Piece::NamedOr("cls_token", 0)], &[Piece::NamedOr("sep_token", 0)]),
        named: &[
            ("bos_token", "[CLS]"),
            ("eos_token", "[SEP]"),
            ("unk_token", "[UNK]"),
            ("sep_token", "[SEP]"),
            ("pad_token", "[PAD]"),
            ("cls_token", "[CLS]"),
            ("mask_token", "[MASK]"),
        ],
        ..BASE
    },
    Class {
        names: &["BarthezTokenizer"],
        normalizer: &[NO_LINES, Normalizer::Nfc, Normalizer::StripEnd],
        pre_tokenizer: &[PreTokenizer::Metaspace(Scheme::Prefix)],
        decoder: Decoder::Metaspace(Scheme::Prefix),
        named: ROBERTA,
        mask: Mask::Strips,
        ..BASE
    },
    Class {
        names: &["LayoutXLMTokenizer"],
        normalizer: &[Normalizer::StripEnd, Normalizer::ReplaceAll(" {2,}", "▁")],
        pre_tokenizer: &[PreTokenizer::Metaspace(Scheme::Prefix)],
        decoder: Decoder::Metaspace(Scheme::Prefix),
        around: CLS_SEP,
        named: ROBERTA,
        mask: Mask::Strips,
        takes: InputKind::Boxes,
        ..BASE
    },
    Class {
        names: &["MLukeTokenizer"],
        model: Model::Unigram(UnkId::At(0)),
        normalizer: &DOUBLE_QUOTES,
        pre_tokenizer: &[PreTokenizer::Metaspace(Scheme::Always)],
        around: CLS_SEP,
        named: &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("sep_token", "</s>"),
            ("cls_token", "<s>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
            ("entity_1_token", "▁<ent>"),
            ("entity_2_token", "▁<ent2>"),
            ("entity_unk_token", "[UNK]"),
            ("entity_pad_token", "[PAD]"),
            ("entity_mask_token", "[MASK]"),
            ("entity_mask2_token", "[MASK2]"),
        ],
        mask: Mask::Strips,
        extra: Extra::Entities(
            "▁",
            &["entity_unk_token", "entity_pad_token", "entity_mask_token", "entity_mask2_token"],
        ),
        again: AddedAgain::WithFlags,
        ..BASE
    },
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::testing::check_classes;

    /// A file of a small vocabulary, without parts around it.
    fn file() -> Value {
        let vocab: Value = serde_json::from_str(
            r#"[["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -3.0], ["a", -4.0],
            ["b", -4.0], ["▁a", -2.0], ["ab", -3.0], ["▁ab", -1.0], ["é", -4.0], ["e", -4.0], ["A", -4.0],
            ["\"", -4.0], ["[CLS]", 0.0], ["[SEP]", 0.0], ["en_XX", 0.0]]"#,
        )
        .unwrap();
        json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": null, "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab}})
    }

    /// The numbers are those of transformers 5.23.
    #[test]
    #[allow(clippy::too_many_lines)]
    fn unigram_classes_encode_as_in_transformers() {
        let json = file();
        let t5 = json!({"extra_ids": 2});
        let padded = json!({"pad_token": "<pad>"});
        let bert = json!({"add_prefix_space": false});
        check_classes(
            &json,
            "Ab  é``a<s>b",
            &[
                (
                    "T5Tokenizer",
                    t5.clone(),
                    &[4, 12, 6, 4, 10, 2, 5, 0, 6, 2],
                    "Ab é</s>a<s>b</s>",
                    Some(2),
                    19,
                ),
                (
                    "XLMRobertaTokenizer",
                    json!({}),
                    &[0, 4, 12, 6, 4, 10, 3, 5, 0, 4, 6, 2],
                    "<s> Ab é<unk>a<s> b</s>",
                    Some(2),
                    18,
                ),
                (
                    "XGLMTokenizer",
                    json!({}),
                    &[2, 4, 12, 6, 4, 10, 3, 5, 0, 4, 6],
                    "</s> Ab é<unk>a<s> b",
                    Some(2),
                    24,
                ),
                (
                    "XLNetTokenizer",
                    json!({"do_lower_case": true}),
                    &[9, 4, 11, 13, 5, 0, 4, 6, 17, 18],
                    "ab e\"a<s> b<sep><cls>",
                    Some(2),
                    22,
                ),
                (
                    "AlbertTokenizer",
                    json!({}),
                    &[14, 9, 4, 11, 13, 5, 0, 6, 15],
                    "[CLS] ab e\"a<s>b[SEP]",
                    Some(15),
                    18,
                ),
                (
                    "MBartTokenizer",
                    json!({}),
                    &[4, 12, 6, 4, 10, 3, 5, 0, 4, 6, 2, 16],
                    "Ab é<unk>a<s> b</s>en_XX",
                    Some(2),
                    42,
                ),
                (
                    "BigBirdTokenizer",
                    json!({}),
                    &[14, 4, 12, 6, 4, 10, 3, 5, 0, 4, 6, 15],
                    "[CLS] Ab é<unk>a<s> b[SEP]",
                    Some(2),
                    18,
                ),
                (
                    "DebertaV2Tokenizer",
                    bert,
                    &[14, 4, 12, 6, 4, 10, 1, 5, 0, 6, 15],
                    "[CLS] Ab é<pad>a<s>b[SEP]",
                    Some(15),
                    20,
                ),
                (
                    "PegasusTokenizer",
                    json!({"offset": 2}),
                    &[4, 12, 6, 4, 10, 3, 5, 0, 6, 2],
                    "Ab é<unk>a<s>b</s>",
                    Some(2),
                    19,
                ),
                (
                    "LasrTokenizer",
                    t5.clone(),
                    &[4, 12, 6, 4, 10, 3, 5, 0, 6, 2],
                    "Ab é<unk>a<s>b</s>",
                    Some(2),
                    19,
                ),
                (
                    "ParakeetTokenizer",
                    padded,
                    &[12, 6, 3, 10, 3, 5, 0, 6],
                    "A b <unk> é <unk> a <s> b",
                    None,
                    17,
                ),
                (
                    "MBart50Tokenizer",
                    json!({}),
                    &[16, 4, 12, 6, 4, 10, 3, 5, 0, 4, 6, 2],
                    "en_XX Ab é<unk>a<s> b</s>",
                    Some(2),
                    69,
                ),
                (
                    "MLukeTokenizer",
                    json!({"entity_token_1": "<x>"}),
                    &[0, 4, 12, 6, 4, 4, 10, 13, 5, 0, 4, 6, 2],
                    "<s> Ab  é\"a<s> b</s>",
                    Some(2),
                    24,
                ),
                ("RemBertTokenizer", json!({}), &[4, 12, 6, 4, 10, 13, 5, 0, 6], "Ab é\"a<s>b", Some(15), 18),
            ],
        );
    }

    /// The numbers are those of transformers 5.23.
    #[test]
    fn post_processors_count_for_some_unigram_classes() {
        let mut with_bos = file();
        with_bos["post_processor"] = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}});
        check_classes(
            &with_bos,
            "Ab  é``a<s>b",
            &[
                ("AlbertTokenizer", json!({}), &[0, 9, 4, 11, 13, 5, 0, 6], "<s> ab e\"a<s>b", Some(15), 18),
                (
                    "RemBertTokenizer",
                    json!({}),
                    &[14, 4, 12, 6, 4, 10, 13, 5, 0, 6, 15],
                    "[CLS] Ab é\"a<s>b[SEP]",
                    Some(15),
                    18,
                ),
            ],
        );
    }
}
