//! Fine-tuning the rounded model to the float one's logits, with early stopping on text that it does not learn from.

use std::collections::{BTreeMap, BTreeSet};

use super::job::{Decision, Job};
use super::refine::nothing_to_move;
use super::settings::EvaluationText;
use crate::engine::learn::student::{Student, Target};
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::files::journal;
use crate::jobs::measure::digest;
use crate::jobs::quantize::tuning::{
    Adam, Coordinate, LOOK_EVERY, Look, Settings, TuningRun, Values, as_stored,
};
use crate::jobs::record::Distillation;
use crate::jobs::settings::Target as Size;
use crate::jobs::texts::FEW_SPARE;
use crate::models::source::SourceModel;
use crate::numerics::affine::FloatType;
use crate::numerics::dtype::{extend_f32, float_type};
use crate::numerics::quant::{Mode, Quant};
use crate::numerics::rounding::Technique;
use crate::words::count;

/// Sequences in a step.
const BATCH: usize = 4;

/// Text that is looked at and not learned from.
pub struct Slice {
    /// To learn from.
    pub sequences: Vec<Vec<u32>>,
    /// To look at.
    pub windows: Vec<Vec<u32>>,
    /// What the windows are.
    pub name: String,
}

/// The values that were kept, by tensor, and how they came about.
pub struct Distilled {
    /// By tensor.
    pub values: Values,
    /// Steps, and the divergence before and after.
    pub record: Distillation,
}

/// How far the first step goes where nothing is said, in a model of so many bits a weight: the more there are, the smaller
/// are the errors that it has to be small beside.
fn usual_rate(bpw: f64) -> f64 {
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

    /// Fails where a run is to be resumed that keeps nothing on its way.
    pub(crate) fn check_resumption(&self) -> Result<()> {
        if self.settings.resume && !self.settings.tuning.any() && self.technique != Technique::Gptq {
            return Err(Error::usage(
                "--resume has nothing to go on with: only GPTQ, --refine and --distill keep what is done",
            )
            .hint("leave --resume out; --overwrite discards what an earlier run has kept"));
        }
        Ok(())
    }

    /// The windows to look at: such as serve for nothing else; with too few of them those that the result is not measured
    /// on after all; else a part of the sequences, which are not learned from then.
    pub(crate) fn slice(&self) -> Result<Slice> {
        let Some(texts) = &self.texts else { return Err(Error::usage("there is no text to learn from")) };
        let apart = format!("windows of {} that serve for nothing else", texts.name);
        if texts.spare.len() >= FEW_SPARE {
            return Ok(Slice {
                sequences: texts.sequences.clone(),
                windows: texts.spare.clone(),
                name: apart,
            });
        }
        if self.settings.evaluation != EvaluationText::HeldOut {
            let windows = [&texts.held_out[..], &texts.spare].concat();
            return Ok(Slice { sequences: texts.sequences.clone(), windows, name: apart });
        }
        if texts.sequences.len() < 2 {
            return Err(Error::usage(format!(
                "{} gives one sequence: some are needed to learn from and others to look at",
                texts.name
            ))
            .hint("give a longer --calibration text, more --samples or a smaller --sequence-length"));
        }
        let every = texts.sequences.len().min(8);
        let part = |apart: bool| {
            let all = texts.sequences.iter().enumerate();
            all.filter(|(index, _)| (index % every == every - 1) == apart).map(|(_, s)| s.clone()).collect()
        };
        let rounded = if self.technique == Technique::Gptq { "were rounded on and" } else { "are" };
        let name = format!("sequences of {} that {rounded} not learned from", texts.name);
        Ok(Slice { sequences: part(false), windows: part(true), name })
    }

    /// Bits a weight, as far as they are known before any are chosen.
    fn bpw(&self) -> Result<f64> {
        match self.settings.target {
            Size::Bpw(bpw) => Ok(bpw),
            Size::Size(size) => self.plan.bpw_of_model_size(self.source, size),
            Size::Fixed => {
                let quants = self.plan.quants();
                Ok(quants.iter().map(|quant| f64::from(quant.bits)).sum::<f64>() / quants.len().max(1) as f64)
            }
        }
    }

    /// What steps are taken with, but for the model at the start.
    pub(crate) fn distill_settings(&self, slice: &Slice, steps: u32) -> Result<Settings> {
        Ok(Settings {
            model: self.source.fingerprint()?,
            student: String::new(),
            text: digest(&slice.sequences),
            slice: digest(&slice.windows),
            steps: steps as usize,
            rate: match self.settings.tuning.rate {
                Some(rate) => rate,
                None => usual_rate(self.bpw()?),
            },
            temperature: self.settings.tuning.temperature,
            norms: self.settings.tuning.norms,
            seed: self.settings.calibration.seed,
        })
    }

    /// Fine-tunes the model in `student`'s folder; what it was given goes to the record.
    pub(crate) fn distill(
        &self,
        student: &SourceModel,
        decision: &Decision,
        steps: u32,
    ) -> Result<Distilled> {
        let Self { progress, source, .. } = self;
        let tuning = self.settings.tuning;
        let (engine, memory, slice) = (Engine::start()?, self.settings.calibration.memory, self.slice()?);
        let layers = learning(decision)?;
        let paths: BTreeSet<String> = layers.iter().map(|(path, _)| path.clone()).collect();
        let learner = Student::new(&engine, student, &paths, tuning.norms, memory);
        let (values, dtypes) = values(student, &learner.names())?;
        let settings = Settings { student: student.fingerprint()?, ..self.distill_settings(&slice, steps)? };
        progress.stage("distilling");
        let bar = progress.steps_bar("running the float model", 2 * source.spec().layers.len() as u64);
        let tick = || bar.inc(1);
        let lesson = Target::new(&engine, source, &slice.sequences, memory, &tick)?;
        let exam = Target::new(&engine, source, &slice.windows, memory, &tick)?;
        bar.finish();
        let run = Run { learner, lesson, exam, dtypes, settings };
        let tuned = run.steps(self, coordinates(&layers, &values), values)?;
        let (first, best) = (tuned.first_look(), tuned.best_look());
        let record = Distillation {
            steps: run.settings.steps,
            taken: tuned.step(),
            kept: best.step,
            rate: run.settings.rate,
            temperature: run.settings.temperature,
            norms: run.settings.norms,
            text: slice.name,
            windows: slice.windows.len(),
            kl_before: first.kl,
            kl_after: best.kl,
        };
        Ok(Distilled { values: tuned.best, record })
    }
}

