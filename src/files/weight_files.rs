//! Which of a model's files hold its weights: those that its index names, or those that are called as weights are.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::json;
use super::model_files::ModelFiles;
use crate::error::{Error, ErrorKind, Result};
use crate::words::count;

/// The file that says which shard each tensor is in.
pub const INDEX: &str = "model.safetensors.index.json";

const NPZ: &str = "weights.npz";

/// Tensors' names to the files that an index says they are in.
pub(crate) type WeightMap = BTreeMap<String, String>;

pub(crate) fn read_index(files: &ModelFiles) -> Result<WeightMap> {
    let index = &files.path_of(INDEX);
    let value = json::parse(index, &files.read(INDEX)?)?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::key(index, "weight_map", "expected an object of tensor names"))?;
    map.iter()
        .map(|(name, file)| match file.as_str() {
            Some(file) => Ok((name.clone(), file.to_owned())),
            None => Err(Error::key(index, format!("weight_map.{name}"), "expected a file name")),
        })
        .collect()
}

/// The weights among the files of a model on the Hub, called `names`: those that its index, read from `files`, names; where all of
/// these are missing or it cannot be read, those that are called as weights are. `place` is for messages.
///
/// # Errors
/// Where there are no weights, or some of the shards that the index names and not all.
pub fn weight_files(place: &Path, files: &ModelFiles, names: &[String]) -> Result<Vec<String>> {
    let listed: BTreeSet<String> = match names.iter().any(|name| name == INDEX).then(|| read_index(files)) {
        Some(Ok(index)) => index.into_values().collect(),
        Some(Err(error)) if what_is_broken(&error).is_none() => return Err(error),
        _ => BTreeSet::new(),
    };
    let (there, missing): (Vec<String>, Vec<String>) =
        listed.into_iter().partition(|name| names.contains(name));
    let incomplete = |shard: &String| {
        Error::file(place, format!("its index names `{shard}`, which is not there"))
            .hint("the model is incomplete on the Hub: tell its author")
    };
    match missing.first() {
        None if !there.is_empty() => return Ok(there),
        Some(shard) if !there.is_empty() => return Err(incomplete(shard)),
        _ => {}
    }
    let top: Vec<String> = names.iter().filter(|name| !name.contains('/')).cloned().collect();
    choose_weights(place, &top).map_err(|error| match missing.first() {
        Some(shard) if !top.iter().any(|name| is_safetensors(name)) => incomplete(shard),
        _ => error,
    })
}

pub(crate) fn is_safetensors(name: &str) -> bool {
    // macOS puts `._model.safetensors` beside files on disks that have no place for their attributes.
    name.ends_with(".safetensors") && !name.starts_with('.')
}

/// The weights among a model's files, called `names`, where there is no index. `dir` is for messages.
pub(crate) fn choose_weights(dir: &Path, names: &[String]) -> Result<Vec<String>> {
    let any: Vec<String> = names.iter().filter(|name| is_safetensors(name)).cloned().collect();
    let models: Vec<String> = any.iter().filter(|name| name.starts_with("model")).cloned().collect();
    if !models.is_empty() {
        check_numbering(dir, &models)?;
        return Ok(models);
    }
    match any.len() {
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
    let error =
        Error::file(dir, "no weights: expected model.safetensors, shards with an index, or weights.npz");
    let named = |prefix: &str, extension: &str| {
        names.iter().any(|name| name.starts_with(prefix) && name.ends_with(extension))
    };
    Err(if named("pytorch_model", ".bin") || named("", ".pth") {
        error.hint(
            "only a pickle checkpoint (pytorch_model.bin) is there, and pickles can run code: \
             use the model's safetensors revision, or save it again with transformers' save_pretrained",
        )
    } else {
        error.hint("download the checkpoint's *.safetensors files")
    })
}

/// Shards called `model-00001-of-00003` must be all there.
fn check_numbering(dir: &Path, files: &[String]) -> Result<()> {
    let promised = |name: &String| -> Option<(String, String)> {
        let (numbered, total) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (stem, number) = numbered.rsplit_once('-')?;
        (number.len() == total.len()).then(|| (stem.to_owned(), total.to_owned()))
    };
    let mut sets: BTreeMap<(String, String), usize> = BTreeMap::new();
    for set in files.iter().filter_map(promised) {
        *sets.entry(set).or_default() += 1;
    }
    for ((stem, total), there) in sets {
        let Ok(expected) = total.parse::<usize>() else { continue };
        let width = total.len();
        let name = |number: usize| format!("{stem}-{number:0width$}-of-{total}.safetensors");
        if let Some(missing) = (1..=expected).map(name).find(|name| !files.contains(name)) {
            let message = format!("the shards' names promise {}, {there} are there", count(expected, "file"));
            return Err(
                Error::file(dir, message).hint(format!("the download is incomplete: fetch `{missing}`"))
            );
        }
    }
    Ok(())
}

/// The fault in an index, where its contents are the reason that reading it failed.
pub(crate) fn what_is_broken(error: &Error) -> Option<String> {
    match error.kind() {
        ErrorKind::Io { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => {
            Some("it is no UTF-8 text".to_owned())
        }
        ErrorKind::File { message, .. } => Some(message.clone()),
        ErrorKind::Key { key, message, .. } => Some(format!("key `{key}`: {message}")),
        _ => None,
    }
}
