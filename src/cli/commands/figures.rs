//! Figures of an evaluation, on stdout and as JSON.

use serde_json::{Value, json};
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::output_file;
use crate::jobs::evaluation::Summary;
use crate::report::{evaluation_table, out};

/// Prints the figures and the `rate` in tokens per second as a table, and writes them with `more` as JSON to `path`;
/// `-` is stdout, without the table.
pub fn print_figures<const N: usize>(
    path: Option<&Path>,
    summary: &Summary,
    rate: f64,
    more: [(&str, Value); N],
) -> Result<()> {
    let Some(path) = path else { return out(&evaluation_table(summary, rate)) };
    let mut value = serde_json::to_value(summary).map_err(|e| Error::input(e.to_string()))?;
    if let Value::Object(object) = &mut value {
        object.extend(more.map(|(key, value)| (key.to_owned(), value)));
        object.insert("tokens_per_second".to_owned(), json!(rate));
    }
    let text = format!("{value:#}\n");
    if path == Path::new("-") {
        return out(&text);
    }
    output_file::write(path, text.as_bytes())?;
    out(&evaluation_table(summary, rate))
}
