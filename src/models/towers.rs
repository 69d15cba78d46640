//! Tensors of a wrapper beside its decoder: counted, and kept or left out where a model is written.

use std::collections::BTreeMap;

use super::wrapper::Wrapper;
use crate::formats::checkpoint::Checkpoint;
use crate::words::{bytes, count};

/// Tensors beside a decoder, by tower.
#[derive(Debug, Clone, Default)]
pub struct Towers {
    towers: BTreeMap<&'static str, Tower>,
}

/// Tensors of one tower.
#[derive(Debug, Clone, Default)]
struct Tower {
    names: Vec<String>,
    bytes: u64,
}

impl Towers {
    /// Lists the tensors of `checkpoint` that belong to towers of `wrapper`.
    pub fn of(wrapper: Option<&Wrapper>, checkpoint: &Checkpoint) -> Self {
        let mut towers = BTreeMap::<_, Tower>::new();
        for (name, tensor) in checkpoint.iter() {
            let Some(module) = wrapper.and_then(|wrapper| wrapper.tower(name)) else { continue };
            let tower = towers.entry(module).or_default();
            tower.names.push(name.to_owned());
            tower.bytes += tensor.byte_len() as u64;
        }
        Self { towers }
    }

    /// True if there is no such tensor.
    pub fn is_empty(&self) -> bool {
        self.towers.is_empty()
    }

    /// Returns the bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.towers.values().map(|tower| tower.bytes).sum()
    }

    /// Returns each tensor's name in the checkpoint and that under which runners of images find it.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self.towers.values().flat_map(|tower| &tower.names);
        names.map(|name| (name.as_str(), Wrapper::tower_name(name)))
    }

    /// Returns a sentence per tower about tensors that are there and not read.
    pub fn notes(&self) -> Vec<String> {
        self.describe(|tensors| format!("not read: {tensors}, which mlx-lm's text model does not use"))
    }

    /// Returns a sentence per tower about tensors that are left out of what is written.
    pub fn notes_where_dropped(&self) -> Vec<String> {
        self.describe(|tensors| format!("dropped {tensors}: mlx-lm's text model does not use them"))
    }

    /// Returns a sentence per tower about tensors that are written as they are.
    pub fn notes_where_written(&self) -> Vec<String> {
        self.describe(|tensors| {
            format!("kept {tensors} as they are, on top of the text model's size: mlx-lm does not use them")
        })
    }

    /// Returns a `sentence` per tower; it is called with the tower's tensors in words.
    fn describe(&self, sentence: impl Fn(&str) -> String) -> Vec<String> {
        let describe = |(module, tower): (&&str, &Tower)| {
            sentence(&format!("{} of {module} ({})", count(tower.names.len(), "tensor"), bytes(tower.bytes)))
        };
        self.towers.iter().map(describe).collect()
    }
}
