//! Operations that are one node give what the single nodes give, to the bit but for GELU.

#![allow(clippy::unwrap_used)]

use mlx_rs::Array;
use mlx_rs::fast::rms_norm;
use mlx_rs::ops::concatenate;
use mlx_rs::transforms::eval;
use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use crate::engine::activations::{gelu, gelu_tanh, relu2, silu};
use crate::engine::array::{Packed, from_vec, gated, to_vec};
use crate::engine::cache::sequence::{CacheSettings, KvStorage};
use crate::engine::decoder::linear::{Linear, Weight};
use crate::engine::decoder::model::Model;
use crate::engine::fused::{
    Around, AttentionLayers, CachedAttention, Finish, Layer, MlpLayers, RmsNorm, StoredForm, attend,
    interleave, mlp, products,
};
use crate::engine::runtime::Engine;
use crate::models::source::SourceModel;
use crate::models::spec::{Activation, Tap};
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::Quant;

/// Values of a fixed pattern, about 0.
fn values(sizes: &[usize], seed: usize) -> Array {
    let count = sizes.iter().product();
    let value = |i: usize| ((i * 2_654_435_761 + seed * 40_503) % 1009) as f32 / 504.5 - 1.0;
    from_vec((0..count).map(value).collect(), sizes)
}

fn quantized(rows: usize, quant: Quant, seed: usize) -> Weight {
    let dense = values(&[rows, 128], seed).as_dtype(mlx_rs::Dtype::Float16).unwrap();
    let (codes, scales, biases) =
        mlx_rs::ops::quantize(&dense, quant.group_size as i32, quant.bits as i32).unwrap();
    Weight::Quantized(Packed { codes, scales, biases: Some(biases), quant })
}

/// Returns a quantized matrix in the order that is multiplied fastest, where this processor has one.
fn interleaved(weight: Weight) -> Weight {
    let Weight::Quantized(packed) = &weight else { panic!("a quantized matrix") };
    let bytes = |array: &Array| array.view::<u8>().unwrap().to_vec_exact::<u8>().unwrap();
    let parts = [&packed.codes, &packed.scales, packed.biases.as_ref().unwrap()].map(bytes);
    let rows = packed.codes.dim(0) as usize;
    let form = StoredForm { rows, columns: 128, scales: Dtype::F16, quant: packed.quant };
    let read = |some: Range<usize>| {
        parts.each_ref().map(|part| {
            let each = part.len() / rows;
            Cow::Borrowed(&part[some.start * each..some.end * each])
        })
    };
    interleave(form, read, |_| ()).unwrap().map_or(weight, Weight::Interleaved)
}

/// Bits of the codes that this processor multiplies fastest in another order.
fn bits_in_order() -> &'static [u32] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let vnni = has!("avx512vnni") && has!("avx512vbmi") && has!("avx512vl");
        let avx2 = has!("avx2") && has!("fma") && has!("f16c") && !has!("avx512vbmi");
        if vnni || avx2 {
            return &[2, 3, 4, 5, 6, 8];
        }
    }
    &[]
}

#[test]
fn matrices_are_in_order_where_the_processor_has_one() {
    Engine::start().unwrap();
    let in_order = |bits: &u32| {
        matches!(interleaved(quantized(37, Quant::affine(*bits, 32), 1)), Weight::Interleaved(_))
    };
    let found: Vec<u32> = [2, 3, 4, 5, 6, 8].into_iter().filter(in_order).collect();
    assert_eq!(found, bits_in_order());
}

/// Rows, whole matrices, and products with rows of x that are not exact as integers.
#[test]
fn interleaved_matrices_are_the_stored_ones() {
    Engine::start().unwrap();
    for bits in [2, 3, 4, 5, 6, 8] {
        let stored = quantized(37, Quant::affine(bits, 32), bits as usize);
        let ordered = interleaved(quantized(37, Quant::affine(bits, 32), bits as usize));
        let same = |a: &Array, b: &Array| assert_same_bits(Some(a.clone()), b, &format!("{bits} bits"));
        same(&ordered.dense(Dtype::F32).unwrap(), &stored.dense(Dtype::F32).unwrap());
        let indices = Array::from_slice(&[36_u32, 0, 17], &[3]);
        same(&ordered.rows(&indices, Dtype::F32).unwrap(), &stored.rows(&indices, Dtype::F32).unwrap());
        let large = values(&[1, 1, 128], 1).multiply(Array::from_f32(1e33)).unwrap();
        let x = concatenate(&[values(&[1, 2, 128], 2), large.clone(), values(&[1, 1, 128], 3)], 1).unwrap();
        let many = concatenate(&[large.clone(), values(&[1, 40, 128], 4)], 1).unwrap();
        for x in [x, large, many] {
            let rows = x.split_equal(x.dim(1), 1).unwrap();
            for (row, product) in
                rows.iter().zip(ordered.matmul_transposed(&x).unwrap().split_equal(x.dim(1), 1).unwrap())
            {
                let expected = stored.matmul_transposed(row).unwrap();
                assert_near(&product, &expected, &format!("{bits} bits"));
            }
        }
    }
}

