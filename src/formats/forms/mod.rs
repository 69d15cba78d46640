//! Forms of other tools' quantized weights. Each gives either rows of floats, decoded as they are read, or the codes, scales
//! and biases of an MLX layer with the same numbers.
mod awq;
mod bitsandbytes;
mod compressed;
mod condition;
mod declared;
mod decode;
mod fp8;
mod gptq;
mod gptq_config;
mod grid;
mod int8;
mod integers;
mod layer;
mod mxfp4;
mod nvfp4;
mod packed;
mod packing;
mod parts;
mod take;
mod targets;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests;

pub use condition::Condition;
pub(crate) use declared::declared;
pub use declared::{refuse_unknown, section};
pub(crate) use layer::{Layer, Part, Values, shared};
pub(crate) use parts::matrix;
pub(crate) use take::{Origin, Place, take};
