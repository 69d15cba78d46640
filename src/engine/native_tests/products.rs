//! Products with stored matrices: native's matrix kernels, each kind of processor's, against float64, and the node that
//! calls them against MLX's own decoding.

#![allow(clippy::unwrap_used)]

use half::{bf16, f16};
use mlx_rs::Array;
use mlx_rs::transforms::fallible_vjp;
use std::ffi::CStr;
use std::ptr::null;

use super::kernels::{KERNELS, assert_absent};
use crate::engine::array::{Packed, from_bytes, from_vec, mlx_dtype, to_vec};
use crate::engine::decoder::linear::Weight;
use crate::engine::runtime::Engine;
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::{Mode, Quant};

/// Bytes whose last one is the last of a page, with a page after it that nobody may read.
struct BeforeWall {
    pages: *mut libc::c_void,
    mapped: usize,
    start: *const u8,
    len: usize,
}

impl BeforeWall {
    fn new(bytes: &[u8]) -> Self {
        let page = 1 << 16;
        let mapped = (bytes.len().div_ceil(page) + 1) * page;
        // SAFETY: fresh pages; the copy ends where the last of them begins.
        unsafe {
            let pages = libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(pages, libc::MAP_FAILED);
            let wall = pages.cast::<u8>().add(mapped - page);
            let start = wall.sub(bytes.len());
            start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            assert_eq!(libc::mprotect(wall.cast(), page, libc::PROT_NONE), 0);
            Self { pages, mapped, start, len: bytes.len() }
        }
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for BeforeWall {
    fn drop(&mut self) {
        // SAFETY: the pages are this value's own.
        unsafe { libc::munmap(self.pages, self.mapped) };
    }
}

/// Type of scales, and of biases.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scale {
    None,
    Float32,
    Half,
    Brain,
    E8m0,
    E4m3,
}

/// Kind of stored values.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Code {
    Affine,
    Fp4,
    Fp8,
    Half,
    Brain,
}

impl Scale {
    fn value(self, bytes: &[u8]) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Float32 => f64::from(f32::from_le_bytes(bytes.try_into().unwrap())),
            Self::Half => f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
            Self::Brain => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
            Self::E8m0 => (f64::from(bytes[0]) - 127.0).exp2(),
            Self::E4m3 => e4m3(bytes[0]),
        }
    }

    fn store(self, value: f32) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Float32 => value.to_le_bytes().to_vec(),
            Self::Half => f16::from_f32(value).to_le_bytes().to_vec(),
            Self::Brain => bf16::from_f32(value).to_le_bytes().to_vec(),
            // 2^-7 to 2^0.
            Self::E8m0 => vec![120 + (value.abs() * 7.0) as u8],
            Self::E4m3 => vec![(value.abs() * 100.0) as u8],
        }
    }
}

fn e4m3(byte: u8) -> f64 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
    let magnitude = if exponent == 0 {
        fraction / 512.0
    } else {
        (1.0 + fraction / 8.0) * f64::from(exponent - 7).exp2()
    };
    if byte & 128 == 0 { magnitude } else { -magnitude }
}

/// Random stored matrix with its values in float64.
struct Stored {
    sizes: [usize; 2],
    bits: usize,
    group: usize,
    code: Code,
    scale: Scale,
    /// Codes, scales and biases.
    parts: [BeforeWall; 3],
    values: Vec<f64>,
    /// Size of each value's terms: |scale * code| + |bias|, which bounds rounding.
    terms: Vec<f64>,
}

impl Stored {
    /// Makes a matrix [rows, columns] whose scales are up to `largest`.
    fn new(kind: (Code, Scale), bits_and_group: [usize; 2], sizes: [usize; 2], largest: f32) -> Self {
        Self::with_codes(kind, bits_and_group, sizes, largest, None)
    }

