//! Fine-tuning of the rounded model to the float one's logits, with early stopping on text that it does not learn from.

use super::job::{Decision, Job};
use super::refine::nothing_to_move;
use super::settings::EvaluationText;
use super::start::{self, learning_layers, nothing_learns};
use crate::choose::recipe::Learn;
use crate::engine::decoder::load::{Tuned, Values};
use crate::engine::learn::layer::Codes;
use crate::engine::learn::learning::{Learners, Norms};
use crate::engine::learn::student::{Student, Target};
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::files::journal;
use crate::jobs::bars;
use crate::jobs::measure::digest;
use crate::jobs::quantize::tuning::{Adam, Forms, LOOK_EVERY, Look, Settings, State, Stored, TuningRun};
use crate::jobs::record::Distillation;
use crate::jobs::texts::FEW_VALIDATION_WINDOWS;
use crate::models::source::SourceModel;
use crate::numerics::rounding::Technique;
use crate::words::count;

/// Number of sequences per step.
const SEQUENCES_IN_BATCH: usize = 4;

/// Texts of refinement and distillation: one to learn from, and one to tell whether that helps.
pub struct ValidationSplit {
    /// Sequences to learn from.
    pub sequences: Vec<Vec<u32>>,
    /// Windows to measure on and not to learn from.
    pub validation: Vec<Vec<u32>>,
    /// Name of the validation windows.
    pub name: String,
}

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
        let learns = self.has_affine_layers();
        if self.settings.tuning.distill.is_some() && !learns { Err(nothing_learns()) } else { Ok(()) }
    }

    /// Splits the calibration text. Validation windows are windows that serve for nothing else; where those are few,
    /// held-out windows too, if the result is not measured on them; otherwise a part of the sequences, which are not
    /// learned from then.
    pub(crate) fn validation_split(&self) -> Result<ValidationSplit> {
        let Some(texts) = &self.texts else { return Err(Error::usage("there is no text to learn from")) };
        let name = format!("windows of {} that serve for nothing else", texts.name);
        if texts.validation.len() >= FEW_VALIDATION_WINDOWS {
            let (sequences, validation) = (texts.sequences.clone(), texts.validation.clone());
            return Ok(ValidationSplit { sequences, validation, name });
        }
        if self.settings.evaluation != EvaluationText::HeldOut {
            let validation = [&texts.held_out[..], &texts.validation].concat();
            return Ok(ValidationSplit { sequences: texts.sequences.clone(), validation, name });
        }
        if texts.sequences.len() < 2 {
            return Err(Error::usage(format!(
                "{} gives one sequence: some are needed to learn from and others to look at",
                texts.name
            ))
            .hint("give a longer setting `calibration` text, more setting `samples` or a smaller setting `sequence_length`"));
        }
        let every = texts.sequences.len().min(8);
        let (mut sequences, mut validation) = (Vec::new(), Vec::new());
        for (index, sequence) in texts.sequences.iter().enumerate() {
            let part = if index % every == every - 1 { &mut validation } else { &mut sequences };
            part.push(sequence.clone());
        }
        let rounded = if self.technique == Technique::Gptq { "were rounded on and" } else { "are" };
        let name = format!("sequences of {} that {rounded} not learned from", texts.name);
        Ok(ValidationSplit { sequences, validation, name })
    }

    /// Estimates the bits per weight before any are chosen: the target, or the mean over the fixed settings.
    fn expected_bpw(&self) -> Result<f64> {
        if let Some(bpw) = self.target_bpw()? {
            return Ok(bpw);
        }
        let quants = self.plan.quants();
        Ok(quants.iter().map(|quant| f64::from(quant.bits)).sum::<f64>() / quants.len().max(1) as f64)
    }

    /// Returns the settings of a run of `steps`, without the fingerprint of the model at the start.
    pub(crate) fn distill_settings(&self, split: &ValidationSplit, steps: u32) -> Result<Settings> {
        Ok(Settings {
            model: self.source.fingerprint()?,
            student: String::new(),
            text: digest(&split.sequences),
            slice: digest(&split.validation),
            steps: steps as usize,
            rate: match self.settings.tuning.rate {
                Some(rate) => rate,
                None => default_rate(self.expected_bpw()?),
            },
            code_rate: match self.settings.tuning.learn {
                Learn::Codes => Some(self.settings.tuning.code_rate.unwrap_or(CODE_RATE)),
                Learn::Scales => None,
            },
            temperature: self.settings.tuning.temperature,
            norms: self.settings.tuning.norms,
            seed: self.settings.calibration.seed,
        })
    }

    /// Fine-tunes the affine layers of `student` in `steps` at most.
    pub(crate) fn distill(
        &self,
        student: &SourceModel,
        decision: &Decision,
        steps: u32,
    ) -> Result<Distilled> {
        let Self { progress, source, .. } = self;
        let tuning = self.settings.tuning;
        let (engine, memory) = (Engine::start()?, self.settings.calibration.memory);
        let split = self.validation_split()?;
        let layers = learning_layers(decision)?;
        let learners = Learners {
            layers: layers.keys().cloned().collect(),
            codes: if tuning.learn == Learn::Codes { Codes::Learning } else { Codes::Fixed },
            norms: if tuning.norms { Norms::Learning } else { Norms::Fixed },
        };
        let learner = Student::new(&engine, student, learners, memory);
        let (state, forms) = start::read(student, &layers, &learner.names())?;
        let settings = Settings { student: student.fingerprint()?, ..self.distill_settings(&split, steps)? };
        progress.stage("distilling");
        let target = |sequences| {
            let bar = progress.steps_bar(bars::FLOAT_MODEL, source.spec().blocks.len() as u64);
            let target = Target::new(&engine, source, sequences, memory, &|| bar.inc(1));
            bar.finish();
            target
        };
        let (training, validation) = (target(&split.sequences)?, target(&split.validation)?);
        let run = Run { learner, training, validation, forms, settings };
        let adam = Adam::new(start::coordinates(&layers, &state), &state);
        let tuned = run.steps(self, adam, state)?;
        let (first, best) = (tuned.first_look(), tuned.best_look());
        let code_rate = run.settings.code_rate;
        let changes = |rate| start::changes(student, &tuned.best.codes, &run.forms, rate);
        let record = Distillation {
            steps: run.settings.steps,
            taken: tuned.step(),
            kept: best.step,
            rate: run.settings.rate,
            temperature: run.settings.temperature,
            norms: run.settings.norms,
            codes: code_rate.map(changes).transpose()?,
            text: split.name,
            windows: split.validation.len(),
            kl_before: first.kl,
            kl_after: best.kl,
        };
        Ok(Distilled { values: tuned.best, record })
    }
}

