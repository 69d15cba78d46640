//! Measured corrections of second-order predictions.
//!
//! Sensitivities predict the KL divergence of one layer's rounding well, and of a whole model's as long as it is small.
//! The rest is measured on a part of the text:
//!
//! - the scores of the diagonal form take the errors of a layer's weights for independent. With few bits they are not: the
//!   mean square of the layer's output error, tr(E H E^T), is above what the diagonal of H gives; with GPTQ, which is made
//!   for that, far below it. The ratio is tried on some layers, per bit-width;
//! - rounding the whole model does more where many bits are taken away, and on sequences that sensitivities did not see:
//!   the ratio of measured over predicted KL divergence is taken at a few sizes. Between them the logarithms are
//!   interpolated; outside, the nearest ratio holds.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::scores::LayerSensitivity;
use crate::choose::allocate::CurvePoint;
use crate::numerics::quant::Mode;
use crate::numerics::rounding::Technique;

/// Tokens, about, that whole models are measured on.
pub const MEASURED_TOKENS: usize = 4096;

/// Factors by bit-width.
pub type ByBits = BTreeMap<u32, f64>;
/// Factors of some layers, by path.
pub type ByLayer = BTreeMap<String, ByBits>;

/// Measured corrections of predictions. An empty one changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// Output error of scale search over that of the scores, where these know the diagonal alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub search: ByLayer,
    /// Output error of GPTQ over that of the scores.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gptq: ByLayer,
    /// Whole models rounded as the sensitivities were scored, from the smallest predicted divergence to the largest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<Measured>,
}

/// A whole model, predicted and measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Bits per weight.
    pub bpw: f64,
    /// Predicted KL divergence per token: the sum over its layers.
    pub predicted: f64,
    /// Measured KL divergence per token.
    pub measured: f64,
}

impl Correction {
    /// True if predictions stay as they are.
    pub fn is_empty(&self) -> bool {
        self.search.is_empty() && self.gptq.is_empty() && self.measured.is_empty()
    }

    /// Returns the paths of the layers that factors were tried on.
    pub fn layers(&self) -> impl Iterator<Item = &String> {
        self.search.keys().chain(self.gptq.keys())
    }

    /// Describes the first value that no measurement can give, if there is one.
    pub fn impossible_value(&self) -> Option<String> {
        const FACTORS: RangeInclusive<f64> = 0.0..=1e6;
        let factors =
            [("search", &self.search), ("gptq", &self.gptq)].into_iter().flat_map(|(way, layers)| {
                let by_bits = layers
                    .iter()
                    .flat_map(|(path, factors)| factors.iter().map(move |factor| (path, factor)));
                by_bits.map(move |(path, (bits, factor))| (way, path, bits, *factor))
            });
        let unlikely = |(_, _, _, factor): &(&str, &String, &u32, f64)| !FACTORS.contains(factor);
        if let Some((way, path, bits, factor)) = factors.into_iter().find(unlikely) {
            return Some(format!("`{way}` has a factor of {factor} for layer `{path}` with {bits} bits"));
        }
        let is_divergence = |value: f64| value.is_finite() && value >= 0.0;
        let wrong = self.measured.iter().find(|point| {
            let sizes = !is_divergence(point.predicted) || !is_divergence(point.measured);
            sizes || point.predicted > 0.0 && !FACTORS.contains(&(point.measured / point.predicted))
        })?;
        let Measured { bpw, predicted, measured } = wrong;
        Some(format!("`measured` has {measured} for {predicted} predicted at {bpw} bpw"))
    }

    /// Returns the rounding that predictions are for where `technique` is in force and the scores are for `scored`.
    pub(crate) fn predicted_rounding(&self, technique: Technique, scored: Technique) -> Technique {
        if self.serves_for_gptq(technique) { technique } else { scored }
    }

    /// True if `technique` is GPTQ and there are factors of it.
    fn serves_for_gptq(&self, technique: Technique) -> bool {
        technique == Technique::Gptq && !self.gptq.is_empty()
    }

