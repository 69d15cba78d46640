//! What is wrong with a safetensors file's header: the crate that reads it says that something is, and often not with
//! which tensor.

use safetensors::SafeTensorError;
use safetensors::tensor::TensorInfo;
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;

use crate::error::Error;
use crate::words::count;

/// The JSON text, if the file is long enough for it.
fn header(map: &[u8]) -> Option<&[u8]> {
    let length = usize::try_from(u64::from_le_bytes(*map.first_chunk()?)).ok()?;
    map.get(8..length.checked_add(8)?)
}

/// The first name that a safetensors header has twice, of which a JSON parser would keep one. `None` also where there is
/// no readable header: that is found out elsewhere.
pub(crate) fn twice(map: &[u8]) -> Option<String> {
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

/// What the crate's `error` about a file means.
pub(crate) fn malformed(path: &Path, map: &[u8], error: &SafeTensorError) -> Error {
    let whole = "not a whole safetensors file";
    let length = map.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    let error = match (length, wrong_tensor(map)) {
        (None, _) => {
            let detail = format!("{}, too few for a safetensors header", count(map.len(), "byte"));
            Error::file(path, format!("{whole}: {detail}"))
        }
        (Some(length), _) if length.saturating_add(8) > map.len() as u64 => {
            let detail = format!("the header claims {length} bytes, the file has {}", map.len());
            Error::file(path, format!("{whole}: {detail}"))
        }
        (Some(_), _) if claimed(map).is_some_and(|claimed| claimed > map.len() as u64) => {
            let detail = format!(
                "by its header it has {} bytes, {} are there",
                claimed(map).unwrap_or_default(),
                map.len()
            );
            Error::file(path, format!("{whole}: {detail}"))
        }
        (Some(_), Some((name, detail))) => Error::tensor(path, name, format!("{whole}: {detail}")),
        (Some(_), None) => Error::file(path, format!("{whole}: {error}")),
    };
    error.hint("the file is truncated or damaged: download it again")
}

/// Bytes of a whole file with this header, if its tensors lie one after the other.
fn claimed(map: &[u8]) -> Option<u64> {
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

/// The first tensor, as they lie in the file, whose entry cannot be, and why.
fn wrong_tensor(map: &[u8]) -> Option<(String, String)> {
    let text = header(map)?;
    let entries: Map<String, Value> = serde_json::from_slice(text).ok()?;
    let mut tensors = Vec::new();
    for (name, entry) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
        match serde_json::from_value::<TensorInfo>(entry) {
            Ok(info) => tensors.push((name, info)),
            Err(error) => return Some((name, format!("its entry in the header cannot be read: {error}"))),
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

/// What is wrong with an entry of a file with so many bytes of `data`.
fn wrong_entry(info: &TensorInfo, data: usize) -> Option<String> {
    let (from, to) = info.data_offsets;
    if from > to || to > data {
        return Some(format!("its offsets {from}..{to} are not within the data of {data} bytes"));
    }
    let (shape, dtype, found) = (&info.shape, info.dtype, to - from);
    let needed = match bytes(info) {
        Some(needed) if needed == found => return None,
        Some(needed) => needed.to_string(),
        None => "too many".to_owned(),
    };
    Some(format!("shape {shape:?} in {dtype} takes {needed} bytes, its offsets {from}..{to} give {found}"))
}

fn bytes(info: &TensorInfo) -> Option<usize> {
    let values = info.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))?;
    values.checked_mul(info.dtype.bitsize()).map(|bits| bits.div_ceil(8))
}
