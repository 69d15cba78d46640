//! The cache when several processes fill it at once or something in it is damaged, and useless answers of the Hub.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use super::common::{RawCheckpoint, bundled, fixtures, stderr, stdout, succeeded};
use super::server::{COMMIT, sha256};
use super::{Setup, WEIGHTS, upload};

const INDEX: &str = "model.safetensors.index.json";

/// Returns the index that a quantized copy often has: the float model's.
const FOREIGN: &str = r#"{"weight_map": {"model.norm.weight": "model-00001-of-00004.safetensors"}}"#;

#[test]
fn an_index_of_other_shards_does_not_keep_weights_away() {
    let setup = Setup::new(&bundled(), &["._model.safetensors"]);
    let logits = ["logits", "--model", "org/tiny", "--tokens", "1", "--overwrite", "--out", "x.npz"];
    for index in [FOREIGN, "{"] {
        let bytes = index.as_bytes().to_vec();
        setup.hub.state().files.insert("model.safetensors.index.json".to_owned(), bytes);
        let seen = setup.run(&["inspect", "org/tiny"]);
        succeeded(&seen);
        assert!(stderr(&seen).contains("note: model.safetensors.index.json "), "{}", stderr(&seen));
        let output = setup.run(&logits);
        succeeded(&output);
        assert!(stderr(&output).contains("note: model.safetensors.index.json "), "{}", stderr(&output));
        // What is in the cache is whole.
        succeeded(&setup.command(&logits).env("HF_HUB_OFFLINE", "1").output().unwrap());
        setup.hub.state().log.clear();
        succeeded(&setup.run(&["check", "org/tiny"]));
        assert_eq!(setup.hub.state().log.len(), 1, "{:?}", setup.hub.state().log);
        fs::remove_dir_all(setup.repository()).unwrap();
    }
    // A part of the shards that it names is not the model of another index.
    let model = fixtures().join("golden/llama-sharded-inv-freq");
    let setup = Setup::new(&model, &["model.fp32.safetensors"]);
    setup.hub.state().files.remove("model-00001-of-00002.safetensors");
    setup.refused(&logits, &["its index names `model-00001-of-00002.safetensors`", "incomplete on the Hub"]);
    assert!(stdout(&setup.run(&logits)).is_empty());
}

#[test]
fn a_stale_index_on_the_hub_is_one_in_a_folder() {
    const NORM: &str = "model.norm.weight";
    let overlay = "model-overlay.safetensors";
    let setup = Setup::new(&bundled(), &[]);
    let mut raw = RawCheckpoint::read(&bundled().join(WEIGHTS));
    let names: Vec<String> = raw.tensors.iter().map(|tensor| tensor.0.clone()).collect();
    let index = |name: &str, file: &str| {
        let mut map: BTreeMap<&str, &str> = names.iter().map(|name| (name.as_str(), WEIGHTS)).collect();
        map.insert(name, file);
        serde_json::json!({ "weight_map": map }).to_string().into_bytes()
    };
    let read = |setup: &Setup| {
        for command in [&["inspect", "org/tiny"][..], &["check", "org/tiny"]] {
            let output = setup.run(command);
            succeeded(&output);
            assert!(
                stderr(&output).contains("does not belong") || stdout(&output).contains("does not belong")
            );
        }
        succeeded(&setup.command(&["check", "org/tiny"]).env("HF_HUB_OFFLINE", "1").output().unwrap());
        fs::remove_dir_all(setup.repository()).unwrap();
    };
    // A shard that only a tied head is in is missing.
    setup.hub.state().files.insert(INDEX.to_owned(), index("lm_head.weight", "gone.safetensors"));
    read(&setup);
    // A tensor is in a file that the index does not name.
    let norm = raw.tensors.iter().position(|tensor| tensor.0 == NORM).unwrap();
    let norm = RawCheckpoint { tensors: vec![raw.tensors.remove(norm)] };
    for (file, checkpoint) in [(WEIGHTS, raw), (overlay, norm)] {
        let path = setup.home.path().join(file);
        checkpoint.write(&path);
        setup.hub.state().files.insert(file.to_owned(), fs::read(path).unwrap());
    }
    setup.hub.state().files.insert(INDEX.to_owned(), index(NORM, WEIGHTS));
    read(&setup);
    // What the index is right about is all that comes.
    setup.hub.state().files.insert("model.fp16.safetensors".to_owned(), vec![7; 100]);
    setup.hub.state().files.insert(INDEX.to_owned(), index(NORM, overlay));
    succeeded(&setup.run(&["check", "org/tiny"]));
    assert!(!setup.files().contains(&"model.fp16.safetensors".to_owned()));
}

