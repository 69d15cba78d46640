//! `strftime_now`: the date in local time, for templates that tell the model what day it is.
//!
//! jiff formats the directives. By hand is what glibc does otherwise and jiff does not offer: several flags before one
//! directive, widths of texts and zeros as the fill of all numbers; `%c`, `%r`, `%x` and `%X` as the C locale has them;
//! unknown directives as they are written; and Python's `%f` of six digits and empty `%z` and `%Z`.

use jiff::ZonedDateTime;
use jiff::fmt::strtime;
use minijinja::Value;

use super::arguments::Arguments;
use super::budget;
use super::values::{Outcome, string};

/// Directives of numbers, filled with zeros.
const WITH_ZEROS: &str = "CdGgHIjmMSuUVwWyY";

/// Directives of numbers, filled with spaces.
const WITH_SPACES: &str = "ekls";

/// Directives of texts that glibc and jiff write alike.
const TEXTS: &str = "aAbBDFhnpPRtT%";

/// `strftime_now(format)`.
pub(crate) fn strftime_now(arguments: Arguments) -> Outcome {
    let [format] = arguments.bind(["format"], 1)?;
    strftime(string(&format.unwrap_or_default())?, &ZonedDateTime::now()).map(Value::from)
}

/// Flags and width of a directive.
struct Padding<'a> {
    flags: &'a str,
    width: usize,
}

/// C's `strftime` as glibc has it in the C locale, with GNU's flags and Python's `%f`. Python's `now` has no time zone,
/// so that `%z` and `%Z` are empty. Directives that are unknown stay as written.
fn strftime(format: &str, now: &ZonedDateTime) -> Outcome<String> {
    let mut out = String::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        let (flags, after) = split(from.get(1..).unwrap_or_default(), |c| "-_0^#".contains(c));
        let (width, after) = split(after, |c| c.is_ascii_digit());
        let (modifier, after) = split(after, |c| "EO".contains(c));
        let directive = after.chars().next();
        rest = after.get(directive.map_or(0, char::len_utf8)..).unwrap_or_default();
        let padding = Padding { flags, width: width.parse().unwrap_or(0).min(1000) };
        budget::take(padding.width + 32)?;
        let written = from.get(..from.len() - rest.len()).unwrap_or_default();
        let part = directive
            .filter(|directive| takes(modifier, *directive))
            .and_then(|directive| Some(padding.in_case(directive, part(directive, &padding, now)?)));
        out.push_str(part.as_deref().unwrap_or(written));
    }
    out.push_str(rest);
    Ok(out)
}

/// The characters at the beginning of `text` that are `of_kind`, and what comes after them.
fn split(text: &str, of_kind: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.len() - text.trim_start_matches(of_kind).len())
}

/// True if glibc takes `modifier`, which changes nothing in the C locale, before `directive`.
fn takes(modifier: &str, directive: char) -> bool {
    match modifier {
        "" => true,
        "E" => "cCxXyY".contains(directive),
        "O" => "BbdeHImMSuUVwWy".contains(directive),
        _ => false,
    }
}

/// One directive written out.
fn part(directive: char, padding: &Padding, now: &ZonedDateTime) -> Option<String> {
    let written = |format: &str| strtime::format(format, now).ok();
    let plain = || written(&format!("%{directive}"));
    match directive {
        'c' => written("%a %b %e %H:%M:%S %Y").map(|text| padding.text(&text)),
        'r' => written("%I:%M:%S %p").map(|text| padding.text(&text)),
        'x' => written("%m/%d/%y").map(|text| padding.text(&text)),
        'X' => written("%H:%M:%S").map(|text| padding.text(&text)),
        'f' => written("%6f"),
        'z' | 'Z' => Some(String::new()),
        _ if WITH_ZEROS.contains(directive) => plain().map(|digits| padding.number(&digits, '0')),
        _ if WITH_SPACES.contains(directive) => plain().map(|digits| padding.number(&digits, ' ')),
        _ if TEXTS.contains(directive) => plain().map(|text| padding.text(&text)),
        _ => None,
    }
}

impl Padding<'_> {
    /// The last flag that says how to fill.
    fn fill(&self) -> Option<char> {
        self.flags.chars().rev().find(|flag| "-_0".contains(*flag))
    }

    /// A number of at least as many digits as `digits` has, which are filled up with `fill` unless a flag says
    /// otherwise.
    fn number(&self, digits: &str, fill: char) -> String {
        let number = match digits.trim_start_matches(['0', ' ']) {
            "" => "0",
            number => number,
        };
        let fill = match self.fill() {
            Some('-') => return " ".repeat(self.width.saturating_sub(number.len())) + number,
            Some('_') => " ",
            None if fill == ' ' => " ",
            _ => "0",
        };
        fill.repeat(digits.len().max(self.width).saturating_sub(number.len())) + number
    }

    fn text(&self, text: &str) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        let fill = if self.fill() == Some('0') { "0" } else { " " };
        fill.repeat(missing) + text
    }

    /// Returns `text`, which `directive` wrote, in the case that the flags ask for.
    fn in_case(&self, directive: char, text: String) -> String {
        match (self.flags.contains('^'), self.flags.contains('#')) {
            (false, false) => text,
            (_, true) if directive == 'p' => text.to_lowercase(),
            (false, true) if directive == 'c' => text,
            _ if directive == 'P' => text,
            _ => text.to_uppercase(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn strftime_is_that_of_c() {
        // TZ=UTC LC_ALL=C date -d @SECONDS +FORMAT
        for (seconds, format, expected) in [
            (1_709_210_096, "%d %b %Y|%A %a %B %h %y-%m", "29 Feb 2024|Thursday Thu February Feb 24-02"),
            (1_709_210_096, "%j %H:%M:%S %I %p %P|%e %-d %-m", "060 12:34:56 12 PM pm|29 29 2"),
            (1_709_210_096, "%F %T %% %Q %-Q %", "2024-02-29 12:34:56 % %Q %-Q %"),
            (
                1_709_210_096,
                "%c|%D|%x|%X|%R|%r",
                "Thu Feb 29 12:34:56 2024|02/29/24|02/29/24|12:34:56|12:34|12:34:56 PM",
            ),
            (1_709_210_096, "%G-W%V-%u %g %w %U %W %C %s", "2024-W09-4 24 4 08 09 20 1709210096"),
            (
                0,
                "%F %a %I %p %e|%k|%l|%_H|%5d|%-I|%^a|%#p|%^B",
                "1970-01-01 Thu 12 AM  1| 0|12| 0|00001|12|THU|am|JANUARY",
            ),
            (1_735_603_200, "%F %j %G %V %U %W", "2024-12-31 366 2025 01 52 53"),
            (4_107_542_400, "%F %j %n%t|", "2100-03-01 060 \n\t|"),
            (
                1_709_210_096,
                "%5u|%3C|%012s|%10F|%_20c|%-^a|%#Z|%z",
                "00004|020|001709210096|2024-02-29|Thu Feb 29 12:34:56 2024|THU||",
            ),
        ] {
            let time = jiff::Timestamp::from_second(seconds).unwrap();
            let time = time.to_zoned_datetime(jiff::tz::TimeZone::UTC);
            assert_eq!(strftime(format, &time).unwrap(), expected, "{format}");
        }
    }
}
