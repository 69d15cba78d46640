//! The tensors that the pickle of a pytorch_model.bin names, and where they lie in the file.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use zip::CompressionMethod;

use super::machine;
use super::strided::Strided;
use super::value::{Containers, TensorValue, Value};
use crate::error::{Error, Result};
use crate::files::archive::{broken, damaged, open_archive};
use crate::files::mapped::Mapped;
use crate::formats::entry::Entry;
use crate::formats::npz::Checksum;

const KIND: &str = "PyTorch";

/// Longest pickle that is read; models have some hundred bytes for each tensor.
const MAX_PICKLE: usize = 1 << 26;

/// Tensor of a file.
pub(crate) enum Found {
    /// As it lies.
    Stored(Entry),
    /// In another order.
    Strided(Entry, Strided),
}

/// Named tensors of a file, and the checksums of its members.
pub(crate) type Tensors = (Vec<(String, Found)>, Vec<Checksum>);

/// Reads the directory and the pickle of a mapped file; `file` is its number.
pub(crate) fn read_entries(path: &Path, map: &Mapped, file: usize) -> Result<Tensors> {
    if !map.starts_with(b"PK") {
        return Err(Error::file(path, "is no ZIP, as torch.save has written them since version 1.6")
            .hint("open it with PyTorch and save it again, or take the model's safetensors files"));
    }
    let mut members = Members::read(path, map)?;
    let pickle = members.part("data.pkl").and_then(|range| map.get(range.0..range.1));
    let Some(pickle) = pickle.filter(|pickle| pickle.len() <= MAX_PICKLE) else {
        return Err(Error::file(path, "has no data.pkl, which names the tensors in a file of torch.save")
            .hint("a scripted model or another archive has no weights that can be read"));
    };
    if let Some((start, end)) = members.part("byteorder")
        && &map[start..end] != b"little"
    {
        return Err(Error::file(path, "was saved with big-endian numbers")
            .hint("save it again on a common processor"));
    }
    let (value, containers) = machine::read(pickle).map_err(|message| {
        Error::file(path, format!("its pickle {message}"))
            .hint("take the model's safetensors files, or save its state_dict again with torch.save")
    })?;
    let mut tensors = Vec::new();
    for (name, tensor) in named(path, &value, &containers)? {
        let found = members.place(path, map, file, &name, &tensor)?;
        tensors.push((name, found));
    }
    Ok((tensors, members.checksums))
}

/// Returns the tensors of a state_dict.
fn named(path: &Path, value: &Value, containers: &Containers) -> Result<BTreeMap<String, Rc<TensorValue>>> {
    let wrong = |what: &str| {
        Err(Error::file(path, format!("its pickle holds {what}, expected tensors by name"))
            .hint("save the model's state_dict, not the model or its training state"))
    };
    let Value::Dict(items) = value else { return wrong("something else than a dict") };
    let mut tensors = BTreeMap::new();
    for pair in containers.get(*items).chunks_exact(2) {
        let Some(name) = pair[0].text() else { return wrong("a key that is no text") };
        let Value::Tensor(tensor) = &pair[1] else {
            return wrong(&format!("`{name}`, which is no tensor"));
        };
        if tensors.insert(name.to_owned(), Rc::clone(tensor)).is_some() {
            return wrong(&format!("`{name}` twice"));
        }
    }
    Ok(tensors)
}

/// Members of the archive below its only folder.
struct Members {
    places: BTreeMap<String, (usize, usize)>,
    checksums: Vec<Checksum>,
}

impl Members {
    fn read(path: &Path, map: &[u8]) -> Result<Self> {
        let broken = |e| broken(path, KIND, &e);
        let mut archive = open_archive(path, KIND, map)?;
        let mut members = Self { places: BTreeMap::new(), checksums: Vec::new() };
        for index in 0..archive.len() {
            let member = archive.by_index_raw(index).map_err(broken)?;
            let full = member.name().map_err(broken)?.into_owned();
            let Some((_, name)) = full.split_once('/') else { continue };
            if member.compression() != CompressionMethod::Stored {
                return Err(Error::file(
                    path,
                    format!("its member `{name}` is compressed, so it cannot be mapped"),
                )
                .hint("torch.save compresses nothing: save the model again"));
            }
            let start = member.data_start().unwrap_or(u64::MAX);
            let end = start.saturating_add(member.size());
            if end > map.len() as u64 {
                return Err(damaged(path, KIND, &format!("member `{name}` ends past the file")));
            }
            let place = (start as usize, end as usize);
            members.checksums.push(Checksum::new(full.clone(), place, member.crc32()));
            members.places.insert(name.to_owned(), place);
        }
        Ok(members)
    }

    fn part(&self, name: &str) -> Option<(usize, usize)> {
        self.places.get(name).copied()
    }

    /// Returns where the tensor `name` lies.
    fn place(
        &mut self,
        path: &Path,
        map: &Mapped,
        file: usize,
        name: &str,
        tensor: &TensorValue,
    ) -> Result<Found> {
        let TensorValue { storage, first, shape, strides } = tensor;
        let wrong = |message: String| {
            Err(Error::tensor(path, name, message).hint("the file is truncated or damaged: take it again"))
        };
        let size = storage.dtype.size();
        let Some((start, end)) = self.part(&format!("data/{}", storage.key)) else {
            return wrong(format!("its bytes, `data/{}`, are missing", storage.key));
        };
        if storage.count.checked_mul(size) != Some(end - start) {
            return wrong(format!(
                "its storage has {} bytes, expected {} of {}",
                end - start,
                storage.count,
                storage.dtype
            ));
        }
        let count = shape.iter().try_fold(size, |product, size| product.checked_mul(*size));
        let (Some(bytes), Some(last)) = (count, last_element(*first, shape, strides)) else {
            return wrong(format!("shape {shape:?} and strides {strides:?} are beyond any memory"));
        };
        if bytes > 0 && last >= storage.count {
            return wrong(format!(
                "shape {shape:?} and strides {strides:?} from {first} end past its storage of {} numbers",
                storage.count
            ));
        }
        let at = if bytes > 0 { start + first * size } else { start };
        let entry = Entry::new(file, storage.dtype, shape.clone(), [at, at + bytes]);
        if bytes == 0 || is_in_order(shape, strides) {
            return Ok(Found::Stored(entry));
        }
        let (shape, strides) = (shape.clone(), strides.clone());
        Ok(Found::Strided(entry, Strided { map: map.clone(), start: at, size, shape, strides }))
    }
}

/// Returns the number of the last element in its storage.
fn last_element(first: usize, shape: &[usize], strides: &[usize]) -> Option<usize> {
    shape.iter().zip(strides).try_fold(first, |last, (size, stride)| {
        last.checked_add(size.saturating_sub(1).checked_mul(*stride)?)
    })
}

/// True if elements lie one after the other.
fn is_in_order(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == expected;
        expected *= size;
        fits
    })
}
