//! Attention of one token, by each kind of processor's kernels, against float64.

#![allow(clippy::unwrap_used)]

use half::f16;
use std::ffi::c_void;

use super::kernels::{KERNELS, assert_absent};
use crate::engine::runtime::Engine;

/// Random keys and values, as they are stored and as they are meant.
struct Stored {
    bytes: Vec<u8>,
    values: Vec<f64>,
}

impl Stored {
    fn new(rng: &mut fastrand::Rng, count: usize, halves: bool) -> Self {
        let floats: Vec<f32> = (0..count).map(|_| 2.0 * rng.f32() - 1.0).collect();
        if halves {
            let halves: Vec<f16> = floats.into_iter().map(f16::from_f32).collect();
            Self {
                bytes: halves.iter().flat_map(|x| x.to_le_bytes()).collect(),
                values: halves.into_iter().map(f64::from).collect(),
            }
        } else {
            Self {
                bytes: floats.iter().flat_map(|x| x.to_le_bytes()).collect(),
                values: floats.into_iter().map(f64::from).collect(),
            }
        }
    }
}

/// Computes the output of one head for keys and values [count, dims].
fn attended(q: &[f32], keys: &[f64], values: &[f64], scale: f64) -> Vec<f64> {
    let scores: Vec<f64> = keys
        .chunks(q.len())
        .map(|key| scale * key.iter().zip(q).map(|(k, &q)| k * f64::from(q)).sum::<f64>())
        .collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; q.len()];
    for (value, weight) in values.chunks(q.len()).zip(weights) {
        for (out, value) in out.iter_mut().zip(value) {
            *out += weight / total * value;
        }
    }
    out
}

fn check(group: usize, dims: usize, count: usize, halves: bool) {
    let (kv_heads, scale) = (2, 3.0 / (dims as f32).sqrt());
    let heads = group * kv_heads;
    let mut rng = fastrand::Rng::with_seed((group * dims + count) as u64);
    let keys = Stored::new(&mut rng, kv_heads * count * dims, halves);
    let values = Stored::new(&mut rng, kv_heads * count * dims, halves);
    let q: Vec<f32> = (0..heads * dims).map(|_| 2.0 * rng.f32() - 1.0).collect();
    let query = mlx_sys::mixbit_one_query {
        scale,
        heads: heads as i64,
        kv_heads: kv_heads as i64,
        count: count as i64,
        dims: dims as i64,
        halves: halves.into(),
        keys: keys.bytes.as_ptr().cast::<c_void>(),
        values: values.bytes.as_ptr().cast::<c_void>(),
    };
    for kernels in KERNELS {
        let mut out = vec![f32::NAN; heads * dims];
        // SAFETY: the keys, values, q and out have the sizes that the query says.
        let done = unsafe {
            mlx_sys::mixbit_attend_by(kernels.as_ptr(), &raw const query, q.as_ptr(), out.as_mut_ptr())
        };
        if done == 0 {
            assert_absent(kernels);
            continue;
        }
        for head in 0..heads {
            let of_keys = head / group * count * dims..(head / group + 1) * count * dims;
            let of_head = head * dims..(head + 1) * dims;
            let (keys, values) = (&keys.values[of_keys.clone()], &values.values[of_keys]);
            let expected = attended(&q[of_head.clone()], keys, values, f64::from(scale));
            for (found, expected) in out[of_head].iter().zip(expected) {
                let what = format!("{kernels:?}, {group} heads of {dims}, {count} keys, halves {halves}");
                assert!((f64::from(*found) - expected).abs() < 3e-6, "{what}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn kernels_agree_with_float64() {
    Engine::start().unwrap();
    for group in [1, 2, 3, 4, 7] {
        for dims in [16, 64, 80, 128] {
            // One key, and numbers around whole registers and whole parts.
            for count in [1, 2, 5, 255, 256, 257, 700] {
                check(group, dims, count, false);
                check(group, dims, count, true);
            }
        }
    }
}
