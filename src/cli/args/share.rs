//! Arguments of packs and the Hub.

use clap::Args;
use std::path::PathBuf;

use super::command::GENERAL;

/// Checks of a pack, for the help text.
const PACK_CHECKS: &str = "\
A pack records the SHA-256 of every file. `check`, `unpack`, `convert`, `quantize`,
`dequantize` and `upload` compare them all. `run`, `chat`, `eval` and the others map the
weights where they lie and compare sizes, and the checksums of small files only: hashing
would read all of the weights before the first token.";

/// `mixbit pack`.
#[derive(Debug, Args)]
#[command(after_help = PACK_CHECKS)]
pub struct Pack {
    /// Model folder, or name on the Hub; it must be complete
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: Hub,
    /// File to write: a ZIP without compression, which every command takes as a model
    #[arg(long, value_name = "FILE.mlxpack")]
    pub out: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub overwrite: bool,
}

/// `mixbit unpack`.
#[derive(Debug, Args)]
pub struct Unpack {
    /// File that `mixbit pack` wrote; files that differ from its checksums are refused
    #[arg(value_name = "FILE.mlxpack")]
    pub pack: PathBuf,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Take out this file only, into a folder that may exist; may be repeated
    #[arg(long, value_name = "NAME")]
    pub file: Vec<String>,
    /// Replace the output folder, or with --file the file, if it exists
    #[arg(long)]
    pub overwrite: bool,
}

/// `mixbit upload`.
#[derive(Debug, Args)]
pub struct Upload {
    /// Model folder, pack, or name on the Hub, with its revision after an @; it must be complete
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Name for the model on the Hub
    #[arg(value_name = "ORGANISATION/NAME")]
    pub name: String,
    /// If the model is new on the Hub: only you can see it
    #[arg(long)]
    pub private: bool,
    /// Branch to put it on; created if it does not exist [default: main]
    #[arg(long, value_name = "BRANCH")]
    pub revision: Option<String>,
}

/// Revision of a model that may be a name on the Hub.
#[derive(Debug, Args)]
pub struct Hub {
    /// Branch, tag or commit of a model on the Hub, whose name may choose a GGUF: org/name:Q4_K_M or
    /// org/name/file.gguf [default: main]
    #[arg(long, value_name = "REVISION", help_heading = GENERAL)]
    pub revision: Option<String>,
}
