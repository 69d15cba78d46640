//! ZIPs of numpy and of mixbit: the fields of their records, and archives made anew around a changed entry, whose checksums
//! are right.

use std::io::{Cursor, Read, Write};

use fastrand::Rng;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::{bytes, json, one_of, words};

/// First bytes of a ZIP's records, and how many bytes of each are fields.
const RECORDS: [(&[u8], usize); 5] =
    [(b"PK\x03\x04", 30), (b"PK\x01\x02", 46), (b"PK\x05\x06", 22), (b"PK\x06\x06", 56), (b"PK\x06\x07", 20)];

const NAMES: &[&str] = &[
    "",
    "/",
    "../x",
    "a//b",
    "config.json",
    "CONFIG.JSON",
    "model.safetensors",
    "a/",
    "C:\\x",
    "é.npy",
    "\u{0}",
    "mixbit-pack.json",
    "x.npy",
    "lm_head.weight.npy",
    "a\nb",
];

pub fn mutate(original: &[u8], rng: &mut Rng) -> Vec<u8> {
    if rng.bool() {
        return fields(original, rng);
    }
    anew(original, rng).unwrap_or_else(|_| bytes::mutate(original, rng))
}

/// Returns an array of numpy with its header changed.
pub fn mutate_array(original: &[u8], rng: &mut Rng) -> Vec<u8> {
    const REPLACED: [(&str, &[&str]); 8] = [
        ("'<", &["'>", "'|", "'="]),
        ("f4", &["f2", "f8", "u4", "i8", "c8", "O8", "V2", "b1", "M8"]),
        ("u4", &["f4", "u1", "i2", "i8", "U4"]),
        ("u2", &["f2", "V2", "u1", "i2"]),
        ("False", &["True", "1", "None"]),
        ("(", &["((", "(-", "(99999999999999999999,", "(0,", "", "[", "(18446744073709551615,"]),
        (",", &["", ",,", ", 4294967296,", ", 0,"]),
        ("shape", &["shap", "", "descr"]),
    ];
    let header = original.len().min(128);
    let text = String::from_utf8_lossy(&original[..header]).into_owned();
    let there: Vec<_> = REPLACED.iter().filter(|(old, _)| text.contains(old)).collect();
    if !original.starts_with(b"\x93NUMPY") || there.is_empty() || rng.u8(..4) == 0 {
        let mut bytes = original.to_vec();
        let at = rng.usize(..header.max(1));
        if let Some(byte) = bytes.get_mut(at) {
            *byte = rng.u8(..);
        }
        return bytes;
    }
    let (old, replacements) = there[rng.usize(..there.len())];
    let mut new = one_of(replacements, rng).to_owned();
    if rng.u8(..8) == 0 {
        new = "(".repeat(1 << rng.u32(1..16));
    }
    let at = original.windows(old.len()).position(|window| window == old.as_bytes()).unwrap_or_default();
    let mut bytes = original.to_vec();
    bytes.splice(at..at + old.len(), new.bytes());
    if rng.bool() {
        // The length of the header still right, its padding shorter or longer.
        let length =
            usize::from(u16::from_le_bytes([bytes[8], bytes[9]])) + new.len() - old.len().min(new.len());
        bytes[8..10].copy_from_slice(&(length as u16).to_le_bytes());
    }
    bytes
}

/// Changes one field of one record.
fn fields(original: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = original.to_vec();
    let (magic, length) = RECORDS[rng.usize(..RECORDS.len())];
    let places: Vec<usize> =
        original.windows(4).enumerate().filter(|(_, window)| *window == magic).map(|(at, _)| at).collect();
    if places.is_empty() {
        return bytes::mutate(original, rng);
    }
    let at = places[rng.usize(..places.len())] + rng.usize(..length + 8);
    let width = [1, 2, 4, 8][rng.usize(..4)];
    let value = [0, 1, u64::MAX, 0xffff, 1 << 31, original.len() as u64, rng.u64(..)][rng.usize(..7)];
    if let Some(field) = bytes.get_mut(at..at + width) {
        field.copy_from_slice(&value.to_le_bytes()[..width]);
    }
    bytes
}

/// Writes the archive again, with the contents or the name of an entry changed, or the entry left out or written twice.
fn anew(original: &[u8], rng: &mut Rng) -> zip::result::ZipResult<Vec<u8>> {
    let mut archive = ZipArchive::new(Cursor::new(original))?;
    let chosen = rng.usize(..archive.len());
    let what = rng.u8(..8);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let mut name = entry.name()?.into_owned();
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents)?;
        // The manifest of a pack is of the greatest interest.
        let is_chosen = index == chosen || (name == "mixbit-pack.json" && what > 4);
        let mut method = CompressionMethod::Stored;
        match what {
            0 if is_chosen => continue,
            1 if is_chosen => one_of(NAMES, rng).clone_into(&mut name),
            2 if is_chosen => method = CompressionMethod::Deflated,
            _ if is_chosen && contents.starts_with(b"{") => {
                contents = json::mutate(&contents, words::CONFIG, rng);
            }
            _ if is_chosen => contents = mutate_array(&contents, rng),
            _ => {}
        }
        zip.start_file(name, SimpleFileOptions::default().compression_method(method))?;
        zip.write_all(&contents)?;
    }
    Ok(zip.finish()?.into_inner())
}
