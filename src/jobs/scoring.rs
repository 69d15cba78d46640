//! Scoring a model on token windows, alone or against a reference; the blocks of both are never in memory together.

use crate::progress::Progress;
use std::path::Path;

use crate::engine::memory::give_back;
use crate::engine::passes::forward::{FinalStates, run_forward};
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::jobs::bars;
use crate::jobs::evaluation::{Histogram, NotFinite, Reference, ReferenceWriter, Scores, Summary};
use crate::jobs::record::Evaluation;
use crate::jobs::write::check_values;
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;

/// Reference that a model is compared with.
pub enum Against<'a> {
    /// Nothing: perplexity alone.
    Nothing,
    /// Another model.
    Model(&'a SourceModel),
    /// A saved reference.
    Saved(&'a Reference),
}

/// Windows to score, and how many of them run at a time.
pub struct Scoring<'a> {
    /// Token windows of one length, at least two tokens each.
    pub windows: &'a [Vec<u32>],
    /// Windows computed together.
    pub batch: usize,
    /// Bytes of hidden states in memory.
    pub memory: u64,
}

impl Scoring<'_> {
    /// Scores every token but the first of each window. The reference's rows also go to `keep`.
    ///
    /// # Errors
    /// When the vocabularies differ, logits are not finite, the reference cannot predict the text, or the work is
    /// interrupted.
    pub fn run(
        &self,
        engine: &Engine,
        source: &SourceModel,
        against: &Against<'_>,
        mut keep: Option<&mut ReferenceWriter>,
        console: &dyn Progress,
    ) -> Result<Scores> {
        let model = self.forward(engine, source, bars::MODEL, console)?;
        give_back();
        let reference = self.reference_rows(engine, source, against, console)?;
        give_back();
        let bar = console.steps_bar(bars::SCORING, self.windows.len() as u64);
        let mut scores = Scores::default();
        for (index, window) in self.windows.iter().enumerate() {
            let predicted = window.len() - 1;
            for from in (0..predicted).step_by(model.positions_at_once()) {
                crate::interrupt::check()?;
                let to = (from + model.positions_at_once()).min(predicted);
                let logits = model.logits(index, from, to)?;
                let expected = reference.read(index, from, to)?;
                if let (Some(keep), Some(expected)) = (&mut keep, &expected) {
                    keep.add(expected)?;
                }
                let labels = &window[from + 1..=to];
                scores
                    .add(&logits, expected.as_deref(), labels)
                    .map_err(|bad| against.not_finite(source, bad, scores.len()))?;
            }
            bar.inc(1);
        }
        bar.finish();
        against.check_perplexity(&scores.summary())?;
        Ok(scores)
    }

    /// Runs the reference where it is a model. Fails where its vocabulary is not that of `source`.
    fn reference_rows<'r>(
        &self,
        engine: &Engine,
        source: &SourceModel,
        against: &Against<'r>,
        console: &dyn Progress,
    ) -> Result<ReferenceRows<'r>> {
        match against {
            Against::Nothing => Ok(ReferenceRows::Nothing),
            Against::Model(model) => {
                check_vocabulary(source, model.spec().vocab_size)?;
                self.forward(engine, model, bars::REFERENCE, console).map(ReferenceRows::Computed)
            }
            Against::Saved(reference) => {
                check_vocabulary(source, reference.vocabulary())?;
                Ok(ReferenceRows::Saved(reference))
            }
        }
    }

    /// Scores `source` against the reference for the record; `text` is the name of the windows' text. The reference's
    /// rows also go to `writer`.
    pub fn evaluation(
        &self,
        engine: &Engine,
        source: &SourceModel,
        against: &Against<'_>,
        writer: Option<&mut ReferenceWriter>,
        text: String,
        console: &dyn Progress,
    ) -> Result<Evaluation> {
        let scores = self.run(engine, source, against, writer, console)?;
        let summary = scores.summary();
        console.notes(guessing(&summary, source).as_slice());
        Ok(Evaluation {
            text,
            windows: self.windows.len(),
            sequence_length: self.windows.first().map_or(0, Vec::len),
            summary,
            kl_histogram: Histogram::of(scores.divergences()),
        })
    }

    fn forward<'s>(
        &self,
        engine: &Engine,
        source: &'s SourceModel,
        verb: &str,
        console: &dyn Progress,
    ) -> Result<FinalStates<'s>> {
        let bar = console.steps_bar(verb, source.spec().blocks.len() as u64);
        let states = run_forward(engine, source, self.windows, self.batch, self.memory, &|| bar.inc(1))?;
        bar.finish();
        Ok(states)
    }
}