    /// Makes a matrix [rows, columns] whose codes are the bytes `all_codes`, or random.
    fn with_codes(
        (code, scale): (Code, Scale),
        [bits, group]: [usize; 2],
        [rows, columns]: [usize; 2],
        largest: f32,
        all_codes: Option<u8>,
    ) -> Self {
        let mut rng = fastrand::Rng::with_seed((bits * 1000 + group * 10 + rows) as u64);
        let mut parts: [Vec<u8>; 3] = Default::default();
        let (mut values, mut terms) = (Vec::new(), Vec::new());
        for _ in 0..rows {
            let random: Vec<u8> = match code {
                Code::Half => {
                    (0..columns).flat_map(|_| Scale::Half.store((rng.f32() - 0.5) * largest)).collect()
                }
                Code::Brain => {
                    (0..columns).flat_map(|_| Scale::Brain.store((rng.f32() - 0.5) * largest)).collect()
                }
                // Without the codes of NaN.
                Code::Fp8 => (0..columns).map(|_| rng.u8(0..127) | (rng.u8(0..2) << 7)).collect(),
                Code::Affine | Code::Fp4 => (0..columns * bits / 8).map(|_| rng.u8(..)).collect(),
            };
            let codes: Vec<u8> = all_codes.map_or(random, |byte| vec![byte; columns * bits / 8]);
            for start in (0..columns).step_by(group) {
                let factor = scale.store((rng.f32() + 0.01) * 0.99 * largest);
                let offset =
                    if code == Code::Affine { scale.store((rng.f32() - 0.9) * largest) } else { Vec::new() };
                let bias = if offset.is_empty() { 0.0 } else { scale.value(&offset) };
                for at in start..start + group {
                    let product = scale.value(&factor) * decode(code, bits, &codes, at);
                    values.push(product + bias);
                    terms.push(product.abs() + bias.abs());
                }
                parts[1].extend(factor);
                parts[2].extend(offset);
            }
            parts[0].extend(codes);
        }
        let parts = parts.map(|part| BeforeWall::new(&part));
        Self { sizes: [rows, columns], bits, group, code, scale, parts, values, terms }
    }

    /// Computes the product with x [count, columns] by the kernels of a name; `None` if the processor lacks them.
    fn product(&self, kernels: &CStr, x: &[f32]) -> Option<Vec<f32>> {
        let [rows, columns] = self.sizes;
        let part = |index: usize| if self.parts[index].is_empty() { null() } else { self.parts[index].start };
        let matrix = mlx_sys::mixbit_matrix {
            codes: part(0),
            scales: part(1),
            biases: part(2),
            rows: rows as i64,
            columns: columns as i64,
            bits: self.bits as i32,
            group: self.group as i32,
            code: self.code as i32,
            scale: self.scale as i32,
        };
        let count = x.len() / columns;
        let mut out = vec![f32::NAN; count * rows];
        // SAFETY: the parts have the sizes that the matrix says, and x and out those of the product.
        let done = unsafe {
            mlx_sys::mixbit_product_by(
                kernels.as_ptr(),
                &raw const matrix,
                x.as_ptr(),
                count as i64,
                out.as_mut_ptr(),
            )
        };
        (done == 1).then_some(out)
    }

    /// Fails unless all kernels give the products with `count` random rows, up to float32 rounding.
    fn check(&self, count: usize) {
        let mut rng = fastrand::Rng::with_seed(count as u64);
        let x: Vec<f32> = (0..count * self.sizes[1]).map(|_| 2.0 * rng.f32() - 1.0).collect();
        self.check_with(&x, 1e-6);
    }

    /// Fails unless all kernels give the products with `x` [count, columns], up to a `tolerance` of the sum of all sizes.
    fn check_with(&self, x: &[f32], tolerance: f64) {
        let [rows, columns] = self.sizes;
        let count = x.len() / columns;
        for kernels in KERNELS {
            let Some(found) = self.product(kernels, x) else {
                assert_absent(kernels);
                continue;
            };
            for (index, &found) in found.iter().enumerate() {
                let (x, row) = (&x[index / rows * columns..][..columns], index % rows * columns);
                let dot = |values: &[f64], size: fn(f32) -> f64| -> f64 {
                    values[row..row + columns].iter().zip(x).map(|(value, &x)| value * size(x)).sum()
                };
                let (expected, size) =
                    (dot(&self.values, f64::from), dot(&self.terms, |x| f64::from(x.abs())));
                assert!(
                    (f64::from(found) - expected).abs() <= tolerance * size + f64::from(f32::MIN_POSITIVE),
                    "{kernels:?}, {:?} {:?} {}:{}, {:?} x {count}, {index}: {found:e}, expected {expected:e}",
                    self.code,
                    self.scale,
                    self.bits,
                    self.group,
                    self.sizes
                );
            }
        }
    }
}

