//! GPT-2: layer norms, learned positions, an MLP without gate, biases everywhere; matrices are stored with rows and columns
//! exchanged.

use super::module_names::{GPT2, GPT2_KEYS};
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::{ATTENTION_BUFFERS, Rename, rename_prefix};
use crate::models::spec::{Activation, Biases, DecoderSpec, NormKind, Projections};

/// Defaults of transformers' `GPT2Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 50_257),
    KeyDefault::size("n_positions", 1024),
    KeyDefault::size("n_embd", 768),
    KeyDefault::size("n_layer", 12),
    KeyDefault::size("n_head", 12),
    KeyDefault::optional_size("n_inner"),
    KeyDefault::text("activation_function", "gelu_new"),
    KeyDefault::number("layer_norm_epsilon", 1e-5),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::boolean("scale_attn_weights", true),
];

/// Matrices that transformers stores with rows and columns exchanged.
const EXCHANGED: [&str; 4] =
    [".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight"];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS).with_names(GPT2_KEYS).with_inner_size()?;
    config.only("scale_attn_weights", &true.into())?;
    for key in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        config.only(key, &false.into())?;
    }
    let mut spec = DecoderSpec::with_ropes(config, Vec::new())?;
    spec.set_names(&GPT2);
    spec.set_norms(NormKind::Layer);
    let positions = config.require_size("max_position_embeddings")?;
    spec.set_learned_positions("model.wpe", positions);
    spec.set_plain_mlps(Activation::from_config(config, "activation_function")?);
    spec.set_biases(Biases::of_parts(true, true));
    spec.attentions_mut().for_each(|attention| attention.projections = Projections::Fused);
    spec.resolved.push(("n_ctx", positions.into()));
    spec.note_gelu(config, Activation::GeluTanh);
    spec.note_inner_size(config, 4 * spec.hidden_size);
    spec.note_head(config, true);
    Ok(spec)
}

/// Renames what transformers has, in `transformer` or without prefix, exchanges rows and columns, and drops buffers.
pub fn rename(name: &str) -> Rename {
    let kept = ["lm_head.", "model."].map(|start| (start, start));
    let moved = ["transformer.", ""].map(|start| (start, "model."));
    match rename_prefix(name, &ATTENTION_BUFFERS, &[kept, moved].concat()) {
        Rename::To(name) if EXCHANGED.iter().any(|end| name.ends_with(end)) => Rename::transposed(name),
        other => other,
    }
}
