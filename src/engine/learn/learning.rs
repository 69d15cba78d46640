//! Blocks and heads that are differentiated, by MLX's own vjp, with respect to what learns in them.

use mlx_rs::Array;
use mlx_rs::transforms::eval;
use rayon::prelude::*;
use std::collections::BTreeMap;

use super::layer::{Codes, LearningLayer, tensor_names};
use crate::engine::array::vector_jacobian_products;
use crate::engine::decoder::block::Block;
use crate::engine::decoder::load::Loader;
use crate::engine::decoder::mlp::Context;
use crate::engine::decoder::positions::Positions;
use crate::engine::passes::forward::FinalStates;
use crate::engine::passes::replay::choose_experts;
use crate::engine::streams::Streams;
use crate::error::Result;
use crate::models::source::SourceModel;
use crate::models::spec::{BlockSpec, Role};
use crate::numerics::lanes;
use crate::numerics::quant::Quant;

/// Part that norms take in learning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Norms {
    /// They stay as they are.
    #[default]
    Fixed,
    /// They learn too.
    Learning,
}

/// Parts of a quantized model that learn: scales and biases of affine layers, and on request codes of all and norms.
#[derive(Debug, Clone, Default)]
pub struct Learners {
    /// The layers by path, and what they are quantized to. Where codes stay, all are affine.
    pub layers: BTreeMap<String, Quant>,
    /// Codes of those layers.
    pub codes: Codes,
    /// Norms of the whole model.
    pub norms: Norms,
}

/// Tensors that learn in a block.
pub(crate) struct LearningTensors {
    layers: Vec<(String, Quant)>,
    codes: Codes,
    norms: Vec<String>,
}

impl LearningTensors {
    /// Lists the tensors of the `learners` that are in block `index`.
    pub(crate) fn new(source: &SourceModel, index: usize, learners: &Learners) -> Self {
        let Learners { layers, codes, norms } = learners;
        let specs = || source.manifest().iter().filter(|spec| spec.layer == Some(index));
        let chosen = specs().filter_map(|spec| layers.get_key_value(spec.path()?));
        let named = specs()
            .filter(|spec| *norms == Norms::Learning && spec.role == Role::Norm)
            .map(|spec| spec.name.clone());
        let layers = chosen.map(|(path, quant)| (path.clone(), *quant)).collect();
        Self { layers, codes: *codes, norms: named.collect() }
    }

    /// Returns the names of the tensors that learn, in the order of their gradients.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let of_layers =
            self.layers.iter().flat_map(|(path, quant)| tensor_names(path, quant.mode, self.codes));
        of_layers.chain(self.norms.iter().cloned())
    }
}

/// Block in memory whose learning layers are taken apart.
pub(crate) struct LearningBlock<'a> {
    context: Context<'a>,
    spec: &'a BlockSpec,
    block: Block,
    /// Learning layers by path.
    layers: Vec<(String, LearningLayer)>,
    norms: Vec<String>,
    /// Values that learn, in the order of their names.
    values: Vec<Array>,
}

impl<'a> LearningBlock<'a> {
    /// Loads block `index`.
    pub(crate) fn load(
        loader: &Loader<'_>,
        context: Context<'a>,
        index: usize,
        tensors: &LearningTensors,
    ) -> Result<Self> {
        let mut block = Block::load(loader, index)?;
        let (mut layers, mut values) = (Vec::new(), Vec::new());
        for (path, _) in &tensors.layers {
            let weights = block.linears_mut(path).iter().map(|linear| &linear.weight);
            layers.push((path.clone(), LearningLayer::new(path, weights, tensors.codes, &mut values)?));
        }
        for name in &tensors.norms {
            values.push(loader.float(name)?);
        }
        if !context.on_gpu {
            block.decode(context, |path| tensors.layers.iter().all(|(layer, _)| layer != path))?;
        }
        let spec = &context.spec.blocks[index];
        Ok(Self { context, spec, block, layers, norms: tensors.norms.clone(), values })
    }

    /// Computes the gradients with respect to the input `x` and the values that learn.
    pub(crate) fn gradients(&self, x: Array, cotangent: &Array) -> Result<Vec<Array>> {
        self.gradients_of(x, Ok, cotangent.clone())
    }

