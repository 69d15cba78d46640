//! Rates of this machine, tried for a moment, and the line that says what a job will take by them.

use super::estimate::{Estimate, Rates, Work};
use crate::engine::runtime::{Engine, matmul_rate};
use crate::error::Result;
use crate::numerics::affine::FloatType;
use crate::numerics::quant::Quant;
use crate::numerics::rounding::{DAMPING, Hessian, Rounder, Technique, gptq};
use crate::progress::Progress;
use crate::words::bytes;

/// Weights that rounding is tried on.
const TRIED_WEIGHTS: usize = 1 << 17;
/// Columns of their rows.
const TRIED_COLUMNS: usize = 256;

/// Says what `work` will take, `of` what, where candidates are `quants` with scales in `dtype`.
pub fn announce(
    work: &Work<'_>,
    quants: &[Quant],
    dtype: FloatType,
    of: &str,
    console: &dyn Progress,
) -> Result<Estimate> {
    // Small products say more of how threads wake up than of the machine.
    let width = work.spec.mlps().map(|mlp| mlp.intermediate_size).max().unwrap_or(0);
    let sizes = [work.length, work.spec.hidden_size, width].map(|size| size.max(1024));
    let flops = matmul_rate(&Engine::start()?, sizes)?;
    let estimate = work.estimate(rates(flops, quants, dtype, work.technique));
    console.line(&format!(
        "estimated{of}: {estimate}, {} of memory ({:.0} GFLOP a second here)",
        bytes(estimate.memory),
        flops / 1e9
    ));
    Ok(estimate)
}

/// Tries the rates of this machine, where matrix products run at `flops`.
fn rates(flops: f64, quants: &[Quant], dtype: FloatType, technique: Technique) -> Rates {
    let mut rng = fastrand::Rng::with_seed(1);
    let weights: Vec<f32> = (0..TRIED_WEIGHTS).map(|_| rng.f32() - 0.5).collect();
    let rounder = Rounder { dtype, searched: technique.is_searched(), importance: None };
    Rates {
        flops,
        nearest: rounding_rate(&weights, quants, Rounder { searched: false, ..rounder }),
        scored: rounding_rate(&weights, quants, rounder),
        fed_back: if technique == Technique::Gptq { feedback_rate(&weights, dtype) } else { 1.0 },
    }
}

/// Tries how many weights per second are rounded to one of `quants`.
fn rounding_rate(weights: &[f32], quants: &[Quant], rounder: Rounder<'_>) -> f64 {
    let mut errors = vec![0.0; weights.len()];
    let tried = || {
        for quant in quants {
            // Modes that cannot round uniform values of this size do not exist.
            let _ = rounder.error_into(0, weights, TRIED_COLUMNS, *quant, &mut errors);
        }
    };
    (weights.len() * quants.len()) as f64 / seconds(tried)
}

/// Tries how many weights per second GPTQ finds codes for.
fn feedback_rate(weights: &[f32], dtype: FloatType) -> f64 {
    // Neighbours that go together: where nothing does, scale search is tried as well.
    let moment = |at: usize| 0.9_f32.powi((at / TRIED_COLUMNS).abs_diff(at % TRIED_COLUMNS) as i32);
    let moments: Vec<f32> = (0..TRIED_COLUMNS * TRIED_COLUMNS).map(moment).collect();
    let Ok(hessian) = Hessian::new(&moments, TRIED_COLUMNS, DAMPING) else { return 1.0 };
    weights.len() as f64 / seconds(|| drop(gptq(weights, Quant::affine(4, 64), dtype, &hessian)))
}

/// Returns the least time of some tries: the first wakes threads up, and other programs get in the way.
fn seconds(mut work: impl FnMut()) -> f64 {
    const TRIES: usize = 4;
    let mut least = f64::INFINITY;
    for _ in 0..TRIES {
        let started = std::time::Instant::now();
        work();
        least = least.min(started.elapsed().as_secs_f64());
    }
    least.max(1e-9)
}
