//! Token ids made by other programs: an .npy, or an .npz with an array `tokens` or a single array. The array has one or
//! two dimensions (rows are concatenated) and any integer dtype.

use npyz::{DType, NpyFile, Order, TypeChar};
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::archive::{broken, open_archive};

/// Name of the array to take from an .npz with several.
const NAME: &str = "tokens";

/// True if the file at `path` can be read and is an .npy or .npz, by name or first bytes.
pub fn holds_token_ids(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(6).read_to_end(&mut start));
    read.is_ok() && (is_npz(path, &start) || is_npy(path, &start))
}

fn called(path: &Path, name: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(name))
}

fn is_npz(path: &Path, start: &[u8]) -> bool {
    called(path, "npz") || start.starts_with(b"PK\x03\x04")
}

fn is_npy(path: &Path, start: &[u8]) -> bool {
    called(path, "npy") || start.starts_with(b"\x93NUMPY")
}

/// Reads the token ids, row by row, from the `bytes` of the file `path`. Returns `None` if the file is neither an .npy
/// nor an .npz, by name or first bytes.
///
/// # Errors
/// When the file is damaged, has no array to take, or the array is empty, has more than two dimensions or none, or
/// holds values that are no token ids.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Option<Vec<u32>>> {
    let tokens = if is_npz(path, bytes) {
        array(path, &member(path, bytes)?)?
    } else if is_npy(path, bytes) {
        array(path, bytes)?
    } else {
        return Ok(None);
    };
    if tokens.is_empty() {
        return Err(Error::file(path, "is empty").hint(HINT));
    }
    Ok(Some(tokens))
}

/// Returns the contents of the .npy to take from the .npz `bytes`.
fn member(path: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    let broken = |e| broken(path, "npz", &e);
    let mut archive = open_archive(path, "npz", bytes)?;
    let mut names = Vec::new();
    for index in 0..archive.len() {
        let name = archive.by_index(index).map_err(broken)?.name().map_err(broken)?.into_owned();
        names.extend(name.strip_suffix(".npy").map(|array| (array.to_owned(), index)));
    }
    let chosen = names.iter().find(|(name, _)| name == NAME).or(names.first().filter(|_| names.len() == 1));
    let Some((_, index)) = chosen else {
        let found: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
        return Err(Error::file(
            path,
            format!("expected an array `{NAME}` or a single one, found [{}]", found.join(", ")),
        )
        .hint(HINT));
    };
    let mut npy = Vec::new();
    archive.by_index(*index).map_err(broken)?.read_to_end(&mut npy).map_err(|e| broken(e.into()))?;
    Ok(npy)
}

fn array(path: &Path, npy: &[u8]) -> Result<Vec<u32>> {
    if let Some(refusal) = crate::formats::npy::refusal(npy) {
        return Err(Error::file(path, refusal).hint(HINT));
    }
    let file =
        NpyFile::new(npy).map_err(|e| Error::file(path, format!("not a whole npy array: {e}")).hint(HINT))?;
    let shape: Vec<usize> = file.shape().iter().map(|&n| n as usize).collect();
    if !(1..=2).contains(&shape.len()) {
        return Err(Error::file(
            path,
            format!("token ids of shape {shape:?}, expected one or two dimensions"),
        )
        .hint(HINT));
    }
    if shape.iter().try_fold(8, |bytes: usize, &n| bytes.checked_mul(n)).is_none() {
        return Err(Error::file(path, format!("an impossible shape, {shape:?}")).hint(HINT));
    }
    let fortran = file.order() == Order::Fortran && shape.len() == 2;
    let ids = ids(path, file)?;
    if !fortran {
        return Ok(ids);
    }
    let (rows, columns) = (shape[0], shape[1]);
    Ok((0..rows)
        .flat_map(|r| (0..columns).map(move |c| r + c * rows))
        .filter_map(|i| ids.get(i).copied())
        .collect())
}

fn ids(path: &Path, file: NpyFile<&[u8]>) -> Result<Vec<u32>> {
    let kind = match file.dtype() {
        DType::Plain(kind) => Some((kind.type_char(), kind.size_field())),
        _ => None,
    };
    match kind {
        Some((TypeChar::Int, 1)) => convert::<i8>(path, file),
        Some((TypeChar::Int, 2)) => convert::<i16>(path, file),
        Some((TypeChar::Int, 4)) => convert::<i32>(path, file),
        Some((TypeChar::Int, 8)) => convert::<i64>(path, file),
        Some((TypeChar::Uint, 1)) => convert::<u8>(path, file),
        Some((TypeChar::Uint, 2)) => convert::<u16>(path, file),
        Some((TypeChar::Uint, 4)) => convert::<u32>(path, file),
        Some((TypeChar::Uint, 8)) => convert::<u64>(path, file),
        _ => Err(Error::file(
            path,
            format!("token ids of numpy dtype {}, expected integers", file.dtype().descr()),
        )
        .hint(HINT)),
    }
}

