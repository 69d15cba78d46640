//! The Hub's cache on disk: what a path in it tells about the model.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// Returns the Hub's name of the model whose folder in a cache `path` is, or lies in.
pub fn name_in_cache(path: &Path) -> Option<String> {
    let cached = path.iter().filter_map(|part| part.to_str()?.strip_prefix("models--")).next_back()?;
    let (organisation, name) = cached.split_once("--")?;
    Some(format!("{organisation}/{name}"))
}

/// Returns the contents that `path`, a file in a snapshot of a cache, links to.
pub fn blob_in_cache(path: &Path) -> Option<PathBuf> {
    let whole = fs::canonicalize(path).ok().filter(|whole| whole.is_file() && path.is_symlink())?;
    let folder = whole.parent()?;
    let is_cache = folder.file_name()? == "blobs" && name_in_cache(folder).is_some();
    is_cache.then_some(whole)
}

/// Returns the hint of an error. For a file in the Hub's cache it also says how to make the file be downloaded again.
pub fn hint_in_cache(error: &Error) -> Option<String> {
    let hint = error.hint_text().map(str::to_owned);
    let (ErrorKind::Io { path, .. } | ErrorKind::File { path, .. } | ErrorKind::Tensor { path, .. }) =
        error.kind()
    else {
        return hint;
    };
    let Some(blob) = blob_in_cache(path) else { return hint };
    let again = format!(
        "the file is in the Hub's cache: if it is damaged there, delete {}, and the next run fetches it again",
        blob.display()
    );
    Some(hint.map_or(again.clone(), |hint| format!("{hint}; {again}")))
}
