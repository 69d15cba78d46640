//! Expected KL divergence after codes have learned.
//!
//! The cost of rounding can be measured before any bits are chosen, the gain of learning only afterwards. Over models and bits,
//! the share of the divergence that learning leaves falls as the divergence itself rises. That is the rule here.

/// Fewest steps that a model was measured with: in a few dozen hardly a code changes.
const LEAST_STEPS: u32 = 100;
/// Steps of the models that most shares are from.
const STEPS: f64 = 300.0;
/// Share of one nat per token that is left.
const SHARE_OF_A_NAT: f64 = 0.31;
/// Rise of the share with each tenfold smaller divergence.
const SHARE_PER_DECADE: f64 = 0.09;
/// Power of the steps with which the gain rises.
const GAIN_BY_STEPS: f64 = 1.0 / 3.0;

/// Returns the KL divergence to expect after `steps` in which all codes of affine layers learn, in nats per token, of a model
/// that GPTQ leaves at `kl`. `None` where too few steps are taken.
pub(crate) fn after_learning_codes(kl: f64, steps: u32) -> Option<f64> {
    if steps < LEAST_STEPS || kl <= 0.0 {
        return None;
    }
    let share = (SHARE_OF_A_NAT - SHARE_PER_DECADE * kl.log10()).clamp(SHARE_OF_A_NAT, 1.0);
    let gain = (f64::from(steps) / STEPS).min(1.0).powf(GAIN_BY_STEPS);
    Some(kl * (1.0 - (1.0 - share) * gain))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Models of "What learning leaves" in benches/RESULTS.md: divergence once rounded, steps, divergence after them.
    const MEASURED: [(f64, u32, f64); 17] = [
        (0.1316, 300, 0.0493),
        (0.0264, 300, 0.0119),
        (0.0064, 300, 0.0030),
        (0.0015, 300, 0.0008),
        (0.1316, 100, 0.0738),
        (0.0264, 100, 0.0164),
        (0.0264, 150, 0.0169),
        (0.00902, 300, 0.00469),
        (0.00394, 300, 0.00208),
        (0.00190, 300, 0.00112),
        (0.00044, 300, 0.00027),
        (0.02190, 150, 0.01322),
        (0.00428, 150, 0.00290),
        (0.00095, 150, 0.00074),
        (1.298, 300, 0.394),
        (0.2161, 300, 0.0865),
        (0.0442, 300, 0.0202),
    ];

    #[test]
    fn measured_models_come_out_as_expected() {
        for (kl, steps, measured) in MEASURED {
            let ratio = after_learning_codes(kl, steps).unwrap() / measured;
            assert!((0.85..1.09).contains(&ratio), "{kl} after {steps} steps: {ratio} of {measured}");
        }
    }

    #[test]
    fn shares_stay_between_that_of_a_nat_and_the_whole() {
        let is_about = |kl: f64, expected: f64| {
            let found = after_learning_codes(kl, 300).unwrap();
            (found / expected - 1.0).abs() < 1e-12
        };
        assert!(is_about(5.0, 5.0 * SHARE_OF_A_NAT));
        assert!(is_about(1e-12, 1e-12));
        assert_eq!(after_learning_codes(0.01, 3000), after_learning_codes(0.01, 300));
    }

    #[test]
    fn nothing_is_expected_of_few_steps() {
        assert_eq!(after_learning_codes(0.01, 99), None);
        assert_eq!(after_learning_codes(0.0, 300), None);
    }
}
