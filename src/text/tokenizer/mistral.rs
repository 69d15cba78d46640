//! The pattern that early conversions of Mistral's large vocabularies got wrong, which transformers puts right on
//! request.

use serde_json::{Value, json};
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use super::settings::Settings;

/// The key of `tokenizer_config.json` that asks for the corrected pattern.
const KEY: &str = "fix_mistral_regex";

/// Smaller vocabularies have no pattern of this kind.
const SMALLEST: usize = 100_000;

const PATTERN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Puts the pattern right where transformers does; where it only warns, returns what to say.
pub(crate) fn fix_pattern(
    tokenizer: &mut Tokenizer,
    settings: &Settings,
) -> tokenizers::Result<Option<String>> {
    let is_early = settings.transformers_version.as_deref().is_none_or(is_before_5);
    let is_mistral = settings.model_type.as_deref() == Some("mistral");
    let Some(current) = tokenizer.get_pre_tokenizer() else { return Ok(None) };
    if !is_mistral || !is_early || tokenizer.get_vocab_size(true) <= SMALLEST {
        return Ok(None);
    }
    if !settings.is_set(KEY) {
        let is_unset = !settings.config.contains_key(KEY);
        return Ok(is_unset.then(|| {
            format!("the pattern that splits texts may be a wrong one; `\"{KEY}\": true` in tokenizer_config.json corrects it, as with transformers")
        }));
    }
    let split =
        json!({"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false});
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let rest: Vec<Value> = match current {
        PreTokenizerWrapper::Sequence(all) => {
            all.as_ref().iter().skip(1).map(serde_json::to_value).collect::<Result<_, _>>()?
        }
        PreTokenizerWrapper::Metaspace(_) => vec![byte_level],
        other => vec![serde_json::to_value(other)?],
    };
    let parts = [vec![split], rest].concat();
    let fixed: PreTokenizerWrapper =
        serde_json::from_value(json!({"type": "Sequence", "pretokenizers": parts}))?;
    tokenizer.with_pre_tokenizer(Some(fixed));
    Ok(None)
}

/// True for versions of transformers before 5.0.0, pre-releases of it included.
fn is_before_5(version: &str) -> bool {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let marks = [".dev", "dev", "a", "b", "rc"];
    let is_marked = |rest: &str| marks.iter().any(|mark| rest.trim_start_matches(".0").starts_with(mark));
    let pre_release = version.strip_prefix('5').is_some_and(is_marked);
    pre_release || major.is_some_and(|major| major < 5)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::folder;
    use super::super::tokenizer::Tokenizer;
    use super::*;

    #[test]
    fn versions_before_5() {
        for (version, expected) in [
            ("4.57.1", true),
            ("5.0.0", false),
            ("5.0.0.dev0", true),
            ("5.0.0rc1", true),
            ("5.0.dev0", true),
            ("5.0.0.post1", false),
            ("5.0.0+local", false),
            ("5.1.0", false),
            ("10", false),
        ] {
            assert_eq!(is_before_5(version), expected, "{version}");
        }
    }

    /// A byte-level vocabulary that is large enough, with the wrong pattern for it, and `ids` of a text with
    /// transformers 5.23.
    #[test]
    fn pattern_is_put_right_on_request() {
        let letters = ('!'..='~').chain(['Ġ', 'Ċ']).map(String::from);
        let filler = (0..SMALLEST).map(|n| format!("ĠĠ{n}"));
        let vocab: serde_json::Map<String, Value> =
            letters.chain(["aB".to_owned()]).chain(filler).zip((0..).map(Value::from)).collect();
        let split = json!({"type": "Split", "pattern": {"Regex": r"\p{L}+|\P{L}"}, "behavior": "Isolated", "invert": false});
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let file = json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": byte_level,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "model": {"type": "BPE", "vocab": vocab, "merges": [["a", "B"]]},
        })
        .to_string();
        let open = |model: Value, config: Value| {
            let files = [
                ("tokenizer.json", &*file),
                ("config.json", &*model.to_string()),
                ("tokenizer_config.json", &*config.to_string()),
            ];
            Tokenizer::from_dir(folder(&files).path()).unwrap()
        };
        let mistral = json!({"model_type": "mistral", "transformers_version": "4.50.0"});
        let ids = |tokenizer: &Tokenizer| tokenizer.encode("aB", true).unwrap();
        let joined = [96];
        let apart = [64, 33];
        let fixed = open(mistral.clone(), json!({KEY: true}));
        assert_eq!(ids(&fixed), apart);
        let silent = open(mistral.clone(), json!({KEY: false}));
        assert_eq!((ids(&silent), silent.notes()), (joined.to_vec(), &[][..]));
        let told = open(mistral, json!({}));
        assert_eq!(ids(&told), joined);
        assert!(told.notes().concat().contains(KEY), "{:?}", told.notes());
        let late = json!({"model_type": "mistral", "transformers_version": "5.1.0"});
        let other = json!({"model_type": "mixtral"});
        for model in [late, other] {
            assert_eq!(ids(&open(model, json!({KEY: true}))), joined);
        }
    }
}
