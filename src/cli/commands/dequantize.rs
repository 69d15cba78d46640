//! `mixbit dequantize`: a model with quantized layers in, an MLX folder of float weights out.

use crate::cli::args::Dequantize;
use crate::cli::commands::opening::open_to_write;
use crate::error::{Error, Result};
use crate::files::output_folder::OutputFolder;
use crate::formats::writer::Produce;
use crate::jobs::write::{CastTensor, DequantizeTensor, Warnings, companions, write};
use crate::models::bitmap::BitMap;
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;
use crate::report::Console;
use crate::words::{bytes, count};

/// Runs the command.
pub fn run(args: &Dequantize, console: &Console) -> Result<()> {
    let output = &args.output;
    let container = output.container()?;
    let source = open_to_write(&args.hf_path, output, console, |source| {
        if source.bitmap().is_empty() {
            return Err(Error::file(source.dir(), "no layer is quantized: there is nothing to turn back")
                .hint("`mixbit convert` changes element type and container of a float model"));
        }
        Ok(())
    })?;
    let layers = count(source.bitmap().len(), "layer");
    let dtype = match args.dtype {
        Some(dtype) => dtype.into(),
        None => source.dtype()?,
    };
    let warnings = Warnings::default();
    let producers = producers(&source, dtype, &warnings)?;
    let folder = OutputFolder::create(&output.mlx_path, output.overwrite)?;
    let parameters = source.manifest().parameters();
    let shards = write(&folder, &producers, container, parameters, console, "dequantizing")?;
    let size = bytes(shards.total_bytes);
    let how = format!("Weights: {dtype}, {size}, of which {layers} had been quantized.");
    companions::write_companions(&folder, &source, dtype, &BitMap::new(), &how)?;
    folder.publish()?;
    console.warnings(&warnings.messages());
    console.done(&format!("{layers} back to {dtype}, {size} in {}", output.mlx_path.display()));
    Ok(())
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
            _ => producers.push(Box::new(CastTensor::new(tensor, dtype, warnings))),
        }
    }
    Ok(producers)
}
