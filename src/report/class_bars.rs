//! Bytes by class as bars of block characters, where stdout is a terminal.

use std::fmt::Write;

use super::paint::{Canvas, unicode};
use crate::models::inventory::ClassBytes;
use crate::words::bytes;

/// Characters of the longest bar.
const WIDTH: usize = 48;

/// Name, characters (Unicode, ASCII), colour and value of a class; any of the first three tells it from the others.
type Class = (&'static str, [char; 2], &'static str, fn(&ClassBytes) -> u64);
const CLASSES: [Class; 4] = [
    ("embeddings", ['▒', '%'], "33", |bytes| bytes.embeddings),
    ("codes", ['█', '#'], "36", |bytes| bytes.codes),
    ("scales and biases", ['▓', '='], "34", |bytes| bytes.scales_biases),
    ("other float", ['░', '.'], "37", |bytes| bytes.float),
];

/// Draws one bar per column, all to the same scale, and the legend; empty where stdout is no terminal.
pub fn class_bars(columns: &[(&str, ClassBytes)]) -> String {
    draw(columns, Canvas::stdout(), unicode())
}

fn draw(columns: &[(&str, ClassBytes)], canvas: Canvas, unicode: bool) -> String {
    let shown = CLASSES
        .map(|(name, [block, ascii], code, value)| (name, if unicode { block } else { ascii }, code, value));
    let longest = columns.iter().map(|(_, classes)| classes.total).max().unwrap_or(0);
    if canvas == Canvas::Plain || longest == 0 {
        return String::new();
    }
    let name_width = columns.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::from("\n");
    for (name, classes) in columns {
        let _ = write!(text, "{name:<name_width$}  ");
        let (mut sum, mut drawn) = (0, 0);
        for (_, block, code, value) in shown {
            sum += value(classes);
            let end = (sum as f64 / longest as f64 * WIDTH as f64).round() as usize;
            let part = block.to_string().repeat(end.min(WIDTH).saturating_sub(drawn));
            drawn = drawn.max(end.min(WIDTH));
            if !part.is_empty() {
                text.push_str(&canvas.paint(code, &part));
            }
        }
        let _ = writeln!(text, "  {}", bytes(classes.total));
    }
    let legend =
        shown.map(|(name, block, code, _)| format!("{} {name}", canvas.paint(code, &block.to_string())));
    let _ = writeln!(text, "{:name_width$}  {}", "", legend.join("   "));
    text
}

#[cfg(test)]
mod tests {
    use super::draw;
    use crate::models::inventory::ClassBytes;
    use crate::report::paint::Canvas;

    #[test]
    fn bars_are_as_long_as_their_bytes() {
        let before = ClassBytes { total: 96, float: 72, embeddings: 24, ..ClassBytes::default() };
        let after = ClassBytes { total: 48, embeddings: 24, codes: 20, scales_biases: 2, float: 2 };
        let columns = [("before", before), ("after", after)];
        assert_eq!(draw(&columns, Canvas::Plain, true), "");
        let expected = format!(
            "\nbefore  {}{}  96 B\nafter   {}{}▓░  48 B\n        ▒ embeddings   █ codes   ▓ scales and biases   ░ other float\n",
            "▒".repeat(12),
            "░".repeat(36),
            "▒".repeat(12),
            "█".repeat(10)
        );
        assert_eq!(draw(&columns, Canvas::Blocks, true), expected);
        let ascii = draw(&columns, Canvas::Blocks, false);
        assert!(
            ascii.is_ascii()
                && ascii.contains(&format!("after   {}{}=.  48 B", "%".repeat(12), "#".repeat(10))),
            "{ascii}"
        );
        let colour = draw(&columns, Canvas::Colour, true);
        assert!(colour.contains(&format!("\x1b[36m{}\x1b[0m", "█".repeat(10))), "{colour:?}");
        assert_eq!(draw(&[("size", ClassBytes::default())], Canvas::Colour, true), "", "nothing to draw");
    }
}
