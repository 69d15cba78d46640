//! Safetensors: the length of the header, the header, and offsets, shapes and dtypes in it.

use fastrand::Rng;
use serde_json::{Value, json};

use super::{bytes, json, one_of, words};

const DTYPES: &[&str] = &[
    "F32", "F16", "BF16", "F64", "U32", "U8", "I64", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "C64",
    "E8M0", "f32", "", "F128",
];

/// Bytes of the length of the header.
const LENGTH: usize = 8;

pub fn mutate(original: &[u8], rng: &mut Rng) -> Vec<u8> {
    let Some((length, rest)) = original.split_first_chunk::<LENGTH>() else {
        return bytes::mutate(original, rng);
    };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX).min(rest.len());
    let (header, data) = rest.split_at(length);
    let mut declared = length as u64;
    let (mut header, mut data) = (header.to_vec(), data.to_vec());
    match rng.u8(..10) {
        0 => declared = length_of(declared, data.len() as u64, rng),
        1 => data = bytes::mutate(&data, rng),
        2 => {
            header = bytes::mutate(&header, rng);
            declared = header.len() as u64;
        }
        3 | 4 => {
            header = json::mutate(&header, words::CONFIG, rng);
            declared = header.len() as u64;
        }
        _ => {
            header = entries(&header, data.len() as u64, rng);
            declared = header.len() as u64;
        }
    }
    [declared.to_le_bytes().as_slice(), &header, &data].concat()
}

/// Returns a length of a header that is wrong, or nearly right.
fn length_of(header: u64, data: u64, rng: &mut Rng) -> u64 {
    let all =
        [0, 1, header - 1, header + 1, header + data, header + data + 1, 100_000_001, 1 << 63, u64::MAX];
    all[rng.usize(..all.len())]
}

/// Changes one or two entries of the header.
fn entries(header: &[u8], data: u64, rng: &mut Rng) -> Vec<u8> {
    let Ok(Value::Object(mut map)) = serde_json::from_slice(header) else {
        return bytes::mutate(header, rng);
    };
    for _ in 0..rng.usize(1..3) {
        let names: Vec<String> = map.keys().cloned().collect();
        let (name, other) = (&names[rng.usize(..names.len())], &names[rng.usize(..names.len())]);
        let odd = [0, 1, u64::MAX, 1 << 32, 1 << 63, data, data + 1, rng.u64(..1000)];
        let mut number = || json!(odd[rng.usize(..odd.len())]);
        match number().as_u64().unwrap_or_default() % 8 {
            _ if map[name].get("shape").is_none() => {
                map.insert(name.clone(), number());
            }
            0 => map[name]["data_offsets"] = json!([number(), number()]),
            1 => map[name]["data_offsets"][0] = number(),
            2 => map[name]["data_offsets"][1] = number(),
            3 => map[name]["shape"] = json!([number(), number()]),
            4 => map[name]["shape"] = json!([number(), number(), number(), 0]),
            5 => map[name]["dtype"] = json!(one_of(DTYPES, rng)),
            6 => map[name]["data_offsets"] = map[other].get("data_offsets").cloned().unwrap_or_default(),
            _ => match map[name]["shape"].get_mut(0) {
                Some(size) => *size = number(),
                None => map[name]["shape"] = json!([number()]),
            },
        }
        if rng.u8(..6) == 0 {
            let entry = map[name].clone();
            let alias =
                [format!("TWICE:{other}"), format!("{other}.weight"), other.replace("layers.0", "layers.9")];
            map.insert(alias[rng.usize(..3)].clone(), entry);
        }
    }
    json::write(&Value::Object(map))
}
