//! Choice of the files that hold a model's weights: those that its index names, or those with names of weight files.

use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::json;
use super::model_files::ModelFiles;
use super::pack::safe_name;
use crate::error::{Error, ErrorKind, Result};
use crate::words::count;

/// Name of the index, which says which shard each tensor is in.
pub const INDEX: &str = "model.safetensors.index.json";

/// Name of the index of PyTorch's shards.
pub(crate) const PICKLE_INDEX: &str = "pytorch_model.bin.index.json";

/// Name of the only weight file of a model in NumPy's format.
pub const NPZ: &str = "weights.npz";

/// Hint where the Hub lacks a file of a model.
pub(crate) const INCOMPLETE: &str = "the model is incomplete on the Hub: tell its author";

/// Names of tensors, with the files that an index says they are in.
pub(crate) type WeightMap = BTreeMap<String, String>;

/// Reads the index called `name`.
pub(crate) fn read_index(files: &ModelFiles, name: &str) -> Result<WeightMap> {
    let index = &files.path_of(name);
    let value = json::parse(index, &files.read(name)?)?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::key(index, "weight_map", "expected an object of tensor names"))?;
    if map.is_empty() {
        return Err(Error::key(index, "weight_map", "names no tensor"));
    }
    map.iter()
        .map(|(name, file)| {
            let wrong = |what: String| Error::key(index, format!("weight_map.{name}"), what);
            match file.as_str() {
                // A name outside of the folder is refused where the file would be opened.
                Some(file) if !safe_name(file) || is_weight_file(file) => Ok((name.clone(), file.to_owned())),
                Some(file) => Err(wrong(format!("expected a weight file, found `{file}`"))),
                None => Err(wrong("expected a file name".to_owned())),
            }
        })
        .collect()
}

/// Returns the weight files of a model on the Hub whose files are called `names`: those that its index, read from
/// `files`, names. Where the index belongs to other weights, files with names of weight files are added. It does if it
/// names a file that is missing, or a tensor that is not in its file, which shows only once that file's header is among
/// `files`. `place` is for messages.
///
/// # Errors
/// Where there are no weights, or a shard that the index names is missing and no other file can have its tensors.
pub fn weight_files(place: &Path, files: &ModelFiles, names: &[String]) -> Result<Vec<String>> {
    let mut index = WeightMap::new();
    if names.iter().any(|name| name == INDEX) {
        match read_index(files, INDEX) {
            Ok(read) => index = read,
            // An index with a fault does not count; any other error is one of reading.
            Err(error) if index_fault(&error).is_none() => return Err(error),
            Err(_) => {}
        }
    }
    let listed: BTreeSet<String> = index.values().cloned().collect();
    let (present, missing): (BTreeSet<String>, BTreeSet<String>) =
        listed.into_iter().partition(|name| names.contains(name));
    if missing.is_empty()
        && !present.is_empty()
        && present.iter().all(|shard| holds_its_tensors(files, shard, &index))
    {
        return Ok(present.into_iter().collect());
    }
    let top: Vec<String> = names.iter().filter(|name| !name.contains('/')).cloned().collect();
    let error = match choose_weights(place, &top) {
        Ok(chosen) => {
            let weights: BTreeSet<String> = present.into_iter().chain(chosen).collect();
            return Ok(weights.into_iter().collect());
        }
        Err(error) => error,
    };
    let Some(shard) = missing.first() else {
        return if present.is_empty() { Err(error) } else { Ok(present.into_iter().collect()) };
    };
    if present.is_empty() && top.iter().any(|name| is_safetensors(name)) {
        return Err(error);
    }
    Err(Error::file(place, format!("its index names `{shard}`, which is not there")).hint(INCOMPLETE))
}

/// True if the file `shard` has every tensor that `index` says is in it, as far as its header can be read yet.
fn holds_its_tensors(files: &ModelFiles, shard: &str, index: &WeightMap) -> bool {
    let Ok(map) = files.map(shard) else { return true };
    let Ok((_, header)) = SafeTensors::read_metadata(&map) else { return true };
    index.iter().filter(|(_, file)| *file == shard).all(|(tensor, _)| header.info(tensor).is_some())
}

