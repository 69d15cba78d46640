//! Correction factors for whole layers, whose error differs from the sum over single weights that scores stand for.
//! Measured on some rows of a few blocks.

use mlx_rs::Array;
use std::collections::BTreeSet;

use super::scores::rounding_failed;
use super::whole_models::{advance, float_layers};
use crate::choose::correction::{ByBits, Correction};
use crate::engine::array::{from_vec, to_vec};
use crate::engine::decoder::block::Block;
use crate::engine::decoder::load::{Loader, decode_part};
use crate::engine::passes::collector::{Collector, Extent, Moments};
use crate::engine::passes::forward::Pass;
use crate::engine::runtime::Engine;
use crate::error::Result;
use crate::models::source::SourceModel;
use crate::models::spec::TensorSpec;
use crate::numerics::affine;
use crate::numerics::affine::FloatType;
use crate::numerics::quant::Quant;
use crate::numerics::rounding::{DAMPING, Hessian, RoundingError, gptq, search_error_into};

/// Rows of each matrix that are tried.
const TRIED_ROWS: usize = 16;

/// Sequences and quantizations to try.
pub struct FactorSettings<'a> {
    /// Token ids of the text that errors are weighed with.
    pub sequences: &'a [Vec<u32>],
    /// Token ids of another text, for GPTQ's Hessians: on the text of its Hessian GPTQ looks better than it is. Empty
    /// where GPTQ is not asked for.
    pub seen: &'a [Vec<u32>],
    /// Bits and group sizes, one of each bit width.
    pub quants: &'a [Quant],
    /// Dtype of scales and biases.
    pub dtype: FloatType,
    /// Most bytes of hidden states in memory; more go to a temporary file.
    pub memory: u64,
    /// Called with (steps done, total steps).
    pub progress: &'a dyn Fn(usize, usize),
}

/// Tries scale search, and GPTQ if it is asked for, on every layer of two blocks: the first, which differs from all
/// others, and the one in the middle. A factor is the output error divided by the error that scores stand for.
pub fn measure_factors(
    engine: &Engine,
    source: &SourceModel,
    settings: &FactorSettings<'_>,
) -> Result<Correction> {
    let loader = Loader::new(source, engine.compute_dtype(source.dtype()?));
    let start = |sequences| Pass::embed(engine, loader, sequences, 1, settings.memory);
    let (mut others, mut seen) = (start(settings.sequences)?, start(settings.seen)?);
    let last = source.spec().blocks.len() / 2;
    let tried = BTreeSet::from([0, last]);
    let mut factors = Correction::default();
    for index in 0..=last {
        let block = Block::load_for_many(&loader, others.context, index)?;
        let extent = if tried.contains(&index) { Extent::Full } else { Extent::Diagonal };
        let mut collectors = [Collector::new(extent), Collector::new(extent)];
        advance(&mut others, &block, &mut collectors[0])?;
        advance(&mut seen, &block, &mut collectors[1])?;
        if tried.contains(&index) {
            let [others, seen] = &mut collectors;
            let inputs = BlockMoments { seen: seen.take_estimates()?, others: others.take_moments()? };
            try_block(source, settings, index, &inputs, &mut factors)?;
        }
        (settings.progress)(index + 1, last + 1);
    }
    Ok(factors)
}

/// E[x x^T] of a block's inputs, on two texts.
struct BlockMoments {
    /// Moments that GPTQ rounds with; empty where it is not asked for.
    seen: Moments,
    /// Moments that errors are weighed with.
    others: Moments,
}

fn try_block(
    source: &SourceModel,
    settings: &FactorSettings<'_>,
    block: usize,
    inputs: &BlockMoments,
    factors: &mut Correction,
) -> Result<()> {
    for (&tap, moments) in &inputs.others {
        let specs = || float_layers(source, block).filter(|spec| spec.tap == Some(tap));
        let Some(columns) = specs().map(TensorSpec::columns).next() else { continue };
        // One expert represents all: the one that gets the most tokens.
        let busiest = moments.busiest();
        let others = ErrorWeights::new(moments.of(busiest), columns);
        let mut hessian = None;
        for spec in specs() {
            crate::interrupt::check()?;
            let seen = inputs.seen.get(&tap).map(|seen| seen.of(busiest)).unwrap_or_default();
            if hessian.is_none() && !seen.is_empty() {
                let factored = Hessian::new(seen, columns, DAMPING);
                hessian = Some(factored.map_err(|e| rounding_failed(spec, &e))?);
            }
            let rows = spec.rows() / spec.experts().unwrap_or(1);
            let first = busiest * rows * columns;
            let weights =
                decode_part(source.tensor(&spec.name)?, first..first + rows.min(TRIED_ROWS) * columns);
            let layer = TriedRows { spec, weights: &weights, others: &others, settings };
            let path = spec.path().unwrap_or_default();
            let [search, gptq] = layer.factors(hessian.as_ref())?;
            for (by_path, by_bits) in [(&mut factors.search, search), (&mut factors.gptq, gptq)] {
                if !by_bits.is_empty() {
                    by_path.insert(path.to_owned(), by_bits);
                }
            }
        }
    }
    Ok(())
}

