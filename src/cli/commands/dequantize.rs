//! `mixbit dequantize`: a model with quantized layers in, an MLX folder of float weights out.

use super::settings;
use crate::cli::args::Dequantize;
use crate::cli::commands::opening::open_to_write;
use crate::error::Result;
use crate::jobs::dequantize::{check_has_quantized_layers, dequantize, quantized_layers};
use crate::jobs::opening::Quantized;
use crate::jobs::write::Output;
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;
use crate::report::Console;
use crate::words::{bytes, count};

/// Runs the command.
pub fn run(args: &Dequantize, console: &Console) -> Result<()> {
    let output = settings::output(&args.output)?;
    let source =
        open_to_write(&args.hf_path, &output, Quantized::Decoded, console, check_has_quantized_layers)?;
    let dtype = match args.dtype {
        Some(dtype) => dtype.into(),
        None => settings::own_dtype(&source, console)?,
    };
    write(&source, dtype, &output, console)
}

/// Writes `source`, which has quantized layers, as floats.
pub fn write(source: &SourceModel, dtype: Dtype, output: &Output, console: &Console) -> Result<()> {
    let layers = count(quantized_layers(source), "layer");
    let written = dequantize(source, dtype, output, console)?;
    console.warnings(&written.warnings);
    console.done(&format!("{layers} back to {dtype}, {} in {}", bytes(written.bytes), output.path.display()));
    Ok(())
}
