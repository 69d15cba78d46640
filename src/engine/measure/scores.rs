//! Scores from gradients: two formulas over the same backward pass.
//!
//! dW is a candidate's actual rounding error Q_c(W) - W, G_n the gradient over sequence n, N sequences of T tokens.
//!
//! - diagonal Fisher: 1 / (2 N T) sum_n sum_ij G_n,ij^2 dW_ij^2, with labels drawn from the model's own distribution.
//!   The second-order term of the KL divergence, its cross terms left out.
//! - alignment: 1 / (N T) sum_n <G_n, dW>, with G_n the gradient of KL(float || rounded) at the model whose every layer
//!   is rounded. Differences of it between two candidates are what mlx-lm's `dynamic_quant` estimates. May be negative.

use half::bf16;
use half::slice::HalfFloatSliceExt;
use mlx_rs::Array;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;

use super::settings::AnalysisSettings;
use crate::choose::scores::{LayerSensitivity, Method, Score, scored_every};
use crate::engine::array::as_slice;
use crate::engine::decoder::load::{TASK, chunk_weights, decode_part, decode_rows, task_weights};
use crate::engine::passes::collector::{Moment, Moments};
use crate::engine::passes::replay::Gradient;
use crate::error::{Error, Result};
use crate::formats::checkpoint::Tensor;
use crate::models::source::SourceModel;
use crate::models::spec::TensorSpec;
use crate::numerics::lanes;
use crate::numerics::quant::{Mode, Quant};
use crate::numerics::rounding::{Importance, Rounder, RoundingError};

/// Groups of sequences whose diagonal scores are compared to get a standard error.
const SEQUENCE_GROUPS: usize = 4;
/// Bits of the candidates that are tried on all rows, rounded to nearest.
const ANCHOR_BITS: u32 = 4;

/// Scorer of the candidates of one block's layers.
pub(crate) struct Scorer<'a> {
    settings: &'a AnalysisSettings<'a>,
    layers: Vec<ScoredLayer<'a>>,
}

struct ScoredLayer<'a> {
    spec: &'a TensorSpec,
    tensor: Tensor<'a>,
    /// Rows that are being scored.
    rows: Range<usize>,
    candidates: Vec<Quant>,
    /// E[x_j^2] of the layer's input, or of the experts' one after the other; empty where it is unknown.
    importance: Vec<f32>,
    /// Sums over sequences for the rows that are being scored.
    sums: Sums,
    /// Scores by candidate and part of the text; sums of products while rows remain.
    parts: Vec<Vec<f64>>,
    /// Scores of the tasks of earlier rows.
    tasks: Vec<Task>,
}

/// Values kept for some rows from one sequence to the next.
enum Sums {
    /// Sum of squared gradients for each group of sequences, [columns, rows].
    Squares { groups: Vec<Group> },
    /// Rounding errors by candidate, [columns, rows].
    Products { errors: Vec<Vec<bf16>> },
}

/// Sum of squared gradients of some sequences; empty before the first.
#[derive(Default)]
struct Group {
    squares: Vec<f32>,
    sequences: usize,
}

