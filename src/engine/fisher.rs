//! Sensitivities by the diagonal of the Fisher information.
//!
//! The KL divergence between the model and itself with one layer rounded is, to second order, a quadratic form in the
//! rounding error dW. With G_n the gradient of sum_t log p(y_t) over sequence n, labels drawn from the model's own
//! distribution, and N sequences of T tokens, the diagonal form per token is
//! 1 / (2 N T) * sum_n sum_ij G_n,ij^2 dW_ij^2. One backward pass serves every candidate.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::Engine;
use super::block::Context;
use super::load::{Loader, decode};
use super::replay::{Gradient, Replay, add_squares};
use crate::affine::{FloatType, QuantizeError};
use crate::candidate::Quant;
use crate::checkpoint::SourceModel;
use crate::error::{Error, Result};
use crate::nearest;
use crate::sensitivity::{LayerSensitivity, Score};
use crate::spec::{Role, TensorSpec};

/// Parts of the sequences whose scores are compared to get a standard error.
const GROUPS: usize = 4;

/// What to measure.
pub struct AnalysisSettings<'a> {
    /// Token ids, all of one length.
    pub sequences: &'a [Vec<u32>],
    /// Quantized candidates; those whose group does not divide a layer's rows are left out for that layer.
    pub candidates: &'a [Quant],
    /// Dtype of scales and biases, which the weights are cast to first.
    pub dtype: FloatType,
    /// Paths of layers that were measured before.
    pub skip: BTreeSet<String>,
    /// Seed of the labels.
    pub seed: u64,
    /// Called with (steps done, steps in all).
    pub progress: &'a dyn Fn(usize, usize),
}

/// Measures every candidate of every layer that is still float. Rows come from the last block to the first, each handed
/// to `finished` when it is complete.
pub fn analyze(
    engine: &Engine,
    source: &SourceModel,
    settings: &AnalysisSettings<'_>,
    mut finished: impl FnMut(LayerSensitivity) -> Result<()>,
) -> Result<()> {
    let dtype = engine.compute_dtype(source.dtype()?);
    let loader = Loader { source, dtype };
    let context = Context { spec: source.spec(), dtype, on_gpu: engine.gpu };
    let blocks = source.spec().layers.len();
    let steps = 2 * blocks + 1;
    let done = std::cell::Cell::new(0);
    let tick = || {
        done.set(done.get() + 1);
        (settings.progress)(done.get(), steps);
    };
    let layers = candidates_by_block(source, settings);
    let mut replay = Replay::forward(loader, context, settings.sequences, &tick)?;
    let head = layers.get(&None).map(Vec::as_slice).unwrap_or_default();
    let mut scorer = Scorer::new(source, settings, head)?;
    replay.head(settings.seed, !head.is_empty(), |sequence, gradient| scorer.add(sequence, &[gradient]))?;
    scorer.finish(&mut finished)?;
    tick();
    for block in (0..blocks).rev() {
        let members = layers.get(&Some(block)).map(Vec::as_slice).unwrap_or_default();
        let roles: Vec<Role> = members.iter().map(|spec| spec.role).collect();
        let mut scorer = Scorer::new(source, settings, members)?;
        replay.block(block, &roles, |sequence, gradients| scorer.add(sequence, &gradients))?;
        scorer.finish(&mut finished)?;
        tick();
    }
    Ok(())
}

/// The float layers that some candidate fits, by block; `None` is the head.
fn candidates_by_block<'a>(
    source: &'a SourceModel,
    settings: &AnalysisSettings<'_>,
) -> BTreeMap<Option<usize>, Vec<&'a TensorSpec>> {
    let mut layers: BTreeMap<Option<usize>, Vec<&TensorSpec>> = BTreeMap::new();
    for spec in source.manifest().iter().filter(|spec| spec.quantizable()) {
        let wanted = |path: &str| !source.bitmap().contains_key(path) && !settings.skip.contains(path);
        let float = spec.path().is_some_and(wanted);
        if float && settings.candidates.iter().any(|quant| quant.packed_columns(spec.shape[1]).is_some()) {
            layers.entry(spec.layer).or_default().push(spec);
        }
    }
    layers
}

/// Sums squared gradients and scores the candidates against them.
struct Scorer<'a> {
    settings: &'a AnalysisSettings<'a>,
    layers: Vec<ScoredLayer<'a>>,
}

