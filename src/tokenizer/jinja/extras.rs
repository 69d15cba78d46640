//! What transformers adds to Jinja for chat templates: `tojson`, `raise_exception`, `strftime_now` and the
//! `generation` tag.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Nesting at which `tojson` gives up.
const MAX_DEPTH: usize = 128;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
#[rustfmt::skip]
const MONTHS: [&str; 12] = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
];

/// `raise_exception(message)`: how a template refuses a conversation.
#[allow(clippy::needless_pass_by_value)] // the signature minijinja asks for
pub(super) fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// `strftime_now(format)`: the date, for templates that tell the model what day it is. In UTC.
#[allow(clippy::needless_pass_by_value)] // the signature minijinja asks for
pub(super) fn strftime_now(format: String) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    strftime(&format, seconds)
}

/// C's `strftime` in the C locale and UTC, for the directives that templates use; others stay as written.
fn strftime(format: &str, unix_seconds: u64) -> String {
    let mut out = String::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        // `%-d` is `%d` without padding.
        let mut chars = from.chars().skip(1);
        let mut directive = chars.next();
        let mut length = 1;
        let unpadded = directive == Some('-');
        if unpadded {
            directive = chars.next();
            length += 1;
        }
        length += directive.map_or(0, char::len_utf8);
        let (written, after) = from.split_at(length);
        match directive.and_then(|directive| date_part(directive, unpadded, unix_seconds)) {
            Some(part) => out.push_str(&part),
            None => out.push_str(written),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// What one directive of [`strftime`] stands for.
fn date_part(directive: char, unpadded: bool, unix_seconds: u64) -> Option<String> {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, day, day_of_year) = civil(days);
    let weekday = DAYS[(days as usize + 4) % 7];
    let month_name = MONTHS[(month as usize + 11) % 12];
    let number = |value: u64, width: usize| {
        if unpadded { value.to_string() } else { format!("{value:0width$}") }
    };
    Some(match directive {
        'Y' => year.to_string(),
        'y' => number(year % 100, 2),
        'm' => number(month, 2),
        'd' => number(day, 2),
        'e' if unpadded => day.to_string(),
        'e' => format!("{day:2}"),
        'j' => number(day_of_year, 3),
        'H' => number(hour, 2),
        'I' => number((hour + 11) % 12 + 1, 2),
        'M' => number(minute, 2),
        'S' => number(second, 2),
        'p' => String::from(if hour < 12 { "AM" } else { "PM" }),
        'A' => weekday.to_owned(),
        'a' => weekday.chars().take(3).collect(),
        'B' => month_name.to_owned(),
        'b' | 'h' => month_name.chars().take(3).collect(),
        'F' => strftime("%Y-%m-%d", unix_seconds),
        'T' => strftime("%H:%M:%S", unix_seconds),
        '%' => String::from("%"),
        _ => return None,
    })
}

/// (year, month, day, day of the year), all but the year from 1, of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64, u64) {
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let (mut year, mut rest) = (1970, days);
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let day_of_year = rest + 1;
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1, day_of_year)
}

/// `tojson`, as transformers defines it: Python's `json.dumps` with `ensure_ascii=False`. Nothing is escaped
/// for HTML. Takes `indent`, `ensure_ascii`, `separators` and `sort_keys`.
#[allow(clippy::needless_pass_by_value)] // the signature minijinja asks for
pub(super) fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson takes two separators")),
    };
    let json = Json {
        indent,
        item,
        key,
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    json.write(&mut out, &value, 0)?;
    Ok(out)
}

