//! `OLMo` 1, as its makers and as transformers have it: layer norms without weights; queries, keys and values may be clipped.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Biases, DecoderSpec, LLAMA_NAMES, ModuleNames, NormKind, Projections, Rope};

/// Defaults of transformers' `OlmoConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 50_304),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 11_008),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 2048).minor(),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
];

/// Keys under the makers' names.
const KEYS: &[(&str, &str)] = &[
    ("vocab_size", "embedding_size"),
    ("hidden_size", "d_model"),
    ("num_hidden_layers", "n_layers"),
    ("num_attention_heads", "n_heads"),
    ("num_key_value_heads", "n_kv_heads"),
    ("max_position_embeddings", "max_sequence_length"),
    ("tie_word_embeddings", "weight_tying"),
    ("attention_bias", "include_bias"),
];

const NAMES: ModuleNames = ModuleNames {
    blocks: "model.transformer.blocks",
    embed: "model.transformer.wte",
    head: "model.transformer.ff_out",
    attention: "",
    qkv: "att_proj",
    o: "attn_out",
    mlp: "",
    gate_up: "ff_proj",
    down: "ff_out",
    ..LLAMA_NAMES
};

/// Epsilon, which no key says.
const EPSILON: f64 = 1e-5;

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = config.clone().with_value("rms_norm_eps", EPSILON.into());
    let mut spec =
        if config.get("d_model").is_some() { of_makers(&config)? } else { of_transformers(&config)? };
    spec.set_norms(NormKind::LayerWeightless);
    let clip = config.positive("clip_qkv")?.map(|most| most as f32);
    spec.attentions_mut().for_each(|attention| attention.clip = clip);
    Ok(spec)
}

fn of_transformers(config: &ModelConfig) -> Result<DecoderSpec> {
    let mut spec = DecoderSpec::from_config(&config.with_defaults(DEFAULTS))?;
    spec.mlps_mut().for_each(|mlp| (mlp.gate_up_bias, mlp.down_bias) = (false, false));
    spec.notes.push("mlx-lm's olmo loads models in their makers' form only, not transformers'".to_owned());
    Ok(spec)
}

fn of_makers(config: &ModelConfig) -> Result<DecoderSpec> {
    let (yes, no) = (true.into(), false.into());
    for (key, value) in
        [("rope", &yes), ("layer_norm_with_affine", &no), ("alibi", &no), ("include_bias", &no)]
    {
        config.only(key, value)?;
    }
    for (key, value) in
        [("activation_type", "swiglu"), ("block_type", "sequential"), ("layer_norm_type", "default")]
    {
        config.only(key, &value.into())?;
    }
    let both = match config.size("mlp_hidden_size")? {
        Some(size) => size,
        None => config.size("mlp_ratio")?.unwrap_or(4) * config.require_size("d_model")?,
    };
    let mut config = config.with_names(KEYS).with_value("intermediate_size", (both / 2).into());
    if config.get("tie_word_embeddings").is_none() {
        config = config.with_value("weight_tying", false.into());
    }
    let theta = config.positive("rope_theta")?.unwrap_or(10_000.0);
    let head_dim = config.require_size("hidden_size")? / config.require_size("num_attention_heads")?;
    let mut rope = Rope::plain(head_dim, theta);
    rope.traditional = config.boolean("rope_traditional")?.unwrap_or(false);
    let mut spec = DecoderSpec::with_ropes(&config, vec![rope])?;
    spec.set_names(&NAMES);
    spec.set_biases(Biases::default());
    spec.attentions_mut().for_each(|attention| attention.projections = Projections::Fused);
    spec.mlps_mut().for_each(|mlp| mlp.projections = Projections::UpFirst);
    if config.get("clip_qkv").is_some() {
        spec.notes.push("clip_qkv is applied; mlx-lm's olmo ignores it".to_owned());
    }
    spec.notes.push("mlx-lm's olmo reads one token at a time only: prompts fail".to_owned());
    Ok(spec)
}
