//! From a class and the tokenizer of `tokenizer.json` to the tokenizer that the class builds.

use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{
    DecoderWrapper, Model as _, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer,
};

use super::super::settings::Settings;
use super::super::special::SpecialTokens;
use super::parts::{Class, Decoder, Flag, Model, Normalizer, PreTokenizer, Scheme, UnkId};

impl Class {
    /// Returns the tokenizer that the class builds of the vocabulary, the merges and the post-processor of `file`,
    /// with no added tokens.
    pub(crate) fn rebuild(
        &self,
        file: &Tokenizer,
        settings: &Settings,
        special: &SpecialTokens,
    ) -> tokenizers::Result<Tokenizer> {
        let mut tokenizer = Tokenizer::new(self.model.build(file.get_model(), settings, special)?);
        let charsmap = file.get_normalizer().map(charsmap).transpose()?.flatten();
        let steps = normalizers(self.normalizer, settings, charsmap.as_ref());
        if !steps.is_empty() {
            let sequence = json!({"type": "Sequence", "normalizers": steps});
            tokenizer.with_normalizer(Some(serde_json::from_value::<NormalizerWrapper>(sequence)?))?;
        }
        let steps: Vec<Value> = self.pre_tokenizer.iter().filter_map(|step| step.json(settings)).collect();
        let pre_tokenizer = match <[Value; 1]>::try_from(steps) {
            Ok([step]) => Some(step),
            Err(steps) if steps.is_empty() => None,
            Err(steps) => Some(json!({"type": "Sequence", "pretokenizers": steps})),
        };
        if let Some(pre_tokenizer) = pre_tokenizer {
            tokenizer.with_pre_tokenizer(Some(serde_json::from_value::<PreTokenizerWrapper>(pre_tokenizer)?));
        }
        if let Some(decoder) = self.decoder.json(settings) {
            tokenizer.with_decoder(Some(serde_json::from_value::<DecoderWrapper>(decoder)?));
        }
        tokenizer.with_post_processor(file.get_post_processor().cloned());
        Ok(tokenizer)
    }
}

impl Model {
    fn build(
        self,
        model: &ModelWrapper,
        settings: &Settings,
        special: &SpecialTokens,
    ) -> tokenizers::Result<ModelWrapper> {
        // Python's text of a token that is none.
        let unk = special.get("unk_token").unwrap_or("None");
        Ok(match self {
            Self::Bpe { unk: has_unk, fuses, bytes, suffix } => {
                let mut bpe = bpe(model)?;
                bpe.unk_token = has_unk.then(|| unk.to_owned());
                bpe.end_of_word_suffix = (!suffix.is_empty()).then(|| suffix.to_owned());
                bpe.fuse_unk = fuses;
                bpe.byte_fallback = bytes;
                bpe.into()
            }
            Self::Fixed(tokens) => {
                let vocab: serde_json::Map<String, Value> =
                    tokens.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), json!(id))).collect();
                bpe_of(&json!({"vocab": vocab, "merges": [], "unk_token": unk}))?.into()
            }
            Self::WordPiece => {
                let parts = json!({"type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": "##",
                                   "max_input_chars_per_word": 100, "vocab": model.get_vocab()});
                serde_json::from_slice::<WordPiece>(&serde_json::to_vec(&parts)?)?.into()
            }
            Self::Unigram(id) => {
                let vocab = unigram(model)?;
                let id = id.find(&vocab, settings, unk)?;
                Unigram::from(vocab, Some(id), false)?.into()
            }
            Self::UnigramOfLanguages(codes) => {
                let vocab = with_languages(unigram(model)?, codes, special);
                Unigram::from(vocab, Some(3), false)?.into()
            }
        })
    }
}

