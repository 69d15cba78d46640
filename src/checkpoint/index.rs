//! The choice of a model's weight files: those that `model.safetensors.index.json` names, where it is of these files,
//! and otherwise those that are called as weights are.
//!
//! Quantized copies on the Hub often carry the index of the float model, so an index that does not agree with the files
//! does not count, and the files' own headers do. It still says which tensors there must be: [`Checkpoint::absent`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::open::{Checkpoint, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::json;
use crate::model_files::{ModelFiles, safe_name};
use crate::plural::count;

/// The file that says which shard each tensor is in.
pub const INDEX: &str = "model.safetensors.index.json";
const NPZ: &str = "weights.npz";

/// Tensors' names to the files that an index says they are in.
type WeightMap = BTreeMap<String, String>;

/// The tensors of a weight file that was opened.
type Contents = (String, Vec<(String, Entry)>);

/// A tensor that an index lists and that is in none of the files.
#[derive(Debug)]
pub(super) struct Absent {
    tensor: String,
    shard: String,
    shard_is_there: bool,
}

impl Checkpoint {
    /// Opens the weights among `files`.
    ///
    /// # Errors
    /// As [`Checkpoint::whatever_is_there`], and where a tensor that the index lists is in none of the files.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        let (checkpoint, mut wrong) = Self::whatever_is_there(files)?;
        wrong.extend(checkpoint.absent(|_| false));
        wrong.into_iter().next().map_or(Ok(checkpoint), Err)
    }

    /// The weights among `files`, and what is wrong with their index beside the tensors that are [`Checkpoint::absent`].
    ///
    /// # Errors
    /// Where there is no weight file, or one that is no weight file, or a tensor is in two and no index says which counts.
    pub fn whatever_is_there(files: &ModelFiles) -> Result<(Self, Vec<Error>)> {
        let mut checkpoint = Self::empty(files.path());
        let mut wrong = Vec::new();
        if files.has(INDEX) {
            match read_index(files) {
                Ok(index) => {
                    checkpoint.add_indexed(files, &index, &mut wrong)?;
                    return Ok((checkpoint, wrong));
                }
                Err(error) => match what_is_broken(&error) {
                    Some(why) => checkpoint.notes.push(format!(
                        "{INDEX} cannot be read ({why}): the tensors are taken from the weight files without it"
                    )),
                    None => return Err(error),
                },
            }
        }
        let names = choose_weights(files.path(), &files.names()?)?;
        let contents = checkpoint.open_all(files, names.iter().map(String::as_str))?;
        checkpoint.take(contents)?;
        Ok((checkpoint, wrong))
    }

    /// An error for each shard that is not there, and for each tensor that is not in a shard that is, of those tensors that
    /// the index lists, that are in none of the files and that are not `accounted_for`.
    pub fn absent(&self, accounted_for: impl Fn(&str) -> bool) -> Vec<Error> {
        let index = self.path().join(INDEX);
        let (mut shards, mut tensors) = (BTreeSet::new(), Vec::new());
        for Absent { tensor, shard, shard_is_there } in &self.absent {
            if accounted_for(tensor) {
                continue;
            }
            if *shard_is_there {
                let message = format!("is said to be in `{shard}`, and is in none of the weight files");
                tensors.push(Error::tensor(&index, tensor, message));
            } else {
                shards.insert(shard);
            }
        }
        let missing = |shard| {
            Error::file(&index, format!("names the shard `{shard}`, which is not there"))
                .hint("the download is incomplete: fetch the missing shard")
        };
        shards.into_iter().map(missing).chain(tensors).collect()
    }

    /// The tensors of the shards that `index` names, as it has them, or, where it is of other files, of all weight files.
    fn add_indexed(&mut self, files: &ModelFiles, index: &WeightMap, wrong: &mut Vec<Error>) -> Result<()> {
        let shards: BTreeSet<&str> = index.values().map(String::as_str).collect();
        let outside = |shard: &&str| !safe_name(shard);
        for shard in shards.iter().copied().filter(outside) {
            let tensor =
                index.iter().find(|(_, file)| *file == shard).map_or("", |(tensor, _)| tensor.as_str());
            let message = format!("lies outside the folder, in `{shard}`");
            wrong.push(
                Error::tensor(files.path_of(INDEX), tensor, message)
                    .hint("an index may only name files beside it"),
            );
        }
        let (there, missing): (Vec<&str>, Vec<&str>) =
            shards.into_iter().filter(|shard| safe_name(shard)).partition(|shard| files.has(shard));
        let mut contents = self.open_all(files, there.iter().copied())?;
        let why = match missing.first() {
            Some(shard) => Some(format!("it names `{shard}`, which is not there")),
            None => misplaced(index, &contents),
        };
        let Some(why) = why else { return self.take_indexed(index, contents) };
        let names = files.names()?;
        match choose_weights(files.path(), &names) {
            Ok(chosen) => {
                let further = chosen.iter().map(String::as_str).filter(|name| !there.contains(name));
                contents.extend(self.open_all(files, further)?);
            }
            // Without any weights it is the index that says what is missing.
            Err(error) if there.is_empty() && names.iter().any(|name| is_safetensors(name)) => {
                return Err(error);
            }
            Err(_) => {}
        }
        self.take(contents)?;
        let absent =
            index.iter().filter(|(tensor, shard)| safe_name(shard) && !self.entries.contains_key(*tensor));
        self.absent = absent
            .map(|(tensor, shard)| Absent {
                tensor: tensor.clone(),
                shard: shard.clone(),
                shard_is_there: there.contains(&shard.as_str()),
            })
            .collect();
        self.notes.push(format!(
            "{INDEX} does not belong to these weights ({why}): the tensors are taken from the weight files without it"
        ));
        Ok(())
    }

    /// Opens the files called `names`.
    fn open_all<'a>(
        &mut self,
        files: &ModelFiles,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<Contents>> {
        names.map(|name| Ok((name.to_owned(), self.open_file(files, name)?))).collect()
    }

    /// Takes the tensors where `index`, which is right about all that it lists, says that they are: of a tensor that is in
    /// another shard too, that one is left out.
    fn take_indexed(&mut self, index: &WeightMap, mut contents: Vec<Contents>) -> Result<()> {
        let mut stale = Vec::new();
        let mut unlisted = Vec::new();
        for (file, tensors) in &mut contents {
            tensors.retain(|(name, _)| match index.get(name) {
                Some(shard) if shard != file => {
                    stale.push(name.clone());
                    false
                }
                Some(_) => true,
                None => {
                    unlisted.push(name.clone());
                    true
                }
            });
        }
        if let Some(subject) = subject(&stale) {
            self.notes
                .push(format!("{subject} in several weight files: the place that {INDEX} names counts"));
        }
        if let Some(subject) = subject(&unlisted) {
            self.notes.push(format!("{subject} in the weight files and not in {INDEX}: taken all the same"));
        }
        self.take(contents)
    }

    /// Takes all of the tensors, each of which must be there once.
    fn take(&mut self, contents: Vec<Contents>) -> Result<()> {
        for (name, entry) in contents.into_iter().flat_map(|(_, tensors)| tensors) {
            self.insert(name, entry)?;
        }
        Ok(())
    }
}

