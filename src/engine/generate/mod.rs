//! Generating text: one session, drafted tokens, one answer.
pub mod generate;
pub mod session;
pub mod speculation;
pub mod texts;