fn halves(rows: usize, seed: usize) -> Weight {
    Weight::Halves(values(&[rows, 128], seed).as_dtype(mlx_rs::Dtype::Bfloat16).unwrap())
}

fn assert_same_bits(fused: Option<Array>, single: &Array, what: &str) {
    let fused = fused.unwrap();
    assert_eq!(fused.shape(), single.shape(), "{what}");
    let bits = |array: &Array| to_vec(array).unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&fused) == bits(single), "{what}");
}

fn assert_near(computed: &Array, expected: &Array, what: &str) {
    let (computed, expected) = (to_vec(computed).unwrap(), to_vec(expected).unwrap());
    let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let error = computed.iter().zip(&expected).fold(0.0_f32, |most, (x, y)| most.max((x - y).abs()));
    assert!(error <= 3e-6 * largest, "{what}: {error} beside {largest}");
}

#[test]
fn layers_as_one_node_give_the_same_bits() {
    Engine::start().unwrap();
    let linear = |weight, bias| Linear { path: "layer".into(), tap: Tap::MLP, weight, bias };
    let first = linear(quantized(128, Quant::affine(4, 32), 1), Some(values(&[128], 5)));
    let second = linear(quantized(40, Quant::affine(3, 64), 2), None);
    let third = linear(halves(17, 3), Some(values(&[17], 6)));
    let fourth = linear(quantized(128, Quant::affine(8, 128), 4), Some(values(&[128], 7)));
    let down = linear(quantized(128, Quant::affine(4, 32), 12), None);
    for tokens in [1, 3, 20] {
        let x = values(&[1, tokens, 128], 8);
        let single = [&first, &second, &third].map(|linear| linear.forward(&x).unwrap());
        let layers = [first.layer(), second.layer(), third.layer()];
        let fused = products(&x, &layers, Finish::Concatenated);
        assert_same_bits(fused, &concatenate(&single, -1).unwrap(), &format!("{tokens} tokens side by side"));
        let weight = values(&[128], 10);
        let norm = RmsNorm { weight: &weight, eps: 1e-5 };
        let residual = values(&[1, tokens, 128], 11);
        let normed = rms_norm(&x, Some(&weight), 1e-5).unwrap();
        let inner = gated(&first.forward(&normed).unwrap(), &fourth.forward(&normed).unwrap()).unwrap();
        let single = residual.add(down.forward(&inner).unwrap()).unwrap();
        let around = Around { x: &x, norm: Some(norm), addend: Some(&residual) };
        let gate_up = [first.layer(), fourth.layer()];
        let layers =
            MlpLayers { first: &gate_up, activation: Activation::Silu, gated: true, down: down.layer() };
        assert_same_bits(mlp(&around, &layers), &single, &format!("{tokens} tokens through an MLP"));
        let addend = values(&[1, tokens, 128], 9);
        let single = addend.add(first.forward(&x).unwrap()).unwrap();
        let fused = products(&x, &[first.layer()], Finish::Plus(&addend));
        assert_same_bits(fused, &single, &format!("{tokens} tokens plus"));
    }
}

