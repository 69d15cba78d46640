//! Checks of a model folder or pack, which give a list of findings.
//!
//! Every check is a function over the folder as far as it opens ([`Folder`]); none needs another's result, so that even
//! a folder that nothing else in mixbit accepts gets a full report. An error that keeps it from being opened is a
//! finding too. Only [`forward`] uses the engine.
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
