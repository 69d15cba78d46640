//! The caches of one sequence, and eviction when they are full: from the middle, a batch at a time, as in StreamingLLM
//! (arXiv 2309.17453).
//!
//! All layers count positions alike. Layers with full attention, with RoPE or without, store the sinks and the latest
//! tokens. Layers without RoPE have no positions to correct, and their temperature depends on what the cache stores.
//! Windows and attention chunks shorter than the context evict by themselves, as the model was trained to; longer ones
//! are treated as full attention here.

use mlx_rs::transforms::eval;

use super::layer::KvCache;
use crate::engine::positions::{Place, Rotation};
use crate::error::{Error, Result};
use crate::models::spec::DecoderSpec;
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::Quant;

/// Evicted positions after which RoPE counts from the cache's start again: float32 represents the angles of position
/// 32768 to a few thousandths, and those of position a million no better than to a tenth.
const TURN_BACK_POSITIONS: usize = 1 << 15;

/// Context and precision of a sequence's keys and values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheSettings {
    /// Context beyond which tokens are evicted; `None`: nothing is evicted.
    pub context: Option<ContextWindow>,
    /// How keys and values are stored.
    pub storage: KvStorage,
}

/// How a cache stores keys and values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KvStorage {
    /// In the dtype that they were computed in.
    #[default]
    AsComputed,
    /// As floats of this dtype.
    Float(Dtype),
    /// As codes of so many bits.
    Quantized(Quant),
}

/// Limited context: the first tokens and the latest stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextWindow {
    size: usize,
    sinks: usize,
    batch: usize,
}

impl ContextWindow {
    /// Makes a context of `size` tokens whose first `sinks` stay. When it is full, `percent` of it is evicted at a
    /// time, at least one token.
    pub fn new(size: usize, sinks: usize, percent: usize) -> Result<Self> {
        if sinks >= size {
            return Err(Error::usage(format!(
                "{sinks} sink tokens leave nothing of a context of {size} tokens"
            ))
            .hint("give a larger setting `context_size` or a smaller setting `num_sink_tokens`"));
        }
        let batch = (size * percent).div_ceil(100).clamp(1, size - sinks);
        Ok(Self { size, sinks, batch })
    }

    /// Returns the most tokens that the cache stores.
    pub fn size(&self) -> usize {
        self.size
    }
}

/// Statistics of a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Evicted tokens.
    pub evicted: usize,
    /// Most bytes stored at a time.
    pub bytes: usize,
}

/// Caches of all layers for one sequence.
#[derive(Debug)]
pub(crate) struct Caches {
    layers: Vec<KvCache>,
    context: Option<ContextWindow>,
    turn_back: usize,
    /// Tokens read.
    seen: usize,
    /// Tokens in the cache of a layer with full attention.
    held: usize,
    /// Positions by which RoPE is ahead of the cache.
    ahead: usize,
    figures: CacheFigures,
}

impl Caches {
    /// Makes empty caches, of which the latest `slack` positions can always be removed again.
    pub(crate) fn new(spec: &DecoderSpec, settings: &CacheSettings, slack: usize) -> Self {
        let size = settings.context.map(|context| context.size);
        let layer = |layer| KvCache::new(layer, size, settings.storage, slack);
        Self {
            layers: spec.attentions().map(layer).collect(),
            context: settings.context,
            turn_back: TURN_BACK_POSITIONS,
            seen: 0,
            held: 0,
            ahead: 0,
            figures: CacheFigures::default(),
        }
    }

    /// Returns the position of the next token.
    pub(crate) fn place(&self) -> Place {
        Place {
            seen: self.seen,
            held: self.held,
            rotation: self.held + self.ahead,
            context: self.context.map(|context| context.size),
        }
    }

    pub(crate) fn layer(&mut self, index: usize) -> Option<&mut KvCache> {
        self.layers.get_mut(index)
    }

    /// Announces `tokens` that will be read, so that there is room for all of them from the first on.
    pub(crate) fn announce(&mut self, tokens: usize) {
        self.layers.iter_mut().for_each(|layer| layer.announce(tokens));
    }

