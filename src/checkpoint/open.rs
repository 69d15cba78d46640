//! Opening a checkpoint: which files are weights, what is in them, and that they are whole.
//!
//! Weights are, in this order: what `model.safetensors.index.json` names; `model*.safetensors`; the folder's only
//! `.safetensors`; `weights.npz`. Headers are validated by the safetensors crate, offsets against the file's length.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use super::dtype::Dtype;
use super::{header, npz};
use crate::error::{Error, Result};
use crate::json;
use crate::model_files::{Mapped, ModelFiles, safe_name};
use crate::plural::count;

/// The file that says which shard each tensor is in.
pub const INDEX: &str = "model.safetensors.index.json";
const NPZ: &str = "weights.npz";

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// One, but for tensors that were stacked.
    pub(super) pieces: Vec<Piece>,
    /// Bytes of each piece.
    pub(super) each: usize,
    /// What the pieces are called in their files, where tensors were stacked.
    pub(super) parts: Vec<String>,
}

/// Where a part of a tensor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) file: usize,
    pub(super) start: usize,
}

impl Entry {
    /// A tensor from byte `start` to `end` of a file.
    pub(super) fn new(file: usize, dtype: Dtype, shape: Vec<usize>, [start, end]: [usize; 2]) -> Self {
        Self { dtype, shape, pieces: vec![Piece { file, start }], each: end - start, parts: Vec::new() }
    }
}

/// A weight file.
#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    map: Mapped,
    checksums: Vec<npz::Checksum>,
}

/// The tensors of a checkpoint, mapped.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<WeightFile>,
    pub(super) entries: BTreeMap<String, Entry>,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// The file it lies in, or begins in.
    pub file: &'a Path,
    files: &'a [WeightFile],
    pieces: &'a [Piece],
    each: usize,
    names: &'a [String],
}

impl<'a> Tensor<'a> {
    /// Its bytes, little-endian, row-major; not aligned. A copy of those that were stacked.
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        self.slice(0, self.byte_len())
    }

    /// Number of bytes.
    pub fn byte_len(&self) -> usize {
        self.pieces.len() * self.each
    }

    /// Bytes from `start` to `end`, both relative to the tensor. Their pages are mapped in one go. A copy only where a
    /// stacked tensor goes on in another place.
    pub fn slice(&self, start: usize, end: usize) -> Cow<'a, [u8]> {
        let mut parts = self.parts(start, end).map(|(map, start, end)| map.populated(start, end));
        match (parts.next(), parts.next()) {
            (None, _) => Cow::Borrowed(&[]),
            (Some(one), None) => Cow::Borrowed(one),
            (Some(one), Some(two)) => {
                let mut all = [one, two].concat();
                parts.for_each(|part| all.extend(part));
                Cow::Owned(all)
            }
        }
    }

    /// Tells the kernel that these bytes were read and need not stay mapped, so that resident memory does not grow
    /// with the checkpoint.
    pub fn release(&self, start: usize, end: usize) {
        self.parts(start, end).for_each(|(map, start, end)| map.release(start, end));
    }

    /// Where the bytes from `start` to `end` lie.
    fn parts(&self, start: usize, end: usize) -> impl Iterator<Item = (&'a Mapped, usize, usize)> {
        let Self { files, pieces, each, .. } = *self;
        let (first, last) = (start / each.max(1), end.div_ceil(each.max(1)));
        (first..if start < end { last } else { first }).map(move |index| {
            let Piece { file, start: at } = pieces[index];
            let (from, to) = (start.max(index * each), end.min((index + 1) * each));
            (&files[file].map, at + from - index * each, at + to - index * each)
        })
    }

    /// Whether it is made of others.
    pub fn is_stacked(&self) -> bool {
        self.pieces.len() > 1
    }

    /// Of a stacked tensor the first part whose bytes are `bad`: its file, and what it is called there.
    pub fn stored_part(&self, bad: impl Fn(&[u8]) -> bool) -> Option<(&'a Path, &'a str)> {
        let named = self.pieces.iter().zip(self.names);
        let mut parts = named.map(|(piece, name)| (&self.files[piece.file], piece.start, name));
        let found = parts.find(|(file, start, _)| bad(file.map.populated(*start, start + self.each)));
        found.map(|(file, _, name)| (file.path.as_path(), name.as_str()))
    }

    /// Size of a row.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
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

