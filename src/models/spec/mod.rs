//! Description of a decoder, and the list of tensors that follows from it.
//!
//! Every architecture maps its config to a [`DecoderSpec`]; everything after that (conversion, analysis, the engine)
//! reads the spec and never the config.
mod biases;
mod changes;
mod decoder;
mod expert_keys;
mod experts;
mod manifest;
mod mlp;
mod mscale;
mod names;
mod norm;
mod parts;
mod rope;
mod unrotated;

pub use biases::Biases;
pub(crate) use changes::{WindowPattern, divisible_size};
pub use decoder::{DecoderSpec, TemperatureTuning};
pub(crate) use expert_keys::{EXPERT_KEYS, LOCAL_EXPERT_KEYS, groups, sparse_blocks};
pub use experts::{
    EXPERT_NAMES, ExpertNames, ExpertsSpec, Groups, Normalization, Score, SharedGate, SharedSpec,
};
pub use manifest::{Manifest, Role, Tap, TensorSpec, with_columns};
pub use mlp::{Activation, MlpSpec, XIELU_PARAMETERS};
pub use names::{LLAMA_NAMES, ModuleNames};
pub use norm::{NormKind, NormParameter, NormSpec, QkNorm};
pub(crate) use parts::TIE;
pub use parts::{
    AttentionGate, AttentionSpan, AttentionSpec, BlockSpec, Branch, EmbedSpec, HeadSpec, LinearSpec,
    PositionsSpec, Projections,
};
pub(crate) use rope::TELECHAT3_YARN;
pub use rope::{Rope, RopeScaling};
pub(crate) use unrotated::rope_flags;