    /// Counts `tokens` that went through all layers.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.seen += tokens;
        self.held += tokens;
        let bytes = self.layers.iter().flat_map(KvCache::arrays).map(mlx_rs::Array::nbytes).sum();
        self.figures.bytes = self.figures.bytes.max(bytes);
    }

    /// Returns how many tokens can be read next, at least one: a full cache evicts first. Since nothing is evicted
    /// before that, outputs do not depend on how many tokens are read at a time.
    pub(crate) fn evict_if_full(&mut self, spec: &DecoderSpec) -> Result<usize> {
        let Some(context) = self.context else { return Ok(usize::MAX) };
        if self.held >= context.size {
            self.evict(spec, context)?;
        }
        Ok(context.size - self.held)
    }

    /// Evicts a batch of tokens after the sinks of a full `context`. Fails for a model that cannot forget a part of it.
    fn evict(&mut self, spec: &DecoderSpec, context: ContextWindow) -> Result<()> {
        if !spec.can_turn_keys() {
            let size = context.size;
            let message =
                format!("the context of {size} tokens is full, and this model cannot forget a part of it");
            return Err(
                Error::input(message).hint(format!("shorten the text to {size} tokens with its answer"))
            );
        }
        let dropped = context.batch;
        self.ahead += dropped;
        self.held -= dropped;
        self.figures.evicted += dropped;
        let turn = |by: i32| -> Vec<Rotation> {
            spec.ropes.iter().map(|rope| Rotation::new(rope, by, context.size)).collect()
        };
        let forward = turn(self.ahead as i32);
        for layer in &mut self.layers {
            layer.evict(context.sinks, dropped, &forward)?;
        }
        if self.ahead >= self.turn_back {
            let back = turn(-(self.ahead as i32));
            for layer in &mut self.layers {
                layer.turn_back(context.sinks, &back)?;
            }
            self.ahead = 0;
        }
        Ok(())
    }

    /// Returns the number of tokens read.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    /// True if all layers have read the same tokens. After an error on the way through them some have read more, or have
    /// lost what they had.
    pub(crate) fn are_whole(&self) -> bool {
        self.layers.iter().all(|layer| layer.seen() == self.seen)
    }

    /// Removes the latest `count` tokens and returns true; or returns false and changes nothing, where some layer lacks
    /// what would be needed, or where something was evicted that would still be there without them.
    pub(crate) fn trim(&mut self, count: usize) -> bool {
        if count == 0 {
            return true;
        }
        let evicted = self.context.filter(|_| self.figures.evicted > 0);
        let least = evicted.map_or(0, |context| context.size - context.batch);
        if count + least > self.held || !self.layers.iter().all(|layer| layer.can_trim(count)) {
            return false;
        }
        self.layers.iter_mut().for_each(|layer| layer.trim(count));
        self.seen -= count;
        self.held -= count;
        true
    }

    /// Evaluates the stored arrays, so that the graph behind them can be freed.
    pub(crate) fn settle(&self) -> Result<()> {
        Ok(eval(self.layers.iter().flat_map(KvCache::arrays))?)
    }

    pub(crate) fn figures(&self) -> CacheFigures {
        self.figures
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::engine::decoder::model::{LogitsOf, Model};
    use crate::engine::runtime::Engine;
    use crate::models::source::SourceModel;
    use crate::models::spec::{AttentionSpan, AttentionSpec, RopeScaling};

    const CONTEXT: usize = 24;
    const SINKS: usize = 3;

    fn goldens() -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden");
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut folders: Vec<PathBuf> = entries.filter(|p| p.join("golden.safetensors").is_file()).collect();
        // Where keys cannot be turned, nothing is evicted.
        folders.retain(|p| SourceModel::open_headers(p).unwrap().spec().can_turn_keys());
        folders.sort();
        assert!(folders.len() > 15);
        folders
    }

    fn tokens(model: &Model, count: usize) -> Vec<u32> {
        let mut rng = fastrand::Rng::with_seed(5);
        (0..count).map(|_| rng.u32(0..model.spec().vocab_size as u32)).collect()
    }

    fn settings(percent: usize) -> CacheSettings {
        let context = ContextWindow::new(CONTEXT, SINKS, percent).unwrap();
        CacheSettings { context: Some(context), storage: KvStorage::AsComputed }
    }

    fn streamed(model: &Model, tokens: &[u32], settings: &CacheSettings, step: usize) -> Vec<f32> {
        let mut logits = Vec::new();
        let keep = |rows: Vec<f32>| {
            logits.extend(rows);
            Ok(())
        };
        model.stream(tokens, settings, step, keep).unwrap();
        logits
    }

    #[track_caller]
    fn assert_close(what: &str, logits: &[f32], expected: &[f32]) {
        assert_eq!(logits.len(), expected.len(), "{what}");
        let scale = expected.iter().fold(1e-3f32, |most, x| most.max(x.abs()));
        let error = logits.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(error / scale < 2e-4, "{what}: {error} of {scale}");
    }

    /// Tokens in a full cache once `count` tokens were read: the sinks and the latest.
    fn remembered(tokens: &[u32], count: usize, batch: usize) -> Vec<u32> {
        let mut held: Vec<u32> = Vec::new();
        for &token in &tokens[..count] {
            if held.len() == CONTEXT {
                held.drain(SINKS..SINKS + batch);
            }
            held.push(token);
        }
        held
    }

    /// In one layer keys and values depend on their own token only, so that a cache that evicted must give what the
    /// model gives for a text of the remaining tokens.
    #[test]
    fn one_layer_sees_the_remembered_text() {
        let engine = Engine::start().unwrap();
        let mut spans = Vec::new();
        for folder in goldens() {
            let source = SourceModel::open(&folder).unwrap();
            // Set for the context as a whole, where the model alone sets it for each text.
            if source
                .spec()
                .ropes
                .first()
                .is_none_or(|rope| matches!(rope.scaling, RopeScaling::Dynamic { .. }))
            {
                continue;
            }
            for index in 0..source.spec().blocks.len() {
                let model = Model::load(&engine, &source, None).unwrap().one_layer(index);
                let (tokens, vocabulary) = (tokens(&model, 4 * CONTEXT), model.spec().vocab_size);
                let logits = streamed(&model, &tokens, &settings(20), 7);
                let AttentionSpec { span, rope, tempered, .. } = model.spec().blocks[0].attention.part;
                // A window sees the latest tokens of the whole text, at a temperature of what the cache holds.
                if tempered && span != AttentionSpan::Full {
                    continue;
                }
                spans.push((span, rope.is_some()));
                for count in [CONTEXT - 1, CONTEXT, CONTEXT + 1, CONTEXT + 5, CONTEXT + 6, 4 * CONTEXT] {
                    let text = match span {
                        AttentionSpan::Sliding(n) | AttentionSpan::Chunked(n) if n < CONTEXT => {
                            tokens[..count].to_vec()
                        }
                        _ => remembered(&tokens, count, 5),
                    };
                    let expected = model.logits(&text, None).unwrap();
                    let what = format!("{} layer {index} after {count}", folder.display());
                    let row = &logits[(count - 1) * vocabulary..count * vocabulary];
                    assert_close(&what, row, &expected[expected.len() - vocabulary..]);
                }
            }
        }
        for (what, there) in [
            ("full", spans.contains(&(AttentionSpan::Full, true))),
            ("full without RoPE", spans.contains(&(AttentionSpan::Full, false))),
            ("window", spans.iter().any(|s| matches!(s.0, AttentionSpan::Sliding(n) if n < CONTEXT))),
            ("chunk", spans.iter().any(|s| matches!(s.0, AttentionSpan::Chunked(n) if n < CONTEXT))),
            ("long chunk", spans.iter().any(|s| matches!(s.0, AttentionSpan::Chunked(n) if n > CONTEXT))),
        ] {
            assert!(there, "no layer: {what}");
        }
    }

    #[test]
    fn outputs_depend_on_neither_step_nor_turning_back() {
        let engine = Engine::start().unwrap();
        for folder in goldens() {
            let source = SourceModel::open(&folder).unwrap();
            let model = Model::load(&engine, &source, None).unwrap();
            let tokens = tokens(&model, 5 * CONTEXT);
            let all = streamed(&model, &tokens, &settings(10), 1000);
            for (step, percent) in [(1, 10), (7, 10), (40, 10)] {
                let what = format!("{} step {step}", folder.display());
                assert_close(&what, &streamed(&model, &tokens, &settings(percent), step), &all);
            }
            let mut caches = Caches::new(model.spec(), &settings(10), 0);
            caches.turn_back = 7;
            let mut turned = Vec::new();
            let keep = |logits| {
                turned.extend(crate::engine::array::to_vec(&logits)?);
                Ok(())
            };
            model.feed(&tokens, &mut caches, 5, LogitsOf::EveryToken, keep).unwrap();
            assert!(caches.ahead < 7 && caches.figures.evicted > 70);
            assert_close(&format!("{} turned back", folder.display()), &turned, &all);
        }
    }

    fn with_bits(bits: u32, group_size: u32, context: Option<usize>) -> CacheSettings {
        let context = context.map(|size| ContextWindow::new(size, SINKS, 10).unwrap());
        CacheSettings { context, storage: KvStorage::Quantized(Quant::affine(bits, group_size)) }
    }

    fn bundled(engine: &Engine) -> (Model, Vec<u32>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/mobilellm-docs-1m");
        let model = Model::load(engine, &SourceModel::open(&folder).unwrap(), None).unwrap();
        let tokenizer = crate::text::tokenizer::Tokenizer::from_dir(&folder).unwrap();
        let tokens = tokenizer.encode(crate::text::corpus::Text::built_in(), true).unwrap();
        (model, tokens)
    }

    #[test]
    fn quantized_keys_and_values_are_smaller_and_close() {
        let engine = Engine::start().unwrap();
        let (model, tokens) = bundled(&engine);
        let (tokens, vocabulary) = (&tokens[..256], model.spec().vocab_size);
        let float = model.logits(tokens, None).unwrap();
        let kl = |settings: &CacheSettings, step: usize| {
            let logits = streamed(&model, tokens, settings, step);
            let kl = crate::numerics::divergence::kl_divergences(&logits, &float, vocabulary);
            kl.iter().sum::<f64>() / kl.len() as f64
        };
        // One token at a time multiplies codes, many decode them: two ways to one result.
        for (bits, least, most) in [(8, 0.0, 1e-4), (4, 1e-4, 2e-2)] {
            let settings = with_bits(bits, 32, None);
            let (one_by_one, in_steps) = (kl(&settings, 1), kl(&settings, 50));
            assert!((least..most).contains(&one_by_one), "{bits} bits: {one_by_one}");
            let difference = (one_by_one - in_steps).abs();
            assert!(difference < 1e-6 + 0.02 * one_by_one, "{bits} bits: {one_by_one} {in_steps}");
        }
        let bytes = |settings| model.stream(tokens, &settings, 64, |_| Ok(())).unwrap().bytes as f64;
        let whole = bytes(CacheSettings::default());
        // Scales and biases are float32 here: 64 bits for 32 values.
        assert!((bytes(with_bits(8, 32, None)) / whole - 10.0 / 32.0).abs() < 1e-6);
        assert!((bytes(with_bits(4, 32, None)) / whole - 6.0 / 32.0).abs() < 1e-6);
    }

    #[test]
    fn quantized_caches_forget_and_slide_as_float_ones_do() {
        let engine = Engine::start().unwrap();
        let (model, tokens) = bundled(&engine);
        let tokens = &tokens[..600];
        let float = streamed(
            &model,
            tokens,
            &CacheSettings { storage: KvStorage::AsComputed, ..with_bits(8, 32, Some(64)) },
            16,
        );
        let quantized = streamed(&model, tokens, &with_bits(8, 32, Some(64)), 16);
        let kl = crate::numerics::divergence::kl_divergences(&quantized, &float, model.spec().vocab_size);
        // The last as good as the first: nothing piles up.
        let mean = |kl: &[f64]| kl.iter().sum::<f64>() / kl.len() as f64;
        assert!(mean(&kl[..200]) < 1e-4 && mean(&kl[400..]) < 1e-4, "{} {}", mean(&kl), mean(&kl[400..]));
        for folder in goldens() {
            let model = Model::load(&engine, &SourceModel::open(&folder).unwrap(), None).unwrap();
            if !model.spec().attentions().all(|attention| attention.holds_groups_of(32)) {
                continue;
            }
            let tokens = super::tests::tokens(&model, 4 * CONTEXT);
            let all = streamed(&model, &tokens, &with_bits(8, 32, Some(CONTEXT)), 1000);
            let float = streamed(&model, &tokens, &settings(10), 1000);
            let scale = float.iter().fold(0f32, |most, x| most.max(x.abs()));
            let error = all.iter().zip(&float).map(|(a, b)| (a - b).abs()).sum::<f32>() / all.len() as f32;
            assert!(error / scale < 0.02, "{}: {error} of {scale}", folder.display());
        }
    }

    #[test]
    fn memory_is_flat() {
        let engine = Engine::start().unwrap();
        for folder in goldens() {
            let model = Model::load(&engine, &SourceModel::open(&folder).unwrap(), None).unwrap();
            let tokens = tokens(&model, 10 * CONTEXT);
            let bytes =
                |count: usize| model.stream(&tokens[..count], &settings(10), 8, |_| Ok(())).unwrap().bytes;
            assert!(bytes(10 * CONTEXT) <= bytes(2 * CONTEXT), "{}", folder.display());
        }
    }

    #[test]
    fn sinks_must_leave_room() {
        assert!(ContextWindow::new(4, 4, 10).is_err());
        assert_eq!(ContextWindow::new(5, 4, 100).unwrap().batch, 1);
        assert_eq!(ContextWindow::new(5, 0, 1).unwrap().batch, 1);
        assert_eq!(ContextWindow::new(2048, 4, 10).unwrap().batch, 205);
    }
}
