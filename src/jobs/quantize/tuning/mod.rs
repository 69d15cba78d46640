//! Fine-tuning of a quantized model: scales, biases, codes and norms. No engine here: gradients come from outside.
//!
//! [`Adam`] moves values, [`TuningRun`] takes steps, says when to look, what was best and when to stop, and keeps all of it in a
//! journal, so that an interrupted run can be resumed.
mod adam;
mod descend;
mod progress;
mod values;

pub use adam::{Adam, Coordinate};
pub use descend::{Loss, Watch};
pub use progress::{LOOK_EVERY, Settings, TuningRun};
pub use values::{Forms, State, Stored, TunedTensor, TunedValues};