/// Logits or log-probabilities of a reference, read while windows are scored.
enum ReferenceRows<'a> {
    Nothing,
    Computed(FinalStates<'a>),
    Saved(&'a Reference),
}

impl ReferenceRows<'_> {
    /// Returns rows [to - from, vocabulary] of the predicting positions `from..to` of a window.
    fn read(&self, window: usize, from: usize, to: usize) -> Result<Option<Vec<f32>>> {
        match self {
            Self::Nothing => Ok(None),
            Self::Computed(states) => states.logits(window, from, to).map(Some),
            Self::Saved(reference) => reference.log_probs(window, from, to).map(Some),
        }
    }
}

impl Against<'_> {
    /// Returns the error of a `bad` row of `source` or of the reference, after `scored` tokens.
    fn not_finite(&self, source: &SourceModel, bad: NotFinite, scored: usize) -> Error {
        match self {
            Self::Model(model) if bad.reference => not_finite(model, bad, scored),
            Self::Saved(reference) if bad.reference => saved_not_finite(reference.path(), bad, scored),
            _ => not_finite(source, bad, scored),
        }
    }

    /// Fails where the reference's perplexity is not finite: nothing can be compared with it.
    fn check_perplexity(&self, summary: &Summary) -> Result<()> {
        let Some(divergence) = &summary.divergence else { return Ok(()) };
        if divergence.reference_perplexity.is_finite() {
            return Ok(());
        }
        match self {
            Self::Nothing => Ok(()),
            Self::Model(model) => Err(useless(model.dir())),
            Self::Saved(reference) => Err(useless(reference.path())),
        }
    }
}

/// Returns a note where the float model does worse than guessing. The float model is the reference, or without one the
/// `model` itself, if that is not quantized.
pub fn guessing(summary: &Summary, model: &SourceModel) -> Option<String> {
    let vocabulary = model.spec().vocab_size;
    let own = model.bitmap().is_empty().then_some(summary.perplexity);
    let perplexity = summary.divergence.as_ref().map(|against| against.reference_perplexity).or(own)?;
    (perplexity > vocabulary as f64).then(|| {
        format!(
            "the float model's perplexity is {perplexity:.0}, above the vocabulary's {vocabulary}: worse than guessing, \
             text and model or tokenizer do not belong together"
        )
    })
}

/// Returns the error of a reference that nothing can be compared with.
fn useless(path: &Path) -> Error {
    Error::file(path, "the reference's own perplexity on this text is not finite")
        .hint("`mixbit check` says more of it; compare with a model that can predict the text")
}

/// Returns the error of a model whose row is `bad`, after `scored` tokens: about the damaged tensor where there is one.
pub fn not_finite(model: &SourceModel, bad: NotFinite, scored: usize) -> Error {
    match check_values(model, Dtype::F32) {
        Err(error) => error,
        Ok(()) => Error::file(model.dir(), not_finite_at(bad, scored)).hint(
            "its weights are numbers, yet too large or small to compute with: `mixbit check` says more",
        ),
    }
}

fn saved_not_finite(path: &Path, bad: NotFinite, scored: usize) -> Error {
    Error::file(path, not_finite_at(bad, scored))
        .hint("write it again, from a model that `mixbit check` passes")
}

fn not_finite_at(bad: NotFinite, scored: usize) -> String {
    format!("its logits are not finite, first for predicted token {}", scored + bad.row + 1)
}

/// Fails unless `source` has as many tokens as the reference.
pub fn check_vocabulary(source: &SourceModel, reference: usize) -> Result<()> {
    let tokens = source.spec().vocab_size;
    if tokens == reference {
        return Ok(());
    }
    Err(Error::file(
        source.dir(),
        format!("has a vocabulary of {tokens} tokens, the reference one of {reference}"),
    )
    .hint("compare a model with the one that it was made from"))
}