/// Error weights H = E[x x^T] of a matrix's input.
struct ErrorWeights {
    moments: Array,
    diagonal: Vec<f32>,
}

impl ErrorWeights {
    fn new(moments: &[f32], columns: usize) -> Self {
        Self {
            moments: from_vec(moments.to_vec(), &[columns, columns]),
            diagonal: moments.iter().step_by(columns + 1).copied().collect(),
        }
    }

    /// Computes tr(E H E^T).
    fn loss(&self, errors: &[f32]) -> Result<f64> {
        let columns = self.diagonal.len();
        let errors = from_vec(errors.to_vec(), &[errors.len() / columns, columns]);
        let products = to_vec(&errors.matmul(&self.moments)?.multiply(&errors)?)?;
        Ok(products.iter().map(|&product| f64::from(product)).sum())
    }

    /// Computes tr(E diag(H) E^T): the loss if the errors were independent.
    fn independent(&self, errors: &[f32]) -> f64 {
        let rows = errors.chunks_exact(self.diagonal.len());
        let weighed = rows.flat_map(|row| row.iter().zip(&self.diagonal));
        weighed.map(|(error, moment)| f64::from(error * error * moment)).sum()
    }
}

/// Rows of a layer that are tried.
struct TriedRows<'a> {
    spec: &'a TensorSpec,
    weights: &'a [f32],
    others: &'a ErrorWeights,
    settings: &'a FactorSettings<'a>,
}

impl TriedRows<'_> {
    /// Computes the factors of scale search, and those of GPTQ if there is a `hessian`.
    fn factors(&self, hessian: Option<&Hessian<'_>>) -> Result<[ByBits; 2]> {
        let (mut search, mut gptq_factors) = (ByBits::new(), ByBits::new());
        let others = self.others;
        let columns = others.diagonal.len();
        let importance = hessian.map_or_else(|| others.diagonal.clone(), Hessian::diagonal);
        let fits = |quant: &&Quant| quant.packed_columns(columns).is_some();
        for &quant in self.settings.quants.iter().filter(fits) {
            let errors =
                self.search_errors(quant, &importance).map_err(|e| rounding_failed(self.spec, &e))?;
            let loss = others.loss(&errors)?;
            let scored = others.independent(&errors);
            if scored <= 0.0 {
                continue;
            }
            search.insert(quant.bits, loss / scored);
            if let Some(hessian) = hessian {
                let errors = self.gptq_errors(quant, hessian).map_err(|e| rounding_failed(self.spec, &e))?;
                gptq_factors.insert(quant.bits, others.loss(&errors)? / scored);
            }
        }
        Ok([search, gptq_factors])
    }

    /// Computes `Q(W) - W` for scale search.
    fn search_errors(&self, quant: Quant, importance: &[f32]) -> Result<Vec<f32>, RoundingError> {
        let mut errors = vec![0.0; self.weights.len()];
        let (columns, dtype) = (self.others.diagonal.len(), self.settings.dtype);
        search_error_into(self.weights, columns, quant, dtype, Some(importance), &mut errors)?;
        Ok(errors)
    }

    /// Computes `Q(W) - W` for GPTQ.
    fn gptq_errors(&self, quant: Quant, hessian: &Hessian<'_>) -> Result<Vec<f32>, RoundingError> {
        let mut errors = vec![0.0; self.weights.len()];
        let dtype = self.settings.dtype;
        let rounded = gptq(self.weights, quant, dtype, hessian)?;
        affine::dequantize(rounded.quantized.as_slices(), quant, dtype, &mut errors)?;
        errors.iter_mut().zip(self.weights).for_each(|(rounded, weight)| *rounded -= weight);
        Ok(errors)
    }
}
