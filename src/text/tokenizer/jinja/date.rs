//! `strftime_now`: the date in local time, for templates that tell the model what day it is.

use jiff::ZonedDateTime;
use jiff::civil::DateTime;
use minijinja::Value;

use super::arguments::Arguments;
use super::budget;
use super::values::{Outcome, string};

/// Specifications in specifications: `%c` has `%T`, and there it ends.
const MOST_NESTED: usize = 3;

/// `strftime_now(format)`.
pub(crate) fn strftime_now(arguments: Arguments) -> Outcome {
    let [format] = arguments.bind(["format"], 1)?;
    let now = ZonedDateTime::now();
    strftime(string(&format.unwrap_or_default())?, now.datetime(), now.timestamp().as_second())
        .map(Value::from)
}

/// How a number is padded.
#[derive(Clone, Copy)]
struct Padding {
    flag: Option<char>,
    width: usize,
}

/// C's `strftime` as glibc has it in the C locale, with GNU's flags and Python's `%f`. `now` has no time zone, so
/// that `%z` and `%Z` are empty as in Python. Directives that are unknown stay as written.
fn strftime(format: &str, now: DateTime, timestamp: i64) -> Outcome<String> {
    let mut out = String::new();
    write(&mut out, format, now, timestamp, 0)?;
    Ok(out)
}

fn write(out: &mut String, format: &str, now: DateTime, timestamp: i64, depth: usize) -> Outcome<()> {
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        let after = from.get(1..).unwrap_or_default();
        let flags = after.len() - after.trim_start_matches(['-', '_', '0', '^', '#']).len();
        let (flags, after) = after.split_at(flags);
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (width, after) = after.split_at(digits);
        let directive = after.trim_start_matches(['E', 'O']).chars().next();
        let length =
            after.len() - after.trim_start_matches(['E', 'O']).len() + directive.map_or(0, char::len_utf8);
        let after = after.get(length..).unwrap_or_default();
        let (written, _) = from.split_at(from.len() - after.len());
        let padding = Padding {
            flag: flags.chars().rev().find(|c| matches!(c, '-' | '_' | '0')),
            width: width.parse().unwrap_or(0).min(1000),
        };
        budget::take(padding.width + 32)?;
        match directive.and_then(|directive| part(directive, padding, now, timestamp, depth)) {
            Some(part) if flags.contains('^') => out.push_str(&part.to_uppercase()),
            Some(part) if flags.contains('#') && directive == Some('p') => out.push_str(&part.to_lowercase()),
            Some(part) if flags.contains('#') => out.push_str(&part.to_uppercase()),
            Some(part) => out.push_str(&part),
            None => out.push_str(written),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(())
}

/// One directive written out.
fn part(directive: char, padding: Padding, now: DateTime, timestamp: i64, depth: usize) -> Option<String> {
    let date = now.date();
    let twelve = (i64::from(now.hour()) + 11) % 12 + 1;
    let year = i64::from(now.year());
    let day_of_year = i64::from(date.day_of_year());
    let from_sunday = i64::from(date.weekday().to_sunday_zero_offset());
    let from_monday = i64::from(date.weekday().to_monday_zero_offset());
    let number = |value: i64, width: usize, fill: char| Some(padding.number(value, width, fill));
    let name = |name: &str| Some(padding.text(name));
    let weekday = date.strftime("%A").to_string();
    let month = date.strftime("%B").to_string();
    let combined = |format: &str| {
        let mut out = String::new();
        (depth < MOST_NESTED).then(|| write(&mut out, format, now, timestamp, depth + 1).ok()).flatten()?;
        Some(padding.text(&out))
    };
    match directive {
        'Y' => number(year, 1, '0'),
        'C' => number(year / 100, 2, '0'),
        'y' => number(year % 100, 2, '0'),
        'G' => number(i64::from(date.iso_week_date().year()), 1, '0'),
        'g' => number(i64::from(date.iso_week_date().year()) % 100, 2, '0'),
        'm' => number(i64::from(now.month()), 2, '0'),
        'd' => number(i64::from(now.day()), 2, '0'),
        'e' => number(i64::from(now.day()), 2, ' '),
        'j' => number(day_of_year, 3, '0'),
        'H' => number(i64::from(now.hour()), 2, '0'),
        'k' => number(i64::from(now.hour()), 2, ' '),
        'I' => number(twelve, 2, '0'),
        'l' => number(twelve, 2, ' '),
        'M' => number(i64::from(now.minute()), 2, '0'),
        'S' => number(i64::from(now.second()), 2, '0'),
        'f' => Some(format!("{:06}", now.subsec_nanosecond() / 1000)),
        'u' => number(from_monday + 1, 1, '0'),
        'w' => number(from_sunday, 1, '0'),
        'U' => number((day_of_year + 6 - from_sunday) / 7, 2, '0'),
        'W' => number((day_of_year + 6 - from_monday) / 7, 2, '0'),
        'V' => number(i64::from(date.iso_week_date().week()), 2, '0'),
        's' => number(timestamp, 1, '0'),
        'p' => name(if now.hour() < 12 { "AM" } else { "PM" }),
        'P' => name(if now.hour() < 12 { "am" } else { "pm" }),
        'A' => name(&weekday),
        'a' => name(weekday.get(..3)?),
        'B' => name(&month),
        'b' | 'h' => name(month.get(..3)?),
        'c' => combined("%a %b %e %H:%M:%S %Y"),
        'D' | 'x' => combined("%m/%d/%y"),
        'F' => combined("%Y-%m-%d"),
        'R' => combined("%H:%M"),
        'r' => combined("%I:%M:%S %p"),
        'T' | 'X' => combined("%H:%M:%S"),
        'n' => name("\n"),
        't' => name("\t"),
        'z' | 'Z' => Some(String::new()),
        '%' => name("%"),
        _ => None,
    }
}

impl Padding {
    fn number(self, value: i64, width: usize, fill: char) -> String {
        let (fill, width) = match self.flag {
            Some('-') => return value.to_string(),
            Some('_') => (' ', width.max(self.width)),
            Some(_) => ('0', width.max(self.width)),
            None => (fill, width.max(self.width)),
        };
        if fill == '0' { format!("{value:0width$}") } else { format!("{value:width$}") }
    }

    fn text(self, text: &str) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        let fill = if self.flag == Some('0') { "0" } else { " " };
        fill.repeat(missing) + text
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
        ] {
            let time = jiff::Timestamp::from_second(seconds)
                .unwrap()
                .to_zoned_datetime(jiff::tz::TimeZone::UTC)
                .datetime();
            assert_eq!(strftime(format, time, seconds).unwrap(), expected, "{format}");
        }
    }
}
