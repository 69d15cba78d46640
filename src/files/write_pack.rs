//! Writer of packs.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, System, ZIP64_BYTES_THR, ZipWriter};

use super::digest::hexadecimal;
use super::model_files::ModelFiles;
use super::pack::{FileRecord, MANIFEST, Manifest};
use super::until_failure::UntilFailure;
use crate::error::{Error, Result};

/// Alignment of weight files' data in bytes: the largest page of the systems that MLX runs on (Apple's), so that all of
/// them can map it.
const WEIGHT_ALIGNMENT: u16 = 16 << 10;
/// Alignment of other files' data in bytes.
const OTHER_ALIGNMENT: u16 = 64;

/// Writes the files `names` of `files` into `file`, which will be called `path`, in the order of their names. The
/// manifest comes last because hashes are known once everything was read: the files are read only once. `progress` is
/// called with the bytes of each write.
pub fn write_pack(
    file: &File,
    path: &Path,
    files: &ModelFiles,
    names: &[String],
    progress: &dyn Fn(u64),
) -> Result<()> {
    let io = |e: std::io::Error| Error::io(path, e);
    let mut zip = ZipWriter::new(UntilFailure::new(BufWriter::with_capacity(1 << 20, file)));
    let mut recorded = BTreeMap::new();
    let sorted: std::collections::BTreeSet<&String> = names.iter().collect();
    for name in sorted {
        let data = files.map(name)?;
        let bytes = data.len() as u64;
        zip.start_file(name.as_str(), options(name, bytes)).map_err(|e| io(e.into()))?;
        let mut hash = Sha256::new();
        data.chunks(|chunk| {
            let (written, ()) = rayon::join(|| zip.write_all(chunk), || hash.update(chunk));
            progress(chunk.len() as u64);
            written.map_err(io)
        })?;
        recorded.insert(name.clone(), FileRecord { bytes, sha256: hexadecimal(hash) });
    }
    let mut text = serde_json::to_vec_pretty(&Manifest::new(recorded)).map_err(|e| io(e.into()))?;
    text.push(b'\n');
    zip.start_file(MANIFEST, options(MANIFEST, 0)).map_err(|e| io(e.into()))?;
    zip.write_all(&text).map_err(io)?;
    let mut buffered = zip.finish().map_err(|e| io(e.into()))?.into_inner();
    buffered.flush().map_err(io)
}

/// Returns an entry's options, which are the same on every system and at all times.
fn options(name: &str, bytes: u64) -> SimpleFileOptions {
    let weights = name.ends_with(".safetensors") || name.ends_with(".npz");
    SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .system(System::Unix)
        .unix_permissions(0o644)
        .with_alignment(if weights { WEIGHT_ALIGNMENT } else { OTHER_ALIGNMENT })
        .large_file(bytes >= ZIP64_BYTES_THR)
}
