//! `mixbit inspect` of single files, and of folders by their headers alone; what it says is what `quantize` said.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{
    RawCheckpoint, bundled, copy_folder, fixtures, json_file, make, mixbit, stderr, stdout, succeeded,
};
use serde_json::{Value, json};

fn inspected(path: &Path) -> Value {
    let output = mixbit(["inspect", "--json", path.to_str().unwrap()]);
    succeeded(&output);
    serde_json::from_str(&stdout(&output)).unwrap()
}

#[test]
fn a_float_file_says_what_its_folder_says() {
    let folder = inspected(&bundled());
    let file = inspected(&bundled().join("model.safetensors"));
    for key in ["parameters", "bpw_quantized", "bpw_model", "bytes", "layers"] {
        assert_eq!(file[key], folder[key], "{key}");
    }
    assert!(file["model_type"].is_null() && file["notes"] == folder["notes"]);
    let tensors = file["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 38);
    assert_eq!(
        tensors[0],
        json!({"name": "model.embed_tokens.weight", "dtype": "float32", "shape": [1024, 128], "bytes": 524_288})
    );
}

#[test]
fn quantized_layers_of_a_file_are_known_as_far_as_shapes_tell() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let layers =
        ["--layer", "*.1.*=mxfp4", "--layer", "*.2.*=mxfp8", "--layer", "*.3.*=nvfp4", "--overwrite"];
    for format in ["safetensors", "npz"] {
        let certain = [&["--bits", "3", "--group-size", "32", "--format", format][..], &layers].concat();
        succeeded(&make("quantize", &bundled(), &out, &certain));
        let name = if format == "npz" { "weights.npz" } else { "model.safetensors" };
        let (folder, file) = (inspected(&out), inspected(&out.join(name)));
        for key in ["parameters", "bpw_quantized", "bpw_model", "bytes", "layers"] {
            assert_eq!(file[key], folder[key], "{key}");
        }
        let uncertain = [&["--bits", "4", "--format", format][..], &layers].concat();
        succeeded(&make("quantize", &bundled(), &out, &uncertain));
        let (folder, file) = (inspected(&out), inspected(&out.join(name)));
        assert_eq!(file["bytes"], folder["bytes"]);
        for key in ["parameters", "bpw_quantized", "bpw_model"] {
            assert!(file[key].is_null(), "{key}");
        }
        let layer = |report: &Value, path: &str| {
            let layers = report["layers"].as_array().unwrap().clone();
            layers.into_iter().find(|layer| layer["path"] == path).unwrap()
        };
        let path = "model.layers.0.self_attn.q_proj";
        let bytes = &layer(&folder, path)["bytes"];
        let expected = json!({
            "path": path, "shape": null, "bits": null, "group_size": null, "mode": "affine", "form": null, "bytes": bytes,
            "settings": ["2:128", "4:64", "8:32"]
        });
        assert_eq!(layer(&file, path), expected);
        let path = "model.layers.3.self_attn.q_proj";
        assert_eq!(layer(&file, path), layer(&folder, path));
        let text = mixbit(["inspect", "--layers", out.join(name).to_str().unwrap()]);
        succeeded(&text);
        assert!(stdout(&text).contains("2:128 or 4:64 or 8:32"), "{}", stdout(&text));
    }
}

#[test]
fn other_files_are_refused() {
    let output = mixbit(["inspect", bundled().join("config.json").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("neither a model folder nor"), "{}", stderr(&output));
}

#[test]
fn a_stored_tied_head_is_compared_where_data_is_read() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    copy_folder(&fixtures().join("golden/llama4-text-tied"), &model);
    let weights = model.join("model.safetensors");
    let mut raw = RawCheckpoint::read(&weights);
    let mut head = raw.get_mut("model.embed_tokens.weight").clone();
    "lm_head.weight".clone_into(&mut head.0);
    raw.tensors.push(head);
    raw.write(&weights);
    let out = home.path().join("out");
    succeeded(&make("convert", &model, &out, &[]));
    assert!(
        RawCheckpoint::read(&out.join("model.safetensors")).tensors.iter().all(|t| t.0 != "lm_head.weight")
    );
    raw.get_mut("lm_head.weight").3[1] ^= 1;
    raw.write(&weights);
    assert_eq!(inspected(&model)["parameters"], inspected(&out)["parameters"]);
    let refused = make("convert", &model, &out, &["--overwrite"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("differs from the embedding"), "{}", stderr(&refused));
}

#[test]
fn closed_pipe_ends_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    child.arg("inspect").arg(bundled()).stdout(writer).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

/// Returns the bits per weight that `quantize` printed, that its record has and that `inspect` says.
fn bits_per_weight(output: &Output, out: &Path) -> [String; 3] {
    succeeded(output);
    let text = stdout(output);
    let printed = text.lines().find_map(|line| line.strip_prefix("bpw: ")).unwrap();
    let record = json_file(&out.join("mixbit-report.json"));
    let values = [&record["bpw_quantized"], &inspected(out)["bpw_quantized"]];
    let [record, inspected] = values.map(|value| format!("{:.4}", value.as_f64().unwrap()));
    [printed.split([' ', ',']).next().unwrap().to_owned(), record, inspected]
}

#[test]
fn layers_that_no_candidate_fits_count() {
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (fixtures().join("golden/llama-mha-untied"), home.path().join("out"));
    let output = make("quantize", &model, &out, &["--bits", "4"]);
    let [printed, record, inspected] = bits_per_weight(&output, &out);
    assert_eq!((&printed, &record), (&inspected, &inspected));
    let bpw: f64 = printed.parse().unwrap();
    assert!(bpw > 4.6, "down_proj has rows of 96, and counts: {bpw}");
    assert!(
        stdout(&output).contains(" 2 float (2 whose rows no candidate's group size divides)"),
        "{output:?}"
    );
    let text = stderr(&output);
    assert!(
        text.contains("left float, within the target: 2 layers whose") && text.contains("rows of 96"),
        "{text}"
    );

    let out = home.path().join("target");
    let target = |bpw: &str| {
        let choice = ["--candidates", "2:64,4:64", "--samples", "2", "--sequence-length", "32"];
        make("quantize", &model, &out, &[&["--target-bpw", bpw][..], &choice].concat())
    };
    let output = target("4");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("left float: 2 layers whose") && text.contains("candidates with smaller groups"),
        "{text}"
    );
    let output = target("6");
    let [printed, record, inspected] = bits_per_weight(&output, &out);
    assert_eq!((&printed, &record), (&inspected, &inspected));
    assert!(printed.parse::<f64>().unwrap() <= 6.0, "{printed}");
}
