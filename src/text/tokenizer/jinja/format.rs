//! Python's `str.format` and the format specifications that it shares with `%`.

use minijinja::Value;

use super::arguments::Arguments;
use super::compare::{Number, number};
use super::values::{Outcome, Python, fail, integer, type_name};
use super::{budget, numbers, subscripts, text};

/// `[[fill]align][sign][#][0][width][,][.precision][type]`.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    fill: char,
    pub(crate) align: Option<char>,
    /// `+`, ` `, or `-` for none.
    pub(crate) sign: char,
    pub(crate) alternate: bool,
    pub(crate) zero: bool,
    pub(crate) width: usize,
    grouping: Option<char>,
    pub(crate) precision: Option<usize>,
    kind: Option<char>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            fill: ' ',
            align: None,
            sign: '-',
            alternate: false,
            zero: false,
            width: 0,
            grouping: None,
            precision: None,
            kind: None,
        }
    }
}

impl Spec {
    fn parse(text: &str) -> Outcome<Self> {
        let mut spec = Self::default();
        let mut chars = text.chars().peekable();
        let is_align = |c: &char| matches!(c, '<' | '>' | '^' | '=');
        match (text.chars().next(), text.chars().nth(1)) {
            (Some(fill), Some(align)) if is_align(&align) => {
                (spec.fill, spec.align) = (fill, Some(align));
                chars.nth(1);
            }
            (Some(align), _) if is_align(&align) => {
                spec.align = Some(align);
                chars.next();
            }
            _ => {}
        }
        if let Some(sign) = chars.next_if(|c| matches!(c, '+' | '-' | ' ')) {
            spec.sign = sign;
        }
        spec.alternate = chars.next_if_eq(&'#').is_some();
        spec.zero = chars.next_if_eq(&'0').is_some();
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
            (Python::Str(written), None | Some('s')) => {
                let cut: String = written.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
                self.pad(&cut, '<')
            }
            (Python::Int(number), None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b')) => {
                self.write_int(number, self.kind.unwrap_or('d'))
            }
            (Python::Int(code), Some('c')) => {
                let c = u32::try_from(code).ok().and_then(char::from_u32);
                self.pad(&c.map(String::from).unwrap_or_default(), '<')
            }
            (Python::Bool(flag), Some('d' | 'n' | 'x' | 'X' | 'o' | 'b')) => {
                self.write_int(i128::from(flag), self.kind.unwrap_or('d'))
            }
            (Python::Float(number), None) => self.write_general(number),
            (
                Python::Float(_) | Python::Int(_) | Python::Bool(_),
                Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')),
            ) => self.write_float(number(value).map_or(0.0, |n: Number| n.float()), kind),
            (Python::Bool(_), None) => self.pad(&text::str(value)?, '<'),
            (_, None) if self.is_empty() => text::str(value),
            _ => fail(format!("unsupported format for an object of type '{}'", type_name(value))),
        }
    }

    fn is_empty(&self) -> bool {
        self.align.is_none() && self.width == 0 && self.precision.is_none() && !self.zero
    }

    /// Widens text to the width.
    pub(crate) fn pad(&self, written: &str, default_align: char) -> Outcome<String> {
        self.pad_number("", written, default_align)
    }

    /// Widens a number, whose sign and prefix stay in front of zeros.
    fn pad_number(&self, prefix: &str, digits: &str, default_align: char) -> Outcome<String> {
        let length = prefix.chars().count() + digits.chars().count();
        let missing = self.width.saturating_sub(length);
        budget::take(missing.saturating_mul(4).saturating_add(digits.len()))?;
        let (fill, align) = match self.align {
            Some(align) => {
                (if self.zero && self.fill == ' ' && align != '<' { '0' } else { self.fill }, align)
            }
            None if self.zero => ('0', '='),
            None => (self.fill, default_align),
        };
        let fill = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
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
            (false, '+') => "+",
            (false, ' ') => " ",
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
        self.pad_number(&prefix, &self.grouped(&digits), '>')
    }

    /// Digits with a separator between thousands.
    fn grouped(&self, digits: &str) -> String {
        let Some(separator) = self.grouping else { return digits.to_owned() };
        let whole = digits.bytes().take_while(u8::is_ascii_digit).count();
        let mut out = String::new();
        for (i, c) in digits.chars().enumerate() {
            if i > 0 && i < whole && (whole - i).is_multiple_of(3) {
                out.push(separator);
            }
            out.push(c);
        }
        out
    }

    /// A float without a type: as Python prints it, or with so many digits.
    fn write_general(&self, number: f64) -> Outcome<String> {
        if self.precision.is_some() {
            return self.write_float(number, 'g');
        }
        let digits = numbers::repr(number.abs());
        self.pad_number(
            self.sign_of(number.is_sign_negative() && !number.is_nan()),
            &self.grouped(&digits),
            '>',
        )
    }

    pub(crate) fn write_float(&self, number: f64, kind: char) -> Outcome<String> {
        let precision = self.precision.unwrap_or(6);
        if precision > 1000 {
            return fail("a precision is too large");
        }
        let sign = self.sign_of(number.is_sign_negative() && !number.is_nan());
        let size = number.abs();
        if !size.is_finite() {
            let name = if size.is_nan() { "nan" } else { "inf" };
            let name = if kind.is_ascii_uppercase() { name.to_uppercase() } else { name.to_owned() };
            return self.pad_number(sign, &name, '>');
        }
        let digits = match kind {
            'e' | 'E' => exponential(size, precision),
            'g' | 'G' => self.general(size, precision.max(1)),
            '%' => format!("{:.precision$}%", size * 100.0),
            _ => format!("{size:.precision$}"),
        };
        let digits = if matches!(kind, 'E' | 'G') { digits.to_uppercase() } else { digits };
        self.pad_number(sign, &self.grouped(&digits), '>')
    }

    /// So many significant digits, without zeros at the end.
    fn general(&self, size: f64, precision: usize) -> String {
        let scientific = exponential(size, precision - 1);
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let exponent: i64 = exponent.parse().unwrap_or(0);
        let trimmed = |digits: &str| {
            if self.alternate || !digits.contains('.') {
                return digits.to_owned();
            }
            digits.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        if exponent < -4 || exponent >= precision as i64 {
            let (_, written) = scientific.split_at(digits.len());
            return trimmed(digits) + written;
        }
        let decimals = usize::try_from(precision as i64 - 1 - exponent).unwrap_or(0);
        trimmed(&format!("{size:.decimals$}"))
    }
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
            Some("r" | "a") => Value::from(text::repr(&value)?),
            Some(other) => return fail(format!("unknown conversion specifier '{other}'")),
        };
        let spec = self.format(spec, depth + 1)?;
        Spec::parse(&spec)?.write(&value)
    }

    /// The value of `0.name[key]`.
    fn value(&mut self, name: &str) -> Outcome {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
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
        if value.is_undefined() { fail("a field of a format string has no value") } else { Ok(value) }
    }
}

/// Where the `}` of a field is, behind fields in its specification.
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
