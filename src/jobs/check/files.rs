//! Files of a model folder: present, complete, and as their checksums say. Files that cannot be read at all are
//! reported when the folder is opened.

use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::check::{Finding, Level, Progress};
use super::folder::Folder;
use crate::error::Result;
use crate::files::hashed::HashedFile;
use crate::files::json;
use crate::files::model_files::ModelFiles;
use crate::files::pack::Pack;
use crate::files::weight_files::INDEX;
use crate::formats::checkpoint::Checkpoint;
use crate::jobs::record;
use crate::jobs::record::Record;
use crate::models::config::ModelConfig;
use crate::text::stop_tokens::GenerationConfig;
use crate::text::tokenizer;
use crate::words::{bytes, count, list};

/// Checks the pack, weights, index, other containers beside them, and lists the tokenizer's files.
pub(crate) fn check(folder: &Folder, progress: Progress<'_>) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let files = &folder.files;
    if let Some(pack) = files.pack() {
        findings.extend(packed(pack, progress)?);
    }
    findings.extend(cached(files)?);
    if let Some(checkpoint) = &folder.checkpoint {
        findings.push(weights(checkpoint)?);
        findings.extend(index(files, checkpoint.stored_bytes()));
        findings.extend(unread(files, &files_read(checkpoint)));
    }
    findings.extend(folder.config.as_ref().and_then(generation_config));
    findings.extend(record(folder));
    if folder.tokenizer.is_some() {
        findings.push(Finding::ok("tokenizer", tokenizer::files(files)?.join(", ")));
    }
    Ok(findings)
}

/// Compares every file in a pack with its checksum.
fn packed(pack: &Pack, progress: Progress<'_>) -> Result<Vec<Finding>> {
    let total = pack.files().iter().map(|file| file.data.len() as u64).sum();
    progress(0, total);
    let checked: Vec<Result<()>> = pack.files().par_iter().map(|file| pack.copy(file, |_| Ok(()))).collect();
    crate::interrupt::check()?;
    progress(total, total);
    let damaged: Vec<Finding> =
        checked.iter().filter_map(|result| Some(Finding::refusal("pack", result.as_ref().err()?))).collect();
    if !damaged.is_empty() {
        return Ok(damaged);
    }
    let what = format!("{}, {}, every SHA-256 as recorded", count(checked.len(), "file"), bytes(total));
    Ok(vec![Finding::ok("pack", what)])
}

/// Compares the files that the Hub's cache names by their SHA-256 with their names.
fn cached(files: &ModelFiles) -> Result<Vec<Finding>> {
    let hashed = files.hashed_files();
    let checked: Vec<Result<()>> = hashed.par_iter().map(HashedFile::verify).collect();
    crate::interrupt::check()?;
    let damaged: Vec<Finding> =
        checked.iter().filter_map(|result| Some(Finding::refusal("cache", result.as_ref().err()?))).collect();
    if hashed.is_empty() || !damaged.is_empty() {
        return Ok(damaged);
    }
    let what =
        format!("{} of the Hub's cache, every SHA-256 as it is called", count(hashed.len(), "large file"));
    Ok(vec![Finding::ok("cache", what)])
}

/// Returns the files that the tensors are taken from.
fn files_read(checkpoint: &Checkpoint) -> BTreeSet<&Path> {
    checkpoint.iter().map(|(_, tensor)| tensor.file).collect()
}

/// Checks the weight files. Headers were compared with the files' lengths on opening; an npz has checksums too.
fn weights(checkpoint: &Checkpoint) -> Result<Finding> {
    if let Err(error) = checkpoint.verify() {
        crate::interrupt::check()?;
        return Ok(Finding::refusal("files", &error));
    }
    let files = files_read(checkpoint);
    let tensors = count(checkpoint.iter().count(), "tensor");
    let what =
        format!("{}, {tensors}, {}", count(files.len(), "weight file"), bytes(checkpoint.stored_bytes()));
    Ok(Finding::ok("files", what))
}

/// Compares the index's `total_size` with the bytes of the tensors.
fn index(files: &ModelFiles, total: u64) -> Option<Finding> {
    let value = json::parse(&files.path_of(INDEX), &files.read(INDEX).ok()?).ok()?;
    let claimed = value.get("metadata")?.get("total_size")?.as_u64()?;
    (claimed != total).then(|| {
        Finding::note("files", format!("{INDEX} says total_size {claimed}, the shards hold {total} bytes"))
    })
}

/// Reports weight files in the folder that are not read.
fn unread(files: &ModelFiles, read: &BTreeSet<&Path>) -> Option<Finding> {
    let weights = ["safetensors", "npz", "bin", "pth", "pt", "gguf"];
    let mut names = files.names().ok()?;
    names.retain(|name| {
        let path: PathBuf = files.path_of(name);
        path.extension().is_some_and(|e| weights.iter().any(|w| e == *w)) && !read.contains(path.as_path())
    });
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| Finding::note("files", format!("not read: {}", list(&names))))
}

/// Checks mixbit-report.json, which reports are made of and nothing else.
fn record(folder: &Folder) -> Option<Finding> {
    let files = &folder.files;
    let error = match Record::read(files) {
        Err(error) => error,
        Ok(record) => {
            let (record, source) = (record?, folder.source.as_ref()?);
            let message = format!("{} is about other weights than these", record::FILE);
            return (!record.is_about(source)).then(|| {
                Finding::note("files", message).hint("they were changed since: its measurements do not hold")
            });
        }
    };
    let value = json::parse(&files.path_of(record::FILE), &files.read(record::FILE).ok()?).ok();
    let version = value.as_ref().and_then(|value| value.get("version")?.as_u64());
    let finding = Finding::refusal("files", &error);
    // A record of another version of mixbit is no damage.
    let is_other_version = version.is_some_and(|version| version != u64::from(record::VERSION));
    Some(if is_other_version { Finding { level: Level::Note, ..finding } } else { finding })
}

/// Reports a generation_config.json that cannot be read: it is not used, as no weights depend on it.
fn generation_config(config: &ModelConfig) -> Option<Finding> {
    match GenerationConfig::read(config) {
        Ok(GenerationConfig::Absent | GenerationConfig::Whole { .. }) => None,
        Ok(GenerationConfig::Broken(error)) => {
            let message = format!("{error}; the file is not used");
            Some(Finding::note("files", message).hint("mend it, or delete it"))
        }
        Err(error) => Some(Finding::refusal("files", &error)),
    }
}
