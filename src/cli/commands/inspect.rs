//! `mixbit inspect`: contents of a model or a weight file, from headers alone.

use serde_json::{Value, json};
use std::path::Path;

use super::report::record;
use crate::cli::args::Inspect;
use crate::error::{Error, Result};
use crate::files::output_file;
use crate::files::output_file::Existing;
use crate::files::pack::{Pack, PackedFile};
use crate::formats::checkpoint::Checkpoint;
use crate::jobs::opening::{Need, open};
use crate::models::contents::{FileContents, FileLayer};
use crate::models::inventory::Inventory;
use crate::models::source::SourceModel;
use crate::report::{
    Align, Console, PageInputs, Table, architecture, bit_table, cell, class_bars, class_table, out, page,
};
use crate::words::{INDIVISIBLE, bytes, count};

/// Runs the command.
pub fn run(args: &Inspect, console: &Console) -> Result<()> {
    if let Some(path) = &args.html {
        output_file::check(path, Existing::replaced_if(args.overwrite))?;
        output_file::refuse_inputs(path, &[&args.model])?;
    }
    let extension = args.model.extension().unwrap_or_default();
    if args.model.is_file() && (extension == "safetensors" || extension == "npz") {
        return inspect_file(args);
    }
    let source = open(&args.model, Need::Headers)?;
    let inventory = Inventory::of_source(&source);
    if args.json {
        return print_json(&json!({
            "model_type": source.config().model_type(),
            "parameters": inventory.parameters,
            "bpw_quantized": inventory.bpw_quantized(),
            "bpw_model": inventory.bpw_model(),
            "bytes": inventory.bytes,
            "layers": inventory.layers,
            "notes": source.spec().notes,
            "files": source.files().pack().map(packed_files),
        }));
    }
    if args.layers {
        let layers = inventory.layers.iter();
        return print_layers(layers.map(|layer| {
            let form = layer.form.unwrap_or_default().to_owned();
            [layer.path.clone(), sizes(&layer.shape), cell(Some(layer)), layer.bytes.to_string(), form]
        }));
    }
    if let Some(path) = &args.html {
        let record = record(&source, console)?;
        let page = page(&source, &inventory, &PageInputs::default(), record.as_ref())?;
        output_file::write(path, page.as_bytes())?;
        console.done(&format!("the model in {}", path.display()));
        return Ok(());
    }
    console.notes(&source.spec().notes);
    print_model(&source, &inventory)
}

fn print_model(source: &SourceModel, inventory: &Inventory) -> Result<()> {
    if let Some(pack) = source.files().pack() {
        out(&pack_table(pack))?;
    }
    let columns = [("size", inventory.bytes)];
    let without = match inventory.indivisible() {
        0 => String::new(),
        layers => format!(" (without {} {INDIVISIBLE})", count(layers, "layer")),
    };
    let linear = || inventory.layers.iter().filter(|layer| layer.role.is_linear());
    out(&format!(
        "{}\n\
         {} of {} quantized; linear layers {:.4} bpw{}, whole model {:.4} bpw, {}\n\n{}\n{}{}",
        architecture(source, inventory),
        linear().filter(|layer| layer.bits.is_some()).count(),
        count(linear().count(), "linear layer"),
        inventory.bpw_quantized(),
        without,
        inventory.bpw_model(),
        bytes(inventory.bytes.total),
        bit_table(inventory),
        class_table(&columns),
        class_bars(&columns),
    ))
}

fn packed_files(pack: &Pack) -> Value {
    let describe =
        |file: &PackedFile| json!({"name": file.name, "bytes": file.data.len(), "sha256": file.sha256});
    pack.files().iter().map(describe).collect()
}

/// Returns a table of the files in a pack, and an empty line.
fn pack_table(pack: &Pack) -> String {
    let mut table = Table::new(&[("file", Align::Left), ("bytes", Align::Right), ("SHA-256", Align::Left)]);
    for file in pack.files() {
        table.row([file.name.clone(), file.data.len().to_string(), file.sha256.clone()]);
    }
    format!("{table}\n")
}

/// Inspects a single weight file, of which only names, types and shapes are known.
fn inspect_file(args: &Inspect) -> Result<()> {
    let path = &args.model;
    let contents = FileContents::of(&Checkpoint::open(path)?);
    if args.html.is_some() {
        return Err(Error::usage("--html draws a model folder, not a single file")
            .hint("give the folder that holds config.json"));
    }
    if args.json {
        return print_json(&json!({
            "model_type": Value::Null,
            "parameters": contents.parameters,
            "bpw_quantized": contents.bpw_quantized(),
            "bpw_model": contents.bpw_model(),
            "bytes": contents.bytes,
            "layers": contents.layers,
            "tensors": contents.tensors,
            "notes": [],
        }));
    }
    if args.layers {
        return print_layers(contents.layers.iter().map(|layer| {
            let shape = layer.shape.as_deref().map_or_else(|| "?".to_owned(), sizes);
            [layer.path.clone(), shape, setting(layer), layer.bytes.to_string(), String::new()]
        }));
    }
    print_file(path, &contents)
}

fn print_file(path: &Path, contents: &FileContents) -> Result<()> {
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("type", Align::Left),
        ("shape", Align::Right),
        ("bytes", Align::Right),
    ]);
    for tensor in &contents.tensors {
        table.row([
            tensor.name.clone(),
            tensor.dtype.clone(),
            sizes(&tensor.shape),
            tensor.bytes.to_string(),
        ]);
    }
    let columns = [("size", contents.bytes)];
    let quantized = contents.layers.iter().filter(|layer| layer.mode.is_some()).count();
    out(&format!(
        "{}: {}, {}, {quantized} of {} matrices quantized (--layers lists them)\n\n{table}\n{}{}",
        path.display(),
        count(contents.tensors.len(), "tensor"),
        bytes(contents.bytes.total),
        contents.layers.len(),
        class_table(&columns),
        class_bars(&columns),
    ))
}

/// Describes a layer's setting: `4:64`, `nvfp4`, `float`, or several possible ones, `2:64 or 4:32`.
fn setting(layer: &FileLayer) -> String {
    let Some(mode) = layer.mode else { return "float".to_owned() };
    match (layer.bits, layer.group_size) {
        (Some(bits), Some(group_size)) if mode == "affine" => format!("{bits}:{group_size}"),
        (Some(_), _) => mode.to_owned(),
        (None, _) => layer.settings.join(" or "),
    }
}

fn sizes(shape: &[usize]) -> String {
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
}

fn print_json(value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::input(e.to_string()))?;
    out(&format!("{text}\n"))
}

/// Prints path, shape, setting, bytes and incoming form of layers; the form only where a layer has one.
fn print_layers(rows: impl Iterator<Item = [String; 5]>) -> Result<()> {
    let rows: Vec<_> = rows.collect();
    let columns = [
        ("layer", Align::Left),
        ("shape", Align::Right),
        ("bits", Align::Right),
        ("bytes", Align::Right),
        ("came as", Align::Left),
    ];
    let shown = if rows.iter().any(|row| !row[4].is_empty()) { columns.len() } else { columns.len() - 1 };
    let mut table = Table::new(&columns[..shown]);
    for row in rows {
        table.row(row.into_iter().take(shown));
    }
    out(&table.to_string())
}
