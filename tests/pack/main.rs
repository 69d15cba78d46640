//! `mixbit pack` and `unpack`, and packs where other commands take a model.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod damaged;

use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{bundled, copy_folder, fixtures, json_file, make, mixbit, stderr, stdout, succeeded};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::{CompressionMethod, ZipArchive};

const MANIFEST: &str = "mixbit-pack.json";
const WEIGHTS: &str = "model.safetensors";

/// A temporary folder with a copy of the bundled model, and a pack of it.
struct Packed {
    home: TempDir,
}

impl Packed {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        copy_folder(&bundled(), &home.path().join("tiny"));
        let packed = Self { home };
        succeeded(&packed.pack(&[]));
        packed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn folder(&self) -> PathBuf {
        self.path("tiny")
    }

    fn file(&self) -> PathBuf {
        self.path("tiny.mlxpack")
    }

    fn pack(&self, more: &[&str]) -> Output {
        let (folder, file) = (self.folder(), self.file());
        mixbit([&["pack", text(&folder), "--out", text(&file)], more].concat())
    }

    fn unpack(&self, more: &[&str]) -> Output {
        let (file, out) = (self.file(), self.path("out"));
        mixbit([&["unpack", text(&file), "--out", text(&out)], more].concat())
    }

    fn archive(&self) -> ZipArchive<Cursor<Vec<u8>>> {
        ZipArchive::new(Cursor::new(fs::read(self.file()).unwrap())).unwrap()
    }

    /// Changes the pack's bytes.
    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.file()).unwrap();
        change(&mut bytes);
        fs::write(self.file(), bytes).unwrap();
    }

    /// Returns the offset of the contents of `name`.
    fn data(&self, name: &str) -> usize {
        let mut archive = self.archive();
        archive.by_name(name).unwrap().data_start().unwrap() as usize
    }

    /// Opens and unpacks, which must fail with `expected` in the message, a hint, and no output.
    #[track_caller]
    fn refused(&self, expected: &str) {
        let file = self.file();
        for output in [self.unpack(&[]), mixbit(["inspect", text(&file)])] {
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains(expected) && text.contains("hint: "), "{text}");
        }
        assert_eq!(self.left_over(), 2);
    }

    fn left_over(&self) -> usize {
        fs::read_dir(self.home.path()).unwrap().count()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

fn same_files(one: &Path, other: &Path) {
    let names = |folder: &Path| {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    assert_eq!(names(one), names(other));
    for name in names(one) {
        assert!(
            fs::read(one.join(&name)).unwrap() == fs::read(other.join(&name)).unwrap(),
            "{}",
            name.display()
        );
    }
}

#[test]
fn a_pack_is_a_plain_zip_that_records_its_files() {
    let packed = Packed::new();
    let mut archive = packed.archive();
    let mut manifest = String::new();
    archive.by_name(MANIFEST).unwrap().read_to_string(&mut manifest).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(
        (archive.by_index(archive.len() - 1).unwrap().name().unwrap(), &manifest["version"]),
        (MANIFEST.into(), &json!(1))
    );
    for index in 0..archive.len() - 1 {
        let mut member = archive.by_index(index).unwrap();
        assert_eq!(member.compression(), CompressionMethod::Stored);
        let name = member.name().unwrap().into_owned();
        let alignment = if name == WEIGHTS { 16384 } else { 64 };
        assert_eq!(member.data_start().unwrap() % alignment, 0, "{name}");
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        assert!(bytes == fs::read(packed.folder().join(&name)).unwrap(), "{name}");
        let recorded = &manifest["files"][&name];
        assert_eq!(*recorded, json!({"bytes": bytes.len(), "sha256": sha256(&bytes)}));
    }
    succeeded(&packed.unpack(&[]));
    same_files(&packed.folder(), &packed.path("out"));
}

#[test]
fn same_folder_same_pack() {
    let packed = Packed::new();
    let first = fs::read(packed.file()).unwrap();
    assert!(stderr(&packed.pack(&[])).contains("already exists"));
    let touched = File::options().append(true).open(packed.folder().join("config.json")).unwrap();
    touched.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1 << 30)).unwrap();
    succeeded(&packed.pack(&["--overwrite"]));
    assert!(first == fs::read(packed.file()).unwrap());
}

