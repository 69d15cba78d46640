//! Damage as chained calls, and what `mixbit check` finds in the damaged model.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{RawCheckpoint, mixbit, stderr, stdout};
pub use crate::damaged_model::{DamagedModel, GATE, WEIGHTS};

pub const EMBEDDING: &str = "model.embed_tokens.weight";

impl DamagedModel {
    pub fn weights(self, change: impl FnOnce(&mut RawCheckpoint)) -> Self {
        self.edit_weights(change);
        self
    }

    pub fn json(self, name: &str, change: impl FnOnce(&mut Value)) -> Self {
        self.edit_json(name, change);
        self
    }

    pub fn config(self, key: &str, value: Value) -> Self {
        self.json("config.json", |config| config[key] = value)
    }

    pub fn without(self, key: &str) -> Self {
        self.json("config.json", |config| drop(config.as_object_mut().unwrap().remove(key)))
    }

    pub fn text(self, name: &str, text: &str) -> Self {
        fs::write(self.file(name), text).unwrap();
        self
    }

    pub fn template(self, change: impl FnOnce(String) -> String) -> Self {
        let text = fs::read_to_string(self.file("chat_template.jinja")).unwrap();
        let changed = change(text.clone());
        assert_ne!(text, changed);
        self.text("chat_template.jinja", &changed)
    }

    /// One of the findings is of this level and subject and says this; a problem is an exit code.
    #[track_caller]
    pub fn finds(self, level: &str, subject: &str, part: &str) -> Self {
        self.finds_beside(None, level, subject, part)
    }

    #[track_caller]
    pub fn finds_beside(self, reference: Option<&Path>, level: &str, subject: &str, part: &str) -> Self {
        let (code, findings) = findings(&self.path(), reference);
        let of_subject = |f: &&Value| f["level"] == level && f["subject"] == subject;
        let is_reported =
            findings.iter().filter(of_subject).any(|f| f["message"].as_str().unwrap().contains(part));
        assert!(is_reported, "expected {level} {subject}: {part} in {findings:#?}");
        let problems = findings.iter().any(|f| f["level"] == "problem");
        assert_eq!(code, i32::from(problems));
        self
    }
}

pub fn findings(model: &Path, reference: Option<&Path>) -> (i32, Vec<Value>) {
    let mut arguments = vec!["check".as_ref(), model, "--json".as_ref()];
    arguments.extend(reference.iter().flat_map(|reference| [Path::new("--reference"), reference]));
    let output = mixbit(arguments);
    let findings = serde_json::from_str(&stdout(&output));
    (output.status.code().unwrap(), findings.unwrap_or_else(|_| panic!("{}", stderr(&output))))
}

/// Sets the float32 values of a tensor.
pub fn fill(raw: &mut RawCheckpoint, name: &str, value: impl Fn(usize) -> Option<f32>) {
    for (i, bytes) in raw.get_mut(name).3.chunks_exact_mut(4).enumerate() {
        if let Some(value) = value(i) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
}

pub fn rename(raw: &mut RawCheckpoint, part: &str, to: &str) {
    raw.tensors.iter_mut().for_each(|tensor| tensor.0 = tensor.0.replace(part, to));
}
