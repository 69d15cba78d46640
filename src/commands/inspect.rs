//! `mixbit inspect`: what is in a model, from headers alone.

use serde_json::json;

use crate::checkpoint::SourceModel;
use crate::cli::Inspect;
use crate::error::{Error, Result};
use crate::inventory::Inventory;
use crate::report::{Align, Console, Table, bit_table, bytes, cell, class_table, out};
use crate::spec::Role;

/// Runs the command.
pub fn run(args: &Inspect, console: &Console) -> Result<()> {
    let source = SourceModel::open(&args.model)?;
    let inventory = Inventory::of_source(&source);
    if args.json {
        return print_json(&source, &inventory);
    }
    if args.layers {
        return print_layers(&inventory);
    }
    console.notes(&source.spec().notes);
    let spec = source.spec();
    let linear = || inventory.layers.iter().filter(|layer| layer.role != Role::Embed);
    out(&format!(
        "{}: {} parameters, {} blocks, hidden size {}, {} heads ({} for keys and values), vocabulary {}\n\
         {} of {} linear layers quantized; linear layers {:.4} bpw, whole model {:.4} bpw, {}\n\n{}\n{}",
        source.config().model_type(),
        inventory.parameters,
        spec.layers.len(),
        spec.hidden_size,
        spec.num_attention_heads,
        spec.num_key_value_heads,
        spec.vocab_size,
        linear().filter(|layer| layer.bits.is_some()).count(),
        linear().count(),
        inventory.bpw_quantized(),
        inventory.bpw_model(),
        bytes(inventory.bytes.total),
        bit_table(&inventory),
        class_table(&[("size", &inventory)]),
    ))
}

fn print_json(source: &SourceModel, inventory: &Inventory) -> Result<()> {
    let value = json!({
        "model_type": source.config().model_type(),
        "parameters": inventory.parameters,
        "bpw_quantized": inventory.bpw_quantized(),
        "bpw_model": inventory.bpw_model(),
        "bytes": inventory.bytes,
        "layers": inventory.layers,
        "notes": source.spec().notes,
    });
    let text = serde_json::to_string_pretty(&value).map_err(|e| Error::usage(e.to_string()))?;
    out(&format!("{text}\n"))
}

fn print_layers(inventory: &Inventory) -> Result<()> {
    let mut table = Table::new(&[
        ("layer", Align::Left),
        ("shape", Align::Right),
        ("bits", Align::Right),
        ("bytes", Align::Right),
    ]);
    for layer in &inventory.layers {
        let shape = format!("{}x{}", layer.shape[0], layer.shape[1]);
        table.row([layer.path.clone(), shape, cell(Some(layer)), layer.bytes.to_string()]);
    }
    out(&table.to_string())
}
