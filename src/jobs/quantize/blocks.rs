//! Learning of codes block by block, for models whose codes do not fit in memory all at once.

use std::collections::BTreeMap;
use std::ops::Range;

use super::job::{Decision, Job};
use super::layer_journal::LayerJournal;
use super::split::ValidationSplit;
use super::start::{self, learning_layers};
use crate::choose::recipe::Learn;
use crate::engine::decoder::load::{Tuned, Values};
use crate::engine::learn::blockwise::{Blockwise, output_importance};
use crate::engine::learn::layer::Codes;
use crate::engine::learn::learning::{Learners, Norms};
use crate::engine::runtime::Engine;
use crate::error::Result;
use crate::files::journal::Start;
use crate::jobs::bars;
use crate::jobs::quantize::tuning::{Adam, Forms, Loss, Settings, State, Stored, TuningRun, Watch};
use crate::jobs::record::LearnedCodes;
use crate::jobs::write::Spooled;
use crate::models::source::SourceModel;
use crate::numerics::affine::Quantized;
use crate::numerics::dtype::{extend_f32, push_f32};
use crate::numerics::latent::unpack_latents;
use crate::numerics::quant::{Mode, Quant};
use crate::progress::Bar;
use crate::words::count;

/// Sequences that tell how much hidden values matter.
pub(crate) const IMPORTANCE_SEQUENCES: usize = 16;

impl Job<'_> {
    /// Lets the codes of `student` learn block by block, each in `steps` at most. Blocks of an interrupted run are not done
    /// again. Returns all layers that learned, and how many codes changed.
    pub(crate) fn learn_blocks(
        &self,
        student: &SourceModel,
        decision: &Decision,
        steps: u32,
    ) -> Result<(Spooled, LearnedCodes)> {
        let split = self.validation_split()?;
        let settings = self.distill_settings(&split, Learn::Codes, steps)?;
        let settings = Settings { student: student.fingerprint()?, norms: false, ..settings };
        let start = Start::resumed_if(self.settings.resume);
        let path = LayerJournal::blocks_path(&self.settings.output.path);
        let mut journal = LayerJournal::open(&path, &settings.blocks_header(), start)?;
        self.progress.notes(journal.damage_note().as_slice());
        if !journal.is_empty() {
            self.progress.line(&format!("resuming: {} learned already", count(journal.len(), "layer")));
        }
        self.progress.stage("learning codes");
        let rate = settings.code_rate.unwrap_or_default();
        let blocks = Blocks {
            job: self,
            student,
            layers: learning_layers(decision, Learn::Codes),
            settings,
            watched: split.sequences.len()..split.sequences.len() + split.validation.len(),
        };
        let done = if blocks.layers.keys().all(|path| journal.has(path)) {
            Ok(())
        } else {
            blocks.learn(&split, &mut journal)
        };
        done.inspect_err(|_| journal.remove_if_empty()).map_err(|error| journal.with_resume_hint(error))?;
        let (layers, _) = journal.seal()?;
        let codes = start::changes(student, &blocks.layers, |name| layers.tensor(name), rate)?;
        Ok((layers, codes))
    }
}

/// A quantized model whose blocks learn.
struct Blocks<'a> {
    job: &'a Job<'a>,
    student: &'a SourceModel,
    layers: BTreeMap<String, Quant>,
    settings: Settings,
    /// Sequences that are not learned from.
    watched: Range<usize>,
}