    /// Returns the scores for `technique`: those of affine candidates times the factors of the layer. Without factors of
    /// GPTQ those of scale search serve for it.
    pub fn scores_for(&self, technique: Technique, layers: &[LayerSensitivity]) -> Vec<LayerSensitivity> {
        let factors = if self.serves_for_gptq(technique) { &self.gptq } else { &self.search };
        let mut layers = layers.to_vec();
        for layer in &mut layers {
            let Some(factors) = factors_at(factors, &layer.path) else { continue };
            for score in layer.scores.iter_mut().filter(|score| score.quant.mode == Mode::Affine) {
                let factor = nearest(&factors, score.quant.bits);
                score.kl *= factor;
                score.stderr *= factor;
            }
        }
        layers
    }

    /// Returns the KL divergence to expect of a whole model whose layers' predictions add up to `predicted`.
    pub fn whole(&self, predicted: f64) -> f64 {
        let usable = |point: &&Measured| point.predicted > 0.0 && point.measured > 0.0;
        let points: Vec<[f64; 2]> = self
            .measured
            .iter()
            .filter(usable)
            .map(|point| [point.predicted.ln(), (point.measured / point.predicted).ln()])
            .collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return predicted };
        if predicted <= 0.0 {
            return predicted;
        }
        let at = predicted.ln();
        let ratio = match points.windows(2).find(|pair| (pair[0][0]..=pair[1][0]).contains(&at)) {
            Some(&[[x0, y0], [x1, y1]]) if x1 > x0 => y0 + (y1 - y0) * (at - x0) / (x1 - x0),
            _ if at < first[0] => first[1],
            _ => last[1],
        };
        predicted * ratio.exp()
    }

    /// Corrects a curve, which stays one that does not rise with size.
    pub fn curve(&self, mut points: Vec<CurvePoint>) -> Vec<CurvePoint> {
        let mut most = f64::INFINITY;
        for point in &mut points {
            point.kl = self.whole(point.kl).min(most);
            most = point.kl;
        }
        points
    }
}

/// Returns the factors of the layer at `path`: its own, or else those of the layer of its kind in the next block that was
/// measured, or the last; of a kind that was not measured at all, the mean of all.
fn factors_at<'a>(measured: &'a ByLayer, path: &str) -> Option<Cow<'a, ByBits>> {
    if let Some((block, kind)) = place(path) {
        let mut of_kind: Vec<(usize, &ByBits)> = measured
            .iter()
            .filter_map(|(path, factors)| Some((place(path)?, factors)))
            .filter_map(|((block, this), factors)| (this == kind).then_some((block, factors)))
            .collect();
        of_kind.sort_by_key(|(block, _)| *block);
        if let Some((_, factors)) = of_kind.iter().find(|(at, _)| *at >= block).or(of_kind.last()) {
            return Some(Cow::Borrowed(factors));
        }
    }
    let mut all: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for (bits, factor) in measured.values().flatten() {
        all.entry(*bits).or_default().push(*factor);
    }
    let mean = |factors: Vec<f64>| factors.iter().sum::<f64>() / factors.len() as f64;
    let means: ByBits = all.into_iter().map(|(bits, factors)| (bits, mean(factors))).collect();
    (!means.is_empty()).then_some(Cow::Owned(means))
}

/// Returns the factor of the bit-width nearest to `bits`.
fn nearest(factors: &ByBits, bits: u32) -> f64 {
    factors.iter().min_by_key(|(at, _)| at.abs_diff(bits)).map_or(1.0, |(_, factor)| *factor)
}

/// Splits a layer's path into the number of its block and its name there.
fn place(path: &str) -> Option<(usize, &str)> {
    let (block, kind) = path.split_once(".layers.")?.1.split_once('.')?;
    Some((block.parse().ok()?, kind))
}

#[cfg(test)]
mod tests {
    use super::super::scores::Score;
    use super::*;
    use crate::numerics::quant::Quant;

    fn correction() -> Correction {
        let point = |bpw, predicted, measured| Measured { bpw, predicted, measured };
        let factors = |list: &[(&str, f64)]| {
            list.iter().map(|(path, at_2)| ((*path).to_owned(), [(2, *at_2), (4, 0.5)].into())).collect()
        };
        Correction {
            search: factors(&[("model.layers.0.down", 1.5)]),
            gptq: factors(&[("model.layers.0.down", 0.25), ("model.layers.10.down", 0.75)]),
            measured: vec![point(4.0, 0.001, 0.001), point(3.0, 0.01, 0.02), point(2.5, 0.02, 0.08)],
        }
    }

