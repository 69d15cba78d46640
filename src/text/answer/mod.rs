//! Answers: tokens become text as they come, and the text ends at the conditions that the user sets.
mod answer;
mod boxed;
mod stop;

pub use answer::{Answer, End, Ending};
pub use boxed::last_boxed;