impl<'a> Scorer<'a> {
    /// Makes a scorer of the layers `specs`. `importance` is E[x_j^2] of their inputs.
    pub(crate) fn new(
        source: &'a SourceModel,
        settings: &'a AnalysisSettings<'a>,
        specs: &[&'a TensorSpec],
        importance: &Moments,
    ) -> Result<Self> {
        let layers = specs.iter().map(|&spec| {
            let fits = |quant: &&Quant| quant.packed_columns(spec.columns()).is_some();
            let candidates: Vec<Quant> = settings.candidates.iter().filter(fits).copied().collect();
            let importance = spec.tap.and_then(|tap| importance.get(&tap)).map(Moment::diagonals);
            Ok(ScoredLayer {
                spec,
                tensor: source.tensor(&spec.name)?,
                rows: 0..0,
                importance: importance.unwrap_or_default(),
                sums: Sums::Products { errors: Vec::new() },
                parts: vec![Vec::new(); candidates.len()],
                candidates,
                tasks: Vec::new(),
            })
        });
        Ok(Self { settings, layers: layers.collect::<Result<_>>()? })
    }

    /// Starts scoring these rows of every layer, all rows if `None`.
    pub(crate) fn start(&mut self, rows: Option<&Range<usize>>) -> Result<()> {
        let settings = self.settings;
        for layer in &mut self.layers {
            layer.rows = rows.cloned().unwrap_or(0..layer.spec.rows());
            layer.sums = if settings.method == Method::FisherDiagonal {
                let groups = SEQUENCE_GROUPS.min(settings.sequences.len());
                Sums::Squares { groups: (0..groups).map(|_| Group::default()).collect() }
            } else {
                Sums::Products { errors: layer.rounding_errors(settings)? }
            };
        }
        Ok(())
    }

    /// Adds the gradients of one sequence.
    pub(crate) fn add(&mut self, sequence: usize, gradients: &[Gradient]) -> Result<()> {
        let total = self.settings.sequences.len();
        let group = sequence * SEQUENCE_GROUPS.min(total) / total;
        for (layer, gradient) in self.layers.iter_mut().zip(gradients) {
            let plain = |part: &Array| part.as_dtype(mlx_rs::Dtype::Float32)?.contiguous();
            let gradient = gradient.transposed.iter().map(plain).collect::<Result<Vec<_>, _>>()?;
            let gradient = gradient.iter().map(as_slice).collect::<Result<Vec<_>>>()?;
            if !layer.add(&gradient, group, sequence) {
                return Err(Error::input(format!(
                    "layer `{}` has gradients that are not finite",
                    layer.spec.name
                ))
                .hint(
                    "the first met on the way back from the last block: the weights of this block or a later one hold \
                     huge, NaN or infinite values, or the text makes the model overflow",
                ));
            }
        }
        Ok(())
    }

    /// Scores the current rows, once all sequences were added.
    pub(crate) fn score_rows(&mut self) -> Result<()> {
        self.layers.iter_mut().try_for_each(|layer| layer.try_candidates(self.settings))
    }

    /// Hands each layer's scores to `finished`, once all rows were scored.
    pub(crate) fn finish(self, finished: &mut impl FnMut(LayerSensitivity) -> Result<()>) -> Result<()> {
        for mut layer in self.layers {
            layer.add_up(self.settings);
            let scores =
                layer.candidates.iter().zip(&layer.parts).map(|(quant, parts)| Score::new(*quant, parts));
            finished(LayerSensitivity {
                path: layer.spec.path().unwrap_or_default().to_owned(),
                rows: layer.spec.rows(),
                columns: layer.spec.columns(),
                scores: scores.collect(),
            })?;
        }
        Ok(())
    }
}

impl ScoredLayer<'_> {
    /// Adds the gradient of one sequence, one slice per matrix; returns false if it is not finite.
    fn add(&mut self, gradient: &[&[f32]], group: usize, sequence: usize) -> bool {
        match &mut self.sums {
            Sums::Squares { groups } => {
                let group = &mut groups[group];
                group.sequences += 1;
                if group.sequences == 1 {
                    let values = gradient.par_iter().flat_map(|part| part.par_iter());
                    group.squares = values.map(|x| x * x).collect();
                    return all_finite(&group.squares);
                }
                let mut remaining = group.squares.as_mut_slice();
                gradient.iter().all(|part| {
                    let (squares, rest) = std::mem::take(&mut remaining).split_at_mut(part.len());
                    remaining = rest;
                    add_squares(squares, part)
                })
            }
            Sums::Products { errors } => {
                let mut finite = true;
                for (parts, errors) in self.parts.iter_mut().zip(errors) {
                    let mut remaining = errors.as_slice();
                    let mut product = 0.0;
                    for part in gradient {
                        let (part_errors, rest) = remaining.split_at(part.len());
                        remaining = rest;
                        product += dot(part, part_errors);
                    }
                    finite &= product.is_finite();
                    parts.resize(parts.len().max(sequence + 1), 0.0);
                    parts[sequence] += product;
                }
                finite
            }
        }
    }

