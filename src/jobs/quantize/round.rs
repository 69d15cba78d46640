//! Rounding the chosen layers better than to nearest, before anything is written.

use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use super::inputs::{Inputs, Known};
use super::job::{Decision, Job};
use super::kept_layers;
use super::kept_layers::{FedBack, KeptLayers};
use crate::engine::passes::collector::{Extent, Moments};
use crate::engine::passes::moments::{MomentSettings, input_moments, input_moments_where, input_of};
use crate::engine::runtime::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::measure::digest;
use crate::jobs::record::Feedback;
use crate::jobs::write::{Codes, Spooled, unroundable};
use crate::models::source::SourceTensor;
use crate::models::spec::TensorSpec;
use crate::numerics::affine::FloatType;
use crate::numerics::dtype::{cast, float_type};
use crate::numerics::quant::{Mode, Quant};
use crate::numerics::rounding::{RoundingError, Technique};
use crate::words::count;

/// Layers with one input that are rounded side by side: a matrix alone may have few tasks, and the last of them would leave
/// processors idle.
const TOGETHER: usize = 4;

/// What is known of the layers' codes before they are written.
pub enum Rounded {
    /// Nothing: to nearest.
    Nearest,
    /// E[x_j^2] of the layers' inputs, by path; none without a text.
    Searched(BTreeMap<String, Vec<f32>>),
    /// The codes. Layers in other modes than affine are not among them.
    Ready(Spooled, Feedback),
}

impl Rounded {
    /// For the layer at `path`.
    pub fn codes(&self, path: &str) -> Codes<'_> {
        match self {
            Self::Nearest => Codes::Nearest,
            Self::Searched(importance) => Codes::Searched(importance.get(path).map(Vec::as_slice)),
            Self::Ready(spooled, _) => {
                spooled.get(path).map_or(Codes::Nearest, |layer| Codes::Ready(layer, spooled))
            }
        }
    }

    /// How error feedback did, if there was any.
    pub fn feedback(&self) -> Option<Feedback> {
        if let Self::Ready(_, feedback) = self { Some(feedback.clone()) } else { None }
    }
}

