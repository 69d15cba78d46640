//! Words before the bars of a job's steps. Estimates and bars name a step alike, so that a bar corrects the estimate.

/// Texts that the model writes itself.
pub(crate) const GENERATING: &str = "generating text";
/// Measurement of all layers' sensitivities.
pub(crate) const SENSITIVITIES: &str = "measuring sensitivities";
/// Measurement of whole layers and whole models, to compare with predictions for them.
pub(crate) const WHOLE_MODELS: &str = "measuring whole models";
/// Run of the model for the inputs of its layers, and rounding that needs them all.
pub(crate) const ROUNDING: &str = "rounding";
/// Rounding that needs no inputs, and writing of the result's files.
pub(crate) const QUANTIZING: &str = "quantizing";
/// Rounding of every layer at the candidates beside its own.
pub(crate) const NEIGHBOURS: &str = "rounding neighbours";
/// Measurement of swaps: layers that move to a neighbouring candidate.
pub(crate) const SWAPS: &str = "measuring swaps";
/// Run of the float model on the texts of a distillation.
pub(crate) const FLOAT_MODEL: &str = "running the float model";
/// Steps of blocks that learn one after another.
pub(crate) const LEARNING_BLOCKS: &str = "learning block by block";
/// Steps of a distillation.
pub(crate) const DISTILLING: &str = "distilling";
/// Run of the blocks of the model that is evaluated.
pub(crate) const MODEL: &str = "running the model";
/// Run of the blocks of the reference model.
pub(crate) const REFERENCE: &str = "running the reference";
/// Comparison of the logits of model and reference.
pub(crate) const SCORING: &str = "scoring windows";
