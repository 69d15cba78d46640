//! Writing the model: quantized, copied and cast tensors, config, model card, report.

use std::fmt::Write;

use super::proof::Proof;
use super::round::Rounded;
use super::{Decision, Job};
use crate::bitmap::BitMap;
use crate::checkpoint::{Dtype, OutputFolder, Produce, SourceModel};
use crate::commands::settings::Target;
use crate::error::Result;
use crate::export;
use crate::inventory::Inventory;
use crate::record::{self, Evaluation, Record, Wanted};
use crate::report::bytes;
use crate::weights::{CastTensor, CopyTensor, QuantizeTensor, Warnings, write};

impl Job<'_> {
    /// All entries of the result's bit map.
    pub(super) fn bitmap(&self, decision: &Decision) -> BitMap {
        let mut bitmap = self.source.bitmap().clone();
        bitmap.extend(decision.solution.bitmap.clone());
        bitmap.extend(self.plan.embedding());
        bitmap
    }

    /// Writes the model and measures it before it appears in its place.
    pub(super) fn write_model(&self, decision: &Decision, given: Option<Proof>) -> Result<Record> {
        let Self { args, source, console, dtype, .. } = *self;
        let output = &args.output;
        let warnings = Warnings::default();
        let bitmap = self.bitmap(decision);
        let folder = OutputFolder::create(&output.mlx_path, output.overwrite)?;
        let rounded = self.round(folder.path(), decision).map_err(|e| folder.relocate(e))?;
        let producers = producers(source, dtype, &bitmap, &rounded, &warnings);
        let parameters = source.manifest().parameters();
        write(&folder, &producers, output.container(), parameters, console, "quantizing")?;
        export::write_config(&folder, source, dtype, &bitmap)?;
        let evaluation = self.evaluate(folder.path(), given).map_err(|e| folder.relocate(e))?;
        let record = self.record(decision, &bitmap, evaluation);
        export::write_card(&folder, source, &how(&record, bitmap.len()))?;
        folder.write(record::FILE, &record.to_json()?)?;
        folder.publish()?;
        console.warnings(&warnings.messages());
        Ok(record)
    }

    fn record(&self, decision: &Decision, bitmap: &BitMap, evaluation: Option<Evaluation>) -> Record {
        let after = Inventory::planned(self.source, bitmap, self.dtype);
        Record {
            version: record::VERSION,
            mixbit: env!("CARGO_PKG_VERSION").to_owned(),
            base_model: export::base_model(self.source),
            target: match self.target {
                Target::Bpw(bpw) => Wanted::Bpw(bpw),
                Target::Size(size) => Wanted::Bytes(size),
                Target::Fixed => Wanted::Fixed,
            },
            recipe: self.recipe.clone(),
            dtype: self.dtype.to_string(),
            rounding: self.technique.to_string(),
            bpw_quantized: after.bpw_quantized(),
            bpw_model: after.bpw_model(),
            bytes_before: Inventory::of_source(self.source).bytes,
            bytes_after: after.bytes,
            predicted_kl: decision.solution.kl,
            measurement: decision.table.as_ref().map(|table| table.measurement.clone()),
            sensitivities: decision.table.as_ref().map(|table| table.layers.clone()).unwrap_or_default(),
            correction: decision.table.as_ref().map(|table| table.correction.clone()).unwrap_or_default(),
            curve: decision.curve.clone(),
            evaluation,
        }
    }
}

/// The model card's account, in Markdown.
fn how(record: &Record, quantized: usize) -> String {
    let mut text = format!(
        "{:.3} bits per weight over the linear layers, {quantized} layers quantized; what is float is {}. {} of tensors, \
         {} before.\n",
        record.bpw_quantized,
        record.dtype,
        bytes(record.bytes_after.total),
        bytes(record.bytes_before.total)
    );
    if let Some(kl) = record.predicted_kl {
        let _ = write!(text, "\nPredicted KL divergence from the float model: {kl:.2e} nats per token.\n");
    }
    if let Some(evaluation) = &record.evaluation
        && let Some(divergence) = &evaluation.summary.divergence
    {
        let _ = write!(
            text,
            "\n| measured on {} tokens ({}) | |\n|---|---|\n| KL divergence per token | {:.5} ± {:.5} |\n\
             | perplexity | {:.4}, float {:.4} |\n| same likeliest token | {:.2} % |\n",
            evaluation.summary.tokens,
            evaluation.text,
            divergence.kl_mean,
            divergence.kl_stderr,
            evaluation.summary.perplexity,
            divergence.reference_perplexity,
            100.0 * divergence.same_top
        );
    }
    text
}

/// Quantizes what `bitmap` lists and is float yet, copies what is quantized already, casts the rest.
fn producers<'a>(
    source: &'a SourceModel,
    dtype: Dtype,
    bitmap: &BitMap,
    rounded: &'a Rounded,
    warnings: &'a Warnings,
) -> Vec<Box<dyn Produce + 'a>> {
    source
        .tensors()
        .map(|tensor| {
            let (layer, part) = tensor.name.rsplit_once('.').unwrap_or((tensor.name, ""));
            match bitmap.get(layer) {
                Some(_) if source.bitmap().contains_key(layer) && part != "bias" => {
                    Box::new(CopyTensor::new(tensor, warnings)) as Box<dyn Produce>
                }
                Some(&quant) if part == "weight" => {
                    let codes = rounded.codes(layer);
                    Box::new(QuantizeTensor::new(tensor, layer, quant, dtype, codes, warnings))
                }
                _ => Box::new(CastTensor::new(tensor, dtype, warnings)),
            }
        })
        .collect()
}
