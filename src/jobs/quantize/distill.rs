//! Fine-tuning of the rounded model to the float one's logits, with early stopping on text that it does not learn from.

use std::path::Path;

use super::job::{Decision, Job};
use super::refine::nothing_to_move;
use super::split::ValidationSplit;
use super::start::{self, learning_layers, nothing_learns};
use crate::choose::recipe::Learn;
use crate::engine::decoder::load::{Tuned, Values};
use crate::engine::learn::layer::Codes;
use crate::engine::learn::learning::{Learners, Norms};
use crate::engine::learn::student::{Student, Target};
use crate::engine::runtime::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::files::journal;
use crate::jobs::bars;
use crate::jobs::measure::digest;
use crate::jobs::quantize::tuning::{Adam, Forms, Loss, Settings, State, Stored, TuningRun, Watch};
use crate::jobs::record::{Distillation, LearnedCodes};
use crate::jobs::settings::Tuning;
use crate::models::source::SourceModel;
use crate::numerics::quant::Mode;
use crate::numerics::statistics::mean;
use crate::progress::Bar;
use crate::words::count;

/// Best values that distillation has seen, and their record.
pub struct Distilled {
    /// Values by tensor.
    pub values: Stored,
    /// Steps, and the divergence before and after.
    pub record: Distillation,
}

/// Default length of the first step of codes, in steps of one code.
const CODE_RATE: f64 = 0.02;

/// Returns the default length of the first step in a model of `bpw` bits per weight: with more bits rounding errors are
/// smaller, and steps must be small beside them.
fn default_rate(bpw: f64) -> f64 {
    0.003 * (4.0 - bpw).exp2().min(1.0)
}

impl Job<'_> {
    /// Fails where refinement is asked for and no layer has a choice.
    pub(crate) fn check_refinement(&self) -> Result<()> {
        if self.settings.tuning.refine.is_some() && self.is_fixed() { Err(nothing_to_move()) } else { Ok(()) }
    }

    /// Fails where distillation is asked for and no layer can learn.
    pub(crate) fn check_distillation(&self) -> Result<()> {
        let Tuning { distill, learn, .. } = self.settings.tuning;
        let learns = self.plan.quants().into_iter().any(|quant| learn.applies_to(quant));
        if distill.is_some() && !learns { Err(nothing_learns(learn)) } else { Ok(()) }
    }

    /// Estimates the bits per weight before any are chosen: the target, or the mean over the fixed settings.
    fn expected_bpw(&self) -> Result<f64> {
        if let Some(bpw) = self.target_bpw()? {
            return Ok(bpw);
        }
        let quants = self.plan.quants();
        Ok(quants.iter().map(|quant| f64::from(quant.bits)).sum::<f64>() / quants.len().max(1) as f64)
    }

    /// Returns the settings of a run of `steps` in which parts of layers `learn`, without the fingerprint of the model at the
    /// start.
    pub(crate) fn distill_settings(
        &self,
        split: &ValidationSplit,
        learn: Learn,
        steps: u32,
    ) -> Result<Settings> {
        let tuning = self.settings.tuning;
        Ok(Settings {
            model: self.source.fingerprint()?,
            student: String::new(),
            text: digest(&split.sequences),
            slice: digest(&split.validation),
            steps: steps as usize,
            rate: match tuning.rate {
                Some(rate) => rate,
                None => default_rate(self.expected_bpw()?),
            },
            code_rate: (learn == Learn::Codes).then(|| tuning.code_rate.unwrap_or(CODE_RATE)),
            temperature: tuning.temperature,
            norms: tuning.norms,
            seed: self.settings.calibration.seed,
        })
    }

    /// Fine-tunes the layers of `student` that can learn to the float model's logits, in `steps` at most.
    pub(crate) fn distill(
        &self,
        student: &SourceModel,
        decision: &Decision,
        steps: u32,
    ) -> Result<Distilled> {
        let (tuning, learn) = (self.settings.tuning, self.learns_end_to_end);
        let (engine, memory) = (Engine::start()?, self.settings.calibration.memory);
        let split = self.validation_split()?;
        let layers = learning_layers(decision, learn);
        let learners = Learners {
            layers: layers.clone(),
            codes: if learn == Learn::Codes { Codes::Learning } else { Codes::Fixed },
            norms: if tuning.norms { Norms::Learning } else { Norms::Fixed },
        };
        let learner = Student::new(&engine, student, learners, memory);
        let (state, forms) = start::read(student, &layers, &learner.names())?;
        // Without anything to learn there is nothing but the first look.
        let steps = if state == State::default() { 0 } else { steps };
        let settings =
            Settings { student: student.fingerprint()?, ..self.distill_settings(&split, learn, steps)? };
        self.progress.stage("distilling");
        let training = self.float_target(&engine, &split.sequences)?;
        let validation = self.float_target(&engine, &split.validation)?;
        let run = Run { learner, training, validation, temperature: settings.temperature };
        let adam = Adam::new(start::coordinates(&layers, &state), &state);
        let code_rate = settings.code_rate;
        let stored = forms.stored(&state);
        let tuned = self.take_steps(&run, TuningRun::new(settings, state, stored), adam, &forms)?;
        let learned = |name: &str| tuned.best.codes.get(name).map(Vec::as_slice);
        let codes = code_rate.map(|rate| start::changes(student, &layers, learned, rate));
        let scales = layers.values().any(|quant| quant.mode == Mode::Affine);
        let record = record_of(&tuned, &split, scales, codes.transpose()?);
        Ok(Distilled { values: tuned.best, record })
    }

    /// Measures the KL divergence of each token of `windows` between the float model and `student`.
    pub(crate) fn divergences(&self, student: &SourceModel, windows: &[Vec<u32>]) -> Result<Vec<f64>> {
        let (engine, memory) = (Engine::start()?, self.settings.calibration.memory);
        let target = self.float_target(&engine, windows)?;
        let model = Student::new(&engine, student, Learners::default(), memory);
        model.divergences(State::default().tuned(), &target)
    }

    /// Runs the float model on `sequences`.
    pub(crate) fn float_target<'t>(
        &'t self,
        engine: &Engine,
        sequences: &'t [Vec<u32>],
    ) -> Result<Target<'t>> {
        let (source, memory) = (self.source, self.settings.calibration.memory);
        let bar = self.progress.steps_bar(bars::FLOAT_MODEL, source.spec().blocks.len() as u64);
        let target = Target::new(engine, source, sequences, memory, &|| bar.inc(1));
        bar.finish();
        target
    }

    /// Takes the steps of a `run`, or resumes them.
    fn take_steps(
        &self,
        run: &Run<'_>,
        mut tuning: TuningRun,
        mut adam: Adam,
        forms: &Forms,
    ) -> Result<TuningRun> {
        let path = TuningRun::path(&self.settings.output.path);
        let steps = tuning.settings().steps;
        if self.settings.resume && tuning.restore(&path, &mut adam)? {
            let all = count(steps, "step");
            self.progress.line(&format!("resuming: {} of {all} taken already", tuning.step()));
        }
        // Only the remaining steps: those of an earlier run would count for this one's rate.
        let bar = self.progress.steps_bar(bars::DISTILLING, (steps - tuning.step()) as u64);
        let done = tuning.descend(run, forms, &mut adam, &KeptSteps { path: &path, bar: &*bar });
        done.map_err(|error| with_resume_hint(error, tuning.step()))?;
        bar.finish();
        Ok(tuning)
    }
}

