//! Bits and ranges of bytes, whatever they mean.

use std::ops::Range;

use fastrand::Rng;

/// Makes one to four changes.
pub fn mutate(original: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..rng.usize(1..5) {
        change(&mut bytes, rng);
    }
    bytes
}

/// Makes changes in the first bytes, where a binary header lies.
pub fn mutate_start(original: &[u8], rng: &mut Rng) -> Vec<u8> {
    const HEADER_BYTES: usize = 6000;
    let (start, rest) = original.split_at(original.len().min(HEADER_BYTES));
    [mutate(start, rng), rest.to_vec()].concat()
}

fn change(bytes: &mut Vec<u8>, rng: &mut Rng) {
    if bytes.is_empty() {
        bytes.push(rng.u8(..));
        return;
    }
    // What begins and ends a file says most about it.
    let length = bytes.len();
    let at = match rng.u8(..4) {
        0 => rng.usize(..length.min(64)),
        1 => length - 1 - rng.usize(..length.min(64)),
        _ => rng.usize(..length),
    };
    match rng.u8(..9) {
        0 | 1 => bytes[at] ^= 1 << rng.u8(..8),
        2 => bytes[at] = [0, 0xff, b'"', b'{', b'9', b'\n', rng.u8(..)][rng.usize(..7)],
        3 => bytes.truncate(at),
        4 => {
            bytes.drain(range(at, length, rng));
        }
        5 => {
            let copy = bytes[range(at, length, rng)].to_vec();
            let to = rng.usize(..=length);
            bytes.splice(to..to, copy);
        }
        6 => {
            let other = rng.usize(..length);
            bytes.swap(at, other);
        }
        7 => {
            let width = [1, 2, 4, 8][rng.usize(..4)].min(length - at);
            let value = [0, u64::MAX, 1, 1 << 31, 1 << 63, rng.u64(..)][rng.usize(..6)];
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        _ => {
            let filler = vec![rng.u8(..); rng.usize(1..300)];
            bytes.splice(at..at, filler);
        }
    }
}

fn range(at: usize, length: usize, rng: &mut Rng) -> Range<usize> {
    let most = if rng.bool() { 8 } else { 4096 };
    at..(at + 1 + rng.usize(..most)).min(length)
}