/// `json.dumps` with its options.
struct Json<'a> {
    indent: Option<usize>,
    item: &'a str,
    key: &'a str,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Json<'_> {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::BadSerialization, "tojson: the value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => match value.to_string().as_str() {
                "inf" => out.push_str("Infinity"),
                "-inf" => out.push_str("-Infinity"),
                number => out.push_str(number),
            },
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container(out, ('[', ']'), depth, &items, |out, item| self.write(out, item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.container(out, ('{', '}'), depth, &keys, |out, key| {
                    if let Some(name) = key.as_str() {
                        self.string(out, name);
                    } else {
                        let mut name = String::new();
                        self.write(&mut name, key, depth + 1)?;
                        self.string(out, &name);
                    }
                    out.push_str(self.key);
                    self.write(out, &value.get_item(key)?, depth + 1)
                })?;
            }
            kind => {
                return Err(Error::new(ErrorKind::BadSerialization, format!("tojson: cannot write {kind}")));
            }
        }
        Ok(())
    }

    fn container(
        &self,
        out: &mut String,
        (open, close): (char, char),
        depth: usize,
        items: &[Value],
        mut write: impl FnMut(&mut String, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |out: &mut String, depth: usize| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(self.item);
            }
            new_line(out, depth + 1);
            write(out, item)?;
        }
        if !items.is_empty() {
            new_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, out: &mut String, text: &str) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ensure_ascii {
            out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if matches!(c, ' '..='~') {
                out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
}

/// Turns `{% generation %}` ... `{% endgeneration %}`, which marks what a model is trained on, into
/// `{% with %}` ... `{% endwith %}`, which renders the same: its contents, in a scope of their own. Everything
/// else, line numbers included, stays as it is.
pub(super) fn scope_generation_tags(source: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let Some(end) = tag.find("%}") else { break };
        let (tag, after) = tag.split_at(end);
        let name = tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['-', '+']).trim();
        out.push_str(before);
        match name {
            "generation" => out.push_str(&tag.replacen(name, "with", 1)),
            "endgeneration" => out.push_str(&tag.replacen(name, "endwith", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    if out.is_empty() {
        return Cow::Borrowed(source);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use minijinja::Environment;

    fn render(template: &str) -> String {
        let mut environment = Environment::new();
        environment.add_filter("tojson", tojson);
        environment.render_str(template, ()).unwrap_or_else(|e| e.to_string())
    }

    /// The expected strings are Python's.
    #[test]
    fn tojson_is_json_dumps() {
        let value = r#"{"b": [1, 2.5, true, none, {}, []], "a": "é<&>'\"\n😀"}"#;
        let plain = render(&format!("{{{{ {value} | tojson }}}}"));
        assert_eq!(plain, r#"{"b": [1, 2.5, true, null, {}, []], "a": "é<&>'\"\n😀"}"#);
        let sorted = render(&format!("{{{{ {value} | tojson(sort_keys=true, ensure_ascii=true) }}}}"));
        assert_eq!(sorted, r#"{"a": "\u00e9<&>'\"\n\ud83d\ude00", "b": [1, 2.5, true, null, {}, []]}"#);
        let indented = render(r#"{{ [1, {"a": [], "b": "c"}] | tojson(indent=2) }}"#);
        assert_eq!(indented, "[\n  1,\n  {\n    \"a\": [],\n    \"b\": \"c\"\n  }\n]");
        assert_eq!(render(r#"{{ {"a": (1, 2)} | tojson(separators=(",", ":")) }}"#), r#"{"a":[1,2]}"#);
        assert_eq!(render("{{ {1: 2, none: 3} | tojson }}"), r#"{"1": 2, "null": 3}"#);
        assert!(render("{{ missing | tojson }}").contains("cannot write undefined"));
        assert!(render("{{ 1 | tojson(nonsense=1) }}").contains("nonsense"));
    }

    #[test]
    fn strftime_is_c() {
        // date -u -d @1709210096 +"..."; 29 February of a leap year.
        let format = "%d %b %Y|%A %a %B %h %y-%m|%j %H:%M:%S %I %p|%e %-d %-m|%F %T %% %Q %-Q %";
        assert_eq!(
            strftime(format, 1_709_210_096),
            "29 Feb 2024|Thursday Thu February Feb 24-02|060 12:34:56 12 PM|29 29 2|2024-02-29 12:34:56 % %Q %-Q %"
        );
        assert_eq!(strftime("%F %a %I %p %e", 0), "1970-01-01 Thu 12 AM  1");
        assert_eq!(strftime("%F %j", 1_735_603_200), "2024-12-31 366");
        assert_eq!(strftime("%F %j", 4_107_542_400), "2100-03-01 060");
    }

    #[test]
    fn generation_tags_become_scopes() {
        let source = "{% if x %}{%- generation -%} a {%endgeneration%}{% endif %} {{ '{%' }}";
        let expected = "{% if x %}{%- with -%} a {%endwith%}{% endif %} {{ '{%' }}";
        assert_eq!(scope_generation_tags(source), expected);
        for same in ["", "no tags", "{{ generation }}", "{% set generation = 1 %}", "{% broken"] {
            assert_eq!(scope_generation_tags(same), same);
        }
    }
}
