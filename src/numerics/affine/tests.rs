//! Against MLX itself (goldens), against a transcription of its kernel, and by properties.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::numerics::quant::Mode;
use crate::numerics::quant::Quant;
use proptest::prelude::*;

use crate::numerics::affine::*;
use crate::numerics::quant::{AFFINE_BITS, AFFINE_GROUP_SIZES};

const TYPES: [FloatType; 3] = [FloatType::F32, FloatType::F16, FloatType::Bf16];

/// One group by the letter of `mlx/backend/cpu/quantized.cpp`: codes, scale, bias.
fn naive(group: &[f32], bits: u32) -> (Vec<u8>, f32, f32) {
    let highest = ((1 << bits) - 1) as f32;
    let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
    for &w in group {
        max = max.max(w);
        min = min.min(w);
    }
    let mask = min.abs() > max.abs();
    let mut scale = ((max - min) / highest).max(1e-7);
    scale = if mask { scale } else { -scale };
    let edge = if mask { min } else { max };
    let q0 = (edge / scale).round_ties_even();
    let mut bias = 0.0;
    if q0 != 0.0 {
        scale = edge / q0;
        bias = edge;
    }
    let code = |w: &f32| ((w - bias) / scale).round_ties_even().max(0.0).min(highest) as u8;
    (group.iter().map(code).collect(), scale, bias)
}

fn naive_quantize(weights: &[f32], quant: Quant, dtype: FloatType) -> Quantized {
    let mut out = Quantized { packed: vec![], scales: vec![], biases: vec![] };
    for group in weights.chunks(quant.group_size as usize) {
        let group: Vec<f32> = group.iter().map(|&w| dtype.round(w)).collect();
        let (codes, scale, bias) = naive(&group, quant.bits);
        let mut packed = vec![0; codes.len() * quant.bits as usize / 8];
        pack(&codes, quant.bits, &mut packed);
        out.packed.extend(packed);
        let mut bytes = vec![0; dtype.bytes() * 2];
        dtype.narrow(&[scale, bias], &mut bytes);
        out.scales.extend(&bytes[..dtype.bytes()]);
        out.biases.extend(&bytes[dtype.bytes()..]);
    }
    out
}

/// The narrower the type, the fewer values are finite in it.
fn weight() -> impl Strategy<Value = f32> {
    prop_oneof![
        20 => -0.1_f32..0.1,
        3 => (-8_i8..8).prop_map(f32::from),
        2 => prop::sample::select(&[0.0, -0.0, 1e-7, -1e-7, 6e-8, 1e-40, -1e-40, 1.0, 60000.0, -30000.0][..]),
        1 => -1e-6_f32..1e-6,
    ]
}

