//! The parser's state: where it is in the tokens, and how deep.

use minijinja::machinery::Span;
use minijinja::machinery::ast::{Expr, Stmt};

use super::expressions::Node;
use super::lexer::{SyntaxError, Token, tokenize};

/// `Result` of parsing.
pub(crate) type Parsed<T> = Result<T, SyntaxError>;

/// Expressions in expressions, or blocks in blocks, at which a template becomes an error: parser, compiler and engine
/// work by recursion.
const MOST_NESTED: usize = 80;

/// Operators in a row: `a + b + c` is an expression in an expression to the compiler.
const MOST_HIGH: usize = 400;

/// Permission for `break` and `continue` at a place in a template.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoopControl {
    /// Outside of a loop.
    None,
    /// In a loop, with nothing of its own between.
    Allowed,
    /// In a loop, inside of a block which the engine would not leave cleanly.
    InBlock,
}

pub(crate) struct Parser<'a> {
    tokens: Vec<(Token<'a>, usize)>,
    at: usize,
    depth: usize,
    pub(crate) loop_control: LoopControl,
    /// In an `if`, where unknown filters and tests are errors only when they are come to.
    pub(crate) is_lenient: bool,
    /// The names of surplus arguments that the macro around this place reads.
    pub(crate) surplus: Surplus,
    pub(crate) method_calls: MethodCalls,
}

/// The tree of `x.name(...)`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum MethodCalls {
    /// One filter over the value and the name.
    ByName,
    /// A call of the attribute, which is what the engine's `call` block takes.
    ByAttribute,
}

/// Use of `varargs` and `kwargs`: each is true if a macro reads the variable.
#[derive(Clone, Copy, Default)]
pub(crate) struct Surplus {
    pub(crate) varargs: bool,
    pub(crate) kwargs: bool,
}

/// Parses a whole template.
pub(crate) fn parse(source: &str) -> Parsed<Vec<Stmt<'_>>> {
    let mut parser = Parser {
        tokens: tokenize(source)?,
        at: 0,
        depth: 0,
        loop_control: LoopControl::None,
        is_lenient: false,
        surplus: Surplus::default(),
        method_calls: MethodCalls::ByName,
    };
    let (statements, end) = parser.statements_until(&[])?;
    match end {
        None => Ok(statements),
        Some(name) => parser.fail(format!("unexpected `{name}`")),
    }
}

impl<'a> Parser<'a> {
    fn token_at(&self, at: usize) -> &Token<'a> {
        self.tokens.get(at).map_or(&Token::End, |(token, _)| token)
    }

    pub(crate) fn current(&self) -> &Token<'a> {
        self.token_at(self.at)
    }

    pub(crate) fn peek(&self) -> &Token<'a> {
        self.token_at(self.at + 1)
    }

    pub(crate) fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |&(_, line)| line)
    }

    pub(crate) fn advance(&mut self) {
        self.at += 1;
    }

    /// Returns the line of the token before the current one, the end of what was parsed, as a span.
    pub(crate) fn span(&self) -> Span {
        let line = self.tokens.get(self.at.saturating_sub(1)).map_or(1, |&(_, line)| line);
        Self::span_of(line)
    }

    pub(crate) fn span_of(line: usize) -> Span {
        let line = u16::try_from(line).unwrap_or(u16::MAX);
        Span { start_line: line, end_line: line, end_col: 1, end_offset: 1, ..Span::default() }
    }

    pub(crate) fn fail<T>(&self, message: impl AsRef<str>) -> Parsed<T> {
        Err(SyntaxError { line: self.line(), message: format!("syntax error: {}", message.as_ref()) })
    }

    pub(crate) fn unexpected<T>(&self, expected: &str) -> Parsed<T> {
        let found = match self.current() {
            Token::Data(_) | Token::End => "the end of the template".to_owned(),
            Token::VariableBegin | Token::BlockBegin => "the begin of a tag".to_owned(),
            Token::VariableEnd | Token::BlockEnd => "the end of the tag".to_owned(),
            Token::Name(name) => format!("`{name}`"),
            Token::Str(_) => "a string".to_owned(),
            Token::Int(number) => number.to_string(),
            Token::Float(number) => number.to_string(),
            Token::Operator(operator) => format!("`{operator}`"),
        };
        self.fail(format!("expected {expected}, found {found}"))
    }

    pub(crate) fn skip(&mut self, operator: &str) -> bool {
        let is_there = matches!(self.current(), Token::Operator(o) if *o == operator);
        self.at += usize::from(is_there);
        is_there
    }

    pub(crate) fn skip_name(&mut self, name: &str) -> bool {
        let is_there = matches!(self.current(), Token::Name(n) if *n == name);
        self.at += usize::from(is_there);
        is_there
    }

    pub(crate) fn expect(&mut self, operator: &str) -> Parsed<()> {
        if self.skip(operator) { Ok(()) } else { self.unexpected(&format!("`{operator}`")) }
    }

    pub(crate) fn name(&mut self, expected: &str) -> Parsed<&'a str> {
        let Token::Name(name) = *self.current() else { return self.unexpected(expected) };
        self.advance();
        Ok(name)
    }

    /// The name of a filter or test that there is.
    pub(crate) fn name_of(&mut self, what: &str, exists: impl Fn(&str) -> bool) -> Parsed<&'a str> {
        let line = self.line();
        let name = self.name(&format!("the name of a {what}"))?;
        if exists(name) || self.is_lenient {
            return Ok(name);
        }
        Err(SyntaxError { line, message: format!("unknown {what}: {what} {name} is unknown") })
    }

    /// Begins something that can be in itself.
    pub(crate) fn enter(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth > MOST_NESTED { self.fail("nested too deeply") } else { Ok(()) }
    }

    pub(crate) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// An expression whose highest part has `height`.
    pub(crate) fn node(&self, height: usize, expr: Expr<'a>) -> Parsed<Node<'a>> {
        if height >= MOST_HIGH {
            return self.fail("an expression is too long");
        }
        Ok(Node { expr, height: height + 1 })
    }
}
