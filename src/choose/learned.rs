//! What learned codes are expected to leave of a KL divergence.
//!
//! A correction of rounding can be measured before any bits are chosen; what learning brings is known only afterwards. But
//! over models and bits the share that is left went with the divergence itself: the larger it was, the smaller the share.

/// Steps of the runs that the shares are from; each had as much text as its codes could use.
const STEPS: f64 = 300.0;
/// Share that was left of one nat per token.
const SHARE_OF_A_NAT: f64 = 0.31;
/// How much larger the share is with every tenth of the divergence.
const SHARE_PER_DECADE: f64 = 0.09;
/// What is gained rises with this power of the steps.
const GAIN_BY_STEPS: f64 = 1.0 / 3.0;

/// Returns the KL divergence to expect after `steps` in which all codes learn, of a model that is predicted to have `kl`
/// once rounded. The unit is that of nats per token.
pub fn after_learned_codes(kl: f64, steps: u32) -> f64 {
    if kl <= 0.0 {
        return kl;
    }
    let share = (SHARE_OF_A_NAT - SHARE_PER_DECADE * kl.log10()).clamp(SHARE_OF_A_NAT, 1.0);
    let taken = (f64::from(steps) / STEPS).min(1.0).powf(GAIN_BY_STEPS);
    kl * (1.0 - (1.0 - share) * taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of "Learned codes" in benches/RESULTS.md: divergence of the rounded model, steps, divergence after them.
    const MEASURED: [(f64, u32, f64); 16] = [
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
        (1.298, 300, 0.394),
        (0.2161, 300, 0.0865),
        (0.0442, 300, 0.0202),
    ];

    #[test]
    fn measured_models_come_out_as_expected() {
        for (kl, steps, left) in MEASURED {
            let ratio = after_learned_codes(kl, steps) / left;
            assert!((0.85..1.15).contains(&ratio), "{kl} after {steps} steps: {ratio} of {left}");
        }
    }

    #[test]
    fn no_steps_and_no_divergence_change_nothing() {
        assert!((after_learned_codes(0.01, 0) - 0.01).abs() < 1e-15);
        assert!(after_learned_codes(0.0, 300).abs() < 1e-300);
        assert!(after_learned_codes(5.0, 300) > 0.0);
        assert!(after_learned_codes(1e-12, 300) <= 1e-12);
    }
}