fn weights(columns: usize, rows: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f32>> {
    let row = prop_oneof![
        4 => prop::collection::vec(weight(), columns),
        1 => weight().prop_map(move |w| vec![w; columns]),
        1 => prop::collection::vec(-0.1_f32..0.0, columns),
        1 => prop::collection::vec(-0.0_f32..0.1, columns),
    ];
    prop::collection::vec(row, rows).prop_map(|rows| rows.concat())
}

fn quant() -> impl Strategy<Value = Quant> {
    (prop::sample::select(&AFFINE_BITS[..]), prop::sample::select(&AFFINE_GROUP_SIZES[..]))
        .prop_map(|(bits, group_size)| Quant::affine(bits, group_size))
}

fn dtype() -> impl Strategy<Value = FloatType> {
    prop::sample::select(&TYPES[..])
}

fn to_bytes(weights: &[f32], dtype: FloatType) -> Vec<u8> {
    let mut bytes = vec![0; weights.len() * dtype.bytes()];
    dtype.narrow(weights, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn quantize_is_the_naive_one(w in weights(256, 0..6), quant in quant(), source in dtype(), dtype in dtype()) {
        let bytes = to_bytes(&w, source);
        let fast = quantize(Rows::new(&bytes, source, 256).unwrap(), quant, dtype).unwrap();
        let mut w = w;
        source.round_all(&mut w);
        prop_assert_eq!(fast, naive_quantize(&w, quant, dtype));
    }

    #[test]
    fn slices_are_the_whole(w in weights(128, 1..700), quant in quant(), cut in any::<prop::sample::Index>()) {
        let at = cut.index(w.len() / 128) * 128;
        let part = |w| quantize(Rows::from_f32(w, 128).unwrap(), quant, FloatType::F16).unwrap();
        let (whole, first, second) = (part(&w), part(&w[..at]), part(&w[at..]));
        prop_assert_eq!(whole.packed, [first.packed, second.packed].concat());
        prop_assert_eq!(whole.scales, [first.scales, second.scales].concat());
        prop_assert_eq!(whole.biases, [first.biases, second.biases].concat());
    }

    #[test]
    fn the_short_cut_is_the_long_way(w in weights(128, 1..6), quant in quant(), dtype in dtype()) {
        let q = quantize(Rows::from_f32(&w, 128).unwrap(), quant, dtype).unwrap();
        let (mut long, mut short) = (vec![0.0; w.len()], vec![0.0; w.len()]);
        dequantize(q.as_slices(), quant, dtype, &mut long).unwrap();
        quantize_dequantize(&w, 128, quant, dtype, &mut short).unwrap();
        prop_assert_eq!(&long, &short);
        let error: Vec<f32> = long.iter().zip(&w).map(|(q, w)| q - w).collect();
        prop_assert_eq!(rounding_error(&w, 128, quant, dtype).unwrap(), error);
    }

    /// Half a step, and the last code may be cut off by as much as stretching the scale moved the far edge.
    #[test]
    fn error_is_bounded(w in prop::collection::vec(-1.0_f32..1.0, 128), quant in quant()) {
        let error = rounding_error(&w, 128, quant, FloatType::F32).unwrap();
        for (w, error) in w.chunks(quant.group_size as usize).zip(error.chunks(quant.group_size as usize)) {
            let range = w.iter().fold(0.0_f32, |m, v| m.max(*v)) - w.iter().fold(0.0_f32, |m, v| m.min(*v));
            let step = range / ((1 << quant.bits) - 1) as f32;
            prop_assert!(error.iter().all(|e| e.abs() <= 1.3 * step + 1e-6), "{:?}", error);
        }
    }
}

#[test]
fn refused() {
    let w = vec![0.5_f32; 128];
    let q = Quant::affine(4, 64);
    let f16 = FloatType::F16;
    assert!(matches!(Rows::from_f32(&w, 100), Err(QuantizeError::Length { .. })));
    assert!(matches!(Rows::from_f32(&w, 0), Err(QuantizeError::Length { .. })));
    let rows = Rows::from_f32(&w, 32).unwrap();
    assert_eq!(quantize(rows, q, f16), Err(QuantizeError::Columns { columns: 32, group_size: 64 }));
    let rows = Rows::from_f32(&w, 64).unwrap();
    for quant in [Quant::affine(7, 64), Quant::affine(4, 16), Mode::Mxfp4.default_quant()] {
        assert_eq!(quantize(rows, quant, f16), Err(QuantizeError::Unsupported(quant)));
    }
    let mut short = Quantized { packed: vec![0; 64], scales: vec![0; 4], biases: vec![0; 2] };
    let error = quantize_into(rows, q, f16, short.as_mut_slices()).unwrap_err();
    assert_eq!(error.to_string(), "bytes of biases: 2 where 4 were expected");
    assert!(dequantize(short.as_slices(), q, f16, &mut [0.0; 128]).is_err());
}

#[test]
fn says_where_a_value_is_not_finite() {
    let mut w = vec![0.5_f32; 128 * 1000];
    w[128 * 900 + 70] = 70000.0;
    w[128 * 901] = f32::NAN;
    let q = Quant::affine(4, 64);
    let error = quantize(Rows::from_f32(&w, 128).unwrap(), q, FloatType::F16).unwrap_err();
    assert_eq!(error.to_string(), "row 900, columns 64 to 127: a value that is not finite in float16");
    let error = rounding_error(&w, 128, q, FloatType::Bf16).unwrap_err();
    assert_eq!(error.to_string(), "row 901, columns 0 to 63: a value that is not finite in bfloat16");
}

/// `f16.b4.g64.{weight,packed,scales,biases}` and so on, written by `mx.quantize`.
#[test]
fn goldens_of_mlx() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/quantize/affine.safetensors");
    let file = std::fs::read(path).expect(path);
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let mut seen = 0;
    for name in file.names() {
        let Some(case) = name.strip_suffix(".packed") else { continue };
        let tensor = |part: &str| file.tensor(&format!("{case}.{part}")).expect(case);
        let weight = tensor("weight");
        let dtype = match weight.dtype() {
            safetensors::Dtype::F32 => FloatType::F32,
            safetensors::Dtype::F16 => FloatType::F16,
            safetensors::Dtype::BF16 => FloatType::Bf16,
            other => panic!("{case}: {other:?}"),
        };
        let number = |prefix: &str| case.split('.').find_map(|p| p.strip_prefix(prefix)?.parse().ok());
        let quant = Quant::affine(number("b").expect(case), number("g").expect(case));
        let columns = *weight.shape().last().expect(case);
        let ours = quantize(Rows::new(weight.data(), dtype, columns).unwrap(), quant, dtype).unwrap();
        assert_eq!(ours.packed, tensor("packed").data(), "{case} codes");
        assert_eq!(ours.scales, tensor("scales").data(), "{case} scales");
        assert_eq!(ours.biases, tensor("biases").data(), "{case} biases");
        if let Ok(decoded) = file.tensor(&format!("{case}.dequantized")) {
            let mut bytes = vec![0; decoded.data().len()];
            dequantize_stored(ours.as_slices(), quant, dtype, &mut bytes).unwrap();
            assert_eq!(bytes, decoded.data(), "{case} decoded");
        }
        seen += 1;
    }
    assert!(seen >= AFFINE_BITS.len() * AFFINE_GROUP_SIZES.len(), "only {seen} cases in {path}");
}
