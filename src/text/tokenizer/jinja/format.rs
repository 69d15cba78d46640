//! Python's `str.format` and the format specifications that it shares with `%`.

use minijinja::Value;

use super::arguments::Arguments;
use super::compare::{Number, number};
use super::values::{Outcome, Python, fail, integer, type_name};
use super::{budget, numbers, subscripts, text};

/// `[[fill]align][sign][z][#][0][width][grouping][.precision][type]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spec {
    fill: Option<char>,
    pub(crate) align: Option<char>,
    /// `+`, ` ` or `-`, if it is given.
    pub(crate) sign: Option<char>,
    /// True if negative zeros lose their sign.
    plain_zero: bool,
    pub(crate) alternate: bool,
    pub(crate) zero: bool,
    pub(crate) width: usize,
    grouping: Option<char>,
    pub(crate) precision: Option<usize>,
    kind: Option<char>,
}

impl Spec {
    fn parse(text: &str) -> Outcome<Self> {
        let mut spec = Self::default();
        let mut chars = text.chars().peekable();
        let is_align = |c: &char| matches!(c, '<' | '>' | '^' | '=');
        match (text.chars().next(), text.chars().nth(1)) {
            (Some(fill), Some(align)) if is_align(&align) => {
                (spec.fill, spec.align) = (Some(fill), Some(align));
                chars.nth(1);
            }
            (Some(align), _) if is_align(&align) => {
                spec.align = Some(align);
                chars.next();
            }
            _ => {}
        }
        spec.sign = chars.next_if(|c| matches!(c, '+' | '-' | ' '));
        spec.plain_zero = chars.next_if_eq(&'z').is_some();
        spec.alternate = chars.next_if_eq(&'#').is_some();
        // Behind a fill of its own the zero is the width's first digit.
        spec.zero = spec.fill.is_none() && chars.next_if_eq(&'0').is_some();
        let size = |chars: &mut std::iter::Peekable<std::str::Chars>| {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            (!digits.is_empty()).then(|| digits.parse().unwrap_or(usize::MAX))
        };
        spec.width = size(&mut chars).unwrap_or(0);
        spec.grouping = chars.next_if(|c| matches!(c, ',' | '_'));
        if chars.next_if_eq(&'.').is_some() {
            let precision = size(&mut chars);
            if precision.is_none() {
                return fail("a format specification misses its precision");
            }
            spec.precision = precision;
        }
        spec.kind = chars.next();
        if chars.next().is_some() { fail("invalid format specifier") } else { Ok(spec) }
    }

    fn write(&self, value: &Value) -> Outcome<String> {
        match (Python::from(value), self.kind) {
            (Python::Str(written), None | Some('s')) => self.write_text(written),
            (Python::Int(_) | Python::Bool(_), None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b' | 'c')) => {
                let kind = self.kind.unwrap_or('d');
                let allows = match self.grouping {
                    None => true,
                    Some(',') => kind == 'd',
                    Some(_) => !matches!(kind, 'c' | 'n'),
                };
                if !allows || self.precision.is_some() || self.plain_zero {
                    return fail(format!("a format specification does not go with an integer's '{kind}'"));
                }
                let whole = integer(value)?;
                if kind == 'c' { self.write_char(whole) } else { self.write_int(whole, kind) }
            }
            (Python::Float(number), None) => self.write_general(number),
            (
                Python::Float(_) | Python::Int(_) | Python::Bool(_),
                Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%')),
            ) => {
                if kind == 'n' && self.grouping.is_some() {
                    return fail("a number's 'n' has no separator of its own");
                }
                self.write_float(number(value).map_or(0.0, |n: Number| n.float()), kind)
            }
            _ => fail(format!("unsupported format for an object of type '{}'", type_name(value))),
        }
    }

    fn write_text(&self, text: &str) -> Outcome<String> {
        let is_number = self.sign.is_some() || self.alternate || self.plain_zero || self.grouping.is_some();
        if is_number || self.align == Some('=') {
            return fail("a format specification for numbers does not go with a string");
        }
        let cut: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        self.pad(&cut, '<')
    }

    fn write_char(&self, code: i128) -> Outcome<String> {
        if self.sign.is_some() || self.alternate {
            return fail("a sign or '#' does not go with 'c'");
        }
        match u32::try_from(code).ok().and_then(char::from_u32) {
            Some(c) => self.pad_number("", &c.to_string(), '>'),
            None => fail("'c' takes the code of a character"),
        }
    }

    /// Widens text to the width.
    pub(crate) fn pad(&self, written: &str, default_align: char) -> Outcome<String> {
        self.widen("", written, self.align.unwrap_or(default_align))
    }

    /// Widens a number, whose sign and prefix stay in front of zeros.
    fn pad_number(&self, prefix: &str, digits: &str, default_align: char) -> Outcome<String> {
        let default_align = if self.zero { '=' } else { default_align };
        self.widen(prefix, digits, self.align.unwrap_or(default_align))
    }

    fn filling(&self) -> char {
        self.fill.unwrap_or(if self.zero { '0' } else { ' ' })
    }

