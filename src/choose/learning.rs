//! What learning leaves of the divergence that rounding gives, so that bits go where learning will leave most.

use super::scores::LayerSensitivity;
use crate::models::bitmap::BitMap;

/// Share of the KL divergence of models rounded with GPTQ to so many bits that is left once codes have learned: means of two
/// models (benches/RESULTS.md, learned codes). Fewer bits leave more to learn.
const LEFT: [(u32, f64); 4] = [(2, 0.38), (3, 0.45), (4, 0.47), (5, 0.50)];

/// Returns the scores for layers whose codes will learn.
pub fn after_learning(layers: &[LayerSensitivity]) -> Vec<LayerSensitivity> {
    let mut layers = layers.to_vec();
    for score in layers.iter_mut().flat_map(|layer| &mut layer.scores) {
        let nearest = LEFT.iter().min_by_key(|(bits, _)| bits.abs_diff(score.quant.bits));
        let left = nearest.map_or(1.0, |(_, left)| *left);
        score.kl *= left;
        score.stderr *= left;
    }
    layers
}

/// Adds up the scores of `layers` with the settings of `bitmap`.
pub fn total(layers: &[LayerSensitivity], bitmap: &BitMap) -> f64 {
    let chosen = layers.iter().filter_map(|layer| {
        let quant = bitmap.get(&layer.path)?;
        layer.scores.iter().find(|score| score.quant == *quant)
    });
    chosen.map(|score| score.kl).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::choose::scores::Score;
    use crate::numerics::quant::Quant;

    #[test]
    fn fewer_bits_leave_more_to_learn() {
        let score = |bits| Score { quant: Quant::affine(bits, 64), kl: 1.0, stderr: 0.5 };
        let layer = |path: &str| LayerSensitivity {
            path: path.to_owned(),
            rows: 1,
            columns: 64,
            scores: [2, 4, 8].map(score).to_vec(),
        };
        let layers = after_learning(&[layer("a"), layer("b")]);
        let left: Vec<f64> = layers[1].scores.iter().map(|score| score.kl).collect();
        assert_eq!(left, [0.38, 0.47, 0.50]);
        let bitmap =
            BitMap::from([("a".to_owned(), Quant::affine(2, 64)), ("c".to_owned(), Quant::affine(4, 64))]);
        assert!((total(&layers, &bitmap) - 0.38).abs() < 1e-12, "what is not chosen stays float");
    }
}
