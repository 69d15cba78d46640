//! Texts to calibrate and to evaluate on, as windows of tokens.
//!
//! A text is a file in one of three forms:
//! - plain UTF-8, documents separated by a line that is exactly `<|endoftext|>`;
//! - JSONL ([`jsonl`]): one object per line, with `text` or a conversation ([`conversations`]);
//! - token ids ([`token_ids`]): an integer array in an .npy or .npz.
//!
//! Each document is tokenized on its own with the tokenizer's own BOS rule; the tokens of all are concatenated and cut
//! into windows of one length ([`windows`]), spread over the text for calibration, from its start for evaluation. Where
//! documents begin with BOS, so does every window ([`cut`]).
mod conversations;
mod cut;
mod jsonl;
mod plain;
mod text;
mod token_ids;
mod windows;

pub(crate) use cut::begun;
pub use plain::{DOCUMENT_SEPARATOR, documents};
pub use text::{LONGEST_SEQUENCE, Text};
pub use token_ids::holds_token_ids;
pub use windows::{HELD_OUT_EVERY, Split, Windows};
pub(crate) use windows::{needs, windows_to_split};
