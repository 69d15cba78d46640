//! A sensitivity table as a knapsack, for the curve of size against predicted divergence.

use super::candidate::Candidate;
use super::scores::LayerSensitivity;
use crate::choose::allocate::{Choice, Layer, Problem};
use crate::error::Result;

/// Returns the choice between every candidate of a table, and float at no cost, where scales take `width` bytes.
pub fn problem(layers: &[LayerSensitivity], width: usize) -> Result<Problem> {
    Problem::new(layers.iter().map(|layer| options(layer, width)).collect(), &[])
}

/// Returns the number of weights of all layers.
pub fn weights(layers: &[LayerSensitivity]) -> u64 {
    layers.iter().map(|layer| (layer.rows * layer.columns) as u64).sum()
}

fn options(layer: &LayerSensitivity, width: usize) -> Layer {
    let measured = layer.scores.iter().map(|score| (Candidate::Quantized(score.quant), score.kl));
    let options = measured.chain([(Candidate::Keep, 0.0)]).filter_map(|(candidate, loss)| {
        Some(Choice { candidate, bytes: candidate.bytes(layer.rows, layer.columns, width)?, loss })
    });
    Layer { path: layer.path.clone(), options: options.collect() }
}

/// Distance of a curve's points, in bits per weight.
pub const STEP: f64 = 0.25;
