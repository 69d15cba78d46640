//! Measured KL divergences of whole models rounded to a few sizes, on a part of the text, to correct predictions by.
//!
//! One pass over the blocks runs the float model and each rounded one, so that one block is in memory at a time.

use mlx_rs::Array;

use super::scores::rounding_failed;
use crate::engine::array::{mlx_dtype, slice, to_vec};
use crate::engine::decoder::block::Block;
use crate::engine::decoder::linear::{Weight, split_experts};
use crate::engine::decoder::load::{Loader, load_changed};
use crate::engine::decoder::model::Head;
use crate::engine::passes::collector::{Collector, Extent, Moment, Moments};
use crate::engine::passes::forward::{FinalStates, Pass, forward};
use crate::engine::passes::states::StoredState;
use crate::engine::runtime::Engine;
use crate::error::Result;
use crate::models::bitmap::BitMap;
use crate::models::source::SourceModel;
use crate::models::spec::{Role, TensorSpec};
use crate::numerics::affine::FloatType;
use crate::numerics::divergence;
use crate::numerics::rounding::{Importance, Rounder, Technique};

/// Sequences and bit maps of a measurement.
pub struct CorrectionSettings<'a> {
    /// Token ids to measure on, all of one length.
    pub sequences: &'a [Vec<u32>],
    /// Bit maps of the whole models.
    pub bitmaps: &'a [BitMap],
    /// Rounding technique of the whole models: the one that sensitivities were scored with.
    pub technique: Technique,
    /// Dtype of scales and biases.
    pub dtype: FloatType,
    /// Most bytes of hidden states in memory; more go to a temporary file.
    pub memory: u64,
    /// Called with (steps done, total steps).
    pub progress: &'a dyn Fn(usize, usize),
}

/// Rounded model on its way through the blocks.
struct RoundedModel<'a> {
    bitmap: &'a BitMap,
    states: Vec<StoredState>,
}

