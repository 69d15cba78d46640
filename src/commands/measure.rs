//! Sensitivities for a command: engine and progress.

use std::collections::BTreeMap;

use super::curve::{problem, weights};
use super::settings::Calibration;
use super::texts::Texts;
use crate::affine::FloatType;
use crate::allocate::Allocation;
use crate::bitmap::BitMap;
use crate::candidate::{Mode, Quant};
use crate::checkpoint::SourceModel;
use crate::correction::{Correction, Measured};
use crate::engine::{AnalysisSettings, CorrectionSettings, Engine, analyze, measure_corrections};
use crate::error::Result;
use crate::estimate::StepCosts;
use crate::report::Console;
use crate::rounding::Technique;
use crate::sensitivity::{LayerSensitivity, Measurement, Method};
use crate::weights::check_values;

/// A measurement that is ready to start.
pub struct Measure<'a> {
    source: &'a SourceModel,
    /// All, and those that sensitivities are measured on.
    sequences: &'a [Vec<u32>],
    measured: Vec<Vec<u32>>,
    method: Method,
    memory: u64,
    costs: StepCosts,
    /// What it will be made with.
    pub measurement: Measurement,
}

impl<'a> Measure<'a> {
    /// On the `texts`, for the errors that `technique` leaves.
    pub fn prepare(
        source: &'a SourceModel,
        calibration: &Calibration,
        texts: &'a Texts,
        technique: Technique,
        candidates: Vec<Quant>,
        dtype: FloatType,
    ) -> Result<Self> {
        check_values(source, dtype.into())?;
        let method = calibration.method(&candidates);
        let sequences = &texts.sequences;
        let measured = calibration.measured(sequences.len())?;
        let measurement = Measurement {
            version: 1,
            model: source.fingerprint()?,
            text: digest(sequences),
            samples: sequences.len(),
            sensitivity_samples: Some(measured),
            sequence_length: calibration.sequence_length as usize,
            seed: calibration.seed,
            method: method.to_string(),
            rounding: if technique.is_searched() { Technique::Search } else { Technique::Rtn },
            dtype,
            candidates,
        };
        Ok(Self {
            source,
            sequences,
            measured: spread(sequences, measured).0,
            method,
            memory: calibration.memory,
            costs: StepCosts::default(),
            measurement,
        })
    }

    /// With what the steps were estimated to cost.
    pub fn with_costs(self, costs: StepCosts) -> Self {
        Self { costs, ..self }
    }

    /// Measures every layer whose path is not in `skip` and hands it to `finished`.
    pub fn run(
        &self,
        skip: &[LayerSensitivity],
        console: &Console,
        finished: impl FnMut(LayerSensitivity) -> Result<()>,
    ) -> Result<()> {
        let engine = Engine::start()?;
        let bar = console.share_bar("measuring sensitivities");
        let settings = AnalysisSettings {
            sequences: &self.measured,
            candidates: &self.measurement.candidates,
            method: self.method,
            memory: self.memory,
            technique: self.measurement.rounding,
            dtype: self.measurement.dtype,
            seed: self.measurement.seed,
            skip: skip.iter().map(|layer| layer.path.clone()).collect(),
            costs: self.costs,
            progress: &|done, total| {
                bar.set_length(total);
                bar.set_position(done);
            },
        };
        analyze(&engine, self.source, &settings, finished)?;
        bar.finish_and_clear();
        Ok(())
    }
}

/// Bits a weight of the whole models that are measured, from the largest; those in reach.
const SIZES: [f64; 3] = [4.5, 3.0, 2.5];
/// Tokens that they are measured on, about.
const TOKENS: usize = 1024;