    fn widen(&self, prefix: &str, digits: &str, align: char) -> Outcome<String> {
        let length = prefix.chars().count() + digits.chars().count();
        let missing = self.width.saturating_sub(length);
        budget::take(missing.saturating_mul(4).saturating_add(digits.len()))?;
        let fill = |count: usize| std::iter::repeat_n(self.filling(), count).collect::<String>();
        Ok(match align {
            '<' => format!("{prefix}{digits}{}", fill(missing)),
            '=' => format!("{prefix}{}{digits}", fill(missing)),
            '^' => format!("{}{prefix}{digits}{}", fill(missing / 2), fill(missing - missing / 2)),
            _ => format!("{}{prefix}{digits}", fill(missing)),
        })
    }

    fn sign_of(&self, negative: bool) -> &'static str {
        match (negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        }
    }

    pub(crate) fn write_int(&self, number: i128, kind: char) -> Outcome<String> {
        let size = number.unsigned_abs();
        let (prefix, mut digits) = match kind {
            'x' => ("0x", format!("{size:x}")),
            'X' => ("0X", format!("{size:X}")),
            'o' => ("0o", format!("{size:o}")),
            'b' => ("0b", format!("{size:b}")),
            _ => ("", size.to_string()),
        };
        if let Some(least) = self.precision {
            budget::take(least)?;
            digits = format!("{digits:0>least$}");
        }
        let prefix = format!("{}{}", self.sign_of(number < 0), if self.alternate { prefix } else { "" });
        let group = if matches!(kind, 'x' | 'X' | 'o' | 'b') { 4 } else { 3 };
        self.pad_grouped(&prefix, &digits, "", group)
    }

    /// A float's digits: those before the point may be grouped.
    fn pad_float(&self, negative: bool, digits: &str) -> Outcome<String> {
        let is_zero =
            !digits.split('e').next().unwrap_or_default().contains(|c: char| ('1'..='9').contains(&c));
        let sign = self.sign_of(negative && !(self.plain_zero && is_zero));
        let (whole, rest) = digits.split_at(digits.bytes().take_while(u8::is_ascii_digit).count());
        self.pad_grouped(sign, whole, rest, 3)
    }

    /// Widens digits with a separator between groups; zeros that fill up are grouped with them.
    fn pad_grouped(&self, prefix: &str, whole: &str, rest: &str, group: usize) -> Outcome<String> {
        let Some(separator) = self.grouping.filter(|_| !whole.is_empty()) else {
            return self.pad_number(prefix, &(whole.to_owned() + rest), '>');
        };
        let fills_zeros = self.filling() == '0' && self.align.unwrap_or('=') == '=';
        let mut count = whole.len();
        if fills_zeros {
            let least = self.width.saturating_sub(prefix.len() + rest.len());
            // `least` characters hold this many digits; a separator is never the first.
            count = count.max(least - least.saturating_sub(1) / (group + 1));
        }
        budget::take(count.saturating_mul(2))?;
        let mut digits = String::new();
        for (i, c) in std::iter::repeat_n('0', count - whole.len()).chain(whole.chars()).enumerate() {
            if i > 0 && (count - i).is_multiple_of(group) {
                digits.push(separator);
            }
            digits.push(c);
        }
        self.pad_number(prefix, &(digits + rest), '>')
    }

    /// A float without a type: as Python prints it, or with so many significant digits and a point.
    fn write_general(&self, number: f64) -> Outcome<String> {
        let size = number.abs();
        let digits = match self.precision {
            Some(precision) if size.is_finite() => {
                self.general(size, checked(precision)?, LeastDecimals::One)
            }
            _ => numbers::repr(size),
        };
        let digits = if size.is_finite() { self.with_point(digits) } else { digits };
        self.pad_float(number.is_sign_negative() && !number.is_nan(), &digits)
    }

    pub(crate) fn write_float(&self, number: f64, kind: char) -> Outcome<String> {
        let precision = checked(self.precision.unwrap_or(6))?;
        let negative = number.is_sign_negative() && !number.is_nan();
        let size = number.abs();
        if !size.is_finite() {
            let name = if size.is_nan() { "nan" } else { "inf" };
            let name = if kind.is_ascii_uppercase() { name.to_uppercase() } else { name.to_owned() };
            let percent = if kind == '%' { "%" } else { "" };
            return self.pad_float(negative, &(name + percent));
        }
        let digits = match kind {
            'e' | 'E' => exponential(size, precision),
            'g' | 'G' | 'n' => self.general(size, precision, LeastDecimals::None),
            '%' => format!("{:.precision$}%", size * 100.0),
            _ => format!("{size:.precision$}"),
        };
        let digits = self.with_point(digits);
        let digits = if matches!(kind, 'E' | 'G') { digits.to_uppercase() } else { digits };
        self.pad_float(negative, &digits)
    }

    /// Digits with the point that `#` asks for.
    fn with_point(&self, mut digits: String) -> String {
        if self.alternate && !digits.contains('.') {
            digits.insert(digits.find(['e', '%']).unwrap_or(digits.len()), '.');
        }
        digits
    }

    /// So many significant digits, without zeros at the end.
    fn general(&self, size: f64, precision: usize, decimals: LeastDecimals) -> String {
        let precision = precision.max(1);
        let scientific = exponential(size, precision - 1);
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let exponent: i64 = exponent.parse().unwrap_or(0);
        let trimmed = |digits: &str| {
            if self.alternate || !digits.contains('.') {
                return digits.to_owned();
            }
            digits.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        let point = i64::from(decimals == LeastDecimals::One);
        if exponent < -4 || exponent >= precision as i64 - point {
            let (_, written) = scientific.split_at(digits.len());
            return trimmed(digits) + written;
        }
        let places = usize::try_from(precision as i64 - 1 - exponent).unwrap_or(0);
        let written = trimmed(&format!("{size:.places$}"));
        if decimals == LeastDecimals::One && !written.contains('.') { written + ".0" } else { written }
    }
}

