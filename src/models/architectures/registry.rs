//! The table of architectures. An alias is a row.

use super::names::TensorShapes;
use super::{
    ernie4_5, gemma, gemma2, gemma3_text, glm4, granite, helium, internlm3, llama, llama4_text, mimo,
    mistral, mixtral, olmo2, olmo3, phi3, qwen2, qwen3, qwen3_moe, seed_oss, smollm3, telechat3,
};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::{Rename, rename_common, rename_experts};
use crate::models::spec::DecoderSpec;

/// One row: a `model_type` and what to do with it.
#[derive(Debug, Clone, Copy)]
pub struct Architecture {
    /// The config's `model_type`.
    pub model_type: &'static str,
    /// The row whose tests cover this one, for a mere other name.
    pub alias_of: Option<&'static str>,
    /// Values of absent keys.
    pub defaults: &'static [KeyDefault],
    /// Maps config (and the names and shapes found in the checkpoint) to the decoder.
    pub spec: Spec,
    /// Maps a checkpoint's tensor name to mlx-lm's.
    pub rename: fn(&str) -> Rename,
}

const ARCHITECTURES: &[Architecture] = &[
    row("ernie4_5", ernie4_5::DEFAULTS, ernie4_5::spec, rename_common),
    row("gemma", gemma::DEFAULTS, gemma::spec, rename_common),
    row("gemma2", gemma2::DEFAULTS, gemma2::spec, rename_common),
    row("gemma3_text", gemma3_text::DEFAULTS, gemma3_text::spec, rename_common),
    row("glm4", glm4::DEFAULTS, glm4::spec, rename_common),
    row("granite", granite::DEFAULTS, granite::spec, rename_common),
    row("helium", helium::DEFAULTS, helium::spec, rename_common),
    row("internlm3", internlm3::DEFAULTS, internlm3::spec, rename_common),
    row("llama", llama::DEFAULTS, llama::spec, rename_common),
    row("llama4_text", llama4_text::DEFAULTS, llama4_text::spec, llama4_text::rename),
    row("mimo", qwen2::DEFAULTS, qwen2::spec, mimo::rename),
    row("mistral", mistral::DEFAULTS, mistral::spec, rename_common),
    row("mixtral", mixtral::DEFAULTS, mixtral::spec, mixtral::rename),
    row("olmo2", olmo2::DEFAULTS, olmo2::spec, rename_common),
    row("olmo3", olmo3::DEFAULTS, olmo3::spec, rename_common),
    row("phi3", phi3::DEFAULTS, phi3::spec, rename_common),
    row("qwen2", qwen2::DEFAULTS, qwen2::spec, rename_common),
    row("qwen3", qwen3::DEFAULTS, qwen3::spec, rename_common),
    row("qwen3_moe", qwen3_moe::DEFAULTS, qwen3_moe::spec, rename_experts),
    row("seed_oss", seed_oss::DEFAULTS, seed_oss::spec, rename_common),
    row("smollm3", smollm3::DEFAULTS, smollm3::spec, rename_common),
    row("telechat3", telechat3::DEFAULTS, telechat3::spec, rename_common),
    alias("iquestcoder", "llama", llama::DEFAULTS, llama::spec, rename_common),
    alias("xverse", "llama", llama::DEFAULTS, llama::spec, rename_common),
];

/// Config and shapes to decoder.
pub type Spec = fn(&ModelConfig, &TensorShapes) -> Result<DecoderSpec>;

const fn row(
    model_type: &'static str,
    defaults: &'static [KeyDefault],
    spec: Spec,
    rename: fn(&str) -> Rename,
) -> Architecture {
    Architecture { model_type, alias_of: None, defaults, spec, rename }
}

const fn alias(
    model_type: &'static str,
    of: &'static str,
    defaults: &'static [KeyDefault],
    spec: Spec,
    rename: fn(&str) -> Rename,
) -> Architecture {
    Architecture { model_type, alias_of: Some(of), defaults, spec, rename }
}

/// Returns all rows.
pub fn rows() -> &'static [Architecture] {
    ARCHITECTURES
}

/// Finds the row for the config's `model_type`.
pub fn find(config: &ModelConfig) -> Result<&'static Architecture> {
    ARCHITECTURES.iter().find(|row| row.model_type == config.model_type()).ok_or_else(|| {
        config
            .error("model_type", format!("`{}` is not supported", config.model_type()))
            .hint(format!("supported are: {}", supported()))
    })
}

/// Lists the supported `model_type`s, for messages.
pub fn supported() -> String {
    ARCHITECTURES.iter().map(|row| row.model_type).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;
    use std::collections::BTreeSet;

    use super::*;
    use crate::files::json;

    /// The defaults that fixtures/make_config_defaults.py read from transformers' classes.
    fn classes() -> Value {
        serde_json::from_str(include_str!("../../../fixtures/config_defaults.json")).unwrap()
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let classes = classes();
        for row in rows() {
            let class = &classes[row.alias_of.unwrap_or(row.model_type)];
            for default in row.defaults {
                let (name, entry) = (row.model_type, &class[default.key]);
                assert!(json::equal(&entry[0], &default.json()), "{name} {}: {entry}", default.key);
                if entry[0].is_null() {
                    continue;
                }
                // Older versions take null for as many as there are query heads, whatever the class.
                let null = entry[1] == true || default.key == "num_key_value_heads";
                assert_eq!(default.nullable, null, "{name} {}", default.key);
            }
        }
    }

    #[test]
    fn no_default_is_left_out() {
        let classes = classes();
        let read: BTreeSet<&str> =
            rows().iter().flat_map(|row| row.defaults.iter().map(|default| default.key)).collect();
        for row in rows() {
            let class = &classes[row.alias_of.unwrap_or(row.model_type)];
            for key in &read {
                let listed =
                    row.defaults.iter().any(|default| default.key == *key && !default.json().is_null());
                // Llama 4's experts are refused.
                let refused =
                    row.model_type == "llama4_text" && key.starts_with("num_") && key.contains("expert");
                let there = class.get(key).is_some_and(|entry| !entry[0].is_null()) && !refused;
                assert_eq!(listed, there, "{} {key}", row.model_type);
            }
        }
    }
}
