//! What is right and wrong with a model folder or pack, as a list of findings.
//!
//! Every check is a function over the folder as far as it opens ([`Folder`]); none needs another's result, so that a
//! folder that nothing else in mixbit would take still gets all that can be said about it. What keeps it from being
//! opened is itself a finding. Only [`forward`] uses the engine.
mod check;
mod files;
mod folder;
mod forward;
mod item;
mod magnitudes;
mod matrix;
mod reference;
mod structure;
mod template;
mod tensors;
mod tokens;
mod values;
mod words;

pub use check::{Finding, Level, Progress, check};
