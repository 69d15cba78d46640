//! Conversion of a model with quantized layers to an MLX folder of float weights.

use crate::error::{Error, Result};
use crate::files::output_folder::OutputFolder;
use crate::formats::writer::Produce;
use crate::jobs::write::{
    CastTensor, DequantizeTensor, Output, TowerFate, Warnings, Written, companions, with_wrapper, write,
};
use crate::models::bitmap::BitMap;
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;
use crate::progress::Progress;
use crate::words::{bytes, count};

/// Fails where `source` has no quantized layer.
pub fn check_has_quantized_layers(source: &SourceModel) -> Result<()> {
    if source.bitmap().is_empty() && source.incoming().next().is_none() {
        return Err(Error::file(source.dir(), "no layer is quantized: there is nothing to turn back")
            .hint("`mixbit convert` changes element type and container of a float model"));
    }
    Ok(())
}

/// Returns the number of layers that are quantized, in any form.
pub fn quantized_layers(source: &SourceModel) -> usize {
    let decoded = source.incoming().filter(|(_, incoming)| incoming.quant.is_none()).count();
    source.bitmap().len() + decoded
}

/// Writes `source` to `output` with all tensors as `dtype`, decoding the quantized layers.
///
/// # Errors
/// When no layer is quantized, the output is taken or part of `source`, there is no tokenizer, the disk is full, or the work is interrupted.
pub fn dequantize(
    source: &SourceModel,
    dtype: Dtype,
    output: &Output,
    progress: &dyn Progress,
) -> Result<Written> {
    check_has_quantized_layers(source)?;
    progress.notes(&companions::check_tokenizer(source)?);
    let claim = output.claim(source.dir(), progress)?;
    let warnings = Warnings::default();
    let producers = with_wrapper(source, producers(source, dtype, &warnings)?, output.towers, &warnings);
    let folder = OutputFolder::create(&output.path, output.existing())?;
    let parameters = source.manifest().parameters();
    let shards = write(&folder, &producers, output.container, parameters, progress, "dequantizing")?;
    let (size, layers) = (bytes(shards.total_bytes), count(quantized_layers(source), "layer"));
    let how = format!("Weights: {dtype}, {size}, of which {layers} had been quantized.");
    companions::write_companions(&folder, source, dtype, &BitMap::new(), &how)?;
    if output.towers == TowerFate::Written {
        companions::write_processors(&folder, source)?;
    }
    folder.publish()?;
    drop(claim);
    Ok(Written { bytes: shards.total_bytes, warnings: warnings.messages() })
}

/// Decodes every quantized layer and casts the rest.
fn producers<'a>(
    source: &'a SourceModel,
    dtype: Dtype,
    warnings: &'a Warnings,
) -> Result<Vec<Box<dyn Produce + 'a>>> {
    let mut producers: Vec<Box<dyn Produce>> = Vec::new();
    for tensor in source.tensors() {
        let (layer, part) = tensor.name.rsplit_once('.').unwrap_or((tensor.name, ""));
        match (source.bitmap().get(layer), part) {
            (Some(&quant), "weight") => {
                producers.push(Box::new(DequantizeTensor::new(source, layer, quant, dtype, warnings)?));
            }
            (Some(_), "scales" | "biases") => {}
            _ => {
                let dtype = source.written_dtype(tensor.name, dtype);
                producers.push(Box::new(CastTensor::new(tensor, dtype, warnings)));
            }
        }
    }
    Ok(producers)
}
