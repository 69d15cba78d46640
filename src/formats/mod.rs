//! Formats of weight files: safetensors (one file or shards with an index) and npz, mapped and never copied whole.
pub mod checkpoint;
pub mod entry;
pub(crate) mod gather;
pub mod index;
pub mod npy;
pub mod npz;
pub mod safetensors;
pub mod writer;
