//! Experts as other versions of transformers and mlx-lm store them: all become one model.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{RawCheckpoint, copy_folder, fixtures, json_file, make, mixbit, stderr, stdout, succeeded};
use serde_json::json;
use tempfile::TempDir;

type Stored = (String, String, Vec<usize>, Vec<u8>);

const WEIGHTS: &str = "model.safetensors";
/// Number of experts of a block, in both models.
const EXPERTS: usize = 8;

/// Returns the tensors of a folder with one weight file.
fn tensors(folder: &Path) -> BTreeMap<String, Stored> {
    let raw = RawCheckpoint::read(&folder.join(WEIGHTS));
    raw.tensors.into_iter().map(|tensor| (tensor.0.clone(), tensor)).collect()
}

fn write(folder: &Path, tensors: BTreeMap<String, Stored>) {
    let tensors = tensors.into_values().collect();
    RawCheckpoint { tensors }.write(&folder.join(WEIGHTS));
}

/// Puts the experts' matrices `parts` (gate, up, down) of every block into the two tensors of transformers 5.
fn fuse(tensors: &mut BTreeMap<String, Stored>, mlp: &str, parts: [&str; 3]) {
    for block in 0..2 {
        let experts_path = format!("model.layers.{block}.{mlp}.experts");
        let mut take = |part: &str| -> Vec<Stored> {
            let name = |expert| format!("{experts_path}.{expert}.{part}.weight");
            (0..EXPERTS).map(|expert| tensors.remove(&name(expert)).unwrap()).collect()
        };
        let [gate, up, down] = parts.map(&mut take);
        let (dtype, [rows, columns]) = (gate[0].1.clone(), gate[0].2[..].try_into().unwrap());
        let data = gate.iter().zip(&up).flat_map(|(gate, up)| [&gate.3[..], &up.3].concat()).collect();
        let path = format!("model.layers.{block}.mlp.experts");
        let mut put = |name: &str, shape: [usize; 3], data: Vec<u8>| {
            let name = format!("{path}.{name}");
            tensors.insert(name.clone(), (name, dtype.clone(), shape.to_vec(), data));
        };
        put("gate_up_proj", [EXPERTS, 2 * rows, columns], data);
        put("down_proj", [EXPERTS, columns, rows], down.iter().flat_map(|down| down.3.clone()).collect());
    }
}

/// Returns a model of fixtures/golden with its experts fused, and the folder that it was made from.
fn fused(name: &str) -> (TempDir, PathBuf, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let (plain, fused) = (fixtures().join("golden").join(name), home.path().join("fused"));
    copy_folder(&plain, &fused);
    let mut tensors = tensors(&plain);
    if name.starts_with("mixtral") {
        fuse(&mut tensors, "block_sparse_moe", ["w1", "w3", "w2"]);
        for block in 0..2 {
            let mut router =
                tensors.remove(&format!("model.layers.{block}.block_sparse_moe.gate.weight")).unwrap();
            router.0 = format!("model.layers.{block}.mlp.gate.weight");
            tensors.insert(router.0.clone(), router);
        }
    } else {
        fuse(&mut tensors, "mlp", ["gate_proj", "up_proj", "down_proj"]);
    }
    assert!(tensors.keys().all(|name| !name.contains("experts.0.") && !name.contains("block_sparse")));
    write(&fused, tensors);
    (home, plain, fused)
}

#[test]
fn fused_experts_are_those_of_the_single_ones() {
    for name in ["qwen3-moe-untied", "mixtral-untied"] {
        let (home, plain, fused) = fused(name);
        let (one, other) = (home.path().join("one"), home.path().join("other"));
        succeeded(&make("convert", &plain, &one, &[]));
        succeeded(&make("convert", &fused, &other, &[]));
        assert!(tensors(&one) == tensors(&other), "{name}");
        for (model, out) in [(&plain, &one), (&fused, &other)] {
            let out = out.join("x.npz");
            let model = model.to_str().unwrap();
            let logits = ["logits", "--model", model, "--tokens", "1,2,3", "--out", out.to_str().unwrap()];
            succeeded(&mixbit(logits));
        }
        assert!(fs::read(one.join("x.npz")).unwrap() == fs::read(other.join("x.npz")).unwrap());
        fs::remove_dir_all(&one).unwrap();
        fs::remove_dir_all(&other).unwrap();
        succeeded(&make("quantize", &plain, &one, &["--bits", "4:32"]));
        succeeded(&make("quantize", &fused, &other, &["--bits", "4:32"]));
        assert!(tensors(&one) == tensors(&other), "{name}");
        let check = mixbit(["check", fused.to_str().unwrap(), "--reference", plain.to_str().unwrap()]);
        assert!(!stdout(&check).contains("problem"), "{}", stdout(&check));
    }
}

