//! `mixbit logits`: float32 logits of a token sequence in an .npz.

use crate::cli::args::{FloatDtype, Logits};
use crate::engine::decoder::model::Model;
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::files::output_file;
use crate::files::output_file::Existing;
use crate::formats::npz::NpzWriter;
use crate::jobs::opening::{Need, open_after};
use crate::numerics::dtype::Dtype;
use crate::report::Console;
use crate::text::sampling::are_numbers;
use crate::text::tokenizer::Tokenizer;

/// Runs the command.
pub fn run(args: &Logits, console: &Console) -> Result<()> {
    if args.out.extension().is_none_or(|e| e != "npz") {
        return Err(Error::usage(format!("--out {} must end in .npz", args.out.display())));
    }
    let source = open_after(&args.model, Need::Weights, |_| {
        output_file::check(&args.out, Existing::replaced_if(args.overwrite))?;
        output_file::refuse_inputs(&args.out, &[&args.model])
    })?;
    let tokens = match &args.prompt {
        Some(text) => Tokenizer::from_files(source.files())?.encode(text, true)?,
        None => args.tokens.clone(),
    };
    console.notes(&source.spec().notes);
    let engine = Engine::start()?;
    let model = Model::load(&engine, &source, args.dtype.map(Into::into))?;
    let logits = model.logits(&tokens, args.step.map(|step| step as usize))?;
    let shape = [tokens.len(), model.spec().vocab_size];
    if let Some(bad) = logits.chunks(shape[1]).position(|logits| !are_numbers(logits)) {
        let message = format!("its logits are not numbers, first at token {} of {}", bad + 1, tokens.len());
        let narrow = matches!(args.dtype, Some(FloatDtype::Float16 | FloatDtype::Bfloat16));
        return Err(Error::file(source.dir(), message).hint(if narrow {
            "`mixbit check` names weights that are NaN or infinite; without any, --dtype float32 may help"
        } else {
            "`mixbit check` names weights that are NaN or infinite"
        }));
    }
    let ids: Vec<u8> = tokens.iter().flat_map(|t| t.cast_signed().to_le_bytes()).collect();
    let (_folders, temporary) =
        output_file::in_new_folders(&args.out, || output_file::new_beside(&args.out))?;
    let write = || -> Result<()> {
        let mut npz = NpzWriter::create(temporary.path())?;
        npz.add("logits", Dtype::F32, &shape, bytemuck::cast_slice(&logits))?;
        npz.add("tokens", Dtype::I32, &[tokens.len()], &ids)?;
        npz.finish()
    };
    write().map_err(|error| error.relocated(temporary.path(), &args.out))?;
    temporary.persist(&args.out).map_err(|e| Error::io(&args.out, e.error))?;
    console.done(&format!("logits {shape:?} in {}", args.out.display()));
    Ok(())
}