    /// Scores the candidates on each group's squares.
    fn try_candidates(&mut self, settings: &AnalysisSettings<'_>) -> Result<()> {
        let columns = self.spec.columns();
        let matrices = self.spec.experts().unwrap_or(1);
        let Sums::Squares { groups } = &mut self.sums else { return Ok(()) };
        for group in groups.iter_mut() {
            group.squares = transpose(&group.squares, columns, self.rows.len() / matrices, matrices);
        }
        let (count, step) = (self.rows.len() * columns, chunk_weights([self.rows.len(), columns]));
        let tasks = {
            let this = &*self;
            let rounder = this.rounder(settings);
            // Collected in order and summed after, so that the result does not depend on the threads.
            let chunks = (0..count.div_ceil(step)).into_par_iter().map_init(Vec::new, |weights, chunk| {
                let start = chunk * step;
                weights.resize((count - start).min(step), 0.0);
                decode_rows(this.tensor, this.rows.start * columns + start, weights);
                this.score_tasks(rounder, weights, start)
            });
            chunks.collect::<Result<Vec<_>, _>>().map_err(|e| rounding_failed(this.spec, &e))?
        };
        self.tasks.extend(tasks.into_iter().flatten());
        if let Sums::Squares { groups } = &mut self.sums {
            for group in groups {
                group.squares = Vec::new();
            }
        }
        Ok(())
    }

    /// Scores the candidates on `weights`, whose squares begin at `start`.
    fn score_tasks(
        &self,
        full: Rounder<'_>,
        weights: &[f32],
        start: usize,
    ) -> Result<Vec<Task>, RoundingError> {
        let columns = self.spec.columns();
        let nearest = Rounder { searched: false, ..full };
        let plan = ScoringPlan::new(&self.candidates, self.spec, full.searched);
        let Sums::Squares { groups } = &self.sums else { return Ok(Vec::new()) };
        let mut errors = vec![0.0; task_weights(columns).min(weights.len())];
        let tasks = weights.chunks(task_weights(columns)).enumerate().map(|(task, weights)| {
            let (task, start) = (start / task_weights(columns) + task, start + task * task_weights(columns));
            let errors = &mut errors[..weights.len()];
            let mut sums = |rounder: Rounder<'_>, candidate: usize| -> Result<Vec<f64>, RoundingError> {
                let first = self.rows.start + start / columns;
                rounder.error_into(first, weights, columns, self.candidates[candidate], errors)?;
                let squares = groups.iter().map(|group| &group.squares[start..][..errors.len()]);
                Ok(squares.map(|squares| lanes::weighted_square(errors, squares)).collect())
            };
            let mut scored = Task { full: Vec::new(), anchors: Vec::new() };
            if (self.tasks.len() + task).is_multiple_of(plan.every) {
                for candidate in 0..self.candidates.len() {
                    scored.full.push(sums(full, candidate)?);
                }
            }
            for &candidate in &plan.anchors {
                scored.anchors.push(sums(nearest, candidate)?);
            }
            Ok(scored)
        });
        tasks.collect()
    }

    /// Computes the scores of the parts of the text from the tasks of all rows.
    fn add_up(&mut self, settings: &AnalysisSettings<'_>) {
        let tokens = settings.sequences.first().map_or(1, Vec::len) as f64;
        let plan = ScoringPlan::new(&self.candidates, self.spec, settings.technique.is_searched());
        match &self.sums {
            Sums::Squares { groups } => {
                for (candidate, parts) in self.parts.iter_mut().enumerate() {
                    parts.extend(groups.iter().enumerate().map(|(index, group)| {
                        let sum = plan.total(&self.tasks, candidate, index);
                        0.5 * sum / (group.sequences as f64 * tokens)
                    }));
                }
            }
            Sums::Products { .. } => {
                for product in self.parts.iter_mut().flatten() {
                    *product /= tokens;
                }
            }
        }
    }

    fn rounder(&self, settings: &AnalysisSettings<'_>) -> Rounder<'_> {
        let importance = Importance::new(&self.importance, self.spec.rows(), self.spec.columns());
        Rounder { dtype: settings.dtype, searched: settings.technique.is_searched(), importance }
    }

    /// `Q(W) - W` of each candidate, in two bytes per weight: there are many, and they only enter sums.
    fn rounding_errors(&self, settings: &AnalysisSettings<'_>) -> Result<Vec<Vec<bf16>>> {
        let columns = self.spec.columns();
        let weights = decode_part(self.tensor, self.rows.start * columns..self.rows.end * columns);
        let step = task_weights(columns);
        let rounder = self.rounder(settings);
        let rounded = |quant: &Quant| {
            let mut rounded = vec![bf16::ZERO; weights.len()];
            rounded.par_chunks_mut(step).zip(weights.par_chunks(step)).enumerate().try_for_each_init(
                Vec::new,
                |errors, (chunk, (rounded, weights))| {
                    errors.resize(weights.len(), 0.0f32);
                    let first = self.rows.start + chunk * step / columns;
                    rounder.error_into(first, weights, columns, *quant, errors)?;
                    rounded.convert_from_f32_slice(errors);
                    Ok::<(), RoundingError>(())
                },
            )?;
            let matrices = self.spec.experts().unwrap_or(1);
            Ok(transpose(&rounded, self.rows.len() / matrices, columns, matrices))
        };
        let all = self.candidates.iter().map(rounded);
        all.collect::<Result<_, RoundingError>>().map_err(|e| rounding_failed(self.spec, &e))
    }
}

