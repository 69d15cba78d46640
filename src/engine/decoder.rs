//! Where the next token's logits come from: the model, token by token, or with a draft model that guesses ahead
//! (speculative decoding).
//!
//! The draft model's likeliest tokens go through the model together, and each of the logits is handed out only when the
//! sampler has chosen the tokens before it. So whatever the sampler does, with or without temperature, the tokens are those
//! that it would have chosen without a draft, from the same random numbers (to rounding: products with several rows add
//! up in another order). Accepting drafts by comparing probabilities (arXiv 2211.17192) keeps the distribution only, takes
//! a few more of them where the temperature is high, and would have to know the sampler's every mask and penalty.

use std::collections::VecDeque;

use super::array::to_vec;
use super::caches::{CacheFigures, CacheSettings, Caches};
use super::generate::Settings;
use super::model::Model;
use crate::error::{Error, Result};
use crate::sample::argmax;

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

/// What drafting came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DraftFigures {
    /// Tokens guessed.
    pub drafted: usize,
    /// Of them, those that the model's sampler chose, too.
    pub accepted: usize,
}

/// The logits of one text as it grows.
pub(super) struct Decoder<'a> {
    target: Reader<'a>,
    speculation: Option<Speculation<'a>>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(model: &'a Model, draft: Option<Draft<'a>>, settings: &Settings) -> Self {
        let step = settings.prefill_step;
        let slack = draft.map_or(0, |draft| draft.tokens);
        let reader = |model: &'a Model, cache: CacheSettings| Reader {
            model,
            caches: Caches::new(model.spec(), &cache, slack),
            step,
        };
        Self {
            target: reader(model, settings.cache),
            speculation: draft.map(|draft| Speculation {
                draft: reader(draft.model, draft.cache),
                tokens: draft.tokens,
                behind: Vec::new(),
                drafted: VecDeque::new(),
                rows: VecDeque::new(),
                figures: DraftFigures::default(),
            }),
        }
    }

    /// The logits after the prompt.
    pub(super) fn prompt(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        if let Some(speculation) = &mut self.speculation {
            speculation.behind.extend(tokens);
        }
        self.target.read(tokens)
    }

    /// The logits after one more token; at most `wanted` more rows will be asked for, this one included.
    pub(super) fn next(&mut self, token: u32, wanted: usize) -> Result<Vec<f32>> {
        match &mut self.speculation {
            Some(speculation) => speculation.next(&mut self.target, token, wanted),
            None => self.target.read(&[token]),
        }
    }

    pub(super) fn figures(&self) -> (CacheFigures, Option<DraftFigures>) {
        (self.target.caches.figures(), self.speculation.as_ref().map(|speculation| speculation.figures))
    }
}

/// A model and what it remembers.
struct Reader<'a> {
    model: &'a Model,
    caches: Caches,
    step: usize,
}

impl Reader<'_> {
    /// The logits after the last of `tokens`.
    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut last = None;
        self.model.feed(tokens, &mut self.caches, self.step, true, |logits| {
            last = Some(logits);
            Ok(())
        })?;
        last.as_ref().map_or_else(|| Ok(Vec::new()), to_vec)
    }

    fn room(&mut self) -> Result<usize> {
        self.caches.make_room(self.model.spec())
    }

    /// Takes the latest tokens back.
    fn forget(&mut self, count: usize) -> Result<()> {
        if self.caches.trim(count) {
            Ok(())
        } else {
            Err(Error::engine("drafted tokens cannot be taken back"))
        }
    }
}

struct Speculation<'a> {
    draft: Reader<'a>,
    tokens: usize,
    /// What the draft model has not read yet.
    behind: Vec<u32>,
    /// Guesses that were not judged yet. The model has read them all, the draft model all but the last.
    drafted: VecDeque<u32>,
    /// The model's logits after each of them.
    rows: VecDeque<Vec<f32>>,
    figures: DraftFigures,
}