/// Returns the tokens of a Unigram model with their scores.
fn unigram(model: &ModelWrapper) -> tokenizers::Result<Vec<(String, f64)>> {
    match model {
        ModelWrapper::Unigram(unigram) => Ok(unigram.iter().cloned().collect()),
        _ => Err("its model is no Unigram, and the class takes no other".into()),
    }
}

/// Returns the vocabulary as it is if it has any of the languages' codes, otherwise with those and the special tokens.
fn with_languages(vocab: Vec<(String, f64)>, codes: &[&str], special: &SpecialTokens) -> Vec<(String, f64)> {
    if vocab.iter().any(|(token, _)| codes.contains(&token.as_str())) {
        return vocab;
    }
    let named = |name: &str| (special.get(name).unwrap_or("None").to_owned(), 0.0);
    let first = ["cls_token", "pad_token", "eos_token", "unk_token"].map(named);
    let languages = codes.iter().map(|code| ((*code).to_owned(), 0.0));
    let rest = vocab.into_iter().skip(3);
    first.into_iter().chain(rest).chain(languages).chain([named("mask_token")]).collect()
}

/// Returns the model as BPE. Vocabularies of other models have no merges, as in transformers.
fn bpe(model: &ModelWrapper) -> tokenizers::Result<BPE> {
    let ModelWrapper::BPE(bpe) = model else {
        return bpe_of(&json!({"vocab": model.get_vocab(), "merges": []}));
    };
    if bpe.continuing_subword_prefix.as_deref().is_some_and(|prefix| !prefix.is_empty()) {
        // Merges are joined without the prefix.
        let mut parts = serde_json::to_value(bpe)?;
        if let Some(parts) = parts.as_object_mut() {
            parts.insert("continuing_subword_prefix".to_owned(), Value::Null);
            parts.insert("dropout".to_owned(), Value::Null);
            parts.insert("ignore_merges".to_owned(), Value::Bool(false));
        }
        return bpe_of(&parts);
    }
    let mut bpe = bpe.clone();
    bpe.continuing_subword_prefix = None;
    bpe.dropout = None;
    bpe.ignore_merges = false;
    Ok(bpe)
}

fn bpe_of(parts: &Value) -> tokenizers::Result<BPE> {
    Ok(serde_json::from_slice(&serde_json::to_vec(parts)?)?)
}

impl UnkId {
    fn find(self, vocab: &[(String, f64)], settings: &Settings, unk: &str) -> tokenizers::Result<usize> {
        let setting = |default| {
            let id = settings.config.get("unk_id").and_then(Value::as_u64);
            id.and_then(|id| usize::try_from(id).ok()).unwrap_or(default)
        };
        let named = || vocab.iter().position(|(token, _)| token == unk);
        let unscored = |after: usize| {
            let at = vocab.iter().skip(after).position(|(token, score)| token == unk && *score == 0.0);
            at.map(|at| at + after)
        };
        match self {
            Self::At(id) => Ok(id),
            Self::Setting => Ok(setting(0)),
            Self::Named(otherwise) => Ok(named().unwrap_or(otherwise)),
            Self::Unscored(otherwise) => Ok(unscored(0).unwrap_or(otherwise)),
            Self::UnscoredOrSetting => Ok(unscored(0).unwrap_or_else(|| setting(1))),
            Self::UnscoredLater => unscored(1).ok_or_else(|| {
                format!("the class expects the token `{unk}` with the score 0, and not first").into()
            }),
        }
    }
}