/// The rows that each candidate is tried on.
struct ScoringPlan {
    /// All candidates are tried, as they will be rounded, on one of this many tasks.
    every: usize,
    /// Candidates that are tried on all rows, rounded to nearest, if `every` is not 1.
    anchors: Vec<usize>,
    /// Index of each candidate's anchor.
    anchor_of: Vec<usize>,
}

impl ScoringPlan {
    fn new(candidates: &[Quant], spec: &TensorSpec, searched: bool) -> Self {
        let kinds: BTreeSet<(Mode, u32)> = candidates.iter().map(kind).collect();
        let anchor = |wanted: &(Mode, u32)| {
            let members = candidates.iter().enumerate().filter(|(_, quant)| kind(quant) == *wanted);
            members.min_by_key(|(_, quant)| quant.bits.abs_diff(ANCHOR_BITS)).map_or(0, |(index, _)| index)
        };
        let anchors: Vec<usize> = kinds.iter().map(anchor).collect();
        // With nothing to search and no second candidate of a kind there is nothing to save.
        let saves = searched || anchors.len() < candidates.len();
        let every = if saves { scored_every(spec.shape.iter().product()) } else { 1 };
        let of = |quant| kinds.iter().position(|other| *other == kind(quant)).unwrap_or_default();
        let anchor_of = candidates.iter().map(of).collect();
        Self { every, anchors: if every > 1 { anchors } else { Vec::new() }, anchor_of }
    }

    /// Estimates the sum over all rows for a candidate and a group of sequences. Where some rows have no full sums,
    /// this is the anchor's sum over all rows, times the ratio of both sums where both are known.
    fn total(&self, tasks: &[Task], candidate: usize, group: usize) -> f64 {
        let sum_of = |sums: &[Vec<f64>], index: usize| sums.get(index).map(|sums| sums[group]);
        let full: f64 = tasks.iter().filter_map(|task| sum_of(&task.full, candidate)).sum();
        let anchor = |task: &Task| sum_of(&task.anchors, self.anchor_of[candidate]).unwrap_or_default();
        let anchor_beside_full: f64 = tasks.iter().filter(|task| !task.full.is_empty()).map(anchor).sum();
        let anchor_total: f64 = tasks.iter().map(anchor).sum();
        if anchor_beside_full > 0.0 { full * anchor_total / anchor_beside_full } else { full }
    }
}

