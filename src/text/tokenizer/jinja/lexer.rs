//! Tokens of a template, as Jinja2's lexer makes them with `trim_blocks` and `lstrip_blocks`.

use super::numbers;
use super::strings::is_space;

/// A syntax error and its line.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: usize,
    pub(crate) message: String,
}

/// One token of a template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    Data(&'a str),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(&'a str),
    Str(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// Every line end as `\n`, without the last one: what Jinja2 does to a template before anything else.
pub(crate) fn with_plain_line_ends(source: &str) -> String {
    let mut text = source.replace("\r\n", "\n").replace('\r', "\n");
    if text.ends_with('\n') {
        text.pop();
    }
    text
}

/// The tokens of `source` with their lines, [`Token::End`] last.
pub(crate) fn tokenize(source: &str) -> Result<Vec<(Token<'_>, usize)>, SyntaxError> {
    let mut lexer = Lexer { source, at: 0, line: 1, line_starting: true, tokens: Vec::new() };
    while lexer.at < source.len() {
        lexer.text()?;
    }
    lexer.push(Token::End);
    Ok(lexer.tokens)
}

/// Two-character operators first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    /// True if the previous token ended with a line end, and at the start of the source.
    line_starting: bool,
    tokens: Vec<(Token<'a>, usize)>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn push(&mut self, token: Token<'a>) {
        self.tokens.push((token, self.line));
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { line: self.line, message: message.into() })
    }

    /// Advances by `bytes`, counting lines, and returns the text that was passed.
    fn advance(&mut self, bytes: usize) -> &'a str {
        let (passed, _) = self.rest().split_at_checked(bytes).unwrap_or((self.rest(), ""));
        self.at += passed.len();
        self.line += passed.matches('\n').count();
        if let Some(last) = passed.chars().next_back() {
            self.line_starting = last == '\n';
        }
        passed
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.advance(rest.len() - rest.trim_start_matches(is_space).len());
    }

    /// Text up to a tag, and the tag.
    fn text(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let tags = ["{{", "{%", "{#"];
        let Some(start) = tags.iter().filter_map(|tag| rest.find(tag)).min() else {
            self.push(Token::Data(rest));
            self.advance(rest.len());
            return Ok(());
        };
        let (text, tag) = rest.split_at(start);
        let sign = tag.chars().nth(2).filter(|c| matches!(c, '-' | '+'));
        let kept = self.stripped(text, sign, tag.starts_with("{{"));
        if !kept.is_empty() {
            self.push(Token::Data(kept));
        }
        self.advance(text.len());
        let opening = 2 + sign.map_or(0, char::len_utf8);
        if tag.starts_with("{#") {
            self.advance(opening);
            return self.comment();
        }
        if tag.starts_with("{%")
            && let Some(length) = raw_begin(tag.get(opening..).unwrap_or_default())
        {
            self.advance(opening + length);
            return self.raw();
        }
        let (begin, close) =
            if tag.starts_with("{{") { (Token::VariableBegin, "}}") } else { (Token::BlockBegin, "%}") };
        self.push(begin);
        self.advance(opening);
        self.code(close)
    }

    /// The text before a tag without the space that the tag takes away.
    fn stripped(&self, text: &'a str, sign: Option<char>, is_variable: bool) -> &'a str {
        match sign {
            Some('-') => text.trim_end_matches(is_space),
            None if !is_variable => {
                let (before, line) = text.split_at(text.rfind('\n').map_or(0, |at| at + 1));
                let at_start = !before.is_empty() || self.line_starting;
                if at_start && line.chars().all(is_space) { before } else { text }
            }
            _ => text,
        }
    }

    fn comment(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        if rest.is_empty() {
            return Ok(());
        }
        let Some(end) = rest.find("#}") else { return self.error("a comment is not closed") };
        let sign = rest.get(..end).and_then(|comment| comment.chars().next_back());
        self.advance(end + 2);
        self.after_block(sign);
        Ok(())
    }

    /// Skips the white space that the end of a block with this `sign` removes behind itself.
    fn after_block(&mut self, sign: Option<char>) {
        match sign {
            Some('-') => self.skip_space(),
            Some('+') => {}
            _ if self.rest().starts_with('\n') => {
                self.advance(1);
            }
            _ => {}
        }
    }

    fn raw(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        for (start, _) in rest.match_indices("{%") {
            let (text, tag) = rest.split_at(start);
            let sign = tag.chars().nth(2).filter(|c| matches!(c, '-' | '+'));
            let opening = 2 + sign.map_or(0, char::len_utf8);
            let Some((length, end_sign)) = raw_end(tag.get(opening..).unwrap_or_default()) else { continue };
            let kept = self.stripped(text, sign, false);
            if !kept.is_empty() {
                self.push(Token::Data(kept));
            }
            self.advance(text.len() + opening + length);
            self.after_block(end_sign);
            return Ok(());
        }
        if rest.is_empty() { Ok(()) } else { self.error("a raw block is not closed") }
    }

    /// The inside of a tag, with its end.
    fn code(&mut self, close: &'static str) -> Result<(), SyntaxError> {
        let mut open = Vec::new();
        loop {
            self.skip_space();
            if self.rest().is_empty() {
                return self.error(format!("a tag is not closed with `{close}`"));
            }
            if open.is_empty() && self.end_of_code(close) {
                return Ok(());
            }
            self.token(&mut open)?;
        }
    }

    fn end_of_code(&mut self, close: &'static str) -> bool {
        let rest = self.rest();
        let sign = rest.chars().next().filter(|&c| c == '-' || (c == '+' && close == "%}"));
        let end = rest.get(sign.map_or(0, char::len_utf8)..).unwrap_or_default();
        let (sign, closes) =
            if end.starts_with(close) { (sign, true) } else { (None, rest.starts_with(close)) };
        if !closes {
            return false;
        }
        self.push(if close == "}}" { Token::VariableEnd } else { Token::BlockEnd });
        self.advance(close.len() + sign.map_or(0, char::len_utf8));
        match sign {
            None if close == "}}" => {}
            sign => self.after_block(sign),
        }
        true
    }

    fn token(&mut self, open: &mut Vec<&'static str>) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(()) };
        if first.is_ascii_digit() {
            return self.number();
        }
        let name = rest.len() - rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
        if name > 0 {
            let text = rest.get(..name).unwrap_or_default();
            self.push(Token::Name(text));
            self.advance(name);
            return Ok(());
        }
        if matches!(first, '\'' | '"') {
            return self.string(first);
        }
        let Some(operator) = OPERATORS.iter().find(|operator| rest.starts_with(**operator)) else {
            return self.error(format!("unexpected character {first:?}"));
        };
        match *operator {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" if open.pop() != Some(*operator) => {
                return self.error(format!("unexpected `{operator}`"));
            }
            _ => {}
        }
        self.push(Token::Operator(operator));
        self.advance(operator.len());
        Ok(())
    }

    fn number(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let after_dot = self.source.get(..self.at).is_some_and(|before| before.ends_with('.'));
        if let Some(length) = float_length(rest).filter(|_| !after_dot) {
            let text = rest.get(..length).unwrap_or_default();
            let Some(number) = numbers::parse_float(text) else { return self.error("not a number") };
            self.push(Token::Float(number));
            self.advance(length);
            return Ok(());
        }
        let length = int_length(rest);
        let text = rest.get(..length).unwrap_or_default();
        let Some(number) = numbers::parse_int(text, 0) else {
            return self.error("an integer is too large");
        };
        self.push(Token::Int(number));
        self.advance(length);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|&(_, c)| {
            let closes = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        let Some((end, _)) = end else { return self.error("a string is not closed") };
        match super::escapes::decode(rest.get(1..end).unwrap_or_default()) {
            Ok(text) => self.push(Token::Str(text)),
            Err(message) => return self.error(message),
        }
        self.advance(end + 1);
        Ok(())
    }
}

