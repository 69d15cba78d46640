//! `tekken.json`, the vocabulary of Mistral's own tools: byte-level BPE in which a token's rank is its merge's, and a
//! list of special tokens that come first. Read as transformers reads it where mistral-common is not installed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use tokenizers::{AddedToken, Tokenizer};

use super::guard::guarded;
use crate::error::{Error, Result};
use crate::files::json;
use crate::files::model_files::ModelFiles;

pub(crate) const NAME: &str = "tekken.json";

/// The most special tokens that are taken for meant.
const MOST_SPECIAL: usize = 1 << 20;

#[derive(Deserialize)]
struct File {
    config: Config,
    vocab: Vec<Entry>,
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: Option<usize>,
    default_num_special_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct Entry {
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: usize,
    token_str: String,
}

/// The tokenizer of a model's `tekken.json` with the content `bytes`.
///
/// # Errors
/// Fails when the file is malformed, or of the oldest kind, which does not list its special tokens.
pub(crate) fn read(files: &ModelFiles, bytes: &[u8]) -> Result<Tokenizer> {
    let path = files.path_of(NAME);
    let wrong = |message: String| Error::file(&path, message);
    let file: File = serde_json::from_value(json::parse(&path, bytes)?)
        .map_err(|e| wrong(format!("not a tokenizer that can be read: {e}")))?;
    let Some(special) = &file.special_tokens else {
        return Err(wrong("lists no special tokens, as the oldest files of its kind".to_owned()).hint(
            format!(
                "make tokenizer.json with transformers: pip install transformers mistral-common; {}",
                super::files::save_pretrained(files.path())
            ),
        ));
    };
    let special = special_tokens(special, file.config.default_num_special_tokens).map_err(wrong)?;
    let kept =
        file.config.default_vocab_size.map_or(file.vocab.len(), |size| size.saturating_sub(special.len()));
    let mut tokens = Vec::new();
    for entry in file.vocab.iter().take(kept) {
        let token = STANDARD.decode(&entry.token_bytes);
        tokens.push(token.map_err(|_| wrong(format!("`{}` is no base64", entry.token_bytes)))?);
    }
    guarded(|| build(&file.config.pattern, &tokens, &special))
        .map_err(|e| wrong(format!("not a tokenizer that can be read: {e}")))
}

/// Special tokens in the order of their ids, filled up to the number that the file names.
fn special_tokens(listed: &[Special], number: Option<usize>) -> Result<Vec<String>, String> {
    let mut sorted: Vec<(usize, &str)> =
        listed.iter().map(|token| (token.rank, token.token_str.as_str())).collect();
    sorted.sort_unstable();
    if sorted.iter().enumerate().any(|(at, (rank, _))| at != *rank) {
        return Err("the ranks of the special tokens do not count up from 0".to_owned());
    }
    let number = number.unwrap_or(sorted.len());
    if number > MOST_SPECIAL {
        return Err(format!("default_num_special_tokens is {number}, more than {MOST_SPECIAL}"));
    }
    let listed = sorted.iter().map(|(_, token)| (*token).to_owned());
    Ok(listed.chain((sorted.len()..number).map(|id| format!("<SPECIAL_{id}>"))).collect())
}

fn build(pattern: &str, tokens: &[Vec<u8>], special: &[String]) -> tokenizers::Result<Tokenizer> {
    let letters = letters();
    let spelled =
        |bytes: &[u8]| bytes.iter().filter_map(|byte| letters.get(usize::from(*byte))).collect::<String>();
    let mut vocab = serde_json::Map::new();
    for (rank, token) in tokens.iter().enumerate() {
        vocab.insert(spelled(token), json!(rank + special.len()));
    }
    for (id, token) in special.iter().enumerate() {
        vocab.insert(token.clone(), json!(id));
    }
    let merges: Vec<Value> =
        merges(tokens).into_iter().map(|(left, right)| json!([spelled(left), spelled(right)])).collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let split =
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let whole = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "fuse_unk": false, "byte_fallback": false, "ignore_merges": true, "vocab": vocab, "merges": merges},
    });
    let mut tokenizer = Tokenizer::from_bytes(serde_json::to_vec(&whole)?)?;
    tokenizer.add_tokens(special.iter().map(|token| AddedToken::from(token.as_str(), true)))?;
    Ok(tokenizer)
}

