//! Keys of Step 3.5: those of its makers, which mlx-lm needs, and those of transformers.

use super::step3p5::DEFAULTS;
use crate::error::Result;
use crate::models::config::ModelConfig;

/// Returns the config under transformers' keys, without the entries of layers that predict further tokens.
pub(super) fn read(config: &ModelConfig) -> Result<ModelConfig> {
    const LISTS: [&str; 6] = [
        "layer_types",
        "mlp_layer_types",
        "rope_theta",
        "partial_rotary_factors",
        "swiglu_limits",
        "swiglu_limits_shared",
    ];
    let config = config.with_alias("n_routed_experts", "moe_num_experts")?;
    let config = config.with_alias("num_experts_per_tok", "moe_top_k")?;
    let config = config.with_alias("num_key_value_heads", "num_attention_groups")?;
    let config = config.with_defaults(DEFAULTS).with_entries_of_layers(&LISTS)?;
    config.only_silu()?;
    for key in ["attention_bias", "mlp_bias"] {
        config.only(key, &false.into())?;
    }
    config.only("query_pre_attn_scalar", &config.require_size("head_dim")?.into())?;
    config.only("moe_router_activation", &"sigmoid".into())?;
    config.only("use_moe_router_bias", &true.into())?;
    config.only("yarn_only_types", &vec!["full_attention"].into())?;
    let kv_heads = config.require_size("num_key_value_heads")?;
    let config = config.with_value("yarn_only_types", vec!["full_attention"].into());
    Ok(config.with_value("num_attention_groups", kv_heads.into()))
}

/// Section of the blocks with a window.
pub(super) const OTHER: &str = "attention_other_setting";

/// Returns the heads of queries and of keys in blocks with a window.
pub(super) fn heads_of_windows(config: &ModelConfig) -> Result<[usize; 2]> {
    let size = |own: &str, usual| match config.size(&format!("{OTHER}.{own}"))? {
        Some(heads) => Ok(heads),
        None => config.require_size(usual),
    };
    let kv_heads = size("num_attention_groups", "num_key_value_heads")?;
    Ok([size("num_attention_heads", "num_attention_heads")?, kv_heads])
}
