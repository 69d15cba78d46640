//! Packs: models in one file. A plain ZIP without compression, so that its entries can be mapped where they lie, and
//! listed and extracted by any tool that knows ZIP.
//!
//! [`MANIFEST`], the last entry, records size and SHA-256 of every other one. Structure is checked whenever a pack is
//! opened, the CRC-32 of small files when they are read, and CRC-32 and SHA-256 of all, which means reading everything,
//! by `mixbit check`, `mixbit unpack` and whatever makes another model of it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use zip::{CompressionMethod, ZipArchive};

use super::archive::{broken, damaged, open_archive};
use super::digest::hexadecimal;
use super::mapped::Mapped;
use crate::error::{Error, Result};

/// Name of the entry that records the others.
pub const MANIFEST: &str = "mixbit-pack.json";

/// First bytes of a ZIP that is not empty.
pub(crate) const MAGIC: [u8; 4] = *b"PK\x03\x04";

const KIND: &str = "pack";
const VERSION: u32 = 1;
/// Most bytes of a manifest: no pack has so many files that it is larger.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// Contents of [`MANIFEST`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Version of the format.
    pub(crate) version: u32,
    /// Recorded files by name.
    pub(crate) files: BTreeMap<String, FileRecord>,
}

/// Recorded size and SHA-256 of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) bytes: u64,
    /// SHA-256 in hexadecimal, lower case.
    pub(crate) sha256: String,
}

impl Manifest {
    pub(crate) fn new(files: BTreeMap<String, FileRecord>) -> Self {
        Self { version: VERSION, files }
    }
}

/// File in a pack.
#[derive(Debug, Clone)]
pub struct PackedFile {
    /// Name of the file.
    pub name: String,
    /// Contents of the file.
    pub data: Mapped,
    /// SHA-256 of the contents as the pack records it, in hexadecimal.
    pub sha256: String,
    crc32: u32,
}

/// Mapped pack.
#[derive(Debug)]
pub struct Pack {
    path: PathBuf,
    files: Vec<PackedFile>,
}

impl Pack {
    /// Opens the pack `path` and checks its structure. Contents are not read.
    pub fn open(path: &Path) -> Result<Self> {
        let map = Mapped::open(path)?;
        if map.is_empty() {
            return Err(Error::file(path, "is empty").hint("copy or download the file again"));
        }
        let named = |extension: &str| path.extension().is_some_and(|e| e == extension);
        let weights = || {
            let folder = path.parent().filter(|folder| folder.join("config.json").is_file());
            let folder = folder.map_or_else(String::new, |folder| match folder.to_str() {
                Some("") => ", the current folder: `.`".to_owned(),
                _ => format!(", {}", folder.display()),
            });
            Error::file(path, "is a weight file, and no whole model")
                .hint(format!("give the folder that holds it and config.json{folder}"))
        };
        if !map.starts_with(&MAGIC) && (named("safetensors") || named("npz")) {
            return Err(weights());
        }
        if !map.starts_with(&MAGIC) {
            return Err(Error::file(
                path,
                "is neither a model folder nor a pack nor a GGUF nor a single weight file",
            )
            .hint("give the folder that holds config.json, a .gguf, or a file that `mixbit pack` wrote"));
        }
        let mut archive = open_archive(path, KIND, &map)?;
        let no_pack = || {
            Error::file(path, format!("is a ZIP but no pack: it has no {MANIFEST}"))
                .hint("unzip it, and give the folder; `mixbit pack` makes a pack of one")
        };
        if archive.index_for_name(MANIFEST).is_none() {
            let arrays = archive
                .file_names()
                .flatten()
                .any(|name| Path::new(&*name).extension().is_some_and(|e| e == "npy"));
            return Err(if arrays || named("npz") { weights() } else { no_pack() });
        }
        let mut entries = BTreeMap::new();
        let mut folded = BTreeSet::new();
        for index in 0..archive.len() {
            let (name, data, crc32) = read_entry(path, &map, &mut archive, index)?;
            if !folded.insert(name.to_lowercase()) {
                return Err(Error::file(
                    path,
                    format!("`{name}` is in it twice but for upper and lower case"),
                )
                .hint("on some systems one would overwrite the other"));
            }
            entries.insert(name, (data, crc32));
        }
        let Some((data, crc32)) = entries.remove(MANIFEST) else { return Err(no_pack()) };
        let manifest = read_manifest(&path.join(MANIFEST), &data, crc32)?;
        archive.validate_header_consistency().map_err(|e| broken(path, KIND, &e))?;
        Ok(Self { path: path.to_owned(), files: match_records(path, entries, manifest)? })
    }

    /// Returns the files but for the manifest, sorted by name.
    pub fn files(&self) -> &[PackedFile] {
        &self.files
    }

    /// Returns the file called `name`.
    pub fn get(&self, name: &str) -> Option<&PackedFile> {
        let index = self.files.binary_search_by(|file| file.name.as_str().cmp(name)).ok()?;
        self.files.get(index)
    }

    /// Reads a small file and checks its checksums.
    pub fn read(&self, file: &PackedFile) -> Result<Vec<u8>> {
        check_crc32(&self.path.join(&file.name), &file.data, file.crc32)?;
        let mut contents = Vec::new();
        self.copy(file, |chunk| {
            contents.extend_from_slice(chunk);
            Ok(())
        })?;
        Ok(contents)
    }