#[test]
fn every_command_takes_a_pack_for_its_folder() {
    let packed = Packed::new();
    let (folder, file, out) = (packed.folder(), packed.file(), packed.path("out"));
    let (folder, file, out) = (text(&folder), text(&file), text(&out));
    let data = packed.path("text.txt");
    fs::write(&data, "The model reads this, and then some more of it. ".repeat(20)).unwrap();
    // What goes to stdout is the same.
    for arguments in [
        &["run", "--prompt", "Hello", "--max-tokens", "12", "--model"][..],
        &["eval", "--sequence-length", "32", "--data", text(&data), "--reference", folder, "--model"],
        &["eval", "--sequence-length", "32", "--data", text(&data), "--model", folder, "--reference"],
        &["inspect", "--layers"],
        &["check", folder, "--reference"],
    ] {
        let [one, other] = [folder, file].map(|model| mixbit([arguments, &[model]].concat()));
        succeeded(&one);
        succeeded(&other);
        let said = |output| -> Vec<String> {
            let text: String = stdout(output);
            text.lines().filter(|line| !line.starts_with("tokens per second")).map(str::to_owned).collect()
        };
        assert_eq!(said(&one), said(&other), "{arguments:?}");
        assert!(!said(&one).is_empty());
    }
    // What is written is the same.
    let convert = ["convert", "--mlx-path", out, "--overwrite", "--dtype", "float16", "--hf-path"];
    let quantize = ["quantize", "--mlx-path", out, "--overwrite", "--bits", "4", "--hf-path"];
    for arguments in [convert, quantize] {
        succeeded(&mixbit([&arguments[..], &[folder]].concat()));
        let kept = packed.path("kept");
        fs::rename(out, &kept).unwrap();
        succeeded(&mixbit([&arguments[..], &[file]].concat()));
        same_files(&kept, Path::new(out));
        fs::remove_dir_all(kept).unwrap();
    }
    for (command, name) in [("logits", "x.npz"), ("analyze", "x.json"), ("report", "x.html")] {
        let to = packed.path(name);
        let more: &[&str] = match command {
            "logits" => &["--prompt", "Hello", "--model"],
            "analyze" => &["--samples", "2", "--sequence-length", "16", "--candidates", "4:64", "--model"],
            _ => &["--prompt", "Hello", "--max-tokens", "4"],
        };
        let [one, other] = [folder, file].map(|model| {
            succeeded(&mixbit([&[command, "--out", text(&to)], more, &[model]].concat()));
            let bytes = fs::read(&to).unwrap();
            fs::remove_file(&to).unwrap();
            bytes
        });
        assert!(one == other, "{command}");
    }
    assert!(stderr(&packed.pack(&["--overwrite", "-q"])).is_empty());
    let again = mixbit(["pack", file, "--out", out]);
    assert!(stderr(&again).contains("is a pack already"), "{}", stderr(&again));
}

#[test]
fn quantized_shards_npz_and_templates_in_packs() {
    let home = tempfile::tempdir().unwrap();
    let (model, file, out) = (home.path().join("m"), home.path().join("m.mlxpack"), home.path().join("out"));
    for more in [&["--max-shard-size", "300KB"][..], &["--format", "npz"]] {
        succeeded(&make("quantize", &bundled(), &model, &[&["--bits", "6", "--overwrite"], more].concat()));
        fs::create_dir(model.join("additional_chat_templates")).unwrap();
        fs::write(model.join("additional_chat_templates/tools.jinja"), "x").unwrap();
        succeeded(&mixbit(["pack", text(&model), "--out", text(&file), "--overwrite"]));
        let logits = [&model, &file].map(|model| {
            let to = home.path().join("logits.npz");
            succeeded(&mixbit([
                "logits",
                "--tokens",
                "1,2,3",
                "--overwrite",
                "--out",
                text(&to),
                "--model",
                text(model),
            ]));
            fs::read(to).unwrap()
        });
        assert!(logits[0] == logits[1]);
        succeeded(&mixbit(["unpack", text(&file), "--out", text(&out), "--overwrite"]));
        assert_eq!(fs::read(out.join("additional_chat_templates/tools.jinja")).unwrap(), b"x");
        for folder in [&model, &out] {
            fs::remove_dir_all(folder.join("additional_chat_templates")).unwrap();
        }
        same_files(&model, &out);
    }
}

