//! Cutting a text into windows, each of which begins as the text does.
//!
//! Models with attention sinks put them on BOS: in a window without it their hidden states are others than in use, and what
//! is measured there says little. So BOS is inserted before each part of the text. No token of the text is lost, the
//! first of a part is predicted from BOS alone, and a window has one token of text less than it has positions. (llama.cpp
//! replaces the first token of each part; the part that it scores begins later.)

use crate::error::{Error, Result};
use crate::words::count;

/// Consecutive parts of a text, each with what it lacks to begin as the text does.
pub(super) struct Cut<'t> {
    /// Token ids that every window begins with.
    beginning: &'t [u32],
    /// Number of tokens of a window.
    length: usize,
    /// Parts that fill a window; those without the beginning are shorter by it.
    parts: Vec<&'t [u32]>,
    /// Tokens at the end that do not fill a window.
    pub(super) rest: &'t [u32],
}

impl<'t> Cut<'t> {
    /// Cuts `tokens` into windows of `length` tokens that begin with `beginning`. A part that begins with it already, as
    /// where a document starts, does not get it twice.
    ///
    /// # Errors
    /// When a window of this length has no room for a text.
    pub(super) fn new(tokens: &'t [u32], beginning: &'t [u32], length: usize) -> Result<Self> {
        let length = length.max(1);
        if length <= beginning.len() {
            let before = count(beginning.len(), "token");
            return Err(Error::usage(format!(
                "windows of {}: this tokenizer puts {before} before each",
                count(length, "token")
            ))
            .hint(format!("ask for windows of at least {}", count(beginning.len() + 1, "token"))));
        }
        let mut cut = Self { beginning, length, parts: Vec::new(), rest: tokens };
        while let Some((part, rest)) = cut.rest.split_at_checked(cut.next_part()) {
            cut.parts.push(part);
            cut.rest = rest;
        }
        Ok(cut)
    }

    /// Returns the number of tokens of the text that the next window takes.
    fn next_part(&self) -> usize {
        let begins = self.rest.starts_with(self.beginning);
        self.length - if begins { 0 } else { self.beginning.len() }
    }

    /// Returns the number of windows.
    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    /// Returns the window `index`.
    pub(super) fn window(&self, index: usize) -> Vec<u32> {
        begun(self.beginning, self.parts[index])
    }

    /// Returns the windows of these indices.
    pub(super) fn windows(&self, indices: impl IntoIterator<Item = usize>) -> Vec<Vec<u32>> {
        indices.into_iter().map(|index| self.window(index)).collect()
    }
}

/// Returns the number of tokens of a text in which so many windows of `length` tokens fit, each with a `beginning` of so
/// many tokens, of which the text has only its own.
pub(super) fn tokens_for(windows: usize, length: usize, beginning: usize) -> usize {
    windows.saturating_mul(length).saturating_sub(windows.saturating_sub(1) * beginning)
}

/// Returns `part` with `beginning` before it, unless it begins so.
pub(crate) fn begun(beginning: &[u32], part: &[u32]) -> Vec<u32> {
    if part.starts_with(beginning) { part.to_vec() } else { [beginning, part].concat() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn cut(tokens: &[u32], beginning: &[u32], length: usize) -> (Vec<Vec<u32>>, Vec<u32>) {
        let cut = Cut::new(tokens, beginning, length).unwrap();
        (cut.windows(0..cut.len()), cut.rest.to_vec())
    }

    #[test]
    fn every_window_begins_as_the_text() {
        let text = [9, 1, 2, 3, 4, 5, 6, 7];
        assert_eq!(cut(&text, &[9], 4), (vec![vec![9, 1, 2, 3], vec![9, 4, 5, 6]], vec![7]));
        assert_eq!(cut(&text, &[], 4), (vec![vec![9, 1, 2, 3], vec![4, 5, 6, 7]], vec![]));
        assert_eq!(cut(&text, &[9, 1], 4).0, [vec![9, 1, 2, 3], vec![9, 1, 4, 5], vec![9, 1, 6, 7]]);
        assert_eq!(tokens_for(2, 4, 1), 7);
        assert!(Cut::new(&text, &[9], 1).is_err());
    }

    #[test]
    fn a_document_that_starts_a_window_begins_once() {
        let documents = [9, 1, 2, 9, 3, 4, 5, 9, 6];
        assert_eq!(cut(&documents, &[9], 3), (vec![vec![9, 1, 2], vec![9, 3, 4], vec![9, 5, 9]], vec![6]));
    }
}
