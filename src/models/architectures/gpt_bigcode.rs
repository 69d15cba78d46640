//! `StarCoder` 1 and `SantaCoder`: GPT-2's block with learned positions, in which all heads share one key and value.

use super::gpt2;
use super::module_names::{GPT_BIGCODE, GPT2_KEYS};
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::names::{ATTENTION_BUFFERS, Rename, rename_prefix};
use crate::models::spec::{Activation, Biases, DecoderSpec, NormKind, Projections};

/// Defaults of transformers' `GPTBigCodeConfig`: GPT-2's, but for these.
pub const DEFAULTS: &[KeyDefault] = extended!(gpt2::DEFAULTS, OWN);

const OWN: &[KeyDefault] =
    &[KeyDefault::text("activation_function", "gelu_pytorch_tanh"), KeyDefault::boolean("multi_query", true)];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS).with_names(GPT2_KEYS).with_inner_size()?;
    config.only("scale_attn_weights", &true.into())?;
    config.only("add_cross_attention", &false.into())?;
    let mut spec = DecoderSpec::with_ropes(config, Vec::new())?;
    spec.set_names(&GPT_BIGCODE);
    spec.set_norms(NormKind::Layer);
    spec.set_learned_positions("transformer.wpe", config.require_size("max_position_embeddings")?);
    spec.set_plain_mlps(Activation::from_config(config, "activation_function")?);
    spec.set_biases(Biases::of_parts(true, true));
    let shared = config.required("multi_query", ModelConfig::boolean)?;
    spec.fuse_heads();
    if shared {
        let attentions = spec.attentions_mut();
        attentions
            .for_each(|attention| (attention.projections, attention.kv_heads) = (Projections::Fused, 1));
    }
    spec.resolved.push(("n_inner", config.require_size("intermediate_size")?.into()));
    spec.note_gelu(config, Activation::Gelu);
    if !shared {
        spec.notes.push(
            "query, key and value of each head have their rows together; mlx-lm's gpt_bigcode reads other rows"
                .to_owned(),
        );
    }
    Ok(spec)
}

/// Drops buffers.
pub fn rename(name: &str) -> Rename {
    let prefixes = [("transformer.", "transformer."), ("lm_head.", "lm_head."), ("", "transformer.")];
    rename_prefix(name, &ATTENTION_BUFFERS, &prefixes)
}
