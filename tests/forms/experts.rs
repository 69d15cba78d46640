//! Experts in the form of gpt-oss, whose rows of gate and up take turns.

use super::common::{RawCheckpoint, copy_folder, fixtures, json_file, make, stderr, succeeded};
use super::{difference, logits};
use mixbit::models::source::SourceModel;
use std::path::{Path, PathBuf};

const EXPERTS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// E4M3 of 1.
const ONE: u8 = 0x38;

/// Says in config.json that FP8 is the form of the weights.
fn declare_fp8(folder: &Path) {
    let mut config = json_file(&folder.join("config.json"));
    config["quantization_config"] = serde_json::json!({"quant_method": "fp8"});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

fn published() -> PathBuf {
    fixtures().join("golden/gpt-oss-mxfp4")
}

fn path_of(block: usize, part: &str) -> String {
    format!("model.layers.{block}.mlp.experts.{part}")
}

#[test]
fn codes_of_gpt_oss_pass_through() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let output = make("convert", &published(), &out, &[]);
    succeeded(&output);
    assert!(
        stderr(&output).contains("6 layers in the form mxfp4: taken as 4:32:mxfp4, lossless"),
        "{}",
        stderr(&output)
    );
    let raw = RawCheckpoint::read(&published().join("model.safetensors"));
    let stored = |name: &str| raw.tensors.iter().find(|tensor| tensor.0 == name).unwrap();
    let written = SourceModel::open(&out).unwrap();
    for block in 0..2 {
        for (part, end) in [("blocks", "weight"), ("scales", "scales")] {
            let (_, _, shape, bytes) = stored(&path_of(block, &format!("gate_up_proj_{part}")));
            let row = bytes.len() / (shape[0] * shape[1]);
            for (first, name) in ["gate_proj", "up_proj"].into_iter().enumerate() {
                let turns: Vec<u8> = bytes.chunks(row).skip(first).step_by(2).flatten().copied().collect();
                let tensor = written.tensor(&format!("{}.{end}", path_of(block, name))).unwrap();
                assert!(tensor.bytes() == turns.as_slice(), "{block} {name} {part}");
            }
            let down = written.tensor(&format!("{}.{end}", path_of(block, "down_proj"))).unwrap();
            let (.., bytes) = stored(&path_of(block, &format!("down_proj_{part}")));
            assert!(down.bytes() == bytes.as_slice(), "{block} {part}");
        }
    }
    assert!(difference(&logits(&out), &logits(&published())) < 2e-5);
}

#[test]
fn experts_of_gpt_oss_stay_or_are_quantized_anew() {
    let home = tempfile::tempdir().unwrap();
    let (kept, anew) = (home.path().join("kept"), home.path().join("anew"));
    let output = make("quantize", &published(), &kept, &["--bits", "6:32", "--no-eval"]);
    succeeded(&output);
    assert!(stderr(&output).contains("already quantized, passed through: 6 layers"), "{}", stderr(&output));
    succeeded(&make("quantize", &published(), &anew, &["--bits", "6:32", "--no-eval", "--requantize"]));
    let (kept, anew) = (SourceModel::open(&kept).unwrap(), SourceModel::open(&anew).unwrap());
    for path in (0..2).flat_map(|block| EXPERTS.map(|part| path_of(block, part))) {
        assert_eq!(kept.bitmap()[&path].to_string(), "4:32:mxfp4", "{path}");
        assert_eq!(anew.bitmap()[&path].to_string(), "6:32", "{path}");
    }
    assert!(difference(&logits(anew.dir()), &logits(&published())) < 0.2);
}