    /// Computes the gradients of a `share` of the mean squared difference of the output from `target`, with the `weights` of hidden
    /// values, with respect to the values that learn.
    pub(crate) fn gradients_towards(
        &self,
        x: Array,
        target: &Array,
        weights: &Array,
        share: f32,
    ) -> Result<Vec<Array>> {
        let error = |y: Array| weighted_error(&y, target, weights);
        Ok(self.gradients_of(x, error, Array::from_f32(share))?.split_off(1))
    }

    /// Computes the gradients of `objective` of the output, at this `cotangent`, with respect to the input `x` and the values
    /// that learn.
    fn gradients_of(
        &self,
        x: Array,
        objective: impl Fn(Array) -> Result<Array>,
        cotangent: Array,
    ) -> Result<Vec<Array>> {
        let tokens = x.shape()[1] as usize;
        let one = Streams::new(1);
        let choice = choose_experts(self.context, one, &self.block, std::iter::once(&x))?.swap_remove(0);
        let mut primals = vec![x];
        primals.extend_from_slice(&self.values);
        let output = |primals: &[Array]| {
            let block = self.block_with(&primals[1..])?;
            let mut positions = Positions::new(self.context.spec, 0, tokens);
            objective(block.forward_chosen(self.context, &primals[0], &mut positions, choice.as_ref())?)
        };
        let gradients = vector_jacobian_products(output, &primals, cotangent)?;
        eval(&gradients)?;
        Ok(gradients)
    }

    /// Returns the block with these `values` of what learns.
    fn block_with(&self, values: &[Array]) -> Result<Block> {
        let mut block = self.block.clone();
        let mut values = values.iter();
        for (path, layer) in &self.layers {
            let matrices = layer.matrices(&mut values)?;
            for (linear, matrix) in block.linears_mut(path).iter_mut().zip(matrices) {
                linear.weight = matrix;
            }
        }
        for (name, value) in self.norms.iter().zip(values) {
            block.set_norm(self.spec, name, value)?;
        }
        Ok(block)
    }
}

/// Computes the mean of the squared differences of `y` from `target` [sequences, tokens, hidden] times `weights` [hidden].
pub(crate) fn weighted_error(y: &Array, target: &Array, weights: &Array) -> Result<Array> {
    let difference = y.subtract(target)?;
    Ok(difference.square()?.multiply(weights)?.mean(None)?)
}

/// Returns the path of the head's layer and its setting, if it is one of the `learners`.
fn head_layer<'l>(source: &SourceModel, learners: &'l Learners) -> Option<(&'l str, Quant)> {
    let head = &source.spec().head;
    let (path, quant) = learners.layers.get_key_value(&head.path).filter(|_| !head.tied)?;
    Some((path.as_str(), *quant))
}

/// Returns the names of the tensors of the head and of the norm before it that learn, in the order of their gradients.
pub(crate) fn head_names(source: &SourceModel, learners: &Learners) -> Vec<String> {
    let layer = head_layer(source, learners)
        .into_iter()
        .flat_map(|(path, quant)| tensor_names(path, quant.mode, learners.codes));
    let norms = source.spec().head.norm.names().map(|(_, name)| name);
    layer.chain(norms.filter(|_| learners.norms == Norms::Learning)).collect()
}

/// The last hidden states and the head, with what learns of it as values.
pub(crate) struct LearningHead<'a> {
    pub(crate) last: FinalStates<'a>,
    /// Names of the tensors that learn, in the order of their gradients.
    pub(crate) names: Vec<String>,
    layer: Option<LearningLayer>,
    norms: Norms,
    values: Vec<Array>,
}

impl<'a> LearningHead<'a> {
    /// Makes a head in which the `learners` learn.
    pub(crate) fn new(loader: &Loader<'_>, last: FinalStates<'a>, learners: &Learners) -> Result<Self> {
        let names = head_names(loader.source, learners);
        let (mut values, mut layer) = (Vec::new(), None);
        if let Some((path, _)) = head_layer(loader.source, learners) {
            let weight = loader.weight(path)?;
            let weights = std::iter::once(&weight);
            layer = Some(LearningLayer::new(path, weights, learners.codes, &mut values)?);
        }
        for name in &names[values.len()..] {
            values.push(loader.float(name)?);
        }
        Ok(Self { last, names, layer, norms: learners.norms, values })
    }

