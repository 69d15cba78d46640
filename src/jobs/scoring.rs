//! Scoring a model on token windows, alone or against a reference; the blocks of both are never in memory together.

use crate::progress::Progress;
use std::path::Path;

use crate::engine::memory::give_back;
use crate::engine::passes::forward::{FinalStates, run_forward};
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::jobs::evaluation::{Histogram, NotFinite, Reference, ReferenceWriter, Scores, Summary};
use crate::jobs::record::Evaluation;
use crate::jobs::write::check_values;
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;

/// What a model is compared with.
pub enum Against<'a> {
    /// Nothing: perplexity alone.
    Nothing,
    /// Another model.
    Model(&'a SourceModel),
    /// A reference that was kept.
    Kept(&'a Reference),
}

/// How to run the models.
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
    pub fn run(
        &self,
        engine: &Engine,
        source: &SourceModel,
        against: &Against<'_>,
        mut keep: Option<&mut ReferenceWriter>,
        console: &dyn Progress,
    ) -> Result<Scores> {
        let found = self.forward(engine, source, "running the model", console)?;
        give_back();
        let reference = match against {
            Against::Model(reference) => {
                check_vocabulary(source, reference.spec().vocab_size)?;
                Some(self.forward(engine, reference, "running the reference", console)?)
            }
            Against::Kept(reference) => {
                check_vocabulary(source, reference.vocabulary())?;
                None
            }
            Against::Nothing => None,
        };
        give_back();
        let bar = console.steps_bar("scoring windows", self.windows.len() as u64);
        let mut scores = Scores::default();
        for (index, window) in self.windows.iter().enumerate() {
            let predicted = window.len() - 1;
            for from in (0..predicted).step_by(found.positions_at_once()) {
                crate::interrupt::check()?;
                let to = (from + found.positions_at_once()).min(predicted);
                let logits = found.logits(index, from, to)?;
                let other = match (against, &reference) {
                    (Against::Kept(kept), _) => Some(kept.log_probs(index, from, to)?),
                    (_, Some(reference)) => Some(reference.logits(index, from, to)?),
                    _ => None,
                };
                if let (Some(keep), Some(other)) = (&mut keep, &other) {
                    keep.add(other)?;
                }
                scores.add(&logits, other.as_deref(), &window[from + 1..=to]).map_err(|bad| {
                    match (bad.reference, against) {
                        (true, Against::Kept(kept)) => kept_not_finite(kept.path(), bad, scores.len()),
                        (true, Against::Model(model)) => not_finite(model, bad, scores.len()),
                        _ => not_finite(source, bad, scores.len()),
                    }
                })?;
            }
            bar.inc(1);
        }
        bar.finish();
        let summary = scores.summary();
        match (&summary.divergence, against) {
            (Some(found), Against::Model(model)) if !found.reference_perplexity.is_finite() => {
                Err(useless(model.dir()))
            }
            (Some(found), Against::Kept(kept)) if !found.reference_perplexity.is_finite() => {
                Err(useless(kept.path()))
            }
            _ => Ok(scores),
        }
    }

    /// The same against a `reference`, as it is recorded and drawn; `text` is what the windows are called.
    pub fn evaluation(
        &self,
        source: &SourceModel,
        reference: &SourceModel,
        text: String,
        console: &dyn Progress,
    ) -> Result<Evaluation> {
        let scores = self.run(&Engine::start()?, source, &Against::Model(reference), None, console)?;
        let summary = scores.summary();
        console.notes(guessing(&summary, false, source.spec().vocab_size).as_slice());
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
        let bar = console.steps_bar(verb, source.spec().layers.len() as u64);
        let states = run_forward(engine, source, self.windows, self.batch, self.memory, &|| bar.inc(1))?;
        bar.finish();
        Ok(states)
    }
}

/// A note where the float model does worse than one that knows nothing. Without a reference it is the model itself, if that
/// `is_float`.
pub fn guessing(summary: &Summary, is_float: bool, vocabulary: usize) -> Option<String> {
    let own = is_float.then_some(summary.perplexity);
    let perplexity = summary.divergence.as_ref().map(|found| found.reference_perplexity).or(own)?;
    (perplexity > vocabulary as f64).then(|| {
        format!(
            "the float model's perplexity is {perplexity:.0}, above the vocabulary's {vocabulary}: worse than guessing, \
             text and model or tokenizer do not belong together"
        )
    })
}

/// A reference that nothing can be compared with.
fn useless(path: &Path) -> Error {
    Error::file(path, "the reference's own perplexity on this text is not finite")
        .hint("`mixbit check` says more of it; compare with a model that can predict the text")
}

/// A model that predicts nothing after `scored` tokens and the rows that came with the bad one: the tensor that is to blame
/// where there is one.
pub fn not_finite(model: &SourceModel, bad: NotFinite, scored: usize) -> Error {
    match check_values(model, Dtype::F32) {
        Err(error) => error,
        Ok(()) => Error::file(model.dir(), not_finite_at(bad, scored)).hint(
            "its weights are numbers, yet too large or small to compute with: `mixbit check` says more",
        ),
    }
}

fn kept_not_finite(path: &Path, bad: NotFinite, scored: usize) -> Error {
    Error::file(path, not_finite_at(bad, scored))
        .hint("write it again, from a model that `mixbit check` passes")
}

fn not_finite_at(bad: NotFinite, scored: usize) -> String {
    format!("its logits are not finite, first for predicted token {}", scored + bad.row + 1)
}

/// Fails unless `source` has as many tokens as the reference.
pub fn check_vocabulary(source: &SourceModel, reference: usize) -> Result<()> {
    let found = source.spec().vocab_size;
    if found == reference {
        return Ok(());
    }
    Err(Error::file(
        source.dir(),
        format!("has a vocabulary of {found} tokens, the reference one of {reference}"),
    )
    .hint("compare a model with the one that it was made from"))
}
