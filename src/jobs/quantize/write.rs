//! Writing of the model: quantized, copied and cast tensors, config, model card, record.

use std::fmt::Write;

use super::distill::Distilled;
use super::job::{Decision, Job};
use super::layer_journal::LayerJournal;
use super::refine::Refined;
use super::refinement_journal::RefinementJournal;
use super::stage::{StagedModel, producers, tuned_producers};
use super::unfinished;
use super::unfinished::is_of_inputs;
use crate::error::Result;
use crate::files::output_file::Existing;
use crate::files::output_folder::OutputFolder;
use crate::formats::writer::Produce;
use crate::jobs::bars;
use crate::jobs::opening::{Need, open};
use crate::jobs::quantize::tuning::{Stored, TunedValues};
use crate::jobs::record;
use crate::jobs::record::{Distillation, Evaluation, GptqStats, LearnedBlocks, Record, Refinement, Wanted};
use crate::jobs::settings::Target;
use crate::jobs::write::{Container, TowerFate, Warnings, companions, tower_producers, with_wrapper, write};
use crate::models::bitmap::BitMap;
use crate::models::inventory::Inventory;
use crate::numerics::statistics::mean;
use crate::words::{bytes, count};

/// A written model's bit map, and the parts of its record that rounding and tuning give.
struct WrittenModel {
    decision: Decision,
    gptq_stats: Option<GptqStats>,
    refinement: Option<Refinement>,
    distillation: Option<Distillation>,
}