    /// Computes the gradients with respect to the hidden states `part` and the values that learn.
    pub(crate) fn gradients(&self, part: Array, cotangent: Array) -> Result<Vec<Array>> {
        let head = &self.last.head;
        let mut primals = vec![part];
        primals.extend_from_slice(&self.values);
        let logits = |primals: &[Array]| {
            let mut values = primals[1..].iter();
            let mut head = head.clone();
            if let Some(layer) = &self.layer {
                head.weight = layer.matrices(&mut values)?.swap_remove(0);
            }
            if self.norms == Norms::Learning {
                let norm = &self.last.context.spec.head.norm;
                for ((parameter, _), value) in norm.names().zip(values) {
                    head.norm.set(parameter, value.clone())?;
                }
            }
            head.logits(&primals[0])
        };
        let gradients = vector_jacobian_products(logits, &primals, cotangent)?;
        eval(&gradients)?;
        Ok(gradients)
    }
}

/// Turns rows of logits z into gradients of T^2 KL(softmax(target / T) || softmax(z / T)) with respect to them, T
/// (softmax(z / T) - softmax(target / T)), and returns the sum of it over the rows. `target` is overwritten.
pub(crate) fn divergence(logits: &mut [f32], target: &mut [f32], vocabulary: usize, temperature: f64) -> f64 {
    let rows = logits.par_chunks_mut(vocabulary).zip(target.par_chunks_mut(vocabulary));
    // Collected in order and summed after, so that the result does not depend on the threads.
    let rows: Vec<f64> = rows.map(|(z, t)| row_divergence(z, t, temperature)).collect();
    rows.iter().sum()
}

fn row_divergence(logits: &mut [f32], target: &mut [f32], temperature: f64) -> f64 {
    let (factor, inverse) = (temperature as f32, (1.0 / temperature) as f32);
    for values in [&mut *logits, &mut *target] {
        for x in values {
            *x *= inverse;
        }
    }
    let (largest_logit, largest_target) = (lanes::largest(logits), lanes::largest(target));
    let [target_sum, sum, weighted] =
        lanes::exponentials_and_divergence(target, largest_target, logits, largest_logit);
    let logit_scale = factor * (1.0 / sum) as f32;
    let target_scale = factor * (1.0 / target_sum) as f32;
    for (z, t) in logits.iter_mut().zip(&*target) {
        *z = *z * logit_scale - t * target_scale;
    }
    temperature * temperature * (weighted / target_sum + sum.ln() - target_sum.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference for log softmax(row / temperature), in float64.
    fn log_softmax(row: &[f32], temperature: f64) -> Vec<f64> {
        let scaled: Vec<f64> = row.iter().map(|&x| f64::from(x) / temperature).collect();
        let most = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = scaled.iter().map(|x| (x - most).exp()).sum::<f64>().ln();
        scaled.iter().map(|x| x - most - log_sum).collect()
    }

    #[test]
    fn divergences_and_their_gradients_at_any_temperature() {
        const ROWS: usize = 3;
        let mut rng = fastrand::Rng::with_seed(3);
        for (vocabulary, temperature, range, distance) in
            [(1, 1.0, 5.0, 1.0), (17, 2.0, 30.0, 3.0), (1000, 1.0, 12.0, 0.1), (4097, 0.5, 8.0, 0.5)]
        {
            let mut values = |range: f32| -> Vec<f32> {
                (0..ROWS * vocabulary).map(|_| (rng.f32() - 0.5) * range).collect()
            };
            let target = values(range);
            let differences = values(distance);
            let mut logits: Vec<f32> =
                target.iter().zip(differences).map(|(t, difference)| t + difference + 40.0).collect();
            let (mut expected, mut slopes) = (0.0, Vec::new());
            for (z, t) in logits.chunks(vocabulary).zip(target.chunks(vocabulary)) {
                let (z, t) = (log_softmax(z, temperature), log_softmax(t, temperature));
                for (z, t) in z.iter().zip(&t) {
                    expected += temperature * temperature * t.exp() * (t - z);
                    slopes.push(temperature * (z.exp() - t.exp()));
                }
            }
            let loss = divergence(&mut logits, &mut target.clone(), vocabulary, temperature);
            assert!((loss - expected).abs() < 1e-4 * expected + 1e-6, "{vocabulary}: {loss} {expected}");
            let largest = slopes.iter().fold(0.0f64, |most, slope| most.max(slope.abs()));
            for (gradient, slope) in logits.iter().zip(&slopes) {
                assert!((f64::from(*gradient) - slope).abs() <= 2e-5 * largest + 1e-7, "{gradient} {slope}");
            }
        }
    }
}