impl Measure<'_> {
    /// Measures what the predictions of `layers` are off by, and by how much GPTQ is better if that is the `technique`.
    pub fn correct(
        &self,
        layers: &[LayerSensitivity],
        technique: Technique,
        console: &Console,
    ) -> Result<Correction> {
        if matches!(self.method, Method::Alignment { .. }) {
            return Ok(Correction::default());
        }
        let Measurement { dtype, rounding, candidates, sequence_length, .. } = &self.measurement;
        let (problem, weights) = (problem(layers, dtype.bytes())?, weights(layers));
        let mut points = Vec::new();
        for bpw in SIZES {
            let budget = (bpw * weights as f64 / 8.0) as u64;
            let (least, most) = problem.reachable();
            if (least..=most).contains(&budget) {
                points.push((bpw, problem.solve(budget)?));
            }
        }
        let bitmap = |chosen: &Allocation| {
            let quants = layers.iter().zip(problem.candidates(chosen));
            quants.filter_map(|(layer, candidate)| Some((layer.path.clone(), candidate.quant()?))).collect()
        };
        let bitmaps: Vec<BitMap> = points.iter().map(|(_, allocation)| bitmap(allocation)).collect();
        let gptq = if technique == Technique::Gptq { by_bits(candidates) } else { Vec::new() };
        let most = self.sequences.len().div_ceil(4);
        let (measured_on, seen) = spread(self.sequences, TOKENS.div_ceil(*sequence_length).min(most));
        let bar = console.steps_bar("measuring whole models", 1);
        let settings = CorrectionSettings {
            sequences: &measured_on,
            seen: &seen,
            bitmaps: &bitmaps,
            gptq: &gptq,
            technique: *rounding,
            dtype: *dtype,
            memory: self.memory,
            progress: &|done, total| {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            },
        };
        let found = measure_corrections(&Engine::start()?, self.source, &settings)?;
        bar.finish_and_clear();
        let measured = points.iter().zip(found.divergences).map(|((bpw, allocation), measured)| Measured {
            bpw: *bpw,
            predicted: allocation.loss,
            measured,
        });
        Ok(Correction {
            gptq: gptq.iter().map(|quant| quant.bits).zip(found.gptq).collect(),
            measured: measured.collect(),
        })
    }
}

/// `count` of the sequences, from all over the text, and the others.
fn spread(sequences: &[Vec<u32>], count: usize) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let all = sequences.len().max(1);
    let (chosen, others): (Vec<_>, Vec<_>) =
        sequences.iter().cloned().enumerate().partition(|(index, _)| index * count % all < count);
    let tokens = |list: Vec<(usize, Vec<u32>)>| list.into_iter().map(|(_, tokens)| tokens).collect();
    (tokens(chosen), tokens(others))
}

/// One affine candidate a bit-width, of the group size nearest to 64.
fn by_bits(candidates: &[Quant]) -> Vec<Quant> {
    let mut found: BTreeMap<u32, Quant> = BTreeMap::new();
    for quant in candidates.iter().filter(|quant| quant.mode == Mode::Affine) {
        let best = found.entry(quant.bits).or_insert(*quant);
        if quant.group_size.abs_diff(64) < best.group_size.abs_diff(64) {
            *best = *quant;
        }
    }
    found.into_values().collect()
}

/// SHA-256 of the tokens.
pub fn digest(sequences: &[Vec<u32>]) -> String {
    crate::digest::digest(sequences.iter().flatten().map(|token| token.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_sequences_come_from_all_over_the_text() {
        for (all, count) in [(64, 4), (10, 3), (5, 5), (7, 1), (1, 1), (0, 0)] {
            let sequences: Vec<Vec<u32>> = (0..all).map(|index| vec![index]).collect();
            let (chosen, others) = spread(&sequences, count);
            assert_eq!((chosen.len(), others.len()), (count, all as usize - count), "{all} {count}");
            let gaps = chosen.windows(2).map(|pair| pair[1][0] - pair[0][0]);
            let widest = (all as usize).div_ceil(count.max(1)) as u32;
            assert!(gaps.clone().all(|gap| gap <= widest && gap + 1 >= widest), "{all} {count}: {chosen:?}");
        }
    }
}
