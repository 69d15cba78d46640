//! GPT-NeoX and Pythia: layer norms, attention and an MLP without gate side by side behind norms of their own, the rows of each
//! head's query, key and value together.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::Rename;
use crate::models::spec::{
    Activation, Biases, DecoderSpec, LLAMA_NAMES, ModuleNames, NormKind, Projections, Rope,
};

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

const NAMES: ModuleNames = ModuleNames {
    blocks: "model.h",
    embed: "model.embed_in",
    norm: "model.final_layer_norm",
    head: "model.embed_out",
    attention: "attention",
    qkv: "query_key_value",
    o: "dense",
    up: "dense_h_to_4h",
    down: "dense_4h_to_h",
    ..LLAMA_NAMES
};

/// Describes the decoder. Published configs call base and rotated part `rotary_emb_base` and `rotary_pct`, as mlx-lm does.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let aliases = [("rope_theta", "rotary_emb_base"), ("partial_rotary_factor", "rotary_pct")];
    let config =
        aliases.into_iter().try_fold(config.clone(), |config, (key, name)| config.with_alias(key, name))?;
    let config = &config.with_defaults(DEFAULTS).with_names(&[("rms_norm_eps", "layer_norm_eps")]);
    let rope = Rope::partial(config, 0.25)?;
    let (base, share) = (rope.theta, rope.share(config)?);
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    spec.resolved.extend([("rotary_emb_base", base.into()), ("rotary_pct", share.into())]);
    spec.set_names(&NAMES);
    spec.set_norms(NormKind::Layer);
    spec.set_plain_mlps(Activation::from_config(config, "hidden_act")?);
    let bias = config.required("attention_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases::of_parts(bias, true));
    let parallel = config.required("use_parallel_residual", ModelConfig::boolean)?;
    for block in &mut spec.blocks {
        block.parallel = parallel;
        block.attention.part.projections = Projections::FusedByHead;
        block.attention.part.kv_heads = block.attention.part.heads;
    }
    spec.note_gelu(config, Activation::GeluTanh);
    spec.note_biases(config, bias);
    spec.note_rope_scaling(config);
    spec.note_head(config, false);
    spec.note_inner_size(config, 4 * spec.hidden_size);
    Ok(spec)
}

/// Renames what transformers keeps in `gpt_neox`, and drops buffers.
pub fn rename(name: &str) -> Rename {
    if [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"]
        .iter()
        .any(|end| name.ends_with(end))
    {
        return Rename::Drop;
    }
    let inner = name.strip_prefix("gpt_neox.").or_else(|| name.strip_prefix("model.")).unwrap_or(name);
    let renamed = match inner.strip_prefix("layers.") {
        Some(rest) => format!("model.h.{rest}"),
        None => format!("model.{inner}"),
    };
    if renamed == name { Rename::Keep } else { Rename::To(renamed) }
}