/// Converts a Qwen3 with experts whose `weight` is in FP8, all 0.25, and returns what is said and the result.
fn converted_with_fp8(home: &Path, weight: &str) -> (String, SourceModel) {
    let (folder, out) = (home.join("model"), home.join("out"));
    copy_folder(&fixtures().join("golden/qwen3-moe-sliding-window"), &folder);
    let mut raw = RawCheckpoint::read(&folder.join("model.safetensors"));
    let (_, dtype, shape, bytes) = raw.get_mut(weight);
    (*dtype, *bytes) = ("F8_E4M3".to_owned(), vec![ONE; shape[0] * shape[1]]);
    raw.tensors.push((format!("{weight}_scale"), "F32".to_owned(), vec![1], 0.25f32.to_le_bytes().to_vec()));
    raw.write(&folder.join("model.safetensors"));
    declare_fp8(&folder);
    let output = make("convert", &folder, &out, &["--dtype", "float32"]);
    succeeded(&output);
    (stderr(&output), SourceModel::open(&out).unwrap())
}

fn is_all_quarters(bytes: &[u8]) -> bool {
    bytes.chunks(4).all(|value| value == 0.25f32.to_le_bytes())
}

#[test]
fn experts_in_several_forms_are_decoded_with_a_note() {
    let home = tempfile::tempdir().unwrap();
    let (said, written) = converted_with_fp8(home.path(), &path_of(0, "3.up_proj.weight"));
    let note = "1 expert stack came in several forms and had to be decoded, `model.layers.0.mlp.switch_mlp.up_proj` first";
    assert!(said.contains(note), "{said}");
    let stack = written.tensor("model.layers.0.mlp.switch_mlp.up_proj.weight").unwrap();
    let each = stack.byte_len() / stack.shape[0];
    assert!(is_all_quarters(&stack.bytes()[3 * each..4 * each]), "decoded");
}

#[test]
fn routers_that_came_quantized_stay_float() {
    let home = tempfile::tempdir().unwrap();
    let weight = "model.layers.0.mlp.gate.weight";
    let (said, written) = converted_with_fp8(home.path(), weight);
    let note = "1 router came quantized: decoded, since they stay float, `model.layers.0.mlp.gate` first";
    assert!(said.contains(note) && !said.contains("lossless"), "{said}");
    assert!(written.bitmap().is_empty());
    assert!(is_all_quarters(&written.tensor(weight).unwrap().bytes()));
}

#[test]
fn damaged_blocks_of_gpt_oss_are_errors() {
    type Damage = fn(&mut RawCheckpoint, &str);
    let damages: [(&str, Damage, &str); 7] = [
        ("gate_up_proj_blocks", |raw, name| shorten(raw, name), "shape"),
        ("gate_up_proj_scales", |raw, name| shorten(raw, name), "shape"),
        ("down_proj_blocks", |raw, name| raw.remove(name), "_blocks`: missing"),
        ("down_proj_scales", |raw, name| raw.remove(name), "_scales`: missing"),
        ("down_proj_scales", |raw, name| raw.get_mut(name).3[3] = 0xff, "NaN"),
        ("down_proj_blocks", |raw, name| raw.get_mut(name).1 = "I8".to_owned(), "expected"),
        ("down_proj_blocks", |raw, name| raw.get_mut(name).2[3] = 8, "expected"),
    ];
    for (part, damage, expected) in damages {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("model");
        copy_folder(&published(), &folder);
        let file = folder.join("model.safetensors");
        let (mut raw, name) = (RawCheckpoint::read(&file), path_of(1, part));
        damage(&mut raw, &name);
        let tensor = raw.tensors.iter_mut().find(|tensor| tensor.0 == name);
        // The header stays sound.
        if let Some((.., shape, data)) = tensor {
            data.truncate(shape.iter().product());
        }
        raw.write(&file);
        let output = make("convert", &folder, &home.path().join("out"), &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{part}: {said}");
        assert_eq!(said.matches("error: ").count(), 1, "{said}");
        let layer = path_of(1, part.trim_end_matches("_blocks").trim_end_matches("_scales"));
        assert!(said.contains(&layer) && said.contains(expected), "{part}: {said}");
    }
}

/// Takes away the last row of each expert's matrix.
fn shorten(raw: &mut RawCheckpoint, name: &str) {
    let (.., shape, data) = raw.get_mut(name);
    let row: usize = shape[2..].iter().product();
    *data = data.chunks(shape[1] * row).flat_map(|expert| &expert[..expert.len() - row]).copied().collect();
    shape[1] -= 1;
}