#[test]
fn several_at_once_find_a_whole_model() {
    let setup = Setup::new(&bundled(), &[]);
    let start = || {
        let mut command = setup.command(&["check", "org/tiny"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = (0..6).map(|_| start()).collect();
    for child in running {
        succeeded(&child.wait_with_output().unwrap());
    }
    assert_eq!(setup.hub.requests("/cdn/").len(), 1);
    let hidden = fs::read_dir(setup.snapshot()).unwrap();
    let hidden =
        hidden.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.'));
    assert_eq!(hidden.count(), 0);
}

#[test]
fn half_a_snapshot_is_no_model() {
    let setup = Setup::new(&bundled(), &[]);
    succeeded(&setup.run(&["check", "org/tiny"]));
    fs::remove_file(setup.snapshot().join(WEIGHTS)).unwrap();
    let model = format!("org/tiny@{COMMIT}");
    let offline = setup.command(&["check", &model]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(stderr(&offline).contains("the weights are not in the cache"), "{}", stderr(&offline));
    succeeded(&setup.run(&["check", &model]));
}

#[test]
fn a_truncated_file_is_fetched_again_or_named() {
    let setup = Setup::new(&bundled(), &[]);
    succeeded(&setup.run(&["check", "org/tiny"]));
    for name in [WEIGHTS, "config.json"] {
        let blob = fs::canonicalize(setup.snapshot().join(name)).unwrap();
        let whole = fs::read(&blob).unwrap();
        fs::write(&blob, &whole[..whole.len() / 2]).unwrap();
        let offline = setup.command(&["inspect", "org/tiny"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
        let text = stderr(&offline);
        assert_eq!(offline.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("delete {}", blob.display())), "{text}");
        let output = setup.run(&["inspect", "org/tiny"]);
        succeeded(&output);
        assert!(stderr(&output).contains("fetching it again") && fs::read(&blob).unwrap() == whole);
    }
}

#[test]
fn a_changed_bit_is_found() {
    let setup = Setup::new(&bundled(), &[]);
    let output = setup.run(&["check", "org/tiny"]);
    succeeded(&output);
    let blob = fs::canonicalize(setup.snapshot().join(WEIGHTS)).unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    assert_eq!(blob.file_name().unwrap().to_str().unwrap(), sha256(&bytes));
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let delete = format!("delete {}", blob.display());
    let refuses = |arguments: &[&str]| {
        let output = setup.run(arguments);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("is damaged: its SHA-256 is") && text.contains(&delete), "{text}");
    };
    refuses(&["check", "org/tiny"]);
    refuses(&["convert", "--hf-path", "org/tiny", "--mlx-path", "out"]);
    refuses(&["pack", "org/tiny", "--out", "x.mlxpack"]);
    assert!(!setup.home.path().join("out").exists() && !setup.home.path().join("x.mlxpack").exists());
    // What the hint says helps.
    fs::remove_file(&blob).unwrap();
    succeeded(&setup.run(&["pack", "org/tiny", "--out", "x.mlxpack"]));
    succeeded(&setup.run(&["check", "x.mlxpack"]));
}

#[test]
fn too_many_requests_are_waited_for() {
    let setup = Setup::new(&bundled(), &[]);
    setup.hub.state().passing = vec![("/api/models", 429), ("/cdn/", 503)];
    let output = setup.run(&["check", "org/tiny"]);
    succeeded(&output);
    let text = stderr(&output);
    assert!(text.contains("HTTP 429 from 127.0.0.1") && text.contains("waiting 1 s"), "{text}");
    assert!(text.contains("HTTP 503 from 127.0.0.1") && text.contains("in 1 s"), "{text}");
}

#[test]
fn the_time_to_wait_may_be_a_date() {
    let setup = Setup::new(&bundled(), &[]);
    let dates = ("Sun, 06 Nov 1994 08:49:38 GMT", "Sun, 06 Nov 1994 08:49:37 GMT");
    setup.hub.state().after = Some((dates.0.to_owned(), dates.1.to_owned()));
    setup.hub.state().passing = vec![("/api/models", 429), ("/cdn/", 503)];
    let output = setup.run(&["inspect", "org/tiny"]);
    succeeded(&output);
    let text = stderr(&output);
    assert!(text.contains("waiting 1 s") && text.contains("HTTP 503") && text.contains("in 1 s"), "{text}");
}

#[test]
fn a_mirror_need_not_know_sizes() {
    let setup = Setup::new(&bundled(), &[]);
    setup.hub.state().sizeless = true;
    setup.hub.state().breaks.insert(WEIGHTS.to_owned(), 1);
    let output = setup.run(&["check", "org/tiny"]);
    succeeded(&output);
    assert!(stderr(&output).contains("continuing at"), "{}", stderr(&output));
    assert!(fs::read(setup.snapshot().join(WEIGHTS)).unwrap() == fs::read(bundled().join(WEIGHTS)).unwrap());
    setup.hub.state().log.clear();
    succeeded(&setup.run(&["check", "org/tiny"]));
    assert_eq!(setup.hub.state().log.len(), 1, "{:?}", setup.hub.state().log);
}

#[test]
fn answers_that_stay_so_are_not_asked_for_again() {
    let setup = Setup::new(&bundled(), &[]);
    let refuses = |what: &str| {
        setup.hub.state().log.clear();
        setup.refused(&["check", "org/tiny"], &["the Hub's answer cannot be used", what]);
        assert!(setup.hub.requests("/resolve/").len() <= 20, "{:?}", setup.hub.state().log);
    };
    setup.hub.state().nameless = true;
    refuses("no ETag");
    setup.hub.state().redirect = Some("file:///etc/passwd".to_owned());
    refuses("`file:///etc/passwd`, which is no address of http");
    let loop_ = format!("{}/org/tiny/resolve/{COMMIT}/config.json", setup.hub.endpoint);
    setup.hub.state().redirect = Some(loop_);
    refuses("redirects");
}

#[test]
fn tokens_that_cannot_be_sent_are_named() {
    let setup = Setup::new(&bundled(), &[]);
    let output = setup.command(&["check", "org/tiny"]).env("HF_TOKEN", "hf_a\nb").output().unwrap();
    let text = stderr(&output);
    assert!(text.contains("HF_TOKEN: the token holds") && !text.contains("hf_a"), "{text}");
    let output = setup.command(&["check", "org/tiny"]).env("HF_HOME", "/proc/none").output().unwrap();
    assert!(stderr(&output).contains("HF_HOME"), "{}", stderr(&output));
}

#[test]
fn an_upload_says_which_file_and_who_refused() {
    let store = Setup::new(&bundled(), &[]);
    let setup = Setup::new(&bundled(), &[]);
    store.hub.state().passing = vec![("/put/", 403)];
    setup.hub.state().store = Some(store.hub.endpoint.clone());
    let text = stderr(&upload(&setup, &[]));
    let host = store.hub.endpoint.trim_start_matches("http://").to_owned();
    for part in
        ["uploading `model.safetensors`: the store", &host, "HTTP 403", "nothing to do with the token"]
    {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
}

#[test]
fn a_model_of_the_hub_goes_to_another_name() {
    let setup = Setup::new(&bundled(), &[]);
    let files = setup.hub.state().files.clone();
    let arguments = ["upload", "org/tiny", "org/copy"];
    let output = setup.command(&arguments).env("HF_TOKEN", "hf_right").output().unwrap();
    succeeded(&output);
    assert!(stderr(&output).contains("/org/copy/commit/1"), "{}", stderr(&output));
    assert!(setup.hub.state().files[WEIGHTS] == files[WEIGHTS]);
}