/// The beginning of a sentence about where `tensors` are, if there are any.
fn subject(tensors: &[String]) -> Option<String> {
    let first = tensors.first()?;
    Some(match tensors.len() - 1 {
        0 => format!("`{first}` is"),
        more => format!("`{first}` and {} are", count(more, "more tensor")),
    })
}

/// Where a tensor is not in the shard that `index` names, though that was opened.
fn misplaced(index: &WeightMap, contents: &[Contents]) -> Option<String> {
    let names = |(file, tensors): &'_ Contents| -> (String, BTreeSet<String>) {
        (file.clone(), tensors.iter().map(|(name, _)| name.clone()).collect())
    };
    let shards: BTreeMap<String, BTreeSet<String>> = contents.iter().map(names).collect();
    let is_there =
        |(tensor, shard): &(&String, &String)| shards.get(*shard).is_none_or(|names| names.contains(*tensor));
    let (tensor, shard) = index.iter().find(|entry| !is_there(entry))?;
    Some(format!("it lists `{tensor}` in `{shard}`, which does not hold it"))
}

/// The fault in an index, where its contents are the reason that reading it failed.
fn what_is_broken(error: &Error) -> Option<String> {
    match error.kind() {
        ErrorKind::Io { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => {
            Some("it is no UTF-8 text".to_owned())
        }
        ErrorKind::File { message, .. } => Some(message.clone()),
        ErrorKind::Key { key, message, .. } => Some(format!("key `{key}`: {message}")),
        _ => None,
    }
}

fn read_index(files: &ModelFiles) -> Result<WeightMap> {
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

fn is_safetensors(name: &str) -> bool {
    // macOS puts `._model.safetensors` beside files on disks that have no place for their attributes.
    name.ends_with(".safetensors") && !name.starts_with('.')
}

/// The weights among a model's files, called `names`, where there is no index. `dir` is for messages.
fn choose_weights(dir: &Path, names: &[String]) -> Result<Vec<String>> {
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
