//! Shapes, variants, element types and bit maps against config.json.

use std::fs;

use serde_json::{Value, json};

use crate::chained::{DamagedModel, EMBEDDING, GATE, findings, rename};
use crate::common::{RawCheckpoint, bundled, fixtures, make, succeeded};

#[test]
fn shapes() {
    let damaged = DamagedModel::new().weights(|raw| {
        raw.remove("model.norm.weight");
        raw.tensors.push(("surprise".into(), "F32".into(), vec![1], vec![0; 4]));
        raw.get_mut(GATE).2 = vec![128, 384];
    });
    let (_, found) = findings(&damaged.path(), None);
    assert!(found.iter().all(|f| f["subject"] != "load"), "said twice: {found:#?}");
    damaged
        .finds("problem", "shapes", "1 tensor missing: `model.norm.weight`")
        .finds("problem", "shapes", "1 tensor left over: `surprise`")
        .finds("problem", "shapes", "[128, 384] instead of [384, 128]");
}

#[test]
fn mlp_variants() {
    DamagedModel::new()
        .config("intermediate_size", json!(96))
        .finds("note", "mlp", "384 wide; config.json says intermediate_size 96, intermediate_size_mlp 384")
        .finds("note", "decided", "hints at a dual MLP");
    let part = "feed_forward.gate_proj";
    DamagedModel::new().weights(|raw| rename(raw, part, "feed_forward.gate_up_proj")).finds(
        "problem",
        "mlp",
        "gate and up in one matrix",
    );
    DamagedModel::new().weights(|raw| rename(raw, part, "feed_forward.router")).finds(
        "problem",
        "mlp",
        "a mixture of experts",
    );
    DamagedModel::new().weights(|raw| raw.tensors.retain(|tensor| !tensor.0.contains(part))).finds(
        "problem",
        "mlp",
        "no gate: ",
    );
    DamagedModel::new()
        .weights(|raw| rename(raw, "layers.1.feed_forward.up_proj", "layers.1.feed_forward.x"))
        .finds("problem", "mlp", "the MLP of block 0 has other parts than that of 1");
}

#[test]
fn attention() {
    DamagedModel::new().config("num_key_value_heads", json!(2)).finds(
        "problem",
        "gqa",
        "the weights have 128 and 32",
    );
    DamagedModel::new().config("num_key_value_heads", json!(3)).finds("problem", "gqa", "3 key/value heads");
    DamagedModel::new().config("head_dim", json!(64)).finds("problem", "gqa", "of 64 dimensions");
    let q_norm = "model.layers.0.self_attn.q_norm.weight";
    DamagedModel::new()
        .weights(|raw| raw.tensors.push((q_norm.into(), "F32".into(), vec![32], vec![0; 128])))
        .finds("problem", "q/k norm", "no place for them");
    let qwen = DamagedModel::of(&fixtures().join("golden/qwen3-tied")).finds(
        "ok",
        "q/k norm",
        "with weights in every block",
    );
    qwen.weights(|raw| raw.remove(q_norm)).finds("problem", "q/k norm", "blocks only");
    DamagedModel::new()
        .config("no_rope_layers", json!([1, 1, 0, 1]))
        .finds("note", "rope", "in 3 of 4 blocks, not in 2")
        .config("attn_temperature_tuning", json!(true))
        .finds("note", "attention scale", "temperature tuning with attn_scale 0.1");
    DamagedModel::new()
        .config("no_rope_layers", json!([0, 0, 0, 0]))
        .finds("ok", "rope", "in every block")
        .finds("note", "decided", "a config artefact");
    DamagedModel::new().config("rope_theta", json!("x")).finds("problem", "config", "rope_theta");
}

#[test]
fn heads() {
    let head = |raw: &mut RawCheckpoint, name: &str| {
        let mut copy = raw.get_mut(EMBEDDING).clone();
        copy.0 = name.to_owned();
        raw.tensors.push(copy);
    };
    DamagedModel::new()
        .config("tie_word_embeddings", json!(false))
        .finds("problem", "head", "untied, but there is no")
        .weights(|raw| head(raw, "lm_head.weight"))
        .finds("note", "head", "could be tied")
        .config("tie_word_embeddings", json!(true))
        .finds("note", "decided", "the one that is stored is left out")
        .weights(|raw| raw.get_mut("lm_head.weight").3[0] ^= 1)
        .finds("problem", "head", "a different one is stored")
        .without("tie_word_embeddings")
        .finds("note", "head", "tie_word_embeddings is absent");
}

