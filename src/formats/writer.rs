//! Writer of safetensors files: the layout is decided first, then chunks are produced in parallel and written in place.
//!
//! One chunk per thread is in memory, so peak memory does not grow with the model.

use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::numerics::dtype::Dtype;

/// Tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputTensor {
    /// Name of the tensor.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl OutputTensor {
    /// Returns the bytes of the tensor's data.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product::<u64>() * self.dtype.size() as u64
    }
}

/// Producer of one or more tensors, chunk by chunk.
pub trait Produce: Sync {
    /// Returns the tensors that it produces.
    fn outputs(&self) -> Vec<OutputTensor>;
    /// Returns the number of chunks; each may be produced on its own, on any thread.
    fn chunks(&self) -> usize;
    /// Produces chunk `index` and hands its bytes to `sink(output, offset in the tensor, bytes)`.
    fn produce(&self, index: usize, sink: &mut Sink<'_>) -> Result<()>;
}

/// Receiver of `(output, offset in the tensor, bytes)`.
pub type Sink<'a> = dyn FnMut(usize, u64, &[u8]) -> Result<()> + 'a;

/// Files that the tensors were written to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shards {
    /// Names of the files.
    pub files: Vec<String>,
    /// Bytes of tensor data.
    pub total_bytes: u64,
}

struct Placed {
    shard: usize,
    offset: u64,
}

/// Writes the tensors of all `producers` into `dir` as model.safetensors, or as shards of at most `max_shard_bytes`,
/// sorted by name, with an index as mlx-lm writes it, which records `parameters`. `progress` is called with the bytes
/// of each write.
pub fn write_safetensors(
    dir: &Path,
    producers: &[Box<dyn Produce + '_>],
    max_shard_bytes: u64,
    parameters: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Shards> {
    let outputs: Vec<Vec<OutputTensor>> = producers.iter().map(|p| p.outputs()).collect();
    let (groups, total_bytes) = split_into_shards(&outputs, max_shard_bytes);
    let names = shard_names(groups.len());
    let mut places: BTreeMap<&str, Placed> = BTreeMap::new();
    let mut files = Vec::new();
    for (shard, (tensors, name)) in groups.iter().zip(&names).enumerate() {
        let header = header(tensors)?;
        let mut offset = header.len() as u64;
        for tensor in tensors {
            places.insert(&tensor.name, Placed { shard, offset });
            offset += tensor.bytes();
        }
        files.push(create_shard(&dir.join(name), &header, offset)?);
    }
    write_chunks(producers, &outputs, &places, &files, progress)?;
    for (path, file) in &files {
        file.sync_all().map_err(|e| Error::io(path, e))?;
    }
    write_index(dir, &groups, &names, total_bytes, parameters)?;
    Ok(Shards { files: names, total_bytes })
}

/// Sorts the tensors and splits them into shards. Returns the shards and the bytes of all tensors.
fn split_into_shards(outputs: &[Vec<OutputTensor>], max_shard_bytes: u64) -> (Vec<Vec<&OutputTensor>>, u64) {
    let mut sorted: Vec<&OutputTensor> = outputs.iter().flatten().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut groups: Vec<Vec<&OutputTensor>> = vec![Vec::new()];
    let (mut current, mut total) = (0, 0);
    for tensor in sorted {
        let bytes = tensor.bytes();
        if current > 0 && current + bytes > max_shard_bytes {
            groups.push(Vec::new());
            current = 0;
        }
        current += bytes;
        total += bytes;
        if let Some(last) = groups.last_mut() {
            last.push(tensor);
        }
    }
    (groups, total)
}

fn shard_names(count: usize) -> Vec<String> {
    match count {
        1 => vec!["model.safetensors".to_owned()],
        n => (1..=n).map(|i| format!("model-{i:05}-of-{n:05}.safetensors")).collect(),
    }
}

/// Makes the file's beginning: length and JSON header, padded with spaces so that the data is aligned to 64 bytes.
fn header(tensors: &[&OutputTensor]) -> Result<Vec<u8>> {
    let mut map = Map::new();
    map.insert("__metadata__".to_owned(), json!({"format": "mlx"}));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes();
        map.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.dtype.safetensors(), "shape": tensor.shape, "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let mut text = serde_json::to_vec(&map).map_err(|e| Error::input(format!("safetensors header: {e}")))?;
    text.resize((8 + text.len()).next_multiple_of(64) - 8, b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    Ok(bytes)
}

fn create_shard(path: &Path, header: &[u8], length: u64) -> Result<(PathBuf, File)> {
    let io = |e| Error::io(path, e);
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(io)?;
    file.set_len(length).map_err(io)?;
    write_at(&file, header, 0).map_err(io)?;
    Ok((path.to_owned(), file))
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// Starts writing a part to disk while the next is made, so that the final sync has little to do.
fn start_writeback(file: &File, offset: u64, length: usize) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open; the call has no effect on memory, and failing, none at all.
        unsafe {
            libc::sync_file_range(
                file.as_raw_fd(),
                offset.cast_signed(),
                length as i64,
                libc::SYNC_FILE_RANGE_WRITE,
            );
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, length);
}

fn write_chunks(
    producers: &[Box<dyn Produce + '_>],
    outputs: &[Vec<OutputTensor>],
    places: &BTreeMap<&str, Placed>,
    files: &[(PathBuf, File)],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let tasks: Vec<(usize, usize)> = producers
        .iter()
        .enumerate()
        .flat_map(|(p, producer)| (0..producer.chunks()).map(move |c| (p, c)))
        .collect();
    let failed = AtomicBool::new(false);
    tasks.par_iter().with_max_len(1).try_for_each(|&(p, chunk)| {
        if failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut sink = |output: usize, offset: u64, bytes: &[u8]| {
            let place = &places[outputs[p][output].name.as_str()];
            let (path, file) = &files[place.shard];
            write_at(file, bytes, place.offset + offset).map_err(|e| Error::io(path, e))?;
            start_writeback(file, place.offset + offset, bytes.len());
            progress(bytes.len() as u64);
            Ok(())
        };
        let result = crate::interrupt::check().and_then(|()| producers[p].produce(chunk, &mut sink));
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    })
}

fn write_index(
    dir: &Path,
    groups: &[Vec<&OutputTensor>],
    names: &[String],
    total_bytes: u64,
    parameters: u64,
) -> Result<()> {
    let mut weight_map = Map::new();
    for (tensors, name) in groups.iter().zip(names) {
        for tensor in tensors {
            weight_map.insert(tensor.name.clone(), Value::String(name.clone()));
        }
    }
    let index = json!({
        "metadata": {"total_size": total_bytes, "total_parameters": parameters},
        "weight_map": weight_map,
    });
    let path = dir.join("model.safetensors.index.json");
    let text = serde_json::to_vec_pretty(&index).map_err(|e| Error::file(&path, e.to_string()))?;
    std::fs::write(&path, text).map_err(|e| Error::io(&path, e))
}
