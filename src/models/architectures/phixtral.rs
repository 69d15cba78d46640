//! Phixtral: Phi 2's block, attention and experts side by side behind one norm, its experts MLPs without a gate.

use super::module_names::{PHIXTRAL, PHIXTRAL_KEYS, PHIXTRAL_MAKERS_KEYS as MAKERS};
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::Rename;
use crate::models::spec::{
    Activation, Biases, BlockSpec, DecoderSpec, ExpertsSpec, LOCAL_EXPERT_KEYS, NormKind, Projections, Rope,
    Score,
};

/// Defaults of mlx-lm's arguments.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("num_vocab", 51_200),
    KeyDefault::size("model_dim", 2560),
    KeyDefault::size("num_heads", 32),
    KeyDefault::size("num_layers", 32),
    KeyDefault::size("rotary_dim", 32),
    KeyDefault::size("num_experts_per_tok", 2),
    KeyDefault::size("num_local_experts", 4),
];

/// Describes the decoder, whose head is never tied.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    config.only("tie_word_embeddings", &false.into())?;
    config.only("layer_norm_epsilon", &1e-5.into())?;
    config.only_activation("activation_function", &["gelu_new", "gelu_pytorch_tanh"])?;
    let config =
        MAKERS.iter().try_fold(config.clone(), |config, (key, makers)| config.with_alias(key, makers))?;
    let config = config.with_defaults(DEFAULTS).with_names(PHIXTRAL_KEYS);
    let hidden_size = config.require_size("hidden_size")?;
    let config = config.with_value("intermediate_size", (4 * hidden_size).into());
    let config = config.with_value("rms_norm_eps", 1e-5.into());
    let config = &config.with_value("tie_word_embeddings", false.into());
    let mut spec =
        DecoderSpec::with_ropes(config, vec![Rope::plain(config.require_size("rotary_dim")?, 1e4)])?;
    spec.set_names(&PHIXTRAL);
    spec.set_norms(NormKind::Layer);
    spec.set_plain_mlps(Activation::GeluTanh);
    spec.set_biases(Biases { head: true, ..Biases::of_parts(true, true) });
    spec.blocks.iter_mut().for_each(BlockSpec::share_input);
    spec.attentions_mut().for_each(|attention| attention.projections = Projections::Fused);
    let experts = ExpertsSpec::from_config(config, LOCAL_EXPERT_KEYS)?;
    spec.set_experts(config, ExpertsSpec { bias: true, score: Score::SoftmaxOfChosen, ..experts }, |_| true)?;
    spec.resolved.extend(MAKERS[..4].iter().filter_map(|(key, _)| Some((*key, config.get(key)?.clone()))));
    Ok(spec)
}

/// Names the experts' tensors, one of each kind for all experts.
pub fn rename(name: &str) -> Rename {
    let expert = || {
        let (moe, rest) = name.split_once(".moe.mlp.")?;
        let (number, rest) = rest.split_once('.')?;
        let index = number.parse().ok().filter(|index: &usize| index.to_string() == number)?;
        Some(Rename::Expert { stack: format!("{moe}.moe.switch_mlp.{rest}"), index })
    };
    if name.ends_with(".rotary_emb.inv_freq") { Rename::Drop } else { expert().unwrap_or(Rename::Keep) }
}
