//! What a model remembers between two prompts of one conversation: caches, and the tokens that are in them.

use mlx_rs::Array;

use super::model::{Caches, Model};
use crate::error::Result;

/// Caches of one sequence and its tokens. A prompt that begins as they do is computed from where it parts from them.
#[derive(Debug)]
pub struct Session {
    caches: Caches,
    tokens: Vec<u32>,
}

impl Session {
    /// Nothing seen yet.
    pub fn new(model: &Model) -> Self {
        Self { caches: model.caches(), tokens: Vec::new() }
    }

    /// Keeps what `prompt` begins with and returns how many tokens that is: at least one is left to be computed. Where a
    /// cache cannot go back, because it holds a window only, nothing is kept.
    pub(super) fn resume(&mut self, model: &Model, prompt: &[u32]) -> Result<usize> {
        let most = prompt.len().saturating_sub(1);
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count().min(most);
        if common == 0 || !self.caches.trim(common)? {
            *self = Self::new(model);
            return Ok(0);
        }
        self.tokens.truncate(common);
        Ok(common)
    }

    /// The logits [1, 1, vocabulary] after `tokens`, which are remembered.
    pub(super) fn feed(&mut self, model: &Model, tokens: &[u32]) -> Result<Array> {
        let logits = model.forward(tokens, Some(&mut self.caches), true)?;
        self.tokens.extend(tokens);
        Ok(logits)
    }

    /// Evaluates what is held, so that the graph behind it can go.
    pub(super) fn settle(&self) -> Result<()> {
        self.caches.settle()
    }
}
