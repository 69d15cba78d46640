//! Checkpoints: the tensors of mapped weight files, opened and checked. Headers are validated by the safetensors crate,
//! offsets against the file's length.

use ::safetensors::SafeTensors;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backing::{Backing, Made, WeightFile};
use super::entry::{Entry, Incoming, Piece};
use super::forms;
use super::gather::Gather;
use super::index::Absent;
use super::{npz, pytorch, safetensors};
use crate::error::{Error, Result};
use crate::files::json;
use crate::files::mapped::Mapped;
use crate::files::model_files::ModelFiles;
use crate::numerics::dtype::Dtype;

/// Tensors of a checkpoint, in mapped files.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    pub(crate) files: Vec<Arc<WeightFile>>,
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) absent: Vec<Absent>,
    pub(crate) notes: Vec<String>,
    pub(crate) conditions: Vec<forms::Condition>,
    /// Bytes of all tensors before layers in other tools' forms were taken.
    pub(crate) stored_bytes: Option<u64>,
}

/// Tensor of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// File that the tensor lies in, or begins in.
    pub file: &'a Path,
    /// Form that the values came in; `None` for floats and for what MLX quantized.
    pub incoming: Option<Incoming>,
    files: &'a [Arc<WeightFile>],
    pieces: &'a [Piece],
    each: usize,
    names: &'a [String],
    gather: Option<Gather>,
}

impl<'a> Tensor<'a> {
    pub(crate) fn new(entry: &'a Entry, files: &'a [Arc<WeightFile>]) -> Self {
        Self {
            dtype: entry.dtype,
            shape: &entry.shape,
            file: &files[entry.pieces[0].file].path,
            incoming: entry.incoming,
            files,
            pieces: &entry.pieces,
            each: entry.each,
            names: &entry.parts,
            gather: entry.gather,
        }
    }

