//! Wrappers: models whose text decoder is one part of several, beside towers that read images.
//!
//! config.json has the decoder's keys under `text_config` (older checkpoints have them among the others), the decoder's tensors
//! have a prefix, and the towers' tensors lie beside them. mixbit reads the decoder, under the names that it would have alone; what
//! is written has mlx-lm's prefix.

use serde_json::{Map, Value};
use std::borrow::Cow;

use super::config::ModelConfig;
use crate::error::Result;
use crate::models::spec::TIE;

/// Key of the decoder's own keys.
const TEXT_CONFIG: &str = "text_config";

/// Start of the decoder's tensor names in what mlx-lm reads, in most wrappers.
pub const PREFIX: &str = "language_model.";

/// Start of the decoder's tensor names where transformers 5 has the whole model under `model`.
const INSIDE_MODEL: &str = "model.language_model.";

/// A wrapper around a text decoder.
#[derive(Debug)]
pub struct Wrapper {
    /// `model_type` of a decoder whose config does not have one.
    pub default_text: &'static str,
    /// `model_type`s in `text_config`, each with that of the architecture it stands for.
    pub texts: &'static [(&'static str, &'static str)],
    /// Modules beside the decoder.
    pub towers: &'static [&'static str],
    /// Place of the decoder's keys.
    pub layout: Layout,
    /// Meaning of the two places that may say whether the head is tied.
    pub tie: Tie,
    /// True if the head is tied where neither place says so.
    pub tied_by_default: bool,
    /// Start of the decoder's tensor names in what mlx-lm reads.
    pub prefix: &'static str,
    /// Keys of the decoder that mlx-lm reads beside its section.
    pub repeated: &'static [&'static str],
}

/// Place of a decoder's keys in config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// In `text_config`.
    Nested,
    /// In `text_config`, or among the wrapper's keys where there is none.
    NestedOrFlat,
}

/// Meaning of `tie_word_embeddings` in `text_config` and beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// Tied where either place says so.
    Either,
    /// As `text_config` says, and as the place beside it says where `text_config` says nothing.
    TextFirst,
    /// Never: mlx-lm's class does not read the key.
    Never,
}

impl Wrapper {
    /// Returns the keys of the decoder in `config`.
    pub fn decoder_config(&self, config: &ModelConfig) -> Result<ModelConfig> {
        let decoder = match config.get(TEXT_CONFIG) {
            Some(_) => config.section(TEXT_CONFIG, self.default_text)?,
            None if self.layout == Layout::NestedOrFlat => config.as_type(self.default_text),
            None => {
                return Err(config
                    .error(TEXT_CONFIG, "missing")
                    .hint(format!("a `{}` config has the text model's keys there", config.model_type())));
            }
        };
        let tie = match (self.tie, decoder.boolean(TIE)?, config.boolean(TIE)?) {
            (Tie::Never, ..) => {
                decoder.only(TIE, &false.into())?;
                None
            }
            (Tie::Either, Some(text), Some(whole)) => Some(text || whole),
            (Tie::Either | Tie::TextFirst, text, whole) => text.or(whole),
        };
        Ok(decoder.with_value(TIE, tie.unwrap_or(self.tied_by_default).into()))
    }

    /// Returns the `model_type` of the architecture that a decoder of this `model_type` stands for.
    pub fn decoder(&self, model_type: &str) -> Option<&'static str> {
        self.texts.iter().find(|(text, _)| *text == model_type).map(|(_, decoder)| *decoder)
    }

    /// Returns the tower that the tensor or layer called `name` is a part of.
    pub fn tower(&self, name: &str) -> Option<&'static str> {
        let name = name.strip_prefix("model.").unwrap_or(name);
        let is_start = |tower: &&&str| name.strip_prefix(**tower).is_some_and(|rest| rest.starts_with('.'));
        self.towers.iter().find(is_start).copied()
    }

    /// Returns the name that the tensor or layer called `name` has in the decoder alone.
    pub fn inner_name(name: &str) -> Cow<'_, str> {
        match name.strip_prefix(INSIDE_MODEL) {
            Some(rest) => Cow::Owned(format!("model.{rest}")),
            None => Cow::Borrowed(name.strip_prefix(PREFIX).unwrap_or(name)),
        }
    }

    /// Returns a decoder's own `name` in the form that `like` has: the reverse of [`Wrapper::inner_name`].
    pub fn outer_name<'a>(name: &'a str, like: &str) -> Cow<'a, str> {
        match name.strip_prefix("model.") {
            Some(rest) if like.starts_with(INSIDE_MODEL) => Cow::Owned(format!("{INSIDE_MODEL}{rest}")),
            _ if like.starts_with(PREFIX) => Cow::Owned(format!("{PREFIX}{name}")),
            _ => Cow::Borrowed(name),
        }
    }

    /// Returns the name under which a runner of images finds a tower's tensor, and under which mlx-lm leaves it out.
    pub fn tower_name(name: &str) -> &str {
        name.strip_prefix("model.").unwrap_or(name)
    }
}

