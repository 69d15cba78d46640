//! GPT-NeoX and Pythia: layer norms, attention and an MLP without gate side by side behind norms of their own, the rows of each
//! head's query, key and value together.

use super::module_names::GPT_NEOX;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::{Rename, rename_prefix};
use crate::models::spec::{Activation, Biases, DecoderSpec, NormKind, Rope};

/// Defaults of transformers' `GPTNeoXConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 50_432),
    KeyDefault::size("hidden_size", 6144),
    KeyDefault::size("intermediate_size", 24_576),
    KeyDefault::size("num_hidden_layers", 44),
    KeyDefault::size("num_attention_heads", 64),
    KeyDefault::text("hidden_act", "gelu"),
    KeyDefault::size("max_position_embeddings", 2048).minor(),
    KeyDefault::number("layer_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::number("partial_rotary_factor", 0.25),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", true),
    KeyDefault::boolean("use_parallel_residual", true),
];

/// Describes the decoder. Published configs call base and rotated part `rotary_emb_base` and `rotary_pct`, as mlx-lm does.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = config.with_alias("rope_theta", "rotary_emb_base")?;
    let config = config.with_alias("partial_rotary_factor", "rotary_pct")?;
    let config = &config.with_defaults(DEFAULTS).with_names(&[("rms_norm_eps", "layer_norm_eps")]);
    let rope = Rope::partial(config, 0.25)?;
    let (base, share) = (rope.theta, rope.share(config)?);
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    spec.resolved.extend([("rotary_emb_base", base.into()), ("rotary_pct", share.into())]);
    spec.set_names(&GPT_NEOX);
    spec.set_norms(NormKind::Layer);
    spec.set_plain_mlps(Activation::from_config(config, "hidden_act")?);
    let bias = config.required("attention_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases::of_parts(bias, true));
    let parallel = config.required("use_parallel_residual", ModelConfig::boolean)?;
    spec.blocks.iter_mut().for_each(|block| block.parallel = parallel);
    spec.fuse_heads();
    spec.note_gelu(config, Activation::GeluTanh);
    spec.note_biases(config, bias);
    spec.note_rope_scaling(config);
    spec.note_head(config, false);
    spec.note_inner_size(config, 4 * spec.hidden_size);
    Ok(spec)
}

/// Renames what transformers keeps in `gpt_neox`, and drops buffers.
pub fn rename(name: &str) -> Rename {
    let buffers = [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"];
    let layers = ["gpt_neox.layers.", "model.layers.", "layers."].map(|start| (start, "model.h."));
    let others = ["gpt_neox.", "model.", ""].map(|start| (start, "model."));
    rename_prefix(name, &buffers, &[layers, others].concat())
}
