//! Keys of `MiMo`-V2-Flash: those of its makers, of which mlx-lm needs all, and those of transformers.

use serde_json::json;

use super::mimo_v2_flash::DEFAULTS;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::spec::{AttentionSpan, DecoderSpec};

/// Keys of windows, and those of all attention that they have to agree with.
const OF_WINDOWS: [(&str, &str); 3] = [
    ("swa_num_attention_heads", "num_attention_heads"),
    ("swa_head_dim", "head_dim"),
    ("swa_v_head_dim", "v_head_dim"),
];

/// Returns the config under transformers' keys. A window is the query and `sliding_window_size` keys before it.
pub(super) fn read(config: &ModelConfig) -> Result<ModelConfig> {
    let config = config.with_alias("rms_norm_eps", "layernorm_epsilon")?;
    let config = config.with_alias("rope_local_base_freq", "swa_rope_theta")?;
    let mut config = config.with_alias("n_routed_experts", "num_local_experts")?.with_defaults(DEFAULTS);
    if let Some(before) = config.size("sliding_window_size")? {
        config = config.with_value("sliding_window", (before + 1).into());
    }
    config.only_silu()?;
    OF_WINDOWS.iter().try_for_each(|(other, key)| config.only(other, &config.require_size(key)?.into()))?;
    config.only("scoring_func", &"sigmoid".into())?;
    config.only("topk_method", &"noaux_tc".into())?;
    Ok(config)
}

/// Writes what mlx-lm needs, and notes what it does otherwise.
pub(super) fn write(config: &ModelConfig, spec: &mut DecoderSpec, kv_heads: usize, sinks: [bool; 2]) {
    let copied = |key| config.get(key).cloned().unwrap_or_default();
    let windows = spec.attentions().map(|attention| u8::from(attention.span != AttentionSpan::Full));
    let sparse = spec.mlps().map(|mlp| u8::from(mlp.experts.is_some()));
    let (windows, sparse): (Vec<u8>, Vec<u8>) = (windows.collect(), sparse.collect());
    let before = config.size("sliding_window").ok().flatten().map(|window| window - 1);
    spec.resolved.extend(OF_WINDOWS.map(|(other, key)| (other, copied(key))));
    spec.resolved.extend([
        ("add_full_attention_sink_bias", sinks[0].into()),
        ("add_swa_attention_sink_bias", sinks[1].into()),
        ("hybrid_layer_pattern", windows.into()),
        ("layernorm_epsilon", copied("rms_norm_eps")),
        ("moe_layer_freq", sparse.into()),
        ("partial_rotary_factor", copied("partial_rotary_factor")),
        ("rope_theta", spec.ropes[0].theta.into()),
        ("scoring_func", json!("sigmoid")),
        ("sliding_window_size", before.into()),
        ("swa_num_key_value_heads", kv_heads.into()),
        ("swa_rope_theta", spec.ropes[1].theta.into()),
        ("topk_method", json!("noaux_tc")),
    ]);
    spec.write_absent(config, &["n_shared_experts"]);
    spec.note_if(true, "a window has sliding_window_size keys before the query's own; mlx-lm has one less");
    spec.note_head(config, false);
    spec.note_biases_of_queries(config);
    spec.extra.push("model.mtp.".to_owned());
}
