//! Escapes in string literals, as Python reads them.

/// The text that `literal`, without its quotes, stands for.
pub(crate) fn decode(literal: &str) -> Result<String, String> {
    let mut out = String::with_capacity(literal.len());
    let mut rest = literal;
    while let Some(at) = rest.find('\\') {
        let (plain, escape) = rest.split_at(at);
        out.push_str(plain);
        let Some(kind) = escape.chars().nth(1) else { return Err("a string ends in a backslash".to_owned()) };
        let digits = escape.get(1 + kind.len_utf8()..).unwrap_or_default();
        rest = match kind {
            '\n' => digits,
            'x' => code_point(&mut out, digits, 2)?,
            'u' => code_point(&mut out, digits, 4)?,
            'U' => code_point(&mut out, digits, 8)?,
            'N' => return Err("characters cannot be given by name".to_owned()),
            '0'..='7' => octal(&mut out, escape.get(1..).unwrap_or_default()),
            kind => {
                match simple(kind) {
                    Some(c) => out.push(c),
                    None => out.extend(['\\', kind]),
                }
                digits
            }
        };
    }
    out.push_str(rest);
    Ok(out)
}

fn simple(kind: char) -> Option<char> {
    Some(match kind {
        '\\' | '\'' | '"' => kind,
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        _ => return None,
    })
}

/// Reads `length` hexadecimal digits; returns what comes after them.
fn code_point<'a>(out: &mut String, digits: &'a str, length: usize) -> Result<&'a str, String> {
    let Some((code, rest)) =
        digits.split_at_checked(length).filter(|(c, _)| c.bytes().all(|b| b.is_ascii_hexdigit()))
    else {
        return Err("a string has a truncated escape".to_owned());
    };
    let c = u32::from_str_radix(code, 16).ok().and_then(char::from_u32);
    out.push(c.ok_or("a string has an escape that is no character")?);
    Ok(rest)
}

/// Reads up to three octal digits; returns what comes after them.
fn octal<'a>(out: &mut String, digits: &'a str) -> &'a str {
    let length = digits.bytes().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
    let (code, rest) = digits.split_at(length);
    out.extend(u32::from_str_radix(code, 8).ok().and_then(char::from_u32));
    rest
}
