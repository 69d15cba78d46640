//! What a model, and the draft model that helps it, remember between two prompts of one conversation: caches, and the
//! tokens that are in them.

use super::array::to_vec;
use super::caches::{CacheFigures, CacheSettings, Caches};
use super::model::Model;
use crate::error::Result;

/// A draft model, which has the vocabulary of the model it helps.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// The model.
    pub model: &'a Model,
    /// Tokens that it guesses at a time.
    pub tokens: usize,
    /// What it remembers.
    pub cache: CacheSettings,
}

/// What is remembered of one sequence. A prompt that begins as it does is computed from where it parts from it.
#[derive(Debug)]
pub struct Session<'a> {
    pub(super) memory: Memory,
    pub(super) draft: Option<(Draft<'a>, Memory)>,
}

impl<'a> Session<'a> {
    /// Nothing seen yet. `cache` says what `model` remembers.
    pub fn new(model: &Model, cache: CacheSettings, draft: Option<Draft<'a>>) -> Self {
        let slack = draft.map_or(0, |draft| draft.tokens);
        Self {
            memory: Memory::new(model, cache, slack),
            draft: draft.map(|draft| (draft, Memory::new(draft.model, draft.cache, slack))),
        }
    }
}

/// The caches of one model and their tokens, guesses that came to nothing included.
#[derive(Debug)]
pub(super) struct Memory {
    settings: CacheSettings,
    slack: usize,
    caches: Caches,
    tokens: Vec<u32>,
}

impl Memory {
    fn new(model: &Model, settings: CacheSettings, slack: usize) -> Self {
        Self { settings, slack, caches: Caches::new(model.spec(), &settings, slack), tokens: Vec::new() }
    }

    /// The tokens that the model has read.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Keeps what `prompt` begins with and returns how many tokens that is: at least one is left to be computed. Where a
    /// cache cannot go back, because it holds a window only or has forgotten its middle, nothing is kept.
    pub(super) fn resume(&mut self, model: &Model, prompt: &[u32]) -> usize {
        let most = prompt.len().saturating_sub(1);
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count().min(most);
        if common == 0 || !self.keep(common) {
            *self = Self::new(model, self.settings, self.slack);
            return 0;
        }
        common
    }

    /// Takes back all but the first `length` tokens, or says that this cannot be done and leaves all as it is.
    pub(super) fn keep(&mut self, length: usize) -> bool {
        let can = self.caches.trim(self.tokens.len().saturating_sub(length));
        if can {
            self.tokens.truncate(length);
        }
        can
    }

    /// How many tokens can come next before something is forgotten, one at least.
    pub(super) fn room(&mut self, model: &Model) -> Result<usize> {
        self.caches.make_room(model.spec())
    }

    /// Reads `tokens`, at most `step` at a time. Returns the logits after the last, or of all that were read with it.
    pub(super) fn read(
        &mut self,
        model: &Model,
        tokens: &[u32],
        step: usize,
        last: bool,
    ) -> Result<Vec<f32>> {
        let before = self.caches.seen();
        let mut logits = None;
        let result = model.feed(tokens, &mut self.caches, step, last, |part| {
            logits = Some(part);
            Ok(())
        });
        // An interruption leaves some of them read.
        self.tokens.extend(tokens.iter().take(self.caches.seen() - before));
        result?;
        logits.as_ref().map_or_else(|| Ok(Vec::new()), to_vec)
    }

    pub(super) fn figures(&self) -> CacheFigures {
        self.caches.figures()
    }
}
