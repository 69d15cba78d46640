//! Against brute force on small problems, and by properties on larger ones.

#![allow(clippy::unwrap_used)]

use crate::choose::candidate::Candidate;
use proptest::prelude::*;

use crate::choose::allocate::*;
use crate::choose::candidate::DEFAULT_CANDIDATES;

/// Rounding of sums of losses.
const TINY: f64 = 1e-9;

fn layer(index: usize, options: &[(u64, f64)]) -> Layer {
    let options = options
        .iter()
        .zip(DEFAULT_CANDIDATES)
        .map(|(&(bytes, loss), candidate)| Choice { candidate, bytes, loss })
        .collect();
    Layer { path: format!("layers.{index}"), options }
}

fn layers(
    count: std::ops::Range<usize>,
    options: std::ops::Range<usize>,
) -> impl Strategy<Value = Vec<Layer>> {
    // Few distinct sizes and losses make ties, many make none.
    let option = prop_oneof![
        (0_u64..8, (0_u8..8).prop_map(f64::from)),
        (0_u64..1000, 0.0..10.0),
        (1_u64..30, -0.1..1.0)
    ];
    prop::collection::vec(prop::collection::vec(option, options), count)
        .prop_map(|all| all.iter().enumerate().map(|(i, options)| layer(i, options)).collect())
}

/// A model: shapes of a decoder block, every default candidate, losses that fall fourfold with each bit.
fn model(blocks: usize, seed: u64) -> Vec<Layer> {
    let mut random = seed;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 40) as f64 / f64::from(1 << 24)
    };
    let shapes =
        [(1536, 1536), (384, 1536), (384, 1536), (1536, 1536), (6144, 1536), (6144, 1536), (1536, 6144)];
    let mut layers = Vec::new();
    for (rows, columns) in std::iter::repeat_n(shapes, blocks).flatten() {
        let scale = (3.0 * next()).exp() * f64::from(rows);
        let options = DEFAULT_CANDIDATES.iter().map(|&candidate| {
            let bpw = candidate.bpw(columns, 2).unwrap();
            let loss = scale * 0.25_f64.powf(bpw) * (0.8 + 0.4 * next());
            let bytes = candidate.bytes(rows as usize, columns, 2).unwrap();
            Choice { candidate, bytes, loss: if candidate == Candidate::Keep { 0.0 } else { loss } }
        });
        layers.push(Layer { path: format!("layers.{}", layers.len()), options: options.collect() });
    }
    layers
}

/// The least loss within `budget`.
fn brute_force(layers: &[Layer], budget: u64) -> Option<f64> {
    let Some((first, rest)) = layers.split_first() else { return Some(0.0) };
    let fits = first.options.iter().filter(|o| o.bytes <= budget);
    fits.filter_map(|o| Some(o.loss + brute_force(rest, budget - o.bytes)?)).min_by(f64::total_cmp)
}

/// The allocation says the truth about itself, and no single upgrade fits.
fn is_sound(layers: &[Layer], budget: u64, found: &Allocation) {
    let chosen = || layers.iter().zip(&found.chosen).map(|(layer, &option)| layer.options[option]);
    assert_eq!(chosen().map(|o| o.bytes).sum::<u64>(), found.bytes);
    assert!((chosen().map(|o| o.loss).sum::<f64>() - found.loss).abs() <= TINY);
    assert!(found.bytes <= budget);
    for (layer, now) in layers.iter().zip(chosen()) {
        for better in layer.options.iter().filter(|o| o.loss < now.loss - TINY) {
            assert!(found.bytes - now.bytes + better.bytes > budget, "an upgrade of {} fits", layer.path);
        }
    }
}

