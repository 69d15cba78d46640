//! A model in its output folder, before it is published.

use super::round::Rounded;
use crate::files::output_folder::OutputFolder;
use crate::formats::writer::Produce;
use crate::jobs::record::GptqStats;
use crate::jobs::write::{CastTensor, CopyTensor, QuantizeTensor, Warnings};
use crate::models::bitmap::BitMap;
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;

/// What was decided on, rounded, in a folder of its own beside the output, gone when it is dropped.
pub struct Staged {
    /// Where it is written meanwhile.
    pub folder: OutputFolder,
    /// How error feedback did.
    pub feedback: Option<GptqStats>,
}

/// Quantizes what `bitmap` lists and is float yet, copies what is quantized already, casts the rest.
pub(crate) fn producers<'a>(
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
