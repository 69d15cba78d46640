//! Conversion of a checkpoint to an MLX folder of float weights.

use crate::error::Result;
use crate::files::output_folder::OutputFolder;
use crate::formats::writer::Produce;
use crate::jobs::write::{
    CastTensor, CopyTensor, Output, TowerFate, Warnings, Written, companions, with_wrapper, write,
};
use crate::models::bitmap::BitMap;
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;
use crate::progress::Progress;
use crate::words::bytes;

/// Writes `source` to `output` with all float tensors as `dtype`. Quantized layers are copied. Values that are NaN or
/// infinite are written too, with a warning per tensor: they are what the checkpoint says.
///
/// # Errors
/// When the output is taken or part of `source`, there is no tokenizer, a value is beyond the range of `dtype`, the disk is
/// full, or the work is interrupted.
pub fn convert(
    source: &SourceModel,
    dtype: Dtype,
    output: &Output,
    progress: &dyn Progress,
) -> Result<Written> {
    progress.notes(&companions::check_tokenizer(source)?);
    let claim = output.claim(source.dir(), progress)?;
    let warnings = Warnings::default();
    let producers = with_wrapper(source, producers(source, dtype, &warnings), output.towers, &warnings);
    let folder = OutputFolder::create(&output.path, output.existing())?;
    let parameters = source.manifest().parameters();
    let shards = write(&folder, &producers, output.container, parameters, progress, "converting")?;
    let how = format!("Weights: {dtype}, {}.", bytes(shards.total_bytes));
    companions::write_companions(&folder, source, dtype, source.bitmap(), &how)?;
    if output.towers == TowerFate::Written {
        companions::write_processors(&folder, source)?;
    }
    folder.publish()?;
    drop(claim);
    Ok(Written { bytes: shards.total_bytes, warnings: warnings.messages() })
}

/// Casts every float tensor and copies quantized layers.
fn producers<'a>(
    source: &'a SourceModel,
    dtype: Dtype,
    warnings: &'a Warnings,
) -> Vec<Box<dyn Produce + 'a>> {
    let bitmap: &BitMap = source.bitmap();
    source
        .tensors()
        .map(|tensor| {
            let layer = tensor.name.rsplit_once('.').map_or(tensor.name, |(layer, _)| layer);
            if bitmap.contains_key(layer) && !tensor.name.ends_with(".bias") {
                Box::new(CopyTensor::new(tensor, warnings)) as Box<dyn Produce>
            } else {
                Box::new(CastTensor::new(tensor, source.written_dtype(tensor.name, dtype), warnings))
            }
        })
        .collect()
}
