//! Tensors as MLX keeps them: experts' matrices of one kind one after the other, and those that are made of stored ones.

use std::collections::BTreeMap;

use super::derived::Derived;
use super::names::{Names, Rename};
use crate::error::{Error, Result};
use crate::formats::checkpoint::Checkpoint;
use crate::formats::entry::Entry;
use crate::models::architectures::Architecture;
use crate::words::count;

impl Checkpoint {
    /// Returns the rule that makes the tensors' names those of the architecture `row`.
    pub fn names(&self, row: &Architecture) -> Names {
        Names::new(row.rename, row.wrapper, self.entries.keys().map(String::as_str))
    }

    /// Takes the tensors that `names` calls experts for the parts of one, [experts, ..], in the order of their numbers, and
    /// puts derived tensors in the place of those that they are made of. Nothing is copied. Those that do not make a whole stay as
    /// they are, and are returned.
    pub fn stack(&mut self, names: Names) -> Vec<Error> {
        let mut wrong = self.derive(names);
        let mut stacks: BTreeMap<String, BTreeMap<usize, String>> = BTreeMap::new();
        for name in self.entries.keys() {
            let Rename::Expert { stack, index } = names.rename(name) else { continue };
            if let Some(other) = stacks.entry(stack).or_default().insert(index, name.clone()) {
                let message = format!("and `{other}` are both expert {index}");
                wrong.push(Error::tensor(self.path(), name, message));
            }
        }
        if !stacks.is_empty() {
            let keeps = |name: &str| match names.rename(name) {
                Rename::Keep => true,
                Rename::To(name) => name.contains(".experts."),
                _ => false,
            };
            let stray = |name: &&String| name.contains(".experts.") && !is_whole(name) && keeps(name);
            wrong.extend(self.entries.keys().filter(stray).map(|name| {
                Error::tensor(self.path(), name, "is no expert's weight: expected `.experts.<number>.<name>.weight`")
                    .hint("another tool's quantized weights, or a name that is wrong: dropping it would change the model")
            }));
        }
        for (name, parts) in stacks {
            match self.stacked(&name, &parts) {
                Ok(entry) => {
                    for part in parts.values() {
                        self.entries.remove(part);
                    }
                    self.entries.insert(name, entry);
                }
                Err(error) => wrong.push(error),
            }
        }
        wrong
    }

    /// Makes the tensors that `names` derives from stored ones.
    fn derive(&mut self, names: Names) -> Vec<Error> {
        let mut wrong = Vec::new();
        let derived: Vec<(String, Vec<Derived>)> = self
            .entries
            .keys()
            .filter_map(|name| match names.rename(name) {
                Rename::Derived(derived) => Some((name.clone(), derived)),
                _ => None,
            })
            .collect();
        for (name, derived) in derived {
            match self.derived(&name, &derived) {
                Ok(entries) => {
                    self.entries.remove(&name);
                    self.entries.extend(entries);
                }
                Err(error) => wrong.push(error),
            }
        }
        wrong
    }

    fn derived(&self, name: &str, derived: &[Derived]) -> Result<Vec<(String, Entry)>> {
        if let Some(Derived { name: other, .. }) =
            derived.iter().find(|derived| self.entries.contains_key(&derived.name))
        {
            return Err(Error::tensor(self.path(), name, format!("and `{other}` are both there"))
                .hint("keep the tensors of one checkpoint only"));
        }
        let entry = &self.entries[name];
        let entries = derived.iter().map(|derived| Ok((derived.name.clone(), derived.entry(name, entry)?)));
        entries.collect::<Result<_, String>>().map_err(|message| {
            let error = Error::tensor(self.path(), name, message);
            if entry.dtype.is_float() {
                error
            } else {
                error.hint("start from the float checkpoint, or from one that mlx-lm quantized")
            }
        })
    }

    fn stacked(&self, name: &str, parts: &BTreeMap<usize, String>) -> Result<Entry> {
        if self.entries.contains_key(name) {
            return Err(Error::tensor(self.path(), name, "is there as a whole and expert by expert")
                .hint("keep the tensors of one checkpoint only"));
        }
        let mut whole: Option<Entry> = None;
        for (expected, (&index, part)) in parts.iter().enumerate() {
            if index != expected {
                let there = count(parts.len(), "part");
                return Err(Error::tensor(self.path(), name, format!("expert {expected} is missing"))
                    .hint(format!("{there} there, the next is `{part}`: the download is incomplete")));
            }
            let entry = &self.entries[part];
            let whole =
                whole.get_or_insert_with(|| Entry { pieces: Vec::new(), parts: Vec::new(), ..entry.clone() });
            if (entry.dtype, &entry.shape) != (whole.dtype, &whole.shape) {
                let (found, first) = (
                    format!("{} {:?}", entry.dtype, entry.shape),
                    format!("{} {:?}", whole.dtype, whole.shape),
                );
                return Err(Error::tensor(
                    self.path(),
                    part,
                    format!("is {found}, the first expert's {first}"),
                )
                .hint("the experts of a block are of one shape and dtype"));
            }
            whole.pieces.extend(&entry.pieces);
            whole.parts.push(part.clone());
        }
        let mut whole = whole.ok_or_else(|| Error::tensor(self.path(), name, "has no experts"))?;
        whole.shape.insert(0, parts.len());
        Ok(whole)
    }
}

/// True for the tensor of all experts' matrices of one kind.
fn is_whole(name: &str) -> bool {
    name.ends_with(".experts.down_proj")
}
