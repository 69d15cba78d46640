//! Statistics of a few samples, and Markdown tables.

use std::fmt::Write;

/// Returns the middle sample, or the mean of the two in the middle; zero of none.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.get(middle) {
        None => 0.0,
        Some(high) if sorted.len() % 2 == 1 => *high,
        Some(high) => f64::midpoint(sorted[middle - 1], *high),
    }
}

/// Returns median, lowest and highest as `1.23 (1.20-1.40)`; a single sample alone.
pub fn spread(samples: &[f64], decimals: usize) -> String {
    if let [only] = samples {
        return format!("{only:.decimals$}");
    }
    let low = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let high = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.decimals$} ({low:.decimals$}-{high:.decimals$})", median(samples))
}

/// Returns a Markdown table whose first row is the header. The first column is aligned to the left, the others to the right.
pub fn markdown(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for (line, row) in rows.iter().enumerate() {
        for (column, &width) in widths.iter().enumerate() {
            let cell = row.get(column).map_or("", String::as_str);
            let _ = if column == 0 {
                write!(text, "| {cell:<width$} |")
            } else {
                write!(text, " {cell:>width$} |")
            };
        }
        text.push('\n');
        if line == 0 {
            for (column, &width) in widths.iter().enumerate() {
                let open = if column == 0 { "|" } else { "" };
                let _ = write!(text, "{open}{}|", "-".repeat(width + 2));
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-12);
        assert_eq!(spread(&[3.0, 1.0, 2.0], 1), "2.0 (1.0-3.0)");
    }

    #[test]
    fn columns_align() {
        let rows = [vec!["a".to_owned(), "12".to_owned()], vec!["long".to_owned(), "3".to_owned()]];
        assert_eq!(markdown(&rows), "| a    | 12 |\n|------|----|\n| long |  3 |\n");
    }
}