#[test]
fn what_is_wrong_with_fused_experts_is_said() {
    let name = "model.layers.1.mlp.experts.gate_up_proj";
    let refused = |change: &dyn Fn(&mut BTreeMap<String, Stored>), expected: &str| {
        let (home, _, fused) = fused("qwen3-moe-untied");
        let mut changed = tensors(&fused);
        change(&mut changed);
        write(&fused, changed);
        let output = make("convert", &fused, &home.path().join("out"), &[]);
        assert_eq!(output.status.code(), Some(1), "{expected}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{expected}: {}", stderr(&output));
        assert!(!mixbit(["check", fused.to_str().unwrap()]).status.success());
    };
    refused(&|raw| drop(raw.remove(name)), "switch_mlp.gate_proj.weight`: missing");
    refused(&|raw| raw.get_mut(name).unwrap().2 = vec![8 * 64, 32], "shape [256, 32], expected [8, 32, 32]");
    refused(&|raw| raw.get_mut(name).unwrap().2 = vec![8 * 64, 1, 32], "hold no 2 matrices of one shape");
    let half = |raw: &mut BTreeMap<String, Stored>| {
        let (_, _, shape, data) = raw.get_mut(name).unwrap();
        shape[0] /= 2;
        data.truncate(data.len() / 2);
    };
    refused(&half, "4 experts are there, config.json says 8");
    let further = |whole: &'static str, other: &str| {
        let other = other.to_owned();
        move |raw: &mut BTreeMap<String, Stored>| {
            let mut single = raw[whole].clone();
            single.0.clone_from(&other);
            raw.insert(other.clone(), single);
        }
    };
    let single = "model.layers.1.mlp.switch_mlp.up_proj.weight";
    refused(&further("model.layers.1.mlp.experts.gate_up_proj", single), "are both there");
    let down = "model.layers.1.mlp.experts.down_proj";
    refused(&further(down, "model.layers.1.mlp.switch_mlp.down_proj.weight"), "are both");
    let nan =
        |raw: &mut BTreeMap<String, Stored>| raw.get_mut(name).unwrap().3[..2].copy_from_slice(&[0xc0, 0x7f]);
    let (home, _, fused) = fused("qwen3-moe-untied");
    let mut changed = tensors(&fused);
    nan(&mut changed);
    write(&fused, changed);
    let output = make("quantize", &fused, &home.path().join("out"), &["--bits", "4:32"]);
    let expected = format!("`{name}[0, 0:32]`: row 0, columns 0 to 31");
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
}

