//! The choice of a model's weight files: those that its index (of safetensors or of pickles) names, if it belongs to these files,
//! and otherwise those with names of weight files.
//!
//! Quantized copies on the Hub often carry the index of the float model. So an index counts for the tensors that are
//! where it says, and the files' own headers count for the others. The index still says which tensors there must be:
//! [`Checkpoint::absent`].

use std::collections::BTreeSet;

use super::checkpoint::Checkpoint;
use super::entry::Entry;
use super::forms;
use super::gguf;
use crate::error::{Error, Result};
use crate::files::model_files::ModelFiles;
use crate::files::pack::safe_name;
use crate::files::weight_files::{
    INDEX, PICKLE_INDEX, WeightMap, choose_weights, index_fault, is_pickle, is_safetensors, read_index,
};
use crate::words::count;

/// Where an index says that tensors are.
struct Index {
    /// Name of the index.
    file: &'static str,
    /// File of each tensor.
    shards: WeightMap,
}

impl Index {
    /// Returns the error for a `shard` that the index names and that lies outside the folder of `files`.
    fn outside_error(&self, files: &ModelFiles, shard: &str) -> Error {
        let tensor = self.shards.iter().find(|(_, other)| *other == shard);
        let tensor = tensor.map_or("", |(tensor, _)| tensor.as_str());
        Error::tensor(files.path_of(self.file), tensor, format!("lies outside the folder, in `{shard}`"))
            .hint("an index may only name files beside it")
    }
}

/// Name and tensors of an opened weight file.
type Contents = (String, Vec<(String, Entry)>);

/// Tensor that an index lists and that is in none of the files.
#[derive(Debug)]
pub(crate) struct Absent {
    tensor: String,
    shard: String,
    shard_is_there: bool,
    /// Name of the index.
    index: &'static str,
}

