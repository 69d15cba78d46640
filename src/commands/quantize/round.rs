//! Rounding the chosen layers better than to nearest, before anything is written.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Decision, Job};
use crate::affine::{self, FloatType};
use crate::candidate::{Mode, Quant};
use crate::checkpoint::{SourceTensor, cast};
use crate::engine::{Engine, Extent, MomentSettings, Replacements, input_moments, input_of};
use crate::error::Result;
use crate::rounding::{self, DAMPING, Hessian, Technique};
use crate::spec::TensorSpec;
use crate::spool::{Spool, Spooled};
use crate::weights::{Codes, float_type, unroundable};

/// What is known of the layers' codes before they are written.
pub enum Rounded {
    /// Nothing: to nearest.
    Nearest,
    /// E[x_j^2] of the layers' inputs, by path; none without a text.
    Searched(BTreeMap<String, Vec<f32>>),
    /// The codes. Layers in other modes than affine are not among them.
    Ready(Spooled),
}

impl Rounded {
    /// For the layer at `path`.
    pub fn codes(&self, path: &str) -> Codes<'_> {
        match self {
            Self::Nearest => Codes::Nearest,
            Self::Searched(importance) => Codes::Searched(importance.get(path).map(Vec::as_slice)),
            Self::Ready(spooled) => {
                spooled.get(path).map_or(Codes::Nearest, |layer| Codes::Ready(layer, spooled))
            }
        }
    }
}

impl Job<'_> {
    /// Rounds what was decided on, as far as that needs the layers' inputs. Files go to `folder`, without names.
    pub(super) fn round(&self, folder: &Path, decision: &Decision) -> Result<Rounded> {
        let Some(texts) = &self.texts else {
            return Ok(match self.technique {
                Technique::Search => Rounded::Searched(BTreeMap::new()),
                _ => Rounded::Nearest,
            });
        };
        let bar = self.console.steps_bar("rounding", 1);
        let progress = |done: usize, total: usize| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        };
        let settings = |extent| MomentSettings {
            sequences: &texts.sequences,
            extent,
            memory: self.calibration.memory,
            progress: &progress,
        };
        let rounded = match self.technique {
            Technique::Rtn => Rounded::Nearest,
            Technique::Search => self.importance(&settings(Extent::Diagonal), decision)?,
            Technique::Gptq => self.feedback(&settings(Extent::Full), folder, decision)?,
        };
        bar.finish_and_clear();
        Ok(rounded)
    }

    fn importance(&self, settings: &MomentSettings<'_>, decision: &Decision) -> Result<Rounded> {
        let mut importance = BTreeMap::new();
        input_moments(&Engine::start()?, self.source, settings, |block, moments| {
            for (spec, path, _) in self.chosen(block, decision) {
                if let Some(values) = moments.get(&input_of(spec.role)) {
                    importance.insert(path.to_owned(), values.clone());
                }
            }
            Ok(Replacements::new())
        })?;
        Ok(Rounded::Searched(importance))
    }

    fn feedback(&self, settings: &MomentSettings<'_>, folder: &Path, decision: &Decision) -> Result<Rounded> {
        let mut spool = Spool::create(folder)?;
        let dtype = float_type(self.dtype)?;
        input_moments(&Engine::start()?, self.source, settings, |block, moments| {
            let mut replaced = Replacements::new();
            for (input, moments) in moments {
                let members =
                    || self.chosen(block, decision).filter(|(spec, ..)| input_of(spec.role) == *input);
                let mut factored = None;
                for (spec, path, quant) in members() {
                    crate::interrupt::check()?;
                    let tensor = SourceTensor { name: &spec.name, tensor: self.source.tensor(&spec.name)? };
                    let weights = self.weights(&tensor, dtype);
                    let failed = |e| unroundable(&tensor, &e);
                    let hessian = match &mut factored {
                        Some(hessian) => hessian,
                        none => none.insert(Hessian::new(moments, spec.shape[1], DAMPING).map_err(failed)?),
                    };
                    let found = rounding::gptq(&weights, quant, dtype, hessian).map_err(failed)?;
                    spool.add(path, &found.quantized)?;
                    if self.calibration.sequential && block.is_some() {
                        let mut decoded = weights;
                        affine::dequantize(found.quantized.as_slices(), quant, dtype, &mut decoded)
                            .map_err(|e| failed(e.into()))?;
                        replaced.push((spec.role, decoded));
                    }
                }
            }
            Ok(replaced)
        })?;
        Ok(Rounded::Ready(spool.seal()?))
    }

    /// Weights as float32 after the cast to the dtype of scales.
    pub(super) fn weights(&self, tensor: &SourceTensor<'_>, dtype: FloatType) -> Vec<f32> {
        let mut bytes = Vec::new();
        cast(tensor.tensor.dtype, tensor.tensor.bytes(), self.dtype, &mut bytes);
        tensor.tensor.release(0, tensor.tensor.bytes().len());
        let mut weights = vec![0.0; tensor.tensor.len()];
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
