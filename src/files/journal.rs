//! What keeps interrupted work from being gone on with: settings that are not those it was begun with.

use std::path::Path;

use crate::error::Error;

/// A setting, by the flag or in the words that the user knows it by, and its value.
pub type Setting = (&'static str, String);

/// The error for `path`, which was begun with the settings `was`, of which some differ now. Both are in one order.
pub fn begun_otherwise(path: &Path, was: &[Setting], now: &[Setting]) -> Error {
    let changed = was.iter().zip(now).filter(|(was, now)| was != now);
    let changed: Vec<String> =
        changed.map(|((name, was), (_, now))| format!("{name} was {was}, now it is {now}")).collect();
    Error::file(path, format!("was begun with other settings: {}", changed.join("; ")))
        .hint("repeat the command as it was; --overwrite instead of --resume starts anew")
}

/// The first digits of a fingerprint, which do to tell it from another.
pub fn fingerprint(text: &str) -> String {
    text.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named_with_both_values() {
        let was = [
            ("--seed", "1".to_owned()),
            ("--samples", "4".to_owned()),
            ("the text", fingerprint("0123456789abcdef")),
        ];
        let now =
            [("--seed", "1".to_owned()), ("--samples", "8".to_owned()), ("the text", fingerprint("ff"))];
        let error = begun_otherwise(Path::new("x.partial"), &was, &now).to_string();
        assert_eq!(
            error,
            "x.partial: was begun with other settings: --samples was 4, now it is 8; the text was 0123456789ab, now it is ff"
        );
    }
}
