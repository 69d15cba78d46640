//! From gradients to scores: three formulas over the same backward pass.
//!
//! dW is a candidate's actual rounding error Q_c(W) - W, G_n the gradient over sequence n, N sequences of T tokens.
//!
//! - diagonal Fisher: 1 / (2 N T) sum_n sum_ij G_n,ij^2 dW_ij^2, with labels drawn from the model's own distribution.
//!   The second-order term of the KL divergence, its cross terms left out.
//! - directional Fisher: 1 / (2 N T) sum_n <G_n, dW>^2. All cross terms, more noise.
//! - alignment: 1 / (N T) sum_n <G_n, dW>, with G_n the gradient of KL(float || rounded) at the model whose every layer
//!   is rounded. Differences of it between two candidates are what mlx-lm's `dynamic_quant` estimates. May be negative.

use half::bf16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::analysis::AnalysisSettings;
use super::array::as_slice;
use super::load::decode;
use super::moments::{Moments, input_of};
use super::replay::Gradient;
use crate::candidate::Quant;
use crate::checkpoint::SourceModel;
use crate::error::{Error, Result};
use crate::rounding::{Rounder, RoundingError};
use crate::sensitivity::{LayerSensitivity, Method, Score};
use crate::spec::TensorSpec;
use crate::vector;

/// Parts of the sequences whose diagonal scores are compared to get a standard error.
const GROUPS: usize = 4;
/// Weights that one task handles, rounded up to whole rows.
const TASK: usize = 1 << 14;
/// Weights of a matrix on which scale search is tried at least. Of larger ones a part of the rows stands for the others, one
/// in so many at least: what search leaves of the error of rounding to nearest differs little from row to row.
const SEARCHED: usize = 1 << 17;
const MOST_SKIPPED: usize = 8;

/// Scores the candidates of the layers of one block.
pub(super) struct Scorer<'a> {
    settings: &'a AnalysisSettings<'a>,
    layers: Vec<ScoredLayer<'a>>,
}

struct ScoredLayer<'a> {
    spec: &'a TensorSpec,
    candidates: Vec<Quant>,
    sums: Sums,
    /// Scores of parts of the text, by candidate.
    parts: Vec<Vec<f64>>,
}

/// What is kept of a layer from one sequence to the next.
enum Sums {
    /// Weights, E[x_j^2] of the layer's input, and of each group of sequences the sum of squared gradients, [columns, rows].
    Squares { weights: Vec<f32>, importance: Vec<f32>, groups: Vec<Group> },
    /// Rounding errors by candidate, [columns, rows].
    Products { errors: Vec<Vec<bf16>>, squared: bool },
}

/// Squared gradients of some sequences.
struct Group {
    squares: Vec<f32>,
    sequences: usize,
}

