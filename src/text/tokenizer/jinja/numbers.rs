//! Numbers as Python reads, rounds and prints them.

use super::string_tests::is_decimal;

/// Python's `repr` of a float: the fewest digits that read back the same, with an exponent from 1e16 and below 1e-4.
pub(crate) fn repr(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// Python's `float(text)`.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let text = with_plain_digits(super::strings::strip(text, None));
    let digits = without_underscores(&text)?;
    let unsigned = digits.trim_start_matches(['+', '-']);
    if unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return digits.parse().ok();
    }
    let one_sign = digits.len() - unsigned.len() <= 1;
    matches!(unsigned.to_ascii_lowercase().as_str(), "inf" | "infinity" | "nan")
        .then(|| digits.parse().ok())
        .flatten()
        .filter(|_| one_sign)
}

/// Python's `int(text, base)`; base 0 looks at the prefix.
pub(crate) fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = with_plain_digits(super::strings::strip(text, None));
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let lower = unsigned.to_ascii_lowercase();
    let prefixed =
        |prefix: &str| lower.strip_prefix(prefix).map(|rest| rest.strip_prefix('_').unwrap_or(rest));
    let (base, digits) = match base {
        0 | 2 if prefixed("0b").is_some() => (2, prefixed("0b")?),
        0 | 8 if prefixed("0o").is_some() => (8, prefixed("0o")?),
        0 | 16 if prefixed("0x").is_some() => (16, prefixed("0x")?),
        0 if lower.starts_with('0') && !lower.trim_matches(['0', '_']).is_empty() => return None,
        0 => (10, lower.as_str()),
        2..=36 => (base, lower.as_str()),
        _ => return None,
    };
    let digits = without_underscores(digits)?;
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from_str_radix(&digits, base).ok()?;
    Some(if negative { -number } else { number })
}

/// The text with every digit of another script as the one from 0 to 9 that it stands for.
fn with_plain_digits(text: &str) -> String {
    let plain = |c: char| if c.is_ascii() || !is_decimal(c) { c } else { plain_digit(c) };
    text.chars().map(plain).collect()
}

/// The ASCII digit for a decimal digit. Unicode has digits in tens, from 0 to 9; where some follow each other, as the
/// mathematical ones do, all begin at the first.
fn plain_digit(digit: char) -> char {
    let before = (0..u32::from(digit)).rev().map_while(char::from_u32).take_while(|&c| is_decimal(c)).count();
    char::from_digit((before % 10) as u32, 10).unwrap_or(digit)
}

/// Digits without the underscores that Python allows between two of them.
fn without_underscores(text: &str) -> Option<String> {
    let mut last = '_';
    for c in text.chars() {
        if c == '_' && !last.is_ascii_alphanumeric() {
            return None;
        }
        last = c;
    }
    (!text.is_empty() && last != '_').then(|| text.replace('_', ""))
}

/// Python's `round(number, precision)`: correct to the digit, halves that are exact to even.
pub(crate) fn round(number: f64, precision: i32) -> f64 {
    if !number.is_finite() || precision > 300 {
        return number;
    }
    if precision >= 0 {
        let precision = usize::try_from(precision).unwrap_or(0);
        return format!("{number:.precision$}").parse().unwrap_or(number);
    }
    let power = 10f64.powi(-precision);
    if power.is_infinite() { 0.0f64.copysign(number) } else { (number / power).round_ties_even() * power }
}

/// Rounds an integer to tens, hundreds and so on, halves to even.
pub(crate) fn round_int(number: i128, precision: i32) -> i128 {
    let Some(power) = 10i128.checked_pow(precision.unsigned_abs()) else { return 0 };
    if precision >= 0 {
        return number;
    }
    let (quotient, rest) = (number.div_euclid(power), number.rem_euclid(power));
    let up = rest * 2 > power || (rest * 2 == power && quotient % 2 != 0);
    (quotient + i128::from(up)) * power
}

/// Integer division rounding down, and the remainder with the sign of the divisor.
pub(crate) fn divide_int(left: i128, right: i128) -> Option<(i128, i128)> {
    let (quotient, rest) = (left.checked_div(right)?, left.checked_rem(right)?);
    if rest != 0 && (rest < 0) != (right < 0) {
        return Some((quotient - 1, rest + right));
    }
    Some((quotient, rest))
}

/// Float division rounding down, and the remainder with the sign of the divisor.
pub(crate) fn divide_float(left: f64, right: f64) -> (f64, f64) {
    let mut rest = left % right;
    let mut quotient = (left - rest) / right;
    if rest == 0.0 {
        rest = 0.0f64.copysign(right);
    } else if (rest < 0.0) != (right < 0.0) {
        rest += right;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0.0f64.copysign(left / right), rest);
    }
    let floor = quotient.floor();
    (if quotient - floor > 0.5 { floor + 1.0 } else { floor }, rest)
}
