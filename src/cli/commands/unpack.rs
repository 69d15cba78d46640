//! `mixbit unpack`: a pack in, its folder out, or some of its files. No file is kept whose SHA-256 is wrong.

use indicatif::ProgressBar;
use std::fs::{self, File};
use std::io::{self, Write};

use crate::cli::args::Unpack;
use crate::error::{Error, ErrorKind, Result};
use crate::files::output_file;
use crate::files::output_file::Existing;
use crate::files::output_folder::{OutputFolder, check_destination, claim_folder};
use crate::files::pack::{Pack, PackedFile};
use crate::report::Console;
use crate::words::bytes;

/// Runs the command.
pub fn run(args: &Unpack, console: &Console) -> Result<()> {
    if args.pack.is_dir() {
        return Err(Error::file(&args.pack, "is a folder, not a pack")
            .hint("give a file that `mixbit pack` wrote; `mixbit pack` makes one of a folder"));
    }
    let pack = Pack::open(&args.pack)?;
    let files = if args.file.is_empty() { pack.files().iter().collect() } else { named_files(args, &pack)? };
    let total = files.iter().map(|file| file.data.len() as u64).sum();
    let bar = console.bytes_bar("unpacking", total);
    if args.file.is_empty() {
        unpack_folder(args, &pack, &bar, console)?;
    } else {
        unpack_files(args, &pack, &files, &bar)?;
    }
    bar.finish_and_clear();
    let noun = if files.len() == 1 { "file" } else { "files" };
    console.done(&format!("{} {noun}, {} in {}", files.len(), bytes(total), args.out.display()));
    Ok(())
}

/// Returns the files that `--file` names.
fn named_files<'a>(args: &Unpack, pack: &'a Pack) -> Result<Vec<&'a PackedFile>> {
    let find = |name: &String| {
        pack.get(name).ok_or_else(|| {
            let names: Vec<&str> = pack.files().iter().map(|file| file.name.as_str()).collect();
            Error::file(&args.pack, format!("has no file `{name}`"))
                .hint(format!("it has {}", names.join(", ")))
        })
    };
    args.file.iter().map(find).collect()
}

/// Unpacks all files to a folder, which appears when it is complete.
fn unpack_folder(args: &Unpack, pack: &Pack, bar: &ProgressBar, console: &Console) -> Result<()> {
    check_destination(&args.pack, &args.out, Existing::replaced_if(args.overwrite)).map_err(|error| {
        match error.kind() {
            ErrorKind::Usage(_) => error.hint("choose another folder for --out"),
            _ => error,
        }
    })?;
    let (_claim, notes) = claim_folder(&args.out)?;
    console.notes(&notes);
    let folder = OutputFolder::create(&args.out, Existing::replaced_if(args.overwrite))?;
    for file in pack.files() {
        let path = folder.path().join(&file.name);
        let io = |e| folder.relocate(Error::io(&path, e));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        copy(pack, file, &File::create_new(&path).map_err(io)?, &io, bar)?;
    }
    folder.publish()
}

/// Unpacks `files`, each of which appears when it is complete.
fn unpack_files(args: &Unpack, pack: &Pack, files: &[&PackedFile], bar: &ProgressBar) -> Result<()> {
    let to = |file: &PackedFile| args.out.join(&file.name);
    for file in files {
        output_file::check(&to(file), Existing::replaced_if(args.overwrite))?;
    }
    for file in files {
        let path = to(file);
        output_file::write_with(&path, |out| copy(pack, file, out, &|e| Error::io(&path, e), bar))?;
    }
    Ok(())
}

fn copy(
    pack: &Pack,
    file: &PackedFile,
    mut to: &File,
    failed: &dyn Fn(io::Error) -> Error,
    bar: &ProgressBar,
) -> Result<()> {
    pack.copy(file, |chunk| {
        bar.inc(chunk.len() as u64);
        to.write_all(chunk).map_err(failed)
    })
}
