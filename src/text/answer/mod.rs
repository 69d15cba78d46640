//! From tokens to the text that is shown: detokenized as they come, and ended where the user wants it to end.
mod answer;
mod boxed;
mod stop;

pub use answer::{Answer, End, Ending};
pub use boxed::last_boxed;
