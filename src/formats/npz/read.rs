//! The members of an .npz as tensors, with their checksums.

use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};
use rayon::prelude::*;
use std::path::Path;
use zip::CompressionMethod;

use crate::error::{Error, Result};
use crate::files::archive::{broken, damaged, open_archive};
use crate::formats::entry::Entry;
use crate::numerics::dtype::Dtype;

/// Checksum of a member's bytes, as the archive's directory has it.
#[derive(Debug)]
pub(crate) struct Checksum {
    name: String,
    start: usize,
    end: usize,
    crc32: u32,
}

impl Checksum {
    /// Bytes that one thread reads at a time.
    const CHUNK: usize = 4 << 20;

    /// Makes the checksum of the member `name`, whose bytes lie from the first to the second number of `place`.
    pub(crate) fn new(name: String, (start, end): (usize, usize), crc32: u32) -> Self {
        Self { name, start, end, crc32 }
    }

    /// Fails unless the bytes of the member are those that were written; `release` is called with the parts that were
    /// read.
    pub(crate) fn verify(
        &self,
        file: &Path,
        map: &[u8],
        release: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<()> {
        let hash = (self.start..self.end)
            .into_par_iter()
            .step_by(Self::CHUNK)
            .map(|start| {
                let end = (start + Self::CHUNK).min(self.end);
                let mut hash = crc32fast::Hasher::new();
                hash.update(&map[start..end]);
                release(start, end);
                hash
            })
            .reduce(crc32fast::Hasher::new, |mut hash, next| {
                hash.combine(&next);
                hash
            });
        let actual = hash.finalize();
        if actual == self.crc32 {
            return Ok(());
        }
        let message = format!("is damaged: its CRC-32 is {actual:08x}, the archive says {:08x}", self.crc32);
        Err(Error::tensor(file, &self.name, message)
            .hint("the file was changed after it was written: take it again"))
    }
}

/// Named tensors, and the checksums of their members.
pub(crate) type Members = (Vec<(String, Entry)>, Vec<Checksum>);

/// Reads the directory and the headers of a mapped npz.
pub(crate) fn read_entries(path: &Path, map: &[u8], file: usize) -> Result<Members> {
    let broken = |e| broken(path, "npz", &e);
    let mut archive = open_archive(path, "npz", map)?;
    let (mut entries, mut checksums) = (Vec::new(), Vec::new());
    for index in 0..archive.len() {
        let member = archive.by_index(index).map_err(broken)?;
        let member_name = member.name().map_err(broken)?.into_owned();
        let Some(name) = member_name.strip_suffix(".npy") else { continue };
        if member.compression() != CompressionMethod::Stored {
            return Err(Error::tensor(path, name, "is compressed, so it cannot be mapped")
                .hint("save it again with numpy.savez (not savez_compressed) or mx.savez"));
        }
        let start = member.data_start().unwrap_or(u64::MAX);
        let end = start.saturating_add(member.size());
        if end > map.len() as u64 {
            return Err(damaged(path, "npz", &format!("member `{member_name}` ends past the file")));
        }
        let entry = member_entry(path, name, map, (start as usize, end as usize), file)?;
        checksums.push(Checksum {
            name: name.to_owned(),
            start: start as usize,
            end: end as usize,
            crc32: member.crc32(),
        });
        entries.push((name.to_owned(), entry));
    }
    Ok((entries, checksums))
}

fn member_entry(path: &Path, name: &str, map: &[u8], span: (usize, usize), file: usize) -> Result<Entry> {
    let (start, end) = span;
    let mut reader = &map[start..end];
    if let Some(refusal) = crate::formats::npy::refusal(reader) {
        return Err(Error::tensor(path, name, refusal)
            .hint("the file is damaged, or made to deceive: take it from where it was made"));
    }
    let header = NpyHeader::from_reader(&mut reader).map_err(|e| Error::tensor(path, name, e.to_string()))?;
    let dtype = match header.dtype() {
        DType::Plain(kind) if kind.endianness() != Endianness::Big => {
            dtype_from_npy(kind.type_char(), kind.size_field())
        }
        _ => None,
    };
    let dtype = dtype.ok_or_else(|| {
        Error::tensor(path, name, format!("numpy dtype {} is not supported", header.dtype().descr()))
            .hint("save it as little-endian floats or integers")
    })?;
    let shape: Vec<usize> = header.shape().iter().map(|&n| n as usize).collect();
    if header.order() == Order::Fortran && shape.len() > 1 {
        return Err(Error::tensor(path, name, "is in Fortran order").hint("save it as a C-contiguous array"));
    }
    let data = end - reader.len();
    let bytes = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d));
    if bytes != Some(reader.len()) {
        return Err(Error::tensor(
            path,
            name,
            format!("shape {shape:?} does not fit its {} bytes", reader.len()),
        ));
    }
    Ok(Entry::new(file, dtype, shape, [data, end]))
}

fn dtype_from_npy(kind: TypeChar, size: u64) -> Option<Dtype> {
    Some(match (kind, size) {
        (TypeChar::Float, 8) => Dtype::F64,
        (TypeChar::Float, 4) => Dtype::F32,
        (TypeChar::Float, 2) => Dtype::F16,
        (TypeChar::RawData, 2) => Dtype::BF16,
        (TypeChar::Int, 8) => Dtype::I64,
        (TypeChar::Int, 4) => Dtype::I32,
        (TypeChar::Int, 2) => Dtype::I16,
        (TypeChar::Int, 1) => Dtype::I8,
        (TypeChar::Uint, 8) => Dtype::U64,
        (TypeChar::Uint, 4) => Dtype::U32,
        (TypeChar::Uint, 2) => Dtype::U16,
        (TypeChar::Uint, 1) => Dtype::U8,
        (TypeChar::Bool, 1) => Dtype::Bool,
        _ => return None,
    })
}

fn descr(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F64 => "<f8",
        Dtype::F32 => "<f4",
        Dtype::F16 => "<f2",
        Dtype::BF16 => "<V2",
        Dtype::I64 => "<i8",
        Dtype::I32 => "<i4",
        Dtype::I16 => "<i2",
        Dtype::I8 => "|i1",
        Dtype::U64 => "<u8",
        Dtype::U32 => "<u4",
        Dtype::U16 => "<u2",
        Dtype::U8 => "|u1",
        Dtype::Bool => "|b1",
        Dtype::F8E4M3 | Dtype::F8E8M0 => "|V1",
    }
}

/// Makes a version 1.0 header, padded so that the data is a multiple of 64 bytes into the member.
pub(crate) fn npy_header(dtype: Dtype, shape: &[usize]) -> Vec<u8> {
    let sizes: Vec<String> = shape.iter().map(|n| format!("{n},")).collect();
    let sizes = sizes.join(" ");
    let mut text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({sizes}), }}", descr(dtype));
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.extend(std::iter::repeat_n(' ', length - text.len() - 1));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((length as u16).to_le_bytes());
    header.extend(text.into_bytes());
    header
}

/// Bytes from which an array gets a zip64 member: 32 bits, less the npy header.
pub(crate) const ZIP64_BYTES: u64 = u32::MAX as u64 - 4096;
