//! Conversion of text to tokens and back: tokenizer, templates, corpora, sampling, answers, conversations.
pub mod answer;
pub mod conversation;
pub mod corpus;
pub mod sampling;
pub mod stop_tokens;
pub mod tokenizer;
