//! pytorch_model.bin: a ZIP with a pickle that says where each tensor lies, and the bytes, which are mapped. The pickle is read by a
//! machine of its own that knows tensors, numbers, texts and containers; nothing in it is ever called.
mod machine;
mod read;
mod strided;
mod value;

pub(crate) use read::{Found, read_entries};
