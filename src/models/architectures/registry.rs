//! The table of architectures. An alias is a row.

use super::names::TensorShapes;
use super::{
    afmoe, apertus, bailing_experts, bailing_moe, cohere, cohere2, dbrx, deepseek, dots1, ernie4_5,
    ernie4_5_moe, exaone, exaone_moe, exaone4, gemma, gemma2, gemma3_text, glm, glm4, glm4_moe, gpt_bigcode,
    gpt_neox, gpt_oss, gpt_oss_names, gpt2, gptj, granite, granitemoe, helium, hunyuan_v1_dense, internlm2,
    internlm3, iquestcoder, klear, laguna, laguna_experts, lille_130m, llama, llama4, llama4_text, mellum,
    mimo, mimo_v2_flash, minicpm, minimax_m2, ministral3, mistral, mixtral, muse_glimmer, nanochat, nemotron,
    olmo, olmo2, olmo3, olmoe, openelm, phi, phi3, phimoe, phixtral, plamo, plamo3, qwen, qwen2, qwen2_moe,
    qwen2_vl, qwen3, qwen3_moe, qwen3_vl, qwen3_vl_moe, seed_oss, smollm3, solar_open, spark2_5, stablelm,
    starcoder2, step3p5, step3p5_names, telechat3, wrappers,
};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::{Rename, rename_common, rename_experts, rename_experts_in_place};
use crate::models::spec::DecoderSpec;
use crate::models::wrapper::Wrapper;

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
    /// Maps a checkpoint's tensor name to mlx-lm's; in a wrapper, a name that the tensor has in the decoder.
    pub rename: fn(&str) -> Rename,
    /// The wrapper that the decoder is in; `None` where the model is a decoder alone.
    pub wrapper: Option<&'static Wrapper>,
}