impl Checkpoint {
    /// Opens the weights among `files`.
    ///
    /// # Errors
    /// As [`Checkpoint::open_with_faults`], where the index has a fault, and where a tensor that it lists is in none of
    /// the files.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        let (checkpoint, mut faults) = Self::open_with_faults(files)?;
        faults.extend(checkpoint.absent(|_| false));
        faults.into_iter().next().map_or(Ok(checkpoint), Err)
    }

    /// Opens the weights among `files`. Returns them with the faults of their index, but for the tensors that are
    /// [`Checkpoint::absent`].
    ///
    /// # Errors
    /// Where config.json names a form that is not read, or there is no weight file, or a file is not one, or a tensor is in two files and no index says which counts.
    pub fn open_with_faults(files: &ModelFiles) -> Result<(Self, Vec<Error>)> {
        let declared = forms::declared(files)?;
        let (mut checkpoint, faults) = Self::open_stored(files)?;
        forms::take(&mut checkpoint, declared.as_ref(), files)?;
        Ok((checkpoint, faults))
    }

    /// Opens the weights among `files`, in whatever form they are.
    fn open_stored(files: &ModelFiles) -> Result<(Self, Vec<Error>)> {
        let mut checkpoint = Self::empty(files.path());
        let mut faults = Vec::new();
        if let Some(gguf) = files.gguf() {
            gguf::take(&mut checkpoint, gguf)?;
            return Ok((checkpoint, faults));
        }
        if let Some(name) = name_of_index(files)? {
            match read_index(files, name) {
                Ok(index) => {
                    checkpoint.add_indexed(files, &Index { file: name, shards: index }, &mut faults)?;
                    return Ok((checkpoint, faults));
                }
                Err(error) => match index_fault(&error) {
                    Some(why) => checkpoint.notes.push(format!(
                        "{name} cannot be read ({why}): the tensors are taken from the weight files without it"
                    )),
                    None => return Err(error),
                },
            }
        }
        let names = choose_weights(files.path(), &files.names()?)?;
        let contents = checkpoint.open_all(files, names.iter().map(String::as_str))?;
        checkpoint.insert_all(contents)?;
        Ok((checkpoint, faults))
    }

    /// Remembers the tensors that an index lists and that are in none of the files.
    fn note_absent(&mut self, index: &Index, is_there: impl Fn(&str) -> bool) {
        let absent = index
            .shards
            .iter()
            .filter(|(tensor, shard)| safe_name(shard) && !self.entries.contains_key(*tensor));
        self.absent = absent
            .map(|(tensor, shard)| Absent {
                tensor: tensor.clone(),
                shard: shard.clone(),
                shard_is_there: is_there(shard),
                index: index.file,
            })
            .collect();
    }

    /// Returns the errors for tensors that the index lists, that are in none of the files and that are not
    /// `accounted_for`: one for each missing shard, and one for each tensor that is not in an existing shard.
    pub fn absent(&self, accounted_for: impl Fn(&str) -> bool) -> Vec<Error> {
        let Some(first) = self.absent.first() else { return Vec::new() };
        let index = self.path().join(first.index);
        let (mut shards, mut tensors) = (BTreeSet::new(), Vec::new());
        for Absent { tensor, shard, shard_is_there, .. } in &self.absent {
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

    /// Inserts the tensors of the shards that `index` names; tensors that are not where it says are taken from all
    /// weight files.
    fn add_indexed(&mut self, files: &ModelFiles, index: &Index, faults: &mut Vec<Error>) -> Result<()> {
        let shards: BTreeSet<&str> = index.shards.values().map(String::as_str).collect();
        let (inside, outside): (Vec<&str>, Vec<&str>) =
            shards.into_iter().partition(|shard| safe_name(shard));
        faults.extend(outside.into_iter().map(|shard| index.outside_error(files, shard)));
        let (present, missing): (Vec<&str>, Vec<&str>) =
            inside.into_iter().partition(|shard| files.has(shard));
        let mut contents = self.open_all(files, present.iter().copied())?;
        let placed = placed(&index.shards, &contents);
        let why = match missing.first() {
            Some(shard) => Some(format!("it names `{shard}`, which is not there")),
            None => misplaced(&index.shards, &present, &placed),
        };
        let Some(why) = why else {
            self.remove_duplicates(index, &placed, &mut contents);
            self.note_unlisted(index, &contents);
            return self.insert_all(contents);
        };
        contents.extend(self.open_unnamed(files, &present)?);
        let notes = self.notes.len();
        self.remove_duplicates(index, &placed, &mut contents);
        self.insert_all(contents)?;
        self.note_absent(index, |shard| present.contains(&shard));
        let which =
            if placed.is_empty() { "the tensors are" } else { "tensors that are not where it says are" };
        let note = format!(
            "{} does not belong to these weights ({why}): {which} taken from the weight files without it",
            index.file
        );
        self.notes.insert(notes, note);
        Ok(())
    }

    /// Opens the weight files that are not among those `named`.
    fn open_unnamed(&mut self, files: &ModelFiles, named: &[&str]) -> Result<Vec<Contents>> {
        let names = files.names()?;
        let has_weights = || names.iter().any(|name| is_safetensors(name) || is_pickle(name));
        match choose_weights(files.path(), &names) {
            Ok(chosen) => {
                let further = chosen.iter().map(String::as_str).filter(|name| !named.contains(name));
                self.open_all(files, further)
            }
            Err(error) if named.is_empty() && has_weights() => Err(error),
            // Without any weights it is the index that says what is missing.
            Err(_) => Ok(Vec::new()),
        }
    }

    /// Opens the files `names`.
    fn open_all<'a>(
        &mut self,
        files: &ModelFiles,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<Contents>> {
        names.map(|name| Ok((name.to_owned(), self.open_file(files, name)?))).collect()
    }

    /// Removes tensors that are `placed` where `index` says from the other files that have them too.
    fn remove_duplicates(&mut self, index: &Index, placed: &BTreeSet<String>, contents: &mut [Contents]) {
        let mut stale = Vec::new();
        for (file, tensors) in contents {
            tensors.retain(|(name, _)| {
                let is_stale = placed.contains(name) && index.shards.get(name) != Some(file);
                if is_stale {
                    stale.push(name.clone());
                }
                !is_stale
            });
        }
        if let Some(subject) = subject(&stale) {
            self.notes.push(format!(
                "{subject} in several weight files: the place that {} names counts",
                index.file
            ));
        }
    }

    /// Adds a note on the tensors that `index`, which is right about all that it lists, does not list.
    fn note_unlisted(&mut self, index: &Index, contents: &[Contents]) {
        let names = contents.iter().flat_map(|(_, tensors)| tensors).map(|(name, _)| name);
        let unlisted: Vec<String> = names.filter(|name| !index.shards.contains_key(*name)).cloned().collect();
        if let Some(subject) = subject(&unlisted) {
            self.notes
                .push(format!("{subject} in the weight files and not in {}: taken all the same", index.file));
        }
    }

    /// Inserts all of the tensors, each of which must exist once.
    fn insert_all(&mut self, contents: Vec<Contents>) -> Result<()> {
        for (name, entry) in contents.into_iter().flat_map(|(_, tensors)| tensors) {
            self.insert(name, entry)?;
        }
        Ok(())
    }
}

/// Returns the name of the index that counts for `files`: that of safetensors if it is there, and otherwise that of pickles if these
/// are the weights.
fn name_of_index(files: &ModelFiles) -> Result<Option<&'static str>> {
    if files.has(INDEX) {
        return Ok(Some(INDEX));
    }
    if !files.has(PICKLE_INDEX) {
        return Ok(None);
    }
    // Without any weights it is the index that says what is missing.
    let are_pickles = choose_weights(files.path(), &files.names()?)
        .map_or(true, |weights| weights.iter().any(|name| is_pickle(name)));
    Ok(are_pickles.then_some(PICKLE_INDEX))
}

/// Returns the beginning of a sentence about where `tensors` are, if there are any.
fn subject(tensors: &[String]) -> Option<String> {
    let first = tensors.first()?;
    Some(match tensors.len() - 1 {
        0 => format!("`{first}` is"),
        more => format!("`{first}` and {} are", count(more, "more tensor")),
    })
}

/// Returns the tensors that are in the files that `index` says they are in.
fn placed(index: &WeightMap, contents: &[Contents]) -> BTreeSet<String> {
    let all = contents.iter().flat_map(|(file, tensors)| tensors.iter().map(move |(name, _)| (name, file)));
    all.filter(|(name, file)| index.get(*name) == Some(*file)).map(|(name, _)| name.clone()).collect()
}

/// Returns, as the reason of a note, the first tensor that `index` says is in a shard that is `there` and that is not
/// `placed`.
fn misplaced(index: &WeightMap, present: &[&str], placed: &BTreeSet<String>) -> Option<String> {
    let (tensor, shard) = index
        .iter()
        .find(|(tensor, shard)| present.contains(&shard.as_str()) && !placed.contains(*tensor))?;
    Some(format!("it lists `{tensor}` in `{shard}`, which does not hold it"))
}
