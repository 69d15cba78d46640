//! State that a model, and the draft model that helps it, keep between two prompts of one conversation: caches, and the
//! tokens that are in them.

use crate::engine::array::to_vec;
use crate::engine::cache::sequence::{CacheFigures, CacheSettings, Caches};
use crate::engine::decoder::model::{LogitsOf, Model};
use crate::error::Result;
use crate::models::spec::Rope;

/// Draft model, which has the vocabulary of the model it helps.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// Draft model.
    pub model: &'a Model,
    /// Tokens that the draft model guesses at a time.
    pub tokens: usize,
    /// Context and precision of the draft model's cache.
    pub cache: CacheSettings,
}

/// Memory of one sequence. A prompt that begins with the same tokens is computed from where it differs.
#[derive(Debug)]
pub struct Session<'a> {
    pub(crate) memory: Memory,
    pub(crate) draft: Option<(Draft<'a>, Memory)>,
}

impl<'a> Session<'a> {
    /// Starts a session. `cache` sets the context and precision of `model`'s cache.
    pub fn new(model: &Model, cache: CacheSettings, draft: Option<Draft<'a>>) -> Self {
        let slack = draft.map_or(0, |draft| draft.tokens);
        Self {
            memory: Memory::new(model, cache, slack),
            draft: draft.map(|draft| (draft, Memory::new(draft.model, draft.cache, slack))),
        }
    }
}

impl Session<'_> {
    /// True if tokens in the middle were evicted, so that the caches cannot go back before them.
    pub fn has_forgotten(&self) -> bool {
        self.memory.figures().evicted > 0
    }

    /// Returns the statistics of the model's cache so far.
    pub fn figures(&self) -> CacheFigures {
        self.memory.figures()
    }
}

/// Caches of one model and the tokens in them, rejected guesses included.
#[derive(Debug)]
pub(crate) struct Memory {
    settings: CacheSettings,
    slack: usize,
    caches: Caches,
    tokens: Vec<u32>,
    /// Number of last tokens that were guessed and not chosen yet.
    guessed: usize,
}

impl Memory {
    fn new(model: &Model, settings: CacheSettings, slack: usize) -> Self {
        Self {
            settings,
            slack,
            caches: Caches::new(model.spec(), &settings, slack),
            tokens: Vec::new(),
            guessed: 0,
        }
    }

    /// Returns the tokens that the model has read.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Keeps the tokens that `prompt` begins with and returns their number; at least one token of the prompt is not
    /// among them. Where a cache cannot go back, because it has a window only or has evicted its middle, or an error came
    /// while it was written, nothing is kept.
    pub(crate) fn resume(&mut self, model: &Model, prompt: &[u32]) -> usize {
        let most = prompt.len().saturating_sub(1);
        // Tokens that a model without a draft would not have read are not kept.
        let chosen = self.tokens.len() - self.guessed;
        let same = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let common = same.min(most).min(chosen);
        if common == 0 || !self.caches.are_whole() || !self.truncate(common) {
            *self = Self::new(model, self.settings, self.slack);
            return 0;
        }
        common
    }

    /// Removes all but the first `length` tokens and returns true; or returns false and changes nothing where that
    /// cannot be done.
    pub(crate) fn truncate(&mut self, length: usize) -> bool {
        let trimmed = self.caches.trim(self.tokens.len().saturating_sub(length));
        if trimmed {
            self.tokens.truncate(length);
            self.guessed = 0;
        }
        trimmed
    }

    /// Marks the first of the guessed tokens as chosen.
    pub(crate) fn confirm(&mut self) {
        self.guessed = self.guessed.saturating_sub(1);
    }

    /// Returns how many more tokens can be read at all: a model that cannot forget a part of a text has learned
    /// positions, or its context.
    pub(crate) fn left(&self, model: &Model) -> usize {
        let spec = model.spec();
        if spec.can_turn_keys() {
            return usize::MAX;
        }
        let positions = spec.embed.positions.iter().map(|positions| positions.count);
        let most = self.settings.context.map(|context| context.size()).into_iter().chain(positions).min();
        most.map_or(usize::MAX, |most| most.saturating_sub(self.tokens.len()))
    }

    /// Returns how many tokens can be read in one pass as if they came one by one, at least one: before something is
    /// evicted, and before RoPE changes with the length of the text.
    pub(crate) fn room(&mut self, model: &Model) -> Result<usize> {
        let room = self.caches.evict_if_full(model.spec())?;
        if self.settings.context.is_some() {
            return Ok(room);
        }
        let steady = model.spec().ropes.iter().filter_map(Rope::steady_positions).min();
        let steady = steady.unwrap_or(usize::MAX);
        Ok(room.min(steady.saturating_sub(self.tokens.len())).max(1))
    }

    /// Reads one token and the guesses that follow it, for which there must be room, and returns the logits after each.
    pub(crate) fn read_each(&mut self, model: &Model, tokens: &[u32]) -> Result<Vec<f32>> {
        crate::interrupt::check()?;
        let logits = model.forward(tokens, Some(&mut self.caches), LogitsOf::EveryToken)?;
        self.tokens.extend(tokens);
        self.guessed = tokens.len().saturating_sub(1);
        to_vec(&logits)
    }

    /// Reads `tokens`, at most `step` at a time, and returns the logits after the last.
    pub(crate) fn read(&mut self, model: &Model, tokens: &[u32], step: usize) -> Result<Vec<f32>> {
        let before = self.caches.seen();
        // And the one that is generated next.
        self.caches.announce(tokens.len() + 1);
        let mut logits = None;
        let result = model.feed(tokens, &mut self.caches, step, LogitsOf::LastToken, |part| {
            logits = Some(part);
            Ok(())
        });
        // An interruption leaves some of them read.
        self.tokens.extend(tokens.iter().take(self.caches.seen() - before));
        result?;
        logits.as_ref().map_or_else(|| Ok(Vec::new()), to_vec)
    }

