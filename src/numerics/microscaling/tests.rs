//! Against MLX itself (goldens; tests/modes.rs asks the engine), and by properties.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::numerics::affine::FloatType;
use crate::numerics::affine::QuantizeError;
use crate::numerics::affine::Quantized;
use crate::numerics::affine::Rows;
use crate::numerics::quant::Mode;
use crate::numerics::quant::Quant;
use proptest::prelude::*;

use crate::numerics::microscaling::*;

const TYPES: [FloatType; 3] = [FloatType::F32, FloatType::F16, FloatType::Bf16];
const MODES: [Mode; 3] = [Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4];

/// `f16.nvfp4.{weight,packed,scales,dequantized}` and so on, written by `mx.quantize` and `mx.dequantize`.
#[test]
fn goldens_of_mlx() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/quantize/floating.safetensors");
    let file = std::fs::read(path).expect(path);
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    for dtype in TYPES {
        for mode in MODES {
            let short = match dtype {
                FloatType::F32 => "f32",
                FloatType::F16 => "f16",
                FloatType::Bf16 => "bf16",
            };
            let case = format!("{short}.{mode}");
            let tensor = |part: &str| file.tensor(&format!("{case}.{part}")).expect(&case);
            let (weight, quant) = (tensor("weight"), mode.default_quant());
            let columns = *weight.shape().last().unwrap();
            let ours = quantize(Rows::new(weight.data(), dtype, columns).unwrap(), quant, dtype).unwrap();
            assert_eq!(ours.scales, tensor("scales").data(), "{case} scales");
            assert_eq!(ours.packed, tensor("packed").data(), "{case} codes");
            assert!(ours.biases.is_empty());
            let mut decoded = vec![0; weight.data().len()];
            dequantize_stored(ours.as_slices(), quant, dtype, &mut decoded).unwrap();
            assert_eq!(decoded, tensor("dequantized").data(), "{case} decoded");
        }
    }
}

fn weights() -> impl Strategy<Value = Vec<f32>> {
    let weight = prop_oneof![20 => -0.1_f32..0.1, 2 => -6.0_f32..6.0, 1 => Just(0.0), 1 => Just(-0.0)];
    let row =
        prop_oneof![4 => prop::collection::vec(weight, 64), 1 => (-1_f32..1.0).prop_map(|w| vec![w; 64])];
    prop::collection::vec(row, 1..5).prop_map(|rows| rows.concat())
}

proptest! {
    #[test]
    fn errors_are_those_of_the_long_way(
        w in weights(),
        mode in prop::sample::select(&MODES[..]),
        dtype in prop::sample::select(&TYPES[..]),
    ) {
        let quant = mode.default_quant();
        let q = quantize(Rows::from_f32(&w, 64).unwrap(), quant, dtype).unwrap();
        let (mut decoded, mut error) = (vec![0.0; w.len()], vec![0.0; w.len()]);
        dequantize(q.as_slices(), quant, &mut decoded).unwrap();
        rounding_error_into(&w, 64, quant, dtype, &mut error).unwrap();
        let expected: Vec<f32> = decoded.iter().zip(&w).map(|(q, w)| q - w).collect();
        prop_assert_eq!(error, expected);
        let mut bytes = vec![0; w.len() * 4];
        dequantize_stored(q.as_slices(), quant, FloatType::F32, &mut bytes).unwrap();
        prop_assert_eq!(&bytes, bytemuck::cast_slice::<f32, u8>(&decoded));
    }

    /// Half the widest step of the codes (from 4 to 6 of E2M1, a sixteenth of E4M3), and for nvfp4 what rounding the scale
    /// cuts off, or a scale too small to say.
    #[test]
    fn error_is_bounded(w in weights(), mode in prop::sample::select(&MODES[..])) {
        let quant = mode.default_quant();
        let mut error = vec![0.0; w.len()];
        rounding_error_into(&w, 64, quant, FloatType::F32, &mut error).unwrap();
        let size = quant.group_size as usize;
        for (w, error) in w.chunks(size).zip(error.chunks(size)) {
            let largest = w.iter().fold(0_f32, |m, v| m.max(v.abs()));
            let bound = match mode {
                Mode::Mxfp8 => largest / 14.0,
                Mode::Mxfp4 => largest / 3.0,
                _ => largest / 4.0 + 6.0 / 1024.0,
            };
            prop_assert!(error.iter().all(|e| e.abs() <= bound), "{:?} {:?}", w, error);
        }
    }
}

/// MLX's CPU implementation makes 10^37 of these.
#[test]
fn groups_below_the_least_scale_stay_tiny() {
    let w = vec![1e-40_f32; 32];
    for mode in [Mode::Mxfp4, Mode::Mxfp8] {
        let mut error = vec![0.0; 32];
        rounding_error_into(&w, 32, mode.default_quant(), FloatType::F32, &mut error).unwrap();
        assert!(error.iter().all(|e| e.abs() <= 1e-40), "{error:?}");
    }
}

#[test]
fn refused() {
    let mut w = vec![0.5_f32; 128];
    let (quant, f16) = (Mode::Nvfp4.default_quant(), FloatType::F16);
    let rows = Rows::from_f32(&w, 8).unwrap();
    assert_eq!(quantize(rows, quant, f16), Err(QuantizeError::Columns { columns: 8, group_size: 16 }));
    let affine = Quant::affine(4, 64);
    let rows = Rows::from_f32(&w, 64).unwrap();
    assert_eq!(quantize(rows, affine, f16), Err(QuantizeError::Unsupported(affine)));
    let whole = quantize(rows, quant, f16).unwrap();
    let with_biases = Quantized { biases: vec![0; 2], ..whole.clone() };
    let error = dequantize(with_biases.as_slices(), quant, &mut [0.0; 128]).unwrap_err();
    assert_eq!(error.to_string(), "bytes of biases: 2 where 0 were expected");
    assert!(dequantize(whole.as_slices(), quant, &mut [0.0; 127]).is_err());
    w[70] = 70000.0;
    let error = quantize(Rows::from_f32(&w, 64).unwrap(), quant, f16).unwrap_err();
    assert_eq!(error.to_string(), "row 1, columns 0 to 15: a value that is not finite in float16");
    w[70] = f32::NAN;
    assert!(quantize(Rows::from_f32(&w, 64).unwrap(), Mode::Mxfp8.default_quant(), FloatType::F32).is_err());
}
