//! Indices of other weight files than those beside them: the files decide, with a note, and missing tensors stay an error.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use common::{RawCheckpoint, bundled, copy_folder, make, mixbit, stderr, stdout, succeeded};
use serde_json::json;
use tempfile::TempDir;

const INDEX: &str = "model.safetensors.index.json";
const WHOLE: &str = "model.safetensors";
const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";
const NORM: &str = "model.norm.weight";

/// The bundled model in one file or two, with any index.
struct Folder {
    home: TempDir,
    raw: RawCheckpoint,
}

impl Folder {
    fn new(sharded: bool) -> Self {
        let home = tempfile::tempdir().unwrap();
        copy_folder(&bundled(), &home.path().join("model"));
        let folder = Self { raw: RawCheckpoint::read(&bundled().join(WHOLE)), home };
        if sharded {
            fs::remove_file(folder.file(WHOLE)).unwrap();
            for shard in [FIRST, SECOND] {
                folder.write(shard, |name| place(name) == shard);
            }
        }
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join("model").join(name)
    }

    /// Writes a weight file with the tensors for which `has` is true.
    fn write(&self, file: &str, has: impl Fn(&str) -> bool) {
        let tensors = self.raw.tensors.iter().filter(|tensor| has(&tensor.0)).cloned().collect();
        RawCheckpoint { tensors }.write(&self.file(file));
    }

    /// Writes an index with each tensor in a shard, and `more`.
    fn index(&self, shard: impl Fn(&str) -> String, more: &[(&str, &str)]) {
        let mut map: BTreeMap<String, String> =
            self.raw.tensors.iter().map(|tensor| (tensor.0.clone(), shard(&tensor.0))).collect();
        map.extend(more.iter().map(|(name, shard)| ((*name).to_owned(), (*shard).to_owned())));
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        fs::write(self.file(INDEX), index.to_string()).unwrap();
    }

    /// Runs `convert`, which must give the bundled model's weights, a note, and no index.
    #[track_caller]
    fn converts(&self, note: &str) {
        let (out, expected) = (self.home.path().join("out"), self.home.path().join("expected"));
        let output = make("convert", &self.file(""), &out, &["--overwrite"]);
        succeeded(&output);
        let notes = stderr(&output);
        assert!(notes.contains(&format!("note: {note}")), "{notes}");
        succeeded(&make("convert", &bundled(), &expected, &["--overwrite"]));
        assert!(fs::read(out.join(WHOLE)).unwrap() == fs::read(expected.join(WHOLE)).unwrap());
        let text = fs::read_to_string(out.join(INDEX)).unwrap();
        assert!(text == fs::read_to_string(expected.join(INDEX)).unwrap() && !text.contains("-of-"));
        let run = ["run", "--prompt", "Hi", "--max-tokens", "1", "--model"];
        let run = mixbit(run.iter().copied().chain([self.file("").to_str().unwrap()]));
        succeeded(&run);
        assert!(stderr(&run).contains(&format!("note: {note}")), "{}", stderr(&run));
        let check = mixbit(["check", self.file("").to_str().unwrap()]);
        succeeded(&check);
        let said = stdout(&check);
        assert!(said.lines().any(|line| line.contains("note") && line.contains(note)), "{said}");
    }