struct ScoredLayer<'a> {
    spec: &'a TensorSpec,
    weights: Vec<f32>,
    squares: Vec<f32>,
    candidates: Vec<Quant>,
    /// Quadratic form per token of each group of sequences, by candidate.
    groups: Vec<Vec<f64>>,
    sequences_in_group: usize,
}

impl<'a> Scorer<'a> {
    fn new(
        source: &SourceModel,
        settings: &'a AnalysisSettings<'a>,
        specs: &[&'a TensorSpec],
    ) -> Result<Self> {
        let mut layers = Vec::new();
        for spec in specs {
            let fits = |quant: &&Quant| quant.packed_columns(spec.shape[1]).is_some();
            let candidates: Vec<Quant> = settings.candidates.iter().filter(fits).copied().collect();
            layers.push(ScoredLayer {
                spec,
                weights: decode(source.tensor(&spec.name)?),
                squares: vec![0.0; spec.len()],
                groups: vec![Vec::new(); candidates.len()],
                candidates,
                sequences_in_group: 0,
            });
        }
        Ok(Self { settings, layers })
    }

    fn add(&mut self, sequence: usize, gradients: &[Gradient]) -> Result<()> {
        let total = self.settings.sequences.len();
        let last_of_group =
            (sequence + 1) * GROUPS / total > sequence * GROUPS / total || sequence + 1 == total;
        let tokens = self.settings.sequences.get(sequence).map_or(1, Vec::len);
        for (layer, gradient) in self.layers.iter_mut().zip(gradients) {
            debug_assert_eq!(layer.spec.role, gradient.role);
            if !add_squares(&mut layer.squares, &gradient.gradient)? {
                return Err(Error::engine(format!(
                    "layer `{}` has gradients that are not finite",
                    layer.spec.name
                ))
                .hint("the weights hold NaN or infinite values, or the text makes the model overflow"));
            }
            layer.sequences_in_group += 1;
            if last_of_group {
                layer.close_group(self.settings.dtype, tokens)?;
            }
        }
        Ok(())
    }

    fn finish(self, finished: &mut impl FnMut(LayerSensitivity) -> Result<()>) -> Result<()> {
        for layer in self.layers {
            let scores =
                layer.candidates.iter().zip(&layer.groups).map(|(quant, groups)| Score::new(*quant, groups));
            finished(LayerSensitivity {
                path: layer.spec.path().unwrap_or_default().to_owned(),
                rows: layer.spec.shape[0],
                columns: layer.spec.shape[1],
                scores: scores.collect(),
            })?;
        }
        Ok(())
    }
}

impl ScoredLayer<'_> {
    /// Scores what was summed since the last group and starts anew.
    fn close_group(&mut self, dtype: FloatType, tokens: usize) -> Result<()> {
        let columns = self.spec.shape[1];
        let rows_at_once = (1usize << 14).div_ceil(columns);
        let step = rows_at_once * columns;
        let candidates = &self.candidates;
        let sums = self
            .weights
            .par_chunks(step)
            .zip(self.squares.par_chunks(step))
            .map_init(Vec::new, |errors, (weights, squares)| {
                errors.resize(weights.len(), 0.0);
                let score = |quant: &Quant| weighted_error(weights, squares, columns, *quant, dtype, errors);
                candidates.iter().map(score).collect()
            })
            .try_reduce(
                || vec![0.0; candidates.len()],
                |a, b| Ok(a.iter().zip(&b).map(|(a, b)| a + b).collect()),
            );
        let sums: Vec<f64> =
            sums.map_err(|e: QuantizeError| Error::engine(format!("{}: {e}", self.spec.name)))?;
        let per_token = 0.5 / (self.sequences_in_group * tokens) as f64;
        for (groups, sum) in self.groups.iter_mut().zip(sums) {
            groups.push(sum * per_token);
        }
        self.squares.fill(0.0);
        self.sequences_in_group = 0;
        Ok(())
    }
}

/// `sum_ij squares_ij * (Q(W) - W)_ij^2`; `errors` is room for as many values.
fn weighted_error(
    weights: &[f32],
    squares: &[f32],
    columns: usize,
    quant: Quant,
    dtype: FloatType,
    errors: &mut [f32],
) -> Result<f64, QuantizeError> {
    nearest::rounding_error_into(weights, columns, quant, dtype, errors)?;
    Ok(errors
        .chunks(columns)
        .zip(squares.chunks(columns))
        .map(|(errors, squares)| f64::from(errors.iter().zip(squares).map(|(e, f)| f * e * e).sum::<f32>()))
        .sum())
}