fn convert<T>(path: &Path, file: NpyFile<&[u8]>) -> Result<Vec<u32>>
where
    T: npyz::Deserialize + TryInto<u32> + Copy + std::fmt::Display,
{
    let damaged = |e: &dyn std::fmt::Display| {
        Error::file(path, format!("not a whole npy array: {e}")).hint("the file is truncated or damaged")
    };
    let values = file.data::<T>().map_err(|e| damaged(&e))?;
    let mut ids = Vec::new();
    for (index, value) in values.enumerate() {
        let value = value.map_err(|e| damaged(&e))?;
        ids.push(value.try_into().map_err(|_| {
            Error::file(path, format!("value {value} at {index} is no token id"))
                .hint("padding must be left out")
        })?);
    }
    Ok(ids)
}

const HINT: &str =
    "token ids are an integer array of one or two dimensions in an .npy, or called `tokens` in an .npz";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::text::tests::{open, tokenizer};
    use crate::formats::npz::NpzWriter;
    use crate::numerics::dtype::Dtype;

    fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let order = if fortran { "True" } else { "False" };
        let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn npz(arrays: &[(&str, &[u8])]) -> Vec<u8> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x.npz");
        let mut npz = NpzWriter::create(&path).unwrap();
        for (name, data) in arrays {
            npz.add(name, Dtype::U8, &[data.len()], data).unwrap();
        }
        npz.finish().unwrap();
        std::fs::read(&path).unwrap()
    }

    #[track_caller]
    fn reads(name: &str, bytes: &[u8], expected: &[u32]) {
        let text = open(name, bytes).unwrap();
        assert_eq!(text.form(), "token ids");
        assert_eq!(text.tokens(&tokenizer()).unwrap(), expected);
    }

    #[track_caller]
    fn refused(name: &str, bytes: &[u8], expected: &str) {
        let error = open(name, bytes).unwrap_err();
        assert!(error.to_string().contains(expected) && error.to_string().contains(name), "{error}");
        assert!(error.hint_text().is_some());
    }

    #[test]
    fn any_integers_of_one_or_two_dimensions() {
        reads("a.npy", &npy("|i1", false, "(3,)", &[1, 2, 127]), &[1, 2, 127]);
        reads("a.npy", &npy("|u1", false, "(2,)", &[1, 255]), &[1, 255]);
        reads("a.npy", &npy("<u2", false, "(2,)", &[1, 2, 3, 4]), &[0x201, 0x403]);
        reads("a.npy", &npy(">u2", false, "(2,)", &[1, 2, 3, 4]), &[0x102, 0x304]);
        reads("a.npy", &npy("<i8", false, "(1,)", &[7, 0, 0, 1, 0, 0, 0, 0]), &[0x0100_0007]);
        reads("a.npy", &npy("|u1", false, "(2, 3)", &[1, 2, 3, 4, 5, 6]), &[1, 2, 3, 4, 5, 6]);
        reads("a.npy", &npy("|u1", true, "(2, 3)", &[1, 4, 2, 5, 3, 6]), &[1, 2, 3, 4, 5, 6]);
        // By its first bytes.
        reads("tokens", &npy("|u1", false, "(1,)", &[9]), &[9]);
    }

    #[test]
    fn archives_with_tokens_or_one_array() {
        reads("a.npz", &npz(&[("ids", &[1, 2])]), &[1, 2]);
        reads("a.npz", &npz(&[("logits", &[0]), ("tokens", &[3, 4])]), &[3, 4]);
        reads("a", &npz(&[("ids", &[5])]), &[5]);
        refused("a.npz", &npz(&[("x", &[1]), ("y", &[2])]), "found [x, y]");
        refused("a.npz", b"PK\x03\x04", "not a whole npz file");
    }

    #[test]
    fn other_arrays_are_refused() {
        refused("a.npy", &npy("<f4", false, "(1,)", &[0; 4]), "numpy dtype '<f4', expected integers");
        refused("a.npy", &npy("|b1", false, "(1,)", &[1]), "expected integers");
        refused("a.npy", &npy("|i1", false, "(2,)", &[1, 0xff]), "value -1 at 1 is no token id");
        refused("a.npy", &npy("<u8", false, "(1,)", &[0, 0, 0, 0, 1, 0, 0, 0]), "value 4294967296 at 0");
        refused("a.npy", &npy("|u1", false, "(1, 1, 1)", &[1]), "shape [1, 1, 1]");
        refused("a.npy", &npy("|u1", false, "()", &[1]), "shape []");
        refused("a.npy", &npy("|u1", false, "(0,)", &[]), "is empty");
        refused("a.npy", &npy("<u4", false, "(4,)", &[1, 2, 3]), "not a whole npy array");
        let huge = npy("|u1", true, "(4611686018427387904, 3)", &[1]);
        refused("a.npy", &huge, "an impossible shape");
        let huge = npy("|u1", false, "(4294967296, 4294967296)", &[1]);
        refused("a.npy", &huge, "an impossible shape");
        refused("a.npy", &npy("|u1", false, &"(".repeat(9000), &[1]), "brackets");
        refused("a.npy", b"plain", "not a whole npy array");
    }
}
