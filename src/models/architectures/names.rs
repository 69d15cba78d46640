//! Tensor names of checkpoints, and what mlx-lm calls them.

use std::collections::BTreeMap;

/// Tensor names and shapes of a checkpoint, for configs that say less than the weights.
pub type TensorShapes = BTreeMap<String, Vec<usize>>;
