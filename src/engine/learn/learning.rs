//! Blocks and heads whose scales, biases and norms are differentiated, with MLX's own vjp through `scale * code +
//! bias`.

use mlx_rs::Array;
use mlx_rs::transforms::eval;
use rayon::prelude::*;
use std::collections::BTreeSet;

use crate::engine::array::{Packed, vector_jacobian_products};
use crate::engine::decoder::block::Block;
use crate::engine::decoder::linear::{Weight, split_experts};
use crate::engine::decoder::load::Loader;
use crate::engine::decoder::mlp::Context;
use crate::engine::decoder::model::Head;
use crate::engine::decoder::positions::Positions;
use crate::engine::passes::forward::FinalStates;
use crate::engine::passes::replay::choose_experts;
use crate::engine::streams::Streams;
use crate::error::{Error, Result};
use crate::models::source::SourceModel;
use crate::models::spec::{BlockSpec, Role};
use crate::numerics::lanes;

/// Part that norms take in learning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// They stay as they are.
    Fixed,
    /// They learn too.
    Learning,
}

/// Tensors that learn in a block.
pub(crate) struct LearningTensors {
    layers: Vec<String>,
    norms: Vec<String>,
}

impl LearningTensors {
    /// Lists the `layers`, by path, that are in block `index`, and its norms if they learn.
    pub(crate) fn new(source: &SourceModel, index: usize, layers: &BTreeSet<String>, norms: Norms) -> Self {
        let specs = || source.manifest().iter().filter(|spec| spec.layer == Some(index));
        let chosen = specs().filter_map(|spec| Some(spec.path()?.to_owned()));
        let named = specs()
            .filter(|spec| norms == Norms::Learning && spec.role == Role::Norm)
            .map(|spec| spec.name.clone());
        Self { layers: chosen.filter(|path| layers.contains(path)).collect(), norms: named.collect() }
    }

    /// Returns the names of the tensors that learn, in the order of their gradients.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let parts = |path: &String| [format!("{path}.scales"), format!("{path}.biases")];
        self.layers.iter().flat_map(parts).chain(self.norms.iter().cloned())
    }
}

/// Computes the matrix [rows, columns] of `codes` [rows, groups, group size] with scales and biases [rows, groups].
fn decode(codes: &Array, scales: &Array, biases: &Array) -> Result<Array> {
    let size = codes.shape();
    let (rows, columns) = (size[0], size[1] * size[2]);
    let decoded = codes.multiply(scales.expand_dims(2)?)?.add(biases.expand_dims(2)?)?;
    Ok(decoded.reshape(&[rows, columns])?)
}

/// Returns the codes of an affine matrix and appends its scales and biases to `primals`.
fn unpack(packed: &Packed, path: &str, primals: &mut Vec<Array>) -> Result<Array> {
    let biases = packed.biases.as_ref();
    let biases = biases.ok_or_else(|| Error::engine(format!("layer `{path}` has no biases to learn")))?;
    primals.extend([packed.scales.clone(), biases.clone()]);
    let codes = packed.codes()?;
    eval([&codes])?;
    Ok(codes)
}

/// Stacks the scales and biases of several experts, given in turn, to one array of scales and one of biases, as they
/// are stored.
fn stack_experts(parts: &[Array]) -> Result<Vec<Array>> {
    if let [scales, biases] = parts {
        return Ok(vec![scales.clone(), biases.clone()]);
    }
    let all = |first: usize| -> Result<Array> {
        let parts = parts.iter().skip(first).step_by(2).map(|part| part.expand_dims(0));
        Ok(mlx_rs::ops::concatenate(&parts.collect::<Result<Vec<_>, _>>()?, 0)?)
    };
    Ok(vec![all(0)?, all(1)?])
}

/// Splits stored scales or biases of `count` matrices into those of each.
fn unstack_experts(all: &Array, count: usize) -> Result<Vec<Array>> {
    if all.ndim() == 2 { Ok(vec![all.clone()]) } else { split_experts(all, count) }
}

fn missing_values() -> Error {
    Error::engine("a layer's scales or biases are missing")
}

fn not_quantized(path: &str) -> Error {
    Error::engine(format!("layer `{path}` is not quantized and has no scales to learn"))
}

