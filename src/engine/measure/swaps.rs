//! Predicted effect of giving a layer of a quantized model other bits.
//!
//! dW is the change of the layer's weights, G_n the gradient at the quantized model over sequence n, for N sequences of
//! T tokens. To second order KL(float || quantized) changes by
//!
//! 1 / (N T) sum_n <G_n, dW> with G of the divergence itself, and
//! 1 / (2 N T) sum_n <G_n, dW>^2 with G of log p(y), labels y drawn from the quantized model: the Fisher information.
//!
//! The first term depends on the errors of all other layers: where two layers' errors add up, it is negative for
//! undoing one.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::engine::array::{as_slice, to_vec};
use crate::engine::decoder::load::{Loader, TASK};
use crate::engine::passes::forward::Pass;
use crate::engine::passes::head::Objective;
use crate::engine::passes::replay::{Gradient, Replay};
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::models::source::SourceModel;
use crate::models::spec::TensorSpec;
use crate::numerics::statistics::mean_and_stderr;

/// Sequences to run, with seed and memory.
pub struct SwapSettings<'a> {
    /// Token ids, all of one length.
    pub sequences: &'a [Vec<u32>],
    /// Seed of the sampled labels.
    pub seed: u64,
    /// Most bytes of hidden states in memory; more go to a temporary file.
    pub memory: u64,
    /// Called with (steps done, total steps).
    pub progress: &'a dyn Fn(usize, usize),
}

/// Predicted change of the KL divergence per token, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Mean change over the sequences.
    pub kl: f64,
    /// Standard error of the mean over the sequences.
    pub stderr: f64,
}

/// Alternative weights of a layer, each row-major.
pub type Alternatives = Vec<Vec<f32>>;

/// Predicts, by layer path, the changes of the KL divergence for each of the layer's alternatives, in their order.
/// `alternatives` is called with one layer's path after the other, twice, and returns none for a layer that stays.
pub fn swap_changes(
    engine: &Engine,
    float: &SourceModel,
    student: &SourceModel,
    settings: &SwapSettings<'_>,
    alternatives: &dyn Fn(&str) -> Result<Alternatives>,
) -> Result<BTreeMap<String, Vec<Change>>> {
    let blocks = float.spec().blocks.len();
    let (steps, done) = (5 * blocks, std::cell::Cell::new(0));
    let tick = || {
        done.set(done.get() + 1);
        (settings.progress)(done.get(), steps);
    };
    let loader = |source| Loader::new(source, engine.compute_dtype(crate::numerics::dtype::Dtype::F32));
    let embed = |source| Pass::embed(engine, loader(source), settings.sequences, 1, settings.memory);
    let target = embed(float)?.finish(&tick)?;
    let run = |objective: &Objective<'_>| {
        let replay = Replay::forward(embed(student)?, &tick)?;
        products(replay, loader(student), objective, alternatives, &tick)
    };
    let first = run(&Objective::Divergence(&target))?;
    drop(target);
    let second = run(&Objective::Likelihood { seed: settings.seed })?;
    let tokens = settings.sequences.first().map_or(1, Vec::len) as f64;
    let changes = first.into_iter().map(|(path, first)| {
        let second = second.get(&path).map(Vec::as_slice).unwrap_or_default();
        let changes = first.iter().zip(second).map(|(first, second)| change(first, second, tokens));
        (path, changes.collect())
    });
    Ok(changes.collect())
}

/// Computes the predicted change from the products of each sequence's gradients with the change of the weights.
fn change(first: &[f64], second: &[f64], tokens: f64) -> Change {
    let parts: Vec<f64> = first.iter().zip(second).map(|(a, b)| (a + 0.5 * b * b) / tokens).collect();
    let (kl, stderr) = mean_and_stderr(&parts);
    Change { kl, stderr }
}

