//! Rounding of the chosen layers better than to nearest, before anything is written.

use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use super::inputs::{Inputs, MatrixInput};
use super::job::{Decision, Job};
use super::layer_journal::{self, GptqLayer, LayerJournal};
use crate::engine::passes::collector::{Extent, Moments};
use crate::engine::passes::moments::{MomentSettings, input_moments, input_moments_where};
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::files::journal::{self, Header, Journal, MODEL, Start};
use crate::jobs::bars;
use crate::jobs::measure::digest;
use crate::jobs::record::GptqStats;
use crate::jobs::write::{Codes, Spooled, unroundable};
use crate::models::source::SourceTensor;
use crate::models::spec::TensorSpec;
use crate::numerics::affine::FloatType;
use crate::numerics::dtype::{cast, float_type};
use crate::numerics::quant::{Mode, Quant};
use crate::numerics::rounding::{RoundingError, Technique};
use crate::words::count;

/// Number of layers with one input that are rounded side by side: a matrix alone may have few tasks, and the last of
/// them would leave processors idle.
const LAYERS_IN_PARALLEL: usize = 4;

/// Codes of layers, or statistics to round with, before anything is written.
pub enum Rounded {
    /// No statistics: layers are rounded to nearest.
    Nearest,
    /// E[x_j^2] of the layers' inputs, by path; none without a text.
    Searched(BTreeMap<String, Vec<f32>>),
    /// Codes of the affine layers; layers in other modes are rounded to nearest.
    Ready(Spooled, GptqStats),
}

impl Rounded {
    /// Returns the origin of the codes of the layer at `path`.
    pub fn codes(&self, path: &str) -> Codes<'_> {
        match self {
            Self::Nearest => Codes::Nearest,
            Self::Searched(importance) => Codes::Searched(importance.get(path).map(Vec::as_slice)),
            Self::Ready(spooled, _) => {
                spooled.get(path).map_or(Codes::Nearest, |layer| Codes::Ready(layer, spooled))
            }
        }
    }

    /// Returns the rows and experts that error feedback did not help, where it was used.
    pub fn gptq_stats(&self) -> Option<GptqStats> {
        if let Self::Ready(_, stats) = self { Some(stats.clone()) } else { None }
    }
}

