//! Tests of the functions that native's attention.cpp, norm.cpp, rope.cpp and sgemm.cpp put in MLX's place on Linux,
//! against the same made of MLX's general operations, gradients included.

#![allow(clippy::unwrap_used)]

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::fast::{self, ScaledDotProductAttentionMask as SdpaMask};
use mlx_rs::ops::{concatenate, repeat_axis, select, softmax_axis};
use mlx_rs::transforms::{eval, fallible_vjp};

use crate::engine::array::{from_vec, gated, slice, to_vec};
use crate::engine::runtime::Engine;

fn values(seed: u64, sizes: &[usize]) -> Array {
    let mut rng = fastrand::Rng::with_seed(seed);
    from_vec((0..sizes.iter().product()).map(|_| 2.0 * rng.f32() - 1.0).collect(), sizes)
}

/// Returns the values of `values` behind other strides: made as [batch, tokens, heads, dims].
fn tokens_first(seed: u64, [batch, heads, tokens, dims]: [usize; 4]) -> Array {
    values(seed, &[batch, tokens, heads, dims]).transpose_axes(&[0, 2, 1, 3]).unwrap()
}

/// Fails unless both functions have the same output and gradients at `inputs`.
#[track_caller]
fn assert_same(
    inputs: &[Array],
    found: impl Fn(&[Array]) -> Result<Array>,
    expected: impl Fn(&[Array]) -> Result<Array>,
) {
    let shape: Vec<usize> = expected(inputs).unwrap().shape().iter().map(|&n| n as usize).collect();
    let cotangent = values(99, &shape);
    let run = |function: &dyn Fn(&[Array]) -> Result<Array>| {
        let (mut arrays, gradients) =
            fallible_vjp(|x: &[Array]| Ok(vec![function(x)?]), inputs, std::slice::from_ref(&cotangent))
                .unwrap();
        arrays.extend(gradients);
        eval(&arrays).unwrap();
        arrays
    };
    for (index, (found, expected)) in run(&found).iter().zip(run(&expected)).enumerate() {
        assert_eq!(found.shape(), expected.shape());
        let (found, expected) = (to_vec(found).unwrap(), to_vec(&expected).unwrap());
        let size = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(
                (found - expected).abs() <= 2e-5 * size,
                "{index}, {place}: {found:e}, expected {expected:e}"
            );
        }
    }
}

/// Softmax(q k^T scale) v, step by step.
fn attention(x: &[Array], scale: f32, causal: bool) -> Result<Array> {
    let group = x[0].shape()[1] / x[1].shape()[1];
    let (k, v) = (repeat_axis::<f32>(x[1].clone(), group, 1)?, repeat_axis::<f32>(x[2].clone(), group, 1)?);
    let mut scores = x[0].matmul(k.transpose_axes(&[0, 1, 3, 2])?)?.multiply(Array::from_f32(scale))?;
    if causal {
        let (queries, keys) = (scores.shape()[2], scores.shape()[3]);
        let seen: Vec<bool> =
            (0..queries).flat_map(|q| (0..keys).map(move |k| k <= q + keys - queries)).collect();
        scores =
            select(Array::from_slice(&seen, &[queries, keys]), scores, Array::from_f32(f32::NEG_INFINITY))?;
    }
    softmax_axis(scores, -1, true)?.matmul(v)
}

#[test]
fn attention_is_its_formula() {
    Engine::start().unwrap();
    let cases = [
        (1, 2, 2, 2, 2, 4),
        (2, 4, 2, 70, 70, 16),
        (1, 6, 1, 64, 100, 8),
        (1, 3, 3, 130, 130, 20),
        (2, 4, 2, 1, 50, 16),
    ];
    for (batch, heads, kv_heads, queries, keys, dims) in cases {
        for causal in [false, true] {
            let [q, k, v] = [(1, heads, queries), (2, kv_heads, keys), (3, kv_heads, keys)]
                .map(|(seed, heads, tokens)| tokens_first(seed, [batch, heads, tokens, dims]));
            let mask = || causal.then_some(SdpaMask::Causal);
            let found =
                |x: &[Array]| fast::scaled_dot_product_attention(&x[0], &x[1], &x[2], 1.3, mask(), None);
            assert_same(&[q, k, v], found, |x| attention(x, 1.3, causal));
        }
    }
}

/// Heads in groups of all sizes that kernels tell apart, and keys in one part or several.
#[test]
fn attention_of_one_token_is_its_formula() {
    Engine::start().unwrap();
    for (heads, kv_heads, keys, dims) in [
        (1, 1, 1, 16),
        (3, 1, 255, 16),
        (8, 2, 256, 64),
        (6, 3, 257, 80),
        (15, 3, 700, 128),
        (14, 2, 1030, 48),
    ] {
        let [q, k, v] = [(1, heads, 1), (2, kv_heads, keys), (3, kv_heads, keys)]
            .map(|(seed, heads, tokens)| values(seed, &[1, heads, tokens, dims]));
        let found = |x: &[Array]| {
            fast::scaled_dot_product_attention(&x[0], &x[1], &x[2], 1.3, Some(SdpaMask::Causal), None)
        };
        assert_same(&[q, k, v], found, |x| attention(x, 1.3, true));
    }
}