#[test]
fn what_is_no_part_of_the_model_is_left_out_and_named() {
    let packed = Packed::new();
    let before = fs::read(packed.file()).unwrap();
    for name in [".hidden", "notes.txt", "optimizer.pt", "other.safetensors", "runs/log"] {
        let path = packed.folder().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let output = packed.pack(&["--overwrite"]);
    succeeded(&output);
    let expected =
        "left out, as no part of the model: .hidden, notes.txt, optimizer.pt, other.safetensors, runs/";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    assert!(before == fs::read(packed.file()).unwrap());
}

#[test]
fn incomplete_folders_are_not_packed() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("x.mlxpack");
    let sharded = fixtures().join("golden/llama-sharded-inv-freq");
    let cases: [(&Path, &[&str], &str); 4] = [
        (&bundled(), &["config.json"], "config.json"),
        (&bundled(), &[WEIGHTS], "no weights"),
        (&bundled(), &["tokenizer.json"], "no tokenizer"),
        (
            &sharded,
            &["model-00002-of-00002.safetensors"],
            "names the shard `model-00002-of-00002.safetensors`",
        ),
    ];
    for (index, (from, missing, expected)) in cases.into_iter().enumerate() {
        let model = home.path().join(index.to_string());
        copy_folder(from, &model);
        for name in missing {
            fs::remove_file(model.join(name)).unwrap();
        }
        let output = mixbit(["pack", text(&model), "--out", text(&out)]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(expected) && text.contains("hint: "), "{text}");
        assert!(!out.exists());
    }
    let packed = Packed::new();
    let own = packed.folder().join(WEIGHTS);
    let output = mixbit(["pack", text(&packed.folder()), "--out", text(&own), "--overwrite"]);
    assert!(stderr(&output).contains("the model's own `model.safetensors`"), "{}", stderr(&output));
    let inside = packed.folder().join("x.mlxpack");
    let output = mixbit(["pack", text(&packed.folder()), "--out", text(&inside)]);
    assert!(stderr(&output).contains("is in the model's own folder"), "{}", stderr(&output));
    assert!(!inside.exists());
}

#[test]
fn single_files_come_out() {
    let packed = Packed::new();
    let out = packed.path("out");
    succeeded(&packed.unpack(&["--file", "config.json"]));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    assert_eq!(json_file(&out.join("config.json")), json_file(&bundled().join("config.json")));
    let again = packed.unpack(&["--file", "tokenizer.json", "--file", "config.json"]);
    assert!(stderr(&again).contains("already exists"), "{}", stderr(&again));
    fs::write(out.join("config.json"), "{}").unwrap();
    succeeded(&packed.unpack(&["--file", "config.json", "--overwrite"]));
    assert_eq!(json_file(&out.join("config.json")), json_file(&bundled().join("config.json")));
    let absent = packed.unpack(&["--file", "confg.json"]);
    assert!(stderr(&absent).contains("has no file `confg.json`"), "{}", stderr(&absent));
    assert!(stderr(&absent).contains("tokenizer.json"), "{}", stderr(&absent));
}

#[test]
fn unpack_replaces_a_model_only_when_asked_to() {
    let packed = Packed::new();
    let out = packed.path("out");
    copy_folder(&bundled(), &out);
    fs::write(out.join("README.md"), "mine").unwrap();
    assert!(stderr(&packed.unpack(&[])).contains("already exists"));
    assert_eq!(fs::read(out.join("README.md")).unwrap(), b"mine");
    succeeded(&packed.unpack(&["--overwrite"]));
    same_files(&packed.folder(), &out);
    fs::write(out.join("thesis.tex"), "mine").unwrap();
    let output = packed.unpack(&["--overwrite"]);
    assert!(stderr(&output).contains("thesis.tex"), "{}", stderr(&output));
}