impl Speculation<'_> {
    fn next(&mut self, target: &mut Reader<'_>, token: u32, wanted: usize) -> Result<Vec<f32>> {
        if self.drafted.front() == Some(&token)
            && let Some(row) = self.rows.pop_front()
        {
            self.drafted.pop_front();
            self.figures.accepted += 1;
            if self.drafted.is_empty() {
                self.behind.push(token);
            }
            return Ok(row);
        }
        if !self.drafted.is_empty() {
            target.forget(self.drafted.len())?;
            self.draft.forget(self.drafted.len() - 1)?;
            self.drafted.clear();
            self.rows.clear();
        }
        self.behind.push(token);
        // The model forgets no sooner than it would without a draft.
        let count = self.tokens.min(target.room()? - 1).min(wanted.saturating_sub(1));
        self.guess(count)?;
        self.judge(target, token)
    }

    /// Lets the draft model guess up to `count` tokens.
    fn guess(&mut self, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let mut logits = self.draft.read(&self.behind)?;
        self.behind.clear();
        // Nothing is forgotten in between, so that guesses can be taken back.
        let count = count.min(self.draft.room()?);
        loop {
            let guess = argmax(&logits);
            self.drafted.push_back(guess);
            if self.drafted.len() == count {
                break;
            }
            logits = self.draft.read(&[guess])?;
        }
        self.figures.drafted += count;
        Ok(())
    }

    /// Reads `token` and the guesses together, and returns the logits after `token`.
    fn judge(&mut self, target: &mut Reader<'_>, token: u32) -> Result<Vec<f32>> {
        let tokens: Vec<u32> = std::iter::once(token).chain(self.drafted.iter().copied()).collect();
        let logits = to_vec(&target.model.forward(&tokens, Some(&mut target.caches), false)?)?;
        self.rows = logits.chunks(target.model.spec().vocab_size).map(<[f32]>::to_vec).collect();
        self.rows.pop_front().ok_or_else(|| Error::engine("the model gave no logits"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::checkpoint::SourceModel;
    use crate::engine::{ContextWindow, Engine, generate, generate_with};
    use crate::sample::{Sampler, Sampling};

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
    }

    fn load(engine: &Engine, path: &str) -> Model {
        Model::load(engine, &SourceModel::open(&fixtures().join(path)).unwrap(), None).unwrap()
    }

    fn settings(context: Option<usize>, max_tokens: usize) -> Settings {
        let context = context.map(|size| ContextWindow::new(size, 3, 10).unwrap());
        let cache = CacheSettings { context, quant: None };
        Settings { cache, ..Settings::new(max_tokens, Vec::new()) }
    }

    /// Random models of one vocabulary, with every kind of layer, with and without forgetting, greedy and not.
    #[test]
    fn the_text_is_that_without_a_draft() {
        let engine = Engine::start().unwrap();
        let names = [
            "llama4-text-nope-mixed",
            "mistral-sliding-window",
            "qwen3-layer-types",
            "llama4-text-untied",
            "llama-rows-172",
        ];
        let models = names.map(|name| load(&engine, &format!("golden/{name}")));
        let mut rng = fastrand::Rng::with_seed(3);
        let (mut accepted, mut rejected) = (0, 0);
        for (index, model) in models.iter().enumerate() {
            for case in 0..4 {
                let vocabulary = model.spec().vocab_size as u32;
                let prompt: Vec<u32> = (0..rng.usize(1..30)).map(|_| rng.u32(0..vocabulary)).collect();
                let settings = settings([None, Some(12), Some(40)][rng.usize(0..3)], 60);
                let helper = &models[(index + case % 2) % models.len()];
                if helper.spec().vocab_size != model.spec().vocab_size {
                    continue;
                }
                let temperature = if case < 2 { 0.0 } else { 0.5 };
                let sampling = Sampling { temperature, top_p: 0.9, top_k: 0, min_p: 0.0 };
                let sampler = || Sampler::new(sampling, 11);
                let alone = generate(model, &prompt, &mut sampler(), &settings, |_| Ok(())).unwrap();
                let draft = Draft { model: helper, tokens: rng.usize(1..6), cache: settings.cache };
                let found = generate_with(model, Some(draft), &prompt, &mut sampler(), &settings, |_| Ok(()))
                    .unwrap();
                assert_eq!(found.tokens, alone.tokens, "{} case {case} {settings:?}", names[index]);
                assert_eq!(found.cache.evicted, alone.cache.evicted);
                let DraftFigures { drafted, accepted: taken } = found.drafting.unwrap();
                accepted += taken;
                rejected += drafted - taken;
                if case == 0 {
                    assert!(
                        taken == drafted && drafted > 0,
                        "a model agrees with itself: {:?}",
                        found.drafting
                    );
                }
            }
        }
        assert!(accepted > 100 && rejected > 100, "{accepted} {rejected}");
    }

    #[test]
    fn a_trained_model_and_its_first_block() {
        let engine = Engine::start().unwrap();
        let source = SourceModel::open(&fixtures().join("models/mobilellm-docs-1m")).unwrap();
        let model = Model::load(&engine, &source, None).unwrap();
        let helper = Model::load(&engine, &source, None).unwrap().one_layer(0);
        let mut rng = fastrand::Rng::with_seed(4);
        for case in 0..6 {
            let prompt: Vec<u32> = (0..40).map(|_| rng.u32(5..1024)).collect();
            let settings = settings((case > 2).then_some(64), 80);
            let greedy = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0 };
            let sampler = || Sampler::new(greedy, 0);
            let alone = generate(&model, &prompt, &mut sampler(), &settings, |_| Ok(())).unwrap();
            let draft = Draft { model: &helper, tokens: 1 + case, cache: settings.cache };
            let found =
                generate_with(&model, Some(draft), &prompt, &mut sampler(), &settings, |_| Ok(())).unwrap();
            assert_eq!(found.tokens, alone.tokens);
        }
    }
}
