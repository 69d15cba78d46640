//! Header of a GGUF file: metadata, and the place of each tensor, checked against the file.

use std::collections::BTreeMap;
use std::path::Path;

use super::cursor::Cursor;
use super::kind::{Kind, other_name};
use super::value::Value;
use crate::error::{Error, Result};

/// First bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Largest distance that tensors are aligned to.
const MAX_ALIGNMENT: usize = 1 << 20;

const DAMAGED: &str = "the file is truncated or damaged: copy or download it again";

/// Header of one file.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: Vec<Place>,
}

/// Tensor in a file.
#[derive(Debug, Clone)]
pub struct Place {
    /// Name of the tensor.
    pub name: String,
    /// Type of its values.
    pub kind: Kind,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Byte of the file where it begins.
    pub start: usize,
    /// Byte of the file after it.
    pub end: usize,
}

impl Place {
    /// Returns the bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.shape.last().copied().unwrap_or(1) / self.kind.block() * self.kind.bytes()
    }
}

/// Tensor as the header has it, with its place in the data.
struct Raw {
    name: String,
    kind: Kind,
    shape: Vec<usize>,
    offset: u64,
}

/// Reads the header of the mapped file `path`.
pub(super) fn read(path: &Path, map: &[u8]) -> Result<Header> {
    let mut cursor = Cursor::new(path, map);
    let magic = cursor.u32("its header")?.to_le_bytes();
    if magic != MAGIC {
        return Err(Error::file(path, "is no GGUF: it does not begin with `GGUF`")
            .hint("the file is damaged, or of another format under this name"));
    }
    match cursor.u32("its header")? {
        2 | 3 => {}
        1 => {
            return Err(Error::file(path, "is GGUF of version 1, expected 2 or 3")
                .hint("make it again with a newer llama.cpp"));
        }
        version if version.trailing_zeros() >= 16 => {
            return Err(
                Error::file(path, "has big-endian numbers").hint("take the model's little-endian file")
            );
        }
        version => {
            return Err(
                Error::file(path, format!("is GGUF of version {version}, expected 2 or 3")).hint(DAMAGED)
            );
        }
    }
    // Tensor: name, number of sizes, one size, type, offset. Key: text, type, one byte.
    let tensors = cursor.count(8 + 4 + 8 + 4 + 8, "its list of tensors")?;
    let keys = cursor.count(8 + 4 + 1, "its metadata")?;
    let mut metadata = BTreeMap::new();
    for _ in 0..keys {
        let key = cursor.text("a key of its metadata")?;
        let value = cursor.value(&key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(Error::key(path, key, "is there twice").hint("whatever wrote this file is broken"));
        }
    }
    let raw: Vec<Raw> = (0..tensors).map(|_| tensor(path, &mut cursor)).collect::<Result<_>>()?;
    let alignment = alignment(path, &metadata)?;
    let data = cursor.position().next_multiple_of(alignment);
    let tensors = raw.into_iter().map(|raw| place(path, raw, alignment, data, map.len()));
    let tensors: Vec<Place> = tensors.collect::<Result<_>>()?;
    check_apart(path, &tensors)?;
    Ok(Header { metadata, tensors })
}

fn alignment(path: &Path, metadata: &BTreeMap<String, Value>) -> Result<usize> {
    const KEY: &str = "general.alignment";
    let Some(value) = metadata.get(KEY) else { return Ok(32) };
    let is_sound = |size: &usize| size.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(size);
    value.as_size().filter(is_sound).ok_or_else(|| {
        Error::key(path, KEY, format!("expected a power of two from 8 on, found {}", value.shown()))
    })
}

/// Reads name, sizes, type and place of a tensor.
fn tensor(path: &Path, cursor: &mut Cursor<'_>) -> Result<Raw> {
    let name = cursor.text("the name of a tensor")?;
    let axes = cursor.u32(&name)?;
    if !(1..=4).contains(&axes) {
        return Err(Error::tensor(path, name, format!("has {axes} axes, expected 1 to 4")).hint(DAMAGED));
    }
    let sizes: Vec<u64> = (0..axes).map(|_| cursor.u64(&name)).collect::<Result<_>>()?;
    let (number, offset) = (cursor.u32(&name)?, cursor.u64(&name)?);
    let Some(kind) = Kind::of(number) else {
        let read: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
        return Err(Error::tensor(
            path,
            name,
            format!("is of type {}, which is not read", other_name(number)),
        )
        .hint(format!("types that are read: {}", read.join(", "))));
    };
    let shape: Option<Vec<usize>> =
        sizes.iter().rev().map(|&size| usize::try_from(size).ok().filter(|&size| size > 0)).collect();
    match shape {
        Some(shape) => Ok(Raw { name, kind, shape, offset }),
        None => {
            Err(Error::tensor(path, name, format!("sizes {sizes:?}, expected numbers from 1 on"))
                .hint(DAMAGED))
        }
    }
}

/// Checks a tensor's sizes and place in the data, which begins at byte `data` of a file of `length` bytes.
fn place(path: &Path, raw: Raw, alignment: usize, data: usize, length: usize) -> Result<Place> {
    let Raw { name, kind, shape, offset } = raw;
    let wrong = |message: String| Err(Error::tensor(path, name.clone(), message).hint(DAMAGED));
    let columns = shape.last().copied().unwrap_or(1);
    if !columns.is_multiple_of(kind.block()) {
        return wrong(format!(
            "rows of {columns} values are no whole blocks of {}, which have {}",
            kind.name(),
            kind.block()
        ));
    }
    let blocks = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    let Some(bytes) = blocks.and_then(|values| (values / kind.block()).checked_mul(kind.bytes())) else {
        return wrong(format!("shape {shape:?} is beyond any memory"));
    };
    if offset % alignment as u64 != 0 {
        return wrong(format!("begins at byte {offset} of the data, which is no multiple of {alignment}"));
    }
    let start = usize::try_from(offset).ok().and_then(|offset| data.checked_add(offset));
    let end = start.and_then(|start| start.checked_add(bytes)).filter(|end| *end <= length);
    match (start, end) {
        (Some(start), Some(end)) => Ok(Place { name, kind, shape, start, end }),
        _ => wrong(format!("its {bytes} bytes from {offset} on end past the file of {length} bytes")),
    }
}

/// Fails where a name is there twice, or tensors lie over one another.
fn check_apart(path: &Path, tensors: &[Place]) -> Result<()> {
    let mut order: Vec<&Place> = tensors.iter().collect();
    order.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = order.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Error::tensor(path, &pair[0].name, "is in the header twice")
            .hint("whatever wrote this file is broken: make it again"));
    }
    order.sort_by_key(|place| place.start);
    match order.windows(2).find(|pair| pair[0].end > pair[1].start) {
        Some(pair) => {
            Err(Error::tensor(path, &pair[1].name, format!("lies over `{}`", pair[0].name)).hint(DAMAGED))
        }
        None => Ok(()),
    }
}
