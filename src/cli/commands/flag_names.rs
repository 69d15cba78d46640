//! Flags in messages: the library speaks of settings, the command line of flags.

use crate::error::Error;

/// Names flags where `error` names settings.
pub fn flags_in(error: Error) -> Error {
    error.reworded(flags)
}

/// Names flags where `text` names settings: "setting `target_bpw`" becomes "--target-bpw".
pub fn flags(text: &str) -> String {
    const SETTING: &str = "setting `";
    let mut parts = text.split(SETTING);
    let mut flags = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('`') {
            Some((name, rest)) if is_setting(name) => {
                flags.push_str("--");
                flags.push_str(&name.replace('_', "-"));
                flags.push_str(rest);
            }
            _ => {
                flags.push_str(SETTING);
                flags.push_str(part);
            }
        }
    }
    flags
}

fn is_setting(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|character| character.is_ascii_lowercase() || character == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_flags() {
        for (text, expected) in [
            ("setting `samples` was 4", "--samples was 4"),
            ("give setting `target_bpw` or setting `bits`", "give --target-bpw or --bits"),
            ("setting `bits", "setting `bits"),
            ("setting `Bits` of `bits`", "setting `Bits` of `bits`"),
            ("no flag", "no flag"),
        ] {
            assert_eq!(flags(text), expected);
        }
        let error = flags_in(Error::key("setting `a`", "setting `b`", "setting `c`").hint("setting `d`"));
        assert_eq!(error.to_string(), "setting `a`: key `setting `b``: --c");
        assert_eq!(error.hint_text(), Some("--d"));
    }
}
