//! tokenizer.json, tokenizer_config.json and generation_config.json of a model's metadata. Tokens are those of llama.cpp: byte
//! pairs by their list, and SentencePiece's vocabularies by joining the pair of the best score.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;

use super::gguf::Gguf;
use super::pre_tokenizer::PreTokenizer;
use super::value;
use super::vocabulary::{TokenKind, Vocabulary};
use crate::error::{Error, Result};

const MODEL: &str = "tokenizer.ggml.model";

/// tokenizer.json.
#[derive(Serialize)]
struct File<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Added<'a>>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Bpe<'a>,
}

/// Token that is found in a text before it is split.
#[derive(Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "the flags are the format's")]
struct Added<'a> {
    id: usize,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct Bpe<'a> {
    r#type: &'static str,
    dropout: (),
    unk_token: Option<&'a str>,
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "by_id")]
    vocab: &'a [Cow<'a, str>],
    merges: Vec<[&'a str; 2]>,
}

fn by_id<S: Serializer>(tokens: &[Cow<'_, str>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().enumerate().map(|(id, token)| (token, id)))
}

/// Kind of a vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    /// Pairs of a list, over bytes.
    BytePairs,
    /// The pair of the best score, over characters with bytes for those that are unknown.
    SentencePiece,
}

impl Algorithm {
    fn of(gguf: &Gguf) -> Result<Self> {
        match gguf.text(MODEL)?.ok_or_else(|| gguf.missing(MODEL))? {
            "gpt2" => Ok(Self::BytePairs),
            "llama" => Ok(Self::SentencePiece),
            other => Err(gguf
                .error(MODEL, format!("`{other}` is no tokenizer that is read"))
                .hint("tokenizers that are read: `gpt2`, of byte pairs, and `llama`, of SentencePiece")),
        }
    }
}

/// Returns whether BOS and EOS are put around texts.
fn around(vocabulary: &Vocabulary<'_>) -> Result<[bool; 2]> {
    let usual = match Algorithm::of(vocabulary.gguf)? {
        Algorithm::BytePairs => PreTokenizer::of(vocabulary.gguf)?.adds_bos,
        Algorithm::SentencePiece => true,
    };
    Ok([vocabulary.adds("bos", usual)?, vocabulary.adds("eos", false)?])
}

/// Makes tokenizer.json.
pub(super) fn tokenizer(gguf: &Gguf) -> Result<Vec<u8>> {
    let vocabulary = Vocabulary::read(gguf)?;
    let file = match Algorithm::of(gguf)? {
        Algorithm::BytePairs => byte_pairs(&vocabulary)?,
        Algorithm::SentencePiece => sentencepiece(&vocabulary)?,
    };
    serde_json::to_vec(&file)
        .map_err(|e| Error::file(gguf.path(), format!("its vocabulary cannot be written: {e}")))
}

fn byte_pairs<'a>(vocabulary: &'a Vocabulary<'a>) -> Result<File<'a>> {
    let rule = PreTokenizer::of(vocabulary.gguf)?;
    vocabulary.ids()?;
    let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let steps: Vec<Value> = rule.patterns.iter().map(split).chain([bytes.clone()]).collect();
    Ok(File {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: added(vocabulary),
        normalizer: Value::Null,
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
        post_processor: template(vocabulary)?,
        decoder: bytes,
        model: Bpe {
            r#type: "BPE",
            dropout: (),
            unk_token: None,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: rule.ignores_merges,
            vocab: &vocabulary.tokens,
            merges: vocabulary.merges()?,
        },
    })
}

fn sentencepiece<'a>(vocabulary: &'a Vocabulary<'a>) -> Result<File<'a>> {
    let prefix = vocabulary.gguf.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let normalizer = if prefix {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}, space]})
    } else {
        space
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = vocabulary.special("unknown")?.map(|(_, token)| token);
    let of_kind = || vocabulary.kinds.iter().position(|kind| *kind == TokenKind::Unknown);
    let unknown = unknown.or_else(|| of_kind().map(|id| vocabulary.tokens[id].as_ref()));
    Ok(File {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: added(vocabulary),
        normalizer,
        pre_tokenizer: Value::Null,
        post_processor: template(vocabulary)?,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: Bpe {
            r#type: "BPE",
            dropout: (),
            unk_token: unknown,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: true,
            byte_fallback: true,
            ignore_merges: false,
            vocab: &vocabulary.tokens,
            merges: scored_merges(vocabulary)?,
        },
    })
}

/// Returns the pairs that make a token, those of the best token first.
fn scored_merges<'a>(vocabulary: &'a Vocabulary<'a>) -> Result<Vec<[&'a str; 2]>> {
    let (ids, scores) = (vocabulary.ids()?, vocabulary.scores()?);
    let is_made =
        |kind: TokenKind| !matches!(kind, TokenKind::Control | TokenKind::Unknown | TokenKind::Byte);
    let mut made: Vec<usize> =
        (0..vocabulary.tokens.len()).filter(|id| is_made(vocabulary.kinds[*id])).collect();
    made.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut merges = Vec::new();
    for id in made {
        let token = vocabulary.tokens[id].as_ref();
        let pairs = token.char_indices().skip(1).filter_map(|(at, _)| {
            let pair = [&token[..at], &token[at..]];
            Some((pair.map(|half| ids.get(half)), pair)).filter(|(ids, _)| ids.iter().all(Option::is_some))
        });
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort();
        merges.extend(pairs.into_iter().map(|(_, pair)| pair));
    }
    if merges.is_empty() {
        return Err(vocabulary.error("no token is made of two others"));
    }
    Ok(merges)
}