impl Job<'_> {
    /// Opens the journal of rounded layers, where rounding takes long enough to be interrupted, and resumes it if the
    /// user asks for that.
    ///
    /// If refinement has `moved` bits since the beginning, the journal may have the layers of an earlier round, and
    /// those of the latest may not be in its place yet.
    pub(crate) fn rounding_journal(&self, decision: &Decision, moved: bool) -> Result<Option<LayerJournal>> {
        let Some(header) = self.header_for(decision)? else { return Ok(None) };
        let output = &self.settings.output.path;
        let (path, next) = (LayerJournal::path(output), LayerJournal::next_path(output));
        let is_for_decision = |path: &Path| Journal::peek(path).as_ref() == Some(&header);
        if moved && is_for_decision(&next) {
            fs::rename(&next, &path).map_err(|e| Error::io(&path, e))?;
        }
        let resume = self.settings.resume && (!moved || is_for_decision(&path));
        let journal = LayerJournal::open(&path, &header, Start::resumed_if(resume))?;
        self.progress.notes(journal.damage_note().as_slice());
        if !journal.is_empty() {
            self.progress.line(&format!("resuming: {} rounded already", count(journal.len(), "layer")));
        }
        Ok(Some(journal))
    }

    /// Opens the journal of a round of refinement, beside that of the best layers so far.
    pub(crate) fn rounding_journal_of_round(&self, next: &Decision) -> Result<Option<LayerJournal>> {
        let Some(header) = self.header_for(next)? else { return Ok(None) };
        let path = LayerJournal::next_path(&self.settings.output.path);
        let resume = self.settings.resume && Journal::peek(&path).as_ref() == Some(&header);
        LayerJournal::open(&path, &header, Start::resumed_if(resume)).map(Some)
    }

    /// Replaces the layers before a round with the round's if it was `kept`, and removes the round's otherwise.
    pub(crate) fn settle_layers(&self, kept: bool) -> Result<()> {
        let output = &self.settings.output.path;
        let (path, next) = (LayerJournal::path(output), LayerJournal::next_path(output));
        if kept && next.exists() {
            return fs::rename(&next, &path).map_err(|e| Error::io(&path, e));
        }
        journal::remove(&next);
        Ok(())
    }

    fn header_for(&self, decision: &Decision) -> Result<Option<Header>> {
        let Some(header) = self.rounding_header()? else { return Ok(None) };
        let bits =
            serde_json::to_string(&decision.solution.bitmap).map_err(|e| Error::input(e.to_string()))?;
        Ok(Some(header.with(layer_journal::BITS, crate::files::digest::digest([bits.as_bytes()]))))
    }

    /// Returns the header of the rounding journal without the bit map; `None` where layers are not kept.
    pub(crate) fn rounding_header(&self) -> Result<Option<Header>> {
        let (Technique::Gptq, Some(texts)) = (self.technique, &self.texts) else { return Ok(None) };
        let header = Header::new("rounding")
            .with("mixbit's version", env!("CARGO_PKG_VERSION"))
            .with(MODEL, self.source.fingerprint()?)
            .with("the target", self.settings.target)
            .with("samples", texts.sequences.len())
            .with("sequence_length", self.settings.calibration.sequence_length)
            .with("seed", self.settings.calibration.seed)
            .with(layer_journal::TEXT, digest(&texts.sequences))
            .with("dtype", self.plan.dtype())
            .with(layer_journal::BITS, "");
        Ok(Some(header))
    }

    /// Rounds the layers of `decision`, as far as that needs their inputs. Layers in the `journal` are not done again.
    pub(crate) fn round(&self, decision: &Decision, journal: Option<LayerJournal>) -> Result<Rounded> {
        let Some(texts) = &self.texts else {
            return Ok(match self.technique {
                Technique::Search => Rounded::Searched(BTreeMap::new()),
                _ => Rounded::Nearest,
            });
        };
        self.progress.stage("rounding");
        let bar = self.progress.steps_bar(bars::ROUNDING, 1);
        let progress = |done: usize, total: usize| bar.set(done as u64, total as u64);
        let settings = |extent| MomentSettings {
            sequences: &texts.sequences,
            extent,
            memory: self.settings.calibration.memory,
            progress: &progress,
        };
        let rounded = match (self.technique, journal) {
            (Technique::Gptq, Some(journal)) => self.gptq(&settings(Extent::Full), journal, decision)?,
            (Technique::Gptq, None) => return Err(Error::input("gptq has no journal to keep layers in")),
            (Technique::Search, _) => self.measure_importance(&settings(Extent::Diagonal), decision)?,
            (Technique::Rtn, _) => Rounded::Nearest,
        };
        bar.finish();
        if let Some(stats) = rounded.gptq_stats() {
            for sentence in stats.sentences() {
                self.progress.line(&format!("error feedback: {sentence}"));
            }
        }
        Ok(rounded)
    }

    /// Measures E[x_j^2] of the inputs of all layers to quantize.
    fn measure_importance(&self, settings: &MomentSettings<'_>, decision: &Decision) -> Result<Rounded> {
        let mut importance = BTreeMap::new();
        input_moments(&Engine::start()?, self.source, settings, |block, moments| {
            for (spec, path, _) in self.affine_layers(block, decision) {
                if let Some(moment) = spec.tap.and_then(|tap| moments.get(&tap)) {
                    importance.insert(path.to_owned(), moment.diagonals());
                }
            }
            Ok(())
        })?;
        Ok(Rounded::Searched(importance))
    }

    /// Rounds the layers that are not in the journal yet with error feedback, block by block.
    fn gptq(
        &self,
        settings: &MomentSettings<'_>,
        journal: LayerJournal,
        decision: &Decision,
    ) -> Result<Rounded> {
        let journal = RefCell::new(journal);
        let is_wanted = |block| !self.is_rounded(block, decision, &journal.borrow());
        let blocks = (0..self.source.spec().blocks.len()).map(Some).chain([None]);
        let done = if blocks.into_iter().any(is_wanted) {
            input_moments_where(&Engine::start()?, self.source, settings, is_wanted, |block, moments| {
                self.gptq_block(block, moments, decision, &mut journal.borrow_mut())
            })
        } else {
            Ok(())
        };
        let journal = journal.into_inner();
        done.inspect_err(|_| journal.remove_if_empty()).map_err(|error| journal.with_resume_hint(error))?;
        let (spooled, stats) = journal.seal()?;
        Ok(Rounded::Ready(spooled, stats))
    }

    /// True if the journal has all layers of a block.
    fn is_rounded(&self, block: Option<usize>, decision: &Decision, journal: &LayerJournal) -> bool {
        self.affine_layers(block, decision).all(|(_, path, _)| journal.has(path))
    }

    /// Rounds the layers of a block that are not in the journal yet.
    fn gptq_block(
        &self,
        block: Option<usize>,
        moments: &Moments,
        decision: &Decision,
        journal: &mut LayerJournal,
    ) -> Result<()> {
        let layers = self.affine_layers(block, decision);
        let layers: Vec<_> = layers.filter(|(_, path, _)| !journal.has(path)).collect();
        for (&tap, moment) in moments {
            let sharing: Vec<_> = layers.iter().filter(|(spec, ..)| spec.tap == Some(tap)).copied().collect();
            for layers in sharing.chunks(LAYERS_IN_PARALLEL) {
                let rounded = self.gptq_layers(layers, &Inputs::new(moment))?;
                for ((spec, path, _), layer) in layers.iter().zip(rounded) {
                    journal.append(path, spec.rows(), &layer)?;
                }
            }
        }
        journal.flush()
    }

    /// Rounds layers with one input with error feedback, side by side; their experts in turn.
    fn gptq_layers(
        &self,
        layers: &[(&TensorSpec, &str, Quant)],
        inputs: &Inputs<'_>,
    ) -> Result<Vec<GptqLayer>> {
        let experts = if inputs.matrices() > 1 { inputs.matrices() } else { 0 };
        let mut results = vec![GptqLayer { experts, ..GptqLayer::default() }; layers.len()];
        let dtype = float_type(self.plan.dtype())?;
        for index in 0..inputs.matrices() {
            crate::interrupt::check()?;
            let input = inputs.of(index);
            let rounded = layers.par_iter().map(|(spec, _, quant)| {
                let tensor = SourceTensor { name: &spec.name, tensor: self.source.tensor(&spec.name)? };
                let rows = spec.rows() / inputs.matrices();
                let weights = self.weights_of(&tensor, dtype, index * rows..(index + 1) * rows);
                let failed = |e: RoundingError| unroundable(&tensor, e.offset_rows(index * rows));
                let input = input.as_ref().map_err(|e| failed(e.clone()))?;
                input.round(&weights, *quant, dtype).map_err(failed)
            });
            let rounded: Vec<_> = rounded.collect::<Result<_>>()?;
            let few_tokens = input.as_ref().is_ok_and(MatrixInput::has_few_tokens).then_some(index);
            for (layer, matrix) in results.iter_mut().zip(rounded) {
                layer.quantized.extend(&matrix.quantized);
                layer.searched_rows += matrix.searched_rows;
                layer.few_tokens.extend(few_tokens);
            }
        }
        Ok(results)
    }

    /// Reads a tensor's weights as float32, after the cast to the dtype of scales.
    pub(crate) fn weights(&self, tensor: &SourceTensor<'_>, dtype: FloatType) -> Vec<f32> {
        self.weights_of(tensor, dtype, 0..tensor.tensor.len() / tensor.tensor.columns())
    }

    /// Reads the weights of some rows of a tensor as float32, after the cast to the dtype of scales.
    pub(crate) fn weights_of(
        &self,
        tensor: &SourceTensor<'_>,
        dtype: FloatType,
        rows: Range<usize>,
    ) -> Vec<f32> {
        let SourceTensor { tensor, .. } = tensor;
        let row = tensor.columns() * tensor.dtype.size();
        let (start, end) = (rows.start * row, rows.end * row);
        let mut bytes = Vec::new();
        cast(tensor.dtype, &tensor.slice(start, end), self.plan.dtype(), &mut bytes);
        tensor.release(start, end);
        let mut weights = vec![0.0; rows.len() * tensor.columns()];
        dtype.widen(&bytes, &mut weights);
        weights
    }

    /// Returns the layers of a block (`None` for the head) that become affine.
    fn affine_layers<'d>(
        &'d self,
        block: Option<usize>,
        decision: &'d Decision,
    ) -> impl Iterator<Item = (&'d TensorSpec, &'d str, Quant)> {
        self.source.manifest().iter().filter(move |spec| spec.layer == block).filter_map(|spec| {
            let path = spec.path()?;
            let quant = *decision.solution.bitmap.get(path)?;
            (quant.mode == Mode::Affine).then_some((spec, path, quant))
        })
    }
}
