//! Bit map with one row per block and one column per role, and a table of every layer.

use serde::Serialize;
use std::collections::BTreeMap;

use super::page::Page;
use crate::choose::scores::LayerSensitivity;
use crate::jobs::record::Record;
use crate::models::inventory::LayerEntry;
use crate::numerics::quant::Quant;
use crate::report::bits::cell;

/// Blocks in one table; further blocks go into tables beside it.
const ROWS_PER_TABLE: usize = 16;
/// Most blocks that go into one table.
const ONE_TABLE_BLOCKS: usize = 20;

/// Heat map, its legend and the list of layers.
#[derive(Debug, Serialize)]
pub struct Bits {
    roles: Vec<String>,
    tables: Vec<Table>,
    /// Layers that belong to no block.
    others: Vec<Cell>,
    legend: Vec<Share>,
    layers: Vec<Layer>,
    predicted: bool,
    /// True if some layer's groups are not of 64.
    groups: bool,
}

#[derive(Debug, Serialize)]
struct Table {
    first: usize,
    last: usize,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    block: usize,
    cells: Vec<Cell>,
}

#[derive(Debug, Default, Serialize)]
struct Cell {
    role: String,
    class: String,
    bits: String,
    /// Group size where it is not 64.
    group: String,
    title: String,
}

/// Share of the linear layers' weights that have this many bits.
#[derive(Debug, Serialize)]
struct Share {
    class: String,
    bits: String,
    /// Share of the weights, 0 to 1.
    of_weights: f64,
    layers: usize,
}

#[derive(Debug, Serialize)]
struct Layer {
    path: String,
    shape: String,
    setting: String,
    bytes: u64,
    kl: Option<f64>,
}

/// Computes the bit map of a page.
pub fn section(page: &Page<'_>) -> Bits {
    let inventory = page.inventory;
    let scores = page.record.map(scores).unwrap_or_default();
    let kl = |layer: &LayerEntry| cost(layer, scores.get(layer.path.as_str()).copied());
    let describe = |layer: &LayerEntry| Cell {
        role: layer.role.to_string(),
        class: class(layer),
        bits: layer.bits.map_or_else(|| "float".to_owned(), |bits| bits.to_string()),
        group: cell(Some(layer)).split_once(':').map_or_else(String::new, |(_, group)| group.to_owned()),
        title: title(layer, kl(layer)),
    };
    let cells = inventory.cells();
    let blocks = cells.keys().map(|(block, _)| block + 1).max().unwrap_or(0);
    let rows = if blocks > ONE_TABLE_BLOCKS { ROWS_PER_TABLE } else { ONE_TABLE_BLOCKS };
    let roles = inventory.roles();
    let row = |block: usize| Row {
        block,
        cells: roles
            .iter()
            .map(|role| cells.get(&(block, *role)).map_or_else(Cell::default, |layer| describe(layer)))
            .collect(),
    };
    let tables = (0..blocks).step_by(rows).map(|first| {
        let end = (first + rows).min(blocks);
        Table { first, last: end - 1, rows: (first..end).map(row).collect() }
    });
    Bits {
        roles: roles.iter().map(ToString::to_string).collect(),
        tables: tables.collect(),
        others: inventory.layers.iter().filter(|layer| layer.block.is_none()).map(describe).collect(),
        legend: legend(&inventory.layers),
        layers: inventory.layers.iter().map(|layer| layer_row(layer, kl(layer))).collect(),
        predicted: !scores.is_empty(),
        groups: inventory.layers.iter().any(|layer| layer.group_size.is_some_and(|size| size != 64)),
    }
}

fn layer_row(layer: &LayerEntry, kl: Option<f64>) -> Layer {
    Layer { path: layer.path.clone(), shape: sizes(layer), setting: setting(layer), bytes: layer.bytes, kl }
}

/// Returns a record's sensitivities by layer path.
pub fn scores(record: &Record) -> BTreeMap<&str, &LayerSensitivity> {
    record.sensitivities.iter().map(|layer| (layer.path.as_str(), layer)).collect()
}

/// Returns the predicted KL divergence of the layer's own setting; zero for float, `None` where it was not measured.
pub fn cost(layer: &LayerEntry, scores: Option<&LayerSensitivity>) -> Option<f64> {
    let scores = scores?;
    let Some(bits) = layer.bits else { return Some(0.0) };
    let has_setting = |quant: &Quant| {
        let is_of_mode = Some(quant.mode.name()) == layer.mode;
        quant.bits == bits && is_of_mode && Some(quant.group_size) == layer.group_size
    };
    scores.scores.iter().find(|score| has_setting(&score.quant)).map(|score| score.kl)
}

/// Returns the CSS class of a layer's bits: `b4`, or `float`.
fn class(layer: &LayerEntry) -> String {
    layer.bits.map_or_else(|| "float".to_owned(), |bits| format!("b{bits}"))
}

fn setting(layer: &LayerEntry) -> String {
    match (layer.bits, layer.group_size, layer.mode) {
        (Some(bits), Some(group), Some(mode)) => format!("{bits} bits, groups of {group}, {mode}"),
        _ => "float".to_owned(),
    }
}

fn title(layer: &LayerEntry, kl: Option<f64>) -> String {
    let size = crate::words::bytes(layer.bytes);
    let cost = kl
        .map_or_else(String::new, |kl| format!("; predicted KL {} nats per token", super::template::kl(kl)));
    format!("{}: {}; {}, {size}{cost}", layer.path, setting(layer), sizes(layer))
}

/// Formats a shape as `96 × 64`.
fn sizes(layer: &LayerEntry) -> String {
    layer.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" × ")
}

fn legend(layers: &[LayerEntry]) -> Vec<Share> {
    let mut counts: BTreeMap<u32, (u64, usize)> = BTreeMap::new();
    let mut all = 0;
    for layer in layers.iter().filter(|layer| layer.role.is_linear()) {
        let weights = layer.weights();
        let count = counts.entry(layer.bits.unwrap_or(u32::MAX)).or_default();
        count.0 += weights;
        count.1 += 1;
        all += weights;
    }
    let share = |(bits, (weights, layers)): (u32, (u64, usize))| Share {
        class: if bits == u32::MAX { "float".to_owned() } else { format!("b{bits}") },
        bits: if bits == u32::MAX { "float".to_owned() } else { bits.to_string() },
        of_weights: weights as f64 / all.max(1) as f64,
        layers,
    };
    counts.into_iter().map(share).collect()
}
