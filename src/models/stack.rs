//! Tensors as MLX keeps them: experts' matrices of one kind one after the other, and those that are made of stored ones.

use std::collections::{BTreeMap, BTreeSet};

use super::derived::{Derived, Step};
use super::names::{Names, PARTS, Rename};
use crate::error::{Error, Result};
use crate::formats::checkpoint::Checkpoint;
use crate::formats::entry::Entry;
use crate::models::architectures::Architecture;
use crate::numerics::affine::Quantized;
use crate::numerics::quant::Quant;
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
        let mut wrong = self.decode_changed(names);
        wrong.extend(self.derive(names));
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

    /// Decodes layers of other tools that MLX could take as they are, but for being turned or changed: of these, and of layers whose
    /// parts would be called differently, MLX gets the values. So it does where experts came in several forms.
    fn decode_changed(&mut self, names: Names) -> Vec<Error> {
        let mut passed = Vec::new();
        let mut quants: BTreeMap<String, BTreeSet<Option<Quant>>> = BTreeMap::new();
        for (name, entry) in &self.entries {
            let Some(layer) = name.strip_suffix(".weight") else { continue };
            let quant = entry.incoming.and_then(|incoming| incoming.quant);
            let renamed = renamed_layer(names, layer);
            if let Some(renamed) = &renamed {
                quants.entry(renamed.clone()).or_default().insert(quant);
            }
            let is_split = matches!(names.rename(name), Rename::Derived(derived) if are_rows(&derived));
            passed.extend(quant.filter(|_| !is_split).map(|quant| (layer.to_owned(), renamed, quant)));
        }
        quants.retain(|_, quants| quants.len() > 1);
        if let Some(first) = quants.keys().next() {
            let stacks = count(quants.len(), "expert stack");
            self.notes.push(format!("{stacks} came in several forms and had to be decoded, `{first}` first"));
        }
        passed.retain(|(_, renamed, _)| renamed.as_ref().is_none_or(|renamed| quants.contains_key(renamed)));
        let decode = |(layer, _, quant): &(String, Option<String>, Quant)| {
            let [packed, scales, biases] = PARTS.map(|part| format!("{layer}.{part}"));
            self.decode(Quantized { packed: &*packed, scales: &*scales, biases: &*biases }, *quant).err()
        };
        passed.iter().filter_map(decode).collect()
    }

    /// Makes the tensors that `names` derives from stored ones.
    fn derive(&mut self, names: Names) -> Vec<Error> {
        let mut wrong = Vec::new();
        let named = self.entries.keys().filter_map(|name| match names.rename(name) {
            Rename::Derived(derived) => Some((name.clone(), derived)),
            _ => None,
        });
        let mut derived: BTreeMap<String, Vec<Derived>> = named.collect();
        for (name, parts) in self.derived_parts(&derived) {
            derived.entry(name).or_insert(parts);
        }
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

    /// Returns the tensors that are made of scales and biases where those in `derived` are made of a quantized layer's codes: the same
    /// rows of each.
    fn derived_parts(&self, derived: &BTreeMap<String, Vec<Derived>>) -> Vec<(String, Vec<Derived>)> {
        let mut parts = Vec::new();
        for (name, derived) in derived {
            let is_quantized = self.entries[name].incoming.is_some_and(|incoming| incoming.quant.is_some());
            let Some(layer) = name.strip_suffix(".weight").filter(|_| is_quantized) else { continue };
            for part in &PARTS[1..] {
                let stored = format!("{layer}.{part}");
                let of_part = |derived: &Derived| Derived {
                    name: format!("{}.{part}", derived.name.trim_end_matches(".weight")),
                    steps: derived.steps.clone(),
                };
                if self.entries.contains_key(&stored) {
                    parts.push((stored, derived.iter().map(of_part).collect()));
                }
            }
        }
        parts
    }

    fn derived(&self, name: &str, derived: &[Derived]) -> Result<Vec<(String, Entry)>> {
        let is_there = |derived: &&Derived| derived.name != name && self.entries.contains_key(&derived.name);
        if let Some(Derived { name: other, .. }) = derived.iter().find(is_there) {
            return Err(Error::tensor(self.path(), name, format!("and `{other}` are both there"))
                .hint("keep the tensors of one checkpoint only"));
        }
        let entry = &self.entries[name];
        let rows_of = |other: &str| self.entries.get(other)?.shape.first().copied();
        let entries =
            derived.iter().map(|derived| Ok((derived.name.clone(), derived.entry(name, entry, rows_of)?)));
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

/// True if all tensors are weights of whole rows of a stored one, as packed rows can be taken too.
fn are_rows(derived: &[Derived]) -> bool {
    let takes_rows = |step: &Step| matches!(step, Step::Rows(_) | Step::Share { .. } | Step::Every { .. });
    derived.iter().all(|derived| derived.name.ends_with(".weight") && derived.steps.iter().all(takes_rows))
}

/// Returns the layer that `names` makes of the quantized `layer`; `None` where its parts would not stay together.
fn renamed_layer(names: Names, layer: &str) -> Option<String> {
    let renamed = |part: &str| match names.rename(&format!("{layer}.{part}")) {
        Rename::Keep => Some(layer.to_owned()),
        Rename::To(name) | Rename::Expert { stack: name, .. } => {
            name.strip_suffix(&format!(".{part}")).map(str::to_owned)
        }
        Rename::Derived(_) | Rename::Drop => None,
    };
    let name = renamed("weight")?;
    PARTS.iter().all(|part| renamed(part).as_ref() == Some(&name)).then_some(name)
}

/// True for the tensor of all experts' matrices of one kind.
fn is_whole(name: &str) -> bool {
    name.ends_with(".experts.down_proj")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::numerics::dtype::Dtype;

    const GATE: &str = "model.layers.0.mlp.gate_proj";

    /// Opens a small model whose linear layers MLX can take as they are, under a rule for names.
    fn stacked(rule: fn(&str) -> Rename) -> Checkpoint {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden/forms/gptq-asymmetric");
        let mut checkpoint = Checkpoint::open(&fixtures).unwrap();
        let names = Names::new(rule, None, std::iter::empty());
        let wrong = checkpoint.stack(names);
        assert!(wrong.is_empty(), "{wrong:?}");
        checkpoint
    }

    fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
        checkpoint.get(name).unwrap().bytes().into_owned()
    }

    #[test]
    fn packed_rows_are_split_without_loss() {
        let split = stacked(|name| {
            if name == "model.layers.0.mlp.gate_proj.weight" {
                Rename::stacked(["a.weight", "b.weight"].map(str::to_owned))
            } else {
                Rename::Keep
            }
        });
        let whole = stacked(|_| Rename::Keep);
        for part in PARTS {
            let halves = ["a", "b"].map(|layer| bytes(&split, &format!("{layer}.{part}"))).concat();
            assert!(halves == bytes(&whole, &format!("{GATE}.{part}")), "{part}");
            assert!(split.get(&format!("{GATE}.{part}")).is_none(), "{part}");
        }
        assert_eq!(
            split.get("b.weight").unwrap().incoming,
            whole.get(&format!("{GATE}.weight")).unwrap().incoming
        );
    }

    #[test]
    fn packed_rows_that_are_turned_are_decoded() {
        let turned = stacked(|name| {
            if name.starts_with(GATE) { Rename::transposed(name.to_owned() + "2") } else { Rename::Keep }
        });
        let tensor = turned.get(&format!("{GATE}.weight2")).unwrap();
        assert_eq!((tensor.dtype, tensor.shape), (Dtype::F32, &[64, 160][..]));
        let mut whole = stacked(|_| Rename::Keep);
        let [packed, scales, biases] = PARTS.map(|part| format!("{GATE}.{part}"));
        let quant = whole.get(&packed).unwrap().incoming.unwrap().quant.unwrap();
        whole.decode(Quantized { packed: &*packed, scales: &*scales, biases: &*biases }, quant).unwrap();
        let values = bytes(&whole, &packed);
        let element = |row: usize, column: usize| &values[4 * (row * 64 + column)..][..4];
        let expected = (0..64).flat_map(|column| (0..160).map(move |row| (row, column)));
        let expected: Vec<u8> = expected.flat_map(|(row, column)| element(row, column).to_vec()).collect();
        assert!(tensor.bytes() == expected.as_slice());
        assert!(whole.get(&scales).is_none() && whole.get(&biases).is_none());
    }
}