    #[test]
    fn whole_models_go_through_the_measured_points() {
        let correction = correction();
        for Measured { predicted, measured, .. } in &correction.measured {
            assert!((correction.whole(*predicted) / measured - 1.0).abs() < 1e-9);
        }
        assert!((correction.whole(1e-5) - 1e-5).abs() < 1e-15, "below the first point its ratio holds");
        assert!((correction.whole(0.1) - 0.4).abs() < 1e-12, "above the last point its ratio holds");
        let between = correction.whole((0.001f64 * 0.01).sqrt()) / (0.001f64 * 0.01).sqrt();
        assert!((between - 2f64.sqrt()).abs() < 1e-9, "{between}");
        assert!((Correction::default().whole(0.3) - 0.3).abs() < 1e-15);
        assert!(correction.whole(0.0).abs() < 1e-15);
    }

    fn layer(path: &str) -> LayerSensitivity {
        let quants =
            [Quant::affine(2, 64), Quant::affine(3, 64), Quant::affine(8, 64), Mode::Mxfp4.default_quant()];
        let scores = quants.iter().map(|&quant| Score { quant, kl: 1.0, stderr: 0.1 }).collect();
        LayerSensitivity { path: path.to_owned(), rows: 1, columns: 64, scores }
    }

    fn scored(correction: &Correction, technique: Technique, path: &str) -> Vec<f64> {
        let found = correction.scores_for(technique, &[layer(path)]);
        found[0].scores.iter().map(|score| score.kl).collect()
    }

    #[test]
    fn affine_scores_are_multiplied_by_the_technique_s_factor() {
        let path = "model.layers.0.down";
        assert_eq!(scored(&correction(), Technique::Gptq, path), [0.25, 0.25, 0.5, 1.0]);
        assert_eq!(scored(&correction(), Technique::Search, path), [1.5, 1.5, 0.5, 1.0]);
        let unknown = Correction { gptq: ByLayer::new(), ..correction() };
        assert_eq!(scored(&unknown, Technique::Gptq, path), [1.5, 1.5, 0.5, 1.0]);
        assert_eq!(scored(&Correction::default(), Technique::Gptq, path), [1.0; 4]);
        let predicted =
            |correction: &Correction, technique| correction.predicted_rounding(technique, Technique::Search);
        assert_eq!(predicted(&correction(), Technique::Gptq), Technique::Gptq);
        assert_eq!(predicted(&correction(), Technique::Rtn), Technique::Search);
        assert_eq!(predicted(&unknown, Technique::Gptq), Technique::Search);
    }

    #[test]
    fn layers_take_factors_of_their_kind() {
        let at_2 = |path: &str| scored(&correction(), Technique::Gptq, path)[0];
        let of_block = |block| at_2(&format!("model.layers.{block}.down"));
        let found: Vec<f64> = [0, 1, 9, 10, 11].into_iter().map(of_block).collect();
        assert_eq!(found, [0.25, 0.75, 0.75, 0.75, 0.75]);
        let found: Vec<f64> = ["model.layers.3.up", "lm_head"].into_iter().map(at_2).collect();
        assert_eq!(found, [0.5; 2], "the mean of all");
    }

    #[test]
    fn impossible_values_are_named() {
        assert_eq!(correction().impossible_value(), None);
        let path = "model.layers.0.down".to_owned();
        for factor in [-1.0, f64::NAN, 1e300] {
            let wrong = Correction { gptq: [(path.clone(), [(3, factor)].into())].into(), ..correction() };
            assert!(wrong.impossible_value().unwrap().contains("`model.layers.0.down` with 3 bits"));
        }
        for (predicted, measured) in [(-1.0, 1.0), (1.0, -1.0), (1e-300, 1e300), (1.0, f64::INFINITY)] {
            let wrong = Correction {
                measured: vec![Measured { bpw: 3.0, predicted, measured }],
                ..Correction::default()
            };
            assert!(wrong.impossible_value().unwrap().contains("at 3 bpw"));
        }
    }

    #[test]
    fn curves_do_not_rise() {
        let point = |kl| CurvePoint { bpw: 1.0, bytes: 1, kl };
        let found = correction().curve([0.05, 0.02, 0.0199, 0.001].map(point).to_vec());
        assert!(found.windows(2).all(|pair| pair[1].kl <= pair[0].kl), "{found:?}");
    }
}
