//! Which tokens end a text: all EOS ids of config.json and generation_config.json, and only those. (A template's header
//! tokens do not end anything.)

use std::path::PathBuf;

use serde_json::Value;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::json;
use crate::tokenizer::Tokenizer;

/// The ids, sorted. Where neither file names one, the tokenizer's EOS.
pub fn stop_tokens(config: &ModelConfig, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut ids = from_config(config)?;
    ids.extend(from_generation_config(config)?.unwrap_or_default());
    if ids.is_empty() {
        ids.extend(tokenizer.eos_token_id());
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Those of config.json.
pub fn from_config(config: &ModelConfig) -> Result<Vec<u32>> {
    match config.get("eos_token_id") {
        None => Ok(Vec::new()),
        Some(ids) => parse(ids).ok_or_else(|| config.error("eos_token_id", unexpected(ids))),
    }
}

/// Those of the generation_config.json beside it; `None` where there is no such file.
pub fn from_generation_config(config: &ModelConfig) -> Result<Option<Vec<u32>>> {
    let Some((path, value)) = generation_config(config)? else { return Ok(None) };
    match value.get("eos_token_id") {
        None | Some(Value::Null) => Ok(Some(Vec::new())),
        Some(ids) => parse(ids).map(Some).ok_or_else(|| Error::key(path, "eos_token_id", unexpected(ids))),
    }
}

/// The generation_config.json beside config.json, with its path, where there is one.
pub fn generation_config(config: &ModelConfig) -> Result<Option<(PathBuf, Value)>> {
    const NAME: &str = "generation_config.json";
    let Some(files) = config.files().filter(|files| files.has(NAME)) else { return Ok(None) };
    let path = files.path_of(NAME);
    let value = json::parse(&path, &files.read(NAME)?)?;
    Ok(Some((path, value)))
}

fn unexpected(value: &Value) -> String {
    format!("expected a token id or a list of them, found {value}")
}

fn parse(value: &Value) -> Option<Vec<u32>> {
    match value {
        Value::Array(values) => values.iter().map(id).collect(),
        single => Some(vec![id(single)?]),
    }
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_or_many() {
        assert_eq!(parse(&json!(2)), Some(vec![2]));
        assert_eq!(parse(&json!([1, 4])), Some(vec![1, 4]));
        for bad in [json!(-1), json!("x"), json!([1, null])] {
            assert_eq!(parse(&bad), None);
        }
    }
}