#[test]
fn element_types() {
    DamagedModel::new().config("torch_dtype", json!("bfloat16")).finds(
        "note",
        "dtypes",
        "config.json says bfloat16",
    );
    DamagedModel::new()
        .weights(|raw| {
            let (_, dtype, shape, bytes) = raw.get_mut("model.norm.weight");
            (*dtype, *bytes) = ("BF16".to_owned(), vec![0x3f; shape[0] * 2]);
        })
        .finds("note", "dtypes", "float32 (37 tensors");
    DamagedModel::new().weights(|raw| raw.get_mut(GATE).1 = "I32".to_owned()).finds(
        "problem",
        "dtypes",
        "should be float",
    );
}

#[test]
fn bit_maps() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&make("quantize", &bundled(), &out, &["--bits", "4", "--layer", "*.v_proj=8:32"]));
    let quantized = || DamagedModel::of(&out);
    quantized().finds("ok", "bit map", "28 quantized layers (24 x 4:64, 4 x 8:32), each with its own entry");
    quantized()
        .json("config.json", |config| config["quantization"]["bits"] = json!(8))
        .finds("problem", "bit map", "differ");
    quantized()
        .json("config.json", |config| drop(config.as_object_mut().unwrap().remove("quantization")))
        .finds("note", "bit map", "mlx-lm reads `quantization`");
    let entry = |config: &mut Value, keep: bool| {
        for key in ["quantization", "quantization_config"] {
            let map = config[key].as_object_mut().unwrap();
            map.retain(|path, _| keep || !path.ends_with("0.self_attn.q_proj"));
        }
    };
    quantized().json("config.json", |config| entry(config, false)).finds(
        "ok",
        "bit map",
        "1 without an entry",
    );
    let scales = "model.layers.0.self_attn.q_proj.scales";
    let damaged = quantized().weights(|raw| raw.remove(scales));
    fs::remove_file(damaged.file("model.safetensors.index.json")).unwrap();
    damaged.finds("problem", "shapes", &format!("1 tensor missing: `{scales}`"));
    quantized()
        .weights(|raw| {
            let biases = raw.get_mut("model.layers.0.self_attn.q_proj.biases");
            biases.1 = "BF16".to_owned();
        })
        .finds("problem", "load", "is bfloat16: biases are of the same type as their scales");
    quantized()
        .weights(|raw| raw.get_mut("model.layers.0.self_attn.q_proj.weight").1 = "I32".to_owned())
        .finds("problem", "load", "is int32: codes are uint32");
    quantized().weights(|raw| raw.get_mut(scales).3[..2].copy_from_slice(&[0, 0x7e])).finds(
        "problem",
        "values",
        &format!("`{scales}` (1)"),
    );
    quantized()
        .weights(|raw| {
            raw.get_mut(scales).3.fill(0);
            raw.get_mut("model.layers.0.self_attn.q_proj.biases").3.fill(0);
        })
        .finds("problem", "rows", "nothing but zeros");
    let default = json!({"bits": 4, "group_size": 64});
    DamagedModel::new().config("quantization", default).finds(
        "note",
        "bit map",
        "no layer is quantized, though",
    );
}

#[test]
fn a_wrong_entry_of_the_bit_map_blames_its_own_layer_alone() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&make("quantize", &bundled(), &out, &["--bits", "4"]));
    let path = "model.layers.0.self_attn.q_proj";
    let entry = |change: Value| {
        DamagedModel::of(&out).json("config.json", |config| {
            for key in ["quantization", "quantization_config"] {
                config[key][path] = change.clone();
            }
        })
    };
    let damaged = entry(json!({"bits": 7, "group_size": 64}));
    let (_, found) = findings(&damaged.path(), None);
    let problems: Vec<_> = found.iter().filter(|f| f["level"] == "problem").collect();
    assert!(problems.len() == 1 && problems[0]["subject"] == "bit map", "{problems:#?}");
    damaged.finds("problem", "bit map", &format!("quantization.{path}`")).finds(
        "ok",
        "shapes",
        "3 more cannot be told",
    );
    entry(json!("4 bits")).finds("problem", "bit map", "expected an object with bits and group_size");
    entry(Value::Null).finds("problem", "shapes", "2 tensors left over");
    let damaged = entry(json!({"bits": 8, "group_size": 64}));
    let (_, found) = findings(&damaged.path(), None);
    let problems: Vec<_> = found.iter().filter(|f| f["level"] == "problem").collect();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let expected = format!("1 tensor misshapen: `{path}.weight` [128, 16] instead of [128, 32]");
    assert_eq!(problems[0]["message"], expected);
}
