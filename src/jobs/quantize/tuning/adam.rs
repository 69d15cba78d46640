//! Adam (Kingma and Ba, arXiv:1412.6980) in coordinates that suit quantized weights.
//!
//! A weight is `scale * code + bias`, and a change of the scale alone also moves the mean of its group, which the bias would
//! have to take back: the two pull against each other. So steps are taken in the scale and in the group's centre
//! `bias + scale * middle code`, each by the rate times the root mean square of the tensor's scales at the start. A rate
//! means the same for every tensor, bit-width and model. Latent codes move by their own rate, in steps of one code, and stay
//! within the range of codes.
//!
//! Moments are updated as gradients come in, and values move by the moments alone, so that the gradients of a whole model
//! need not be in memory.

use rayon::prelude::*;
use std::collections::BTreeMap;

use super::values::{State, Values};

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
    /// Latent codes of a layer.
    Codes {
        /// Name of the tensor of packed codes.
        name: String,
        /// The position of the highest code; that of the lowest is 0.
        highest: f32,
    },
}

/// Lengths of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Rate of scales, biases and norms, relative to the root mean square of the scales or norms.
    pub floats: f64,
    /// Rate of latent codes, in steps of one code.
    pub codes: f64,
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
    /// Begins with moments of zero, for the `coordinates` of a `state`, which is that at the start.
    pub fn new(coordinates: Vec<Coordinate>, state: &State) -> Self {
        let units = coordinates.iter().filter_map(|coordinate| match coordinate {
            Coordinate::Affine { scales: name, .. } | Coordinate::Plain(name) => {
                Some((name.clone(), root_mean_square(state.floats.get(name)?)))
            }
            Coordinate::Codes { .. } => None,
        });
        let zeros = || -> Values {
            let values = state.floats.iter().chain(&state.latents);
            values.map(|(name, values)| (name.clone(), vec![0.0; values.len()])).collect()
        };
        let units = units.collect();
        Self { units, coordinates, first: zeros(), second: zeros() }
    }

    /// Takes gradients into the moments: all of a step, or some of its coordinates' at a time.
    pub fn observe(&mut self, gradients: &Values) {
        for coordinate in &self.coordinates {
            let (first, second) = (&mut self.first, &mut self.second);
            match coordinate {
                Coordinate::Plain(name) | Coordinate::Codes { name, .. } => {
                    if let Some(gradient) = gradients.get(name) {
                        observe(first, second, name, gradient);
                    }
                }
                Coordinate::Affine { scales, biases, middle } => {
                    let of_scales_and_biases = gradients.get(scales).zip(gradients.get(biases));
                    let Some((of_scales, of_biases)) = of_scales_and_biases else { continue };
                    let along: Vec<f32> =
                        of_scales.iter().zip(of_biases).map(|(s, b)| s - middle * b).collect();
                    observe(first, second, scales, &along);
                    observe(first, second, biases, of_biases);
                }
            }
        }
    }

    /// Moves the `state` by a step, the `step`-th from 1 on, whose gradients were observed.
    pub fn apply(&self, step: usize, rates: Rates, state: &mut State) {
        let State { floats, latents } = state;
        for coordinate in &self.coordinates {
            match coordinate {
                Coordinate::Plain(name) => {
                    let Some(unit) = self.units.get(name) else { continue };
                    add(floats, name, &self.direction(name, step), -rates.floats * unit);
                }
                Coordinate::Affine { scales, biases, middle } => {
                    let Some(unit) = self.units.get(scales) else { continue };
                    let scale = self.direction(scales, step);
                    let mut centre = self.direction(biases, step);
                    centre.iter_mut().zip(&scale).for_each(|(centre, scale)| *centre -= middle * scale);
                    add(floats, scales, &scale, -rates.floats * unit);
                    add(floats, biases, &centre, -rates.floats * unit);
                }
                Coordinate::Codes { name, highest } => {
                    add(latents, name, &self.direction(name, step), -rates.codes);
                    let latents = latents.get_mut(name).into_iter().flatten();
                    latents.for_each(|latent| *latent = latent.clamp(0.0, *highest));
                }
            }
        }
    }

    /// Returns the direction that the tensor `name` goes against in a step, each value of about 1.
    fn direction(&self, name: &str, step: usize) -> Vec<f32> {
        let correction = |beta: f64| 1.0 / (1.0 - beta.powf(step as f64));
        let (first, second) = (correction(BETA1), correction(BETA2));
        let moments = self.first.get(name).zip(self.second.get(name));
        let Some((means, squares)) = moments else { return Vec::new() };
        let direction = |(m, v): (&f32, &f32)| {
            (f64::from(*m) * first / ((f64::from(*v) * second).sqrt() + EPSILON)) as f32
        };
        means.par_iter().zip(squares).map(direction).collect()
    }
}

/// Takes the `gradient` of the tensor `name` into its moments.
fn observe(first: &mut Values, second: &mut Values, name: &str, gradient: &[f32]) {
    let (Some(first), Some(second)) = (first.get_mut(name), second.get_mut(name)) else { return };
    first.par_iter_mut().zip(second).zip(gradient).for_each(|((m, v), g)| {
        let g = f64::from(*g);
        *m = (BETA1 * f64::from(*m) + (1.0 - BETA1) * g) as f32;
        *v = (BETA2 * f64::from(*v) + (1.0 - BETA2) * g * g) as f32;
    });
}

