//! Supported models: as a table for the terminal, as JSON, and as the tables of README.md and docs/models.md.

use serde_json::{Value, json};
use std::fmt::Write;

use super::{Align, Table};
use crate::models::architectures::{Published, published, rows};

/// Returns the table of `mixbit models`, with the notes below it.
pub fn supported_table() -> String {
    let columns = ["model_type", "family", "models", "read as"];
    let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
    for models in published() {
        table.row([models.model_type, models.family, models.models, &read_as(models.model_type).join(", ")]);
    }
    let noted = published().iter().filter(|models| !models.note.is_empty());
    let notes: String =
        noted.fold(String::new(), |text, models| text + &format!("{}: {}\n", models.model_type, models.note));
    format!("{table}\n{notes}")
}

/// Returns the supported models for programs.
pub fn supported_json() -> Value {
    let entry = |models: &Published| {
        json!({
            "model_type": models.model_type,
            "family": models.family,
            "models": models.models,
            "read_as": read_as(models.model_type),
            "note": models.note,
        })
    };
    published().iter().map(entry).collect()
}

/// Returns README.md's table: a row per family of several `model_type`s, and one for all others.
pub fn family_markdown() -> String {
    let mut text = "| family | models |\n|---|---|\n".to_owned();
    let mut others = Vec::new();
    for family in published().chunk_by(|one, next| one.family == next.family) {
        match family {
            [only] => others.push(only.models),
            family => {
                let models: Vec<&str> = family.iter().map(|models| models.models).collect();
                let _ = writeln!(text, "| {} | {} |", family[0].family, models.join("; "));
            }
        }
    }
    let _ = writeln!(text, "| others | {} |", others.join("; "));
    text
}

/// Returns the table of docs/models.md: a row per `model_type`.
pub fn model_type_markdown() -> String {
    let mut text =
        "| `model_type` | models | what is done that the config does not say |\n|---|---|---|\n".to_owned();
    for models in published() {
        let note = if models.note.is_empty() { String::new() } else { format!("{} ", models.note) };
        let _ = writeln!(text, "| `{}` | {} | {note}|", models.model_type, models.models);
    }
    text
}

/// Returns the `model_type`s whose decoder a model of this type has, where that is not its own.
fn read_as(model_type: &str) -> Vec<&'static str> {
    let Some(row) = rows().iter().find(|row| row.model_type == model_type) else { return Vec::new() };
    match row.wrapper {
        Some(wrapper) => wrapper.texts.iter().map(|(text, _)| *text).collect(),
        None => row.alias_of.into_iter().collect(),
    }
}