impl Checkpoint {
    /// Opens the weights of the model folder or pack `path`, or a single `.safetensors` or `.npz` file.
    pub fn open(path: &Path) -> Result<Self> {
        let weights = |path: &Path| path.extension().is_some_and(|e| e == "safetensors" || e == "npz");
        if !path.is_file() || !weights(path) {
            return Self::from_files(&ModelFiles::open(path)?);
        }
        let mut checkpoint = Self::empty(path);
        checkpoint.add_file(path, Mapped::open(path)?)?;
        Ok(checkpoint)
    }

    /// Opens the single safetensors file `path`, whatever it is called.
    pub fn open_safetensors(path: &Path) -> Result<Self> {
        let mut checkpoint = Self::empty(path);
        checkpoint.add(path, Mapped::open(path)?, false)?;
        Ok(checkpoint)
    }

    /// Opens the weights among `files`.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        let (checkpoint, wrong) = Self::whatever_is_there(files)?;
        wrong.into_iter().next().map_or(Ok(checkpoint), Err)
    }

    /// The weights among `files` as far as index and shards agree, and where they do not.
    ///
    /// # Errors
    /// Where there is no weight file, or one that is no weight file.
    pub fn whatever_is_there(files: &ModelFiles) -> Result<(Self, Vec<Error>)> {
        let mut checkpoint = Self::empty(files.path());
        let mut wrong = Vec::new();
        if files.has(INDEX) {
            checkpoint.add_indexed(files, &mut wrong)?;
            return Ok((checkpoint, wrong));
        }
        for name in choose_weights(files.path(), &files.names()?)? {
            checkpoint.add_file(&files.path_of(&name), files.map(&name)?)?;
        }
        Ok((checkpoint, wrong))
    }

    fn empty(path: &Path) -> Self {
        Self { path: path.to_owned(), files: Vec::new(), entries: BTreeMap::new() }
    }

    /// The folder, pack or file that was opened.
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

    /// The weight files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
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
                checksum.verify(&file.path, &file.map, &|start, end| file.map.release(start, end))?;
            }
        }
        Ok(())
    }

    fn tensor<'a>(&'a self, entry: &'a Entry) -> Tensor<'a> {
        Tensor {
            dtype: entry.dtype,
            shape: &entry.shape,
            file: &self.files[entry.pieces[0].file].path,
            files: &self.files,
            pieces: &entry.pieces,
            each: entry.each,
            names: &entry.parts,
        }
    }

    fn add_file(&mut self, path: &Path, map: Mapped) -> Result<BTreeSet<String>> {
        self.add(path, map, path.extension().is_some_and(|e| e == "npz"))
    }

    fn add(&mut self, path: &Path, map: Mapped, is_npz: bool) -> Result<BTreeSet<String>> {
        if map.is_empty() {
            return Err(Error::file(path, "is empty").hint("the download is incomplete"));
        }
        let file = self.files.len();
        let (found, checksums) = if is_npz {
            npz::read_entries(path, &map, file)?
        } else {
            (safetensors_entries(path, &map, file)?, Vec::new())
        };
        self.files.push(WeightFile { path: path.to_owned(), map, checksums });
        let names = found.iter().map(|(name, _)| name.clone()).collect();
        for (name, entry) in found {
            if let Some(earlier) = self.entries.insert(name.clone(), entry) {
                let other = &self.files[earlier.pieces[0].file].path;
                return Err(Error::tensor(path, name, format!("is also in {}", other.display()))
                    .hint("keep the files of one checkpoint only in this folder"));
            }
        }
        Ok(names)
    }

    /// The shards that the index names. What does not agree goes to `wrong`: tensors of a shard that is not there are not
    /// named once more.
    fn add_indexed(&mut self, files: &ModelFiles, wrong: &mut Vec<Error>) -> Result<()> {
        let index = &files.path_of(INDEX);
        let weight_map = read_index(files)?;
        let mut found: BTreeMap<&str, Option<BTreeSet<String>>> = BTreeMap::new();
        for (tensor, file) in &weight_map {
            if found.contains_key(file.as_str()) {
                continue;
            }
            let names = if !safe_name(file) {
                wrong.push(
                    Error::tensor(index, tensor, format!("lies outside the folder, in `{file}`"))
                        .hint("an index may only name files beside it"),
                );
                None
            } else if files.has(file) {
                Some(self.add_file(&files.path_of(file), files.map(file)?)?)
            } else {
                wrong.push(
                    Error::file(index, format!("names the shard `{file}`, which is not there"))
                        .hint("the download is incomplete: fetch the missing shard"),
                );
                None
            };
            found.insert(file, names);
        }
        for (tensor, file) in &weight_map {
            if let Some(Some(names)) = found.get(file.as_str())
                && !names.contains(tensor)
            {
                wrong.push(Error::tensor(index, tensor, format!("is said to be in `{file}` and is not")));
            }
        }
        let unlisted = self.entries.keys().filter(|name| !weight_map.contains_key(*name));
        wrong.extend(unlisted.map(|name| Error::tensor(index, name, "is in a shard but not in the index")));
        Ok(())
    }
}