/// What the steps need.
struct Run<'a> {
    learner: Student<'a>,
    lesson: Target<'a>,
    exam: Target<'a>,
    dtypes: BTreeMap<String, FloatType>,
    settings: Settings,
}

impl Run<'_> {
    /// Takes the steps, or those that are left.
    fn steps(&self, job: &Job<'_>, coordinates: Vec<Coordinate>, values: Values) -> Result<TuningRun> {
        let Self { settings, .. } = self;
        let path = TuningRun::path(&job.settings.output.path);
        let mut adam = Adam::new(coordinates, &values);
        let mut resumed = None;
        if job.settings.resume {
            resumed = TuningRun::read(&path, settings, &mut adam)?;
        }
        let mut progress = match resumed {
            Some(progress) => {
                let steps = count(settings.steps, "step");
                job.progress.line(&format!("resuming: {} of {steps} taken already", progress.step()));
                progress
            }
            None => {
                let kl = self.look(&values)?;
                TuningRun::new(settings.clone(), values, kl)
            }
        };
        // Of what is left: steps of an earlier run would count for this one's rate.
        let bar = job.progress.steps_bar("distilling", (settings.steps - progress.step()) as u64);
        while !progress.is_over() {
            let from = progress.step();
            let to = (from + LOOK_EVERY).min(settings.steps);
            for step in from..to {
                let again = |e: Error| resumable(e, from);
                crate::interrupt::check().map_err(again)?;
                let batch = settings.batch(step, BATCH, self.lesson.len());
                let (_, gradients) = self
                    .learner
                    .gradients(&progress.values, &self.lesson, &batch, settings.temperature)
                    .map_err(again)?;
                adam.step(step + 1, settings.rate_of(step), &mut progress.values, &gradients);
                bar.inc(1);
            }
            let stored = as_stored(&progress.values, &self.dtypes);
            let kl = self.look(&stored).map_err(|e| resumable(e, from))?;
            progress.look(Look { step: to, kl }, stored);
            bar.describe(format!("distilling, KL {:.3e} from {:.3e}", kl, progress.first_look().kl));
            progress.save(&path, &adam)?;
        }
        bar.finish();
        Ok(progress)
    }

    /// Mean KL divergence on what is not learned from.
    fn look(&self, values: &Values) -> Result<f64> {
        let divergences = self.learner.divergences(values, &self.exam)?;
        Ok(divergences.iter().sum::<f64>() / divergences.len().max(1) as f64)
    }
}

/// An interruption after which --resume has something to go on from.
fn resumable(error: Error, kept: usize) -> Error {
    match error.kind() {
        crate::error::ErrorKind::Interrupted if kept > 0 => {
            error.hint(journal::resume_after(&format!("step {kept}")))
        }
        _ => error,
    }
}

/// The affine layers that were chosen here, with their settings.
fn learning(decision: &Decision) -> Result<Vec<(String, Quant)>> {
    let chosen = decision.solution.bitmap.iter().map(|(path, quant)| (path.clone(), *quant));
    let layers: Vec<_> = chosen.filter(|(_, quant)| quant.mode == Mode::Affine).collect();
    if layers.is_empty() { Err(nothing_learns()) } else { Ok(layers) }
}

fn nothing_learns() -> Error {
    Error::usage(
        "--distill has nothing to fine-tune: no layer becomes affine, and other modes have no free scales",
    )
    .hint("leave --distill out, or choose affine bits")
}

/// Values of the tensors `names`, and the types that they are stored in.
fn values(student: &SourceModel, names: &[String]) -> Result<(Values, BTreeMap<String, FloatType>)> {
    let (mut values, mut dtypes) = (Values::new(), BTreeMap::new());
    for name in names {
        let tensor = student.tensor(name)?;
        let mut decoded = Vec::with_capacity(tensor.len());
        extend_f32(tensor.dtype, &tensor.bytes(), &mut decoded);
        values.insert(name.clone(), decoded);
        dtypes.insert(name.clone(), float_type(tensor.dtype)?);
    }
    Ok((values, dtypes))
}

/// Scales go with their biases, norms by themselves.
fn coordinates(layers: &[(String, Quant)], values: &Values) -> Vec<Coordinate> {
    let affine = layers.iter().map(|(path, quant)| Coordinate::Affine {
        scales: format!("{path}.scales"),
        biases: format!("{path}.biases"),
        middle: ((1u32 << quant.bits) - 1) as f32 / 2.0,
    });
    let mut coordinates: Vec<Coordinate> = affine.collect();
    let paired = |name: &str| {
        layers.iter().any(|(path, _)| {
            name.strip_prefix(path.as_str()).is_some_and(|part| part == ".scales" || part == ".biases")
        })
    };
    coordinates.extend(values.keys().filter(|name| !paired(name)).cloned().map(Coordinate::Plain));
    coordinates
}