    pub(crate) fn figures(&self) -> CacheFigures {
        self.caches.figures()
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::engine::cache::sequence::{ContextWindow, KvStorage};
    use crate::engine::runtime::Engine;
    use crate::models::source::SourceModel;
    use crate::numerics::dtype::Dtype;
    use crate::numerics::quant::Quant;

    fn models() -> Vec<PathBuf> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let mut folders = vec![fixtures.join("models/mobilellm-docs-1m")];
        for folder in ["golden", "golden/quantized-by-mlx-lm"] {
            let entries = std::fs::read_dir(fixtures.join(folder)).unwrap();
            let paths = entries.map(|entry| entry.unwrap().path());
            folders.extend(paths.filter(|path| path.join("config.json").is_file()));
        }
        // Learned positions cannot be evicted.
        folders.retain(|path| SourceModel::open_headers(path).unwrap().spec().embed.positions.is_none());
        assert!(folders.len() > 20, "{folders:?}");
        folders
    }

    /// Logits after each token of `text`, read after `prompt` one by one, as without a draft.
    fn alone(model: &Model, settings: CacheSettings, prompt: &[u32], text: &[u32]) -> Vec<Vec<f32>> {
        let mut memory = Memory::new(model, settings, 0);
        memory.read(model, prompt, 7).unwrap();
        text.iter().map(|&token| memory.read(model, &[token], 7).unwrap()).collect()
    }

    /// Logits after each token of `text`, read after `prompt` several at a time, with guesses that are removed again.
    fn guessed(model: &Model, settings: CacheSettings, prompt: &[u32], text: &[u32]) -> Vec<Vec<f32>> {
        let mut rng = fastrand::Rng::with_seed(8);
        let vocabulary = model.spec().vocab_size;
        let mut memory = Memory::new(model, settings, 12);
        memory.read(model, prompt, 7).unwrap();
        let mut rows = Vec::new();
        while rows.len() < text.len() {
            let room = memory.room(model).unwrap();
            let right = rng.usize(1..12).min(room).min(text.len() - rows.len());
            let wrong = rng.usize(0..13 - right).min(room - right);
            let mut tokens = text[rows.len()..][..right].to_vec();
            tokens.extend((0..wrong).map(|_| rng.u32(0..vocabulary as u32)));
            let logits = memory.read_each(model, &tokens).unwrap();
            rows.extend(logits.chunks(vocabulary).take(right).map(<[f32]>::to_vec));
            assert!(memory.truncate(memory.tokens().len() - wrong));
        }
        rows
    }

    /// Largest difference of two texts' logits, relative to the largest of them.
    fn difference(logits: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
        assert_eq!(logits.len(), expected.len());
        let (mut difference, mut largest) = (0.0f32, 0.0f32);
        for (logit, expected) in logits.iter().flatten().zip(expected.iter().flatten()) {
            assert!(logit.is_finite() && expected.is_finite());
            difference = difference.max((logit - expected).abs());
            largest = largest.max(expected.abs());
        }
        difference / largest
    }

    #[test]
    fn tokens_read_in_one_pass_give_the_same_logits() {
        let engine = Engine::start().unwrap();
        let mut compared = 0;
        for folder in models() {
            // What is tried on a model does not depend on which others there are.
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let seed =
                name.bytes().fold(10_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
            let mut rng = fastrand::Rng::with_seed(seed);
            let half = seed.is_multiple_of(5).then_some(Some(Dtype::F16));
            for dtype in std::iter::once(None).chain(half) {
                let model = Model::load(&engine, &SourceModel::open(&folder).unwrap(), dtype).unwrap();
                let fits = model.spec().attentions().all(|attention| attention.holds_groups_of(32));
                let quant = fits.then(|| Quant::affine(8, 32));
                let window = |size| Some(ContextWindow::new(size, 3, 10).unwrap());
                let (plain, half) = (KvStorage::AsComputed, KvStorage::Float(Dtype::F16));
                let quantized = quant.map_or(plain, KvStorage::Quantized);
                for (context, storage) in
                    [(None, plain), (window(20), plain), (window(40), quantized), (window(40), half)]
                {
                    if context.is_some() && !model.spec().can_turn_keys() {
                        continue;
                    }
                    // Where a key gets another code, a near tie of experts falls the other way, in 16 bits often.
                    if dtype.is_some() && storage != plain && model.spec().experts().is_some() {
                        continue;
                    }
                    let settings = CacheSettings { context, storage };
                    let text: Vec<u32> =
                        (0..75).map(|_| rng.u32(0..model.spec().vocab_size as u32)).collect();
                    // Sometimes the last token of the prompt comes alone.
                    let (prompt, text) = text.split_at([15, 19, 30][rng.usize(0..3)]);
                    let expected = alone(&model, settings, prompt, text);
                    let logits = guessed(&model, settings, prompt, text);
                    // A key near the border of two codes, or of two halves, may get the other.
                    let most = if dtype.is_some() || storage != plain { 2e-2 } else { 1e-4 };
                    let difference = difference(&logits, &expected);
                    assert!(difference < most, "{} {dtype:?} {settings:?}: {difference}", folder.display());
                    compared += logits.len();
                }
            }
        }
        assert!(compared > 3000, "{compared}");
    }
}
