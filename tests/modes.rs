//! Rounding in every mode of MLX against the engine, over random and adversarial groups.
#![allow(missing_docs, clippy::unwrap_used)]

use mixbit::engine::oracle;
use mixbit::engine::runtime::Engine;
use mixbit::numerics::affine::{FloatType, Rows};
use mixbit::numerics::dtype::Dtype;
use mixbit::numerics::nearest;
use mixbit::numerics::quant::{AFFINE_BITS, AFFINE_GROUP_SIZES, Mode, Quant};

const COLUMNS: usize = 256;
const TYPES: [(FloatType, Dtype); 3] =
    [(FloatType::F32, Dtype::F32), (FloatType::F16, Dtype::F16), (FloatType::Bf16, Dtype::BF16)];

fn every_setting() -> Vec<Quant> {
    let affine =
        AFFINE_BITS.iter().flat_map(|&bits| AFFINE_GROUP_SIZES.map(|size| Quant::affine(bits, size)));
    affine.chain([Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4].map(Mode::default_quant)).collect()
}

/// Returns groups of every kind that is hard on a quantizer, scaled by powers of two over most of the range of `dtype`.
fn weights(dtype: FloatType, quant: Quant, random: &mut fastrand::Rng) -> Vec<f32> {
    let size = quant.group_size as usize;
    let (low, high) = match dtype {
        FloatType::F16 => (-24, 15),
        _ if quant.mode == Mode::Affine => (-140, 120),
        // Below, MLX's CPU implementation wraps around to huge scales; see `mixbit::numerics::microscaling`.
        _ => (-110, 120),
    };
    let mut all = Vec::new();
    for kind in 0..800 {
        let scale = if kind < 400 { -5 } else { random.i32(low..=high) };
        let scale = 2_f64.powi(scale);
        let constant = random.f64() - 0.5;
        let outlier = random.usize(0..size);
        let mut normal = || (0..4).map(|_| random.f64() - 0.5).sum::<f64>();
        let mut group: Vec<f64> = match kind % 10 {
            0 => vec![constant; size],
            1 => vec![if constant < 0.0 { -0.0 } else { 0.0 }; size],
            2 => (0..size).map(|i| if i == outlier { 1.0 } else { 0.01 * normal() }).collect(),
            // Middles between codes.
            3 => (0..size).map(|_| (normal() * 16.0).round() / 8.0).collect(),
            4 => (0..size).map(|i| if i % 2 == 0 { -0.0 } else { normal() }).collect(),
            // Much of it below the smallest normal number.
            5 => (0..size).map(|_| normal() * 2_f64.powf(40.0 * normal())).collect(),
            6 => (0..size).map(|_| normal().abs()).collect(),
            _ => (0..size).map(|_| normal()).collect(),
        };
        // Scales a hair beside a power of two.
        if kind % 10 == 9 {
            group[0] =
                [6.0, 448.0, 7.0][kind / 10 % 3] * (1.0 + f64::from(kind as u32 % 7) * 2_f64.powi(-22));
        }
        all.extend(group.iter().map(|value| (value * scale) as f32));
    }
    let most = match dtype {
        FloatType::F16 => 32000.0,
        _ => 1e37,
    };
    all.into_iter().map(|value: f32| value.clamp(-most, most)).collect()
}

#[test]
fn every_mode_is_mlx_bit_by_bit() {
    let engine = Engine::start().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for (dtype, name) in TYPES {
        for quant in every_setting() {
            let weights = weights(dtype, quant, &mut random);
            let mut bytes = vec![0; weights.len() * dtype.bytes()];
            dtype.narrow(&weights, &mut bytes);
            let shape = [weights.len() / COLUMNS, COLUMNS];
            let rows = Rows::new(&bytes, dtype, COLUMNS).unwrap();
            let ours = nearest::quantize(rows, quant, dtype).unwrap();
            let theirs = oracle::quantize(&engine, &bytes, name, shape, quant).unwrap();
            for (part, ours, theirs) in [
                ("scales", &ours.scales, &theirs.scales),
                ("biases", &ours.biases, &theirs.biases),
                ("codes", &ours.packed, &theirs.packed),
            ] {
                let at = ours.iter().zip(theirs).position(|(a, b)| a != b);
                assert!(ours == theirs, "{quant} from {dtype}: byte {at:?} of the {part} differs");
            }
            let mut decoded = vec![0; bytes.len()];
            nearest::dequantize_stored(ours.as_slices(), quant, dtype, &mut decoded).unwrap();
            let theirs = oracle::dequantize(&engine, theirs.as_slices(), name, shape, quant).unwrap();
            let at = decoded.iter().zip(&theirs).position(|(a, b)| a != b);
            assert!(decoded == theirs, "{quant} from {dtype}: byte {at:?} of the decoded weights differs");
        }
    }
}