/// Block in memory whose learning layers are float codes.
pub(crate) struct LearningBlock<'a> {
    context: Context<'a>,
    spec: &'a BlockSpec,
    block: Block,
    /// Codes of the learning layers by path: one array, or one per expert.
    codes: Vec<(String, Vec<Array>)>,
    norms: Vec<String>,
    /// Scales and biases of the layers, stacked for experts, then norms.
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
        let (mut codes, mut values) = (Vec::new(), Vec::new());
        for path in &tensors.layers {
            let (mut each, mut parts) = (Vec::new(), Vec::new());
            for linear in block.linears_mut(path) {
                let Weight::Quantized(packed) = &linear.weight else { return Err(not_quantized(path)) };
                each.push(unpack(packed, path, &mut parts)?);
            }
            values.extend(stack_experts(&parts)?);
            codes.push((path.clone(), each));
        }
        for name in &tensors.norms {
            values.push(loader.float(name)?);
        }
        if !context.on_gpu {
            block.decode(context, |path| tensors.layers.iter().all(|layer| layer != path))?;
        }
        let spec = &context.spec.blocks[index];
        Ok(Self { context, spec, block, codes, norms: tensors.norms.clone(), values })
    }

    /// Computes the gradients with respect to the input `x` and the values that learn.
    pub(crate) fn gradients(&self, x: Array, cotangent: &Array) -> Result<Vec<Array>> {
        let tokens = x.shape()[1] as usize;
        let one = Streams::new(1);
        let choice = choose_experts(self.context, one, &self.block, std::iter::once(&x))?.swap_remove(0);
        let mut primals = vec![x];
        primals.extend_from_slice(&self.values);
        let output = |primals: &[Array]| {
            let block = self.block_with(&primals[1..])?;
            let mut positions = Positions::new(self.context.spec, 0, tokens);
            block.forward_chosen(self.context, &primals[0], &mut positions, choice.as_ref())
        };
        let gradients = vector_jacobian_products(output, &primals, cotangent.clone())?;
        eval(&gradients)?;
        Ok(gradients)
    }

    /// Returns the block with these `values` of what learns.
    fn block_with(&self, values: &[Array]) -> Result<Block> {
        let mut block = self.block.clone();
        let mut values = values.iter();
        for (path, codes) in &self.codes {
            let scales = unstack_experts(values.next().ok_or_else(missing_values)?, codes.len())?;
            let biases = unstack_experts(values.next().ok_or_else(missing_values)?, codes.len())?;
            let linears = block.linears_mut(path).iter_mut();
            for (((linear, codes), scales), biases) in linears.zip(codes).zip(&scales).zip(&biases) {
                linear.weight = Weight::Float(decode(codes, scales, biases)?);
            }
        }
        for (name, value) in self.norms.iter().zip(values) {
            block.set_norm(self.spec, name, value)?;
        }
        Ok(block)
    }
}

/// The last hidden states and the head, with its scales and biases as values if it learns.
pub(crate) struct LearningHead<'a> {
    pub(crate) last: FinalStates<'a>,
    /// Names of the tensors that learn, in the order of their gradients.
    pub(crate) names: Vec<String>,
    codes: Option<Array>,
    norms: Norms,
    values: Vec<Array>,
}

impl<'a> LearningHead<'a> {
    /// Makes a head in which the layer `path`, if any, learns, and the norm before it if norms do.
    pub(crate) fn new(
        loader: &Loader<'_>,
        last: FinalStates<'a>,
        path: Option<&str>,
        norms: Norms,
    ) -> Result<Self> {
        let (mut names, mut values, mut codes) = (Vec::new(), Vec::new(), None);
        if let Some(path) = path {
            let Weight::Quantized(packed) = loader.weight(path)? else { return Err(not_quantized(path)) };
            codes = Some(unpack(&packed, path, &mut values)?);
            names.extend([format!("{path}.scales"), format!("{path}.biases")]);
        }
        if norms == Norms::Learning {
            for (_, name) in loader.source.spec().head.norm.names() {
                values.push(loader.float(&name)?);
                names.push(name);
            }
        }
        Ok(Self { last, names, codes, norms, values })
    }

    /// Computes the gradients with respect to the hidden states `part` and the values that learn.
    pub(crate) fn gradients(&self, part: Array, cotangent: Array) -> Result<Vec<Array>> {
        let head = &self.last.head;
        let mut primals = vec![part];
        primals.extend_from_slice(&self.values);
        let logits = |primals: &[Array]| {
            let mut values = primals[1..].iter();
            let weight = match &self.codes {
                Some(codes) => {
                    let scales = values.next().ok_or_else(missing_values)?;
                    let biases = values.next().ok_or_else(missing_values)?;
                    Weight::Float(decode(codes, scales, biases)?)
                }
                None => head.weight.clone(),
            };
            let mut head = Head { weight, ..head.clone() };
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
