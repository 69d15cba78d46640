//! `mixbit pack` and `unpack`, and packs where other commands take a model.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{bundled, copy_folder, fixtures, json_file, make, mixbit, stderr, stdout, succeeded};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

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

    /// Where the contents of `name` begin.
    fn data(&self, name: &str) -> usize {
        let mut archive = self.archive();
        archive.by_name(name).unwrap().data_start().unwrap() as usize
    }

    /// Opening and unpacking fail with `expected` in the message, a hint, and nothing left.
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

#[test]
fn changed_bytes_are_found_before_anything_is_kept() {
    let packed = Packed::new();
    let at = packed.data(WEIGHTS) + 100_000;
    packed.change(|bytes| bytes[at] ^= 1);
    let file = packed.file();
    // Loading does not read what it does not need.
    succeeded(&mixbit(["run", "--model", text(&file), "--prompt", "x", "--max-tokens", "1"]));
    let output = packed.unpack(&[]);
    assert!(stderr(&output).contains("model.safetensors: is damaged: its SHA-256 is"), "{}", stderr(&output));
    let output = packed.unpack(&["--file", WEIGHTS]);
    assert!(stderr(&output).contains("SHA-256"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(packed.path("out")).unwrap().count(), 0);
    fs::remove_dir(packed.path("out")).unwrap();
    let output = mixbit(["check", text(&file)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("SHA-256"), "{}", stdout(&output));
    let made = packed.path("made");
    let output = mixbit(["convert", "--hf-path", text(&file), "--mlx-path", text(&made)]);
    assert!(stderr(&output).contains("SHA-256") && !made.exists(), "{}", stderr(&output));
    assert_eq!(packed.left_over(), 2);
    // Small files are whole or not used at all.
    let packed = Packed::new();
    let at = packed.data("config.json") + 10;
    packed.change(|bytes| bytes[at] ^= 1);
    let output = mixbit(["inspect", text(&packed.file())]);
    assert!(stderr(&output).contains("config.json: is damaged: its CRC-32"), "{}", stderr(&output));
    let output = mixbit(["check", text(&Packed::new().file())]);
    assert!(stdout(&output).contains("every SHA-256 as recorded"), "{}", stdout(&output));
}

#[test]
fn truncated_files_and_files_that_are_no_packs() {
    let packed = Packed::new();
    let whole = fs::read(packed.file()).unwrap();
    for length in [5, 1000, whole.len() / 2, whole.len() - 1, whole.len() - 30] {
        fs::write(packed.file(), &whole[..length]).unwrap();
        packed.refused("not a whole pack file");
    }
    fs::write(packed.file(), "").unwrap();
    packed.refused("is empty");
    fs::write(packed.file(), "some text").unwrap();
    packed.refused("neither a model folder nor a pack");
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("a", SimpleFileOptions::default()).unwrap();
    fs::write(packed.file(), zip.finish().unwrap().into_inner()).unwrap();
    packed.refused("is a ZIP but no pack");
    let output = mixbit(["unpack", text(&packed.folder()), "--out", text(&packed.path("out"))]);
    assert!(stderr(&output).contains("is a folder, not a pack"), "{}", stderr(&output));
}

/// Replaces `from` by `to` wherever it is, in local headers as in the central directory.
fn rename(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from.as_bytes())).collect();
    assert!(at.len() >= 2);
    for at in at {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
}

#[test]
fn names_that_lead_out_of_the_folder_or_are_there_twice() {
    let name = "tokenizer_config.json";
    for evil in [
        "../../../../etc/evil1",
        "/tmp/evil/evil/evil12",
        "..\\..\\..\\evil\\evil.txt",
        "C:\\evil\\evil\\evil.txt",
        "C:evil/evil/evil/e.tx",
        "a/../../../evil/e.txt",
        "a//evil/evil/evil.txt",
        "./evil/evil/evil/evil",
    ] {
        let packed = Packed::new();
        let evil = &evil[..name.len().min(evil.len())];
        packed.change(|bytes| rename(bytes, name, evil));
        packed.refused("has a name that leads out of a folder");
    }
    let packed = Packed::new();
    packed.change(|bytes| rename(bytes, "generation_config.json", "tokenizer_config.json\0"));
    packed.refused("has a name that leads out of a folder");
    let packed = Packed::new();
    packed.change(|bytes| rename(bytes, "mixbit-pack.json", "mixbit-back.json"));
    packed.refused("is a ZIP but no pack");
}

/// A pack made by hand of `entries`, as other tools might make one.
fn by_hand(path: &Path, entries: &[(&str, &[u8], SimpleFileOptions)]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    let mut files = serde_json::Map::new();
    for (name, bytes, options) in entries {
        zip.start_file(*name, *options).unwrap();
        zip.write_all(bytes).unwrap();
        files.insert((*name).to_owned(), json!({"bytes": bytes.len(), "sha256": sha256(bytes)}));
    }
    zip.start_file(MANIFEST, stored()).unwrap();
    zip.write_all(json!({"version": 1, "files": files}).to_string().as_bytes()).unwrap();
    zip.finish().unwrap();
}

fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Stored)
}

