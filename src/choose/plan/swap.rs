//! Moving bits from one layer to another within the same budget.

use std::collections::BTreeMap;

use super::plan::{Plan, Solution};
use crate::choose::allocate::{Choice, Layer, Problem};
use crate::choose::candidate::Candidate;
use crate::choose::scores::LayerSensitivity;
use crate::error::Result;
use crate::models::bitmap::BitMap;

/// Returns the candidate that a layer has in a bit map.
fn current(bitmap: &BitMap, path: &str) -> Candidate {
    bitmap.get(path).map_or(Candidate::Keep, |&quant| Candidate::Quantized(quant))
}

impl Plan<'_> {
    /// Returns, per layer that has a choice, the candidates next to the one in `bitmap`: up to `each` of the next smaller
    /// and of the next larger ones.
    pub fn neighbours(&self, bitmap: &BitMap, each: usize) -> BTreeMap<String, Vec<Candidate>> {
        let mut neighbours = BTreeMap::new();
        for (spec, options) in &self.layers {
            let path = spec.path().unwrap_or_default();
            let Some(size) = self.bytes(spec, current(bitmap, path)) else { continue };
            let sized =
                options.iter().filter_map(|&candidate| Some((self.bytes(spec, candidate)?, candidate)));
            let mut sized: Vec<(u64, Candidate)> = sized.collect();
            sized.sort_unstable();
            let smaller = sized.iter().rev().filter(|(bytes, _)| *bytes < size).take(each);
            let larger = sized.iter().filter(|(bytes, _)| *bytes > size).take(each);
            let nearest: Vec<Candidate> = smaller.chain(larger).map(|(_, candidate)| *candidate).collect();
            if !nearest.is_empty() {
                neighbours.insert(path.to_owned(), nearest);
            }
        }
        neighbours
    }

    /// Finds the bit map at no more than `target` bits per weight that gains most over that of `solution`, where `losses`
    /// lists what each layer may become and how the KL divergence changes then. Predictions come from `table`.
    pub fn swap(
        &self,
        solution: &Solution,
        losses: &BTreeMap<String, Vec<(Candidate, f64)>>,
        table: &[LayerSensitivity],
        target: f64,
    ) -> Result<Solution> {
        let mut layers = Vec::new();
        for (spec, _) in &self.layers {
            let path = spec.path().unwrap_or_default();
            let choice = |candidate, loss| {
                let bytes = self.bytes(spec, candidate)?;
                Some(Choice { candidate, bytes, loss })
            };
            let listed = losses.get(path).map(Vec::as_slice).unwrap_or_default();
            let mut options: Vec<Choice> = choice(current(&solution.bitmap, path), 0.0).into_iter().collect();
            options.extend(listed.iter().filter_map(|&(candidate, loss)| choice(candidate, loss)));
            layers.push(Layer { path: path.to_owned(), options });
        }
        let budget = (target * self.weights() as f64 / 8.0).floor() as u64;
        let allocation = Problem::new(layers.clone(), &self.ties)?.solve(budget)?;
        let chosen = layers.iter().zip(&allocation.chosen).filter_map(|(layer, &index)| {
            Some((layer.path.clone(), layer.options.get(index)?.candidate.quant()?))
        });
        let bitmap: BitMap = chosen.collect();
        let kl = self.predicted(&bitmap, table)?;
        let gap = kl - solution.kl.unwrap_or(kl) + solution.gap;
        let gap = gap.max(0.0);
        Ok(Solution { bitmap, bpw: self.bpw(allocation.bytes), kl: Some(kl), gap, bytes: allocation.bytes })
    }

    /// Returns the KL divergence that `table` predicts for `bitmap`.
    fn predicted(&self, bitmap: &BitMap, table: &[LayerSensitivity]) -> Result<f64> {
        let mut total = 0.0;
        for (spec, _) in &self.layers {
            let path = spec.path().unwrap_or_default();
            if let Some(row) = table.iter().find(|row| row.path == path) {
                total += self.choice(spec, row, current(bitmap, path))?.loss;
            }
        }
        Ok(total)
    }
}
