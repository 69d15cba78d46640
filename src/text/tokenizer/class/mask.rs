//! Flags of a class's mask token.

use super::super::token::{Token, TokenValue};
use super::parts::Mask;

impl Mask {
    /// Returns the mask token with the class's flags, where it is a text.
    pub(crate) fn with_flags(self, token: TokenValue) -> TokenValue {
        match (self, token) {
            (Self::Strips, TokenValue::Text(text)) => TokenValue::Token(Token::mask(&text, None)),
            (Self::StripsNormalized, TokenValue::Text(text)) => {
                TokenValue::Token(Token::mask(&text, Some(true)))
            }
            (_, token) => token,
        }
    }
}
