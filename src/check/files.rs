//! Which files are there, and whether they are whole. (What a file is missing to be read at all was found when the folder
//! was opened.)

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde_json::Value;
use zip::ZipArchive;

use super::folder::Folder;
use super::{Finding, count, list};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::report::bytes;
use crate::tokenizer;

const INDEX: &str = "model.safetensors.index.json";

/// Weights, index, other containers beside them, the tokenizer's files.
pub(super) fn check(folder: &Folder) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if let Some(checkpoint) = &folder.checkpoint {
        findings.push(weights(checkpoint)?);
        findings.extend(index(&folder.dir, total(checkpoint)));
        findings.extend(unread(&folder.dir, &weight_files(checkpoint)));
    }
    findings.extend(generation_config(&folder.dir));
    if folder.tokenizer.is_some() {
        let names: Vec<String> =
            tokenizer::files(&folder.dir).iter().map(|path| path.display().to_string()).collect();
        findings.push(Finding::ok("tokenizer", names.join(", ")));
    }
    Ok(findings)
}

fn weight_files(checkpoint: &Checkpoint) -> BTreeSet<&Path> {
    checkpoint.iter().map(|(_, tensor)| tensor.file).collect()
}

fn total(checkpoint: &Checkpoint) -> u64 {
    checkpoint.iter().map(|(_, tensor)| tensor.bytes().len() as u64).sum()
}

/// Headers were validated against the files' lengths when they were opened; an npz has checksums too.
fn weights(checkpoint: &Checkpoint) -> Result<Finding> {
    let files = weight_files(checkpoint);
    for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "npz")) {
        if let Err(error) = checksums(path) {
            crate::interrupt::check()?;
            return Ok(Finding::refusal(
                "files",
                &Error::file(path, format!("not a whole npz file: {error}")),
            ));
        }
    }
    let tensors = count(checkpoint.iter().count(), "tensor");
    let what = format!("{}, {tensors}, {}", count(files.len(), "weight file"), bytes(total(checkpoint)));
    Ok(Finding::ok("files", what))
}

/// Reads every member of a ZIP, which compares its checksum.
fn checksums(path: &Path) -> io::Result<()> {
    let mut archive = ZipArchive::new(io::BufReader::new(File::open(path)?))?;
    for index in 0..archive.len() {
        crate::interrupt::check().map_err(io::Error::other)?;
        io::copy(&mut archive.by_index(index)?, &mut io::sink())?;
    }
    Ok(())
}

/// The index's own count of bytes.
fn index(dir: &Path, total: u64) -> Option<Finding> {
    let text = fs::read_to_string(dir.join(INDEX)).ok()?;
    let value: Value = serde_json::from_str(&text).ok()?;
    let claimed = value.get("metadata")?.get("total_size")?.as_u64()?;
    (claimed != total).then(|| {
        Finding::note("files", format!("{INDEX} says total_size {claimed}, the shards hold {total} bytes"))
    })
}

/// Weights in the folder that nobody reads.
fn unread(dir: &Path, read: &BTreeSet<&Path>) -> Option<Finding> {
    let weights = ["safetensors", "npz", "bin", "pth", "pt", "gguf"];
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).ok()?.filter_map(std::result::Result::ok) {
        let path = entry.path();
        let is_weights = path.extension().is_some_and(|e| weights.iter().any(|w| e == *w));
        if is_weights && path.is_file() && !read.contains(path.as_path()) {
            names.push(format!("`{}`", entry.file_name().to_string_lossy()));
        }
    }
    names.sort();
    (!names.is_empty()).then(|| Finding::note("files", format!("not read: {}", list(&names))))
}

fn generation_config(dir: &Path) -> Option<Finding> {
    let path = dir.join("generation_config.json");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => return Some(Finding::refusal("files", &Error::io(&path, e))),
    };
    match serde_json::from_str::<serde_json::Map<String, Value>>(&text) {
        Ok(_) => None,
        Err(e) => {
            Some(Finding::refusal("files", &Error::file(&path, format!("not a valid JSON object: {e}"))))
        }
    }
}
