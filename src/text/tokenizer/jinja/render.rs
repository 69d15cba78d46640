//! One rendering of one template, with its limits.

use minijinja::machinery::ast::Stmt;
use minijinja::machinery::{CodeGenerator, Instructions, eval, make_string_output};
use minijinja::{AutoEscape, ErrorKind, Value};
use std::collections::BTreeMap;
use std::path::Path;

use super::budget;
use super::budget::{Exceeded, MOST_BYTES, MOST_MEMORY, MOST_WORK};
use super::environment::environment;
use super::globals::is_raised;
use super::lexer::{SyntaxError, with_plain_line_ends};
use super::parser::parse;
use crate::error::{Error, Result, in_template};

/// Instructions that one rendering may execute. A thousand messages take well under a million.
const FUEL: u64 = 10_000_000;

/// The hint where a bound ended the rendering.
const TOO_MUCH: &str =
    "shorten the conversation; if it is short, the template is broken, and another can be given";

/// The hint where the template itself refuses a conversation.
const REFUSED: &str =
    "the template refuses these messages: change their roles or their order, or use another template";

/// Fails if the template `source` from the file `path` is no Jinja.
pub(crate) fn check_syntax(path: &Path, source: &str) -> Result<()> {
    parse(&plain_source(source)).map(drop).map_err(|fault| no_template(path, fault))
}

fn plain_source(source: &str) -> String {
    with_plain_line_ends(source.strip_prefix('\u{feff}').unwrap_or(source))
}

fn no_template(path: &Path, fault: SyntaxError) -> Error {
    Error::template(path, Some(fault.line), fault.message)
}

/// Renders the template `source` from the file `path` over `variables`.
pub(crate) fn render(path: &Path, source: &str, variables: Value) -> Result<String> {
    let source = plain_source(source);
    let statements = parse(&source).map_err(|fault| no_template(path, fault))?;
    let (instructions, blocks) = compile(&source, &statements);
    let environment = environment(FUEL);
    let mut rendered = String::new();
    budget::renew();
    let result = eval(
        &environment,
        &instructions,
        variables,
        &blocks,
        &mut make_string_output(&mut rendered),
        AutoEscape::None,
    )
    .map(drop);
    match (budget::exceeded(), result) {
        (Some(Exceeded::Output), _) => {
            Err(Error::file(path, format!("chat template: writes more than {MOST_BYTES} bytes"))
                .hint(TOO_MUCH))
        }
        (Some(Exceeded::Memory), _) => Err(Error::file(
            path,
            format!("chat template: makes more than {MOST_MEMORY} bytes of values altogether"),
        )
        .hint(TOO_MUCH)),
        (Some(Exceeded::Work), _) => Err(Error::file(
            path,
            format!("chat template: looks at more than {MOST_WORK} bytes of values altogether"),
        )
        .hint(TOO_MUCH)),
        (None, Err(e)) => Err(error(path, &e)),
        (None, Ok(())) => Ok(rendered),
    }
}

fn compile<'a>(
    source: &'a str,
    statements: &[Stmt<'a>],
) -> (Instructions<'a>, BTreeMap<&'a str, Instructions<'a>>) {
    let mut generator = CodeGenerator::new("chat template", source);
    for statement in statements {
        generator.compile_stmt(statement);
    }
    generator.finish()
}

fn error(path: &Path, error: &minijinja::Error) -> Error {
    let message = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("does not come to an end ({FUEL} instructions executed)"),
        // What `raise_exception` says stands for itself.
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    if !is_raised(error) {
        return Error::template(path, error.line(), message);
    }
    Error::file(path, format!("{}: {message}", in_template(error.line()))).hint(REFUSED)
}
