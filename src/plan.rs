//! From candidates and sensitivities to a bit map of a wanted size: arithmetic on sizes and the table, nothing else.

use std::collections::BTreeMap;

use crate::allocate::{Allocation, Choice, Layer, Problem};
use crate::bitmap::BitMap;
use crate::candidate::{Candidate, Quant};
use crate::checkpoint::{Dtype, SourceModel};
use crate::error::{Error, Result};
use crate::inventory::Inventory;
use crate::rules::LayerRule;
use crate::sensitivity::LayerSensitivity;
use crate::spec::TensorSpec;

/// The layers to be decided on and what each may become.
#[derive(Debug)]
pub struct Plan<'a> {
    layers: Vec<(&'a TensorSpec, Vec<Candidate>)>,
    /// Linear layers that no candidate's group divides: they stay float.
    pub indivisible: Vec<String>,
    /// Layers that arrive quantized: they stay as they are.
    pub already: Vec<String>,
    dtype: Dtype,
}

/// A solved plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    /// The new entries.
    pub bitmap: BitMap,
    /// Bits a weight over the layers decided on, scales and biases included.
    pub bpw: f64,
    /// Predicted KL divergence per token, in nats, where sensitivities were measured.
    pub kl: Option<f64>,
    /// Bytes of the layers decided on.
    pub bytes: u64,
}

impl<'a> Plan<'a> {
    /// The linear layers of `source` that are float, each with the `candidates` that fit, or with what the last of
    /// `rules` that matches says. `dtype` is that of scales and biases, and of what stays float.
    pub fn new(
        source: &'a SourceModel,
        candidates: &[Candidate],
        rules: &[LayerRule],
        dtype: Dtype,
    ) -> Result<Self> {
        let mut plan = Self { layers: Vec::new(), indivisible: Vec::new(), already: Vec::new(), dtype };
        for spec in source.manifest().iter().filter(|spec| spec.quantizable()) {
            let Some(path) = spec.path() else { continue };
            if source.bitmap().contains_key(path) {
                plan.already.push(path.to_owned());
                continue;
            }
            let fits = |c: &&Candidate| c.quant().is_some_and(|q| q.packed_columns(spec.shape[1]).is_some());
            let mut options: Vec<Candidate> = candidates.iter().filter(fits).copied().collect();
            if let Some(rule) = rules.iter().rev().find(|rule| rule.matches(path)) {
                plan.layers.push((spec, vec![ruled(spec, rule)?]));
                continue;
            }
            if options.is_empty() {
                plan.indivisible.push(path.to_owned());
                continue;
            }
            if candidates.contains(&Candidate::Keep) {
                options.push(Candidate::Keep);
            }
            plan.layers.push((spec, options));
        }
        let paths: Vec<&str> = plan.layers.iter().filter_map(|(spec, _)| spec.path()).collect();
        LayerRule::check_all(rules, &paths)?;
        if plan.layers.is_empty() {
            return Err(nothing_to_do(source, &plan, candidates));
        }
        Ok(plan)
    }

    /// Weights of the layers decided on.
    pub fn weights(&self) -> u64 {
        self.layers.iter().map(|(spec, _)| spec.len() as u64).sum()
    }

    /// Number of layers decided on.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there is no layer to decide on (never, once made).
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Least and most bits a weight.
    pub fn reachable_bpw(&self) -> (f64, f64) {
        let bytes = |pick: fn(u64, u64) -> u64, start: u64| -> u64 {
            let sizes = self
                .layers
                .iter()
                .map(|(spec, options)| options.iter().filter_map(|c| self.bytes(spec, *c)).fold(start, pick));
            sizes.sum()
        };
        (self.bpw(bytes(u64::min, u64::MAX)), self.bpw(bytes(u64::max, 0)))
    }

    /// Bytes of the tensors that are not decided on, as they will be written.
    pub fn rest_bytes(&self, source: &SourceModel, dtype: Dtype) -> u64 {
        let as_float = Inventory::planned(source, source.bitmap(), dtype).bytes.total;
        as_float - self.weights() * dtype.size() as u64
    }

    /// Bits a weight that are left for the layers decided on when all tensors may take `size` bytes.
    pub fn bpw_of_model_size(&self, source: &SourceModel, size: u64) -> Result<f64> {
        let rest = self.rest_bytes(source, self.dtype);
        let (least, most) = self.reachable_bpw();
        let bytes = |bpw: f64| rest + (bpw * self.weights() as f64 / 8.0).ceil() as u64;
        if size < bytes(least) {
            return Err(Error::usage(format!(
                "a size of {size} bytes cannot be reached: this model goes from {} to {}",
                bytes(least),
                bytes(most)
            ))
            .hint(format!("the nearest is --target-size {}", bytes(least))));
        }
        Ok(self.bpw(size - rest).min(most))
    }

    /// Fails unless `target` bits a weight can be kept to.
    pub fn check_target(&self, target: f64) -> Result<()> {
        let (least, most) = self.reachable_bpw();
        if target.is_finite() && (least..=most).contains(&target) {
            return Ok(());
        }
        let nearest = if target < least { least } else { most };
        Err(Error::usage(format!(
            "a target of {target} bpw cannot be reached: this model goes from {least:.3} to {most:.3}"
        ))
        .hint(format!("the nearest is --target-bpw {}", round_towards(nearest, least, most))))
    }

