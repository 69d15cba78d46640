//! Operations that are one node give what the single nodes give, to the bit.

#![allow(clippy::unwrap_used)]

use mlx_rs::Array;
use mlx_rs::ops::concatenate;
use std::path::Path;

use crate::engine::array::{Packed, from_vec, gated, to_vec};
use crate::engine::cache::sequence::{CacheSettings, KvStorage};
use crate::engine::decoder::linear::{Linear, Weight};
use crate::engine::decoder::model::Model;
use crate::engine::fused::{Finish, products};
use crate::engine::runtime::Engine;
use crate::models::source::SourceModel;
use crate::models::spec::Tap;
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

fn halves(rows: usize, seed: usize) -> Weight {
    Weight::Halves(values(&[rows, 128], seed).as_dtype(mlx_rs::Dtype::Bfloat16).unwrap())
}

fn assert_same_bits(fused: Option<Array>, single: &Array, what: &str) {
    let fused = fused.unwrap();
    assert_eq!(fused.shape(), single.shape(), "{what}");
    let bits = |array: &Array| to_vec(array).unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&fused) == bits(single), "{what}");
}

#[test]
fn layers_as_one_node_give_the_same_bits() {
    Engine::start().unwrap();
    let linear = |weight, bias| Linear { path: "layer".into(), tap: Tap::MLP, weight, bias };
    let first = linear(quantized(96, Quant::affine(4, 32), 1), Some(values(&[96], 5)));
    let second = linear(quantized(40, Quant::affine(3, 64), 2), None);
    let third = linear(halves(17, 3), Some(values(&[17], 6)));
    let fourth = linear(quantized(96, Quant::affine(8, 128), 4), Some(values(&[96], 7)));
    for tokens in [1, 3, 20] {
        let x = values(&[1, tokens, 128], 8);
        let single = [&first, &second, &third].map(|linear| linear.forward(&x).unwrap());
        let layers = [first.layer(), second.layer(), third.layer()];
        let fused = products(&x, &layers, Finish::Concatenated);
        assert_same_bits(fused, &concatenate(&single, -1).unwrap(), &format!("{tokens} tokens side by side"));
        let single = gated(&first.forward(&x).unwrap(), &fourth.forward(&x).unwrap()).unwrap();
        let fused = products(&x, &[first.layer(), fourth.layer()], Finish::Gated);
        assert_same_bits(fused, &single, &format!("{tokens} tokens gated"));
        let addend = values(&[1, tokens, 96], 9);
        let single = addend.add(first.forward(&x).unwrap()).unwrap();
        let fused = products(&x, &[first.layer()], Finish::Plus(&addend));
        assert_same_bits(fused, &single, &format!("{tokens} tokens plus"));
    }
}

#[test]
fn layers_of_other_kinds_are_no_node() {
    Engine::start().unwrap();
    let x = values(&[1, 2, 128], 1);
    let float = Weight::Float(values(&[8, 128], 2));
    let (narrow, wide) = (halves(8, 3), halves(9, 4));
    assert!(products(&x, &[(&narrow, None), (&float, None)], Finish::Concatenated).is_none());
    assert!(products(&x, &[(&narrow, None), (&wide, None)], Finish::Gated).is_none());
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