/// With and without a gate, and with gate and up in one matrix, in both orders in memory.
#[test]
fn mlps_of_every_activation_are_their_formula() {
    Engine::start().unwrap();
    let stored = |rows, bits, seed| quantized(rows, Quant::affine(bits, 32), seed);
    let x = values(&[1, 3, 128], 1);
    for interleave in [false, true] {
        let ordered = |weight: Weight| if interleave { interleaved(weight) } else { weight };
        let (gate, up) = (ordered(stored(128, 4, 2)), ordered(stored(128, 6, 3)));
        let (both, down) = (ordered(stored(256, 5, 4)), ordered(stored(128, 3, 5)));
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu2] {
            let of = |x: &Array| match activation {
                Activation::Gelu => gelu(x).unwrap(),
                Activation::GeluTanh => gelu_tanh(x).unwrap(),
                Activation::Relu2 => relu2(x).unwrap(),
                _ => silu(x).unwrap(),
            };
            let times = |x: &Array, weight: &Weight| weight.matmul_transposed(x).unwrap();
            let halves = times(&x, &both).split_equal(2, -1).unwrap();
            let cases: [(&[Layer<'_>], bool, Array); 3] = [
                (&[(&gate, None)], false, of(&times(&x, &gate))),
                (
                    &[(&gate, None), (&up, None)],
                    true,
                    of(&times(&x, &gate)).multiply(times(&x, &up)).unwrap(),
                ),
                (&[(&both, None)], true, of(&halves[0]).multiply(&halves[1]).unwrap()),
            ];
            for (first, gated, inner) in cases {
                let around = Around { x: &x, norm: None, addend: None };
                let layers = MlpLayers { first, activation, gated, down: (&down, None) };
                let what = format!("{activation:?}, {} matrices, {gated}, {interleave}", first.len());
                assert_near(&mlp(&around, &layers).unwrap(), &times(&inner, &down), &what);
            }
        }
    }
}

/// A query with one key gathers that key's value; the cache is written in place unless somebody else holds it.
#[test]
fn attention_is_a_node_that_writes_its_cache() {
    Engine::start().unwrap();
    let x = values(&[1, 1, 128], 1);
    let weight = halves(64, 2);
    let products = to_vec(&weight.matmul_transposed(&x).unwrap()).unwrap();
    let attention = CachedAttention {
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        head_norm: None,
        rotation: None,
        scale: 0.25,
        at: 0,
        visible: 1,
        causal: true,
    };
    let around = Around { x: &x, norm: None, addend: None };
    let layers = AttentionLayers { inputs: &[(&weight, None)], output: None };
    for is_held in [false, true] {
        let [keys, stored] = [3, 4].map(|seed| values(&[1, 1, 8, 16], seed));
        let (before, start) = (to_vec(&stored).unwrap(), stored.as_slice::<f32>().as_ptr());
        let holder = is_held.then(|| stored.clone());
        let [out, new_keys, new_values] = attend(&attention, &around, &layers, [&keys, &stored]).unwrap();
        drop((keys, stored));
        eval([&out, &new_keys, &new_values]).unwrap();
        assert_eq!(to_vec(&out).unwrap(), [&products[48..], &products[48..]].concat());
        assert_eq!(to_vec(&new_values).unwrap(), [&products[48..], &before[16..]].concat());
        assert_eq!(to_vec(&new_keys).unwrap()[..16], products[32..48]);
        assert_eq!(new_values.as_slice::<f32>().as_ptr() == start, !is_held);
        if let Some(holder) = holder {
            assert_eq!(to_vec(&holder).unwrap(), before);
        }
    }
}

#[test]
fn layers_of_other_kinds_are_no_node() {
    Engine::start().unwrap();
    let x = values(&[1, 2, 128], 1);
    let float = Weight::Float(values(&[8, 128], 2));
    let (narrow, wide) = (halves(8, 3), halves(9, 4));
    assert!(products(&x, &[(&narrow, None), (&float, None)], Finish::Concatenated).is_none());
    let around = Around { x: &x, norm: None, addend: None };
    let is_no_mlp = |first: &[Layer<'_>], activation, gated, down| {
        mlp(&around, &MlpLayers { first, activation, gated, down: (down, None) }).is_none()
    };
    let plain = halves(128, 8);
    assert!(is_no_mlp(&[(&narrow, None), (&wide, None)], Activation::Silu, true, &plain));
    assert!(is_no_mlp(&[(&plain, None)], Activation::Xielu, false, &plain));
    assert!(is_no_mlp(&[(&narrow, None)], Activation::Gelu, false, &plain));
    assert!(!is_no_mlp(&[(&plain, None)], Activation::Gelu, false, &plain));
    assert!(products(&x, &[(&narrow, Some(&values(&[9], 5)))], Finish::Concatenated).is_none());
    assert!(products(&x, &[(&narrow, None)], Finish::Plus(&values(&[1, 2, 9], 6))).is_none());
    assert!(products(&values(&[1, 2, 64], 7), &[(&narrow, None)], Finish::Concatenated).is_none());
}

/// Logits through the cache, in pieces of one and of several tokens: norms, windows, layers without RoPE, experts.
#[test]
fn models_of_fused_nodes_give_the_same_bits() {
    let engine = Engine::start().unwrap();
    for name in [
        "llama-gqa-llama3-rope",
        "llama-mha-untied",
        "llama-rows-172",
        "llama4-text-untied",
        "mistral-untied-float16",
        "mixtral-untied",
        "exaone4-windows",
        "qwen3-moe-untied",
        "qwen3-tied",
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(name);
        let load = || Model::load(&engine, &SourceModel::open(&folder).unwrap(), None).unwrap();
        let (fused, single) = (load(), load().with_single_nodes());
        let tokens: Vec<u32> = (0..40).map(|i| (i * 7 + 3) % fused.spec().vocab_size as u32).collect();
        for storage in [KvStorage::AsComputed, KvStorage::Float(Dtype::F16)] {
            let settings = CacheSettings { context: None, storage };
            for step in [1, 7, 40] {
                let bits = |model: &Model| -> Vec<u32> {
                    let mut bits = Vec::new();
                    let mut add = |rows: Vec<f32>| {
                        bits.extend(rows.iter().map(|x| x.to_bits()));
                        Ok(())
                    };
                    model.stream(&tokens, &settings, step, &mut add).unwrap();
                    bits
                };
                assert!(bits(&fused) == bits(&single), "{name} in steps of {step}, {storage:?}");
            }
        }
    }
}
