//! Proof that the functions which native/ puts in MLX's place are those that are called: by mixbit, by the names of the
//! nodes that arrays are computed by; inside of MLX, by what the dynamic linker bound.

#![allow(clippy::unwrap_used)]

use mlx_rs::Array;
use mlx_rs::fast::{self, ScaledDotProductAttentionMask as SdpaMask};
use mlx_rs::ops::{sigmoid, softmax_axis};
use mlx_rs::transforms::fallible_vjp;
use std::collections::BTreeMap;
use std::env;
use std::ffi::CStr;
use std::process::Command;

use crate::engine::array::{Packed, from_vec, gated, to_vec};
use crate::engine::decoder::linear::Weight;
use crate::engine::fused::eager;
use crate::engine::runtime::Engine;
use crate::numerics::lanes::exp;
use crate::numerics::quant::Quant;

const LIBRARY: &str = "libmixbit_engine.so";

fn values(sizes: &[usize]) -> Array {
    from_vec(vec![0.5; sizes.iter().product()], sizes)
}

fn quantized() -> Packed {
    Packed {
        codes: Array::from_slice(&[0u32; 8], &[2, 4]),
        scales: values(&[2, 1]),
        biases: Some(values(&[2, 1])),
        quant: Quant::affine(4, 32),
    }
}

