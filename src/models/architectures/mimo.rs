//! `MiMo` 7B: Qwen2's decoder. Layers that predict several tokens at once come with it and are left out.

use crate::models::names::{Rename, rename_common};

/// Drops what mlx-lm drops too.
pub fn rename(name: &str) -> Rename {
    if name.starts_with("model.mtp_layers.") { Rename::Drop } else { rename_common(name) }
}
