//! Opening a checkpoint: which files are weights, what is in them, and that they are whole.
//!
//! Weights are, in this order: what `model.safetensors.index.json` names; `model*.safetensors`; the folder's only
//! `.safetensors`; `weights.npz`. Headers are validated by the safetensors crate, offsets against the file's length.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::dtype::Dtype;
use super::npz;
use crate::error::{Error, Result};

/// The smallest page of the platforms that MLX runs on.
#[cfg(unix)]
const PAGE: usize = 4096;

const INDEX: &str = "model.safetensors.index.json";

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) file: usize,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A mapped file.
#[derive(Debug)]
pub(super) struct Mapped {
    pub(super) path: PathBuf,
    pub(super) map: Mmap,
    checksums: Vec<npz::Checksum>,
}

/// The tensors of a checkpoint, mapped.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Mapped>,
    entries: BTreeMap<String, Entry>,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// The file it lies in.
    pub file: &'a Path,
    map: &'a Mmap,
    start: usize,
    end: usize,
}

impl<'a> Tensor<'a> {
    /// Its bytes, little-endian, row-major; not aligned.
    pub fn bytes(&self) -> &'a [u8] {
        &self.map[self.start..self.end]
    }

    /// Bytes from `start` to `end`, both relative to the tensor. Their pages are mapped in one go.
    pub fn slice(&self, start: usize, end: usize) -> &'a [u8] {
        #[cfg(target_os = "linux")]
        {
            let from = (self.start + start) / PAGE * PAGE;
            // Only a hint: without it the pages come one fault at a time.
            let _ = self.map.advise_range(memmap2::Advice::PopulateRead, from, self.start + end - from);
        }
        &self.bytes()[start..end]
    }

    /// Tells the kernel that these bytes were read and need not stay mapped, so that resident memory does not grow
    /// with the checkpoint.
    pub fn release(&self, start: usize, end: usize) {
        release(self.map, self.start + start, self.start + end);
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Unmaps the whole pages from `start` to `end` until they are read again.
fn release(map: &Mmap, start: usize, end: usize) {
    #[cfg(unix)]
    {
        let (from, to) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if from < to {
            // SAFETY: the mapping is shared, read-only and backed by a file, so dropped pages come back as they were
            // when they are read again.
            let _ =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, to - from) };
        }
    }
}

impl Checkpoint {
    /// Opens the weights of the model folder `path`, or a single `.safetensors` or `.npz` file.
    pub fn open(path: &Path) -> Result<Self> {
        let mut checkpoint = Self { path: path.to_owned(), files: Vec::new(), entries: BTreeMap::new() };
        if path.is_file() {
            checkpoint.add_file(path)?;
            return Ok(checkpoint);
        }
        let index = path.join(INDEX);
        if index.exists() {
            checkpoint.add_indexed(&index)?;
            return Ok(checkpoint);
        }
        for file in weight_files(path)? {
            checkpoint.add_file(&file)?;
        }
        Ok(checkpoint)
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        self.entries.get(name).map(|entry| self.tensor(entry))
    }

    /// All tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Tensor<'_>)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), self.tensor(entry)))
    }

    /// Bytes of all weight files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.map.len() as u64).sum()
    }

    /// Fails at the first tensor whose bytes are not those that were written, where the format can tell: npz has
    /// checksums, safetensors none. Reads the data, at several GB/s.
    pub fn verify(&self) -> Result<()> {
        for file in &self.files {
            for checksum in &file.checksums {
                crate::interrupt::check()?;
                checksum.verify(&file.path, &file.map, &|start, end| release(&file.map, start, end))?;
            }
        }
        Ok(())
    }

    fn tensor<'a>(&'a self, entry: &'a Entry) -> Tensor<'a> {
        let file = &self.files[entry.file];
        Tensor {
            dtype: entry.dtype,
            shape: &entry.shape,
            file: &file.path,
            map: &file.map,
            start: entry.start,
            end: entry.end,
        }
    }

    fn add_file(&mut self, path: &Path) -> Result<BTreeSet<String>> {
        let map = map_file(path)?;
        let file = self.files.len();
        let (found, checksums) = if path.extension().is_some_and(|e| e == "npz") {
            npz::read_entries(path, &map, file)?
        } else {
            (safetensors_entries(path, &map, file)?, Vec::new())
        };
        self.files.push(Mapped { path: path.to_owned(), map, checksums });
        let names = found.iter().map(|(name, _)| name.clone()).collect();
        for (name, entry) in found {
            if let Some(earlier) = self.entries.insert(name.clone(), entry) {
                let other = &self.files[earlier.file].path;
                return Err(Error::tensor(path, name, format!("is also in {}", other.display()))
                    .hint("keep the files of one checkpoint only in this folder"));
            }
        }
        Ok(names)
    }

    fn add_indexed(&mut self, index: &Path) -> Result<()> {
        let weight_map = read_index(index)?;
        let folder = index.parent().unwrap_or(Path::new("."));
        let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (tensor, file) in &weight_map {
            if found.contains_key(file.as_str()) {
                continue;
            }
            let inside = Path::new(file).components().all(|c| matches!(c, Component::Normal(_)));
            if !inside || file.is_empty() {
                return Err(Error::tensor(index, tensor, format!("lies outside the folder, in `{file}`"))
                    .hint("an index may only name files beside it"));
            }
            let path = folder.join(file);
            if !path.is_file() {
                return Err(Error::file(index, format!("names the shard `{file}`, which is not there"))
                    .hint("the download is incomplete: fetch the missing shard"));
            }
            found.insert(file, self.add_file(&path)?);
        }
        for (tensor, file) in &weight_map {
            if !found.get(file.as_str()).is_some_and(|names| names.contains(tensor)) {
                return Err(Error::tensor(index, tensor, format!("is said to be in `{file}` and is not")));
            }
        }
        let unlisted = self.entries.keys().find(|name| !weight_map.contains_key(*name));
        match unlisted {
            Some(name) => Err(Error::tensor(index, name, "is in a shard but not in the index")),
            None => Ok(()),
        }
    }
}

