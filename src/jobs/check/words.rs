//! Tokens described for findings.

use crate::text::stop_tokens::describe;
use crate::text::tokenizer::Tokenizer;

/// Describes `ids`, separated by commas.
pub(crate) fn describe_all(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    ids.iter().map(|&id| describe(tokenizer, id)).collect::<Vec<_>>().join(", ")
}