impl Flag {
    /// Returns the value in `tokenizer_config.json`, or the class's own.
    pub(super) fn is_set(self, settings: &Settings) -> bool {
        match self {
            Self::Setting { key, default } => {
                settings.config.get(key).map_or(default, |value| value.as_bool().unwrap_or(false))
            }
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// True if a class of Llama's puts a space before a text, which the settings can switch off.
fn prefixes(settings: &Settings) -> bool {
    settings.config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true)
}

/// Returns SentencePiece's table where a normalizer is one, or has one among its steps.
fn charsmap(normalizer: &NormalizerWrapper) -> tokenizers::Result<Option<Value>> {
    let is_charsmap = |step: &Value| step.get("precompiled_charsmap").is_some();
    let steps = match normalizer {
        NormalizerWrapper::Sequence(steps) => steps.as_ref().to_vec(),
        step => vec![step.clone()],
    };
    let charsmap = steps.iter().find(|step| matches!(step, NormalizerWrapper::Precompiled(_)));
    Ok(charsmap.map(serde_json::to_value).transpose()?.filter(is_charsmap))
}

/// Returns normalizers in the form of `tokenizer.json`.
fn normalizers(steps: &[Normalizer], settings: &Settings, charsmap: Option<&Value>) -> Vec<Value> {
    let replace = |kind: &str, pattern: &str, content: &str| {
        vec![json!({"type": "Replace", "pattern": {kind: pattern}, "content": content})]
    };
    let simple = |kind: &str| vec![json!({"type": kind})];
    let bert = |clean: bool, chinese: bool, accents: Option<bool>, lowercase: bool| {
        vec![json!({"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese,
                    "strip_accents": accents, "lowercase": lowercase})]
    };
    let step = |step: &Normalizer| match *step {
        Normalizer::Nfc => simple("NFC"),
        Normalizer::Nfkc => simple("NFKC"),
        Normalizer::Nfkd => simple("NFKD"),
        Normalizer::StripAccents => simple("StripAccents"),
        Normalizer::Lowercase => simple("Lowercase"),
        Normalizer::StripEnd => vec![json!({"type": "Strip", "strip_left": false, "strip_right": true})],
        Normalizer::Replace(pattern, content) => replace("String", pattern, content),
        Normalizer::ReplaceAll(pattern, content) => replace("Regex", pattern, content),
        Normalizer::Charsmap(then, otherwise) => match charsmap {
            Some(table) => [vec![table.clone()], normalizers(then, settings, charsmap)].concat(),
            None => normalizers(otherwise, settings, charsmap),
        },
        Normalizer::Bert(clean, lowercase) => {
            let chinese = Flag::Setting { key: "tokenize_chinese_chars", default: true };
            let accents = settings.config.get("strip_accents").and_then(Value::as_bool);
            bert(clean.is_set(settings), chinese.is_set(settings), accents, lowercase.is_set(settings))
        }
        Normalizer::BertCased => bert(true, true, Some(false), false),
        Normalizer::BertLowercase => bert(true, true, None, true),
        Normalizer::If(flag, steps) if flag.is_set(settings) => normalizers(steps, settings, charsmap),
        Normalizer::Unless(flag, steps) if !flag.is_set(settings) => normalizers(steps, settings, charsmap),
        Normalizer::If(..) | Normalizer::Unless(..) => Vec::new(),
    };
    steps.iter().flat_map(step).collect()
}

impl PreTokenizer {
    /// Returns the step in the form of `tokenizer.json`, where it applies.
    fn json(self, settings: &Settings) -> Option<Value> {
        let split = |pattern: Value, behavior: &str| json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": false});
        Some(match self {
            Self::ByteLevel(prefix) => {
                json!({"type": "ByteLevel", "add_prefix_space": prefix.is_set(settings), "trim_offsets": true,
                       "use_regex": true})
            }
            Self::Bytes(prefix) => {
                json!({"type": "ByteLevel", "add_prefix_space": prefix.is_set(settings), "trim_offsets": true,
                       "use_regex": false})
            }
            Self::Metaspace(scheme) => scheme.metaspace(settings),
            Self::MetaspaceWhole(scheme) => {
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme.name(settings),
                       "split": false})
            }
            Self::WhitespaceSplit => json!({"type": "WhitespaceSplit"}),
            Self::Digits => json!({"type": "Digits", "individual_digits": true}),
            Self::Bert => json!({"type": "BertPreTokenizer"}),
            Self::Punctuation if !settings.is_set("split_by_punct") => return None,
            Self::Punctuation => json!({"type": "Punctuation", "behavior": "Isolated"}),
            Self::Isolate(pattern) => split(json!({"Regex": pattern}), "Isolated"),
            Self::IsolateText(text) => split(json!({"String": text}), "Isolated"),
            Self::Matches(pattern) => {
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": true})
            }
            Self::Remove(text) => split(json!({"String": text}), "Removed"),
            Self::AfterSpace => split(json!({"String": " "}), "MergedWithPrevious"),
        })
    }
}