/// Digits behind the point that a number keeps even if they are zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LeastDecimals {
    None,
    One,
}

fn checked(precision: usize) -> Outcome<usize> {
    if precision > 1000 { fail("a precision is too large") } else { Ok(precision) }
}

/// `1.5e+00`.
fn exponential(size: f64, precision: usize) -> String {
    let written = format!("{size:.precision$e}");
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// `template.format(arguments)`.
pub(crate) fn format(template: &str, arguments: Arguments) -> Outcome<String> {
    Formatter { arguments, next: 0 }.format(template, 0)
}

struct Formatter {
    arguments: Arguments,
    next: usize,
}

impl Formatter {
    fn format(&mut self, template: &str, depth: usize) -> Outcome<String> {
        if depth > 2 {
            return fail("max string recursion exceeded");
        }
        let mut out = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            let (plain, brace) = rest.split_at(at);
            out.push_str(plain);
            let twice = if brace.starts_with('{') { "{{" } else { "}}" };
            if let Some(after) = brace.strip_prefix(twice) {
                out.push_str(twice.get(1..).unwrap_or_default());
                rest = after;
                continue;
            }
            let Some(field) = brace.strip_prefix('{') else {
                return fail("single '}' encountered in format string");
            };
            let Some(end) = end_of_field(field) else { return fail("expected '}' before end of string") };
            let (field, after) = field.split_at(end);
            let written = self.field(field, depth)?;
            budget::take(written.len())?;
            out.push_str(&written);
            rest = after.get(1..).unwrap_or_default();
        }
        out.push_str(rest);
        budget::take(out.len())?;
        Ok(out)
    }

    fn field(&mut self, field: &str, depth: usize) -> Outcome<String> {
        let (name, spec) = field.split_once(':').unwrap_or((field, ""));
        let (name, conversion) = name.split_once('!').map_or((name, None), |(name, kind)| (name, Some(kind)));
        let value = self.value(name)?;
        let value = match conversion {
            None => value,
            Some("s") => Value::from(text::str(&value)?),
            Some("r") => Value::from(text::repr(&value)?),
            Some("a") => Value::from(text::ascii(&value)?),
            Some(other) => return fail(format!("unknown conversion specifier '{other}'")),
        };
        let spec = self.format(spec, depth + 1)?;
        if spec.is_empty() { text::str(&value) } else { Spec::parse(&spec)?.write(&value) }
    }

    /// The value of `0.name[key]`.
    fn value(&mut self, name: &str) -> Outcome {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        if first.is_empty() && !rest.is_empty() {
            return fail("a field of a format string has an attribute and no name");
        }
        let mut value = if first.is_empty() || first.bytes().all(|b| b.is_ascii_digit()) {
            let at = if first.is_empty() { self.next } else { first.parse().unwrap_or(usize::MAX) };
            self.next += usize::from(first.is_empty());
            self.arguments.positional.get(at).cloned()
        } else {
            self.arguments.named.iter().find(|(name, _)| name == first).map(|(_, value)| value.clone())
        }
        .map_or_else(|| fail(format!("no argument '{first}' to format")), Ok)?;
        while !rest.is_empty() {
            if let Some((key, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                let key = key.parse::<i64>().map_or_else(|_| Value::from(key), Value::from);
                value = subscripts::item(&value, &key)?;
                rest = after;
            } else if let Some(attribute) = rest.strip_prefix('.') {
                let end = attribute.find(['.', '[']).unwrap_or(attribute.len());
                let (attribute, after) = attribute.split_at(end);
                value = subscripts::attribute_only(&value, attribute)?;
                rest = after;
            } else {
                return fail("a field of a format string is malformed");
            }
        }
        Ok(value)
    }
}

/// Returns the byte position of the `}` that closes a field, skipping fields nested in its specification.
fn end_of_field(field: &str) -> Option<usize> {
    let mut depth = 0;
    field.char_indices().find_map(|(at, c)| {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
        None
    })
}

/// The integer that a filter's argument asks for.
pub(crate) fn size(value: Option<&Value>, default: usize) -> Outcome<usize> {
    let Some(value) = value else { return Ok(default) };
    Ok(usize::try_from(integer(value)?.max(0)).unwrap_or(usize::MAX))
}
