//! The source of the next token's logits: the model, token by token, or with a draft model that guesses ahead
//! (speculative decoding).
//!
//! The draft model's likeliest tokens go through the model in one pass, and each of the logits is returned only when
//! the sampler has chosen the tokens before it. So whatever the sampler does, with or without temperature, it chooses
//! the tokens that it would have chosen without a draft, from the same random numbers, up to rounding: products of
//! several rows add up in another order than those of one. Accepting drafts by comparing probabilities (arXiv
//! 2211.17192) keeps the distribution only, accepts a few more where the temperature is high, and would have to know
//! the sampler's every mask and penalty.

use std::collections::VecDeque;

use super::session::{Memory, Session};
use crate::engine::cache::sequence::CacheFigures;
use crate::engine::decoder::model::Model;
use crate::error::{Error, Result};
use crate::text::sampling::argmax;

/// Statistics of drafting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DraftFigures {
    /// Guessed tokens.
    pub drafted: usize,
    /// Guessed tokens that the model's sampler also chose.
    pub accepted: usize,
}

/// Source of the logits of one growing text.
pub(crate) struct Decoder<'a> {
    target: Reader<'a>,
    speculation: Option<Speculation<'a>>,
}

impl<'a> Decoder<'a> {
    /// Makes a decoder that reads into the `session`, prompts `step` tokens at a time.
    pub(crate) fn new(model: &'a Model, session: &'a mut Session<'_>, step: usize) -> Self {
        let speculation = session.draft.as_mut().map(|(draft, memory)| Speculation {
            draft: Reader { model: draft.model, memory, step },
            tokens: draft.tokens,
            drafted: VecDeque::new(),
            rows: VecDeque::new(),
            figures: DraftFigures::default(),
        });
        Self { target: Reader { model, memory: &mut session.memory, step }, speculation }
    }

    /// Reads a prompt. Returns how many of its tokens were in the session, and the logits after it.
    pub(crate) fn prompt(&mut self, tokens: &[u32]) -> Result<(usize, Vec<f32>)> {
        if let Some(Speculation { draft, .. }) = &mut self.speculation {
            draft.memory.resume(draft.model, tokens);
        }
        let reused = self.target.memory.resume(self.target.model, tokens);
        let logits = self.target.read(tokens.get(reused..).unwrap_or_default())?;
        Ok((reused, logits))
    }

    /// Returns the logits after one more token; at most `wanted` more rows will be asked for, this one included.
    pub(crate) fn next(&mut self, token: u32, wanted: usize) -> Result<Vec<f32>> {
        match &mut self.speculation {
            Some(speculation) => speculation.next(&mut self.target, token, wanted),
            None => self.target.read(&[token]),
        }
    }

    pub(crate) fn figures(&self) -> (CacheFigures, Option<DraftFigures>) {
        (self.target.memory.figures(), self.speculation.as_ref().map(|speculation| speculation.figures))
    }
}

/// Model with its caches.
struct Reader<'a> {
    model: &'a Model,
    memory: &'a mut Memory,
    step: usize,
}

impl Reader<'_> {
    /// Reads `tokens` and returns the logits after the last.
    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.memory.read(self.model, tokens, self.step)
    }

    /// Reads `tokens`, for which there must be room, and returns the logits after each.
    fn read_each(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.memory.read_each(self.model, tokens)
    }

    fn room(&mut self) -> Result<usize> {
        self.memory.room(self.model)
    }

    /// Removes all but the first `length` tokens.
    fn truncate(&mut self, length: usize) -> Result<()> {
        if self.memory.truncate(length) {
            Ok(())
        } else {
            Err(Error::engine("drafted tokens cannot be taken back"))
        }
    }
}

struct Speculation<'a> {
    /// Draft model, which has read the text, or the beginning of it.
    draft: Reader<'a>,
    tokens: usize,
    /// Guesses that were not checked yet. The model has read them all, the draft model all but the last.
    drafted: VecDeque<u32>,
    /// Logits of the model after each of these guesses.
    rows: VecDeque<Vec<f32>>,
    figures: DraftFigures,
}

