//! Formats of weight files: safetensors (one file or shards with an index), npz, PyTorch's files and GGUF,
//! mapped and never copied whole.
pub(crate) mod backing;
pub mod checkpoint;
mod columns;
pub mod entry;
pub mod forms;
pub(crate) mod gather;
pub(crate) mod gguf;
pub mod index;
pub mod npy;
pub mod npz;
pub(crate) mod pytorch;
pub mod safetensors;
pub(crate) mod stored;
pub mod writer;
