//! One rendering of one template, with its limits.

use std::io;
use std::path::Path;

use minijinja::{Environment, ErrorKind, Value};

use super::{extras, percent};
use crate::error::{Error, Result};
use crate::memory_limit;

/// Instructions that one rendering may execute. A thousand messages take well under a million.
const FUEL: u64 = 10_000_000;

/// Bytes that one rendering may write. Instructions can write long strings, so that `FUEL` is no bound on this.
const MOST_BYTES: usize = 1 << 26;

/// Bytes that one rendering may hold: strings that are made and never written count here.
const MOST_MEMORY: usize = 1 << 29;

/// Renders the template `source` from the file `path` over `variables`.
pub(in crate::tokenizer) fn render(path: &Path, source: &str, variables: Value) -> Result<String> {
    let too_large =
        || Error::file(path, format!("chat template: needs more than {MOST_MEMORY} bytes of memory"));
    memory_limit::within(MOST_MEMORY, &too_large, || render_within(path, source, variables))
}

fn render_within(path: &Path, source: &str, variables: Value) -> Result<String> {
    let source = extras::scope_generation_tags(source);
    let source = percent::rewrite(&source);
    let mut environment = environment().map_err(|e| error(path, &e))?;
    environment.set_fuel(Some(FUEL));
    let template = environment.template_from_str(&source).map_err(|e| error(path, &e))?;
    let mut output = Output::default();
    let result = template.render_captured_to(variables, &mut output);
    if output.full {
        return Err(Error::file(path, format!("chat template: writes more than {MOST_BYTES} bytes")));
    }
    result.map_err(|e| error(path, &e))?;
    // Jinja writes strings.
    String::from_utf8(output.bytes).map_err(|e| Error::file(path, format!("chat template: {e}")))
}

fn error(path: &Path, error: &minijinja::Error) -> Error {
    let line = error.line().map_or(String::new(), |line| format!(" line {line}"));
    let message = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("does not come to an end ({FUEL} instructions executed)"),
        // What `raise_exception` says stands for itself.
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    Error::file(path, format!("chat template{line}: {message}"))
}

/// What a template writes, up to a limit.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.full |= bytes.len() > MOST_BYTES - self.bytes.len();
        if self.full {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An environment set up as in transformers' `chat_template_utils.py`.
fn environment() -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    let mut syntax = minijinja::syntax::SyntaxConfig::builder();
    environment.set_syntax(syntax.trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", extras::tojson);
    environment.add_filter(percent::FILTER, percent::filter);
    environment.add_function("raise_exception", extras::raise_exception);
    environment.add_function("strftime_now", extras::strftime_now);
    Ok(environment)
}