const ARCHITECTURES: &[Architecture] = &[
    row("apertus", apertus::DEFAULTS, apertus::spec, rename_common),
    row("cohere", cohere::DEFAULTS, cohere::spec, rename_common),
    row("cohere2", cohere2::DEFAULTS, cohere2::spec, rename_common),
    row("ernie4_5", ernie4_5::DEFAULTS, ernie4_5::spec, rename_common),
    row("exaone", exaone::DEFAULTS, exaone::spec, rename_common),
    row("exaone4", exaone4::DEFAULTS, exaone4::spec, rename_common),
    row("gemma", gemma::DEFAULTS, gemma::spec, rename_common),
    row("gemma2", gemma2::DEFAULTS, gemma2::spec, rename_common),
    row("gemma3_text", gemma3_text::DEFAULTS, gemma3_text::spec, rename_common),
    row("glm", glm::DEFAULTS, glm::spec, rename_common),
    row("glm4", glm4::DEFAULTS, glm4::spec, rename_common),
    row("gpt2", gpt2::DEFAULTS, gpt2::spec, gpt2::rename),
    row("gpt_bigcode", gpt_bigcode::DEFAULTS, gpt_bigcode::spec, gpt_bigcode::rename),
    row("gpt_neox", gpt_neox::DEFAULTS, gpt_neox::spec, gpt_neox::rename),
    row("gptj", gptj::DEFAULTS, gptj::spec, gptj::rename),
    row("granite", granite::DEFAULTS, granite::spec, rename_common),
    row("helium", helium::DEFAULTS, helium::spec, rename_common),
    row("hunyuan_v1_dense", hunyuan_v1_dense::DEFAULTS, hunyuan_v1_dense::spec, rename_common),
    row("internlm2", internlm2::DEFAULTS, internlm2::spec, internlm2::rename),
    row("internlm3", internlm3::DEFAULTS, internlm3::spec, rename_common),
    row("lille-130m", lille_130m::DEFAULTS, lille_130m::spec, lille_130m::rename),
    row("llama", llama::DEFAULTS, llama::spec, rename_common),
    row("llama4_text", llama4_text::DEFAULTS, llama4_text::spec, llama4_text::rename),
    row("mimo", qwen2::DEFAULTS, qwen2::spec, mimo::rename),
    row("minicpm", minicpm::DEFAULTS, minicpm::spec, rename_common),
    row("ministral3", ministral3::DEFAULTS, ministral3::spec, rename_common),
    row("mistral", mistral::DEFAULTS, mistral::spec, rename_common),
    row("mixtral", mixtral::DEFAULTS, mixtral::spec, mixtral::rename),
    row("nanochat", nanochat::DEFAULTS, nanochat::spec, nanochat::rename),
    row("nemotron", nemotron::DEFAULTS, nemotron::spec, rename_common),
    row("olmo", olmo::DEFAULTS, olmo::spec, rename_common),
    row("olmo2", olmo2::DEFAULTS, olmo2::spec, rename_common),
    row("olmo3", olmo3::DEFAULTS, olmo3::spec, rename_common),
    row("openelm", openelm::DEFAULTS, openelm::spec, rename_common),
    row("phi", phi::DEFAULTS, phi::spec, rename_common),
    row("phi3", phi3::DEFAULTS, phi3::spec, rename_common),
    row("plamo3", plamo3::DEFAULTS, plamo3::spec, rename_common),
    row("qwen", qwen::DEFAULTS, qwen::spec, rename_common),
    row("plamo", plamo::DEFAULTS, plamo::spec, rename_common),
    row("qwen2", qwen2::DEFAULTS, qwen2::spec, rename_common),
    row("qwen3", qwen3::DEFAULTS, qwen3::spec, rename_common),
    row("qwen3_moe", qwen3_moe::DEFAULTS, qwen3_moe::spec, rename_experts),
    row("seed_oss", seed_oss::DEFAULTS, seed_oss::spec, rename_common),
    row("smollm3", smollm3::DEFAULTS, smollm3::spec, rename_common),
    row("spark2_5", spark2_5::DEFAULTS, spark2_5::spec, spark2_5::rename),
    row("stablelm", stablelm::DEFAULTS, stablelm::spec, rename_common),
    row("starcoder2", starcoder2::DEFAULTS, starcoder2::spec, rename_common),
    row("telechat3", telechat3::DEFAULTS, telechat3::spec, rename_common),
    row("bailing_moe", bailing_moe::DEFAULTS, bailing_moe::spec, bailing_experts::rename),
    row("deepseek", deepseek::DEFAULTS, deepseek::spec, rename_experts),
    row("dots1", dots1::DEFAULTS, dots1::spec, rename_experts_in_place),
    row("ernie4_5_moe", ernie4_5_moe::DEFAULTS, ernie4_5_moe::spec, ernie4_5_moe::rename),
    row("exaone_moe", exaone_moe::DEFAULTS, exaone_moe::spec, exaone_moe::rename),
    row("glm4_moe", glm4_moe::DEFAULTS, glm4_moe::spec, rename_experts),
    row("gpt_oss", gpt_oss::DEFAULTS, gpt_oss::spec, gpt_oss_names::rename),
    row("granitemoe", granitemoe::DEFAULTS, granitemoe::spec, granitemoe::rename),
    row("minimax_m2", minimax_m2::DEFAULTS, minimax_m2::spec, mixtral::rename),
    row("olmoe", olmoe::DEFAULTS, olmoe::spec, rename_experts),
    row("qwen2_moe", qwen2_moe::DEFAULTS, qwen2_moe::spec, rename_experts),
    row("solar_open", solar_open::DEFAULTS, solar_open::spec, rename_experts),
    row("afmoe", afmoe::DEFAULTS, afmoe::spec, rename_experts_in_place),
    row("Klear", klear::DEFAULTS, klear::spec, rename_experts_in_place),
    row("mellum", mellum::DEFAULTS, mellum::spec, rename_experts),
    row("phimoe", phimoe::DEFAULTS, phimoe::spec, mixtral::rename),
    row("laguna", laguna::DEFAULTS, laguna::spec, laguna_experts::rename),
    row("dbrx", dbrx::DEFAULTS, dbrx::spec, dbrx::rename),
    row("mimo_v2_flash", mimo_v2_flash::DEFAULTS, mimo_v2_flash::spec, rename_experts),
    row("phixtral", phixtral::DEFAULTS, phixtral::spec, phixtral::rename),
    row("step3p5", step3p5::DEFAULTS, step3p5::spec, step3p5_names::rename),
    alias("phi-msft", "phixtral", phixtral::DEFAULTS, phixtral::spec, phixtral::rename),
    alias("iquestcoder", "llama", iquestcoder::DEFAULTS, iquestcoder::spec, rename_common),
    alias("xverse", "llama", llama::DEFAULTS, llama::spec, rename_common),
    wrapper("gemma3", &wrappers::GEMMA3),
    Architecture { rename: llama4::rename, ..wrapper("llama4", &wrappers::LLAMA4) },
    wrapper("mistral3", &wrappers::MISTRAL3),
    Architecture { alias_of: Some("mistral3"), ..wrapper("llava", &wrappers::LLAVA) },
    Architecture { alias_of: Some("mistral3"), ..wrapper("pixtral", &wrappers::PIXTRAL) },
    wrapper("muse_glimmer", &wrappers::MUSE_GLIMMER),
    wrapper("qwen2_vl", &wrappers::QWEN2_VL),
    Architecture { alias_of: Some("qwen2_vl"), ..wrapper("qwen2_5_vl", &wrappers::QWEN2_5_VL) },
    wrapper("qwen3_vl", &wrappers::QWEN3_VL),
    Architecture { rename: qwen3_vl_moe::rename, ..wrapper("qwen3_vl_moe", &wrappers::QWEN3_VL_MOE) },
];

