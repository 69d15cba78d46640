//! A block and a head whose scales, biases and norms are differentiated: MLX's own vjp through `scale * code + bias`.

use mlx_rs::Array;
use mlx_rs::transforms::{eval, fallible_vjp};
use rayon::prelude::*;
use std::collections::BTreeSet;

use crate::engine::array::{Packed, exception};
use crate::engine::decoder::attention::Positions;
use crate::engine::decoder::block::Block;
use crate::engine::decoder::linear::{Weight, apart};
use crate::engine::decoder::load::Loader;
use crate::engine::decoder::mlp::Context;
use crate::engine::decoder::model::Head;
use crate::engine::passes::forward::FinalStates;
use crate::error::{Error, Result};
use crate::models::source::SourceModel;
use crate::models::spec::Role;
use crate::numerics::lanes;

/// The norm before the head.
pub(crate) const FINAL_NORM: &str = "model.norm.weight";

/// What learns in a block.
pub(crate) struct Members {
    layers: Vec<(Role, String)>,
    norms: Vec<String>,
}

impl Members {
    /// The `layers` of block `index`, by path, and its norms if `norms`.
    pub(crate) fn new(source: &SourceModel, index: usize, layers: &BTreeSet<String>, norms: bool) -> Self {
        let specs = || source.manifest().iter().filter(|spec| spec.layer == Some(index));
        let chosen = specs().filter_map(|spec| Some((spec.role, spec.path()?.to_owned())));
        let named = specs().filter(|spec| norms && spec.role == Role::Norm).map(|spec| spec.name.clone());
        Self { layers: chosen.filter(|(_, path)| layers.contains(path)).collect(), norms: named.collect() }
    }

    /// Names of the tensors that learn, in the order of their gradients.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let parts = |(_, path): &(Role, String)| [format!("{path}.scales"), format!("{path}.biases")];
        self.layers.iter().flat_map(parts).chain(self.norms.iter().cloned())
    }
}

/// The matrix [rows, columns] of `codes` [rows, groups, group size] with scales and biases [rows, groups].
fn decode(codes: &Array, scales: &Array, biases: &Array) -> mlx_rs::error::Result<Array> {
    let size = codes.shape();
    let (rows, columns) = (size[0], size[1] * size[2]);
    codes.multiply(scales.expand_dims(2)?)?.add(biases.expand_dims(2)?)?.reshape(&[rows, columns])
}

/// Codes of an affine matrix, and its scales and biases at the end of `primals`.
fn open(packed: &Packed, path: &str, primals: &mut Vec<Array>) -> Result<Array> {
    let biases = packed.biases.as_ref();
    let biases = biases.ok_or_else(|| Error::engine(format!("layer `{path}` has no biases to learn")))?;
    primals.extend([packed.scales.clone(), biases.clone()]);
    let codes = packed.codes()?;
    eval([&codes])?;
    Ok(codes)
}

/// Of scales and biases in turn all scales and all biases, as they are stored.
fn together(parts: &[Array]) -> Result<Vec<Array>> {
    if let [scales, biases] = parts {
        return Ok(vec![scales.clone(), biases.clone()]);
    }
    let all = |first: usize| -> Result<Array> {
        let parts = parts.iter().skip(first).step_by(2).map(|part| part.expand_dims(0));
        Ok(mlx_rs::ops::concatenate(&parts.collect::<Result<Vec<_>, _>>()?, 0)?)
    };
    Ok(vec![all(0)?, all(1)?])
}

/// Those of each matrix.
fn parts(all: &Array, count: usize) -> Result<Vec<Array>> {
    if all.ndim() == 2 { Ok(vec![all.clone()]) } else { apart(all, count) }
}

fn not_quantized(path: &str) -> Error {
    Error::engine(format!("layer `{path}` is not quantized and has no scales to learn"))
}

