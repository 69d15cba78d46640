//! Sensitivity of each layer: one panel per role, over the blocks, with a line for each of some bit widths.

use serde::Serialize;

use super::axis::{Axis, extremes};
use super::bits::{cost, scores};
use super::curve::path;
use super::frame::Frame;
use super::page::Page;
use super::template::kl;
use crate::choose::scores::{LayerSensitivity, Score};
use crate::models::inventory::LayerEntry;
use crate::models::spec::Role;
use crate::numerics::quant::Mode;

/// Bit widths that panels show.
const BITS: [u32; 4] = [2, 3, 4, 8];
const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 210.0;
/// Height of a label in pixels.
const LABEL_HEIGHT: f64 = 11.0;
/// Most blocks that are drawn with a dot each.
const DOTTED_BLOCKS: usize = 24;

/// Panels of the sensitivities, and their table.
#[derive(Debug, Serialize)]
pub struct Sensitivity {
    panels: Vec<Panel>,
    bits: Vec<u32>,
    rows: Vec<Row>,
    /// Layers of no block, which no panel shows.
    outside: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Panel {
    #[serde(flatten)]
    frame: Frame,
    role: String,
    /// True if there are more blocks than have room for a dot each.
    many: bool,
    lines: Vec<Line>,
    chosen: Vec<Dot>,
}

#[derive(Debug, Serialize)]
struct Line {
    bits: u32,
    path: String,
    dots: Vec<Dot>,
    label_y: f64,
}

#[derive(Debug, Serialize)]
struct Dot {
    x: f64,
    y: f64,
    title: String,
}

#[derive(Debug, Serialize)]
struct Row {
    path: String,
    costs: Vec<Option<f64>>,
    chosen: Option<f64>,
}

/// Layer with its predicted KL divergences.
struct Measured<'a> {
    entry: &'a LayerEntry,
    costs: [Option<f64>; BITS.len()],
    chosen: Option<f64>,
}

/// Computes the panels of a page; `None` without sensitivities.
pub fn section(page: &Page<'_>) -> Option<Sensitivity> {
    let record = page.record.filter(|record| !record.sensitivities.is_empty())?;
    let scores = scores(record);
    let mut measured = Vec::new();
    for entry in &page.inventory.layers {
        if let Some(&layer) = scores.get(entry.path.as_str()) {
            let costs = BITS.map(|bits| at_bits(layer, bits));
            measured.push(Measured { entry, costs, chosen: cost(entry, Some(layer)) });
        }
    }
    let (in_blocks, outside): (Vec<_>, Vec<_>) = measured.iter().partition(|m| m.entry.block.is_some());
    let row =
        |m: &Measured<'_>| Row { path: m.entry.path.clone(), costs: m.costs.to_vec(), chosen: m.chosen };
    Some(Sensitivity {
        panels: panels(&in_blocks),
        bits: BITS.to_vec(),
        rows: measured.iter().map(row).collect(),
        outside: outside.iter().map(|m| m.entry.path.clone()).collect(),
    })
}

