//! DBRX: layer norms without biases, queries, keys and values in one matrix and cut to a range, and experts in every block, of
//! which mlx-lm has a layer each.

use super::module_names::{DBRX, DBRX_KEYS};
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::derived::{Derived, Step};
use crate::models::names::{Rename, rename_experts_in_place};
use crate::models::spec::{
    Biases, DecoderSpec, EXPERT_NAMES, ExpertNames, ExpertsSpec, NormKind, Projections, Rope,
};

/// Defaults of transformers' `DbrxConfig`, but for those of its sections.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::nullable_size("d_model", 2048),
    KeyDefault::nullable_size("n_heads", 16),
    KeyDefault::nullable_size("n_layers", 24),
    KeyDefault::nullable_size("max_seq_len", 2048).minor(),
    KeyDefault::size("vocab_size", 32_000),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
];

const NAMES: ExpertNames = ExpertNames { router: "router.layer", experts: "experts", ..EXPERT_NAMES };

/// Describes the decoder, whose sections `attn_config` and `ffn_config` have to be whole.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = config.with_defaults(DEFAULTS).with_names(DBRX_KEYS);
    let config = &config.with_value("rms_norm_eps", 1e-5.into());
    config.only("ffn_config.ffn_act_fn.name", &"silu".into())?;
    config.only("ffn_config.moe_normalize_expert_weights", &1.0.into())?;
    config.only("tie_word_embeddings", &false.into())?;
    let mut spec = DecoderSpec::with_rope(config, Rope::from_config(config)?)?;
    spec.set_names(&DBRX);
    spec.set_norms(NormKind::LayerUnbiased);
    spec.set_biases(Biases::default());
    let clip = config.positive("attn_config.clip_qkv")?.map(|most| most as f32);
    for attention in spec.attentions_mut() {
        (attention.projections, attention.clip) = (Projections::Fused, clip);
    }
    let keys = ["ffn_config.moe_num_experts", "num_experts_per_tok", "intermediate_size"];
    let experts = ExpertsSpec::from_config(config, keys)?.normalized(true, 0.0);
    spec.set_experts(config, ExpertsSpec { names: &NAMES, apart: true, ..experts }, |_| true)?;
    Ok(spec)
}

/// Names the experts' matrices, which are stored one above the other, down as [experts * in, out].
pub fn rename(name: &str) -> Rename {
    let Some((mlp, part)) = name.split_once(".experts.mlp.") else { return rename_experts_in_place(name) };
    let mut steps = vec![Step::StackedAs(format!("{mlp}.router.layer.weight"))];
    steps.extend((part == "w2").then_some(Step::Transposed));
    Rename::Derived(vec![Derived::new(format!("{mlp}.experts.{part}.weight"), steps)])
}