/// Measures the mean KL divergence per token of each bit map, in nats.
pub fn measure_corrections(
    engine: &Engine,
    source: &SourceModel,
    settings: &CorrectionSettings<'_>,
) -> Result<Vec<f64>> {
    let loader = Loader::new(source, engine.compute_dtype(source.dtype()?));
    let mut pass = Pass::embed(engine, loader, settings.sequences, 1, settings.memory)?;
    let mut rounded = Vec::new();
    for bitmap in settings.bitmaps {
        let embedded = pass.states.iter().map(|state| pass.store.put(pass.store.get(state)?));
        rounded.push(RoundedModel { bitmap, states: embedded.collect::<Result<_>>()? });
    }
    let blocks = source.spec().blocks.len();
    for index in 0..blocks {
        let mut block = Block::load_for_many(&loader, pass.context, index)?;
        let mut collector = Collector::new(Extent::Diagonal);
        advance(&mut pass, &block, &mut collector)?;
        let moments = collector.take_moments()?;
        for model in &mut rounded {
            for spec in float_layers(source, index) {
                round_into(&mut block, loader, settings, model.bitmap, spec, &moments)?;
            }
            for states in model.states.chunks_mut(pass.streams.count()) {
                let inputs = states.iter().map(|state| pass.store.get(state)).collect::<Result<Vec<_>>>()?;
                let outputs = forward(pass.context, pass.streams, &block, &inputs, None)?;
                for (state, y) in states.iter_mut().zip(outputs) {
                    let input = std::mem::replace(state, pass.store.put(y)?);
                    pass.store.discard(input);
                }
            }
        }
        (settings.progress)(index + 1, blocks);
    }
    let tokens: usize = settings.sequences.iter().map(Vec::len).sum();
    let last = pass.into_final()?;
    let importance = last.head_moments(Extent::Diagonal)?;
    let mut divergences = Vec::new();
    // Rounded heads are in memory one at a time; otherwise all models share the float model's logits.
    let models_per_head = if rounds_head(source, settings.bitmaps) { 1 } else { rounded.len().max(1) };
    for models in rounded.chunks(models_per_head) {
        let bitmap = models.first().map(|model| model.bitmap);
        let head = round_head(loader, settings, bitmap, &last, &importance)?;
        let mut totals = vec![0.0; models.len()];
        for sequence in 0..last.len() {
            let states = models.iter().map(|model| last.store.get(&model.states[sequence]));
            let sums = last.divergences(sequence, &states.collect::<Result<Vec<_>>>()?, &head)?;
            totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
        divergences.extend(totals.into_iter().map(|total| total / tokens as f64));
    }
    Ok(divergences)
}

/// Returns the linear layers of a block that are not quantized yet.
pub(crate) fn float_layers(source: &SourceModel, block: usize) -> impl Iterator<Item = &TensorSpec> {
    let float = |spec: &&TensorSpec| !source.bitmap().contains_key(spec.path().unwrap_or_default());
    source.manifest().iter().filter(move |s| s.layer == Some(block) && s.quantizable()).filter(float)
}

/// Advances `pass` through `block` and discards the block's inputs; `collector` sees the inputs of its linear layers.
pub(crate) fn advance(pass: &mut Pass<'_>, block: &Block, collector: &mut Collector) -> Result<()> {
    for input in pass.advance(block, Some(collector))? {
        pass.store.discard(input);
    }
    Ok(())
}

/// Replaces the weights of `spec` in `block` by those rounded as `bitmap` says, or by the float ones where it does not
/// list the layer.
fn round_into(
    block: &mut Block,
    loader: Loader<'_>,
    settings: &CorrectionSettings<'_>,
    bitmap: &BitMap,
    spec: &TensorSpec,
    moments: &Moments,
) -> Result<()> {
    let weights = rounded_weights(loader, settings, bitmap, spec, moments)?;
    let weights = match spec.experts() {
        Some(count) => split_experts(&weights, count)?,
        None => vec![weights],
    };
    for (linear, weight) in block.linears_mut(spec.path().unwrap_or_default()).iter_mut().zip(weights) {
        linear.weight = Weight::Float(weight);
    }
    Ok(())
}

fn rounded_weights(
    loader: Loader<'_>,
    settings: &CorrectionSettings<'_>,
    bitmap: &BitMap,
    spec: &TensorSpec,
    moments: &Moments,
) -> Result<Array> {
    let Some(&quant) = spec.path().and_then(|path| bitmap.get(path)) else {
        return loader.float(&spec.name);
    };
    let (rows, columns) = (spec.rows(), spec.columns());
    let importance = spec.tap.and_then(|tap| moments.get(&tap)).map(Moment::diagonals).unwrap_or_default();
    let importance = Importance::new(&importance, rows, columns);
    let rounder = Rounder { dtype: settings.dtype, searched: settings.technique.is_searched(), importance };
    let weights = load_changed(loader.source.tensor(&spec.name)?, |first, weights, errors| {
        rounder.error_into(first, weights, columns, quant, errors).map_err(|e| rounding_failed(spec, &e))
    })?;
    Ok(weights.as_dtype(mlx_dtype(loader.dtype))?)
}

/// Returns the head's tensor if `bitmap` lists it.
fn head_in<'a>(source: &'a SourceModel, bitmap: &BitMap) -> Option<&'a TensorSpec> {
    let spec = source.manifest().iter().find(|spec| spec.role == Role::Head)?;
    bitmap.contains_key(spec.path()?).then_some(spec)
}

fn rounds_head(source: &SourceModel, bitmaps: &[BitMap]) -> bool {
    bitmaps.iter().any(|bitmap| head_in(source, bitmap).is_some())
}

/// Returns the head with the rounded model's weights, or the float head where it is tied or stays float.
fn round_head(
    loader: Loader<'_>,
    settings: &CorrectionSettings<'_>,
    bitmap: Option<&BitMap>,
    last: &FinalStates<'_>,
    moments: &Moments,
) -> Result<Head> {
    let mut head = last.head.clone();
    if let Some(bitmap) = bitmap
        && let Some(spec) = head_in(loader.source, bitmap)
    {
        head.weight = Weight::Float(rounded_weights(loader, settings, bitmap, spec, moments)?);
    }
    Ok(head)
}

impl FinalStates<'_> {
    /// Computes sums of KL divergences, in nats, over the tokens of a sequence whose last hidden states became each of
    /// `states`, through `head`.
    pub(crate) fn divergences(&self, sequence: usize, states: &[Array], head: &Head) -> Result<Vec<f64>> {
        let tokens = states.first().map_or(0, |x| x.shape()[1] as usize);
        let mut totals = vec![0.0; states.len()];
        for start in (0..tokens).step_by(self.positions_at_once()) {
            let end = (start + self.positions_at_once()).min(tokens);
            let reference = self.logits(sequence, start, end)?;
            for (total, x) in totals.iter_mut().zip(states) {
                let logits = to_vec(&head.logits(&slice(x, 1, start, end)?)?)?;
                let rows = divergence::kl_divergences(&logits, &reference, self.context.spec.vocab_size);
                *total += rows.iter().sum::<f64>();
            }
        }
        Ok(totals)
    }
}
