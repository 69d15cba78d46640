//! Measurement of sensitivities, and of how far off predictions for whole models are.

use crate::progress::Progress;
use std::collections::BTreeMap;

use super::settings::Calibration;
use super::texts::Texts;
use crate::choose::correction::{Correction, MEASURED_TOKENS, Measured};
use crate::choose::curve::{problem, weights};
use crate::choose::scores::{LayerSensitivity, Method};
use crate::choose::table::{Measurement, Table, VERSION};
use crate::engine::measure::factors::{FactorSettings, measure_factors};
use crate::engine::measure::sensitivities::analyze;
use crate::engine::measure::settings::{AnalysisSettings, StepCosts};
use crate::engine::measure::whole_models::{CorrectionSettings, measure_corrections};
use crate::engine::runtime::Engine;
use crate::error::Result;
use crate::jobs::bars;
use crate::jobs::write::check_values;
use crate::models::bitmap::BitMap;
use crate::models::source::SourceModel;
use crate::numerics::affine::FloatType;
use crate::numerics::quant::{Mode, Quant, is_unfit};
use crate::numerics::rounding::Technique;
use crate::text::corpus::begun;

/// A measurement that is ready to start.
pub struct Measure<'a> {
    source: &'a SourceModel,
    texts: &'a Texts,
    /// Sequences that sensitivities are measured on.
    measured: Vec<Vec<u32>>,
    method: Method,
    memory: u64,
    technique: Technique,
    costs: StepCosts,
    /// Settings of the measurement, as the table records them.
    pub measurement: Measurement,
}

impl<'a> Measure<'a> {
    /// Prepares a measurement on `texts` of the errors that `technique` leaves. Fails where a weight is not finite.
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
            version: VERSION,
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
            texts,
            measured: spread(sequences, measured).0,
            method,
            memory: calibration.memory,
            technique,
            costs: StepCosts::default(),
            measurement,
        })
    }

    /// Lets bars move by the estimated `costs` of the steps.
    #[must_use]
    pub fn with_costs(self, costs: StepCosts) -> Self {
        Self { costs, ..self }
    }

    /// Measures all layers, and how far off predictions for whole models are.
    pub fn table(&self, console: &dyn Progress) -> Result<Table> {
        let mut layers = Vec::new();
        self.run(&[], console, |layer| {
            layers.push(layer);
            Ok(())
        })?;
        let correction = self.correct(&layers, console)?;
        Ok(Table { measurement: self.measurement.clone(), layers, correction })
    }

    /// Measures every layer whose path is not in `skip` and hands it to `finished`.
    pub fn run(
        &self,
        skip: &[LayerSensitivity],
        console: &dyn Progress,
        mut finished: impl FnMut(LayerSensitivity) -> Result<()>,
    ) -> Result<()> {
        let engine = Engine::start()?;
        console.stage("measuring");
        let bar = console.share_bar(bars::SENSITIVITIES);
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
            progress: &|done, total| bar.set(done, total),
        };
        analyze(&engine, self.source, &settings, &mut finished)?;
        bar.finish();
        self.unfit_layers(skip).into_iter().try_for_each(finished)
    }

    /// Returns the float layers that no candidate fits, without scores and but for those in `skip`: they count in every
    /// size.
    fn unfit_layers(&self, skip: &[LayerSensitivity]) -> Vec<LayerSensitivity> {
        let is_new = |path: &str| {
            !self.source.bitmap().contains_key(path) && skip.iter().all(|layer| layer.path != path)
        };
        let layers = self.source.manifest().iter().filter(|spec| spec.quantizable());
        let candidates = &self.measurement.candidates;
        layers
            .filter(|spec| is_unfit(spec.columns(), candidates.iter().copied()))
            .filter_map(|spec| Some((spec, spec.path().filter(|path| is_new(path))?)))
            .map(|(spec, path)| LayerSensitivity {
                path: path.to_owned(),
                rows: spec.rows(),
                columns: spec.columns(),
                scores: Vec::new(),
            })
            .collect()
    }
}

/// Sizes of the whole models that are measured, in bits per weight, as far as they are in reach.
const SIZES_BPW: [f64; 3] = [4.5, 3.0, 2.5];

