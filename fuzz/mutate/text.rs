//! Templates and TOML: words, numbers and marks removed, repeated, swapped, nested, and replaced by others of the language.

use fastrand::Rng;

use super::{bytes, one_of};

/// Greatest depth of nesting.
const DEEPEST: u32 = 14;

/// Makes one to three changes.
pub fn mutate(original: &[u8], words: &[&str], rng: &mut Rng) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(original) else { return bytes::mutate(original, rng) };
    let mut tokens: Vec<String> = tokens(text).into_iter().map(str::to_owned).collect();
    for _ in 0..rng.usize(1..4) {
        change(&mut tokens, words, rng);
    }
    tokens.concat().into_bytes()
}

/// Splits a text into words, runs of white space, and marks; two characters that belong together are one mark.
fn tokens(text: &str) -> Vec<&str> {
    const PAIRS: [&str; 12] = ["{{", "}}", "{%", "%}", "{#", "#}", "==", "!=", "//", "**", "<|", "|>"];
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = |class: fn(char) -> bool| rest.find(|c| !class(c)).unwrap_or(rest.len());
        let length = if first.is_alphanumeric() || first == '_' {
            run(|c| c.is_alphanumeric() || c == '_')
        } else if first.is_whitespace() {
            run(char::is_whitespace)
        } else if PAIRS.iter().any(|pair| rest.starts_with(pair)) {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after;
    }
    tokens
}

fn change(tokens: &mut Vec<String>, words: &[&str], rng: &mut Rng) {
    if tokens.is_empty() {
        tokens.push(one_of(words, rng).to_owned());
        return;
    }
    let (at, other) = (rng.usize(..tokens.len()), rng.usize(..tokens.len()));
    match rng.u8(..9) {
        0 | 1 => {
            tokens.remove(at);
        }
        2 => tokens.insert(at, tokens[other].clone()),
        3 => tokens.swap(at, other),
        4 => one_of(words, rng).clone_into(&mut tokens[at]),
        5 => tokens.insert(at, one_of(words, rng).to_owned()),
        6 => {
            let end = (at + rng.usize(1..40)).min(tokens.len());
            let copy: String = tokens[at..end].concat();
            tokens[at] = copy.repeat(rng.usize(2..20));
        }
        7 => {
            let depth = 1 << rng.u32(1..DEEPEST);
            let nested =
                ["(", "[", "{", "not ", "-", "{% if x %}", "{% for a in [1] %}", "a.", "x|trim|", "{{"];
            tokens.insert(at, one_of(&nested, rng).repeat(depth));
        }
        _ => {
            let depth = 1 << rng.u32(1..DEEPEST);
            let (open, close) = [("(", ")"), ("[", "]"), ("{% if true %}", "{% endif %}")][rng.usize(..3)];
            tokens[at] = format!("{}{}{}", open.repeat(depth), tokens[at], close.repeat(depth));
        }
    }
}