fn read_index(files: &ModelFiles) -> Result<BTreeMap<String, String>> {
    let index = &files.path_of(INDEX);
    let value = json::parse(index, &files.read(INDEX)?)?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::key(index, "weight_map", "expected an object of tensor names"))?;
    map.iter()
        .map(|(name, file)| match file.as_str() {
            Some(file) => Ok((name.clone(), file.to_owned())),
            None => Err(Error::key(index, format!("weight_map.{name}"), "expected a file name")),
        })
        .collect()
}

fn safetensors_entries(path: &Path, map: &[u8], file: usize) -> Result<Vec<(String, Entry)>> {
    if let Some(name) = header::twice(map) {
        return Err(Error::tensor(path, name, "is in the header twice")
            .hint("whatever wrote this file is broken: save the model again with another tool"));
    }
    let (header, metadata) = SafeTensors::read_metadata(map).map_err(|e| header::malformed(path, map, &e))?;
    let data = 8 + header;
    let mut entries = Vec::new();
    for (name, info) in metadata.tensors() {
        let dtype = Dtype::from_safetensors(&info.dtype.to_string()).ok_or_else(|| {
            Error::tensor(path, &name, format!("dtype {} is not supported", info.dtype)).hint(
                "checkpoints in float64, float32, float16, bfloat16 or MLX's quantized form can be used",
            )
        })?;
        let (start, end) = info.data_offsets;
        let entry = Entry::new(file, dtype, info.shape.clone(), [data + start, data + end]);
        entries.push((name.clone(), entry));
    }
    Ok(entries)
}

/// Names of the shards that the index of `files` lists, sorted.
pub fn index_files(files: &ModelFiles) -> Result<Vec<String>> {
    let names: BTreeSet<String> = read_index(files)?.into_values().collect();
    Ok(names.into_iter().collect())
}

/// Which of a model's files, called `names`, are its weights where there is no index. `dir` is for messages.
pub fn choose_weights(dir: &Path, names: &[String]) -> Result<Vec<String>> {
    let named = |prefix: &str, extension: &str| -> Vec<String> {
        let matches = |name: &&String| name.starts_with(prefix) && name.ends_with(extension);
        names.iter().filter(matches).cloned().collect()
    };
    let models = named("model", ".safetensors");
    if !models.is_empty() {
        check_numbering(dir, &models)?;
        return Ok(models);
    }
    let any = named("", ".safetensors");
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
    if names.iter().any(|name| name == NPZ) {
        return Ok(vec![NPZ.to_owned()]);
    }
    let error =
        Error::file(dir, "no weights: expected model.safetensors, shards with an index, or weights.npz");
    Err(if named("pytorch_model", ".bin").is_empty() && named("", ".pth").is_empty() {
        error.hint("download the checkpoint's *.safetensors files")
    } else {
        error.hint(
            "only a pickle checkpoint (pytorch_model.bin) is there, and pickles can run code: \
             use the model's safetensors revision, or save it again with transformers' save_pretrained",
        )
    })
}

/// Shards called `model-00001-of-00003` must be all there.
fn check_numbering(dir: &Path, files: &[String]) -> Result<()> {
    let promised = |name: &String| -> Option<usize> {
        name.strip_suffix(".safetensors")?.rsplit_once("-of-")?.1.parse().ok()
    };
    match files.iter().find_map(promised) {
        Some(expected) if expected != files.len() => Err(Error::file(
            dir,
            format!("the shards' names promise {}, {} are there", count(expected, "file"), files.len()),
        )
        .hint("the download is incomplete: fetch the missing shards")),
        _ => Ok(()),
    }
}