impl<'a> Scorer<'a> {
    /// `importance` is E[x_j^2] of the layers' inputs.
    pub(super) fn new(
        source: &SourceModel,
        settings: &'a AnalysisSettings<'a>,
        specs: &[&'a TensorSpec],
        importance: &Moments,
    ) -> Result<Self> {
        let mut layers = Vec::new();
        for spec in specs {
            let fits = |quant: &&Quant| quant.packed_columns(spec.shape[1]).is_some();
            let candidates: Vec<Quant> = settings.candidates.iter().filter(fits).copied().collect();
            let weights = decode(source.tensor(&spec.name)?);
            let importance = importance.get(&input_of(spec.role)).cloned().unwrap_or_default();
            let sums = match settings.method {
                Method::FisherDiagonal => {
                    let group = || Group { squares: vec![0.0; weights.len()], sequences: 0 };
                    let groups = (0..GROUPS.min(settings.sequences.len())).map(|_| group()).collect();
                    Sums::Squares { weights, importance, groups }
                }
                method => Sums::Products {
                    errors: rounding_errors(spec, settings, &weights, &importance, &candidates)?,
                    squared: method == Method::FisherDirectional,
                },
            };
            layers.push(ScoredLayer { spec, sums, parts: vec![Vec::new(); candidates.len()], candidates });
        }
        Ok(Self { settings, layers })
    }

    pub(super) fn add(&mut self, sequence: usize, gradients: &[Gradient]) -> Result<()> {
        let total = self.settings.sequences.len();
        let group = sequence * GROUPS.min(total) / total;
        let tokens = self.settings.sequences.get(sequence).map_or(1, Vec::len);
        for (layer, gradient) in self.layers.iter_mut().zip(gradients) {
            debug_assert_eq!(layer.spec.role, gradient.role);
            let gradient = gradient.transposed.as_dtype(mlx_rs::Dtype::Float32)?.contiguous()?;
            if !layer.add(as_slice(&gradient)?, group, tokens) {
                return Err(Error::usage(format!(
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

    pub(super) fn finish(self, finished: &mut impl FnMut(LayerSensitivity) -> Result<()>) -> Result<()> {
        for mut layer in self.layers {
            layer.score_squares(self.settings)?;
            let scores =
                layer.candidates.iter().zip(&layer.parts).map(|(quant, parts)| Score::new(*quant, parts));
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
    /// Adds the gradient of one sequence; false if it is not finite.
    fn add(&mut self, gradient: &[f32], group: usize, tokens: usize) -> bool {
        match &mut self.sums {
            Sums::Squares { groups, .. } => {
                let group = &mut groups[group];
                group.sequences += 1;
                add_squares(&mut group.squares, gradient)
            }
            Sums::Products { errors, squared } => {
                let mut finite = true;
                for (parts, errors) in self.parts.iter_mut().zip(errors) {
                    let product = dot(gradient, errors);
                    finite &= product.is_finite();
                    let score = if *squared { 0.5 * product * product } else { product };
                    parts.push(score / tokens as f64);
                }
                finite
            }
        }
    }

    /// Scores the candidates on each group's squares.
    fn score_squares(&mut self, settings: &AnalysisSettings<'_>) -> Result<()> {
        let Sums::Squares { weights, importance, groups } = &mut self.sums else { return Ok(()) };
        let (rows, columns) = (self.spec.shape[0], self.spec.shape[1]);
        for group in groups.iter_mut() {
            group.squares = transposed(&group.squares, columns, rows);
        }
        let step = TASK.div_ceil(columns) * columns;
        let candidates = &self.candidates;
        let full = rounder(settings, importance, columns);
        let nearest = Rounder { searched: false, ..full };
        let every = if full.searched { (weights.len() / SEARCHED).clamp(1, MOST_SKIPPED) } else { 1 };
        // Collected in order and summed after, so that the result does not depend on the threads.
        let tasks: Vec<Task> = weights
            .par_chunks(step)
            .enumerate()
            .map_init(Vec::new, |errors, (task, weights)| {
                errors.resize(weights.len(), 0.0);
                let mut sums = |rounder: Rounder<'_>| {
                    let mut sums = Vec::with_capacity(candidates.len() * groups.len());
                    for quant in candidates {
                        rounder.error_into(weights, columns, *quant, errors)?;
                        let squares =
                            groups.iter().map(|group| &group.squares[task * step..][..weights.len()]);
                        sums.extend(squares.map(|squares| vector::weighted_square(errors, squares)));
                    }
                    Ok::<Vec<f64>, RoundingError>(sums)
                };
                let whole = task % every == 0;
                Ok(Task {
                    full: if whole { sums(full)? } else { Vec::new() },
                    nearest: if every > 1 { sums(nearest)? } else { Vec::new() },
                })
            })
            .collect::<Result<_, RoundingError>>()
            .map_err(|e| unrounded(self.spec, &e))?;
        let tokens = settings.sequences.first().map_or(1, Vec::len);
        for (candidate, parts) in self.parts.iter_mut().enumerate() {
            parts.extend(groups.iter().enumerate().map(|(index, group)| {
                let sum = total(&tasks, candidate * groups.len() + index);
                0.5 * sum / (group.sequences * tokens) as f64
            }));
        }
        Ok(())
    }
}

/// Sums over some rows of a matrix, of each candidate and group of sequences.
struct Task {
    /// As the weights will be rounded; empty where that was left out.
    full: Vec<f64>,
    /// Rounded to nearest; empty where all tasks have the other.
    nearest: Vec<f64>,
}

/// The sum over all rows: where some have no full sums, that of rounding to nearest, times what the full one made of it where
/// both are known.
fn total(tasks: &[Task], index: usize) -> f64 {
    let full: f64 = tasks.iter().filter_map(|task| task.full.get(index)).sum();
    let nearest = |task: &Task| task.nearest.get(index).copied().unwrap_or_default();
    let both: f64 = tasks.iter().filter(|task| !task.full.is_empty()).map(nearest).sum();
    let all: f64 = tasks.iter().map(nearest).sum();
    if both > 0.0 { full * all / both } else { full }
}

pub(super) fn unrounded(spec: &TensorSpec, error: &RoundingError) -> Error {
    Error::usage(format!("tensor `{}`: {error}", spec.name))
        .hint("use --dtype bfloat16 or float32 if the values are too large for float16")
}

/// `Q(W) - W` of each candidate, in two bytes a weight: there are many, and they only enter sums.
fn rounding_errors(
    spec: &TensorSpec,
    settings: &AnalysisSettings<'_>,
    weights: &[f32],
    importance: &[f32],
    candidates: &[Quant],
) -> Result<Vec<Vec<bf16>>> {
    let columns = spec.shape[1];
    let step = TASK.div_ceil(columns) * columns;
    let rounder = rounder(settings, importance, columns);
    let rounded = |quant: &Quant| {
        let mut rounded = vec![bf16::ZERO; weights.len()];
        rounded.par_chunks_mut(step).zip(weights.par_chunks(step)).try_for_each_init(
            Vec::new,
            |errors, (rounded, weights)| {
                errors.resize(weights.len(), 0.0f32);
                rounder.error_into(weights, columns, *quant, errors)?;
                rounded.convert_from_f32_slice(errors);
                Ok::<(), RoundingError>(())
            },
        )?;
        Ok(transposed(&rounded, spec.shape[0], columns))
    };
    candidates.iter().map(rounded).collect::<Result<_, RoundingError>>().map_err(|e| unrounded(spec, &e))
}

/// [rows, columns] to [columns, rows].
fn transposed<T: Copy + Default + Send + Sync>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    const SIDE: usize = 32;
    let mut out = vec![T::default(); values.len()];
    out.par_chunks_mut((SIDE * rows).max(1)).enumerate().for_each(|(band, out)| {
        for first in (0..rows).step_by(SIDE) {
            for (column, out) in out.chunks_mut(rows).enumerate() {
                for (row, out) in out.iter_mut().enumerate().skip(first).take(SIDE) {
                    *out = values[row * columns + band * SIDE + column];
                }
            }
        }
    });
    out
}

/// The sum is of parts that do not depend on the number of threads, so that the same input gives the same table.
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

/// `sum += gradient^2`, elementwise; false on values that are not finite.
fn add_squares(sum: &mut [f32], gradient: &[f32]) -> bool {
    sum.par_chunks_mut(1 << 16)
        .zip(gradient.par_chunks(1 << 16))
        .map(|(sum, gradient)| vector::add_squares(sum, gradient))
        .reduce(|| true, |a, b| a && b)
}

fn rounder<'a>(settings: &AnalysisSettings<'_>, importance: &'a [f32], columns: usize) -> Rounder<'a> {
    let searched = settings.technique.is_searched();
    let importance = (importance.len() == columns).then_some(importance);
    Rounder { dtype: settings.dtype, searched, importance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_swaps_rows_and_columns() {
        for (rows, columns) in [(1, 1), (3, 70), (70, 33), (32, 64)] {
            let values: Vec<u32> = (0..rows * columns).map(|i| i as u32).collect();
            let found = transposed(&values, rows, columns);
            for (index, &value) in found.iter().enumerate() {
                assert_eq!(value as usize, index % rows * columns + index / rows);
            }
            assert_eq!(transposed(&found, columns, rows), values);
        }
    }
}