impl Blocks<'_> {
    fn learn(&self, split: &ValidationSplit, journal: &mut LayerJournal) -> Result<()> {
        let (job, engine) = (self.job, Engine::start()?);
        let (source, memory) = (job.source, job.settings.calibration.memory);
        let sequences = [&split.sequences[..], &split.validation].concat();
        let blocks = source.spec().blocks.len();
        let bar = job.progress.steps_bar(bars::FLOAT_MODEL, 2 * blocks as u64);
        let few = &split.sequences[..IMPORTANCE_SEQUENCES.min(split.sequences.len())];
        let tick = || bar.inc(1);
        let importance = output_importance(&engine, source, few, self.settings.seed, memory, &tick)?;
        bar.finish();
        let learners = Learners { layers: self.layers.clone(), codes: Codes::Learning, norms: Norms::Fixed };
        let models = (source, self.student);
        let mut model = Blockwise::new(&engine, models, &sequences, learners, importance, memory)?;
        let bar = job.progress.steps_bar(bars::LEARNING_BLOCKS, (blocks * self.settings.steps) as u64);
        for block in 0..blocks {
            model.prepare()?;
            let values = self.learn_block(&model, &*bar, journal)?;
            model.advance(values.tuned())?;
            bar.set(((block + 1) * self.settings.steps) as u64, (blocks * self.settings.steps) as u64);
        }
        bar.finish();
        Ok(())
    }

    /// Lets the present block of `model` learn, or takes what the journal has of it. Returns its values.
    fn learn_block(&self, model: &Blockwise<'_>, bar: &dyn Bar, journal: &mut LayerJournal) -> Result<State> {
        let names = model.names();
        let own: BTreeMap<String, Quant> = self
            .layers
            .iter()
            .filter(|(path, _)| names.contains(&format!("{path}.weight")))
            .map(|(path, quant)| (path.clone(), *quant))
            .collect();
        let (state, forms) = start::read(self.student, &own, &names)?;
        let block = Block { student: self.student, own: &own, forms: &forms };
        let layers = if own.keys().all(|path| journal.has(path)) {
            own.keys().map(|path| Ok((path.clone(), journal.read(path)?))).collect::<Result<_>>()?
        } else {
            let mut adam = Adam::new(start::coordinates(&own, &state), &state);
            let stored = forms.stored(&state);
            let mut run = TuningRun::new(self.settings.clone(), state, stored);
            let loss = Outputs { model, training: self.watched.start, watched: self.watched.clone() };
            run.descend(&loss, &forms, &mut adam, &Steps(bar))?;
            let layers = block.layers(&run.best)?;
            for (path, quantized) in &layers {
                journal.append_learned(path, quantized)?;
            }
            journal.flush()?;
            layers
        };
        Ok(block.state(&layers))
    }
}

/// Layers of a block in the forms that they are stored in.
struct Block<'a> {
    student: &'a SourceModel,
    own: &'a BTreeMap<String, Quant>,
    forms: &'a Forms,
}

impl Block<'_> {
    /// Returns the layers with the values `best`; what did not learn is as it was.
    fn layers(&self, best: &Stored) -> Result<BTreeMap<String, Quantized>> {
        let part = |name: String| -> Result<Vec<u8>> {
            if let Some(codes) = best.codes.get(&name) {
                return Ok(codes.clone());
            }
            let tensor = self.student.tensor(&name)?;
            let Some(values) = best.floats.get(&name) else { return Ok(tensor.bytes().to_vec()) };
            let mut bytes = Vec::new();
            push_f32(values, tensor.dtype, &mut bytes);
            Ok(bytes)
        };
        let layer = |(path, quant): (&String, &Quant)| {
            let [packed, scales] = ["weight", "scales"].map(|at| part(format!("{path}.{at}")));
            let biases = match quant.mode {
                Mode::Affine => part(format!("{path}.biases"))?,
                _ => Vec::new(),
            };
            Ok((path.clone(), Quantized { packed: packed?, scales: scales?, biases }))
        };
        self.own.iter().map(layer).collect()
    }

    /// Returns what learns of the `layers`, as a model takes it.
    fn state(&self, layers: &BTreeMap<String, Quantized>) -> State {
        let mut state = State::default();
        for (path, quant) in self.own {
            let Some(layer) = layers.get(path) else { continue };
            let codes = format!("{path}.weight");
            state.latents.insert(codes, unpack_latents(&layer.packed, *quant));
            for (part, bytes) in [("scales", &layer.scales), ("biases", &layer.biases)] {
                let name = format!("{path}.{part}");
                let Some(dtype) = self.forms.dtypes.get(&name) else { continue };
                let mut values = Vec::new();
                extend_f32((*dtype).into(), bytes, &mut values);
                state.floats.insert(name, values);
            }
        }
        state
    }
}

/// The float block's outputs, which the present block is to give.
struct Outputs<'a> {
    model: &'a Blockwise<'a>,
    training: usize,
    watched: Range<usize>,
}

impl Loss for Outputs<'_> {
    fn sequences(&self) -> usize {
        self.training
    }

    fn gradients(&self, values: Tuned<'_>, batch: &[usize], observe: &mut dyn FnMut(&Values)) -> Result<()> {
        observe(&self.model.gradients(values, batch)?);
        Ok(())
    }

    fn measure(&self, values: Tuned<'_>) -> Result<f64> {
        self.model.error(values, self.watched.clone())
    }
}

/// Bar of the steps of all blocks.
struct Steps<'a>(&'a dyn Bar);

impl Watch for Steps<'_> {
    fn stepped(&self) {
        self.0.inc(1);
    }

    fn looked(&self, _: &TuningRun, _: &Adam) -> Result<()> {
        Ok(())
    }
}
