//! `mixbit convert`: a checkpoint in, an MLX folder of float weights out.

use crate::cli::args::Convert;
use crate::cli::commands::opening::open_to_write;
use crate::error::Result;
use crate::files::output_folder::OutputFolder;
use crate::formats::writer::Produce;
use crate::jobs::write::{CastTensor, CopyTensor, Warnings, companions, write};
use crate::models::bitmap::BitMap;
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;
use crate::report::Console;
use crate::words::bytes;

/// Runs the command.
pub fn run(args: &Convert, console: &Console) -> Result<()> {
    let output = &args.output;
    let container = output.container()?;
    let source = open_to_write(&args.hf_path, output, console, |_| Ok(()))?;
    let dtype = match args.dtype {
        Some(dtype) => dtype.into(),
        None => source.dtype()?,
    };
    let warnings = Warnings::default();
    let producers = producers(&source, dtype, &warnings);
    let folder = OutputFolder::create(&output.mlx_path, output.overwrite)?;
    let shards =
        write(&folder, &producers, container, source.manifest().parameters(), console, "converting")?;
    let how = format!("Weights: {dtype}, {}.", bytes(shards.total_bytes));
    companions::write_companions(&folder, &source, dtype, source.bitmap(), &how)?;
    folder.publish()?;
    console.warnings(&warnings.messages());
    console.done(&format!(
        "{} parameters as {dtype}{}, {} in {}",
        source.manifest().parameters(),
        if source.bitmap().is_empty() { "" } else { " (quantized layers stay as they are)" },
        bytes(shards.total_bytes),
        output.mlx_path.display()
    ));
    Ok(())
}

/// A cast for every float tensor; layers that are quantized already pass through.
fn producers<'a>(
    source: &'a SourceModel,
    dtype: Dtype,
    warnings: &'a Warnings,
) -> Vec<Box<dyn Produce + 'a>> {
    let bitmap: &BitMap = source.bitmap();
    source
        .tensors()
        .map(|source| {
            let layer = source.name.rsplit_once('.').map_or(source.name, |(layer, _)| layer);
            if bitmap.contains_key(layer) && !source.name.ends_with(".bias") {
                Box::new(CopyTensor::new(source, warnings)) as Box<dyn Produce>
            } else {
                Box::new(CastTensor::new(source, dtype, warnings))
            }
        })
        .collect()
}
