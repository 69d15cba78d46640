//! weights.npz: stored (uncompressed) ZIP of .npy members, as `mx.savez` and `numpy.savez` write it.
//!
//! bfloat16, which numpy lacks, is `<V2`, as MLX has it.
mod read;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use read::{Checksum, npy_header, read_entries};
pub use write::{NpzWriter, write_npz};