fn add(values: &mut Values, name: &str, change: &[f32], factor: f64) {
    if let Some(values) = values.get_mut(name) {
        values.par_iter_mut().zip(change).for_each(|(value, change)| {
            *value = (f64::from(*value) + factor * f64::from(*change)) as f32;
        });
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

    fn floats(pairs: &[(&str, &[f32])]) -> State {
        State { floats: values(pairs), ..State::default() }
    }

    fn affine(middle: f32) -> Coordinate {
        Coordinate::Affine { scales: "s".to_owned(), biases: "b".to_owned(), middle }
    }

    fn step(adam: &mut Adam, step: usize, rate: f64, state: &mut State, gradients: &[(&str, &[f32])]) {
        adam.observe(&values(gradients));
        adam.apply(step, Rates { floats: rate, codes: rate }, state);
    }

    #[test]
    fn the_first_step_goes_the_rate_times_the_unit_down() {
        let mut at = floats(&[("n", &[3.0, -4.0])]);
        let mut adam = Adam::new(vec![Coordinate::Plain("n".to_owned())], &at);
        step(&mut adam, 1, 0.1, &mut at, &[("n", &[1e-6, -5.0])]);
        let unit = 12.5f32.sqrt();
        assert!((at.floats["n"][0] - (3.0 - 0.1 * unit)).abs() < 1e-5, "{at:?}");
        assert!((at.floats["n"][1] - (-4.0 + 0.1 * unit)).abs() < 1e-5, "{at:?}");
    }

    #[test]
    fn a_scale_turns_about_the_middle_of_its_group() {
        let mut at = floats(&[("s", &[2.0]), ("b", &[-15.0])]);
        let mut adam = Adam::new(vec![affine(7.5)], &at);
        // Only the spread of the weights matters to this loss: the centre stays.
        step(&mut adam, 1, 0.1, &mut at, &[("s", &[1.0]), ("b", &[0.0])]);
        assert!((at.floats["s"][0] - 1.8).abs() < 1e-6);
        assert!((at.floats["b"][0] + 7.5 * at.floats["s"][0]).abs() < 1e-5, "{at:?}");
    }

    #[test]
    fn codes_move_by_their_own_rate_within_their_range() {
        let mut at = State { latents: values(&[("c", &[0.0, 1.0, 3.0])]), ..State::default() };
        let codes = Coordinate::Codes { name: "c".to_owned(), highest: 3.0 };
        let mut adam = Adam::new(vec![codes], &at);
        step(&mut adam, 1, 0.25, &mut at, &[("c", &[1e-6, -5.0, -1e-3])]);
        assert_eq!(at.latents["c"], [0.0, 1.25, 3.0]);
        for number in 2..20 {
            step(&mut adam, number, 0.25, &mut at, &[("c", &[-1.0, -1.0, -1.0])]);
        }
        assert_eq!(at.latents["c"], [3.0; 3]);
    }

    #[test]
    fn gradients_may_come_in_parts() {
        let start = State {
            floats: values(&[("s", &[1.0]), ("b", &[0.0]), ("n", &[2.0])]),
            latents: values(&[("c", &[1.0, 2.0])]),
        };
        let coordinates = || {
            let codes = Coordinate::Codes { name: "c".to_owned(), highest: 3.0 };
            vec![affine(1.5), codes, Coordinate::Plain("n".to_owned())]
        };
        let (mut whole, mut parts) = (start.clone(), start.clone());
        let [mut at_once, mut in_turn] = [(); 2].map(|()| Adam::new(coordinates(), &start));
        let [layer, norm]: [&[(&str, &[f32])]; 2] =
            [&[("s", &[0.5]), ("b", &[-1.0]), ("c", &[2.0, 3.0])], &[("n", &[-0.5])]];
        step(&mut at_once, 1, 0.1, &mut whole, &[layer, norm].concat());
        in_turn.observe(&values(norm));
        step(&mut in_turn, 1, 0.1, &mut parts, layer);
        assert_eq!(whole, parts);
        assert_ne!(whole, start);
    }

    #[test]
    fn a_quadratic_bowl_is_descended() {
        let mut at = floats(&[("s", &[1.0]), ("b", &[0.0])]);
        let mut adam = Adam::new(vec![affine(1.5)], &at);
        // Codes 0 to 3 are to become 0.5, 1.25, 2, 2.75.
        let errors = |State { floats: at, .. }: &State| -> Vec<f32> {
            (0..4u8).map(|q| at["s"][0] * f32::from(q) + at["b"][0] - (0.5 + 0.75 * f32::from(q))).collect()
        };
        for number in 1..=400 {
            let errors = errors(&at);
            let of_scale = errors.iter().zip(0u8..).map(|(e, q)| e * f32::from(q)).sum::<f32>();
            let gradients: [(&str, &[f32]); 2] = [("s", &[of_scale]), ("b", &[errors.iter().sum::<f32>()])];
            step(&mut adam, number, 0.02 * (1.0 - number as f64 / 400.0), &mut at, &gradients);
        }
        assert!(errors(&at).iter().all(|e| e.abs() < 1e-3), "{at:?}");
    }
}
