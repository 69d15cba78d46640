//! Distribution of KL divergences: they span many decades, so the bins are equal in the logarithm.

use serde::{Deserialize, Serialize};

/// Bins per decade.
const PER_DECADE: f64 = 5.0;
/// Lower edge of the first bin, which also counts smaller values.
const LEAST: f64 = 1e-8;
/// Number of bins, which reach from `LEAST` to 100.
const BINS: usize = 50;

/// Counts of values in bins of equal width in the logarithm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Lower edge of the first bin; each edge is 10^(1/5) times the one before.
    pub least: f64,
    /// Bins per decade.
    pub per_decade: f64,
    /// Values in each bin.
    pub counts: Vec<usize>,
}

impl Histogram {
    /// Counts `values`.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut counts = vec![0; BINS];
        for value in values {
            let bin = ((value.max(LEAST) / LEAST).log10() * PER_DECADE) as usize;
            counts[bin.min(BINS - 1)] += 1;
        }
        Self { least: LEAST, per_decade: PER_DECADE, counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_counted() {
        let Histogram { counts, .. } = Histogram::of([0.0, 1e-8, 1.1e-3, 1e9].into_iter());
        assert_eq!(counts.iter().sum::<usize>(), 4);
        assert_eq!((counts[0], counts[25], counts[BINS - 1]), (2, 1, 1));
    }
}
