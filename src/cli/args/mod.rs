//! Command-line arguments: clap structs, no logic.
mod cache;
mod command;
mod look;
mod make;
mod measure;
mod share;
mod talk;
mod template;
mod tune;

pub use cache::{Cache, Draft, KvDtype};
pub use command::{Cli, Command, FloatDtype, Format, Output};
pub use look::{Check, Eval, Inspect, Models, Report};
pub use make::{Convert, Dequantize, Quantize, Recipes, RecipesCommand, Size};
pub use measure::{Analyze, Calibration, CalibrationText, Curve, Rounding};
pub use share::{Hub, Pack, Unpack, Upload};
pub use talk::{Answering, Chat, Ending, Logits, Prompt, Run, Sampling, Show};
pub use template::{Asking, Template};
pub use tune::Tuning;
