//! Counts, bytes and names in words.

use std::fmt::Display;

/// Words for layers that stay float, and that bits per weight do not count.
pub const INDIVISIBLE: &str = "whose rows no group size divides";
/// Words for layers that stay float, and that bits per weight count.
pub const UNFIT: &str = "whose rows no candidate's group size divides";

/// Formats a number with its noun: `1 tensor`, `2 tensors`.
pub fn count<N: Copy + Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Returns the one of `names` that `word` is most likely a misspelling of; `None` where none is near. Another number is
/// no misspelling: `gemma4` is not `gemma3`, nor is layer 12 layer 2.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const NEAR: f64 = 0.7;
    let digits = |name: &str| name.chars().filter(char::is_ascii_digit).collect::<String>();
    let similarity =
        |name: &str| strsim::normalized_damerau_levenshtein(&word.to_lowercase(), &name.to_lowercase());
    let names = names.into_iter().filter(|name| digits(name) == digits(word));
    let near = names.map(|name| (similarity(name), name)).filter(|(similarity, _)| *similarity >= NEAR);
    near.reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, name)| name)
}

/// Joins the first few of `names`, and says how many more there are.
pub fn list(names: &[String]) -> String {
    const NAMES_SHOWN: usize = 3;
    let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(String::as_str).collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Formats bytes in decimal units, as disks and the Hub count them: `4.20 MB`.
pub fn bytes(count: u64) -> String {
    let value = count as f64;
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", value / 1e6),
        _ => format!("{:.3} GB", value / 1e9),
    }
}

/// Formats sizes that are compared with one another: to the byte where rounding would make different ones look alike.
pub fn compared_bytes<const N: usize>(sizes: [u64; N]) -> [String; N] {
    let rounded = sizes.map(bytes);
    let look_alike = |i: usize, j: usize| sizes.get(i) != sizes.get(j) && rounded.get(i) == rounded.get(j);
    let is_unclear = (0..N).any(|i| (0..i).any(|j| look_alike(i, j)));
    if is_unclear { sizes.map(|size| format!("{size} B")) } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!([0_usize, 1, 2].map(|n| count(n, "row")), ["0 rows", "1 row", "2 rows"]);
        assert_eq!(count(1_u64, "quantized layer"), "1 quantized layer");
    }

    #[test]
    fn different_sizes_never_look_alike() {
        assert_eq!(compared_bytes([2_000_000_000, 1_000_000_000]), ["2.000 GB", "1.000 GB"]);
        assert_eq!(compared_bytes([1_000_000_001, 1_000_000_000]), ["1000000001 B", "1000000000 B"]);
        assert_eq!(compared_bytes([7_000, 7_000, 9]), ["7.0 kB", "7.0 kB", "9 B"]);
        assert_eq!(compared_bytes([7_000, 9, 7_001]), ["7000 B", "9 B", "7001 B"]);
    }

    #[test]
    fn near_names_are_found() {
        let names = ["llama", "llama4", "qwen3", "qwen3_moe", "gemma", "phi"];
        for (word, expected) in [
            ("lama", Some("llama")),
            ("Llama", Some("llama")),
            ("qwen3moe", Some("qwen3_moe")),
            ("mamba2", None),
            ("llama5", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names), expected, "{word}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let names = |n: usize| (0..n).map(|i| format!("`{i}`")).collect::<Vec<_>>();
        assert_eq!(list(&names(3)), "`0`, `1`, `2`");
        assert_eq!(list(&names(5)), "`0`, `1`, `2` and 2 more");
    }
}