impl Speculation<'_> {
    fn next(&mut self, target: &mut Reader<'_>, token: u32, wanted: usize) -> Result<Vec<f32>> {
        if self.drafted.front() == Some(&token)
            && let Some(row) = self.rows.pop_front()
        {
            self.drafted.pop_front();
            target.memory.confirm();
            self.figures.accepted += 1;
            return Ok(row);
        }
        if !self.drafted.is_empty() {
            let text = target.memory.tokens().len() - self.drafted.len();
            target.truncate(text)?;
            self.draft.truncate(text)?;
            self.drafted.clear();
            self.rows.clear();
        }
        // The model evicts no sooner than it would without a draft.
        let count = self.tokens.min(target.room()? - 1).min(wanted.saturating_sub(1));
        self.guess(target.memory.tokens(), token, count)?;
        self.judge(target, token)
    }

    /// Lets the draft model guess up to `count` tokens after `text` and `token`. One that cannot forget a part of a text
    /// guesses nothing once its context is full.
    fn guess(&mut self, text: &[u32], token: u32, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let unread = text.get(self.draft.memory.tokens().len()..).unwrap_or_default();
        let left = self.draft.memory.left(self.draft.model);
        if unread.len() >= left {
            return Ok(());
        }
        let mut logits = self.draft.read(&[unread, &[token]].concat())?;
        // Nothing is evicted in between, so that guesses can be removed again. The last is not read.
        let most = left - unread.len();
        let count = if most == 1 { 1 } else { count.min(most).min(self.draft.room()?) };
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
        let logits = target.read_each(&tokens)?;
        self.rows = logits.chunks(target.model.spec().vocab_size).map(<[f32]>::to_vec).collect();
        self.rows.pop_front().ok_or_else(|| Error::engine("the model gave no logits"))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::{Path, PathBuf};

    use super::super::generate::{Generation, Settings, generate};
    use super::super::session::Draft;
    use super::*;
    use crate::engine::cache::sequence::{CacheSettings, ContextWindow, KvStorage};
    use crate::engine::runtime::Engine;
    use crate::models::source::SourceModel;
    use crate::text::sampling::{Sampler, Sampling};

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
    }

    fn load(engine: &Engine, path: &str) -> Model {
        Model::load(engine, &SourceModel::open(&fixtures().join(path)).unwrap(), None).unwrap()
    }

    fn cache(context: Option<usize>) -> CacheSettings {
        let context = context.map(|size| ContextWindow::new(size, 3, 10).unwrap());
        CacheSettings { context, storage: KvStorage::AsComputed }
    }

    /// Answers `prompt` with up to `max_tokens`.
    fn answer(
        model: &Model,
        session: &mut Session<'_>,
        prompt: &[u32],
        sampling: &Sampling,
        max_tokens: usize,
    ) -> Generation {
        let mut sampler = Sampler::new(sampling.clone(), 11);
        let settings = Settings::new(max_tokens, Vec::new());
        generate(model, session, prompt, &mut sampler, &settings, |_| Ok(ControlFlow::Continue(()))).unwrap()
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
                let cache = cache([None, Some(12), Some(40)][rng.usize(0..3)]);
                let helper = &models[(index + case % 2) % models.len()];
                if helper.spec().vocab_size != model.spec().vocab_size {
                    continue;
                }
                let temperature = if case < 2 { 0.0 } else { 0.5 };
                let sampling = Sampling { temperature, top_p: 0.9, ..Sampling::default() };
                let alone = answer(model, &mut Session::new(model, cache, None), &prompt, &sampling, 60);
                let draft = Draft { model: helper, tokens: rng.usize(1..6), cache };
                let mut session = Session::new(model, cache, Some(draft));
                let drafted_answer = answer(model, &mut session, &prompt, &sampling, 60);
                assert_eq!(drafted_answer.tokens, alone.tokens, "{} case {case} {cache:?}", names[index]);
                assert_eq!(drafted_answer.cache.evicted, alone.cache.evicted);
                let DraftFigures { drafted, accepted: taken } = drafted_answer.drafting.unwrap();
                accepted += taken;
                rejected += drafted - taken;
                if case == 0 {
                    assert!(
                        taken == drafted && drafted > 0,
                        "a model agrees with itself: {:?}",
                        drafted_answer.drafting
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
            let cache = cache((case > 2).then_some(64));
            let greedy = Sampling::default();
            let alone = answer(&model, &mut Session::new(&model, cache, None), &prompt, &greedy, 80);
            let draft = Draft { model: &helper, tokens: 1 + case, cache };
            let mut session = Session::new(&model, cache, Some(draft));
            let drafted_answer = answer(&model, &mut session, &prompt, &greedy, 80);
            assert_eq!(drafted_answer.tokens, alone.tokens);
        }
    }

    #[test]
    fn a_draft_that_cannot_forget_stops_guessing() {
        let engine = Engine::start().unwrap();
        let names = ["llama-rows-172", "hunyuan-v1-dense-tied", "gpt2-one-layer"];
        let [model, weighed, learned] = names.map(|name| load(&engine, &format!("golden/{name}")));
        assert!(model.spec().can_turn_keys() && !weighed.spec().can_turn_keys());
        let mut rng = fastrand::Rng::with_seed(5);
        let greedy = Sampling::default();
        for (helper, context) in [(&weighed, Some(16)), (&weighed, Some(12)), (&learned, None)] {
            for length in [3, 11, 15, 40] {
                let prompt: Vec<u32> = (0..length).map(|_| rng.u32(0..64)).collect();
                let new = |draft| Session::new(&model, cache(None), draft);
                let alone = answer(&model, &mut new(None), &prompt, &greedy, 120);
                let draft = Draft { model: helper, tokens: 3, cache: cache(context) };
                let drafted_answer = answer(&model, &mut new(Some(draft)), &prompt, &greedy, 120);
                let case = format!("{context:?} after {length}");
                assert_eq!(drafted_answer.tokens, alone.tokens, "{case}");
                let has_room = context.is_none_or(|context| length < context);
                assert_eq!(drafted_answer.drafting.unwrap().drafted > 0, has_room, "{case}");
            }
        }
    }

    /// Compares turns of one session, in which the text once exceeds the context and sometimes departs from what was
    /// read, with a new session for each turn.
    #[test]
    fn a_session_with_a_draft_changes_nothing() {
        let engine = Engine::start().unwrap();
        let source = SourceModel::open(&fixtures().join("models/mobilellm-docs-1m")).unwrap();
        let trained = Model::load(&engine, &source, None).unwrap();
        let block = Model::load(&engine, &source, None).unwrap().one_layer(0);
        let window = load(&engine, "golden/mistral-sliding-window");
        let chunks = load(&engine, "golden/llama4-text-nope-mixed");
        let mut rng = fastrand::Rng::with_seed(6);
        let (mut reused, mut again, mut forgotten) = (0, 0, 0);
        for (model, helper) in
            [(&trained, &block), (&window, &chunks), (&chunks, &window), (&trained, &trained)]
        {
            for context in [None, Some(48)] {
                let cache = cache(context);
                let draft = Draft { model: helper, tokens: 4, cache };
                let mut session = Session::new(model, cache, Some(draft));
                let mut text: Vec<u32> = Vec::new();
                for turn in 0..8 {
                    if turn % 3 == 2 {
                        text.truncate(text.len() - rng.usize(1..9));
                    }
                    let limit = model.spec().vocab_size as u32;
                    text.extend((0..rng.usize(1..9)).map(|_| rng.u32(0..limit)));
                    let sampling = Sampling { temperature: 0.3 * (turn % 2) as f32, ..Sampling::default() };
                    let drafted_answer = answer(model, &mut session, &text, &sampling, 13);
                    let fresh = answer(model, &mut Session::new(model, cache, None), &text, &sampling, 13);
                    assert_eq!(drafted_answer.tokens, fresh.tokens, "turn {turn} {cache:?}");
                    assert_eq!(drafted_answer.cache.evicted, fresh.cache.evicted, "turn {turn} {cache:?}");
                    reused += drafted_answer.reused;
                    again += usize::from(turn > 0 && drafted_answer.reused == 0);
                    forgotten += usize::from(drafted_answer.reused > 0 && drafted_answer.cache.evicted > 0);
                    text.extend(&drafted_answer.tokens);
                }
            }
        }
        assert!(reused > 1000 && again > 0 && forgotten > 10, "{reused} {again} {forgotten}");
    }
}
