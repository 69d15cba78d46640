//! A quantization, stage by stage: plan, texts, decision, model.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::estimate::Extent;
use super::settings::Quantization;
use crate::choose::allocate::CurvePoint;
use crate::choose::curve::STEP;
use crate::choose::plan::{Plan, Solution};
use crate::choose::recipe::Learn;
use crate::choose::table::Table;
use crate::engine::measure::settings::StepCosts;
use crate::error::{Error, Result};
use crate::jobs::evaluate::EvaluationWindows;
use crate::jobs::generated::GeneratedText;
use crate::jobs::measure::Measure;
use crate::jobs::settings::Target;
use crate::jobs::texts::Texts;
use crate::jobs::write::check_values;
use crate::models::source::SourceModel;
use crate::numerics::dtype::float_type;
use crate::numerics::quant::Mode;
use crate::numerics::rounding::Technique;
use crate::progress::Progress;

/// A quantization of `source`, with plan, technique and texts resolved before its stages begin.
pub struct Job<'a> {
    pub(crate) settings: Quantization,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) source: &'a SourceModel,
    pub(crate) plan: Plan<'a>,
    pub(crate) technique: Technique,
    /// Sensitivity table that the settings name, where there is a choice.
    pub(crate) table: Option<Table>,
    /// Windows of the calibration text, where the job uses one.
    pub(crate) texts: Option<Texts>,
    /// Windows of the evaluation text, where it is a file.
    pub(crate) evaluation_windows: Option<EvaluationWindows>,
    /// Parts of layers that learn in the steps of distillation that compare logits.
    pub(crate) learns_end_to_end: Learn,
    /// Journals of an earlier run that this one does not resume, and when they were written.
    pub(crate) discarded: Vec<(PathBuf, SystemTime)>,
}

/// Bit map of a model, and the measurement that chose it.
pub struct Decision {
    /// Bit map, its size and its predicted KL divergence.
    pub solution: Solution,
    /// Sensitivities of all layers, where there was a choice.
    pub table: Option<Table>,
    /// Predicted KL divergence over all sizes, where there was a choice.
    pub curve: Vec<CurvePoint>,
}

impl<'a> Job<'a> {
    /// Resolves `settings` for `source`, whose layers may become what `plan` lists, and reads the sensitivity table
    /// where one is named. Fails where that is another model's or lacks layers or candidates.
    pub fn new(
        source: &'a SourceModel,
        plan: Plan<'a>,
        settings: Quantization,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        settings.check()?;
        let mut job = Self {
            technique: Technique::Rtn,
            settings,
            progress,
            source,
            plan,
            table: None,
            texts: None,
            evaluation_windows: None,
            learns_end_to_end: Learn::Scales,
            discarded: Vec::new(),
        };
        job.technique = job.settings.calibration.rounding.unwrap_or_else(|| job.default_technique());
        job.table = job.read_table()?;
        Ok(job)
    }

    /// True if there is no choice of bits.
    pub fn is_fixed(&self) -> bool {
        self.plan.is_fixed()
    }

    /// True if a layer may become affine, the mode with scales and biases to search and to learn.
    pub(crate) fn has_affine_layers(&self) -> bool {
        self.plan.quants().iter().any(|quant| quant.mode == Mode::Affine)
    }

    fn default_technique(&self) -> Technique {
        if !self.is_fixed() {
            return Technique::Gptq;
        }
        let has_text = self.settings.calibration.text.is_some() || self.settings.tuning.any();
        if has_text && self.has_affine_layers() { Technique::Search } else { Technique::Rtn }
    }

    /// Reads the table that the settings name: of this model, for scales of this type, with every layer and candidate.
    fn read_table(&self) -> Result<Option<Table>> {
        let Some(path) = self.settings.sensitivities.as_deref().filter(|_| !self.is_fixed()) else {
            return Ok(None);
        };
        let table = Table::read(path)?;
        table.check(path, &self.source.fingerprint()?, float_type(self.plan.dtype())?)?;
        self.plan.check_table(&table.layers).map_err(|e| wrong_table(path, &e))?;
        Ok(Some(table))
    }

    /// Fails where the plan cannot reach the target, or refinement or distillation has nothing to do.
    pub fn check(&self) -> Result<()> {
        self.check_target()?;
        self.check_refinement()?;
        self.check_distillation()
    }

