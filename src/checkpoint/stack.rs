//! Experts that a checkpoint keeps in tensors of their own, as the one tensor that MLX keeps them in.

use std::collections::BTreeMap;

use super::Checkpoint;
use super::open::Entry;
use crate::error::{Error, Result};
use crate::models::Rename;
use crate::plural::count;

impl Checkpoint {
    /// Takes the tensors that `rule` calls experts for the parts of one, [experts, ..], in the order of their numbers.
    /// Nothing is copied. Those that do not make a whole stay as they are, and are returned.
    pub fn stack(&mut self, rule: fn(&str) -> Rename) -> Vec<Error> {
        let mut stacks: BTreeMap<String, BTreeMap<usize, String>> = BTreeMap::new();
        let mut wrong = Vec::new();
        for name in self.entries.keys() {
            let Rename::Expert { stack, index } = rule(name) else { continue };
            if let Some(other) = stacks.entry(stack).or_default().insert(index, name.clone()) {
                let message = format!("and `{other}` are both expert {index}");
                wrong.push(Error::tensor(self.path(), name, message));
            }
        }
        if !stacks.is_empty() {
            let stray = |name: &&String| name.contains(".experts.") && rule(name) == Rename::Keep;
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
