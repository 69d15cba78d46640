//! What second-order predictions are off by, measured.
//!
//! Sensitivities predict the KL divergence of one layer's rounding well, and of a whole model's as long as it is small.
//! Two things they do not know are measured beside them, on a few sequences and rows:
//!
//! - by how much GPTQ's error is below that of scale search, which is what sensitivities score: the ratio of the mean
//!   square of the layer's output error, tr(E H E^T), a bit-width;
//! - what rounding the whole model does where many bits are taken away: measured over predicted KL divergence at a few
//!   sizes. Between them the logarithms are interpolated; outside, the nearest ratio holds. The few sequences that it is
//!   measured on are harder or easier than others at all sizes alike: of what is off at the smallest divergence, where the
//!   second order should hold, half is put down to them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::allocate::CurvePoint;
use crate::candidate::{Mode, Quant};
use crate::rounding::Technique;
use crate::sensitivity::LayerSensitivity;

/// Divergences, in nats a token, below which second-order predictions are near enough to show how hard a text is.
const SMALL: f64 = 0.02;

/// Measured corrections of predictions. An empty one changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// GPTQ's output error over that of scale search, by bits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gptq: BTreeMap<u32, f64>,
    /// Whole models rounded as the sensitivities were scored, from the smallest predicted divergence to the largest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<Measured>,
}

/// One whole model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Its bits a weight.
    pub bpw: f64,
    /// Predicted KL divergence per token: the sum over its layers.
    pub predicted: f64,
    /// Measured.
    pub measured: f64,
}

impl Correction {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.gptq.is_empty() && self.measured.is_empty()
    }

    /// Scores as they are for `technique`: those of affine candidates times what GPTQ leaves of them.
    pub fn scores_for(&self, technique: Technique, layers: &[LayerSensitivity]) -> Vec<LayerSensitivity> {
        let mut layers = layers.to_vec();
        if technique == Technique::Gptq {
            for score in layers.iter_mut().flat_map(|layer| &mut layer.scores) {
                let factor = self.factor(score.quant);
                score.kl *= factor;
                score.stderr *= factor;
            }
        }
        layers
    }

    /// What GPTQ leaves of a candidate's error.
    fn factor(&self, quant: Quant) -> f64 {
        let nearest = self.gptq.iter().min_by_key(|(bits, _)| bits.abs_diff(quant.bits));
        nearest.filter(|_| quant.mode == Mode::Affine).map_or(1.0, |(_, factor)| *factor)
    }

    /// The KL divergence to expect of a whole model whose layers' predictions add up to `predicted`.
    pub fn whole(&self, predicted: f64) -> f64 {
        let usable = |point: &&Measured| point.predicted > 0.0 && point.measured > 0.0;
        let points: Vec<[f64; 2]> = self
            .measured
            .iter()
            .filter(usable)
            .map(|point| [point.predicted.ln(), (point.measured / point.predicted).ln()])
            .collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return predicted };
        let text = if first[0] < SMALL.ln() { first[1] / 2.0 } else { 0.0 };
        if predicted <= 0.0 {
            return predicted;
        }
        let at = predicted.ln();
        let ratio = match points.windows(2).find(|pair| (pair[0][0]..=pair[1][0]).contains(&at)) {
            Some(&[[x0, y0], [x1, y1]]) if x1 > x0 => y0 + (y1 - y0) * (at - x0) / (x1 - x0),
            _ if at < first[0] => first[1],
            _ => last[1],
        };
        predicted * (ratio - text).exp()
    }

    /// The same for a curve, which stays one that does not rise with size.
    pub fn curve(&self, mut points: Vec<CurvePoint>) -> Vec<CurvePoint> {
        let mut most = f64::INFINITY;
        for point in &mut points {
            point.kl = self.whole(point.kl).min(most);
            most = point.kl;
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensitivity::Score;

    fn correction() -> Correction {
        let point = |bpw, predicted, measured| Measured { bpw, predicted, measured };
        Correction {
            gptq: [(2, 0.25), (4, 0.5)].into(),
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

    #[test]
    fn half_of_what_is_off_at_small_divergences_is_the_text() {
        let measured = |predicted, measured| Measured { bpw: 4.0, predicted, measured };
        let of = |first, second| Correction { measured: vec![first, second], ..Correction::default() };
        let hard = of(measured(0.001, 0.00144), measured(0.01, 0.0144));
        for predicted in [0.0005, 0.001, 0.003, 0.01, 0.1] {
            assert!((hard.whole(predicted) / predicted - 1.2).abs() < 1e-9, "{predicted}");
        }
        let large = of(measured(0.05, 0.1), measured(0.1, 0.2));
        assert!((large.whole(0.05) - 0.1).abs() < 1e-9, "second order does not hold there");
    }

    #[test]
    fn gptq_leaves_less_of_affine_errors() {
        let quants =
            [Quant::affine(2, 64), Quant::affine(3, 64), Quant::affine(8, 64), Mode::Mxfp4.default_quant()];
        let scores = quants.iter().map(|&quant| Score { quant, kl: 1.0, stderr: 0.1 }).collect();
        let layers = [LayerSensitivity { path: "a".to_owned(), rows: 1, columns: 64, scores }];
        let kl = |technique| -> Vec<f64> {
            let found = correction().scores_for(technique, &layers);
            found[0].scores.iter().map(|score| score.kl).collect()
        };
        assert_eq!(kl(Technique::Gptq), [0.25, 0.25, 0.5, 1.0]);
        assert_eq!(kl(Technique::Search), [1.0; 4]);
    }

    #[test]
    fn curves_do_not_rise() {
        let point = |kl| CurvePoint { bpw: 1.0, bytes: 1, kl };
        let found = correction().curve([0.05, 0.02, 0.0199, 0.001].map(point).to_vec());
        assert!(found.windows(2).all(|pair| pair[1].kl <= pair[0].kl), "{found:?}");
    }
}
