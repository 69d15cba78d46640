//! The bit map as a table, and bytes by class.

use std::fmt::Write;

use super::paint::Canvas;
use super::table::{Align, Table};
use crate::models::inventory::{ClassBytes, Inventory, LayerEntry};
use crate::models::spec::Role;
use crate::words::bytes;

/// Width of a cell: `8:128`.
const WIDTH: usize = 6;

/// Draws the bit map with one row per block and one column per role; a cell holds the bits, and the group size where it
/// is not 64. Shaded when stdout is a terminal with colours.
pub fn bit_table(inventory: &Inventory) -> String {
    draw(inventory, Canvas::stdout())
}

fn draw(inventory: &Inventory, canvas: Canvas) -> String {
    let blocks = inventory.layers.iter().filter_map(|layer| layer.block).max().map_or(0, |last| last + 1);
    let routers = inventory.layers.iter().any(|layer| layer.role == Role::Router);
    let roles: Vec<Role> = inventory.roles().into_iter().chain(routers.then_some(Role::Router)).collect();
    let mut text = format!("{:<WIDTH$}", "block");
    for role in &roles {
        let _ = write!(text, " {role:>WIDTH$}");
    }
    text.push('\n');
    let cells = inventory.cells();
    for block in 0..blocks {
        let _ = write!(text, "{block:<WIDTH$}");
        for &role in &roles {
            let entry = cells.get(&(block, role)).copied();
            let _ = write!(text, " {}", paint(entry, &format!("{:>WIDTH$}", cell(entry)), canvas));
        }
        text.push('\n');
    }
    text.push_str("bits, and after a colon the group size where it is not 64\n");
    for entry in inventory.layers.iter().filter(|layer| layer.block.is_none()) {
        let _ = writeln!(text, "{}: {}", entry.role, paint(Some(entry), &cell(Some(entry)), canvas));
    }
    text
}

/// Formats the quantization of a layer as `4`, `4:32`, `mxfp4` or `float`.
pub fn cell(entry: Option<&LayerEntry>) -> String {
    let Some(entry) = entry else { return "-".to_owned() };
    match (entry.bits, entry.group_size, entry.mode) {
        (Some(bits), Some(64), Some("affine")) => bits.to_string(),
        (Some(bits), Some(group), Some("affine")) => format!("{bits}:{group}"),
        (Some(_), _, Some(mode)) => mode.to_owned(),
        _ => "float".to_owned(),
    }
}

/// Colours a cell from dark to bright with the bits. Both colours of a cell are set, so that it is readable in either
/// theme. Float is dim.
fn paint(entry: Option<&LayerEntry>, text: &str, canvas: Canvas) -> String {
    let code = match entry.and_then(|entry| entry.bits) {
        None => "2",
        Some(0..=2) => "38;5;231;48;5;54",
        Some(3) => "38;5;231;48;5;25",
        Some(4) => "38;5;231;48;5;30",
        Some(5) => "38;5;16;48;5;36",
        Some(6) => "38;5;16;48;5;113",
        Some(_) => "38;5;16;48;5;227",
    };
    canvas.paint(code, text)
}

/// Makes a table of bytes by class, with one named column per model.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_change_nothing_but_the_colour() {
        let layer = |block, bits| LayerEntry {
            path: "p".to_owned(),
            shape: vec![64, 64],
            bits,
            group_size: bits.map(|_| 64),
            mode: bits.map(|_| "affine"),
            form: None,
            bytes: 1,
            block,
            role: if block.is_some() { Role::Q } else { Role::Head },
        };
        let layers = vec![layer(Some(0), Some(3)), layer(Some(1), None), layer(None, Some(8))];
        let inventory = Inventory { layers, bytes: ClassBytes::default(), parameters: 1 };
        let plain = draw(&inventory, Canvas::Plain);
        assert!(plain.contains("\n0           3") && plain.ends_with("head: 8\n"), "{plain}");
        assert_eq!(draw(&inventory, Canvas::Blocks), plain);
        let colour = draw(&inventory, Canvas::Colour);
        assert!(colour.contains("\x1b[38;5;231;48;5;25m     3\x1b[0m"), "{colour:?}");
        let mut stripped = String::new();
        for (n, part) in colour.split("\x1b[").enumerate() {
            stripped.push_str(if n == 0 { part } else { part.split_once('m').unwrap().1 });
        }
        assert_eq!(stripped, plain);
    }
}