    #[track_caller]
    fn refused(&self, expected: &[&str]) {
        let output = make("convert", &self.file(""), &self.home.path().join("out"), &[]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        expected
            .iter()
            .chain(&["hint: "])
            .for_each(|part| assert!(text.contains(part), "no `{part}`: {text}"));
        assert!(!self.home.path().join("out").exists());
        assert!(!mixbit(["check", self.file("").to_str().unwrap()]).status.success());
    }
}

/// Returns the shard of a tensor, one of two.
fn place(name: &str) -> String {
    if name.contains("layers") { FIRST } else { SECOND }.to_owned()
}

#[test]
fn an_index_of_other_files_does_not_count() {
    let other = |name: &str| format!("model-0000{}-of-00005.safetensors", 1 + name.len() % 5);
    for sharded in [false, true] {
        let folder = Folder::new(sharded);
        folder.index(other, &[]);
        folder.converts(&format!("{INDEX} does not belong to these weights (it names `"));
    }
}

#[test]
fn a_tensor_in_another_shard_is_found() {
    let folder = Folder::new(true);
    folder.index(place, &[(NORM, FIRST)]);
    folder.converts(&format!(
        "{INDEX} does not belong to these weights (it lists `{NORM}` in `{FIRST}`, which does not hold it)"
    ));
}

#[test]
fn a_tied_head_may_be_listed_and_absent() {
    let folder = Folder::new(true);
    folder.index(place, &[("lm_head.weight", SECOND)]);
    folder.converts(&format!("{INDEX} does not belong to these weights (it lists `lm_head.weight`"));
}

#[test]
fn a_tensor_that_is_not_listed_is_taken() {
    let folder = Folder::new(true);
    folder.index(place, &[]);
    let mut index = common::json_file(&folder.file(INDEX));
    index["weight_map"].as_object_mut().unwrap().remove(NORM);
    fs::write(folder.file(INDEX), index.to_string()).unwrap();
    folder.converts(&format!("`{NORM}` is in the weight files and not in {INDEX}"));
}

#[test]
fn an_index_that_cannot_be_read_does_not_count() {
    let not_text: &[u8] = b"\xff\xfe";
    for (text, why) in [
        (&b"{"[..], "not valid JSON"),
        (b"[]", "key `weight_map`: expected an object"),
        (b"{\"weight_map\": {\"a\": 1}}", "key `weight_map.a`: expected a file name"),
        (b"{\"weight_map\": {}}", "key `weight_map`: names no tensor"),
        (b"{\"weight_map\": {\"a\": \"config.json\"}}", "key `weight_map.a`: expected a weight file"),
        (not_text, "not valid JSON: invalid utf-8"),
    ] {
        let folder = Folder::new(true);
        fs::write(folder.file(INDEX), text).unwrap();
        folder.converts(&format!("{INDEX} cannot be read ({why}"));
        fs::remove_file(folder.file(SECOND)).unwrap();
        folder.home.path().join("out").exists().then(|| fs::remove_dir_all(folder.home.path().join("out")));
        folder.refused(&["promise 2 files, 1 are there", SECOND]);
    }
}

#[test]
fn the_index_decides_over_a_stale_duplicate() {
    let overlay = "model-overlay.safetensors";
    let mut folder = Folder::new(true);
    folder.write(overlay, |name| name == NORM);
    let of_norm = |name: &str| if name == NORM { overlay.to_owned() } else { place(name) };
    folder.raw.get_mut(NORM).3.fill(0);
    folder.write(SECOND, |name| place(name) == SECOND);
    folder.index(of_norm, &[]);
    folder.converts(&format!("`{NORM}` is in several weight files: the place that {INDEX} names counts"));
    // It does where it is right, though it lists what is not there or is elsewhere.
    let embedding = "model.embed_tokens.weight";
    for (name, shard) in [("lm_head.weight", SECOND), ("lm_head.weight", WHOLE), (embedding, FIRST)] {
        folder.index(of_norm, &[(name, shard)]);
        folder.converts(&format!("`{NORM}` is in several weight files: the place that {INDEX} names counts"));
        folder.converts(&format!("{INDEX} does not belong to these weights (it "));
    }
    // Where it is wrong it decides nothing.
    folder.index(of_norm, &[(NORM, FIRST)]);
    fs::remove_dir_all(folder.home.path().join("out")).unwrap();
    folder.refused(&[NORM, "is also in", "one checkpoint only"]);
    // Without an index there is nothing to decide either.
    let folder = Folder::new(false);
    folder.write(overlay, |name| name == NORM);
    folder.refused(&[NORM, "is also in"]);
}

#[test]
fn a_missing_shard_is_named() {
    let folder = Folder::new(true);
    folder.index(place, &[]);
    fs::remove_file(folder.file(SECOND)).unwrap();
    folder.refused(&[INDEX, &format!("names the shard `{SECOND}`, which is not there")]);
    fs::remove_file(folder.file(FIRST)).unwrap();
    folder.refused(&[&format!("names the shard `{FIRST}`, which is not there")]);
    // Of five other shards nothing is there, and of these two one.
    let folder = Folder::new(true);
    folder.index(|_| "model-00003-of-00005.safetensors".to_owned(), &[]);
    fs::remove_file(folder.file(SECOND)).unwrap();
    folder.refused(&["promise 2 files, 1 are there", &format!("fetch `{SECOND}`")]);
}

#[test]
fn a_listed_tensor_in_no_file_is_missing() {
    let folder = Folder::new(false);
    folder.write(WHOLE, |name| name != NORM);
    folder.index(|_| WHOLE.to_owned(), &[]);
    folder.refused(&[NORM, "is said to be in `model.safetensors`, and is in none of the weight files"]);
    // Whether this architecture has it or not: the model was another one.
    let folder = Folder::new(false);
    folder.index(|_| WHOLE.to_owned(), &[("model.layers.0.self_attn.q_norm.weight", WHOLE)]);
    folder.refused(&["q_norm.weight", "is said to be in"]);
}

#[test]
fn files_of_the_finder_are_no_weights() {
    let folder = Folder::new(true);
    folder.index(|_| "model-00001-of-00003.safetensors".to_owned(), &[]);
    for name in [".DS_Store", &format!("._{FIRST}"), "._config.json", "._model.safetensors"] {
        fs::write(folder.file(name), b"\x00\x05\x16\x07").unwrap();
    }
    folder.converts(&format!("{INDEX} does not belong"));
    let folder = Folder::new(false);
    fs::rename(folder.file(WHOLE), folder.file("weights.safetensors")).unwrap();
    fs::write(folder.file("._weights.safetensors"), b"\x00\x05\x16\x07").unwrap();
    succeeded(&make("convert", &folder.file(""), &folder.home.path().join("out"), &[]));
}

#[test]
fn names_without_model_get_it() {
    let folder = Folder::new(false);
    let mut bare = RawCheckpoint::read(&folder.file(WHOLE));
    for (name, ..) in &mut bare.tensors {
        *name = name.strip_prefix("model.").unwrap().to_owned();
    }
    bare.write(&folder.file(WHOLE));
    folder.converts("the tensors' names lack `model.`");
    // Some with and some without are no such export.
    bare.tensors[0].0 = format!("model.{}", bare.tensors[0].0);
    bare.write(&folder.file(WHOLE));
    fs::remove_dir_all(folder.home.path().join("out")).unwrap();
    folder.refused(&["missing"]);
}
