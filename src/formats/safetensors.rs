//! Faults of a safetensors file's header: the crate that reads it reports that there is one, and often not in
//! which tensor.

use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensorError};
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;

use crate::error::Error;
use crate::files::json;
use crate::words::count;

/// Returns the header's JSON text, if the file is long enough for it.
fn header(map: &[u8]) -> Option<&[u8]> {
    let length = usize::try_from(u64::from_le_bytes(*map.first_chunk()?)).ok()?;
    map.get(8..length.checked_add(8)?)
}

/// Returns the first name that a safetensors header has twice, of which a JSON parser would keep one. `None` also where
/// there is no readable header, which is refused elsewhere.
pub(crate) fn duplicate_name(map: &[u8]) -> Option<String> {
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
    serde_json::Deserializer::from_slice(header(map)?).deserialize_map(Names(None)).ok()?.0
}

/// Explains the crate's `error` about a file.
pub(crate) fn malformed(path: &Path, map: &[u8], error: &SafeTensorError) -> Error {
    const FAULT: &str = "not a whole safetensors file";
    let error = if let Some(detail) = wrong_length(map) {
        Error::file(path, format!("{FAULT}: {detail}"))
    } else if let Some((name, detail)) = wrong_tensor(map) {
        Error::tensor(path, name, format!("{FAULT}: {detail}"))
    } else {
        Error::file(path, format!("{FAULT}: {}", in_words(error)))
    };
    error.hint("the file is truncated or damaged: download it again")
}

/// Returns the crate's `error` about a header in words.
fn in_words(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::InvalidHeader(error) => {
            format!("its header is no UTF-8 from byte {} on", error.valid_up_to())
        }
        SafeTensorError::InvalidHeaderDeserialization(error) | SafeTensorError::JsonError(error) => {
            match error.classify() {
                Category::Data => {
                    "its header is no object of tensors, or `__metadata__` no object of strings".to_owned()
                }
                _ => format!("its header is not valid JSON: {error}"),
            }
        }
        SafeTensorError::HeaderTooLarge => "its header claims more than 100 MB".to_owned(),
        other => other.to_string(),
    }
}

/// Compares the file's length with those that it begins with: of the header, and by the header of the tensors.
fn wrong_length(map: &[u8]) -> Option<String> {
    let actual = map.len() as u64;
    let Some(header) = map.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Some(format!("{}, too few for a safetensors header", count(map.len(), "byte")));
    };
    if header.saturating_add(8) > actual {
        return Some(format!("the header claims {header} bytes, the file has {actual}"));
    }
    let claimed = claimed_length(map).filter(|&claimed| claimed != actual)?;
    Some(format!("by its header it has {claimed} bytes, {actual} are there"))
}

/// Returns the bytes of a complete file with this header, if its tensors lie one after the other.
fn claimed_length(map: &[u8]) -> Option<u64> {
    let text = header(map)?;
    let entries: Map<String, Value> = serde_json::from_slice(text).ok()?;
    let offsets = entries.values().filter_map(|tensor| {
        let offsets = tensor.get("data_offsets")?;
        Some((offsets.get(0)?.as_u64()?, offsets.get(1)?.as_u64()?))
    });
    let (sum, end) = offsets.fold((0, 0), |(sum, end): (u64, u64), (from, to)| {
        (sum.saturating_add(to.saturating_sub(from)), end.max(to))
    });
    (text.len() as u64 + 8).checked_add(end).filter(|_| sum == end)
}

/// Returns the first tensor, in the order of the file, whose entry is impossible, and the reason.
fn wrong_tensor(map: &[u8]) -> Option<(String, String)> {
    let text = header(map)?;
    let entries: Map<String, Value> = serde_json::from_slice(text).ok()?;
    let mut tensors = Vec::new();
    for (name, entry) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
        let fault = unreadable_part(&entry);
        match serde_json::from_value::<TensorInfo>(entry) {
            Ok(info) => tensors.push((name, info)),
            Err(_) => return Some((name, format!("its entry in the header cannot be read: {fault}"))),
        }
    }
    let data = map.len() - 8 - text.len();
    let alone = tensors.iter().find_map(|(name, info)| Some((name.clone(), wrong_entry(info, data)?)));
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    let mut gap = tensors.into_iter().filter_map(|(name, info)| {
        let (from, before) = (info.data_offsets.0, std::mem::replace(&mut end, info.data_offsets.1));
        let detail = format!("begins at byte {from} of the data, and what comes before ends at {before}");
        (from != before).then_some((name, detail))
    });
    alone.or_else(|| gap.next())
}

/// Returns the part of a tensor's entry that has not the form that it must have.
fn unreadable_part(entry: &Value) -> String {
    let part = |key: &str| entry.get(key).cloned().unwrap_or(Value::Null);
    let dtype = part("dtype");
    if serde_json::from_value::<Dtype>(dtype.clone()).is_err() {
        return format!("{} is no dtype of safetensors", json::shown(&dtype));
    }
    if serde_json::from_value::<Vec<usize>>(part("shape")).is_err() {
        return format!("its shape is {}, expected a list of sizes", json::shown(&part("shape")));
    }
    format!("its data_offsets are {}, expected two positions in the file", json::shown(&part("data_offsets")))
}

/// Returns the fault of an entry in a file with `data` bytes of tensors.
fn wrong_entry(info: &TensorInfo, data: usize) -> Option<String> {
    let (from, to) = info.data_offsets;
    if from > to || to > data {
        return Some(format!("its offsets {from}..{to} are not within the data of {data} bytes"));
    }
    let (shape, dtype, claimed) = (&info.shape, info.dtype, to - from);
    let needed = match bytes(info) {
        Some(needed) if needed == claimed => return None,
        Some(needed) => needed.to_string(),
        None => "too many".to_owned(),
    };
    Some(format!("shape {shape:?} in {dtype} takes {needed} bytes, its offsets {from}..{to} give {claimed}"))
}

fn bytes(info: &TensorInfo) -> Option<usize> {
    let values = info.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
    values.checked_mul(info.dtype.bitsize()).map(|bits| bits.div_ceil(8))
}
