//! Sensitivities: the predicted effect on the model's output of rounding each layer to each candidate.
//!
//! One forward pass that keeps each block's inputs and one backward pass, block by block; every gradient is computed
//! once and serves all candidates. The formulas are in [`super::scores`].

use std::collections::BTreeMap;
use std::ops::Range;

use super::scores::Scorer;
use super::settings::{AnalysisSettings, StepCosts};
use crate::choose::scores::{LayerSensitivity, Method};
use crate::engine::decoder::load::{Loader, Rounding, task_weights};
use crate::engine::passes::forward::Pass;
use crate::engine::passes::head::Objective;
use crate::engine::passes::replay::Replay;
use crate::engine::runtime::Engine;
use crate::error::Result;
use crate::models::source::SourceModel;
use crate::models::spec::TensorSpec;
use crate::numerics::affine::FloatType;
use crate::numerics::quant::Quant;

/// Weights of the head that are scored at a time, rounded up to whole tasks.
const SLAB_WEIGHTS: usize = 1 << 21;

/// Measures every candidate of every layer that is still float. Layers come from the last block to the first; each is
/// handed to `finished` when it is complete.
pub fn analyze(
    engine: &Engine,
    source: &SourceModel,
    settings: &AnalysisSettings<'_>,
    mut finished: impl FnMut(LayerSensitivity) -> Result<()>,
) -> Result<()> {
    let blocks = source.spec().blocks.len();
    let alignment = matches!(settings.method, Method::Alignment { .. });
    let StepCosts { forward, head, backward } = settings.costs;
    let passes = if alignment { 2 } else { 1 };
    let total_cost = blocks as u64 * (passes * forward + backward) + head;
    let done = std::cell::Cell::new(0);
    let advance = |cost: u64| {
        done.set(done.get() + cost);
        (settings.progress)(done.get(), total_cost);
    };
    let tick = || advance(forward);
    let float = Loader::new(source, engine.compute_dtype(source.dtype()?));
    let embed = |loader| Pass::embed(engine, loader, settings.sequences, 1, settings.memory);
    let layers = candidates_by_block(source, settings);
    let rounding = match settings.method {
        Method::Alignment { at } => Some(uniform(source, at, settings.dtype)),
        Method::FisherDiagonal => None,
    };
    let target = if alignment { Some(embed(float)?.finish(&tick)?) } else { None };
    let objective = match &target {
        Some(target) => Objective::Divergence(target),
        None => Objective::Likelihood { seed: settings.seed },
    };
    let mut replay = Replay::forward(embed(Loader { rounding: rounding.as_ref(), ..float })?, &tick)?;
    let members = layers.get(&None).map(Vec::as_slice).unwrap_or_default();
    let head_backward = replay.head(&objective)?;
    let mut scorer = Scorer::new(source, settings, members, replay.importance(None))?;
    if let Some(spec) = members.first() {
        for rows in slabs(spec) {
            scorer.start(Some(&rows))?;
            replay
                .head_rows(&head_backward, &rows, |sequence, gradient| scorer.add(sequence, &[gradient]))?;
            scorer.score_rows()?;
        }
    }
    scorer.finish(&mut finished)?;
    replay.leave_head();
    drop(target);
    advance(head);
    for block in (0..blocks).rev() {
        let members = layers.get(&Some(block)).map(Vec::as_slice).unwrap_or_default();
        let paths: Vec<&str> = members.iter().filter_map(|spec| spec.path()).collect();
        let mut scorer = Scorer::new(source, settings, members, replay.importance(Some(block)))?;
        scorer.start(None)?;
        replay.block(block, &paths, |sequence, gradients| scorer.add(sequence, &gradients))?;
        scorer.score_rows()?;
        scorer.finish(&mut finished)?;
        advance(backward);
    }
    Ok(())
}

/// Returns parts of the head's rows, such that the values kept for one part are small beside those for the whole.
fn slabs(spec: &TensorSpec) -> impl Iterator<Item = Range<usize>> {
    let (rows, columns) = (spec.rows(), spec.columns());
    let step = SLAB_WEIGHTS.div_ceil(task_weights(columns)) * task_weights(columns) / columns;
    (0..rows).step_by(step).map(move |start| start..(start + step).min(rows))
}

/// Returns the rounding of every float linear layer that `quant` fits.
fn uniform(source: &SourceModel, quant: Quant, dtype: FloatType) -> Rounding {
    let layers = source.manifest().iter().filter(|spec| spec.quantizable());
    let fitting = layers.filter(|spec| quant.packed_columns(spec.columns()).is_some());
    let paths = fitting.filter_map(TensorSpec::path).filter(|path| !source.bitmap().contains_key(*path));
    Rounding { bitmap: paths.map(|path| (path.to_owned(), quant)).collect(), dtype }
}

/// Returns the float layers that some candidate fits, by block; `None` is the head.
fn candidates_by_block<'a>(
    source: &'a SourceModel,
    settings: &AnalysisSettings<'_>,
) -> BTreeMap<Option<usize>, Vec<&'a TensorSpec>> {
    let mut layers: BTreeMap<Option<usize>, Vec<&TensorSpec>> = BTreeMap::new();
    for spec in source.manifest().iter().filter(|spec| spec.quantizable()) {
        let Some(path) = spec.path() else { continue };
        if source.bitmap().contains_key(path) || settings.skip.contains(path) {
            continue;
        }
        if settings.candidates.iter().any(|quant| quant.packed_columns(spec.columns()).is_some()) {
            layers.entry(spec.layer).or_default().push(spec);
        }
    }
    layers
}