/// Draws a panel for each role that layers of blocks have; none where no divergence is above zero.
fn panels(layers: &[&Measured<'_>]) -> Vec<Panel> {
    let values = layers.iter().flat_map(|m| m.costs.into_iter().chain([m.chosen])).flatten();
    let (least, greatest) = extremes(values.filter(|kl| *kl > 0.0));
    if greatest <= 0.0 {
        return Vec::new();
    }
    let blocks = layers.iter().filter_map(|m| m.entry.block).max().map_or(0, |last| last + 1);
    let mut panels = Vec::new();
    for role in Role::BLOCK {
        let mut layers: Vec<_> = layers.iter().copied().filter(|m| m.entry.role == role).collect();
        layers.sort_by_key(|m| m.entry.block);
        if !layers.is_empty() {
            panels.push(panel(role, &layers, blocks, (least, greatest)));
        }
    }
    panels
}

/// Returns the predicted KL divergence at `bits` in groups of 64, else of 32, else of 128.
fn at_bits(layer: &LayerSensitivity, bits: u32) -> Option<f64> {
    let preference = |score: &&Score| match score.quant.group_size {
        64 => 0,
        32 => 1,
        _ => 2,
    };
    let scores = layer.scores.iter().filter(|s| s.quant.bits == bits && s.quant.mode == Mode::Affine);
    scores.min_by_key(preference).map(|score| score.kl)
}

fn panel(role: Role, layers: &[&Measured<'_>], blocks: usize, range: (f64, f64)) -> Panel {
    let (left, right, top, bottom) = (44.0, WIDTH - 40.0, 34.0, HEIGHT - 36.0);
    let x = Axis::linear((-0.3, blocks as f64 - 0.7), (left, right));
    let y = Axis::decades(range, (bottom, top));
    let dot = |m: &Measured<'_>, kl: f64, what: &str| Dot {
        x: x.at(m.entry.block.unwrap_or(0) as f64),
        y: y.at(kl),
        title: format!("{} {what}: {}", m.entry.path, super::template::kl(kl)),
    };
    let lines = BITS.iter().enumerate().filter_map(|(index, &bits)| {
        let cost = |m: &&Measured<'_>| m.costs.get(index).copied().flatten().filter(|kl| *kl > 0.0);
        let dots: Vec<Dot> =
            layers.iter().filter_map(|m| Some(dot(m, cost(m)?, &format!("at {bits} bits")))).collect();
        let label_y = dots.last()?.y;
        let path = path(dots.iter().map(|dot| (dot.x, dot.y)));
        Some(Line { bits, path, label_y, dots: if blocks > DOTTED_BLOCKS { Vec::new() } else { dots } })
    });
    let chosen = layers.iter().filter_map(|m| Some(dot(m, m.chosen.filter(|kl| *kl > 0.0)?, "as chosen")));
    let frame = Frame {
        id: format!("sensitivity-{role}"),
        variant: "panel",
        title: format!("Sensitivity of {role} over the blocks"),
        description: description(role, layers),
        width: WIDTH,
        height: HEIGHT,
        left,
        right,
        top,
        bottom,
        x_ticks: x.whole_ticks(6),
        y_ticks: y.ticks(4),
        x_label: "block",
        y_label: "",
    };
    Panel {
        frame,
        role: role.to_string(),
        many: blocks > DOTTED_BLOCKS,
        lines: spread_labels(lines.collect()),
        chosen: chosen.collect(),
    }
}

/// Moves labels of lines that end close to each other down until they can be read. The lines come from the top.
fn spread_labels(mut lines: Vec<Line>) -> Vec<Line> {
    let mut free = f64::NEG_INFINITY;
    for line in &mut lines {
        line.label_y = line.label_y.max(free);
        free = line.label_y + LABEL_HEIGHT;
    }
    lines
}

/// Describes the panel in words, with the most sensitive block at the fewest bits that were measured.
fn description(role: Role, layers: &[&Measured<'_>]) -> String {
    let index =
        (0..BITS.len()).find(|&index| layers.iter().any(|m| m.costs.get(index).is_some_and(Option::is_some)));
    let cost =
        |m: &&&Measured<'_>| index.and_then(|index| m.costs.get(index).copied().flatten()).unwrap_or(0.0);
    let worst = layers.iter().max_by(|a, b| cost(a).total_cmp(&cost(b)));
    let worst = worst.and_then(|m| Some((m.entry.block?, cost(&m), BITS.get(index?)?)));
    let worst = worst.map_or_else(String::new, |(block, value, bits)| {
        format!(" The most sensitive is block {block}: {} at {bits} bits.", kl(value))
    });
    format!(
        "Predicted KL divergence per token of rounding {role} alone, block by block, on a logarithmic scale.{worst}"
    )
}