/// Decoders that exist in wrappers only.
const TEXT_DECODERS: &[Architecture] = &[
    alias("llama4_moe_text", "llama4_text", llama4::DEFAULTS, llama4::spec, llama4::rename),
    row("muse_glimmer_text", muse_glimmer::DEFAULTS, muse_glimmer::spec, rename_common),
    row("qwen2_vl_text", qwen2_vl::DEFAULTS, qwen2_vl::spec, rename_common),
    row("qwen2_5_vl_text", qwen2_vl::DEFAULTS, qwen2_vl::spec, rename_common),
    row("qwen3_vl_text", qwen3_vl::DEFAULTS, qwen3_vl::spec, rename_common),
    row("qwen3_vl_moe_text", qwen3_vl_moe::DEFAULTS, qwen3_vl_moe::spec, qwen3_vl_moe::rename),
];

/// Config and shapes to decoder.
pub type Spec = fn(&ModelConfig, &TensorShapes) -> Result<DecoderSpec>;

const fn row(
    model_type: &'static str,
    defaults: &'static [KeyDefault],
    spec: Spec,
    rename: fn(&str) -> Rename,
) -> Architecture {
    Architecture { model_type, alias_of: None, defaults, spec, rename, wrapper: None }
}

const fn alias(
    model_type: &'static str,
    of: &'static str,
    defaults: &'static [KeyDefault],
    spec: Spec,
    rename: fn(&str) -> Rename,
) -> Architecture {
    Architecture { model_type, alias_of: Some(of), defaults, spec, rename, wrapper: None }
}

/// A wrapper, whose decoder has another row.
const fn wrapper(model_type: &'static str, wrapper: &'static Wrapper) -> Architecture {
    Architecture {
        model_type,
        alias_of: None,
        defaults: &[],
        spec: spec_of_text,
        rename: rename_common,
        wrapper: Some(wrapper),
    }
}

/// Describes the decoder inside a wrapper.
fn spec_of_text(config: &ModelConfig, shapes: &TensorShapes) -> Result<DecoderSpec> {
    let (row, decoder) = find(config)?.decoder(config)?;
    (row.spec)(&decoder, shapes)
}

impl Architecture {
    /// Returns the row of the decoder and its keys: for a wrapper, those of the text model in it.
    pub fn decoder(&'static self, config: &ModelConfig) -> Result<(&'static Self, ModelConfig)> {
        let Some(wrapper) = self.wrapper else { return Ok((self, config.clone())) };
        let decoder = wrapper.decoder_config(config)?;
        let name = wrapper.decoder(decoder.model_type());
        let mut rows = ARCHITECTURES.iter().chain(TEXT_DECODERS);
        if let Some(row) = name.and_then(|name| rows.find(|row| row.model_type == name)) {
            return Ok((row, decoder));
        }
        let texts: Vec<&str> = wrapper.texts.iter().map(|(text, _)| *text).collect();
        let (text, outer) = (decoder.model_type(), self.model_type);
        Err(decoder
            .error("model_type", format!("`{text}` is not supported in `{outer}`"))
            .hint(format!("supported in it are: {}", texts.join(", "))))
    }
}

/// Returns the rows of decoders that exist in wrappers only.
pub fn text_decoders() -> &'static [Architecture] {
    TEXT_DECODERS
}

/// Returns all rows of models.
pub fn rows() -> &'static [Architecture] {
    ARCHITECTURES
}

/// Finds the row for the config's `model_type`.
pub fn find(config: &ModelConfig) -> Result<&'static Architecture> {
    ARCHITECTURES.iter().find(|row| row.model_type == config.model_type()).ok_or_else(|| {
        config
            .error("model_type", format!("`{}` is not supported", config.model_type()))
            .hint("`mixbit models` lists what is supported")
    })
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

    /// The defaults of the class of `row`: its own, or that of the row it is another name for.
    fn class_of<'a>(classes: &'a Value, row: &Architecture) -> &'a Value {
        classes.get(row.model_type).unwrap_or(&classes[row.alias_of.unwrap_or(row.model_type)])
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let classes = classes();
        for row in rows().iter().chain(text_decoders()) {
            let class = class_of(&classes, row);
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
        let all = || rows().iter().chain(text_decoders());
        let read: BTreeSet<&str> =
            all().flat_map(|row| row.defaults.iter().map(|default| default.key)).collect();
        for row in all() {
            let class = class_of(&classes, row);
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