/// Computes <G_n, dW> by layer, alternative and sequence.
fn products(
    mut replay: Replay<'_>,
    loader: Loader<'_>,
    objective: &Objective<'_>,
    alternatives: &dyn Fn(&str) -> Result<Alternatives>,
    tick: &dyn Fn(),
) -> Result<BTreeMap<String, Vec<Vec<f64>>>> {
    let mut products = BTreeMap::new();
    let mut finish = |layers: Vec<LayerChanges<'_>>| {
        for layer in layers {
            products.insert(layer.spec.path().unwrap_or_default().to_owned(), layer.products);
        }
    };
    let mut head = load_changes(loader, None, alternatives)?;
    let head_backward = replay.head(objective)?;
    if let Some(rows) = head.first().map(|head| 0..head.spec.rows()) {
        replay.head_rows(&head_backward, &rows, |_, gradient| add_products(&mut head, &[gradient]))?;
    }
    replay.leave_head();
    finish(head);
    for block in (0..loader.source.spec().blocks.len()).rev() {
        let mut layers = load_changes(loader, Some(block), alternatives)?;
        let specs: Vec<&TensorSpec> = layers.iter().map(|layer| layer.spec).collect();
        let paths: Vec<&str> = specs.into_iter().filter_map(TensorSpec::path).collect();
        replay.block(block, &paths, |_, gradients| add_products(&mut layers, &gradients))?;
        finish(layers);
        tick();
    }
    Ok(products)
}

/// Changes of a layer's weights, and their products with the gradients computed so far.
struct LayerChanges<'a> {
    spec: &'a TensorSpec,
    changes: Vec<Vec<f32>>,
    products: Vec<Vec<f64>>,
}

/// Loads the changes of the layers of a block, or of the head for `None`.
fn load_changes<'a>(
    loader: Loader<'a>,
    block: Option<usize>,
    alternatives: &dyn Fn(&str) -> Result<Alternatives>,
) -> Result<Vec<LayerChanges<'a>>> {
    let mut layer_changes = Vec::new();
    let layers = loader.source.manifest().iter().filter(|spec| spec.quantizable() && spec.layer == block);
    for spec in layers {
        let path = spec.path().unwrap_or_default();
        let mut changes = alternatives(path)?;
        if changes.is_empty() {
            continue;
        }
        let weights = to_vec(&loader.weight(path)?.dense(loader.dtype)?)?;
        for change in &mut changes {
            change.iter_mut().zip(&weights).for_each(|(change, weight)| *change -= weight);
        }
        layer_changes.push(LayerChanges { spec, products: vec![Vec::new(); changes.len()], changes });
    }
    Ok(layer_changes)
}

fn add_products(layers: &mut [LayerChanges<'_>], gradients: &[Gradient]) -> Result<()> {
    for (layer, gradient) in layers.iter_mut().zip(gradients) {
        let mut sums = vec![0.0; layer.changes.len()];
        let mut start = 0;
        for gradient in &gradient.transposed {
            let gradient = gradient.t().as_dtype(mlx_rs::Dtype::Float32)?.contiguous()?;
            let gradient = as_slice(&gradient)?;
            for (sum, change) in sums.iter_mut().zip(&layer.changes) {
                *sum += dot(gradient, &change[start..start + gradient.len()]);
            }
            start += gradient.len();
        }
        for (products, product) in layer.products.iter_mut().zip(sums) {
            if !product.is_finite() {
                return Err(Error::input(format!(
                    "layer `{}` has gradients that are not finite",
                    layer.spec.name
                )));
            }
            products.push(product);
        }
    }
    Ok(())
}

/// Sums products in parts that do not depend on the number of threads.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let parts: Vec<f64> = a
        .par_chunks(TASK)
        .zip(b.par_chunks(TASK))
        .map(|(a, b)| {
            let parts = a.chunks(64).zip(b.chunks(64));
            parts.map(|(a, b)| f64::from(a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>())).sum::<f64>()
        })
        .collect();
    parts.iter().sum()
}