impl Job<'_> {
    /// Returns the result's bit map: layers that were quantized already, layers decided on, and the embedding.
    pub fn bitmap(&self, decision: &Decision) -> BitMap {
        let mut bitmap = self.source.bitmap().clone();
        bitmap.extend(decision.solution.bitmap.clone());
        bitmap.extend(self.plan.embedding());
        bitmap
    }

    /// Writes the model and measures it before it appears in its place. Returns the decision, which refinement may
    /// change, and the record.
    pub fn write_model(&self, decision: Decision) -> Result<(Decision, Record)> {
        let (source, output) = (self.source, &self.settings.output);
        let warnings = Warnings::default();
        let folder = OutputFolder::create(&output.path, output.existing())?;
        self.discard_unfinished()?;
        let rounds = self
            .settings
            .tuning
            .refine
            .map(|rounds| self.refinement_journal(rounds, &decision))
            .transpose()?;
        let moved = rounds.as_ref().and_then(|rounds| rounds.solution.clone());
        let (was_moved, solution) = (moved.is_some(), moved.unwrap_or(decision.solution));
        let decision = Decision { solution, ..decision };
        let layers = self.rounding_journal(&decision, was_moved)?;
        let model = self.build_model(&folder, decision, layers, rounds, &warnings);
        let model = model.and_then(|model| warnings.refuse(source).map(|()| model));
        let model = model.inspect_err(|e| self.remove_useless_journals(e));
        let model = model.map_err(|e| self.with_resume_hint(folder.relocate(e)))?;
        let written = open(folder.path(), Need::Weights).map_err(|e| folder.relocate(e))?;
        let evaluation = self.evaluate(&written);
        if let Some(error) = evaluation.as_ref().err().filter(|error| !is_of_inputs(error)) {
            self.remove_useless_journals(error);
        }
        let evaluation = evaluation.map_err(|e| self.with_evaluation_hint(folder.relocate(e)))?;
        let WrittenModel { decision, gptq_stats, refinement, distillation } = model;
        let bitmap = self.bitmap(&decision);
        let weights = Some(written.weights_fingerprint());
        let record = self.record(&decision, &bitmap, evaluation);
        let record = Record { weights, feedback: gptq_stats, refinement, distillation, ..record };
        companions::write_card(&folder, source, &describe(&record, bitmap.len()))?;
        folder.write(record::FILE, &record.to_json()?)?;
        if output.towers == TowerFate::Written {
            companions::write_processors(&folder, source)?;
        }
        folder.publish()?;
        unfinished::remove(&output.path);
        Ok((decision, record))
    }

    /// Writes the model of `decision` to `folder`: rounded, and then refined and distilled where that is asked for.
    /// Layers and rounds of an interrupted run are not done again.
    fn build_model(
        &self,
        folder: &OutputFolder,
        decision: Decision,
        layers: Option<LayerJournal>,
        rounds: Option<RefinementJournal>,
        warnings: &Warnings,
    ) -> Result<WrittenModel> {
        let (source, dtype) = (self.source, self.plan.dtype());
        let (container, towers) = (self.settings.output.container, self.settings.output.towers);
        if !self.settings.tuning.any() {
            let bitmap = self.bitmap(&decision);
            let rounded = self.round(&decision, layers)?;
            let producers = producers(source, dtype, &bitmap, &rounded, warnings);
            let producers = with_wrapper(source, producers, towers, warnings);
            self.write_files(folder, &producers, &bitmap, container)?;
            let gptq_stats = rounded.gptq_stats();
            return Ok(WrittenModel { decision, gptq_stats, refinement: None, distillation: None });
        }
        let staged = self.stage(&decision, layers, warnings)?;
        // Every tensor was read once: what is damaged is not learned from.
        warnings.refuse(source)?;
        let (decision, staged, refinement) = match rounds {
            Some(rounds) => {
                let Refined { decision, staged, record } = self.refine(decision, staged, rounds, warnings)?;
                (decision, staged, Some(record))
            }
            None => (decision, staged, None),
        };
        let (staged, blocks) = match self.settings.tuning.distill.filter(|_| self.learns_by_block()) {
            Some(steps) => self.learn_by_block(staged, &decision, steps, warnings)?,
            None => (staged, None),
        };
        let StagedModel { folder: staged, gptq_stats } = staged;
        let student = open(staged.path(), Need::Headers)?;
        let (values, distillation) = match self.settings.tuning.distill {
            Some(steps) => {
                let distilled = self.distill(&student, &decision, steps);
                let Distilled { values, record } = distilled.map_err(|error| staged.relocate(error))?;
                (values, Some(Distillation { blocks, ..record }))
            }
            None => (Stored::default(), None),
        };
        let tuned = |name: &str| {
            let floats = values.floats.get(name).map(|values| TunedValues::Floats(values));
            floats.or_else(|| values.codes.get(name).map(|codes| TunedValues::Stored(codes)))
        };
        let producers = tuned_producers(&student, tuned, warnings);
        let mut producers = with_wrapper(&student, producers, TowerFate::Dropped, warnings);
        producers.extend(tower_producers(source, towers, warnings));
        self.write_files(folder, &producers, &self.bitmap(&decision), container)?;
        Ok(WrittenModel { decision, gptq_stats, refinement, distillation })
    }

    /// Writes the rounded model of `decision` to a folder beside the output, to run it. Layers of an interrupted run
    /// are not done again.
    pub(crate) fn stage(
        &self,
        decision: &Decision,
        layers: Option<LayerJournal>,
        warnings: &Warnings,
    ) -> Result<StagedModel> {
        let bitmap = self.bitmap(decision);
        let folder = OutputFolder::create(&self.settings.output.path, Existing::Replaced)?;
        let rounded = self.round(decision, layers).map_err(|e| folder.relocate(e))?;
        let producers = producers(self.source, self.plan.dtype(), &bitmap, &rounded, warnings);
        let producers = with_wrapper(self.source, producers, TowerFate::Dropped, warnings);
        let container = Container::Safetensors { max_shard_size: u64::MAX };
        self.write_files(&folder, &producers, &bitmap, container)?;
        Ok(StagedModel { folder, gptq_stats: rounded.gptq_stats() })
    }

    /// Lets the codes of the `staged` model learn block by block. Returns the result, or the model as it was where that is no
    /// closer to the float one, and the record of it.
    fn learn_by_block(
        &self,
        staged: StagedModel,
        decision: &Decision,
        steps: u32,
        warnings: &Warnings,
    ) -> Result<(StagedModel, Option<LearnedBlocks>)> {
        let windows = self.validation_split()?.validation;
        let student = open(staged.folder.path(), Need::Headers)?;
        let kl_before = mean(&self.divergences(&student, &windows)?);
        let learned = self.learn_blocks(&student, decision, steps);
        let (layers, codes) = learned.map_err(|error| staged.folder.relocate(error))?;
        let folder = OutputFolder::create(&self.settings.output.path, Existing::Replaced)?;
        let tuned = |name: &str| layers.tensor(name).map(TunedValues::Stored);
        let producers = tuned_producers(&student, tuned, warnings);
        let producers = with_wrapper(&student, producers, TowerFate::Dropped, warnings);
        let container = Container::Safetensors { max_shard_size: u64::MAX };
        self.write_files(&folder, &producers, &self.bitmap(decision), container)?;
        let kl_after = mean(&self.divergences(&open(folder.path(), Need::Headers)?, &windows)?);
        let record = LearnedBlocks { steps: steps as usize, codes, kl_before, kl_after };
        let learned = StagedModel { folder, gptq_stats: staged.gptq_stats.clone() };
        Ok((if record.is_kept() { learned } else { staged }, Some(record)))
    }

    /// Writes all tensors, config.json and the tokenizer's files.
    fn write_files(
        &self,
        folder: &OutputFolder,
        producers: &[Box<dyn Produce + '_>],
        bitmap: &BitMap,
        container: Container,
    ) -> Result<()> {
        let parameters = self.source.manifest().parameters();
        write(folder, producers, container, parameters, self.progress, bars::QUANTIZING)?;
        companions::write_config(folder, self.source, self.plan.dtype(), bitmap)
    }

    /// Returns the record without fingerprint and tuning.
    fn record(&self, decision: &Decision, bitmap: &BitMap, evaluation: Option<Evaluation>) -> Record {
        let after = Inventory::planned(self.source, bitmap, self.plan.dtype());
        Record {
            version: record::VERSION,
            mixbit: env!("CARGO_PKG_VERSION").to_owned(),
            mlx: crate::engine::runtime::version().map(str::to_owned),
            base_model: companions::base_model(self.source),
            target: match self.settings.target {
                Target::Bpw(bpw) => Wanted::Bpw(bpw),
                Target::Size(size) => Wanted::Bytes(size),
                Target::Fixed => Wanted::Fixed,
            },
            recipe: self.settings.recipe.clone(),
            dtype: self.plan.dtype().to_string(),
            rounding: self.technique.to_string(),
            weights: None,
            bpw_quantized: after.bpw_quantized(),
            bpw_model: after.bpw_model(),
            bytes_before: Inventory::of_source(self.source).bytes,
            bytes_after: after.bytes,
            predicted_kl: decision.solution.kl,
            measurement: decision.table.as_ref().map(|table| table.measurement.clone()),
            sensitivities: decision.table.as_ref().map(|table| table.layers.clone()).unwrap_or_default(),
            correction: decision.table.as_ref().map(|table| table.correction.clone()).unwrap_or_default(),
            curve: decision.curve.clone(),
            feedback: None,
            refinement: None,
            distillation: None,
            evaluation,
        }
    }
}