/// Every way to put a token together from two others, by rank.
fn merges(tokens: &[Vec<u8>]) -> Vec<(&[u8], &[u8])> {
    let ranks: HashMap<&[u8], usize> =
        tokens.iter().enumerate().map(|(rank, token)| (token.as_slice(), rank)).collect();
    let mut all = Vec::new();
    for (token, rank) in &ranks {
        for at in 1..token.len() {
            let (left, right) = token.split_at(at);
            if let (Some(one), Some(other)) = (ranks.get(left), ranks.get(right)) {
                all.push((*rank, *one, *other, left, right));
            }
        }
    }
    all.sort_unstable_by_key(|(rank, one, other, ..)| (*rank, *one, *other));
    all.into_iter().map(|(.., left, right)| (left, right)).collect()
}

/// The letter that stands for each byte in byte-level vocabularies: printable ones for themselves, the others from
/// U+0100.
fn letters() -> Vec<char> {
    let mut next = 0x100;
    let letter = |byte: u8| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        _ => {
            let letter = char::from_u32(next).unwrap_or_default();
            next += 1;
            letter
        }
    };
    (0..=u8::MAX).map(letter).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::folder;
    use super::super::tokenizer::Tokenizer;
    use super::*;

    /// Single bytes, four tokens of several (the last one beyond the vocabulary's size), and ten special tokens of
    /// which four are named.
    fn file() -> Value {
        let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
        let tokens = bytes.chain([&b"ab"[..], b" a", b" ab", b"ab c"].map(<[u8]>::to_vec));
        let vocab: Vec<Value> = tokens
            .enumerate()
            .map(|(rank, token)| json!({"rank": rank, "token_bytes": STANDARD.encode(token), "token_str": null}))
            .collect();
        let special = ["<unk>", "<s>", "</s>", "[INST]"].into_iter().enumerate();
        json!({
            "config": {"pattern": " ?[^ ]+| ", "default_vocab_size": 269, "default_num_special_tokens": 10},
            "vocab": vocab,
            "special_tokens": special.map(|(rank, token)| json!({"rank": rank, "token_str": token})).collect::<Vec<_>>(),
        })
    }

    fn open(file: &Value, config: &Value) -> Result<Tokenizer> {
        let files = [("tekken.json", &*file.to_string()), ("tokenizer_config.json", &*config.to_string())];
        Tokenizer::from_dir(folder(&files).path())
    }

    /// Ids are those of transformers 5.23 without mistral-common.
    #[test]
    fn read_as_transformers_does() {
        let text = "ab ab[INST]é<SPECIAL_9>";
        let ids = [266, 268, 3, 205, 179, 9];
        let plain = open(&file(), &json!({})).unwrap();
        assert_eq!((plain.vocab_size(), plain.eos_token_id()), (269, None));
        assert_eq!(plain.encode(text, true).unwrap(), ids);
        assert_eq!(plain.decode(&ids, false).unwrap(), text);
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true});
        let with = open(&file(), &config).unwrap();
        assert_eq!(with.encode(text, true).unwrap(), [&[1][..], &ids].concat());
        assert_eq!(with.encode(text, false).unwrap(), ids);
        assert_eq!(with.eos_token_id(), Some(2));
    }

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        let mut file = file();
        file["config"]["scale"] = json!("INFINITY");
        let text = format!("\u{feff}{}", file.to_string().replace("\"INFINITY\"", "Infinity"));
        let tokenizer = Tokenizer::from_dir(folder(&[("tekken.json", &text)]).path()).unwrap();
        assert_eq!(tokenizer.encode("ab", true).unwrap(), [266]);
        let error = Tokenizer::from_dir(folder(&[("tekken.json", "{\"config\": ")]).path()).err().unwrap();
        assert!(error.to_string().contains("tekken.json: not valid JSON"), "{error}");
    }

    #[test]
    fn malformed_files_are_named() {
        let refused = |change: fn(&mut Value)| {
            let mut file = file();
            change(&mut file);
            open(&file, &json!({})).err().unwrap()
        };
        let old = refused(|file| drop(file.as_object_mut().unwrap().remove("special_tokens")));
        assert!(old.to_string().contains("tekken.json: lists no special tokens"), "{old}");
        assert!(old.hint_text().unwrap().contains("mistral-common"));
        let error = refused(|file| file["special_tokens"][0]["rank"] = json!(7));
        assert!(error.to_string().contains("do not count up from 0"), "{error}");
        let error = refused(|file| file["vocab"][3]["token_bytes"] = json!("?"));
        assert!(error.to_string().contains("`?` is no base64"), "{error}");
        let error = refused(|file| file["config"]["pattern"] = json!("("));
        assert!(error.to_string().contains("not a tokenizer that can be read"), "{error}");
        let error = refused(|file| file["config"]["default_num_special_tokens"] = json!(1_u64 << 40));
        assert!(error.to_string().contains("more than"), "{error}");
        refused(|file| drop(file.as_object_mut().unwrap().remove("config")));
    }
}