impl Scheme {
    /// Returns pre-tokenizer or decoder of this scheme, with pieces split at spaces, in the form of `tokenizer.json`.
    fn metaspace(self, settings: &Settings) -> Value {
        let scheme = self.name(settings);
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true})
    }

    /// Returns the name of the scheme in `tokenizer.json`.
    fn name(self, settings: &Settings) -> &'static str {
        let is_set = Flag::Setting { key: "add_prefix_space", default: true }.is_set(settings);
        match self {
            Self::Prefix if !is_set => "never",
            Self::FirstOrNever | Self::Llama if !prefixes(settings) => "never",
            Self::Llama if settings.is_set("legacy") => "always",
            Self::PrefixOrFirst if !is_set => "first",
            Self::First | Self::FirstOrNever | Self::Llama => "first",
            Self::Always | Self::Prefix | Self::PrefixOrFirst => "always",
        }
    }
}

impl Decoder {
    /// Returns the decoder in the form of `tokenizer.json`.
    fn json(self, settings: &Settings) -> Option<Value> {
        let bytes = || vec![json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "decoders": steps});
        let spaces = |strips: bool| {
            let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
            let first = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
            let last = strips.then_some(strip).into_iter().collect();
            sequence([vec![first], bytes(), last].concat())
        };
        let word_piece = |prefix: &str| json!({"type": "WordPiece", "prefix": prefix, "cleanup": true});
        Some(match self {
            Self::ByteLevel => {
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
            }
            Self::Spaces => spaces(false),
            Self::SpacesButFirst => spaces(true),
            Self::SpacesButPrefix => spaces(prefixes(settings)),
            Self::Metaspace(scheme) => scheme.metaspace(settings),
            Self::MetaspaceBytes => sequence([vec![Scheme::Always.metaspace(settings)], bytes()].concat()),
            Self::WordPiece => word_piece("##"),
            Self::WordPiecePrefix => {
                let prefix = settings.config.get("wordpieces_prefix").and_then(Value::as_str);
                word_piece(prefix.unwrap_or("##"))
            }
            Self::WordEnds => json!({"type": "BPEDecoder", "suffix": "</w>"}),
            Self::None => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::testing::check_classes;

    /// The numbers are those of transformers 5.23.
    #[test]
    fn a_vocabulary_without_languages_gets_them() {
        let vocab = json!([
            ["<s>", 0.0],
            ["<pad>", 0.0],
            ["</s>", 0.0],
            ["<unk>", 0.0],
            ["▁", -3.0],
            ["a", -4.0],
            ["b", -4.0],
            ["▁a", -2.0],
            ["ab", -3.0],
            ["▁ab", -1.0],
            ["é", -4.0],
            ["e", -4.0],
            ["A", -4.0],
            ["\"", -4.0],
            ["[CLS]", 0.0],
            ["[SEP]", 0.0]
        ]);
        let json = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": null, "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab}});
        let settings = json!({"src_lang": "ro_RO"});
        let ids = &[36, 5, 13, 7, 5, 11, 3, 6, 0, 5, 7, 2][..];
        let row = ("MBart50Tokenizer", settings, ids, "ro_RO Ab é<unk>a<s> b</s>", Some(2), 70);
        check_classes(&json, "Ab  é``a<s>b", &[row]);
    }
}