    /// Returns the tensor's bytes, little-endian, row-major, not aligned; a copy where the tensor was stacked
    /// or is not stored as it is read.
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        self.slice(0, self.byte_len())
    }

    /// Returns the number of bytes.
    pub fn byte_len(&self) -> usize {
        self.pieces.len() * self.each
    }

    /// Returns the bytes from `start` to `end`, both relative to the tensor, and maps their pages in one go. A copy
    /// only where a stacked tensor continues in another place, or values are not stored as they are read.
    pub fn slice(&self, start: usize, end: usize) -> Cow<'a, [u8]> {
        if let Some(gather) = self.gather {
            let mut bytes = Vec::with_capacity(end - start);
            for (piece, range) in self.ranges(start, end) {
                gather.read(&self.files[piece.file].bytes, piece.start, range, &mut bytes);
            }
            return Cow::Owned(bytes);
        }
        let mut parts = self.parts(start, end).map(|(map, start, end)| map.populated(start, end));
        let Some(first) = parts.next() else { return Cow::Borrowed(&[]) };
        let Some(second) = parts.next() else { return first };
        let mut bytes = [first, second].concat();
        parts.for_each(|part| bytes.extend(&*part));
        Cow::Owned(bytes)
    }

    /// Tells the kernel that these bytes were read and need not stay mapped, so that resident memory does not grow
    /// with the checkpoint.
    pub fn release(&self, start: usize, end: usize) {
        // What is gathered does not stay mapped.
        if self.gather.is_some() {
            return;
        }
        self.parts(start, end).for_each(|(map, start, end)| map.release(start, end));
    }

    /// Returns the places of the bytes from `start` to `end`: mapping, start and end in it.
    fn parts(&self, start: usize, end: usize) -> impl Iterator<Item = (&'a Backing, usize, usize)> {
        let files = self.files;
        self.ranges(start, end).map(move |(Piece { file, start: at }, range)| {
            (&files[file].bytes, at + range.start, at + range.end)
        })
    }

    /// Returns the pieces that have the bytes from `start` to `end`, and which of its bytes each has.
    fn ranges(&self, start: usize, end: usize) -> impl Iterator<Item = (Piece, Range<usize>)> + use<'a> {
        let Self { pieces, each, .. } = *self;
        let (first, last) = (start / each.max(1), end.div_ceil(each.max(1)));
        (first..if start < end { last } else { first }).map(move |index| {
            let (from, to) = (start.max(index * each), end.min((index + 1) * each));
            (pieces[index], from - index * each..to - index * each)
        })
    }

    /// True if the tensor was stacked from others.
    pub fn is_stacked(&self) -> bool {
        self.pieces.len() > 1
    }

    /// Returns the name in its file of the tensor that this one was made of, where it is no stack.
    pub fn made_of(&self) -> Option<&'a str> {
        if self.is_stacked() { None } else { self.names.first().map(String::as_str) }
    }

    /// Returns the first part of a stacked or derived tensor whose bytes are `bad`: its file and its name there.
    pub fn stored_part(&self, bad: impl Fn(&[u8]) -> bool) -> Option<(&'a Path, &'a str)> {
        self.pieces.iter().zip(self.names).enumerate().find_map(|(index, (piece, name))| {
            let bytes = self.slice(index * self.each, (index + 1) * self.each);
            bad(&bytes).then_some((self.files[piece.file].path.as_path(), name.as_str()))
        })
    }

    /// Returns the size of a row.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if the tensor has no value.
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
        Self::open_file_as(path, Format::of(path))
    }

    /// Opens the single safetensors file `path`, whatever it is called.
    pub fn open_safetensors(path: &Path) -> Result<Self> {
        Self::open_file_as(path, Format::Safetensors)
    }

    fn open_file_as(path: &Path, format: Format) -> Result<Self> {
        let mut checkpoint = Self::empty(path);
        let tensors = checkpoint.add(path, Mapped::open(path)?, format).map_err(|e| e.describe(|| None))?;
        for (name, entry) in tensors {
            checkpoint.insert(name, entry)?;
        }
        Ok(checkpoint)
    }

    pub(crate) fn empty(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            files: Vec::new(),
            entries: BTreeMap::new(),
            absent: Vec::new(),
            notes: Vec::new(),
            conditions: Vec::new(),
            stored_bytes: None,
        }
    }

    /// Returns notes for the user about decisions on files and names, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the folder, pack or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the tensor called `name`.
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        self.entries.get(name).map(|entry| self.tensor(entry))
    }

    /// Returns all tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Tensor<'_>)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), self.tensor(entry)))
    }

    /// Returns the bytes of all tensors as they are stored.
    pub fn stored_bytes(&self) -> u64 {
        let bytes = || self.iter().map(|(_, tensor)| tensor.byte_len() as u64).sum();
        self.stored_bytes.unwrap_or_else(bytes)
    }

    /// Returns the paths of the weight files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let is_mapped = |file: &&Arc<WeightFile>| matches!(file.bytes, Backing::Mapped(_));
        self.files.iter().filter(is_mapped).map(|file| file.path.as_path())
    }

    /// Checks the bytes of all tensors where the format has checksums: npz has, safetensors has none. Reads the data,
    /// at several GB/s. Checks the scales of other tools' forms too.
    pub fn verify(&self) -> Result<()> {
        for file in &self.files {
            let Backing::Mapped(map) = &file.bytes else { continue };
            for checksum in &file.checksums {
                crate::interrupt::check()?;
                checksum.verify(&file.path, map, &|start, end| map.release(start, end))?;
            }
        }
        self.conditions.iter().try_for_each(forms::Condition::verify)
    }

    fn tensor<'a>(&'a self, entry: &'a Entry) -> Tensor<'a> {
        Tensor::new(entry, &self.files)
    }

    /// Adds a matrix that is made of tensors in the file `path` as it is read, and returns the number of its file.
    pub(crate) fn add_made(&mut self, path: &Path, made: Made) -> usize {
        let file = WeightFile { path: path.to_owned(), bytes: Backing::Made(made), checksums: Vec::new() };
        self.files.push(Arc::new(file));
        self.files.len() - 1
    }

    /// Opens the weight file `name` of a model and returns its tensors, which are not inserted yet.
    pub(crate) fn open_file(&mut self, files: &ModelFiles, name: &str) -> Result<Vec<(String, Entry)>> {
        let path = files.path_of(name);
        self.add(&path, files.map(name)?, Format::of(&path))
            .map_err(|error| error.describe(|| quantizer(files)))
    }

    fn add(&mut self, path: &Path, map: Mapped, format: Format) -> Result<Vec<(String, Entry)>, Unreadable> {
        if map.is_empty() {
            return Err(Error::file(path, "is empty").hint("the download is incomplete").into());
        }
        let file = self.files.len();
        let mut strided = Vec::new();
        let (mut entries, checksums) = match format {
            Format::Npz => npz::read_entries(path, &map, file)?,
            Format::Safetensors => (safetensors_entries(path, &map, file)?, Vec::new()),
            Format::PyTorch => {
                let (tensors, checksums) = pytorch::read_entries(path, &map, file)?;
                let mut entries = Vec::new();
                for (name, found) in tensors {
                    match found {
                        pytorch::Found::Stored(entry) => entries.push((name, entry)),
                        pytorch::Found::Strided(entry, rows) => strided.push((name, entry, rows)),
                    }
                }
                (entries, checksums)
            }
        };
        let file = WeightFile { path: path.to_owned(), bytes: Backing::Mapped(map), checksums };
        self.files.push(Arc::new(file));
        for (name, entry, rows) in strided {
            let row_bytes = rows.shape.last().copied().unwrap_or(1) * rows.size;
            let number = self.add_made(path, Made { row_bytes, rows: Box::new(rows) });
            entries.push((name, Entry::new(number, entry.dtype, entry.shape, [0, entry.each])));
        }
        Ok(entries)
    }

    /// Inserts a tensor of an opened file.
    pub(crate) fn insert(&mut self, name: String, entry: Entry) -> Result<()> {
        let file_of = |entry: &Entry| entry.pieces.first().and_then(|piece| self.files.get(piece.file));
        if let Some(earlier) = self.entries.get(&name).and_then(file_of)
            && let Some(file) = file_of(&entry)
        {
            let message = format!("is also in {}", earlier.path.display());
            return Err(Error::tensor(&file.path, name, message)
                .hint("keep the files of one checkpoint only in this folder"));
        }
        self.entries.insert(name, entry);
        Ok(())
    }
}