/// mlx-lm stacked experts when it loaded them before it stacked what it wrote.
#[test]
fn experts_quantized_one_by_one_are_stacked() {
    for (name, parts) in [
        ("mixtral-untied", [("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")]),
        (
            "qwen3-moe-untied",
            [("gate_proj", "gate_proj"), ("down_proj", "down_proj"), ("up_proj", "up_proj")],
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let (whole, single, out) =
            (home.path().join("whole"), home.path().join("single"), home.path().join("out"));
        succeeded(&make("quantize", &fixtures().join("golden").join(name), &whole, &["--bits", "4:32"]));
        copy_folder(&whole, &single);
        fs::remove_file(single.join("model.safetensors.index.json")).unwrap();
        let mut divided = BTreeMap::new();
        for (path, (_, dtype, shape, data)) in tensors(&whole) {
            let Some((mlp, rest)) = path.split_once(".switch_mlp.") else {
                divided.insert(path.clone(), (path, dtype, shape, data));
                continue;
            };
            let (ours, part) = rest.split_once('.').unwrap();
            let theirs = parts.iter().find(|names| names.0 == ours).unwrap().1;
            for (expert, data) in data.chunks(data.len() / EXPERTS).enumerate() {
                let path = format!("{mlp}.experts.{expert}.{theirs}.{part}");
                divided.insert(path.clone(), (path, dtype.clone(), shape[1..].to_vec(), data.to_vec()));
            }
        }
        write(&single, divided);
        let mut config = json_file(&single.join("config.json"));
        config["quantization"] = json!({"group_size": 32, "bits": 4});
        config.as_object_mut().unwrap().remove("quantization_config");
        fs::write(single.join("config.json"), config.to_string()).unwrap();
        succeeded(&make("convert", &single, &out, &[]));
        assert!(tensors(&out) == tensors(&whole), "{name}");
    }
}

#[test]
fn experts_that_are_layers_are_written_as_such() {
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (fixtures().join("golden/dbrx-eight-experts"), home.path().join("out"));
    succeeded(&make("quantize", &model, &out, &["--bits", "4:32", "--layer", "*.w2=6:32"]));
    let (written, config) = (tensors(&out), json_file(&out.join("config.json")));
    let experts = "transformer.blocks.1.ffn.experts";
    for expert in 0..8 {
        for (part, bits) in [("w1", 4), ("v1", 4), ("w2", 6)] {
            let path = format!("{experts}.{expert}.{part}");
            assert_eq!(config["quantization"][&path]["bits"], bits, "{path}");
            assert_eq!(written[&format!("{path}.weight")].2, [32, 32 * bits / 32], "{path}");
        }
    }
    assert!(!written.contains_key(&format!("{experts}.w1.weight")));
    // What was written is read as the stacks that it was made of.
    let inspect = mixbit(["inspect", out.to_str().unwrap(), "--json"]);
    succeeded(&inspect);
    assert!(stdout(&inspect).contains(&format!("\"{experts}.w2\"")), "{}", stdout(&inspect));
    succeeded(&mixbit(["check", out.to_str().unwrap()]));

    let mut changed = config;
    changed["quantization"][&format!("{experts}.3.w1")]["bits"] = json!(8);
    fs::write(out.join("config.json"), changed.to_string()).unwrap();
    let output = mixbit(["run", "--model", out.to_str().unwrap(), "--prompt", "the", "--max-tokens", "1"]);
    assert!(
        stderr(&output).contains("the experts of a block have different settings"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_experts_are_split_by_must_be_there() {
    let home = tempfile::tempdir().unwrap();
    let copy = home.path().join("model");
    copy_folder(&fixtures().join("golden/dbrx-clipped"), &copy);
    let mut changed = tensors(&copy);
    changed.remove("transformer.blocks.0.ffn.router.layer.weight").unwrap();
    write(&copy, changed);
    let output = make("convert", &copy, &home.path().join("out"), &[]);
    assert!(stderr(&output).contains("router.layer.weight` is missing"), "{}", stderr(&output));
}

#[test]
fn norms_of_step_get_their_1_once() {
    let home = tempfile::tempdir().unwrap();
    let model = fixtures().join("golden/step3p5-limits");
    let (once, twice) = (home.path().join("once"), home.path().join("twice"));
    succeeded(&make("convert", &model, &once, &["--dtype", "float32"]));
    succeeded(&make("convert", &once, &twice, &["--dtype", "float32"]));
    assert!(tensors(&once) == tensors(&twice));
    let norm = "model.layers.0.input_layernorm.weight";
    let first = |folder: &Path| f32::from_le_bytes(tensors(folder)[norm].3[..4].try_into().unwrap());
    assert!((first(&once) - first(&model) - 1.0).abs() < 1e-6);
}

#[test]
fn a_divided_head_is_written_divided() {
    let home = tempfile::tempdir().unwrap();
    let model = fixtures().join("golden/bailing-moe-normed-head");
    let out = home.path().join("out");
    succeeded(&make("convert", &model, &out, &["--dtype", "float32"]));
    assert_eq!(json_file(&out.join("config.json"))["norm_head"], false);
    let (_, _, shape, bytes) = &tensors(&out)["lm_head.weight"];
    let values: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let norm = |column: usize| values.iter().skip(column).step_by(shape[1]).map(|x| x * x).sum::<f32>();
    assert!((0..shape[1]).all(|column| (norm(column) - 1.0).abs() < 1e-5));

    succeeded(&make("quantize", &out, &home.path().join("quantized"), &["--bits", "4:32"]));
    let quantized = home.path().join("quantized");
    let mut config = json_file(&quantized.join("config.json"));
    config["norm_head"] = json!(true);
    fs::write(quantized.join("config.json"), config.to_string()).unwrap();
    let output = mixbit(["inspect", quantized.to_str().unwrap()]);
    assert!(stderr(&output).contains("its columns are to be divided"), "{}", stderr(&output));
}
