//! The text decoder of Qwen3-VL with experts: Qwen3 with experts, whose tensors hold all experts of a block.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::derived::{Derived, Step};
use crate::models::names::{Rename, rename_common, rename_experts, rename_experts_in_place};
use crate::models::spec::{DecoderSpec, EXPERT_NAMES};

/// Defaults of transformers' `Qwen3VLMoeTextConfig`; who ties the head says the wrapper.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::SHARED, &sizes([151_936, 2048, 5632, 24, 16, 16]), OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::optional_size("head_dim"),
    KeyDefault::size("max_position_embeddings", 128_000).minor(),
    KeyDefault::number("rope_theta", 500_000.0),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::size("decoder_sparse_step", 1).minor(),
    KeyDefault::size("moe_intermediate_size", 1408),
    KeyDefault::size("num_experts", 60),
    KeyDefault::size("num_experts_per_tok", 4),
];

/// Describes the decoder. The probabilities of the chosen experts always sum to 1.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS).with_value("norm_topk_prob", true.into());
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_qk_norms();
    spec.set_qwen_experts(config, &EXPERT_NAMES)?;
    Ok(spec)
}

/// Names the experts' matrices, which are stored [experts, in, out], gate beside up.
pub fn rename(name: &str) -> Rename {
    rename_beside(name, "switch_mlp")
}

/// Names experts' matrices that are stored [experts, in, out], gate beside up, as those of the module called `module`.
pub(super) fn rename_beside(name: &str, module: &str) -> Rename {
    let Some((mlp, matrices)) = name.split_once(".experts.") else { return rename_common(name) };
    let derived = |name: &str, steps: &[Step]| {
        Derived::new(format!("{mlp}.{module}.{name}.weight"), [&[Step::Transposed], steps].concat())
    };
    match matrices {
        "gate_up_proj" => Rename::Derived(vec![
            derived("gate_proj", &[Step::Share { index: 0, of: 2 }]),
            derived("up_proj", &[Step::Share { index: 1, of: 2 }]),
        ]),
        "down_proj" => Rename::Derived(vec![derived("down_proj", &[])]),
        _ if module == "experts" => rename_experts_in_place(name),
        _ => rename_experts(name),
    }
}
