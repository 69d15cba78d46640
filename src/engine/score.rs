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
use super::replay::Gradient;
use crate::affine::{FloatType, QuantizeError};
use crate::candidate::Quant;
use crate::checkpoint::SourceModel;
use crate::error::{Error, Result};
use crate::nearest;
use crate::sensitivity::{LayerSensitivity, Method, Score};
use crate::spec::TensorSpec;

/// Parts of the sequences whose diagonal scores are compared to get a standard error.
const GROUPS: usize = 4;
/// Weights that one task handles, rounded up to whole rows.
const TASK: usize = 1 << 14;

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
    /// Weights, and sums of squared gradients over some sequences.
    Squares { weights: Vec<f32>, squares: Vec<f32>, sequences: usize },
    /// Rounding errors by candidate.
    Products { errors: Vec<Vec<bf16>>, squared: bool },
}

impl<'a> Scorer<'a> {
    pub(super) fn new(
        source: &SourceModel,
        settings: &'a AnalysisSettings<'a>,
        specs: &[&'a TensorSpec],
    ) -> Result<Self> {
        let mut layers = Vec::new();
        for spec in specs {
            let fits = |quant: &&Quant| quant.packed_columns(spec.shape[1]).is_some();
            let candidates: Vec<Quant> = settings.candidates.iter().filter(fits).copied().collect();
            let weights = decode(source.tensor(&spec.name)?);
            let sums = match settings.method {
                Method::FisherDiagonal => {
                    Sums::Squares { squares: vec![0.0; weights.len()], weights, sequences: 0 }
                }
                method => Sums::Products {
                    errors: rounding_errors(spec, &weights, &candidates, settings.dtype)?,
                    squared: method == Method::FisherDirectional,
                },
            };
            layers.push(ScoredLayer { spec, sums, parts: vec![Vec::new(); candidates.len()], candidates });
        }
        Ok(Self { settings, layers })
    }

    pub(super) fn add(&mut self, sequence: usize, gradients: &[Gradient]) -> Result<()> {
        let total = self.settings.sequences.len();
        let last_of_group =
            (sequence + 1) * GROUPS / total > sequence * GROUPS / total || sequence + 1 == total;
        let tokens = self.settings.sequences.get(sequence).map_or(1, Vec::len);
        for (layer, gradient) in self.layers.iter_mut().zip(gradients) {
            debug_assert_eq!(layer.spec.role, gradient.role);
            let gradient = gradient.gradient.as_dtype(mlx_rs::Dtype::Float32)?.contiguous()?;
            let finite = layer.add(as_slice(&gradient)?, tokens);
            if !finite {
                return Err(Error::engine(format!(
                    "layer `{}` has gradients that are not finite",
                    layer.spec.name
                ))
                .hint("the weights hold NaN or infinite values, or the text makes the model overflow"));
            }
            if last_of_group {
                layer.close_group(self.settings.dtype, tokens)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(self, finished: &mut impl FnMut(LayerSensitivity) -> Result<()>) -> Result<()> {
        for layer in self.layers {
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
    fn add(&mut self, gradient: &[f32], tokens: usize) -> bool {
        match &mut self.sums {
            Sums::Squares { squares, sequences, .. } => {
                *sequences += 1;
                add_squares(squares, gradient)
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

    /// Scores what squares were summed since the last group and starts anew.
    fn close_group(&mut self, dtype: FloatType, tokens: usize) -> Result<()> {
        let Sums::Squares { weights, squares, sequences } = &mut self.sums else { return Ok(()) };
        let columns = self.spec.shape[1];
        let step = TASK.div_ceil(columns) * columns;
        let candidates = &self.candidates;
        // Collected in order and summed after, so that the result does not depend on the threads.
        let sums: Vec<Vec<f64>> = weights
            .par_chunks(step)
            .zip(squares.par_chunks(step))
            .map_init(Vec::new, |errors, (weights, squares)| {
                errors.resize(weights.len(), 0.0);
                let score = |quant: &Quant| weighted_error(weights, squares, columns, *quant, dtype, errors);
                candidates.iter().map(score).collect::<Result<_, QuantizeError>>()
            })
            .collect::<Result<_, QuantizeError>>()
            .map_err(|e| unrounded(self.spec, &e))?;
        let per_token = 0.5 / (*sequences * tokens) as f64;
        for (candidate, parts) in self.parts.iter_mut().enumerate() {
            parts.push(sums.iter().map(|task| task[candidate]).sum::<f64>() * per_token);
        }
        squares.fill(0.0);
        *sequences = 0;
        Ok(())
    }
}

fn unrounded(spec: &TensorSpec, error: &QuantizeError) -> Error {
    Error::engine(format!("{}: {error}", spec.name))
}

/// `Q(W) - W` of each candidate, in two bytes a weight: there are many, and they only enter sums.
fn rounding_errors(
    spec: &TensorSpec,
    weights: &[f32],
    candidates: &[Quant],
    dtype: FloatType,
) -> Result<Vec<Vec<bf16>>> {
    let columns = spec.shape[1];
    let step = TASK.div_ceil(columns) * columns;
    let rounded = |quant: &Quant| {
        let mut rounded = vec![bf16::ZERO; weights.len()];
        rounded.par_chunks_mut(step).zip(weights.par_chunks(step)).try_for_each_init(
            Vec::new,
            |errors, (rounded, weights)| {
                errors.resize(weights.len(), 0.0f32);
                nearest::rounding_error_into(weights, columns, *quant, dtype, errors)?;
                rounded.convert_from_f32_slice(errors);
                Ok(())
            },
        )?;
        Ok(rounded)
    };
    candidates.iter().map(rounded).collect::<Result<_, QuantizeError>>().map_err(|e| unrounded(spec, &e))
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
        .map(|(sum, values)| {
            let mut total = 0.0f32;
            for (s, g) in sum.iter_mut().zip(values) {
                *s += g * g;
                total += *s;
            }
            total.is_finite()
        })
        .reduce(|| true, |a, b| a && b)
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
