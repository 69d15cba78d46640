//! `mixbit quantize`: reachable sizes, sensitivities, allocation, rounding, report.

use std::collections::BTreeMap;

use crate::bitmap::BitMap;
use crate::calibration::Text;
use crate::candidate::DEFAULT_CANDIDATES;
use crate::checkpoint::{Dtype, OutputFolder, Produce, SourceModel, check_destination};
use crate::cli::Quantize;
use crate::engine::{AnalysisSettings, Engine, analyze};
use crate::error::Result;
use crate::export;
use crate::inventory::Inventory;
use crate::plan::{Plan, Solution};
use crate::report::{Console, bit_table, bytes, class_table, out};
use crate::sensitivity::LayerSensitivity;
use crate::tokenizer::Tokenizer;
use crate::weights::{CastTensor, CopyTensor, QuantizeTensor, Warnings, float_type, write};

/// Runs the command.
pub fn run(args: &Quantize, console: &Console) -> Result<()> {
    let output = &args.output;
    let source = SourceModel::open(&args.hf_path)?;
    export::check_tokenizer(source.dir())?;
    check_destination(source.dir(), &output.mlx_path, output.overwrite)?;
    let dtype = args.dtype.into();
    console.notes(&source.spec().notes);
    let plan = Plan::new(&source, &DEFAULT_CANDIDATES, dtype)?;
    announce(&plan, console);
    plan.check_target(args.target_bpw)?;
    let table = measure(args, &source, &plan, dtype, console)?;
    let solution = plan.solve(&table, args.target_bpw)?;
    let mut bitmap = source.bitmap().clone();
    bitmap.extend(solution.bitmap.clone());
    if !args.dry_run {
        write_model(args, &source, dtype, &solution, &bitmap, console)?;
    }
    report(args, &source, &plan, &solution, &bitmap, dtype)
}

/// What is reachable, before any work.
fn announce(plan: &Plan<'_>, console: &Console) {
    let (least, most) = plan.reachable_bpw();
    let size = |bpw: f64| bytes((bpw * plan.weights() as f64 / 8.0) as u64);
    console.line(&format!(
        "{} linear layers, {} weights; reachable: {least:.3} to {most:.3} bpw, {} to {}",
        plan.len(),
        plan.weights(),
        size(least),
        size(most)
    ));
    if !plan.already.is_empty() {
        console.line(&format!("already quantized, passed through: {} layers", plan.already.len()));
    }
    for layer in &plan.indivisible {
        console.line(&format!("stays float, no group size divides its rows: {layer}"));
    }
}

fn measure(
    args: &Quantize,
    source: &SourceModel,
    plan: &Plan<'_>,
    dtype: Dtype,
    console: &Console,
) -> Result<Vec<LayerSensitivity>> {
    let calibration = &args.calibration;
    let tokenizer = Tokenizer::from_dir(source.dir())?;
    let text = Text::open(calibration.calibration.as_deref())?;
    let length = calibration.sequence_length as usize;
    let sequences = text.sequences(&tokenizer, calibration.samples as usize, length, calibration.seed)?;
    console.line(&format!("calibration: {} sequences of {length} tokens", sequences.len()));
    let engine = Engine::start()?;
    let bar = console.steps_bar("measuring sensitivities", 1);
    let quants = plan.quants();
    let settings = AnalysisSettings {
        sequences: &sequences,
        candidates: &quants,
        dtype: float_type(dtype)?,
        seed: calibration.seed,
        progress: &|done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        },
    };
    let mut table = Vec::new();
    analyze(&engine, source, &settings, |row| {
        table.push(row);
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(table)
}

fn write_model(
    args: &Quantize,
    source: &SourceModel,
    dtype: Dtype,
    solution: &Solution,
    bitmap: &BitMap,
    console: &Console,
) -> Result<()> {
    let output = &args.output;
    let warnings = Warnings::default();
    let producers = producers(source, dtype, &solution.bitmap, &warnings);
    let folder = OutputFolder::create(&output.mlx_path, output.overwrite)?;
    let shards = write(&folder, &producers, output, source.manifest().parameters(), console, "quantizing")?;
    let how = format!(
        "{:.3} bits per weight over {} quantized layers (target {}), predicted KL divergence {:.2e} nats per token; \
         embeddings and norms are {dtype}. Total: {}.",
        solution.bpw,
        bitmap.len(),
        args.target_bpw,
        solution.kl,
        bytes(shards.total_bytes)
    );
    export::write_companions(&folder, source, dtype, bitmap, &how)?;
    folder.publish()?;
    console.notes(&warnings.messages());
    Ok(())
}

/// Quantizes the layers of `new`, copies what is quantized already, casts the rest.
fn producers<'a>(
    source: &'a SourceModel,
    dtype: Dtype,
    new: &BitMap,
    warnings: &'a Warnings,
) -> Vec<Box<dyn Produce + 'a>> {
    source
        .tensors()
        .map(|tensor| {
            let (layer, part) = tensor.name.rsplit_once('.').unwrap_or((tensor.name, ""));
            match new.get(layer) {
                Some(&quant) if part == "weight" => {
                    Box::new(QuantizeTensor::new(tensor, layer, quant, dtype, warnings)) as Box<dyn Produce>
                }
                None if source.bitmap().contains_key(layer) && part != "bias" => {
                    Box::new(CopyTensor::new(tensor))
                }
                _ => Box::new(CastTensor::new(tensor, dtype, warnings)),
            }
        })
        .collect()
}

fn report(
    args: &Quantize,
    source: &SourceModel,
    plan: &Plan<'_>,
    solution: &Solution,
    bitmap: &BitMap,
    dtype: Dtype,
) -> Result<()> {
    let before = Inventory::of_source(source);
    let after = Inventory::planned(source, bitmap, dtype);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for quant in solution.bitmap.values() {
        *counts.entry(format!("{} bits", quant.bits)).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(bits, n)| format!("{n} at {bits}")).collect();
    out(&format!("{}\n{}", bit_table(&after), class_table(&[("before", &before), ("after", &after)])))?;
    let gap = args.target_bpw - solution.bpw;
    out(&format!(
        "\nlayers: {}, {} float\nbpw: {:.4} of {} ({gap:.4} below the target), whole model {:.4}\n\
         predicted KL divergence: {:.3e} nats per token\n",
        counts.join(", "),
        plan.len() - solution.bitmap.len() + plan.indivisible.len(),
        solution.bpw,
        args.target_bpw,
        after.bpw_model(),
        solution.kl,
    ))?;
    if args.dry_run {
        return out("dry run: nothing was written\n");
    }
    out(&format!("wrote {}\n", args.output.mlx_path.display()))
}