    /// Fails where the plan cannot reach the target.
    pub(crate) fn check_target(&self) -> Result<()> {
        match self.settings.target {
            Target::Bpw(bpw) => self.plan.check_target(bpw),
            Target::Size(size) => self.plan.bpw_of_model_size(self.source, size).map(drop),
            Target::Fixed if self.plan.is_fixed() => Ok(()),
            Target::Fixed => {
                Err(Error::usage("layers have a choice, and no target says how large the result may be")
                    .hint("give setting `target_bpw` or setting `target_size`, or leave layers no choice"))
            }
        }
    }

    /// Fails where sensitivities are to be measured on more sequences than `text`, which may not be written yet, will give.
    pub fn check_measured(&self, text: &GeneratedText) -> Result<()> {
        if self.is_fixed() || self.table.is_some() {
            return Ok(());
        }
        text.check_measured(&self.settings.calibration, self.settings.uses())
    }

    /// Returns the target in bits per weight of the layers decided on; `None` where bits are fixed.
    pub(crate) fn target_bpw(&self) -> Result<Option<f64>> {
        match self.settings.target {
            Target::Bpw(bpw) => Ok(Some(bpw)),
            Target::Size(size) => self.plan.bpw_of_model_size(self.source, size).map(Some),
            Target::Fixed => Ok(None),
        }
    }

    /// Reads all texts, before any work. Where a model is to be written, fails if unfinished work is in the way or cannot be
    /// resumed.
    pub fn read(&mut self, extent: Extent) -> Result<()> {
        let read = self.read_all_texts(extent);
        read.map_err(|error| self.explain_interruption(error))
    }

    fn read_all_texts(&mut self, extent: Extent) -> Result<()> {
        self.read_texts()?;
        if extent == Extent::Model {
            self.discarded = self.check_unfinished()?;
        }
        self.read_evaluation_text()
    }

    /// Tokenizes the calibration text, where the job uses one.
    fn read_texts(&mut self) -> Result<()> {
        let Quantization { calibration, tuning, .. } = &self.settings;
        // Scale search does without a text where all bits are fixed, and so does rounding to nearest.
        let needs_text = !self.is_fixed()
            || self.technique == Technique::Gptq
            || calibration.text.is_some()
            || tuning.any();
        if needs_text {
            self.texts = Some(self.prepare_texts(self.settings.uses())?);
        }
        if self.settings.tuning.any() {
            self.validation_split()?;
            self.note_few_tokens();
            self.learns_end_to_end = self.choose_end_to_end();
        }
        Ok(())
    }

    /// Chooses bits for every layer, measuring sensitivities if there is a choice and no table. Bars move by the
    /// estimated `costs` of the measurement's steps.
    pub fn decide(&self, costs: StepCosts) -> Result<Decision> {
        let Self { settings, plan, .. } = self;
        let Some(target) = self.target_bpw()? else { return Ok(self.fixed_decision()) };
        let Some(texts) = &self.texts else { return Ok(self.fixed_decision()) };
        if plan.is_fixed() {
            return Ok(self.fixed_decision());
        }
        let table = self.obtain_table(texts, costs).map_err(|error| self.explain_interruption(error))?;
        let correction = &table.correction;
        let layers = correction.scores_for(self.technique, &table.layers);
        let mut solution = plan.solve(&layers, target).map_err(|e| match &settings.sensitivities {
            Some(path) => wrong_table(path, &e),
            None => e,
        })?;
        let predicted = solution.kl.map(|kl| correction.whole(kl));
        solution.gap *=
            predicted.zip(solution.kl).map_or(1.0, |(whole, sum)| whole / sum.max(f64::MIN_POSITIVE));
        solution.kl = predicted;
        let curve = correction.curve(plan.curve(&layers, STEP)?);
        let table = Table { layers, ..table };
        Ok(Decision { solution, table: Some(table), curve })
    }

    fn fixed_decision(&self) -> Decision {
        Decision { solution: self.plan.fixed(), table: None, curve: Vec::new() }
    }

    /// Returns the table that was read, or measures one on `texts`.
    fn obtain_table(&self, texts: &Texts, costs: StepCosts) -> Result<Table> {
        let Self { settings, source, plan, technique, progress, .. } = self;
        if let Some(table) = &self.table {
            check_values(source, plan.dtype())?;
            return Ok(table.clone());
        }
        let float = float_type(plan.dtype())?;
        let measure =
            Measure::prepare(source, &settings.calibration, texts, *technique, plan.quants(), float)?
                .with_costs(costs);
        measure.table(*progress)
    }
}

fn wrong_table(path: &Path, error: &Error) -> Error {
    Error::file(path, error.to_string())
        .hint("measure this model again with `mixbit analyze`, with the same setting `candidates`")
}
