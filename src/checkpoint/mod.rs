//! Checkpoints on disk: safetensors (one file or shards with an index) and npz, mapped and never copied whole.

mod dtype;
mod folder;
mod header;
mod index;
mod npz;
mod open;
mod source;
mod stack;
mod writer;

pub use dtype::{CastReport, Dtype, cast, extend_f32, push_f32, widen_into};
pub use folder::{OutputFolder, check_destination, check_writable, left_behind};
pub use index::{INDEX, weight_files};
pub use npz::{NpzWriter, write_npz};
pub use open::{Checkpoint, Tensor};
pub use source::{SourceModel, SourceTensor};
pub use writer::{OutputTensor, Produce, Shards, Sink, write_safetensors};
