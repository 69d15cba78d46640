//! Bytes by class before and after: a stacked bar each, and a table.

use serde::Serialize;

use super::axis::place;
use super::page::Page;
use crate::models::inventory::ClassBytes;

const HEIGHT: f64 = 30.0;
const GAP: f64 = 30.0;

/// Name, CSS class and value of a class of bytes, in the order of the bars.
type Class = (&'static str, &'static str, fn(&ClassBytes) -> u64);
const CLASSES: [Class; 4] = [
    ("embeddings", "embeddings", |bytes| bytes.embeddings),
    ("quantized codes", "codes", |bytes| bytes.codes),
    ("scales and biases", "scales", |bytes| bytes.scales_biases),
    ("other float", "float", |bytes| bytes.float),
];

/// Bars and the table under them.
#[derive(Debug, Serialize)]
pub struct Classes {
    id: &'static str,
    title: &'static str,
    height: f64,
    bars: Vec<Bar>,
    columns: Vec<&'static str>,
    rows: Vec<Row>,
    totals: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Bar {
    name: &'static str,
    total: u64,
    y: f64,
    thickness: f64,
    /// End of the bar in percent of the drawing's width.
    end: f64,
    segments: Vec<Segment>,
}

#[derive(Debug, Serialize)]
struct Segment {
    name: &'static str,
    class: &'static str,
    bytes: u64,
    x: f64,
    width: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    class: &'static str,
    bytes: Vec<u64>,
    /// Share of the model's bytes, 0 to 1.
    share: f64,
}

/// Computes the bars and the table of a page.
pub fn section(page: &Page<'_>) -> Classes {
    let now = page.inventory.bytes;
    let columns = match page.before {
        Some(before) => vec![("before", before), ("after", now)],
        None => vec![("size", now)],
    };
    let longest = columns.iter().map(|(_, bytes)| bytes.total).max().unwrap_or(0).max(1) as f64;
    let bars = columns.iter().enumerate().map(|(index, (name, bytes))| Bar {
        name,
        total: bytes.total,
        y: GAP + index as f64 * (HEIGHT + GAP),
        thickness: HEIGHT,
        end: percent(bytes.total, longest),
        segments: segments(bytes, longest),
    });
    let share = |bytes: u64| bytes as f64 / now.total.max(1) as f64;
    let rows = CLASSES.iter().map(|(name, class, value)| Row {
        name,
        class,
        bytes: columns.iter().map(|(_, bytes)| value(bytes)).collect(),
        share: share(value(&now)),
    });
    Classes {
        id: "bytes",
        title: if columns.len() > 1 { "Bytes by class before and after" } else { "Bytes by class" },
        height: columns.len() as f64 * (HEIGHT + GAP) + 4.0,
        bars: bars.collect(),
        rows: rows.collect(),
        totals: columns.iter().map(|(_, bytes)| bytes.total).collect(),
        columns: columns.into_iter().map(|(name, _)| name).collect(),
    }
}

fn segments(bytes: &ClassBytes, longest: f64) -> Vec<Segment> {
    let mut sum = 0;
    let mut segments = Vec::new();
    for (name, class, value) in CLASSES {
        let value = value(bytes);
        if value > 0 {
            let (x, end) = (percent(sum, longest), percent(sum + value, longest));
            segments.push(Segment { name, class, bytes: value, x, width: place(end - x) });
        }
        sum += value;
    }
    segments
}

fn percent(bytes: u64, of: f64) -> f64 {
    place(100.0 * bytes as f64 / of)
}