    /// Fails unless all contents are those that were packed.
    pub fn verify(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| self.copy(file, |_| crate::interrupt::check()))
    }

    /// Hands the contents of `file` to `write`, in chunks, and fails at the end unless they were those that were packed.
    pub fn copy(&self, file: &PackedFile, mut write: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (mut hash, mut crc32) = (Sha256::new(), crc32fast::Hasher::new());
        file.data.chunks(|chunk| {
            hash.update(chunk);
            crc32.update(chunk);
            write(chunk)
        })?;
        let actual = hexadecimal(hash);
        if actual == file.sha256 {
            // Other tools would refuse it, and whoever changed a checksum may have changed more.
            return compare_crc32(&self.path.join(&file.name), crc32.finalize(), file.crc32);
        }
        let message = format!("is damaged: its SHA-256 is {actual}, the pack records {}", file.sha256);
        Err(Error::file(self.path.join(&file.name), message)
            .hint("the pack was changed after it was made: copy or download it again"))
    }
}

/// True if `name` stays inside the folder that it is extracted to, on every system.
pub fn safe_name(name: &str) -> bool {
    let harmless = |part: &str| !part.is_empty() && part != "." && part != "..";
    name.split('/').all(harmless) && !name.contains(|c: char| c == '\\' || c == ':' || c.is_control())
}

/// Returns name, contents and CRC-32 of an entry.
fn read_entry(
    path: &Path,
    map: &Mapped,
    archive: &mut ZipArchive<std::io::Cursor<&[u8]>>,
    index: usize,
) -> Result<(String, Mapped, u32)> {
    let member = archive.by_index_raw(index).map_err(|e| broken(path, KIND, &e))?;
    let text = String::from_utf8_lossy(member.name_raw()).into_owned();
    let refuse = |what: &str| Error::file(path, format!("entry `{}` {what}", text.escape_debug()));
    if std::str::from_utf8(member.name_raw()).is_err() || !safe_name(&text) {
        let error = refuse("has a name that leads out of a folder, or is none for a file");
        return Err(error.hint("do not extract this file with other tools: it may be made to do harm"));
    }
    if !member.is_file() || member.encrypted() {
        return Err(refuse("is no plain file").hint("packs hold files, neither links nor encrypted ones"));
    }
    if member.compression() != CompressionMethod::Stored || member.compressed_size() != member.size() {
        return Err(refuse("is compressed, so it cannot be mapped")
            .hint("`mixbit pack` makes a pack of the folder; `zip -0` does not compress either"));
    }
    let start = member.data_start().and_then(|start| usize::try_from(start).ok());
    let end =
        start.zip(usize::try_from(member.size()).ok()).and_then(|(start, size)| start.checked_add(size));
    let data = start.zip(end).and_then(|(start, end)| map.part(start, end));
    let data = data.ok_or_else(|| damaged(path, KIND, &format!("`{text}` ends past the file")))?;
    let crc32 = member.crc32();
    Ok((text, data, crc32))
}

fn read_manifest(path: &Path, data: &Mapped, crc32: u32) -> Result<Manifest> {
    let bad = |what: String| {
        Error::file(path, what).hint("the pack was made by another version of mixbit, or changed since")
    };
    if data.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(bad(format!("{} bytes are too many", data.len())));
    }
    check_crc32(path, data, crc32)?;
    let manifest: Manifest =
        serde_json::from_slice(data).map_err(|e| bad(format!("not the list of a pack's files: {e}")))?;
    if manifest.version == VERSION {
        return Ok(manifest);
    }
    Err(bad(format!("its format is version {}, not {VERSION}", manifest.version)))
}

/// Combines the entries with the manifest's records: it must list all of them, and nothing else.
fn match_records(
    path: &Path,
    entries: BTreeMap<String, (Mapped, u32)>,
    mut manifest: Manifest,
) -> Result<Vec<PackedFile>> {
    let hint = "the pack was changed after it was made: take it from where it was made";
    let mut files = Vec::new();
    for (name, (data, crc32)) in entries {
        let Some(record) = manifest.files.remove(&name) else {
            return Err(Error::file(path, format!("`{name}` is in it but not in {MANIFEST}")).hint(hint));
        };
        if record.bytes != data.len() as u64 {
            let message = format!("`{name}` has {} bytes, {MANIFEST} says {}", data.len(), record.bytes);
            return Err(Error::file(path, message).hint(hint));
        }
        files.push(PackedFile { name, data, sha256: record.sha256, crc32 });
    }
    match manifest.files.keys().next() {
        Some(name) => {
            Err(Error::file(path, format!("{MANIFEST} names `{name}`, which is not there")).hint(hint))
        }
        None => Ok(files),
    }
}

fn check_crc32(path: &Path, data: &[u8], expected: u32) -> Result<()> {
    compare_crc32(path, crc32fast::hash(data), expected)
}

fn compare_crc32(path: &Path, actual: u32, expected: u32) -> Result<()> {
    if actual == expected {
        return Ok(());
    }
    Err(Error::file(path, format!("is damaged: its CRC-32 is {actual:08x}, the pack says {expected:08x}"))
        .hint("the pack was changed after it was made: copy or download it again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for good in ["config.json", "a/b.jinja", "...", "..a", "modèle", "a b", "-x"] {
            assert!(safe_name(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/..",
            "./a",
            "a\\b",
            "..\\a",
            "C:a",
            "C:/a",
            "a:b",
            "a\0",
            "a\nb",
        ] {
            assert!(!safe_name(bad), "{bad:?}");
        }
    }
}
