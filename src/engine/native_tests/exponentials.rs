//! Tests of the functions that native/exponentials.cpp puts in MLX's place on Linux, against plain formulas.

use mlx_rs::ops::{concatenate, sigmoid, softmax_axis, transpose};
use mlx_rs::transforms::fallible_vjp;
use mlx_rs::{Array, Dtype};

use crate::engine::array::{as_slice, from_vec, to_vec};
use crate::engine::runtime::Engine;

const ROWS: usize = 97;

/// Values over a wide range, about as many of either sign.
fn values(count: usize, range: f32) -> Vec<f32> {
    let mut rng = fastrand::Rng::with_seed(7);
    (0..count).map(|_| (2.0 * rng.f32() - 1.0) * range).collect()
}

#[track_caller]
fn assert_close(found: &[f32], expected: impl IntoIterator<Item = f64>, relative: f64, absolute: f64) {
    let mut count = 0;
    for (index, (&found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= relative * expected.abs() + absolute, "{index}: {found:e}, expected {expected:e}");
        count += 1;
    }
    assert_eq!(count, found.len());
}

/// In float64, from float32 differences as the definition of the operation has them.
fn softmax_of(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = row.iter().map(|x| f64::from(x - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

fn sigmoid_of(x: f32) -> f64 {
    1.0 / (1.0 + f64::from(-x).exp())
}

#[test]
fn softmax_of_rows_of_any_length() {
    Engine::start().unwrap();
    for columns in [1, 2, 15, 16, 17, 64, 255, 256, 1000] {
        let x = values(ROWS * columns, 50.0);
        let found = softmax_axis(from_vec(x.clone(), &[ROWS, columns]), -1, true).unwrap();
        let expected = x.chunks(columns).flat_map(softmax_of);
        assert_close(as_slice(&found).unwrap(), expected, 5e-7, 1e-37);
    }
}

#[test]
fn gradient_of_softmax() {
    Engine::start().unwrap();
    for columns in [3, 16, 300] {
        let x = values(ROWS * columns, 4.0);
        let cotangent: Vec<f32> = values(ROWS * columns, 1.0).into_iter().rev().collect();
        let sizes = [ROWS, columns];
        let (_, gradients) = fallible_vjp(
            |x: &[Array]| Ok(vec![softmax_axis(&x[0], -1, true)?]),
            &[from_vec(x.clone(), &sizes)],
            &[from_vec(cotangent.clone(), &sizes)],
        )
        .unwrap();
        let expected = x.chunks(columns).zip(cotangent.chunks(columns)).flat_map(|(x, cotangent)| {
            let p = softmax_of(x);
            let mean: f64 = p.iter().zip(cotangent).map(|(p, &c)| p * f64::from(c)).sum();
            p.into_iter().zip(cotangent).map(move |(p, &c)| p * (f64::from(c) - mean)).collect::<Vec<_>>()
        });
        assert_close(as_slice(&gradients[0]).unwrap(), expected, 1e-6, 2e-7);
    }
}

#[test]
fn softmax_where_values_are_not_finite() {
    Engine::start().unwrap();
    let masked = [0.0, f32::NEG_INFINITY, 1.0, f32::MIN];
    let rows = [masked, [0.0, f32::NAN, 1.0, 2.0], [0.0, f32::INFINITY, 1.0, 2.0], [f32::NEG_INFINITY; 4]];
    for columns in [4, 20] {
        // Beyond the four, what does not count.
        let padded = |row: &[f32; 4]| [&row[..], &vec![f32::NEG_INFINITY; columns - 4]].concat();
        let x = from_vec(rows.iter().flat_map(padded).collect(), &[rows.len(), columns]);
        let found = to_vec(&softmax_axis(x, -1, true).unwrap()).unwrap();
        assert_close(&found[..columns], softmax_of(&padded(&masked)), 5e-7, 0.0);
        assert!(found[columns..].iter().all(|p| p.is_nan()), "{found:?}");
    }
}

#[test]
fn softmax_of_other_layouts_axes_and_dtypes() {
    Engine::start().unwrap();
    let (rows, columns) = (40, 24);
    let x = values(rows * columns, 3.0);
    let by_column: Vec<f32> = (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect();
    let expected: Vec<f64> = by_column.chunks(rows).flat_map(softmax_of).collect();
    let array = from_vec(x, &[rows, columns]);

    let transposed = softmax_axis(transpose(&array).unwrap(), -1, true).unwrap();
    assert_close(&to_vec(&transposed).unwrap(), expected.iter().copied(), 5e-7, 0.0);
    let first_axis = softmax_axis(&array, 0, true).unwrap();
    assert_close(&to_vec(&transpose(first_axis).unwrap()).unwrap(), expected.iter().copied(), 1e-5, 0.0);
    let half = transpose(&array).unwrap().as_dtype(Dtype::Float16).unwrap();
    let half = softmax_axis(half, 1, true).unwrap();
    assert_eq!(half.dtype(), Dtype::Float16);
    assert_close(&to_vec(&half).unwrap(), expected.iter().copied(), 1e-2, 1e-4);
}

#[test]
fn sigmoid_and_its_gradient() {
    Engine::start().unwrap();
    let mut x = values(70_000, 100.0);
    x.extend(values(1001, 2.0));
    x.extend([0.0, -0.0, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY]);
    let array = from_vec(x.clone(), &[x.len()]);
    let cotangent = Array::full::<f32>(&[x.len() as i32], Array::from_f32(3.0)).unwrap();
    let (found, gradients) =
        fallible_vjp(|x: &[Array]| Ok(vec![sigmoid(&x[0])?]), &[array], &[cotangent]).unwrap();
    assert_close(as_slice(&found[0]).unwrap(), x.iter().map(|&x| sigmoid_of(x)), 5e-7, 1e-37);
    let slope = |&x: &f32| 3.0 * sigmoid_of(x) * sigmoid_of(-x);
    assert_close(as_slice(&gradients[0]).unwrap(), x.iter().map(slope), 1e-6, 4e-7);

    let nan = from_vec(vec![f32::NAN, 0.0], &[2]);
    let found = to_vec(&sigmoid(&nan).unwrap()).unwrap();
    assert!(found[0].is_nan() && (found[1] - 0.5).abs() < 1e-7);
}

#[test]
fn sigmoid_of_other_layouts_and_dtypes() {
    Engine::start().unwrap();
    let x = values(60, 5.0);
    let array = from_vec(x.clone(), &[6, 10]);
    let twice = transpose(sigmoid(transpose(&array).unwrap()).unwrap()).unwrap();
    assert_close(&to_vec(&twice).unwrap(), x.iter().map(|&x| sigmoid_of(x)), 5e-7, 0.0);
    let half = sigmoid(array.as_dtype(Dtype::Bfloat16).unwrap()).unwrap();
    assert_eq!(half.dtype(), Dtype::Bfloat16);
    assert_close(&to_vec(&half).unwrap(), x.iter().map(|&x| sigmoid_of(x)), 5e-2, 0.0);
    let joined = concatenate(&[sigmoid(Array::from_f32(0.0)).unwrap().reshape(&[1]).unwrap()], 0).unwrap();
    assert_close(&to_vec(&joined).unwrap(), [0.5], 0.0, 0.0);
}
