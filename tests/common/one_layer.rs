//! Predicted against measured KL divergence of one layer rounded at a time: shared by a test and a bench.

use std::collections::BTreeMap;

use mixbit::choose::scores::{LayerSensitivity, Method, Score};
use mixbit::engine::decoder::load::Rounding;
use mixbit::engine::measure::compare::Comparison;
use mixbit::engine::measure::sensitivities::analyze;
use mixbit::engine::measure::settings::AnalysisSettings;
use mixbit::engine::runtime::Engine;
use mixbit::error::Result;
use mixbit::models::source::SourceModel;
use mixbit::models::spec::TensorSpec;
use mixbit::numerics::affine::FloatType;
use mixbit::numerics::quant::Quant;
use mixbit::numerics::rounding::Technique;

/// Bytes of memory, enough for the models this is run on.
pub const MEMORY: u64 = 4 << 30;

/// Tokens to predict from, tokens to measure on, and the candidates.
pub struct Setting {
    pub sequences: Vec<Vec<u32>>,
    pub windows: Vec<Vec<u32>>,
    pub candidates: Vec<Quant>,
    /// Distance of the blocks whose layers are rounded: 1 for all blocks. The head always is, unless it is tied.
    pub every: usize,
}

impl Setting {
    /// Returns the layers that are rounded, with their paths.
    pub fn layers<'s>(
        &self,
        source: &'s SourceModel,
    ) -> impl Iterator<Item = (&'s TensorSpec, &'s str)> + use<'s, '_> {
        let chosen = source.manifest().iter().filter(|spec| self.chooses(spec));
        chosen.filter_map(|spec| Some((spec, spec.path()?)))
    }

    fn chooses(&self, spec: &TensorSpec) -> bool {
        spec.quantizable() && spec.layer.is_none_or(|block| block % self.every == self.every - 1)
    }
}

/// Measured KL divergence per token of every layer and candidate.
pub type Measured = BTreeMap<(String, Quant), f64>;

/// Rounds one layer at a time and measures the KL divergence.
pub fn measured(engine: &Engine, source: &SourceModel, setting: &Setting) -> Result<Measured> {
    let comparison = Comparison::new(engine, source, &setting.windows, MEMORY)?;
    let mut measured = Measured::new();
    for (spec, path) in setting.layers(source) {
        for &quant in setting.candidates.iter().filter(|quant| quant.groups(spec.shape[1]).is_some()) {
            let bitmap = BTreeMap::from([(path.to_owned(), quant)]);
            let kl = comparison.kl_divergence(&Rounding { bitmap, dtype: FloatType::F16 })?;
            measured.insert((path.to_owned(), quant), kl);
        }
    }
    Ok(measured)
}

/// Returns (candidate, predicted, measured) of what was measured and has a prediction in `layers`.
pub fn pairs_of(layers: &[LayerSensitivity], measured: &Measured) -> Vec<(Quant, f64, f64)> {
    let scores = layers.iter().flat_map(|layer| layer.scores.iter().map(move |score| (layer, score)));
    let pair = |(layer, score): (&LayerSensitivity, &Score)| {
        let measured = measured.get(&(layer.path.clone(), score.quant))?;
        Some((score.quant, score.kl, *measured))
    };
    scores.filter_map(pair).collect()
}

/// Returns (candidate, predicted, measured) of every layer and candidate.
pub fn measure(
    engine: &Engine,
    source: &SourceModel,
    setting: &Setting,
    method: Method,
    measured: &Measured,
) -> Result<Vec<(Quant, f64, f64)>> {
    let others = source.manifest().iter().filter(|spec| !setting.chooses(spec));
    let settings = AnalysisSettings {
        sequences: &setting.sequences,
        candidates: &setting.candidates,
        method,
        technique: Technique::Rtn,
        dtype: FloatType::F16,
        skip: others.filter_map(|spec| Some(spec.path()?.to_owned())).collect(),
        seed: 0,
        memory: MEMORY,
        costs: mixbit::engine::measure::settings::StepCosts::default(),
        progress: &|_, _| {},
    };
    let mut pairs = Vec::new();
    analyze(engine, source, &settings, |layer| {
        pairs.extend(pairs_of(&[layer], measured));
        Ok(())
    })?;
    Ok(pairs)
}

/// Returns Spearman's correlation, that of ranks.
pub fn rank_correlation(pairs: &[(f64, f64)]) -> f64 {
    let ranks = |value: fn(&(f64, f64)) -> f64| {
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by(|&a, &b| value(&pairs[a]).total_cmp(&value(&pairs[b])));
        let mut ranks = vec![0.0; pairs.len()];
        order.iter().enumerate().for_each(|(rank, &index)| ranks[index] = rank as f64);
        ranks
    };
    let (a, b) = (ranks(|p| p.0), ranks(|p| p.1));
    let mean = (pairs.len() as f64 - 1.0) / 2.0;
    let product =
        |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum() };
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

/// Returns predicted over measured: least, median, greatest.
pub fn ratios(pairs: &[(f64, f64)]) -> [f64; 3] {
    let mut ratios: Vec<f64> = pairs.iter().map(|(predicted, measured)| predicted / measured).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |index: usize| ratios.get(index).copied().unwrap_or(f64::NAN);
    [at(0), at(ratios.len() / 2), at(ratios.len().saturating_sub(1))]
}