/// Returns the record of the steps that `tuned` took, in which `scales` learned or not, and these `codes` changed.
fn record_of(
    tuned: &TuningRun,
    split: &ValidationSplit,
    scales: bool,
    codes: Option<LearnedCodes>,
) -> Distillation {
    let (settings, first, best) = (tuned.settings(), tuned.first_look(), tuned.best_look());
    Distillation {
        steps: settings.steps,
        taken: tuned.step(),
        kept: best.step,
        rate: settings.rate,
        temperature: settings.temperature,
        norms: settings.norms,
        scales,
        codes,
        blocks: None,
        text: split.name.clone(),
        windows: split.validation.len(),
        kl_before: first.loss,
        kl_after: best.loss,
    }
}

/// Model and targets of a run of steps.
struct Run<'a> {
    learner: Student<'a>,
    training: Target<'a>,
    validation: Target<'a>,
    temperature: f64,
}

impl Loss for Run<'_> {
    fn sequences(&self) -> usize {
        self.training.len()
    }

    fn gradients(&self, values: Tuned<'_>, batch: &[usize], observe: &mut dyn FnMut(&Values)) -> Result<()> {
        self.learner.gradients(values, &self.training, batch, self.temperature, observe).map(drop)
    }

    /// Measures the mean KL divergence on the validation windows.
    fn measure(&self, values: Tuned<'_>) -> Result<f64> {
        Ok(mean(&self.learner.divergences(values, &self.validation)?))
    }
}

/// Bar of the steps, and the journal that they are kept in.
struct KeptSteps<'a> {
    path: &'a Path,
    bar: &'a dyn Bar,
}

impl Watch for KeptSteps<'_> {
    fn stepped(&self) {
        self.bar.inc(1);
    }

    fn looked(&self, run: &TuningRun, adam: &Adam) -> Result<()> {
        let (first, last) = (run.first_look().loss, run.looks.last().map_or(f64::NAN, |look| look.loss));
        self.bar.describe(format!("distilling, KL {last:.3e} from {first:.3e}"));
        run.save(self.path, adam)
    }
}

/// Adds to an interruption after `steps` that were kept how to resume.
fn with_resume_hint(error: Error, steps: usize) -> Error {
    match error.kind() {
        ErrorKind::Interrupted if steps > 0 => journal::resume_after(error, &format!("step {steps}")),
        _ => error,
    }
}
