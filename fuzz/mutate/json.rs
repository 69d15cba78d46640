//! Keys and values of JSON: renamed, removed, repeated, swapped, and replaced by unexpected ones.

use fastrand::Rng;
use serde_json::{Value, json};

use super::{bytes, one_of, words};

/// Start of strings that stand for JSON that [`Value`] cannot hold; see [`write`].
const RAW: &str = "RAW:";
const TWICE: &str = "TWICE:";

/// Makes one to three changes of the value, or of the bytes where `original` is no JSON. Strings may become one of `strings`.
pub fn mutate(original: &[u8], strings: &[&str], rng: &mut Rng) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(original) else {
        return bytes::mutate(original, rng);
    };
    for _ in 0..rng.usize(1..4) {
        change(&mut value, strings, rng);
    }
    write(&value)
}

/// Changes one line.
pub fn mutate_line(original: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = original.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    let at = rng.usize(..lines.len());
    lines[at] = mutate(&lines[at], words::CONFIG, rng);
    lines.join(&b'\n')
}

/// Makes one change somewhere, near the root more often than deep down.
pub fn change(root: &mut Value, strings: &[&str], rng: &mut Rng) {
    let other = pick(&mut root.clone(), rng).clone();
    let place = pick(root, rng);
    match place {
        Value::Object(map) if !map.is_empty() && rng.u8(..4) > 0 => {
            let at = rng.usize(..map.len());
            let key = map.keys().nth(at).cloned().unwrap_or_default();
            let second = map.keys().nth(rng.usize(..map.len())).cloned().unwrap_or_default();
            match rng.u8(..6) {
                0 | 1 => {
                    map.shift_remove(&key);
                }
                2 => {
                    let value = map.shift_remove(&key).unwrap_or_default();
                    let name = [one_of(strings, rng).to_owned(), second, format!("{key}x")];
                    map.insert(name[rng.usize(..3)].clone(), value);
                }
                3 => {
                    map.insert(one_of(strings, rng).to_owned(), other);
                }
                4 => {
                    let value = if rng.bool() { other } else { map[&key].clone() };
                    map.insert(format!("{TWICE}{key}"), value);
                }
                _ => {
                    let (value, swapped) = (map[&key].clone(), map[&second].clone());
                    map.insert(key, swapped);
                    map.insert(second, value);
                }
            }
        }
        Value::Array(list) if !list.is_empty() && rng.u8(..4) > 0 => {
            let (at, second) = (rng.usize(..list.len()), rng.usize(..list.len()));
            match rng.u8(..4) {
                0 => {
                    list.remove(at);
                }
                1 => list.insert(second, list[at].clone()),
                2 => list.swap(at, second),
                _ => list.insert(at, other),
            }
        }
        Value::Number(_) if rng.bool() => *place = near(place, rng),
        Value::String(text) if rng.bool() => *place = string(text, strings, rng),
        _ if rng.u8(..4) == 0 => *place = other,
        _ => *place = strange(strings, rng),
    }
}

/// Returns a value somewhere below.
fn pick<'v>(value: &'v mut Value, rng: &mut Rng) -> &'v mut Value {
    let children = match value {
        Value::Array(list) => list.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    };
    if children == 0 || rng.u8(..6) == 0 {
        return value;
    }
    let at = rng.usize(..children);
    match value {
        Value::Array(list) => pick(&mut list[at], rng),
        Value::Object(map) => pick(map.values_mut().nth(at).expect("one of its values"), rng),
        leaf => leaf,
    }
}

/// Returns a number near `value`, or one that a check may forget.
fn near(value: &Value, rng: &mut Rng) -> Value {
    let number = value.as_f64().unwrap_or_default();
    let whole = value.as_i64().unwrap_or_default();
    match rng.u8(..9) {
        0 => json!(whole.wrapping_add(1)),
        1 => json!(whole.wrapping_sub(1)),
        2 => json!(whole.wrapping_mul(2)),
        3 => json!(whole / 2),
        4 => json!(whole.wrapping_neg()),
        5 => json!(number + 0.5),
        6 => json!(number * 1e30),
        7 => json!(number.to_string()),
        _ => json!(rng.u32(..300)),
    }
}

fn string(text: &str, strings: &[&str], rng: &mut Rng) -> Value {
    let middle = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
    json!(match rng.u8(..8) {
        0 => String::new(),
        1 => text[..middle].to_owned(),
        2 => text.repeat(2),
        3 => format!("{text}\u{0}"),
        4 => text.to_uppercase(),
        5 => "x".repeat(1 << rng.u32(8..18)),
        _ => one_of(strings, rng).to_owned(),
    })
}

/// Returns an unexpected value.
fn strange(strings: &[&str], rng: &mut Rng) -> Value {
    match rng.u8(..18) {
        0 => Value::Null,
        1 => json!(rng.bool()),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(u64::MAX),
        5 => json!(i64::MIN),
        6 => json!(1_u64 << rng.u32(1..64)),
        7 => json!([1e308, -1e308, 5e-324, 1e-46, 0.1][rng.usize(..5)]),
        8 => json!([]),
        9 => json!({}),
        10 => json!([null]),
        11 => json!({"": ""}),
        12 => json!(format!(
            "{RAW}{}",
            one_of(&["NaN", "-Infinity", "1e999", "01", "1e", "99999999999999999999999", "'x'", ","], rng)
        )),
        13 => json!(format!("{RAW}deep")),
        14 => (0..rng.u32(1..120)).fold(json!(1), |inner, _| json!([inner])),
        15 => (0..rng.u32(1..120)).fold(json!({}), |inner, _| json!({"type": "Sequence", "x": inner})),
        16 => Value::Array(vec![json!(rng.u8(..)); rng.usize(1..2000)]),
        _ => json!(one_of(strings, rng)),
    }
}

/// Writes `value` as text, with raw JSON and names that are there twice in place of the strings that stand for them.
pub fn write(value: &Value) -> Vec<u8> {
    const DEEP: usize = 100_000;
    let mut text = value.to_string();
    while let Some(start) = text.find(&format!("\"{RAW}")) {
        let rest = &text[start + RAW.len() + 1..];
        let Some(length) = rest.find('"') else { break };
        let raw = match &rest[..length] {
            "deep" => format!("{}{}", "[".repeat(DEEP), "]".repeat(DEEP)),
            raw => raw.to_owned(),
        };
        let end = start + RAW.len() + 1 + length + 1;
        text.replace_range(start..end, &raw);
    }
    text.replace(&format!("\"{TWICE}"), "\"").into_bytes()
}