#[test]
fn duplicates_overlaps_and_bombs() {
    let packed = Packed::new();
    let zeros = vec![0; 1 << 20];
    by_hand(&packed.file(), &[("a.json", b"{}", stored()), ("b.json", b"[]", stored())]);
    packed.change(|bytes| rename(bytes, "b.json", "a.json"));
    packed.refused("`a.json` is in it twice");
    by_hand(&packed.file(), &[("a.json", b"{}", stored()), ("A.json", b"[]", stored())]);
    packed.refused("is in it twice but for upper and lower case");
    let deflated = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    by_hand(&packed.file(), &[("a.json", &zeros, deflated)]);
    packed.refused("entry `a.json` is compressed");
    // The second entry is made to begin where the first one does.
    by_hand(&packed.file(), &[("a.json", b"{}", stored()), ("b.json", b"[]", stored())]);
    packed.change(|bytes| {
        let entries: Vec<usize> =
            (0..bytes.len() - 4).filter(|&at| bytes[at..].starts_with(b"PK\x01\x02")).collect();
        bytes.copy_within(entries[0] + 42..entries[0] + 46, entries[1] + 42);
    });
    packed.refused("lie over one another");
    // An entry that claims to be larger than it is.
    by_hand(&packed.file(), &[("a.json", b"{}", stored())]);
    packed.change(|bytes| {
        let at = (0..bytes.len() - 4).find(|&at| bytes[at..].starts_with(b"PK\x01\x02")).unwrap();
        bytes[at + 24..at + 28].copy_from_slice(&(1u32 << 30).to_le_bytes());
    });
    packed.refused("entry `a.json` is compressed");
    let mut zip = ZipWriter::new(File::create(packed.file()).unwrap());
    zip.add_symlink("a.json", "/etc/passwd", stored()).unwrap();
    zip.start_file(MANIFEST, stored()).unwrap();
    zip.finish().unwrap();
    packed.refused("is no plain file");
}

#[test]
fn the_manifest_and_the_files_must_agree() {
    let packed = Packed::new();
    let config = fs::read(bundled().join("config.json")).unwrap();
    let with_manifest = |manifest: &str| {
        let mut zip = ZipWriter::new(File::create(packed.file()).unwrap());
        for (name, bytes) in [("config.json", config.as_slice()), (MANIFEST, manifest.as_bytes())] {
            zip.start_file(name, stored()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
    };
    for (manifest, expected) in [
        ("{", "not the list of a pack's files"),
        (r#"{"version": 2, "files": {}}"#, "its format is version 2"),
        (r#"{"version": 1, "files": {}}"#, "`config.json` is in it but not in mixbit-pack.json"),
        (
            r#"{"version": 1, "files": {"config.json": {"bytes": 3, "sha256": ""}}}"#,
            "mixbit-pack.json says 3",
        ),
    ] {
        with_manifest(manifest);
        packed.refused(expected);
    }
    let entry = format!(r#"{{"bytes": {}, "sha256": ""}}"#, config.len());
    with_manifest(&format!(r#"{{"version": 1, "files": {{"config.json": {entry}, "more": {entry}}}}}"#));
    packed.refused("names `more`, which is not there");
    with_manifest(&format!(r#"{{"version": 1, "files": {{"config.json": {entry}}}}}"#));
    let output = packed.unpack(&[]);
    assert!(stderr(&output).contains("config.json: is damaged: its SHA-256"), "{}", stderr(&output));
    assert_eq!(packed.left_over(), 2);
}
