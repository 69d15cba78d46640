//! Text to token ids and back, and the chat template: everything a model folder says about its tokenizer.
//!
//! Ids are those of transformers' `AutoTokenizer` on the same folder, without mistral-common and without code from the
//! folder (checked against transformers 5.23 by `cargo xtask parity`): which class it chooses, the order in which
//! tokens of the side files get ids, and their flags. Truncation and padding stored in `tokenizer.json` are switched
//! off. With a `tokenizer.json` its post-processor is the rule for BOS and EOS, and `add_bos_token` in
//! `tokenizer_config.json` changes nothing. The deliberate differences: BOS is never doubled (see
//! [`Tokenizer::encode`]), and where transformers runs Python code over files of its own, `tokenizer.json` decides and a
//! note says so.
//!
//! The tokens that end a generation are the business of config.json and `generation_config.json` too, and not of this
//! module.
mod beginning;
mod chat;
mod class;
mod files;
mod guard;
pub mod jinja;
mod json_value;
mod load;
mod message;
mod mistral;
mod settings;
mod special;
mod stream;
mod tekken;
mod template_entries;
mod template_settings;
mod templates;
#[cfg(test)]
mod testing;
mod token;
mod tokenizer;

pub use crate::files::names::is_tokenizer_file;
pub use files::files;
pub use message::{Message, NoMessage, kind};
pub use stream::Stream;
pub use template_settings::TemplateSettings;
pub use templates::ChosenTemplate;
pub use tokenizer::{Tokenizer, render_without_tokenizer};