/// Changes the keys of the decoder described by `decoder` with `change`: those in its section of `keys`, or `keys` themselves.
pub fn change_decoder_keys(
    keys: &mut Map<String, Value>,
    decoder: &ModelConfig,
    change: impl FnOnce(&mut Map<String, Value>),
) {
    match decoder.section_name().and_then(|section| keys.get_mut(section)) {
        Some(Value::Object(inner)) => {
            inner.entry("model_type").or_insert_with(|| decoder.model_type().into());
            change(inner);
        }
        _ => change(keys),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;
    use std::path::Path;

    use super::*;
    use crate::models::architectures::{TensorShapes, find};
    use crate::models::spec::DecoderSpec;

    fn spec(config: &Value) -> Result<DecoderSpec> {
        let config = ModelConfig::parse(Path::new("config.json"), &config.to_string())?;
        (find(&config)?.spec)(&config, &TensorShapes::new())
    }

    fn is_tied(model_type: &str, text: &Value, whole: &Value) -> bool {
        let mut inner = json!({"hidden_size": 64, "num_attention_heads": 8});
        let mut outer = json!({"model_type": model_type});
        for (config, tie) in [(&mut inner, text), (&mut outer, whole)] {
            if !tie.is_null() {
                config[TIE] = tie.clone();
            }
        }
        outer[TEXT_CONFIG] = inner;
        spec(&outer).unwrap().head.tied
    }

    #[test]
    fn tying_is_read_in_both_places() {
        let (yes, no, absent) = (json!(true), json!(false), json!(null));
        for (text, whole, either, text_first) in [
            (&absent, &absent, false, false),
            (&yes, &absent, true, true),
            (&absent, &yes, true, true),
            (&yes, &no, true, true),
            (&no, &yes, true, false),
        ] {
            assert_eq!(is_tied("llava", text, whole), either, "llava {text} {whole}");
            assert_eq!(is_tied("mistral3", text, whole), text_first, "mistral3 {text} {whole}");
        }
        assert!(!is_tied("pixtral", &absent, &yes));
    }

    #[test]
    fn errors_name_the_nested_key() {
        for (text, expected) in [
            (json!({"hidden_size": -1}), "key `text_config.hidden_size`"),
            (
                json!({"model_type": "gpt9"}),
                "key `text_config.model_type`: `gpt9` is not supported in `llava`",
            ),
            (json!([]), "key `text_config`: expected an object"),
            (json!(null), "key `text_config`: missing"),
        ] {
            let message = spec(&json!({"model_type": "llava", "text_config": text})).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let tied = json!({"model_type": "pixtral", "text_config": {TIE: true}});
        assert!(spec(&tied).unwrap_err().to_string().contains("key `text_config.tie_word_embeddings`"));
    }

    #[test]
    fn names_in_every_spelling() {
        for (name, inner) in [
            ("language_model.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("lm_head.weight", "lm_head.weight"),
        ] {
            assert_eq!(Wrapper::inner_name(name), inner);
        }
        let config = json!({"model_type": "llava", "text_config": {}}).to_string();
        let config = ModelConfig::parse(Path::new("config.json"), &config).unwrap();
        let wrapper = find(&config).unwrap().wrapper.unwrap();
        for name in ["vision_tower.a.weight", "model.vision_tower.a.weight"] {
            assert_eq!(wrapper.tower(name), Some("vision_tower"));
        }
        for name in ["vision_tower_2.a", "language_model.vision_tower.a", "audio_tower.a", "vision_tower"] {
            assert_eq!(wrapper.tower(name), None, "{name}");
        }
    }
}