/// Length of ` raw %}` and the space that it takes away.
fn raw_begin(tag: &str) -> Option<usize> {
    let rest = tag.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
    let after = match rest.strip_prefix("-%}") {
        Some(after) => after.trim_start_matches(is_space),
        None => rest.strip_prefix("%}")?,
    };
    Some(tag.len() - after.len())
}

/// Length of ` endraw %}`, and the sign before its end.
fn raw_end(tag: &str) -> Option<(usize, Option<char>)> {
    let rest = tag.trim_start_matches(is_space).strip_prefix("endraw")?.trim_start_matches(is_space);
    let sign = rest.chars().next().filter(|c| matches!(c, '-' | '+'));
    let after = rest.trim_start_matches(['-', '+']).strip_prefix("%}")?;
    (rest.len() - after.len() == 2 + sign.map_or(0, char::len_utf8))
        .then_some((tag.len() - after.len(), sign))
}

/// Length of digits with single underscores between them.
fn digits(text: &str, is_digit: impl Fn(char) -> bool) -> usize {
    let mut length = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let between = c == '_' && length > 0 && chars.peek().is_some_and(|&next| is_digit(next));
        if !is_digit(c) && !between {
            break;
        }
        length += c.len_utf8();
    }
    length
}

fn float_length(text: &str) -> Option<usize> {
    let decimal = |text: &str| digits(text, |c| c.is_ascii_digit());
    let mut length = decimal(text);
    let mut is_float = false;
    let after = text.get(length..)?;
    if let Some(fraction) = after.strip_prefix('.').map(decimal).filter(|&digits| digits > 0) {
        length += 1 + fraction;
        is_float = true;
    }
    let after = text.get(length..)?;
    if let Some(exponent) = after.strip_prefix(['e', 'E']) {
        let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let digits = decimal(unsigned);
        if digits > 0 {
            length += 1 + (exponent.len() - unsigned.len()) + digits;
            is_float = true;
        }
    }
    is_float.then_some(length)
}

fn int_length(text: &str) -> usize {
    let prefixed = |radix: u32| {
        let after = text.get(2..).unwrap_or_default();
        let digits = digits(after.strip_prefix('_').unwrap_or(after), |c| c.is_digit(radix));
        if digits > 0 { 2 + usize::from(after.starts_with('_')) + digits } else { 1 }
    };
    match text.get(..2) {
        Some("0b" | "0B") => prefixed(2),
        Some("0o" | "0O") => prefixed(8),
        Some("0x" | "0X") => prefixed(16),
        _ if text.starts_with('0') => digits(text, |c| c == '0'),
        _ => digits(text, |c| c.is_ascii_digit()),
    }
}