impl Measure<'_> {
    /// Measures how far off predictions for whole models are that add up the scores of `layers`.
    pub fn correct(&self, layers: &[LayerSensitivity], console: &dyn Progress) -> Result<Correction> {
        if matches!(self.method, Method::Alignment { .. }) {
            return Ok(Correction::default());
        }
        let engine = Engine::start()?;
        let Holdout { sequences, others } = hold_out(self.texts, self.measured.len());
        let Measurement { dtype, rounding, candidates, .. } = &self.measurement;
        let uses_gptq = self.technique == Technique::Gptq;
        let mut correction = Correction::default();
        if uses_gptq || rounding.is_searched() {
            let bar = console.steps_bar(bars::WHOLE_MODELS, 1);
            let settings = FactorSettings {
                sequences: &sequences,
                seen: if uses_gptq { &others } else { &[] },
                quants: &by_bits(candidates),
                dtype: *dtype,
                memory: self.memory,
                progress: &|done, total| bar.set(done as u64, total as u64),
            };
            correction = measure_factors(&engine, self.source, &settings)?;
            bar.finish();
        }
        let models = self.models(layers, &correction)?;
        let bitmaps: Vec<BitMap> = models.iter().map(|model| model.bitmap.clone()).collect();
        let bar = console.steps_bar(bars::WHOLE_MODELS, 1);
        let settings = CorrectionSettings {
            sequences: &sequences,
            bitmaps: &bitmaps,
            technique: *rounding,
            dtype: *dtype,
            memory: self.memory,
            progress: &|done, total| bar.set(done as u64, total as u64),
        };
        let divergences = measure_corrections(&engine, self.source, &settings)?;
        bar.finish();
        let measured = models.iter().zip(divergences);
        correction.measured = measured
            .map(|(model, measured)| Measured { bpw: model.bpw, predicted: model.predicted, measured })
            .collect();
        Ok(correction)
    }

    /// Chooses the best models of the [`SIZES_BPW`] in reach, for the technique in force.
    fn models(&self, layers: &[LayerSensitivity], correction: &Correction) -> Result<Vec<RoundedModel>> {
        let scores = correction.scores_for(self.technique, layers);
        let problem = problem(&scores, self.measurement.dtype.bytes())?;
        // Trial models are rounded as scores were: GPTQ takes too long for them.
        let scored = correction.scores_for(self.measurement.rounding, layers);
        let (least, most) = problem.reachable();
        let mut models = Vec::new();
        for bpw in SIZES_BPW {
            let budget = (bpw * weights(layers) as f64 / 8.0) as u64;
            if !(least..=most).contains(&budget) {
                continue;
            }
            let mut model = RoundedModel { bpw, bitmap: BitMap::new(), predicted: 0.0 };
            for (layer, candidate) in scored.iter().zip(problem.candidates(&problem.solve(budget)?)) {
                let Some(quant) = candidate.quant() else { continue };
                let score = layer.scores.iter().find(|score| score.quant == quant);
                model.predicted += score.map_or(0.0, |score| score.kl);
                model.bitmap.insert(layer.path.clone(), quant);
            }
            models.push(model);
        }
        Ok(models)
    }
}

/// Sequences that are held out to measure whole models on, and the others, which GPTQ may see.
pub struct Holdout {
    /// Sequences to measure on.
    pub sequences: Vec<Vec<u32>>,
    /// Sequences to round with.
    pub others: Vec<Vec<u32>>,
}

/// Holds out sequences that sensitivities were not `measured` on, if there are enough, or windows that serve for
/// nothing else: texts differ, and more of them say more. Only for a short text whole models are measured on sequences
/// that predictions came from.
pub fn hold_out(texts: &Texts, measured: usize) -> Holdout {
    let sequences = &texts.sequences;
    let wanted = MEASURED_TOKENS.div_ceil(sequences.first().map_or(1, Vec::len).max(1));
    let count = wanted.min(sequences.len().div_ceil(4));
    let unseen = spread(sequences, measured).1;
    if unseen.len() < count && texts.unused.len() >= count {
        let chosen = spread(&texts.unused, wanted.min(texts.unused.len())).0;
        return Holdout { sequences: chosen, others: sequences.clone() };
    }
    if let [only] = &sequences[..] {
        let (first, second) = only.split_at(only.len() / 2);
        return Holdout { sequences: vec![begun(&texts.beginning, second)], others: vec![first.to_vec()] };
    }
    let chosen = spread(if unseen.len() < count { sequences } else { &unseen }, count).0;
    let others: Vec<_> = sequences.iter().filter(|sequence| !chosen.contains(sequence)).cloned().collect();
    // A text may repeat one sequence over and over.
    let others = if others.is_empty() { chosen.clone() } else { others };
    Holdout { sequences: chosen, others }
}

/// A rounded model to measure.
struct RoundedModel {
    bpw: f64,
    bitmap: BitMap,
    /// Sum of the scores of its layers.
    predicted: f64,
}

/// Chooses `count` of the sequences, from all over the text, and returns them and the others.
fn spread(sequences: &[Vec<u32>], count: usize) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let all = sequences.len().max(1);
    let (chosen, others): (Vec<_>, Vec<_>) =
        sequences.iter().cloned().enumerate().partition(|(index, _)| index * count % all < count);
    let tokens = |list: Vec<(usize, Vec<u32>)>| list.into_iter().map(|(_, tokens)| tokens).collect();
    (tokens(chosen), tokens(others))
}

/// Returns one affine candidate per bit-width, with the group size nearest to 64.
fn by_bits(candidates: &[Quant]) -> Vec<Quant> {
    let mut nearest: BTreeMap<u32, Quant> = BTreeMap::new();
    for quant in candidates.iter().filter(|quant| quant.mode == Mode::Affine) {
        let best = nearest.entry(quant.bits).or_insert(*quant);
        if quant.group_size.abs_diff(64) < best.group_size.abs_diff(64) {
            *best = *quant;
        }
    }
    nearest.into_values().collect()
}

/// Returns the SHA-256 of the tokens.
pub fn digest(sequences: &[Vec<u32>]) -> String {
    crate::files::digest::digest(sequences.iter().flatten().map(|token| token.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_of_an_only_sequence_begin_alike() {
        let texts = Texts {
            name: String::new(),
            has_conversations: false,
            sequences: vec![vec![9, 1, 2, 3]],
            held_out: Vec::new(),
            validation: Vec::new(),
            unused: Vec::new(),
            beginning: vec![9],
        };
        let Holdout { sequences, others } = hold_out(&texts, 1);
        assert_eq!((sequences, others), (vec![vec![9, 2, 3]], vec![vec![9, 1]]));
    }

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