/// Value of code number `at` before scale and bias.
fn decode(code: Code, bits: usize, codes: &[u8], at: usize) -> f64 {
    let integer = || {
        (0..bits)
            .map(|bit| usize::from(codes[(at * bits + bit) / 8] >> ((at * bits + bit) % 8) & 1) << bit)
            .sum::<usize>()
    };
    match code {
        Code::Affine => integer() as f64,
        Code::Fp4 => {
            let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
            let magnitude = magnitudes[integer() & 7];
            if integer() & 8 == 0 { magnitude } else { -magnitude }
        }
        Code::Fp8 => e4m3(codes[at]),
        Code::Half => Scale::Half.value(&codes[at * 2..at * 2 + 2]),
        Code::Brain => Scale::Brain.value(&codes[at * 2..at * 2 + 2]),
    }
}

const SCALES: [Scale; 3] = [Scale::Float32, Scale::Half, Scale::Brain];

/// Kinds of stored values with their bits and group sizes.
fn forms() -> Vec<((Code, Scale), [usize; 2])> {
    let mut forms = vec![
        ((Code::Fp4, Scale::E8m0), [4, 32]),
        ((Code::Fp4, Scale::E4m3), [4, 16]),
        ((Code::Fp8, Scale::E8m0), [8, 32]),
    ];
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            forms.extend(SCALES.map(|scale| ((Code::Affine, scale), [bits, group])));
        }
    }
    forms
}

#[test]
fn kernels_agree_with_float64() {
    Engine::start().unwrap();
    for (kind, [bits, group]) in forms() {
        // One group; odd numbers of groups and rows; more groups than are widened at a time.
        for [rows, groups] in [[1, 1], [3, 3], [37, 9], [5, 130]] {
            let stored = Stored::new(kind, [bits, group], [rows, groups * group], 0.02);
            for count in [1, 2, 3, 7, 13] {
                stored.check(count);
            }
        }
    }
}

/// Sums of integers are then as large as they can be.
#[test]
fn largest_codes_and_inputs_agree_with_float64() {
    Engine::start().unwrap();
    for (kind, [bits, group]) in forms() {
        let largest = match kind.0 {
            Code::Fp4 => 0x77,
            // 448: what comes after is NaN.
            Code::Fp8 => 0x7e,
            _ => 0xff,
        };
        for [rows, groups] in [[1, 1], [37, 9], [5, 130]] {
            let sizes = [rows, groups * group];
            let stored = Stored::with_codes(kind, [bits, group], sizes, 0.02, Some(largest));
            // Equal terms are all rounded in one direction.
            let tolerance = (sizes[1] as f64 * f64::from(f32::EPSILON) / 2.0).max(1e-6);
            for count in [1, 3, 13] {
                for x in [1.0, -1.0, 32767.0] {
                    stored.check_with(&vec![x; count * sizes[1]], tolerance);
                }
            }
        }
    }
}

#[test]
fn halves_agree_with_float64() {
    Engine::start().unwrap();
    for code in [Code::Half, Code::Brain] {
        for sizes in [[1, 16], [3, 48], [37, 592], [5, 4096]] {
            let stored = Stored::new((code, Scale::None), [16, sizes[1]], sizes, 0.1);
            for count in [1, 2, 3, 7, 13] {
                stored.check(count);
            }
        }
    }
}

#[test]
fn extreme_scales_agree_with_float64() {
    Engine::start().unwrap();
    for (scale, sizes) in [
        (Scale::Half, &[6e-7, 6e4][..]),
        (Scale::Brain, &[1e-36, 1e30][..]),
        (Scale::Float32, &[1e-36, 1e30][..]),
    ] {
        for &largest in sizes {
            for bits in [2, 5, 8] {
                Stored::new((Code::Affine, scale), [bits, 32], [9, 96], largest).check(1);
                Stored::new((Code::Affine, scale), [bits, 32], [9, 96], largest).check(3);
            }
        }
    }
}

