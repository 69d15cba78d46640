//! A rounded model in a folder beside the output, before it is published.

use super::round::Rounded;
use crate::files::output_folder::OutputFolder;
use crate::formats::writer::Produce;
use crate::jobs::quantize::tuning::{TunedTensor, TunedValues};
use crate::jobs::record::GptqStats;
use crate::jobs::write::{CastTensor, CopyTensor, QuantizeTensor, Warnings};
use crate::models::bitmap::BitMap;
use crate::models::source::{SourceModel, SourceTensor};
use crate::numerics::dtype::Dtype;

/// A rounded model in a folder of its own beside the output, which is removed when it is dropped.
pub struct StagedModel {
    /// Folder of the model.
    pub folder: OutputFolder,
    /// Rows and experts that error feedback did not help, where it was used.
    pub gptq_stats: Option<GptqStats>,
}

/// Returns producers of all tensors: quantizes the float layers that `bitmap` lists, copies layers that are quantized
/// already, and casts the rest.
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
                _ => Box::new(CastTensor::new(tensor, source.written_dtype(tensor.name, dtype), warnings)),
            }
        })
        .collect()
}

/// Returns producers of a staged model's tensors, with the values that `tuned` has where it has some.
pub(crate) fn tuned_producers<'a>(
    student: &'a SourceModel,
    tuned: impl Fn(&str) -> Option<TunedValues<'a>>,
    warnings: &'a Warnings,
) -> Vec<Box<dyn Produce + 'a>> {
    let producer = |tensor: SourceTensor<'a>| match tuned(tensor.name) {
        Some(values) => Box::new(TunedTensor::new(tensor.name, &tensor.tensor, values)) as Box<dyn Produce>,
        None => Box::new(CopyTensor::new(tensor, warnings)),
    };
    student.tensors().map(producer).collect()
}
