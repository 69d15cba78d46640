//! Writing a model folder: output tensors, a few megabytes at a time, and the other files of a model.
mod apart;
pub mod companions;
mod damage;
mod output;
mod producers;
mod spool;
mod wrapped;

pub use companions::Parts;
pub use damage::{Warnings, check_values, unroundable};
pub use output::{Output, TowerFate, Written};
pub use producers::{CastTensor, Codes, Container, CopyTensor, DequantizeTensor, QuantizeTensor, write};
pub use spool::{Spool, Spooled};
pub(crate) use spool::{parts, ranges};
pub(crate) use wrapped::{tower_producers, with_wrapper};