fn read_index(index: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(index).map_err(|e| Error::io(index, e))?;
    let value: Value =
        serde_json::from_str(&text).map_err(|e| Error::file(index, format!("not valid JSON: {e}")))?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::key(index, "weight_map", "expected an object of tensor names"))?;
    map.iter()
        .map(|(name, file)| match file.as_str() {
            Some(file) => Ok((name.clone(), file.to_owned())),
            None => Err(Error::key(index, format!("weight_map.{name}"), "expected a file name")),
        })
        .collect()
}

fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
    if length == 0 {
        return Err(Error::file(path, "is empty").hint("the download is incomplete"));
    }
    // SAFETY: as with every mapped file, nobody may shrink it while it is read; model files are not written to.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))
}

fn safetensors_entries(path: &Path, map: &Mmap, file: usize) -> Result<Vec<(String, Entry)>> {
    if let Some(name) = twice_in_header(map) {
        return Err(Error::tensor(path, name, "is in the header twice")
            .hint("whatever wrote this file is broken: save the model again with another tool"));
    }
    let (header, metadata) = SafeTensors::read_metadata(map).map_err(|e| malformed(path, map, &e))?;
    let data = 8 + header;
    let mut entries = Vec::new();
    for (name, info) in metadata.tensors() {
        let dtype = Dtype::from_safetensors(&info.dtype.to_string()).ok_or_else(|| {
            Error::tensor(path, &name, format!("dtype {} is not supported", info.dtype)).hint(
                "checkpoints in float64, float32, float16, bfloat16 or MLX's quantized form can be used",
            )
        })?;
        let (start, end) = info.data_offsets;
        let entry = Entry { file, dtype, shape: info.shape.clone(), start: data + start, end: data + end };
        entries.push((name.clone(), entry));
    }
    Ok(entries)
}

/// The first name that a safetensors header has twice, of which a JSON parser would keep one. `None` also where there is
/// no readable header: that is found out elsewhere.
fn twice_in_header(map: &[u8]) -> Option<String> {
    struct Names(Option<String>);
    impl<'de> Visitor<'de> for Names {
        type Value = Self;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Self, A::Error> {
            let mut seen = BTreeSet::new();
            while let Some((name, _)) = access.next_entry::<String, IgnoredAny>()? {
                if self.0.is_none() && seen.contains(&name) {
                    self.0 = Some(name);
                } else {
                    seen.insert(name);
                }
            }
            Ok(self)
        }
    }
    let length = usize::try_from(u64::from_le_bytes(*map.first_chunk()?)).ok()?;
    let text = map.get(8..length.checked_add(8)?)?;
    serde_json::Deserializer::from_slice(text).deserialize_map(Names(None)).ok()?.0
}

fn malformed(path: &Path, map: &Mmap, error: &safetensors::SafeTensorError) -> Error {
    let header = map.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    let detail = match header {
        None => format!("{} bytes are too few for a safetensors header", map.len()),
        Some(length) if length.saturating_add(8) > map.len() as u64 => {
            format!("the header claims {length} bytes, the file has {}", map.len())
        }
        Some(_) => error.to_string(),
    };
    Error::file(path, format!("not a whole safetensors file: {detail}"))
        .hint("the file is truncated or damaged: download it again")
}

/// The weight files of a folder without an index.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let listing = fs::read_dir(dir).map_err(|e| Error::io(dir, e).hint("expected a model folder"))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in listing {
        files.push(entry.map_err(|e| Error::io(dir, e))?.path());
    }
    files.sort();
    let named = |path: &PathBuf, prefix: &str, extension: &str| {
        path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(prefix))
            && path.extension().is_some_and(|e| e == extension)
    };
    let models: Vec<PathBuf> = files.iter().filter(|p| named(p, "model", "safetensors")).cloned().collect();
    if !models.is_empty() {
        check_numbering(dir, &models)?;
        return Ok(models);
    }
    let any: Vec<PathBuf> = files.iter().filter(|p| named(p, "", "safetensors")).cloned().collect();
    match any.len() {
        1 => return Ok(any),
        0 => {}
        n => {
            return Err(Error::file(
                dir,
                format!("holds {n} .safetensors files, none called model*.safetensors"),
            ));
        }
    }
    let npz = dir.join("weights.npz");
    if npz.is_file() {
        return Ok(vec![npz]);
    }
    let pickle = files.iter().any(|p| named(p, "pytorch_model", "bin") || named(p, "", "pth"));
    let error =
        Error::file(dir, "no weights: expected model.safetensors, shards with an index, or weights.npz");
    Err(if pickle {
        error.hint(
            "only a pickle checkpoint (pytorch_model.bin) is there, and pickles can run code: \
             use the model's safetensors revision, or save it again with transformers' save_pretrained",
        )
    } else {
        error.hint("download the checkpoint's *.safetensors files")
    })
}

/// Shards called `model-00001-of-00003` must be all there.
fn check_numbering(dir: &Path, files: &[PathBuf]) -> Result<()> {
    let count =
        |path: &PathBuf| -> Option<usize> { path.file_stem()?.to_str()?.rsplit_once("-of-")?.1.parse().ok() };
    match files.iter().find_map(count) {
        Some(expected) if expected != files.len() => Err(Error::file(
            dir,
            format!("the shards' names promise {expected} files, {} are there", files.len()),
        )
        .hint("the download is incomplete: fetch the missing shards")),
        _ => Ok(()),
    }
}
