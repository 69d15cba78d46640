//! Words before the bars of a job's steps. Estimates and bars name a step alike, so that a bar corrects the estimate.

/// Scores of all layers.
pub(crate) const SENSITIVITIES: &str = "measuring sensitivities";
/// Whole layers and whole models, beside the predictions for them.
pub(crate) const WHOLE_MODELS: &str = "measuring whole models";
/// Inputs of layers, and codes that need them all.
pub(crate) const ROUNDING: &str = "rounding";
/// Codes of the other techniques, and the result's files.
pub(crate) const QUANTIZING: &str = "quantizing";
/// Every layer at the candidates beside the one in force.
pub(crate) const NEIGHBOURS: &str = "rounding neighbours";
/// Effects of moving a layer to one of them.
pub(crate) const SWAPS: &str = "measuring swaps";
/// Float model on the texts of a distillation.
pub(crate) const FLOAT_MODEL: &str = "running the float model";
/// Steps of a distillation.
pub(crate) const DISTILLING: &str = "distilling";
/// Blocks of the model that is evaluated.
pub(crate) const MODEL: &str = "running the model";
/// Blocks of its reference.
pub(crate) const REFERENCE: &str = "running the reference";
/// Logits of both.
pub(crate) const SCORING: &str = "scoring windows";