pub(crate) fn is_safetensors(name: &str) -> bool {
    // macOS puts `._model.safetensors` beside files on disks that have no place for their attributes.
    name.ends_with(".safetensors") && !name.starts_with('.')
}

/// Returns the weights among a model's files, called `names`, without an index. `dir` is for messages.
pub(crate) fn choose_weights(dir: &Path, names: &[String]) -> Result<Vec<String>> {
    let any: Vec<String> = names.iter().filter(|name| is_safetensors(name)).cloned().collect();
    let models: Vec<String> = any.iter().filter(|name| name.starts_with("model")).cloned().collect();
    if !models.is_empty() {
        check_numbering(dir, &models)?;
        return Ok(models);
    }
    // As transformers does: safetensors of another name, such as an adapter's, are no model.
    let pickles: Vec<String> = names.iter().filter(|name| is_pickle(name)).cloned().collect();
    if !pickles.is_empty() {
        check_numbering(dir, &pickles)?;
        return Ok(pickles);
    }
    match any.len() {
        1 if any[0].starts_with("consolidated.") => {
            return Err(Error::file(dir, format!("only `{}` is there, in Mistral's own format", any[0]))
                .hint(CONSOLIDATED));
        }
        1 => return Ok(any),
        0 => {}
        n => {
            return Err(Error::file(
                dir,
                format!("holds {n} .safetensors files, none called model*.safetensors"),
            ));
        }
    }
    if names.iter().any(|name| name == NPZ) {
        return Ok(vec![NPZ.to_owned()]);
    }
    let expected = "no weights: expected model.safetensors, shards with an index, weights.npz, pytorch_model.bin, or one .gguf";
    let error = Error::file(dir, expected);
    let is_original = |name: &String| name.starts_with("consolidated.") || name.ends_with(".pth");
    Err(if names.iter().any(is_original) {
        error.hint(CONSOLIDATED)
    } else {
        error.hint("download the checkpoint's *.safetensors files")
    })
}

/// Hint for weights under their makers' own names.
const CONSOLIDATED: &str = "consolidated.* and *.pth have the makers' own names of tensors: take the files that transformers reads, model*.safetensors";

fn is_weight_file(name: &str) -> bool {
    is_safetensors(name) || name.ends_with(".npz") || is_pickle(name)
}

/// True for PyTorch's weights under the names that transformers gives them.
pub(crate) fn is_pickle(name: &str) -> bool {
    name.starts_with("pytorch_model") && name.ends_with(".bin")
}

/// Fails unless all shards called like `model-00001-of-00003` exist.
fn check_numbering(dir: &Path, files: &[String]) -> Result<()> {
    let promised = |name: &String| -> Option<(String, String, String)> {
        let (numbered, rest) = name.rsplit_once("-of-")?;
        let (total, extension) = rest.split_once('.')?;
        let (stem, number) = numbered.rsplit_once('-')?;
        (number.len() == total.len() && !extension.contains('.'))
            .then(|| (stem.to_owned(), total.to_owned(), extension.to_owned()))
    };
    let mut sets: BTreeMap<(String, String, String), usize> = BTreeMap::new();
    for set in files.iter().filter_map(promised) {
        *sets.entry(set).or_default() += 1;
    }
    for ((stem, total, extension), present) in sets {
        let Ok(expected) = total.parse::<usize>() else { continue };
        let width = total.len();
        let name = |number: usize| format!("{stem}-{number:0width$}-of-{total}.{extension}");
        if let Some(missing) = (1..=expected).map(name).find(|name| !files.contains(name)) {
            let message =
                format!("the shards' names promise {}, {present} are there", count(expected, "file"));
            return Err(
                Error::file(dir, message).hint(format!("the download is incomplete: fetch `{missing}`"))
            );
        }
    }
    Ok(())
}

/// Returns the fault in an index, where its contents are the reason that reading it failed.
pub(crate) fn index_fault(error: &Error) -> Option<String> {
    match error.kind() {
        ErrorKind::Io { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => {
            Some("it is no UTF-8 text".to_owned())
        }
        ErrorKind::File { message, .. } => Some(message.clone()),
        ErrorKind::Key { key, message, .. } => Some(format!("key `{key}`: {message}")),
        _ => None,
    }
}
