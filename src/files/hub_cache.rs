//! The Hub's cache on disk: what a path in it tells about the model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::error::{Error, ErrorKind};

/// Returns the Hub's name of the model whose folder in a cache `path` is, or lies in.
pub fn name_in_cache(path: &Path) -> Option<String> {
    let cached = path.iter().filter_map(|part| part.to_str()?.strip_prefix("models--")).next_back()?;
    let (organisation, name) = cached.split_once("--")?;
    Some(format!("{organisation}/{name}"))
}

/// Returns the paths in a snapshot of all files in it and in its folders that are not hidden, with their bytes.
pub(crate) fn files_in_snapshot(snapshot: &Path) -> io::Result<BTreeMap<String, Option<u64>>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(snapshot.join(&folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let path = format!("{folder}{name}");
            if entry.file_type()?.is_dir() {
                folders.push(path + "/");
            } else if let Ok(contents) = fs::metadata(entry.path()) {
                files.insert(path, Some(contents.len()));
            }
        }
    }
    Ok(files)
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
