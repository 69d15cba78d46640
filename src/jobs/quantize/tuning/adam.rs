//! Adam (Kingma and Ba, arXiv:1412.6980) in coordinates that suit quantized weights.
//!
//! A weight is `scale * code + bias`, and a change of the scale alone also moves the mean of its group, which the bias would
//! have to take back: the two pull against each other. So steps are taken in the scale and in the group's centre
//! `bias + scale * middle code`, each by the rate times the root mean square of the tensor's scales at the start. A rate
//! means the same for every tensor, bit-width and model.

use std::collections::BTreeMap;

use super::values::Values;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-12;

/// Tensors that move together.
#[derive(Debug, Clone, PartialEq)]
pub enum Coordinate {
    /// Scales and biases of a layer, by the tensors' names, and the middle of its codes.
    Affine {
        /// Name of the scales.
        scales: String,
        /// Name of the biases.
        biases: String,
        /// The middle of the codes, (2^bits - 1) / 2.
        middle: f32,
    },
    /// A tensor by itself.
    Plain(String),
}

/// The optimizer's moments, and how far a step goes.
#[derive(Debug, Clone)]
pub struct Adam {
    coordinates: Vec<Coordinate>,
    /// Root mean squares that rates are relative to, by the name of the tensor whose they are.
    units: BTreeMap<String, f64>,
    /// Mean gradients, by tensor.
    pub first: Values,
    /// Mean squares of gradients, by tensor.
    pub second: Values,
}

impl Adam {
    /// Begins with moments of zero, for the `coordinates` of `values`, which are those at the start.
    pub fn new(coordinates: Vec<Coordinate>, values: &Values) -> Self {
        let units = coordinates.iter().filter_map(|coordinate| {
            let (Coordinate::Affine { scales: name, .. } | Coordinate::Plain(name)) = coordinate;
            Some((name.clone(), root_mean_square(values.get(name)?)))
        });
        let zeros = || values.iter().map(|(name, values)| (name.clone(), vec![0.0; values.len()])).collect();
        Self { units: units.collect(), coordinates, first: zeros(), second: zeros() }
    }

    /// Takes a step, the `step`-th from 1 on, down the `gradients`.
    pub fn step(&mut self, step: usize, rate: f64, values: &mut Values, gradients: &Values) {
        let bias = |beta: f64| 1.0 - beta.powf(step as f64);
        let corrections = (1.0 / bias(BETA1), 1.0 / bias(BETA2));
        for coordinate in &self.coordinates {
            match coordinate {
                Coordinate::Plain(name) => {
                    let (Some(gradient), Some(unit)) = (gradients.get(name), self.units.get(name)) else {
                        continue;
                    };
                    let change = moved(&mut self.first, &mut self.second, name, gradient, corrections);
                    add(values, name, &change, -rate * unit);
                }
                Coordinate::Affine { scales, biases, middle } => {
                    let (Some(of_scales), Some(of_biases), Some(unit)) =
                        (gradients.get(scales), gradients.get(biases), self.units.get(scales))
                    else {
                        continue;
                    };
                    let along: Vec<f32> =
                        of_scales.iter().zip(of_biases).map(|(s, b)| s - middle * b).collect();
                    let (first, second) = (&mut self.first, &mut self.second);
                    let scale = moved(first, second, scales, &along, corrections);
                    let mut centre = moved(first, second, biases, of_biases, corrections);
                    centre.iter_mut().zip(&scale).for_each(|(centre, scale)| *centre -= middle * scale);
                    add(values, scales, &scale, -rate * unit);
                    add(values, biases, &centre, -rate * unit);
                }
            }
        }
    }
}

/// Updates the moments of the tensor `name`. Returns the direction to go in, each value of about 1.
fn moved(
    first: &mut Values,
    second: &mut Values,
    name: &str,
    gradient: &[f32],
    corrections: (f64, f64),
) -> Vec<f32> {
    let (Some(first), Some(second)) = (first.get_mut(name), second.get_mut(name)) else { return Vec::new() };
    let moments = first.iter_mut().zip(second);
    let moved = moments.zip(gradient).map(|((m, v), g)| {
        let g = f64::from(*g);
        *m = (BETA1 * f64::from(*m) + (1.0 - BETA1) * g) as f32;
        *v = (BETA2 * f64::from(*v) + (1.0 - BETA2) * g * g) as f32;
        (f64::from(*m) * corrections.0 / ((f64::from(*v) * corrections.1).sqrt() + EPSILON)) as f32
    });
    moved.collect()
}

fn add(values: &mut Values, name: &str, change: &[f32], factor: f64) {
    if let Some(values) = values.get_mut(name) {
        values
            .iter_mut()
            .zip(change)
            .for_each(|(value, change)| *value = (f64::from(*value) + factor * f64::from(*change)) as f32);
    }
}

fn root_mean_square(values: &[f32]) -> f64 {
    let total: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    (total / values.len().max(1) as f64).sqrt()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &[f32])]) -> Values {
        pairs.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect()
    }

    #[test]
    fn the_first_step_goes_the_rate_times_the_unit_down() {
        let mut at = values(&[("n", &[3.0, -4.0])]);
        let mut adam = Adam::new(vec![Coordinate::Plain("n".to_owned())], &at);
        adam.step(1, 0.1, &mut at, &values(&[("n", &[1e-6, -5.0])]));
        let unit = 12.5f32.sqrt();
        assert!((at["n"][0] - (3.0 - 0.1 * unit)).abs() < 1e-5, "{at:?}");
        assert!((at["n"][1] - (-4.0 + 0.1 * unit)).abs() < 1e-5, "{at:?}");
    }

    #[test]
    fn a_scale_turns_about_the_middle_of_its_group() {
        let mut at = values(&[("s", &[2.0]), ("b", &[-15.0])]);
        let affine = Coordinate::Affine { scales: "s".to_owned(), biases: "b".to_owned(), middle: 7.5 };
        let mut adam = Adam::new(vec![affine], &at);
        // Only the spread of the weights matters to this loss: the centre stays.
        adam.step(1, 0.1, &mut at, &values(&[("s", &[1.0]), ("b", &[0.0])]));
        assert!((at["s"][0] - 1.8).abs() < 1e-6);
        assert!((at["b"][0] + 7.5 * at["s"][0]).abs() < 1e-5, "{at:?}");
    }

    #[test]
    fn a_quadratic_bowl_is_descended() {
        let mut at = values(&[("s", &[1.0]), ("b", &[0.0])]);
        let affine = Coordinate::Affine { scales: "s".to_owned(), biases: "b".to_owned(), middle: 1.5 };
        let mut adam = Adam::new(vec![affine], &at);
        // Codes 0 to 3 are to become 0.5, 1.25, 2, 2.75.
        let errors = |at: &Values| -> Vec<f32> {
            (0..4u8).map(|q| at["s"][0] * f32::from(q) + at["b"][0] - (0.5 + 0.75 * f32::from(q))).collect()
        };
        for step in 1..=400 {
            let errors = errors(&at);
            let of_scale = errors.iter().zip(0u8..).map(|(e, q)| e * f32::from(q)).sum::<f32>();
            let gradients = values(&[("s", &[of_scale]), ("b", &[errors.iter().sum::<f32>()])]);
            adam.step(step, 0.02 * (1.0 - step as f64 / 400.0), &mut at, &gradients);
        }
        assert!(errors(&at).iter().all(|e| e.abs() < 1e-3), "{at:?}");
    }
}