/// Names of the nodes that `array` will be computed by, its own first.
fn nodes(array: &Array) -> Vec<String> {
    // SAFETY: the array is alive; the text is copied before the thread's next call.
    let names = unsafe { CStr::from_ptr(mlx_sys::mixbit_array_nodes(array.as_ptr().ctx)) };
    names.to_str().unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn functions_of_mlx_make_our_nodes() {
    Engine::start().unwrap();
    let (rows, heads) = (values(&[4, 16]), values(&[1, 2, 4, 8]));
    for (array, name) in [
        (softmax_axis(&rows, -1, true).unwrap(), "MixbitSoftmax"),
        (sigmoid(&rows).unwrap(), "MixbitSigmoid"),
        (fast::rms_norm(&rows, None, 1e-5).unwrap(), "MixbitRmsNorm"),
        (
            Weight::Halves(rows.as_dtype(mlx_rs::Dtype::Float16).unwrap()).matmul_transposed(&rows).unwrap(),
            "MixbitProduct",
        ),
        (gated(&rows, &rows).unwrap(), "MixbitGated"),
        (quantized().matmul_transposed(&values(&[4, 32])).unwrap(), "MixbitProduct"),
        (fast::rope(&heads, 8, false, 100.0, 1.0, 0, None).unwrap(), "MixbitRope"),
        (
            fast::scaled_dot_product_attention(&heads, &heads, &heads, 1.0, SdpaMask::Causal, None).unwrap(),
            "MixbitAttention",
        ),
    ] {
        assert_eq!(nodes(&array).first().unwrap(), name);
    }
}

#[test]
fn eager_nodes_are_computed_as_they_are_made() {
    Engine::start().unwrap();
    let x = values(&[1, 1, 32]);
    let make = || quantized().matmul_transposed(&x).unwrap();
    let before = make();
    let guard = eager(&x).unwrap();
    let during = make();
    // Its input has no values yet.
    let behind_a_node = quantized().matmul_transposed(&x.add(&x).unwrap()).unwrap();
    drop(guard);
    assert_eq!(nodes(&before), ["MixbitProduct"]);
    assert_eq!(nodes(&during), [""; 0]);
    assert_eq!(nodes(&behind_a_node)[0], "MixbitProduct");
    assert_eq!(nodes(&make()), ["MixbitProduct"]);
    assert_eq!(to_vec(&during).unwrap(), to_vec(&before).unwrap());
}

#[test]
fn gradients_are_our_nodes() {
    Engine::start().unwrap();
    let rows = values(&[4, 16]);
    let gradient = |function: fn(&Array) -> mlx_rs::error::Result<Array>| {
        let function = |x: &[Array]| Ok(vec![function(&x[0])?]);
        let inputs = [rows.clone()];
        fallible_vjp(function, &inputs, &inputs).unwrap().1.remove(0)
    };
    for (array, name) in [
        (gradient(|x| softmax_axis(x, -1, true)), "MixbitSoftmaxVjp"),
        (gradient(|x| sigmoid(x)), "MixbitSigmoidVjp"),
        (gradient(|x| fast::rms_norm(x, None, 1e-5)), "MixbitRmsNorm"),
    ] {
        assert_eq!(nodes(&array).first().unwrap(), name);
    }
}

/// MLX makes attention with a mask of general operations, and calls its own softmax by name.
#[test]
fn mlx_itself_calls_our_softmax() {
    Engine::start().unwrap();
    let heads = values(&[1, 2, 4, 8]);
    let mask = Array::from_slice(&[true; 16], &[4, 4]);
    let found = fast::scaled_dot_product_attention(&heads, &heads, &heads, 1.0, SdpaMask::Array(&mask), None)
        .unwrap();
    let names = nodes(&found);
    assert!(names.iter().any(|name| name == "MixbitSoftmax"), "{names:?}");
    assert!(!names.iter().any(|name| name == "Softmax" || name == "MixbitAttention"), "{names:?}");
}

/// The process that [`libmlx_is_bound_to_our_functions`] starts: it loads the engine.
#[test]
fn the_engine_starts() {
    Engine::start().unwrap();
}

/// `LD_DEBUG` makes glibc's dynamic linker tell which library each symbol is taken from.
#[test]
fn libmlx_is_bound_to_our_functions() {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "engine::native_tests::in_force::the_engine_starts"])
        .env("LD_DEBUG", "bindings")
        .output()
        .unwrap();
    assert!(output.status.success());
    let report = String::from_utf8_lossy(&output.stderr);
    let mut bound: BTreeMap<&str, &str> = BTreeMap::new();
    for (_, line) in report.lines().filter_map(|line| line.split_once("binding file ")) {
        // FILE [0] to FILE [0]: normal symbol `NAME'
        let mut words = line.split_whitespace();
        let (from, to, symbol) = (words.next(), words.nth(2), words.next_back());
        if let (Some(from), Some(to), Some(symbol)) = (from, to, symbol)
            && from.ends_with("/libmlx.so")
        {
            bound.insert(symbol.trim_matches(['`', '\'']), to);
        }
    }
    let forwarded = include_str!("../../../native/blas.cpp").lines();
    let forwarded = forwarded.filter_map(|line| line.strip_prefix("FORWARD(\"")?.strip_suffix("\");"));
    let products: Vec<&str> = forwarded.chain(["cblas_sgemm"]).collect();
    assert!(products.len() > 20, "{products:?}");
    let functions = ["_ZN3mlx4core7softmaxE", "_ZN3mlx4core7sigmoidE"];
    for name in products.into_iter().chain(functions) {
        let (_, library) = bound
            .iter()
            .find(|(symbol, _)| **symbol == name || (name.starts_with("_Z") && symbol.starts_with(name)))
            .unwrap_or_else(|| panic!("libmlx.so does not look {name} up"));
        assert!(library.ends_with(LIBRARY), "libmlx.so takes {name} from {library}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn both_exponentials_are_the_same() {
    Engine::start().unwrap();
    let range = |most: f32| (0..=most.to_bits()).step_by(577).map(f32::from_bits);
    for x in range(88.0).chain(range(200.0).map(|x| -x)).chain([f32::NEG_INFINITY, 1.0, -88.0]) {
        // SAFETY: a function of a number.
        let native = unsafe { mlx_sys::mixbit_exponential(x) };
        assert_eq!(native.to_bits(), exp(x).to_bits(), "exp({x:e})");
    }
}
