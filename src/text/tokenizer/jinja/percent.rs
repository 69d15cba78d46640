//! Python's `template % values`.

use minijinja::Value;

use super::compare::{Number, number};
use super::format::Spec;
use super::values::{Outcome, Python, elements, fail, integer, type_name};
use super::{budget, text};

/// One directive, as it is read.
struct Directive<'a> {
    key: Option<&'a str>,
    spec: Spec,
    conversion: char,
}

/// The values that directives take, in turn or by key.
struct Values<'a> {
    all: &'a Value,
    in_turn: std::vec::IntoIter<Value>,
    is_dict: bool,
}

/// `template % values`: a tuple has many values, anything else is one.
pub(crate) fn format(template: &str, values: &Value) -> Outcome<String> {
    let is_dict = matches!(Python::from(values), Python::Dict);
    let in_turn = match Python::from(values) {
        Python::Tuple => elements(values),
        _ => vec![values.clone()],
    };
    let mut values = Values { all: values, in_turn: in_turn.into_iter(), is_dict };
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        let (plain, directive) = rest.split_at(at);
        out.push_str(plain);
        let (directive, after) = read(directive.get(1..).unwrap_or_default(), &mut values)?;
        rest = after;
        if directive.conversion == '%' {
            out.push('%');
            continue;
        }
        let value = match directive.key {
            Some(key) if values.is_dict => {
                let found = super::compare::lookup(values.all, &Value::from(key))?;
                found.map_or_else(|| fail(format!("no value for '%({key})'")), Ok)?
            }
            Some(_) => return fail("format requires a mapping"),
            None => values.next()?,
        };
        let written = write(&directive, &value)?;
        budget::take(written.len())?;
        out.push_str(&written);
    }
    out.push_str(rest);
    budget::take(out.len())?;
    if values.in_turn.next().is_some() && !values.is_dict {
        return fail("not all arguments converted during string formatting");
    }
    Ok(out)
}

impl Values<'_> {
    fn next(&mut self) -> Outcome {
        self.in_turn.next().map_or_else(|| fail("not enough arguments for format string"), Ok)
    }

    /// A width or precision that is a value.
    fn next_size(&mut self) -> Outcome<i128> {
        integer(&self.next()?)
    }
}

/// Reads a directive behind its `%`; returns what comes after it.
fn read<'a>(text: &'a str, values: &mut Values) -> Outcome<(Directive<'a>, &'a str)> {
    let (key, mut rest) = match text.strip_prefix('(').and_then(|inside| inside.split_once(')')) {
        Some((key, rest)) => (Some(key), rest),
        None => (None, text),
    };
    let mut spec = Spec::default();
    while let Some(flag) = rest.chars().next().filter(|c| "-+ #0".contains(*c)) {
        match flag {
            '-' => spec.align = Some('<'),
            '+' => spec.sign = Some('+'),
            ' ' if spec.sign.is_none() => spec.sign = Some(' '),
            '0' => spec.zero = true,
            '#' => spec.alternate = true,
            _ => {}
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    let (width, after) = size(rest, values)?;
    if width < 0 {
        spec.align = Some('<');
    }
    spec.zero &= spec.align.is_none();
    spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
    rest = after;
    if let Some(after) = rest.strip_prefix('.') {
        let (precision, after) = size(after, values)?;
        spec.precision = Some(usize::try_from(precision).unwrap_or(0));
        rest = after;
    }
    rest = rest.trim_start_matches(['h', 'l', 'L']);
    let Some(conversion) = rest.chars().next() else { return fail("incomplete format") };
    Ok((Directive { key, spec, conversion }, rest.get(conversion.len_utf8()..).unwrap_or_default()))
}

/// A number, or `*` for one among the values; 0 if there is neither.
fn size<'a>(text: &'a str, values: &mut Values) -> Outcome<(i128, &'a str)> {
    if let Some(rest) = text.strip_prefix('*') {
        return Ok((values.next_size()?, rest));
    }
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.get(..text.len() - rest.len()).unwrap_or_default();
    Ok((if digits.is_empty() { 0 } else { digits.parse().unwrap_or(i128::MAX) }, rest))
}

fn write(directive: &Directive, value: &Value) -> Outcome<String> {
    let Directive { spec, conversion, .. } = directive;
    let mut spec = spec.clone();
    match conversion {
        's' | 'r' | 'a' => {
            let written = match conversion {
                's' => text::str(value)?,
                'r' => text::repr(value)?,
                _ => text::ascii(value)?,
            };
            let written = match spec.precision {
                Some(most) => written.chars().take(most).collect(),
                None => written,
            };
            spec.zero = false;
            spec.pad(&written, '>')
        }
        'c' => {
            let written = match Python::from(value) {
                Python::Str(text) if text.chars().count() == 1 => text.to_owned(),
                Python::Int(code) => {
                    u32::try_from(code).ok().and_then(char::from_u32).map(String::from).unwrap_or_default()
                }
                _ => return fail("%c requires an integer or a character"),
            };
            spec.zero = false;
            spec.pad(&written, '>')
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let kind = if matches!(conversion, 'i' | 'u') { 'd' } else { *conversion };
            let whole = match number(value) {
                Some(Number::Int(number)) => number,
                Some(Number::Float(number)) if number.is_finite() && kind == 'd' => number.trunc() as i128,
                _ => {
                    return fail(format!(
                        "%{conversion} format: a number is required, not {}",
                        type_name(value)
                    ));
                }
            };
            spec.write_int(whole, kind)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match number(value) {
            Some(number) => spec.write_float(number.float(), *conversion),
            None => fail(format!("must be real number, not {}", type_name(value))),
        },
        other => fail(format!("unsupported format character '{other}'")),
    }
}

/// Values by name, for the filter `format`.
pub(crate) fn named(values: &[(String, Value)]) -> Value {
    values
        .iter()
        .map(|(key, value)| (Value::from(key.as_str()), value.clone()))
        .collect::<super::values::Dict>()
        .into_value()
}
