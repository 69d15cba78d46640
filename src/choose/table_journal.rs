//! Journal of an unfinished measurement: the layers of the table that are measured.

use std::path::{Path, PathBuf};

use super::correction::Correction;
use super::scores::LayerSensitivity;
use super::table::{Measurement, Table};
use crate::error::{Error, Result};
use crate::files::journal::{Journal, Start};
use crate::files::output_file;

/// Measured layers in a file that takes more.
#[derive(Debug)]
pub struct TableJournal {
    journal: Journal,
    /// The layers, as they were measured.
    pub layers: Vec<LayerSensitivity>,
}

impl TableJournal {
    /// Path of the journal while the table `out` is being made.
    pub fn path(out: &Path) -> PathBuf {
        output_file::beside(out, ".partial")
    }

    /// Opens the journal of the table `out`.
    pub fn open(out: &Path, measurement: &Measurement, start: Start) -> Result<Self> {
        let (journal, entries) = Journal::open(&Self::path(out), &measurement.header(), start)?;
        Ok(Self { journal, layers: entries.into_iter().map(|entry| entry.value).collect() })
    }

    /// Appends a measured layer.
    pub fn append(&mut self, layer: LayerSensitivity) -> Result<()> {
        self.journal.append(&layer, &[])?;
        self.journal.flush()?;
        self.layers.push(layer);
        Ok(())
    }

    /// Returns what to tell where layers of an earlier run were damaged.
    pub fn damage_note(&self) -> Option<String> {
        self.journal.damage_note()
    }

    /// Removes a journal without layers.
    pub(crate) fn remove_if_empty(&self) {
        self.journal.remove_if_empty();
    }

    /// Adds to an interruption a hint how to resume.
    pub fn with_resume_hint(&self, error: Error) -> Error {
        self.journal.with_resume_hint(error, "layer")
    }

    /// Writes the table to `out` and removes the journal.
    pub fn finish(self, out: &Path, measurement: Measurement, correction: Correction) -> Result<Table> {
        let mut layers = self.layers;
        layers.sort_by(|a, b| a.path.cmp(&b.path));
        let table = Table { measurement, layers, correction };
        table.write(out)?;
        self.journal.finish();
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{layer, measurement};
    use super::*;

    #[test]
    fn a_resumed_table_is_as_it_was() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("table.json");
        let mut journal = TableJournal::open(&out, &measurement(), Start::Anew).unwrap();
        journal.append(layer("b")).unwrap();
        drop(journal);
        let mut journal = TableJournal::open(&out, &measurement(), Start::Resumed).unwrap();
        assert_eq!(journal.layers, [layer("b")]);
        journal.append(layer("a")).unwrap();
        let table = journal.finish(&out, measurement(), Correction::default()).unwrap();
        assert_eq!((Table::read(&out).unwrap(), table.layers.len()), (table.clone(), 2));
        assert_eq!(table.layers, [layer("a"), layer("b")]);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