fn added<'a>(vocabulary: &'a Vocabulary<'a>) -> Vec<Added<'a>> {
    let found = vocabulary.tokens.iter().zip(&vocabulary.kinds).enumerate();
    let found = found.filter(|(_, (_, kind))| kind.is_found_first());
    let added = found.map(|(id, (content, kind))| Added {
        id,
        content,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: *kind != TokenKind::UserDefined,
    });
    added.collect()
}

/// Returns the rule that puts BOS and EOS around texts.
fn template(vocabulary: &Vocabulary<'_>) -> Result<Value> {
    let [bos, eos] = around(vocabulary)?;
    let token = |name: &str, is_added: bool| -> Result<Option<(usize, &str)>> {
        if !is_added {
            return Ok(None);
        }
        let missing = || vocabulary.gguf.missing(&format!("tokenizer.ggml.{name}_token_id"));
        vocabulary.special(name)?.ok_or_else(missing).map(Some)
    };
    let (bos, eos) = (token("bos", bos)?, token("eos", eos)?);
    if bos.is_none() && eos.is_none() {
        return Ok(Value::Null);
    }
    let item = |token: Option<(usize, &str)>, id: usize| {
        token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": id}}))
    };
    let part = |name: &str, id: usize| -> Vec<Value> {
        let text = json!({"Sequence": {"id": name, "type_id": id}});
        item(bos, id).into_iter().chain([text]).chain(item(eos, id)).collect()
    };
    let tokens: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|(id, text)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    let pair = [part("A", 0), part("B", 1)].concat();
    Ok(json!({
        "type": "TemplateProcessing",
        "single": part("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    }))
}

/// Makes tokenizer_config.json.
pub(super) fn settings(gguf: &Gguf, max_length: Option<&Value>) -> Result<Value> {
    let vocabulary = Vocabulary::read(gguf)?;
    let [bos, eos] = around(&vocabulary)?;
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bos,
        "add_eos_token": eos,
        "clean_up_tokenization_spaces": false,
    });
    for (ours, theirs) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        if let Some((_, token)) = vocabulary.special(theirs)? {
            settings[format!("{ours}_token")] = token.into();
        }
    }
    if let Some(length) = max_length {
        settings["model_max_length"] = length.clone();
    }
    if let Some(template) = chat_template(gguf)? {
        settings["chat_template"] = template;
    }
    Ok(settings)
}

/// Returns the chat template, or a list of them by name.
fn chat_template(gguf: &Gguf) -> Result<Option<Value>> {
    const KEY: &str = "tokenizer.chat_template";
    let mut named = BTreeMap::new();
    for key in gguf.keys() {
        if let Some(name) = key.strip_prefix(KEY).and_then(|rest| rest.strip_prefix('.')) {
            named.extend(gguf.text(key)?.map(|text| (name, text)));
        }
    }
    let default = gguf.text(KEY)?;
    if named.is_empty() {
        return Ok(default.map(Value::from));
    }
    named.extend(default.map(|text| ("default", text)));
    Ok(Some(named.into_iter().map(|(name, template)| json!({"name": name, "template": template})).collect()))
}

/// Tokens that end a turn, which llama.cpp finds by their texts where no key names them.
const TURN_ENDS: [&str; 4] = ["<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>"];

/// Makes generation_config.json: the tokens that begin a text, fill it up, and end an answer.
pub(super) fn generation(gguf: &Gguf) -> Result<Value> {
    let vocabulary = Vocabulary::read(gguf)?;
    let id = |name: &str| Ok::<_, Error>(vocabulary.special(name)?.map(|(id, _)| id));
    let mut ends: Vec<usize> = [id("eos")?, id("eot")?, id("eom")?].into_iter().flatten().collect();
    let is_end = |(_, (token, kind)): &(usize, (&Cow<'_, str>, &TokenKind))| {
        **kind == TokenKind::Control && TURN_ENDS.contains(&token.as_ref())
    };
    let found = vocabulary.tokens.iter().zip(&vocabulary.kinds).enumerate().filter(is_end);
    ends.extend(found.map(|(id, _)| id));
    let mut seen = Vec::new();
    ends.retain(|end| !seen.contains(end) && (seen.push(*end), true).1);
    let mut config = Map::new();
    config.extend(id("bos")?.map(|id| ("bos_token_id".to_owned(), id.into())));
    match ends[..] {
        [] => {}
        [end] => drop(config.insert("eos_token_id".to_owned(), end.into())),
        _ => drop(config.insert("eos_token_id".to_owned(), ends.into())),
    }
    config.extend(id("padding")?.map(|id| ("pad_token_id".to_owned(), id.into())));
    Ok(config.into())
}

/// Returns the languages that the metadata names.
pub(super) fn languages(gguf: &Gguf) -> Vec<&str> {
    let list = gguf.get("general.languages").and_then(value::Value::as_list).unwrap_or_default();
    list.iter().filter_map(value::Value::as_text).collect()
}
