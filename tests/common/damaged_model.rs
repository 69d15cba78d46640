//! A copy of a model whose files a test damages.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::common::{self, RawCheckpoint, bundled, copy_folder};

pub const WEIGHTS: &str = "model.safetensors";
pub const GATE: &str = "model.layers.1.feed_forward.gate_proj.weight";

/// A copy of a model in a temporary folder, to be damaged.
pub struct DamagedModel {
    home: TempDir,
}

impl DamagedModel {
    pub fn new() -> Self {
        Self::of(&bundled())
    }

    pub fn of(model: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        copy_folder(model, &home.path().join("model"));
        Self { home }
    }

    /// Folder around the model, with nothing else in it.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn path(&self) -> PathBuf {
        self.home.path().join("model")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn edit_weights(&self, change: impl FnOnce(&mut RawCheckpoint)) {
        let mut raw = RawCheckpoint::read(&self.file(WEIGHTS));
        change(&mut raw);
        raw.write(&self.file(WEIGHTS));
    }

    pub fn edit_header(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        let raw = RawCheckpoint::read(&self.file(WEIGHTS));
        let mut header = raw.header();
        change(&mut header);
        raw.write_with(&self.file(WEIGHTS), &header);
    }

    pub fn edit_json(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = common::json_file(&self.file(name));
        change(&mut value);
        fs::write(self.file(name), value.to_string()).unwrap();
    }
}