impl Job<'_> {
    /// Opens the file of layers that are done, where rounding takes long enough to be interrupted, and goes on with it if
    /// --resume says so.
    ///
    /// Where bits were `moved` since the beginning, the layers that are done may be those of an earlier round, or of the one
    /// that moved them and not in their place yet.
    pub(crate) fn kept_layers(&self, decision: &Decision, moved: bool) -> Result<Option<KeptLayers>> {
        let Some(settings) = self.settings_for(decision)? else { return Ok(None) };
        let output = &self.settings.output.path;
        let (path, next) = (KeptLayers::path(output), KeptLayers::next_path(output));
        let are_these = |path: &Path| KeptLayers::begun(path).as_ref() == Some(&settings);
        if moved && are_these(&next) {
            fs::rename(&next, &path).map_err(|e| Error::io(&path, e))?;
        }
        let resume = self.settings.resume && (!moved || are_these(&path));
        let kept = KeptLayers::open(&path, &settings, resume)?;
        if kept.found() > 0 {
            self.progress.line(&format!("resuming: {} rounded already", count(kept.found(), "layer")));
        }
        Ok(Some(kept))
    }

    /// The same for a round of refinement, whose layers wait beside those that are the best so far.
    pub(crate) fn kept_layers_of_round(&self, next: &Decision) -> Result<Option<KeptLayers>> {
        let Some(settings) = self.settings_for(next)? else { return Ok(None) };
        let path = KeptLayers::next_path(&self.settings.output.path);
        let resume = self.settings.resume && KeptLayers::begun(&path).as_ref() == Some(&settings);
        KeptLayers::open(&path, &settings, resume).map(Some)
    }

    /// Puts the layers of a round in the place of those before, if it was `kept`, and else away.
    pub(crate) fn settle_layers(&self, kept: bool) -> Result<()> {
        let output = &self.settings.output.path;
        let (path, next) = (KeptLayers::path(output), KeptLayers::next_path(output));
        if kept && next.exists() {
            return fs::rename(&next, &path).map_err(|e| Error::io(&path, e));
        }
        kept_layers::remove(&next);
        Ok(())
    }

    fn settings_for(&self, decision: &Decision) -> Result<Option<kept_layers::Settings>> {
        let Some(settings) = self.rounding_settings()? else { return Ok(None) };
        let bits =
            serde_json::to_string(&decision.solution.bitmap).map_err(|e| Error::input(e.to_string()))?;
        Ok(Some(kept_layers::Settings { bits: crate::files::digest::digest([bits.as_bytes()]), ..settings }))
    }

    /// What layers are rounded with where they are kept, but for the bit map.
    pub(crate) fn rounding_settings(&self) -> Result<Option<kept_layers::Settings>> {
        let (Technique::Gptq, Some(texts)) = (self.technique, &self.texts) else { return Ok(None) };
        Ok(Some(kept_layers::Settings {
            mixbit: env!("CARGO_PKG_VERSION").to_owned(),
            model: self.source.fingerprint()?,
            target: self.settings.target.to_string(),
            samples: texts.sequences.len(),
            sequence_length: self.settings.calibration.sequence_length as usize,
            seed: self.settings.calibration.seed,
            text: digest(&texts.sequences),
            dtype: self.settings.dtype.to_string(),
            bits: String::new(),
        }))
    }

    /// Rounds what was decided on, as far as that needs the layers' inputs. What is `kept` is not done again; without it files
    /// go to `folder`, without names.
    pub(crate) fn round(
        &self,
        folder: &Path,
        decision: &Decision,
        kept: Option<KeptLayers>,
    ) -> Result<Rounded> {
        let Some(texts) = &self.texts else {
            return Ok(match self.technique {
                Technique::Search => Rounded::Searched(BTreeMap::new()),
                _ => Rounded::Nearest,
            });
        };
        self.progress.stage("rounding");
        let bar = self.progress.steps_bar("rounding", 1);
        let progress = |done: usize, total: usize| bar.set(done as u64, total as u64);
        let settings = |extent| MomentSettings {
            sequences: &texts.sequences,
            extent,
            memory: self.settings.calibration.memory,
            progress: &progress,
        };
        let rounded = match self.technique {
            Technique::Rtn => Rounded::Nearest,
            Technique::Search => self.importance(&settings(Extent::Diagonal), decision)?,
            Technique::Gptq => {
                let kept = kept.map_or_else(|| KeptLayers::unnamed(folder), Ok)?;
                self.feedback(&settings(Extent::Full), kept, decision)?
            }
        };
        bar.finish();
        if let Some(feedback) = rounded.feedback() {
            for sentence in feedback.sentences() {
                self.progress.line(&format!("error feedback: {sentence}"));
            }
        }
        Ok(rounded)
    }

    fn importance(&self, settings: &MomentSettings<'_>, decision: &Decision) -> Result<Rounded> {
        let mut importance = BTreeMap::new();
        input_moments(&Engine::start()?, self.source, settings, |block, moments| {
            for (spec, path, _) in self.chosen(block, decision) {
                if let Some(moment) = moments.get(&input_of(spec.role)) {
                    importance.insert(path.to_owned(), moment.diagonals());
                }
            }
            Ok(())
        })?;
        Ok(Rounded::Searched(importance))
    }

    fn feedback(
        &self,
        settings: &MomentSettings<'_>,
        kept: KeptLayers,
        decision: &Decision,
    ) -> Result<Rounded> {
        let kept = RefCell::new(kept);
        let is_wanted = |block| !self.is_rounded(block, decision, &kept.borrow());
        let blocks = (0..self.source.spec().layers.len()).map(Some).chain([None]);
        let done = if blocks.into_iter().any(is_wanted) {
            input_moments_where(&Engine::start()?, self.source, settings, is_wanted, |block, moments| {
                self.feed_back(block, moments, decision, &mut kept.borrow_mut())
            })
        } else {
            Ok(())
        };
        let kept = kept.into_inner();
        if let Err(error) = done {
            let interrupted = matches!(error.kind(), ErrorKind::Interrupted);
            let hint = if interrupted { kept.interrupted() } else { None };
            return Err(match hint {
                Some(hint) => error.hint(hint),
                None => error,
            });
        }
        let (spooled, feedback) = kept.seal()?;
        Ok(Rounded::Ready(spooled, feedback))
    }

    /// Whether an earlier run has rounded all layers of a block.
    fn is_rounded(&self, block: Option<usize>, decision: &Decision, kept: &KeptLayers) -> bool {
        self.chosen(block, decision).all(|(_, path, _)| kept.has(path))
    }

    /// Rounds the layers of a block that are not `kept` yet.
    fn feed_back(
        &self,
        block: Option<usize>,
        moments: &Moments,
        decision: &Decision,
        kept: &mut KeptLayers,
    ) -> Result<()> {
        let left: Vec<_> = self.chosen(block, decision).filter(|(_, path, _)| !kept.has(path)).collect();
        for (input, moment) in moments {
            let sharing: Vec<_> =
                left.iter().filter(|(spec, ..)| input_of(spec.role) == *input).copied().collect();
            for together in sharing.chunks(TOGETHER) {
                let found = self.fed_back(together, &Inputs::new(moment))?;
                for ((spec, path, _), found) in together.iter().zip(found) {
                    kept.add(path, spec.rows(), &found)?;
                }
            }
        }
        kept.flush()
    }

    /// Layers with one input rounded with error feedback, side by side; of experts one after the other.
    fn fed_back(&self, layers: &[(&TensorSpec, &str, Quant)], inputs: &Inputs<'_>) -> Result<Vec<FedBack>> {
        let experts = if inputs.matrices() > 1 { inputs.matrices() } else { 0 };
        let mut found = vec![FedBack { experts, ..FedBack::default() }; layers.len()];
        let dtype = float_type(self.settings.dtype)?;
        for index in 0..inputs.matrices() {
            crate::interrupt::check()?;
            let known = inputs.of(index);
            let rounded = layers.par_iter().map(|(spec, _, quant)| {
                let tensor = SourceTensor { name: &spec.name, tensor: self.source.tensor(&spec.name)? };
                let rows = spec.rows() / inputs.matrices();
                let weights = self.weights_of(&tensor, dtype, index * rows..(index + 1) * rows);
                let failed = |e: RoundingError| unroundable(&tensor, e.offset_rows(index * rows));
                let known = known.as_ref().map_err(|e| failed(e.clone()))?;
                known.round(&weights, *quant, dtype).map_err(failed)
            });
            let few_tokens = known.as_ref().is_ok_and(Known::is_little).then_some(index);
            for (found, rounded) in found.iter_mut().zip(rounded.collect::<Result<Vec<_>>>()?) {
                found.quantized.extend(&rounded.quantized);
                found.searched_rows += rounded.searched_rows;
                found.few_tokens.extend(few_tokens);
            }
        }
        Ok(found)
    }

    /// Weights as float32 after the cast to the dtype of scales.
    pub(crate) fn weights(&self, tensor: &SourceTensor<'_>, dtype: FloatType) -> Vec<f32> {
        self.weights_of(tensor, dtype, 0..tensor.tensor.len() / tensor.tensor.columns())
    }

    /// Those of some rows.
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
        cast(tensor.dtype, &tensor.slice(start, end), self.settings.dtype, &mut bytes);
        tensor.release(start, end);
        let mut weights = vec![0.0; rows.len() * tensor.columns()];
        dtype.widen(&bytes, &mut weights);
        weights
    }

    /// The affine layers of a block (the head's as `None`) that were chosen to be quantized.
    fn chosen<'d>(
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