/// Format of a weight file.
#[derive(Debug, Clone, Copy)]
enum Format {
    Safetensors,
    Npz,
    PyTorch,
}

impl Format {
    /// Returns the format that the extension of `path` stands for: safetensors unless it is `npz` or `bin`.
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npz") => Self::Npz,
            Some("bin") => Self::PyTorch,
            _ => Self::Safetensors,
        }
    }
}

/// Reason why a weight file cannot be read.
enum Unreadable {
    /// A tensor has a dtype that MLX or mixbit does not support.
    Dtype {
        path: PathBuf,
        tensor: String,
        dtype: String,
    },
    Other(Error),
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Unreadable {
    /// Turns the reason into an error, which names the method that the model was quantized with where `quantizer`
    /// returns one.
    fn describe(self, quantizer: impl FnOnce() -> Option<String>) -> Error {
        let (path, tensor, dtype) = match self {
            Self::Dtype { path, tensor, dtype } => (path, tensor, dtype),
            Self::Other(error) => return error,
        };
        let usable = "float64, float32, float16, bfloat16 or MLX's quantized form";
        match quantizer() {
            Some(method) => {
                let message = format!(
                    "dtype {dtype} is not supported; config.json says that the checkpoint is quantized by {method}"
                );
                Error::tensor(path, tensor, message).hint(format!(
                    "start from the float checkpoint, or dequantize with the tool that made it: what can be used is {usable}"
                ))
            }
            None => Error::tensor(path, tensor, format!("dtype {dtype} is not supported"))
                .hint(format!("checkpoints in {usable} can be used")),
        }
    }
}

/// Returns the quantization method that a model's config.json names.
fn quantizer(files: &ModelFiles) -> Option<String> {
    let config = json::parse(&files.path_of("config.json"), &files.read("config.json").ok()?).ok()?;
    Some(config.get("quantization_config")?.get("quant_method")?.as_str()?.to_owned())
}

fn safetensors_entries(path: &Path, map: &[u8], file: usize) -> Result<Vec<(String, Entry)>, Unreadable> {
    if let Some(name) = safetensors::duplicate_name(map) {
        return Err(Error::tensor(path, name, "is in the header twice")
            .hint("whatever wrote this file is broken: save the model again with another tool")
            .into());
    }
    let (header, metadata) =
        SafeTensors::read_metadata(map).map_err(|e| safetensors::malformed(path, map, &e))?;
    let data = 8 + header;
    // By name: errors name the first.
    let tensors: BTreeMap<_, _> = metadata.tensors().into_iter().collect();
    let mut entries = Vec::new();
    for (name, info) in tensors {
        let dtype = info.dtype.to_string();
        let Some(dtype) = Dtype::from_safetensors(&dtype) else {
            return Err(Unreadable::Dtype { path: path.to_owned(), tensor: name, dtype });
        };
        let (start, end) = info.data_offsets;
        let entry = Entry::new(file, dtype, info.shape.clone(), [data + start, data + end]);
        entries.push((name, entry));
    }
    Ok(entries)
}
