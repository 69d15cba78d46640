//! Scoring a model on token windows, alone or against a reference; the blocks of both are never in memory together.

use std::path::Path;

use crate::checkpoint::SourceModel;
use crate::engine::{Engine, FinalStates, give_back, run_forward};
use crate::error::{Error, Result};
use crate::evaluation::{NotFinite, Reference, ReferenceWriter, Scores};
use crate::report::Console;

/// What a model is compared with.
pub enum Against<'a> {
    /// Nothing: perplexity alone.
    Nothing,
    /// Another model.
    Model(&'a SourceModel),
    /// A reference that was kept.
    Kept(&'a Reference),
}

impl Against<'_> {
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Nothing => None,
            Self::Model(model) => Some(model.dir()),
            Self::Kept(reference) => Some(reference.path()),
        }
    }
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
        console: &Console,
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
                    (Against::Kept(kept), _) => Some(kept.log_probs(index, from, to)),
                    (_, Some(reference)) => Some(reference.logits(index, from, to)?),
                    _ => None,
                };
                if let (Some(keep), Some(other)) = (&mut keep, &other) {
                    keep.add(other)?;
                }
                scores.add(&logits, other.as_deref(), &window[from + 1..=to]).map_err(|bad| {
                    let blamed = if bad.reference { against.path() } else { None };
                    not_finite(blamed.unwrap_or(source.dir()), bad, scores.len())
                })?;
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(scores)
    }

    fn forward<'s>(
        &self,
        engine: &Engine,
        source: &'s SourceModel,
        verb: &str,
        console: &Console,
    ) -> Result<FinalStates<'s>> {
        let bar = console.steps_bar(verb, source.spec().layers.len() as u64);
        let states = run_forward(engine, source, self.windows, self.batch, self.memory, &|| bar.inc(1))?;
        bar.finish_and_clear();
        Ok(states)
    }
}

/// A model, or reference, that predicts nothing after `scored` tokens and the rows that came with the bad one.
pub fn not_finite(path: &Path, bad: NotFinite, scored: usize) -> Error {
    let message = format!("its logits are not finite, first for predicted token {}", scored + bad.row + 1);
    Error::file(path, message).hint("`mixbit check` looks for what is wrong with a model")
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
