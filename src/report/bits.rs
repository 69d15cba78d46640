//! The bit map as a table, and bytes by class.

use std::fmt::Write;
use std::io::IsTerminal;

use super::console::bytes;
use super::table::{Align, Table};
use crate::inventory::{ClassBytes, Inventory, LayerEntry};
use crate::spec::Role;

/// Width of a cell: `8:128`.
const WIDTH: usize = 6;

/// A row a block and a column a role; a cell holds the bits, and the group size where it is not 64. Coloured when stdout
/// is a terminal.
pub fn bit_table(inventory: &Inventory) -> String {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let blocks = inventory.layers.iter().filter_map(|layer| layer.block).max().map_or(0, |last| last + 1);
    let mut text = format!("{:<WIDTH$}", "block");
    for role in Role::BLOCK {
        let _ = write!(text, " {role:>WIDTH$}");
    }
    text.push('\n');
    let cells = inventory.cells();
    for block in 0..blocks {
        let _ = write!(text, "{block:<WIDTH$}");
        for role in Role::BLOCK {
            let entry = cells.get(&(block, role)).copied();
            let _ = write!(text, " {}", paint(entry, &format!("{:>WIDTH$}", cell(entry)), colour));
        }
        text.push('\n');
    }
    text.push_str("bits, and after a colon the group size where it is not 64\n");
    for entry in inventory.layers.iter().filter(|layer| layer.block.is_none()) {
        let _ = writeln!(text, "{}: {}", entry.role, paint(Some(entry), &cell(Some(entry)), colour));
    }
    text
}

/// `4`, `4:32`, `4:32:mxfp4`, or `float`.
pub fn cell(entry: Option<&LayerEntry>) -> String {
    let Some(entry) = entry else { return "-".to_owned() };
    match (entry.bits, entry.group_size, entry.mode) {
        (Some(bits), Some(64), Some("affine")) => bits.to_string(),
        (Some(bits), Some(group), Some("affine")) => format!("{bits}:{group}"),
        (Some(_), _, Some(mode)) => mode.to_owned(),
        _ => "float".to_owned(),
    }
}

/// Few bits are red, many green, float dim.
fn paint(entry: Option<&LayerEntry>, text: &str, colour: bool) -> String {
    if !colour {
        return text.to_owned();
    }
    let code = match entry.and_then(|entry| entry.bits) {
        None => "2",
        Some(0..=2) => "31",
        Some(3) => "33",
        Some(4) => "37",
        Some(5) => "36",
        Some(_) => "32",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Bytes by class, in named columns.
pub fn class_table(columns: &[(&str, ClassBytes)]) -> Table {
    let mut header = vec![("bytes", Align::Left)];
    header.extend(columns.iter().map(|(name, _)| (*name, Align::Right)));
    let mut table = Table::new(&header);
    let mut row = |name: &str, value: fn(&ClassBytes) -> u64| {
        let cells = columns.iter().map(|(_, classes)| bytes(value(classes)));
        table.row(std::iter::once(name.to_owned()).chain(cells));
    };
    row("embeddings", |classes| classes.embeddings);
    row("quantized codes", |classes| classes.codes);
    row("scales and biases", |classes| classes.scales_biases);
    row("other float", |classes| classes.float);
    row("total", |classes| classes.total);
    table
}