/// A block in memory, its learning layers as float codes.
pub(crate) struct LearningBlock<'a> {
    context: Context<'a>,
    block: Block,
    /// Of each matrix, one or one an expert.
    codes: Vec<(Role, Vec<Array>)>,
    norms: Vec<&'static str>,
    /// Scales and biases of the layers, those of experts one after the other, then norms.
    values: Vec<Array>,
}

impl<'a> LearningBlock<'a> {
    /// Loads block `index`.
    pub(crate) fn load(
        loader: &Loader<'_>,
        context: Context<'a>,
        index: usize,
        members: &Members,
    ) -> Result<Self> {
        let mut block = Block::load(loader, index)?;
        let (mut codes, mut values, mut norms) = (Vec::new(), Vec::new(), Vec::new());
        for (role, path) in &members.layers {
            let (mut each, mut parts) = (Vec::new(), Vec::new());
            for linear in block.linears_mut(*role) {
                let Weight::Quantized(packed) = &linear.weight else { return Err(not_quantized(path)) };
                each.push(open(packed, path, &mut parts)?);
            }
            values.extend(together(&parts)?);
            codes.push((*role, each));
        }
        for name in &members.norms {
            let norm = block.norms_mut().find(|(local, _)| name.ends_with(local));
            if let Some((local, norm)) = norm {
                norms.push(local);
                values.push(norm.clone());
            }
        }
        if !context.on_gpu {
            if let Some(router) = &mut block.router {
                router.weight.decode(context.dtype)?;
            }
            for role in Role::BLOCK {
                if codes.iter().all(|(other, _)| *other != role) {
                    let mut linears = block.linears_mut(role).iter_mut();
                    linears.try_for_each(|linear| linear.weight.decode(context.dtype))?;
                }
            }
        }
        Ok(Self { context, block, codes, norms, values })
    }

    /// Gradients with respect to the input `x` and what learns.
    pub(crate) fn gradients(&self, x: Array, cotangent: &Array) -> Result<Vec<Array>> {
        let tokens = x.shape()[1] as usize;
        let choice = self.block.choose_for(self.context, &x)?;
        let mut primals = vec![x];
        primals.extend_from_slice(&self.values);
        let (_, gradients) = fallible_vjp(
            |primals: &[Array]| {
                let mut block = self.block.clone();
                let mut values = primals[1..].iter();
                for (role, codes) in &self.codes {
                    let (Some(scales), Some(biases)) = (values.next(), values.next()) else { break };
                    let failed = |e: Error| exception(&e);
                    let [scales, biases] =
                        [scales, biases].map(|all| parts(all, codes.len()).map_err(failed));
                    let each = codes.iter().zip(scales?).zip(biases?);
                    for (linear, ((codes, scales), biases)) in block.linears_mut(*role).iter_mut().zip(each) {
                        linear.weight = Weight::Float(decode(codes, &scales, &biases)?);
                    }
                }
                for (name, value) in self.norms.iter().zip(values) {
                    if let Some((_, norm)) = block.norms_mut().find(|(local, _)| local == name) {
                        *norm = value.clone();
                    }
                }
                let mut positions = Positions::new(self.context.spec, 0, tokens);
                let y = block.forward_chosen(self.context, &primals[0], &mut positions, choice.as_ref());
                Ok(vec![y.map_err(|e| exception(&e))?])
            },
            &primals,
            std::slice::from_ref(cotangent),
        )?;
        eval(&gradients)?;
        Ok(gradients)
    }
}

/// The last hidden states and the head, its scales open if it learns.
pub(crate) struct LearningHead<'a> {
    pub(crate) last: FinalStates<'a>,
    /// Names of the tensors that learn, in the order of their gradients.
    pub(crate) names: Vec<String>,
    codes: Option<Array>,
    norms: bool,
    values: Vec<Array>,
}

