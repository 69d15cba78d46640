//! Packs that are damaged, or made to do harm.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::Path;

use serde_json::json;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::common::{bundled, mixbit, stderr, stdout, succeeded};
use super::{MANIFEST, Packed, WEIGHTS, sha256, text};

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
    let output = mixbit(["unpack", text(&file), "--out", text(&file)]);
    assert!(stderr(&output).contains("another folder for --out"), "{}", stderr(&output));
    let output = packed.unpack(&["--file", WEIGHTS]);
    assert!(stderr(&output).contains("SHA-256"), "{}", stderr(&output));
    assert!(!packed.path("out").exists());
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
fn wrong_checksums_of_the_zip_are_refused_too() {
    let packed = Packed::new();
    // In the local header and in the directory, so that nothing else is wrong.
    packed.change(|bytes| {
        let headers = [(&b"PK\x03\x04"[..], 14, 30), (b"PK\x01\x02", 16, 46)];
        let changed = headers.map(|(magic, crc, name)| {
            let here = |at: &usize| {
                bytes[*at..].starts_with(magic) && bytes[at + name..].starts_with(WEIGHTS.as_bytes())
            };
            let at = (0..bytes.len() - name - WEIGHTS.len()).find(here).unwrap();
            bytes[at + crc] ^= 1;
        });
        assert_eq!(changed.len(), 2);
    });
    let file = packed.file();
    let out = packed.path("out");
    for more in [&[][..], &["--file", WEIGHTS]] {
        let output = packed.unpack(more);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("model.safetensors: is damaged: its CRC-32"), "{}", stderr(&output));
        assert!(!out.join(WEIGHTS).exists());
    }
    let output = mixbit(["check", text(&file)]);
    assert!(stdout(&output).contains("CRC-32"), "{}", stdout(&output));
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

/// Replaces `from` by `to` in local headers and in the central directory.
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

/// Returns a pack made by hand of `entries`, as other tools might make one.
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