/// Describes the quantization for the model card, in Markdown.
fn describe(record: &Record, quantized: usize) -> String {
    let mut text = format!(
        "{:.3} bits per weight over the linear layers, {} quantized; what is float is {}. {} of tensors, \
         {} before.\n",
        record.bpw_quantized,
        count(quantized, "layer"),
        record.dtype,
        bytes(record.bytes_after.total),
        bytes(record.bytes_before.total)
    );
    if record.refinement.as_ref().is_some_and(|refinement| refinement.rounds.iter().any(|round| round.kept)) {
        text.push_str("\nBits were moved between layers by measured changes of the KL divergence.\n");
    }
    let blocks = record.distillation.as_ref().and_then(|distillation| distillation.blocks);
    let blocks = blocks.filter(LearnedBlocks::is_kept);
    if let Some(blocks) = &blocks {
        let steps = count(blocks.steps, "step");
        let _ = write!(
            text,
            "\nIts codes were fine-tuned block by block to the float blocks' outputs, in {steps} each.\n"
        );
    }
    let distilled = record.distillation.as_ref().filter(|distillation| distillation.kept > 0);
    if let Some(distillation) = distilled {
        let (steps, what) = (count(distillation.kept, "step"), distillation.what());
        let _ = write!(text, "\nIts {what} were fine-tuned to the float model's logits, in {steps}.\n");
    }
    if let Some(kl) = record.predicted_kl {
        let before = if record.is_fine_tuned() { " before fine-tuning" } else { "" };
        let _ = write!(
            text,
            "\nPredicted KL divergence from the float model: {kl:.2e} nats per token{before}.\n"
        );
    }
    if let Some(evaluation) = &record.evaluation
        && let Some(divergence) = &evaluation.summary.divergence
    {
        let _ = write!(
            text,
            "\n| measured on {} ({}) | |\n|---|---|\n| KL divergence per token | {:.5} ± {:.5} |\n\
             | perplexity | {:.4}, float {:.4} |\n| same likeliest token | {:.2} % |\n",
            count(evaluation.summary.tokens, "token"),
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
