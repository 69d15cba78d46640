//! `OpenELM`: blocks of different sizes, fused projections, norms of queries and keys.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{DecoderSpec, LLAMA_NAMES, ModuleNames, Projections, Rope};

/// Defaults of mlx-lm's arguments, which are those of the makers' `OpenELMConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_freq_constant", 10_000.0),
    KeyDefault::boolean("ffn_with_glu", true),
    KeyDefault::boolean("normalize_qk_projections", true),
    KeyDefault::boolean("share_input_output_layers", true),
];

const KEYS: &[(&str, &str)] = &[
    ("hidden_size", "model_dim"),
    ("num_hidden_layers", "num_transformer_layers"),
    ("max_position_embeddings", "max_context_length"),
    ("tie_word_embeddings", "share_input_output_layers"),
];

const NAMES: ModuleNames = ModuleNames {
    blocks: "transformer.layers",
    embed: "transformer.token_embeddings",
    norm: "transformer.norm",
    attention: "attn",
    attention_norm: "attn_norm",
    o: "out_proj",
    mlp: "ffn",
    mlp_norm: "ffn_norm",
    gate_up: "proj_1",
    down: "proj_2",
    ..LLAMA_NAMES
};

/// Most heads of a block, and the widest MLP, that are taken for meant.
const MOST: usize = 1 << 24;

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = config.with_defaults(DEFAULTS).with_names(KEYS);
    config.only("ffn_with_glu", &true.into())?;
    config.only_activation("activation_fn_name", &["swish", "silu"])?;
    let layers = config.require_size("num_hidden_layers")?;
    let sizes = |key: &str| {
        let is_size = |size: &usize| (1..MOST).contains(size);
        let sizes = config.indices(key)?.filter(|sizes| sizes.len() == layers && sizes.iter().all(is_size));
        sizes.ok_or_else(|| config.error(key, format!("expected a list of {layers} sizes below {MOST}")))
    };
    let (heads, kv_heads) = (sizes("num_query_heads")?, sizes("num_kv_heads")?);
    let widths = widths(&config, layers)?;
    let theta = config.required("rope_freq_constant", ModelConfig::positive)?;
    // The sizes of blocks follow.
    let config = &["num_attention_heads", "intermediate_size"]
        .into_iter()
        .fold(config, |config, key| config.with_value(key, 1.into()));
    let rope = Rope::plain(config.require_size("head_dim")?, theta);
    let mut spec = DecoderSpec::with_ropes(config, vec![rope])?;
    spec.set_names(&NAMES);
    if config.required("normalize_qk_projections", ModelConfig::boolean)? {
        spec.set_qk_norms();
    }
    for (layer, block) in spec.blocks.iter_mut().enumerate() {
        let (attention, mlp) = (&mut block.attention.part, &mut block.mlp.part);
        (attention.projections, mlp.projections) = (Projections::Fused, Projections::Fused);
        (attention.heads, attention.kv_heads) = (heads[layer], kv_heads[layer]);
        mlp.intermediate_size = widths[layer];
        if !heads[layer].is_multiple_of(kv_heads[layer]) {
            let message = format!("{} does not divide {} query heads", kv_heads[layer], heads[layer]);
            return Err(config.error("num_kv_heads", message));
        }
    }
    Ok(spec)
}

/// Returns the widths of the MLPs: `ffn_multipliers` times the hidden size, rounded to a multiple of `ffn_dim_divisor` that is
/// no more than a tenth less.
fn widths(config: &ModelConfig, layers: usize) -> Result<Vec<usize>> {
    let (hidden, divisor) = (config.require_size("hidden_size")?, config.require_size("ffn_dim_divisor")?);
    let factors = config.positives("ffn_multipliers")?;
    if factors.len() != layers {
        return Err(config.error("ffn_multipliers", format!("{} factors for {layers} layers", factors.len())));
    }
    let width = |factor: f64| {
        let wanted = factor * hidden as f64;
        let most = wanted.min(2.0 * MOST as f64);
        let rounded = ((most + divisor as f64 / 2.0) as usize / divisor * divisor).max(divisor);
        if (rounded as f64) < 0.9 * wanted { rounded + divisor } else { rounded }
    };
    let widths: Vec<usize> = factors.into_iter().map(width).collect();
    match widths.iter().find(|width| **width > MOST) {
        Some(width) => {
            Err(config.error("ffn_multipliers", format!("an MLP of {width} is wider than {MOST}")))
        }
        None => Ok(widths),
    }
}
