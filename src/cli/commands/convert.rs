//! `mixbit convert`: a checkpoint in, an MLX folder of float weights out.

use super::{dequantize, settings};
use crate::cli::args::Convert;
use crate::cli::commands::opening::open_to_write;
use crate::error::Result;
use crate::jobs::convert::convert;
use crate::jobs::dequantize::quantized_layers;
use crate::jobs::opening::Quantized;
use crate::report::Console;
use crate::words::bytes;

/// Runs the command.
pub fn run(args: &Convert, console: &Console) -> Result<()> {
    let output = settings::output(&args.output)?;
    let quantized = if args.dequantize { Quantized::Decoded } else { Quantized::Kept };
    let source = open_to_write(&args.hf_path, &output, quantized, console, |_| Ok(()))?;
    let dtype = match args.dtype {
        Some(dtype) => dtype.into(),
        None => settings::own_dtype(&source, console)?,
    };
    if args.dequantize && quantized_layers(&source) > 0 {
        return dequantize::write(&source, dtype, &output, console);
    }
    let written = convert(&source, dtype, &output, console)?;
    console.warnings(&written.warnings);
    console.done(&format!(
        "{} parameters as {dtype}{}, {} in {}",
        source.manifest().parameters(),
        if source.bitmap().is_empty() { "" } else { " (quantized layers stay as they are)" },
        bytes(written.bytes),
        output.path.display()
    ));
    Ok(())
}
