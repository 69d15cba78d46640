//! Activations of MLPs, put together from MLX's operations.

use mlx_rs::Array;
use mlx_rs::ops::{erf, expm1, logaddexp, maximum, minimum, select, sigmoid, tanh};
use std::f32::consts::{FRAC_1_SQRT_2, PI};

use super::array::{clamped, factor};
use crate::error::{Error, Result};

/// Computes x sigmoid(x).
pub(crate) fn silu(x: &Array) -> Result<Array> {
    Ok(x.multiply(sigmoid(x)?)?)
}

/// Computes GELU.
pub(crate) fn gelu(x: &Array) -> Result<Array> {
    let constant = |value| factor(value, x);
    let doubled = erf(x.multiply(constant(FRAC_1_SQRT_2)?)?)?.add(constant(1.0)?)?;
    Ok(doubled.multiply(x)?.multiply(constant(0.5)?)?)
}

/// Computes GELU by its approximation with tanh.
pub(crate) fn gelu_tanh(x: &Array) -> Result<Array> {
    let constant = |value| factor(value, x);
    let cubic = x.square()?.multiply(constant(0.044_715)?)?.add(constant(1.0)?)?.multiply(x)?;
    let inner = cubic.multiply(constant((2.0 / PI).sqrt())?)?;
    let halves = tanh(&inner)?.add(constant(1.0)?)?;
    Ok(halves.multiply(x)?.multiply(constant(0.5)?)?)
}

/// Computes the square of what is above 0.
pub(crate) fn relu2(x: &Array) -> Result<Array> {
    Ok(maximum(x, factor(0.0, x)?)?.square()?)
}

/// Computes xIELU with its parameters as they are stored: both alphas (before softplus), beta and epsilon.
pub(crate) fn xielu(x: &Array, parameters: &[Array]) -> Result<Array> {
    let [above, below, beta, eps] = parameters else {
        return Err(Error::engine("xIELU has four parameters"));
    };
    let zero = factor(0.0, x)?;
    let softplus = |alpha: &Array| logaddexp(alpha, &zero);
    let (above, below) = (softplus(above)?, softplus(below)?.add(beta)?);
    let linear = x.multiply(beta)?;
    let positive = x.square()?.multiply(above)?.add(&linear)?;
    let negative = expm1(minimum(x, eps)?)?.subtract(x)?.multiply(below)?.add(&linear)?;
    Ok(select(x.gt(&zero)?, positive, negative)?)
}

/// Computes gate sigmoid(alpha gate) (up + 1), gate at most `limit`, up between its negative and it.
pub(crate) fn clamped_swish(gate: &Array, up: &Array, alpha: f32, limit: f32) -> Result<Array> {
    let gate = minimum(gate, factor(limit, gate)?)?;
    let swish = gate.multiply(sigmoid(gate.multiply(factor(alpha, &gate)?)?)?)?;
    let up = clamped(up, limit)?;
    Ok(up.add(factor(1.0, &up)?)?.multiply(swish)?)
}

/// Computes gate sigmoid(gate), at most `limit`, times up between its negative and it.
pub(crate) fn clamped_silu(gate: &Array, up: &Array, limit: f32) -> Result<Array> {
    Ok(minimum(silu(gate)?, factor(limit, gate)?)?.multiply(clamped(up, limit)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::array::{from_vec, to_vec};
    use crate::engine::runtime::Engine;

    #[test]
    fn activations_are_their_formulas() {
        Engine::start().unwrap();
        let xs = [-3.0_f32, -0.5, 0.0, 0.25, 2.0];
        let x = from_vec(xs.to_vec(), &[5]);
        // erf(x / sqrt 2) of these, from tables.
        let errors = [-0.997_300_2_f32, -0.382_924_9, 0.0, 0.197_412_7, 0.954_499_7];
        let found = to_vec(&gelu(&x).unwrap()).unwrap();
        for ((found, x), error) in found.iter().zip(xs).zip(errors) {
            assert!((found - x * (1.0 + error) / 2.0).abs() < 1e-6, "{x} {found}");
        }
        assert_eq!(to_vec(&relu2(&x).unwrap()).unwrap(), [0.0, 0.0, 0.0, 0.0625, 4.0]);
        let up = from_vec(vec![9.0, -9.0, 1.0, -1.0, 0.5], &[5]);
        let found = to_vec(&clamped_swish(&x, &up, 1.5, 1.75).unwrap()).unwrap();
        for ((found, x), up) in found.iter().zip(xs).zip([1.75_f32, -1.75, 1.0, -1.0, 0.5]) {
            let gate = x.min(1.75);
            let expected = gate / (1.0 + (-1.5 * gate).exp()) * (up + 1.0);
            assert!((found - expected).abs() < 1e-6, "{x} {found} {expected}");
        }
        let found = to_vec(&clamped_silu(&x, &up, 1.5).unwrap()).unwrap();
        for ((found, x), up) in found.iter().zip(xs).zip([1.5_f32, -1.5, 1.0, -1.0, 0.5]) {
            let expected = (x / (1.0 + (-x).exp())).min(1.5) * up;
            assert!((found - expected).abs() < 1e-6, "{x} {found} {expected}");
        }
        let parameters = [0.3_f32, -0.2, 0.5, -1e-6].map(Array::from_f32);
        let found = to_vec(&xielu(&x, &parameters).unwrap()).unwrap();
        let softplus = |x: f32| x.exp().ln_1p();
        for (found, x) in found.iter().zip(xs) {
            let expected = if x > 0.0 {
                softplus(0.3) * x * x + 0.5 * x
            } else {
                (x.min(-1e-6).exp_m1() - x) * (0.5 + softplus(-0.2)) + 0.5 * x
            };
            assert!((found - expected).abs() < 1e-6, "{x} {found} {expected}");
        }
    }
}
