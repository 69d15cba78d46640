//! `mixbit quantize`: reachable sizes, sensitivities, allocation, rounding, report.

use std::collections::BTreeMap;

use super::measure::Measure;
use super::settings::{Calibration, Target, recipe};
use crate::bitmap::BitMap;
use crate::candidate::{Candidate, DEFAULT_CANDIDATES, Mode, Quant};
use crate::checkpoint::{Dtype, OutputFolder, Produce, SourceModel, check_destination};
use crate::cli::Quantize;
use crate::error::Result;
use crate::export;
use crate::inventory::Inventory;
use crate::plan::{Plan, Solution};
use crate::report::{Console, bit_table, bytes, class_table, out};
use crate::rules::LayerRule;
use crate::sensitivity::Table;
use crate::weights::{CastTensor, CopyTensor, QuantizeTensor, Warnings, check_values, float_type, write};

/// Runs the command.
pub fn run(args: &Quantize, console: &Console) -> Result<()> {
    let output = &args.output;
    let source = SourceModel::open(&args.hf_path)?;
    export::check_tokenizer(&source)?;
    check_destination(source.dir(), &output.mlx_path, output.overwrite)?;
    source.verify()?;
    let dtype: Dtype = args.dtype.into();
    console.notes(&source.spec().notes);
    let rules: Vec<LayerRule> = args.layer.iter().map(|rule| rule.parse()).collect::<Result<_>>()?;
    let recipe = recipe(args.recipe.as_deref(), args.candidates.as_deref(), console)?;
    let plan = match &recipe {
        Some(recipe) => Plan::with_recipe(&source, recipe, &rules, dtype)?,
        None => Plan::new(&source, &candidates(args)?, &rules, dtype)?,
    };
    let target = Target::resolve(&args.size, recipe.as_ref());
    target.check(&plan, recipe.as_ref())?;
    let calibration = Calibration::resolve(&args.calibration, recipe.as_ref());
    let solution = solve(args, &source, &plan, target, &calibration, console)?;
    let mut bitmap = source.bitmap().clone();
    bitmap.extend(solution.bitmap.clone());
    if !args.dry_run {
        write_model(args, &source, dtype, &solution, &bitmap, console)?;
    }
    report(args, &source, &plan, target, &solution, &bitmap)
}

fn candidates(args: &Quantize) -> Result<Vec<Candidate>> {
    let size = &args.size;
    if size.bits.is_some() || size.mode.is_some() {
        return Ok(vec![Quant::uniform(size.bits.as_deref(), args.group_size, size.mode)?.into()]);
    }
    args.candidates.as_deref().map_or(Ok(DEFAULT_CANDIDATES.to_vec()), Candidate::parse_list)
}

fn solve(
    args: &Quantize,
    source: &SourceModel,
    plan: &Plan<'_>,
    target: Target,
    calibration: &Calibration,
    console: &Console,
) -> Result<Solution> {
    let dtype: Dtype = args.dtype.into();
    announce(plan, source, dtype, console);
    let target = match target {
        Target::Bpw(bpw) => bpw,
        Target::Size(size) => plan.bpw_of_model_size(source, size)?,
        Target::Fixed => return Ok(plan.fixed()),
    };
    plan.check_target(target)?;
    if plan.is_fixed() {
        return Ok(plan.fixed());
    }
    let float = float_type(dtype)?;
    check_values(source, dtype)?;
    if let Some(path) = &args.sensitivities {
        let table = Table::read(path)?;
        table.check(path, &source.fingerprint()?, float)?;
        return plan.solve(&table.layers, target);
    }
    let measure = Measure::prepare(source, calibration, plan.quants(), float, console)?;
    let mut layers = Vec::new();
    measure.run(&[], console, |layer| {
        layers.push(layer);
        Ok(())
    })?;
    plan.solve(&layers, target)
}

/// What is reachable, before any work.
fn announce(plan: &Plan<'_>, source: &SourceModel, dtype: Dtype, console: &Console) {
    let (least, most) = plan.reachable_bpw();
    let rest = plan.rest_bytes(source, dtype);
    let size = |bpw: f64| bytes((bpw * plan.weights() as f64 / 8.0) as u64 + rest);
    console.line(&format!(
        "{} linear layers, {} weights; reachable: {least:.3} to {most:.3} bpw, whole model {} to {}",
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
    let shards = write(
        &folder,
        &producers,
        output.container(),
        source.manifest().parameters(),
        console,
        "quantizing",
    )?;
    let predicted = solution
        .kl
        .map_or_else(String::new, |kl| format!(", predicted KL divergence {kl:.2e} nats per token"));
    let how = format!(
        "{:.3} bits per weight over the linear layers, {} of them quantized{predicted}; what is float is {dtype}. Total: {}.",
        Inventory::planned(source, bitmap, dtype).bpw_quantized(),
        bitmap.len(),
        bytes(shards.total_bytes)
    );
    export::write_companions(&folder, source, dtype, bitmap, &how)?;
    folder.publish()?;
    console.warnings(&warnings.messages());
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
    target: Target,
    solution: &Solution,
    bitmap: &BitMap,
) -> Result<()> {
    let before = Inventory::of_source(source);
    let after = Inventory::planned(source, bitmap, args.dtype.into());
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for quant in solution.bitmap.values() {
        let name = match quant.mode {
            Mode::Affine => format!("{} bits", quant.bits),
            mode => mode.to_string(),
        };
        *counts.entry(name).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(bits, n)| format!("{n} at {bits}, ")).collect();
    let classes = class_table(&[("before", before.bytes), ("after", after.bytes)]);
    out(&format!("{}\n{classes}", bit_table(&after)))?;
    let target = match target {
        Target::Bpw(target) => format!(" of {target} ({:.4} below the target)", target - solution.bpw),
        Target::Size(size) => {
            format!(" ({} below the target)", bytes(size.saturating_sub(after.bytes.total)))
        }
        Target::Fixed => String::new(),
    };
    let all = if plan.already.is_empty() {
        String::new()
    } else {
        format!(" over the layers decided here, {:.4} over all linear layers", after.bpw_quantized())
    };
    let predicted = match solution.kl {
        Some(kl) => format!("predicted KL divergence: {kl:.3e} nats per token\n"),
        None => String::new(),
    };
    out(&format!(
        "\nlayers: {}{} float\nbpw: {:.4}{target}{all}, whole model {:.4}\n{predicted}",
        counts.concat(),
        plan.len() - solution.bitmap.len() + plan.indivisible.len(),
        solution.bpw,
        after.bpw_model(),
    ))?;
    if args.dry_run {
        return out("dry run: nothing was written\n");
    }
    out(&format!("wrote {}\n", args.output.mlx_path.display()))
}