/// Returns the kind of a candidate; candidates of one kind share an anchor.
fn kind(quant: &Quant) -> (Mode, u32) {
    (quant.mode, quant.group_size)
}

/// Sums over some rows of a matrix, by candidate and group of sequences.
struct Task {
    /// Sums with the weights rounded as they will be; empty where that was left out.
    full: Vec<Vec<f64>>,
    /// Sums of the anchors, rounded to nearest.
    anchors: Vec<Vec<f64>>,
}

pub(crate) fn rounding_failed(spec: &TensorSpec, error: &RoundingError) -> Error {
    Error::usage(format!("tensor `{}`: {error}", spec.name))
        .hint("use setting `dtype` bfloat16 or float32 if the values are too large for float16")
}

/// Transposes matrices [rows, columns], one after the other, to [columns, rows].
fn transpose<T: Copy + Default + Send + Sync>(
    values: &[T],
    rows: usize,
    columns: usize,
    matrices: usize,
) -> Vec<T> {
    let mut out = vec![T::default(); values.len()];
    let each = values.len() / matrices;
    let parts = out.chunks_mut(each.max(1)).zip(values.chunks(each.max(1)));
    parts.for_each(|(out, values)| transpose_into(values, rows, columns, out));
    out
}

fn transpose_into<T: Copy + Send + Sync>(values: &[T], rows: usize, columns: usize, out: &mut [T]) {
    const SIDE: usize = 32;
    out.par_chunks_mut((SIDE * rows).max(1)).enumerate().for_each(|(band, out)| {
        for first in (0..rows).step_by(SIDE) {
            for (column, out) in out.chunks_mut(rows).enumerate() {
                for (row, out) in out.iter_mut().enumerate().skip(first).take(SIDE) {
                    *out = values[row * columns + band * SIDE + column];
                }
            }
        }
    });
}

/// Computes a dot product, summed in parts that do not depend on the number of threads, so that the same input gives
/// the same table.
fn dot(gradient: &[f32], errors: &[bf16]) -> f64 {
    let parts: Vec<f64> = gradient
        .par_chunks(TASK)
        .zip(errors.par_chunks(TASK))
        .map(|(gradient, errors)| {
            let mut total = 0.0f64;
            for (gradient, errors) in gradient.chunks(64).zip(errors.chunks(64)) {
                let products = gradient
                    .iter()
                    .zip(errors)
                    .map(|(g, e)| g * f32::from_bits(u32::from(e.to_bits()) << 16));
                total += f64::from(products.sum::<f32>());
            }
            total
        })
        .collect();
    parts.iter().sum()
}

/// Computes `sum += gradient^2` elementwise; returns false for values that are not finite.
fn add_squares(sum: &mut [f32], gradient: &[f32]) -> bool {
    sum.par_chunks_mut(1 << 16)
        .zip(gradient.par_chunks(1 << 16))
        .map(|(sum, gradient)| lanes::add_squares(sum, gradient))
        .reduce(|| true, |a, b| a && b)
}

/// True if all squares are finite.
fn all_finite(squares: &[f32]) -> bool {
    squares.par_chunks(1 << 16).all(lanes::is_finite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_swaps_rows_and_columns() {
        for (rows, columns) in [(1, 1), (3, 70), (70, 33), (32, 64)] {
            let values: Vec<u32> = (0..rows * columns).map(|i| i as u32).collect();
            let transposed = transpose(&values, rows, columns, 1);
            for (index, &value) in transposed.iter().enumerate() {
                assert_eq!(value as usize, index % rows * columns + index / rows);
            }
            assert_eq!(transpose(&transposed, columns, rows, 1), values);
            let twice = transpose(&[&values[..], &values].concat(), rows, columns, 2);
            assert_eq!(twice, [&transposed[..], &transposed].concat());
        }
    }
}