    /// Whether rules and candidates leave nothing to choose.
    pub fn is_fixed(&self) -> bool {
        self.layers.iter().all(|(_, options)| options.len() == 1)
    }

    /// The only solution of a fixed plan: every layer's first option.
    pub fn fixed(&self) -> Solution {
        let options = self.layers.iter().filter_map(|(spec, options)| Some((spec, *options.first()?)));
        let bytes = options.clone().filter_map(|(spec, candidate)| self.bytes(spec, candidate)).sum();
        let bitmap = options.filter_map(|(spec, c)| Some((spec.path()?.to_owned(), c.quant()?))).collect();
        Solution { bitmap, bpw: self.bpw(bytes), kl: None, bytes }
    }

    /// The bit map with the least predicted KL divergence at no more than `target` bits a weight.
    pub fn solve(&self, table: &[LayerSensitivity], target: f64) -> Result<Solution> {
        let by_path: BTreeMap<&str, &LayerSensitivity> =
            table.iter().map(|row| (row.path.as_str(), row)).collect();
        let mut layers = Vec::new();
        for (spec, options) in &self.layers {
            let path = spec.path().unwrap_or_default();
            let row = by_path
                .get(path)
                .ok_or_else(|| Error::usage(format!("the sensitivity table lacks layer `{path}`")))?;
            let choices = options.iter().map(|&candidate| self.choice(spec, row, candidate));
            layers.push(Layer { path: path.to_owned(), options: choices.collect::<Result<_>>()? });
        }
        let budget = (target * self.weights() as f64 / 8.0).floor() as u64;
        let allocation = Problem::new(layers, &[])?.solve(budget)?;
        Ok(self.solution(&allocation))
    }

    fn choice(&self, spec: &TensorSpec, row: &LayerSensitivity, candidate: Candidate) -> Result<Choice> {
        let missing =
            || Error::usage(format!("the sensitivity table lacks {candidate} for layer `{}`", row.path));
        let loss = match candidate {
            Candidate::Keep => 0.0,
            Candidate::Quantized(quant) => {
                row.scores.iter().find(|score| score.quant == quant).ok_or_else(missing)?.kl
            }
        };
        Ok(Choice { candidate, bytes: self.bytes(spec, candidate).ok_or_else(missing)?, loss })
    }

    fn solution(&self, allocation: &Allocation) -> Solution {
        let chosen = self.layers.iter().zip(&allocation.chosen);
        let bitmap = chosen
            .filter_map(|((spec, options), &index)| {
                Some((spec.path()?.to_owned(), options.get(index)?.quant()?))
            })
            .collect();
        Solution {
            bitmap,
            bpw: self.bpw(allocation.bytes),
            kl: Some(allocation.loss),
            bytes: allocation.bytes,
        }
    }

    fn bytes(&self, spec: &TensorSpec, candidate: Candidate) -> Option<u64> {
        candidate.bytes(spec.shape[0], spec.shape[1], self.dtype.size())
    }

    fn bpw(&self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / self.weights() as f64
    }

    /// The quantized candidates of all layers.
    pub fn quants(&self) -> Vec<Quant> {
        let mut quants: Vec<Quant> =
            self.layers.iter().flat_map(|(_, options)| options.iter().filter_map(|c| c.quant())).collect();
        quants.sort_unstable();
        quants.dedup();
        quants
    }
}

/// What `rule` makes of a layer, if that can be.
fn ruled(spec: &TensorSpec, rule: &LayerRule) -> Result<Candidate> {
    let fits = rule.candidate.quant().is_none_or(|quant| quant.packed_columns(spec.shape[1]).is_some());
    if fits {
        return Ok(rule.candidate);
    }
    Err(Error::usage(format!(
        "layer `{}` has rows of {}, which {} cannot divide",
        spec.name, spec.shape[1], rule.candidate
    ))
    .hint("choose another group size for it, or float"))
}

/// `nearest` to three digits, towards the inside of the range.
fn round_towards(nearest: f64, least: f64, most: f64) -> f64 {
    let up = (nearest * 1e3).ceil() / 1e3;
    let down = (nearest * 1e3).floor() / 1e3;
    if (least..=most).contains(&up) { up } else { down }
}

fn nothing_to_do(source: &SourceModel, plan: &Plan<'_>, candidates: &[Candidate]) -> Error {
    let dir = source.dir();
    if !plan.already.is_empty() {
        return Error::file(
            dir,
            format!("nothing left to quantize: {} layers are already quantized", plan.already.len()),
        )
        .hint("start from the float model to choose other bits");
    }
    let list: Vec<String> = candidates.iter().map(ToString::to_string).collect();
    let example = plan.indivisible.first().and_then(|path| source.manifest().layer(path));
    let example = example.map_or_else(String::new, |spec| {
        format!(": `{}` has rows of {}", spec.path().unwrap_or(&spec.name), spec.shape[1])
    });
    Error::usage(format!("no layer can take any of the candidates {}{example}", list.join(", ")))
        .hint("a candidate's group size must divide a layer's rows: 32, 64 or 128, and 16 in mode nvfp4")
}