proptest! {
    #[test]
    fn close_to_the_optimum(layers in layers(0..6, 1..5), budget in 0_u64..4000) {
        let problem = Problem::new(layers.clone(), &[]).unwrap();
        let Some(best) = brute_force(&layers, budget) else {
            prop_assert!(problem.solve(budget).is_err());
            prop_assert!(budget < problem.reachable().0);
            return Ok(());
        };
        let found = problem.solve(budget).unwrap();
        is_sound(&layers, budget, &found);
        prop_assert!(found.loss >= best - TINY);
        prop_assert!(found.loss - found.gap <= best + TINY);
        prop_assert_eq!(problem.solve(budget).unwrap(), found);
    }

    #[test]
    fn more_is_never_worse(layers in layers(1..40, 1..12)) {
        let problem = Problem::new(layers.clone(), &[]).unwrap();
        let (min, max) = problem.reachable();
        let mut last = f64::INFINITY;
        for budget in (min..=max + 2).step_by(((max - min) / 300 + 1) as usize) {
            let found = problem.solve(budget).unwrap();
            is_sound(&layers, budget, &found);
            prop_assert!(found.loss <= last + TINY, "{} bytes: {} after {}", budget, found.loss, last);
            last = found.loss;
        }
    }

    #[test]
    fn the_curve_is_met(layers in layers(0..20, 1..6)) {
        let problem = Problem::new(layers, &[]).unwrap();
        for point in problem.curve() {
            let found = problem.solve(point.bytes).unwrap();
            prop_assert!(found.loss <= point.loss + TINY && found.gap <= TINY);
        }
        prop_assert!(problem.curve().is_sorted_by(|a, b| a.bytes < b.bytes && a.loss > b.loss));
    }

    #[test]
    fn ties_hold(layers in layers(6..7, 4..7), budget in 0_u64..8000) {
        let ties = [vec![4, 1], vec![0, 2, 5]];
        let problem = Problem::new(layers.clone(), &ties).unwrap();
        let (min, _) = problem.reachable();
        let budget = budget + min;
        let found = problem.solve(budget).unwrap();
        let candidate = |layer: usize| layers[layer].options[found.chosen[layer]].candidate;
        prop_assert_eq!(candidate(4), candidate(1));
        prop_assert!(candidate(0) == candidate(2) && candidate(2) == candidate(5));
        prop_assert!(found.bytes <= budget);
        let bytes = |layer: usize| layers[layer].options[found.chosen[layer]].bytes;
        prop_assert_eq!((0..6).map(bytes).sum::<u64>(), found.bytes);
    }
}

#[test]
fn a_model_is_filled_to_the_brim() {
    let layers = model(16, 7);
    let problem = Problem::new(layers.clone(), &[]).unwrap();
    let weights: u64 = 16 * (2 * 1536 * 1536 + 2 * 384 * 1536 + 3 * 6144 * 1536);
    let mut last = f64::INFINITY;
    for tenths in 25..85 {
        let budget = weights * tenths / 80;
        let found = problem.solve(budget).unwrap();
        is_sound(&layers, budget, &found);
        assert!(found.loss <= last && found.gap <= 0.01 * found.loss, "{tenths}: {found:?}");
        assert!(budget - found.bytes < 1 << 20 || found.loss == 0.0, "{tenths}: {}", budget - found.bytes);
        last = found.loss;
    }
}

#[test]
fn pairs_swap() {
    // Greedily the first upgrade (slope 2) blocks the second and third, which together save more.
    let layers =
        [layer(0, &[(0, 12.0), (6, 0.0)]), layer(1, &[(0, 9.0), (5, 0.0)]), layer(2, &[(0, 9.0), (5, 0.0)])];
    let found = Problem::new(layers.to_vec(), &[]).unwrap().solve(10).unwrap();
    assert_eq!((found.chosen, found.bytes, found.loss), (vec![0, 1, 1], 10, 12.0));
}

#[test]
fn refused() {
    let error = |layers: &[Layer], ties: &[Vec<usize>]| {
        Problem::new(layers.to_vec(), ties).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let a = layer(0, &[(4, 1.0), (8, 0.5)]);
    let two = [a.clone(), layer(1, &[(4, 1.0)])];
    assert_eq!(error(&[layer(0, &[])], &[]), "layer `layers.0`: nothing to choose from");
    assert_eq!(
        error(&[layer(0, &[(1, f64::NAN)])], &[]),
        "layer `layers.0`: the predicted loss of 2:32 is NaN"
    );
    assert_eq!(error(&two, &[vec![0, 1], vec![1]]), "layer `layers.1` is tied twice");
    assert_eq!(error(&two, &[vec![0, 2]]), "a tie names layer 2 of 2");
    assert!(error(&[layer(0, &[(u64::MAX, 0.0)])], &[]).contains("63 bits"));
    let mut twice = a.clone();
    twice.options.extend(a.options.clone());
    assert_eq!(error(&[twice], &[]), "layer `layers.0`: 2:32 is listed twice");
    let mut other = a.clone();
    other.options.iter_mut().for_each(|o| o.candidate = Candidate::Keep);
    other.options.truncate(1);
    assert!(error(&[a.clone(), other], &[vec![0, 1]]).ends_with("have no candidate in common"));

    let error = Problem::new(two.to_vec(), &[]).unwrap().solve(7).unwrap_err();
    assert_eq!(error.to_string(), "a budget of 7 bytes is out of reach: the smallest allocation takes 8");
    assert!(error.hint_text().unwrap().starts_with("between 8 and 12 bytes"));
}

#[test]
fn nothing_to_allocate() {
    let problem = Problem::new(Vec::new(), &[Vec::new()]).unwrap();
    assert_eq!(problem.reachable(), (0, 0));
    assert_eq!(problem.solve(0).unwrap(), Allocation { chosen: vec![], bytes: 0, loss: 0.0, gap: 0.0 });
}