impl<'a> LearningHead<'a> {
    /// The layer `path`, if any, learns, and the norm before it if `norms`.
    pub(crate) fn new(
        loader: &Loader<'_>,
        last: FinalStates<'a>,
        path: Option<&str>,
        norms: bool,
    ) -> Result<Self> {
        let (mut names, mut values, mut codes) = (Vec::new(), Vec::new(), None);
        if let Some(path) = path {
            let Weight::Quantized(packed) = loader.weight(path)? else { return Err(not_quantized(path)) };
            codes = Some(open(&packed, path, &mut values)?);
            names.extend([format!("{path}.scales"), format!("{path}.biases")]);
        }
        if norms {
            names.push(FINAL_NORM.to_owned());
            values.push(last.head.norm.clone());
        }
        Ok(Self { last, names, codes, norms, values })
    }

    /// Gradients with respect to the hidden states `part` and what learns.
    pub(crate) fn gradients(&self, part: Array, cotangent: Array) -> Result<Vec<Array>> {
        let FinalStates { context, head, .. } = &self.last;
        let mut primals = vec![part];
        primals.extend_from_slice(&self.values);
        let (_, gradients) = fallible_vjp(
            |primals: &[Array]| {
                let mut values = primals[1..].iter();
                let open =
                    self.codes.as_ref().and_then(|codes| Some((codes, values.next()?, values.next()?)));
                let weight = match open {
                    Some((codes, scales, biases)) => Weight::Float(decode(codes, scales, biases)?),
                    None => head.weight.clone(),
                };
                let norm = values.next().filter(|_| self.norms).unwrap_or(&head.norm).clone();
                let head = Head { norm, weight };
                Ok(vec![head.logits(*context, &primals[0]).map_err(|e| exception(&e))?])
            },
            &primals,
            &[cotangent],
        )?;
        eval(&gradients)?;
        Ok(gradients)
    }
}

/// Turns rows of logits z into gradients of T^2 KL(softmax(target / T) || softmax(z / T)) with respect to them,
/// T (softmax(z / T) - softmax(target / T)), and returns the sum of it over the rows. `target` is used up.
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
    let (most, wanted_most) = (lanes::largest(logits), lanes::largest(target));
    let [wanted, found, total] = lanes::exponentials_and_divergence(target, wanted_most, logits, most);
    let (over_found, over_wanted) = (factor * (1.0 / found) as f32, factor * (1.0 / wanted) as f32);
    for (z, t) in logits.iter_mut().zip(&*target) {
        *z = *z * over_found - t * over_wanted;
    }
    temperature * temperature * (total / wanted + found.ln() - wanted.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// log softmax(row / temperature), in float64.
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
        for (vocabulary, temperature, range, apart) in
            [(1, 1.0, 5.0, 1.0), (17, 2.0, 30.0, 3.0), (1000, 1.0, 12.0, 0.1), (4097, 0.5, 8.0, 0.5)]
        {
            let mut values = |range: f32| -> Vec<f32> {
                (0..ROWS * vocabulary).map(|_| (rng.f32() - 0.5) * range).collect()
            };
            let target = values(range);
            let logits: Vec<f32> =
                target.iter().zip(values(apart)).map(|(t, apart)| t + apart + 40.0).collect();
            let (mut expected, mut slopes) = (0.0, Vec::new());
            for (z, t) in logits.chunks(vocabulary).zip(target.chunks(vocabulary)) {
                let (z, t) = (log_softmax(z, temperature), log_softmax(t, temperature));
                for (z, t) in z.iter().zip(&t) {
                    expected += temperature * temperature * t.exp() * (t - z);
                    slopes.push(temperature * (z.exp() - t.exp()));
                }
            }
            let mut found = logits;
            let loss = divergence(&mut found, &mut target.clone(), vocabulary, temperature);
            assert!((loss - expected).abs() < 1e-4 * expected + 1e-6, "{vocabulary}: {loss} {expected}");
            let largest = slopes.iter().fold(0.0f64, |most, slope| most.max(slope.abs()));
            for (found, slope) in found.iter().zip(&slopes) {
                assert!((f64::from(*found) - slope).abs() <= 2e-5 * largest + 1e-7, "{found} {slope}");
            }
        }
    }
}
