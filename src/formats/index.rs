//! The choice of a model's weight files: those that `model.safetensors.index.json` names, where it is of these files,
//! and otherwise those that are called as weights are.
//!
//! Quantized copies on the Hub often carry the index of the float model, so an index counts for the tensors that are where
//! it says, and the files' own headers for the others. It still says which tensors there must be: [`Checkpoint::absent`].

use std::collections::BTreeSet;

use super::checkpoint::Checkpoint;
use super::entry::Entry;
use crate::error::{Error, Result};
use crate::files::model_files::ModelFiles;
use crate::files::pack::safe_name;
use crate::files::weight_files::{
    INDEX, WeightMap, choose_weights, is_safetensors, read_index, what_is_broken,
};
use crate::words::count;

/// The tensors of a weight file that was opened.
type Contents = (String, Vec<(String, Entry)>);

/// A tensor that an index lists and that is in none of the files.
#[derive(Debug)]
pub(crate) struct Absent {
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

    /// The tensors of the shards that `index` names, as it has them; those that are not where it says, from all weight files.
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
        let placed = placed(index, &contents);
        let why = match missing.first() {
            Some(shard) => Some(format!("it names `{shard}`, which is not there")),
            None => misplaced(index, &there, &placed),
        };
        let Some(why) = why else {
            self.leave_out_duplicates(index, &placed, &mut contents);
            self.note_unlisted(index, &contents);
            return self.take(contents);
        };
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
        let notes = self.notes.len();
        self.leave_out_duplicates(index, &placed, &mut contents);
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
        let which =
            if placed.is_empty() { "the tensors are" } else { "tensors that are not where it says are" };
        let note = format!(
            "{INDEX} does not belong to these weights ({why}): {which} taken from the weight files without it"
        );
        self.notes.insert(notes, note);
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

    /// Leaves out the tensors that are `placed` where `index` says and are in another file too: out of that one.
    fn leave_out_duplicates(
        &mut self,
        index: &WeightMap,
        placed: &BTreeSet<String>,
        contents: &mut [Contents],
    ) {
        let mut stale = Vec::new();
        for (file, tensors) in contents {
            tensors.retain(|(name, _)| {
                let is_stale = placed.contains(name) && index.get(name) != Some(file);
                if is_stale {
                    stale.push(name.clone());
                }
                !is_stale
            });
        }
        if let Some(subject) = subject(&stale) {
            self.notes
                .push(format!("{subject} in several weight files: the place that {INDEX} names counts"));
        }
    }

    /// Notes which tensors `index`, which is right about all that it lists, does not list.
    fn note_unlisted(&mut self, index: &WeightMap, contents: &[Contents]) {
        let names = contents.iter().flat_map(|(_, tensors)| tensors).map(|(name, _)| name);
        let unlisted: Vec<String> = names.filter(|name| !index.contains_key(*name)).cloned().collect();
        if let Some(subject) = subject(&unlisted) {
            self.notes.push(format!("{subject} in the weight files and not in {INDEX}: taken all the same"));
        }
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

/// The tensors that are in the files that `index` says they are in.
fn placed(index: &WeightMap, contents: &[Contents]) -> BTreeSet<String> {
    let all = contents.iter().flat_map(|(file, tensors)| tensors.iter().map(move |(name, _)| (name, file)));
    all.filter(|(name, file)| index.get(*name) == Some(*file)).map(|(name, _)| name.clone()).collect()
}

/// The first tensor that `index` says is in a shard that is `there` and that is not `placed`, as the reason of a note.
fn misplaced(index: &WeightMap, there: &[&str], placed: &BTreeSet<String>) -> Option<String> {
    let (tensor, shard) =
        index.iter().find(|(tensor, shard)| there.contains(&shard.as_str()) && !placed.contains(*tensor))?;
    Some(format!("it lists `{tensor}` in `{shard}`, which does not hold it"))
}