/// Model, targets and settings of a run of steps.
struct Run<'a> {
    learner: Student<'a>,
    training: Target<'a>,
    validation: Target<'a>,
    forms: Forms,
    settings: Settings,
}

impl Run<'_> {
    /// Takes the steps from `state` on, or resumes them.
    fn steps(&self, job: &Job<'_>, mut adam: Adam, state: State) -> Result<TuningRun> {
        let Self { settings, .. } = self;
        let path = TuningRun::path(&job.settings.output.path);
        let stored = self.stored(&state);
        let mut progress = TuningRun::new(settings.clone(), state, stored);
        if job.settings.resume && progress.restore(&path, &mut adam)? {
            let steps = count(settings.steps, "step");
            job.progress.line(&format!("resuming: {} of {steps} taken already", progress.step()));
        } else {
            let kl = self.measure(&progress.state.floats, &progress.state.latents)?;
            progress.look(Look { step: 0, kl }, |state| self.stored(state));
        }
        // Only the remaining steps: those of an earlier run would count for this one's rate.
        let bar = job.progress.steps_bar(bars::DISTILLING, (settings.steps - progress.step()) as u64);
        while !progress.is_over() {
            let from = progress.step();
            let to = (from + LOOK_EVERY).min(settings.steps);
            for step in from..to {
                let taken = self.step(step, &mut adam, &mut progress.state);
                taken.map_err(|e| with_resume_hint(e, from))?;
                bar.inc(1);
            }
            let floats = self.forms.stored_floats(&progress.state.floats);
            let kl = self.measure(&floats, &progress.state.latents);
            let kl = kl.map_err(|e| with_resume_hint(e, from))?;
            progress.look(Look { step: to, kl }, |state| self.stored(state));
            bar.describe(format!("distilling, KL {:.3e} from {:.3e}", kl, progress.first_look().kl));
            progress.save(&path, &adam)?;
        }
        bar.finish();
        Ok(progress)
    }

    /// Takes a step, counted from 0.
    fn step(&self, step: usize, adam: &mut Adam, state: &mut State) -> Result<()> {
        crate::interrupt::check()?;
        let Self { learner, training, settings, .. } = self;
        let batch = settings.batch(step, SEQUENCES_IN_BATCH, training.len());
        let values = Tuned { floats: &state.floats, latents: &state.latents };
        let observe = &mut |gradients: &Values| adam.observe(gradients);
        learner.gradients(values, training, &batch, settings.temperature, observe)?;
        adam.apply(step + 1, settings.rates_of(step), state);
        Ok(())
    }

    /// Returns the values of a `state` as they are stored.
    fn stored(&self, state: &State) -> Stored {
        let Self { forms, .. } = self;
        Stored { floats: forms.stored_floats(&state.floats), codes: forms.stored_codes(&state.latents) }
    }

    /// Measures the mean KL divergence on the validation windows.
    fn measure(&self, floats: &Values, latents: &Values) -> Result<f64> {
        let divergences = self.learner.divergences(Tuned { floats, latents }, &self.validation)?;
        Ok(divergences.iter().sum::<f64>() / divergences.len().max(1) as f64)
    }
}

/// Adds to an interruption after `steps` that were kept how to resume.
fn with_resume_hint(error: Error, steps: usize) -> Error {
    match error.kind() {
        crate::error::ErrorKind::Interrupted if steps > 0 => {
            journal::resume_after(error, &format!("step {steps}"))
        }
        _ => error,
    }
}
