//! Archives that a converter rarely meets: over 4 GB, with names twice.

use crate::formats::checkpoint::Checkpoint;
use crate::formats::npz::read::npy_header;
use crate::numerics::dtype::Dtype;
use std::fs;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use crate::formats::npz::*;

/// More bytes than 32 bits can count.
const OVER: u64 = (1 << 32) + (1 << 20);

/// Fields of ZIP headers, little-endian.
fn fields(signature: [u8; 4], shorts: &[u16], longs: &[u32], more_shorts: &[u16]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend(shorts.iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend(longs.iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend(more_shorts.iter().flat_map(|n| n.to_le_bytes()));
    bytes
}

/// Extra field of zip64.
fn extra(values: &[u64]) -> Vec<u8> {
    let mut bytes = [1u16, values.len() as u16 * 8].map(u16::to_le_bytes).concat();
    bytes.extend(values.iter().flat_map(|n| n.to_le_bytes()));
    bytes
}

/// An npz whose first member is a hole of [`OVER`] bytes and whose second one lies behind it, put together by the letter of
/// APPNOTE.TXT 4.3.7, 4.3.12, 4.3.14 and 4.3.16. It takes next to no room on the disk.
fn over_4_gb(path: &Path) {
    const FULL: u32 = u32::MAX;
    let mut file = File::create(path).unwrap();
    let mut directory = Vec::new();
    let (large, small) = (npy_header(Dtype::U8, &[OVER as usize]), npy_header(Dtype::F32, &[2]));
    for (name, header, data) in [("a.npy", large, OVER), ("b.npy", small, 8)] {
        let size = header.len() as u64 + data;
        let offset = file.stream_position().unwrap();
        let names = [name.len() as u16];
        let local = fields(*b"PK\x03\x04", &[45, 0, 0, 0, 0x21], &[0, FULL, FULL], &[names[0], 20]);
        file.write_all(&[local, name.into(), extra(&[size, size]), header].concat()).unwrap();
        if data == 8 {
            file.write_all(&[1.5f32, -2.0].map(f32::to_le_bytes).concat()).unwrap();
        } else {
            file.seek(SeekFrom::Current(data as i64)).unwrap();
        }
        let central = [
            fields(*b"PK\x01\x02", &[45, 45, 0, 0, 0, 0x21], &[0, FULL, FULL], &[names[0], 28, 0, 0, 0]),
            fields([0; 4], &[], &[FULL], &[]),
            name.into(),
            extra(&[size, size, offset]),
        ];
        directory.extend(central.concat());
    }
    let (start, length) = (file.stream_position().unwrap(), directory.len() as u64);
    let mut end = fields(*b"PK\x06\x06", &[], &[44, 0], &[45, 45]);
    end.extend([0u32; 2].iter().flat_map(|n| n.to_le_bytes()));
    end.extend([2, 2, length, start].iter().flat_map(|n: &u64| n.to_le_bytes()));
    let mut locator = fields(*b"PK\x06\x07", &[], &[0], &[]);
    locator.extend((start + length).to_le_bytes());
    locator.extend(1u32.to_le_bytes());
    let classic = fields(*b"PK\x05\x06", &[0, 0, 2, 2], &[length as u32, FULL], &[0]);
    file.write_all(&[directory, end, locator, classic].concat()).unwrap();
}

#[test]
fn members_over_4_gb_are_mapped() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("large.npz");
    over_4_gb(&path);
    assert!(fs::metadata(&path).unwrap().len() > OVER);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let large = checkpoint.get("a").unwrap();
    assert_eq!(
        (large.dtype, large.shape, large.bytes().len() as u64),
        (Dtype::U8, &[OVER as usize][..], OVER)
    );
    let behind = checkpoint.get("b").unwrap();
    assert_eq!(*behind.bytes(), *[1.5f32, -2.0].map(f32::to_le_bytes).concat());
}

#[test]
fn a_member_is_zip64_where_it_may_pass_4_gb() {
    let home = tempfile::tempdir().unwrap();
    let version = |length: u64| {
        let path = home.path().join("x.npz");
        let mut npz = NpzWriter::create(&path).unwrap();
        npz.start("a", Dtype::U8, &[length as usize], length as usize).unwrap();
        npz.finish().unwrap();
        let mut archive = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
        archive.by_index(0).unwrap();
        let bytes = fs::read(&path).unwrap();
        u16::from_le_bytes([bytes[4], bytes[5]])
    };
    assert_eq!((version(1000), version(u64::from(u32::MAX) - 10_000)), (10, 10));
    assert_eq!((version(u64::from(u32::MAX) - 64), version(OVER)), (45, 45));
}

/// `cargo nextest run --run-ignored only over_4_gb`
#[test]
#[ignore = "writes 4.3 GB to the disk"]
fn members_over_4_gb_are_written() {
    let home = tempfile::tempdir().unwrap();
    let (hole, path) = (home.path().join("hole"), home.path().join("large.npz"));
    File::create(&hole).unwrap().set_len(OVER).unwrap();
    let zeros = crate::files::mapped::Mapped::open(&hole).unwrap();
    let mut npz = NpzWriter::create(&path).unwrap();
    npz.start("a", Dtype::U8, &[OVER as usize], OVER as usize).unwrap();
    zeros.chunks(|chunk| npz.write(chunk)).unwrap();
    npz.add("b", Dtype::F32, &[1], &1.5f32.to_le_bytes()).unwrap();
    npz.finish().unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.get("a").unwrap().bytes().len() as u64, OVER);
    assert_eq!(*checkpoint.get("b").unwrap().bytes(), 1.5f32.to_le_bytes()[..]);
    checkpoint.verify().unwrap();
}

#[test]
fn names_that_are_there_twice_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("x.npz");
    let mut npz = NpzWriter::create(&path).unwrap();
    for name in ["first", "other"] {
        npz.add(name, Dtype::F32, &[1], &1.5f32.to_le_bytes()).unwrap();
    }
    npz.finish().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    for at in 0..bytes.len() - 5 {
        if bytes[at..].starts_with(b"other") {
            bytes[at..at + 5].copy_from_slice(b"first");
        }
    }
    fs::write(&path, bytes).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(error.to_string().contains("`first.npy` is in it twice"), "{error}");
}

#[test]
fn shapes_whose_product_overflows_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("x.npz");
    let mut npz = NpzWriter::create(&path).unwrap();
    npz.add("a", Dtype::F32, &[1], &1.5f32.to_le_bytes()).unwrap();
    npz.finish().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let (old, new) = (format!("(1,), }}{:20}", ""), "(4294967296, 4294967296), }");
    assert_eq!(old.len(), new.len());
    let at = bytes.windows(old.len()).position(|window| window == old.as_bytes()).unwrap();
    bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    fs::write(&path, bytes).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(error.to_string().contains("`a`: an impossible shape, (4294967296, 4294967296)"), "{error}");
}