/// Many rows on both threads, and matrices whose parts do not end where threads' parts do.
#[test]
fn large_products_agree_with_float64() {
    Engine::start().unwrap();
    let stored = Stored::new((Code::Affine, Scale::Half), [4, 32], [1003, 256], 0.02);
    for count in [1, 4, 64] {
        stored.check(count);
    }
}

/// Random quantized matrix [rows, columns] as MLX has it, with scales of `dtype`.
fn packed(quant: Quant, [rows, columns]: [usize; 2], dtype: Dtype) -> Packed {
    let mut rng = fastrand::Rng::with_seed(u64::from(quant.bits));
    let groups = quant.groups(columns).unwrap();
    let words = quant.packed_columns(columns).unwrap();
    let codes: Vec<u8> = (0..rows * words * 4)
        .map(|_| if quant.mode == Mode::Mxfp8 { rng.u8(0..127) } else { rng.u8(..) })
        .collect();
    let mut numbers = || {
        let values = (0..rows * groups).map(|_| rng.f32() * 0.1).collect();
        from_vec(values, &[rows, groups]).as_dtype(mlx_dtype(dtype)).unwrap()
    };
    let (scales, biases) = if quant.mode == Mode::Affine {
        (numbers(), Some(numbers()))
    } else {
        (from_bytes(&vec![119; rows * groups], Dtype::U8, &[rows, groups]), None)
    };
    Packed { codes: from_bytes(&codes, Dtype::U32, &[rows, words]), scales, biases, quant }
}

fn values(sizes: &[usize]) -> Array {
    let mut rng = fastrand::Rng::with_seed(5);
    from_vec((0..sizes.iter().product()).map(|_| 2.0 * rng.f32() - 1.0).collect(), sizes)
}

#[track_caller]
fn assert_close(found: &Array, expected: &Array) {
    assert_eq!(found.shape(), expected.shape());
    let (found, expected) = (to_vec(found).unwrap(), to_vec(expected).unwrap());
    let size = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= 1e-5 * size, "{found:e}, expected {expected:e}");
    }
}

#[test]
fn products_are_those_with_decoded_matrices() {
    Engine::start().unwrap();
    let quants = [
        Quant::affine(3, 64),
        Quant::affine(8, 32),
        Mode::Mxfp4.default_quant(),
        Mode::Mxfp8.default_quant(),
        Mode::Nvfp4.default_quant(),
    ];
    for quant in quants {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let packed = packed(quant, [24, 128], dtype);
            let dense = packed.dequantize(Dtype::F32).unwrap();
            for x in [values(&[1, 1, 128]), values(&[1, 20, 128])] {
                assert_close(&packed.matmul_transposed(&x).unwrap(), &x.matmul(dense.t()).unwrap());
            }
        }
    }
}

#[test]
fn gradients_of_products_are_those_of_decoded_matrices() {
    Engine::start().unwrap();
    let packed = packed(Quant::affine(4, 32), [24, 64], Dtype::F16);
    let (x, cotangent) = (values(&[1, 3, 64]), values(&[1, 3, 24]));
    let product = |x: &[Array]| {
        Ok(vec![
            packed.matmul_transposed(&x[0]).map_err(|e| mlx_rs::error::Exception::custom(e.to_string()))?,
        ])
    };
    let (_, gradients) = fallible_vjp(product, &[x], std::slice::from_ref(&cotangent)).unwrap();
    assert_close(&gradients[0], &cotangent.matmul(packed.dequantize(Dtype::F32).unwrap()).unwrap());
}

#[test]
fn products_with_halves_are_those_with_widened_ones() {
    Engine::start().unwrap();
    for dtype in [Dtype::F16, Dtype::BF16] {
        // Whole numbers of sixteen columns go to our kernels, and others to MLX.
        for columns in [64, 70] {
            let weight = values(&[24, columns]).as_dtype(mlx_dtype(dtype)).unwrap();
            let x = values(&[1, 5, columns]);
            let expected = x.matmul(weight.as_dtype(mlx_rs::Dtype::Float32).unwrap().t()).unwrap();
            assert_close(&Weight::Halves(weight).matmul_transposed(&x).unwrap(), &expected);
        }
    }
}
