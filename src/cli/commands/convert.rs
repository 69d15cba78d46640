//! `mixbit convert`: a checkpoint in, an MLX folder of float weights out.

use super::settings;
use crate::cli::args::Convert;
use crate::cli::commands::opening::open_to_write;
use crate::error::Result;
use crate::jobs::convert::convert;
use crate::jobs::opening::Quantized;
use crate::report::Console;
use crate::words::bytes;

/// Runs the command.
pub fn run(args: &Convert, console: &Console) -> Result<()> {
    let output = settings::output(&args.output)?;
    let source = open_to_write(&args.hf_path, &output, Quantized::Kept, console, |_| Ok(()))?;
    let dtype = match args.dtype {
        Some(dtype) => dtype.into(),
        None => settings::own_dtype(&source, console)?,
    };
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