#[test]
fn attention_reads_any_strides() {
    Engine::start().unwrap();
    let backwards = |seed| values(seed, &[2, 16, 40, 3]).transpose_axes(&[0, 3, 2, 1]).unwrap();
    let inputs = [backwards(1), backwards(2), backwards(3)];
    let found =
        |x: &[Array]| fast::scaled_dot_product_attention(&x[0], &x[1], &x[2], 0.5, SdpaMask::Causal, None);
    assert_same(&inputs, found, |x| attention(x, 0.5, true));
}

#[test]
fn gated_products_are_their_formula() {
    Engine::start().unwrap();
    for sizes in [[1, 1, 7], [1, 300, 256]] {
        let found =
            |x: &[Array]| gated(&x[0], &x[1]).map_err(|e| mlx_rs::error::Exception::custom(e.to_string()));
        let expected = |x: &[Array]| x[0].multiply(mlx_rs::ops::sigmoid(&x[0])?)?.multiply(&x[1]);
        assert_same(&[values(1, &sizes), values(2, &sizes)], found, expected);
    }
}

fn norm(x: &Array, eps: f32) -> Result<Array> {
    let mean = x.square()?.mean_axis(-1, true)?;
    x.multiply(mean.add(Array::from_f32(eps))?.rsqrt()?)
}

#[test]
fn rms_norm_is_its_formula() {
    Engine::start().unwrap();
    for sizes in [[1, 3, 7], [2, 300, 256]] {
        let (x, weight) = (values(1, &sizes), values(2, &sizes[2..]));
        let found = |x: &[Array]| fast::rms_norm(&x[0], Some(&x[1]), 1e-3);
        assert_same(&[x.clone(), weight], found, |x| norm(&x[0], 1e-3)?.multiply(&x[1]));
        assert_same(&[x], |x| fast::rms_norm(&x[0], None, 1e-3), |x| norm(&x[0], 1e-3));
    }
    let across = values(1, &[5, 9]);
    let found = |x: &[Array]| fast::rms_norm(x[0].t(), None, 1e-3);
    assert_same(&[across], found, |x| norm(&x[0].t(), 1e-3));
}

/// Rotation of the first `2 * freqs.len()` of the dims by (offset + token) / freqs.
fn rotate(x: &Array, traditional: bool, offset: usize, freqs: &[f32]) -> Result<Array> {
    let [tokens, dims] = [x.shape()[2], x.shape()[3]];
    let half = freqs.len() as i32;
    let angles: Vec<f32> =
        (0..tokens).flat_map(|t| freqs.iter().map(move |f| (t as f32 + offset as f32) / f)).collect();
    let angles = Array::from_slice(&angles, &[tokens, half]);
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let part = |from: i32, to: i32| {
        slice(x, 3, from as usize, to as usize).map_err(|e| mlx_rs::error::Exception::custom(e.to_string()))
    };
    let turned = part(0, 2 * half)?;
    let shape = [x.shape()[0], x.shape()[1], tokens];
    let [pairs, axis] = if traditional { [[half, 2], [4, 0]] } else { [[2, half], [3, 0]] };
    let turned = turned.reshape(&[&shape[..], &pairs].concat())?;
    let (a, b) =
        (turned.take_axis(Array::from_int(0), axis[0])?, turned.take_axis(Array::from_int(1), axis[0])?);
    let first = a.multiply(&cos)?.subtract(b.multiply(&sin)?)?.expand_dims(axis[0])?;
    let second = a.multiply(&sin)?.add(b.multiply(&cos)?)?.expand_dims(axis[0])?;
    let turned = concatenate(&[first, second], axis[0])?.reshape(&[&shape[..], &[2 * half]].concat())?;
    concatenate(&[turned, part(2 * half, dims)?], 3)
}

#[test]
fn rope_is_its_formula() {
    Engine::start().unwrap();
    let x = tokens_first(1, [2, 3, 40, 20]);
    for (traditional, offset) in [(false, 0), (true, 0), (true, 7)] {
        let powers: Vec<f32> = (0..8u8).map(|i| 100f32.powf(f32::from(i) / 8.0)).collect();
        let found = |x: &[Array]| fast::rope(&x[0], 16, traditional, 100.0, 1.0, offset, None);
        assert_same(std::slice::from_ref(&x), found, |x| {
            rotate(&x[0], traditional, offset as usize, &powers)
        });
        let given = [1.0, 2.5, 10.0];
        let freqs = Array::from_slice(&given, &[3]);
        let found = |x: &[Array]| fast::rope(&x[0], 6, traditional, None, 1.0, offset, &freqs);
        assert_same(std::slice::from_ref(&x), found, |x| rotate(&x[0], traditional, offset as usize, &given));
    }
}

#[test]
fn a_matrix_times_itself_is_its_formula() {
    Engine::start().unwrap();
    for (rows, columns) in [(3, 5), (40, 128), (70, 300), (64, 512)] {
        let found = |x: &[Array]| x[0].t().matmul(&x[0]);
        // Of a copy, which is another array to the product.
        assert_same(&[values(1, &[rows, columns])], found, |x| {
            x[0].t().matmul(x[0].add(Array::from_f32(0.0))?)
        });
    }
}
