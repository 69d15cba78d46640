//! A model folder or pack, opened as far as it goes.

use std::collections::BTreeMap;
use std::path::Path;

use super::Finding;
use crate::checkpoint::{Checkpoint, INDEX, SourceModel, Tensor};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model_files::ModelFiles;
use crate::models::{self, Architecture, Rename, TensorShapes};
use crate::spec::{DecoderSpec, Manifest};
use crate::tokenizer::Tokenizer;

/// Places where index and shards disagree that are named.
const FEW: usize = 3;

/// Its parts; `None` is what could not be opened, which is a finding already.
pub(super) struct Folder {
    pub(super) files: ModelFiles,
    pub(super) config: Option<ModelConfig>,
    pub(super) checkpoint: Option<Checkpoint>,
    /// mlx-lm's name (the stored one where the architecture is unknown) to the stored one.
    pub(super) names: BTreeMap<String, String>,
    pub(super) spec: Option<DecoderSpec>,
    pub(super) manifest: Option<Manifest>,
    pub(super) source: Option<SourceModel>,
    /// Why there is no source, where all that it takes is there.
    pub(super) refused: Option<Error>,
    pub(super) tokenizer: Option<Tokenizer>,
}

impl Folder {
    /// Opens `dir`; the findings say what was refused.
    pub(super) fn open(dir: &Path) -> Result<(Self, Vec<Finding>)> {
        if !dir.exists() {
            return Err(Error::file(dir, "does not exist")
                .hint("give a model folder, a pack, or the name of a model on the Hub: organisation/name"));
        }
        let files = ModelFiles::open(dir)?;
        let mut findings = Vec::new();
        let mut keep = |subject, error: &Error| findings.push(Finding::refusal(subject, error));
        let config = ModelConfig::from_files(&files).inspect_err(|e| keep("config", e)).ok();
        let row = config.as_ref().and_then(|c| models::find(c).inspect_err(|e| keep("config", e)).ok());
        let checkpoint = weights(&files, row, &mut keep);
        let names = checkpoint.as_ref().map(|c| names(c, row)).unwrap_or_default();
        let mut folder = Self {
            config,
            checkpoint,
            names,
            spec: None,
            manifest: None,
            source: None,
            refused: None,
            tokenizer: Tokenizer::from_files(&files).inspect_err(|e| keep("tokenizer", e)).ok(),
            files,
        };
        if let (Some(config), Some(row)) = (&folder.config, row) {
            folder.spec = (row.spec)(config, &folder.shapes()).inspect_err(|e| keep("config", e)).ok();
        }
        if folder.spec.is_some()
            && folder.checkpoint.is_some()
            && let Ok((checkpoint, _)) = Checkpoint::whatever_is_there(&folder.files)
        {
            match SourceModel::from_checkpoint(folder.files.clone(), checkpoint) {
                Ok(source) => folder.source = Some(source),
                Err(error) => folder.refused = Some(error),
            }
        }
        if let Some(source) = &folder.source {
            folder.spec = Some(source.spec().clone());
        }
        folder.manifest = folder.spec.as_ref().map(DecoderSpec::manifest);
        Ok((folder, findings))
    }

    /// The tensor that mlx-lm calls `name`.
    pub(super) fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.checkpoint.as_ref()?.get(self.names.get(name)?)
    }

    /// Rows of the matrix of the layer at `path`, which packing does not change.
    pub(super) fn rows(&self, path: &str) -> Option<usize> {
        self.tensor(&format!("{path}.weight"))?.shape.first().copied()
    }

    /// All tensors under mlx-lm's names.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, Tensor<'_>)> {
        self.names.keys().filter_map(|name| Some((name.as_str(), self.tensor(name)?)))
    }

    /// Whether `name` is what an untied head would be called, or a part of it.
    pub(super) fn is_head(&self, name: &str) -> bool {
        self.spec
            .as_ref()
            .is_some_and(|spec| name.strip_prefix(spec.head_name).is_some_and(|rest| rest.starts_with('.')))
    }

    fn shapes(&self) -> TensorShapes {
        self.tensors().map(|(name, tensor)| (name.to_owned(), tensor.shape.to_vec())).collect()
    }
}

/// The weights as far as they can be read, and what is wrong with the files.
fn weights(
    files: &ModelFiles,
    row: Option<&Architecture>,
    keep: &mut impl FnMut(&'static str, &Error),
) -> Option<Checkpoint> {
    match Checkpoint::whatever_is_there(files) {
        Ok((mut checkpoint, wrong)) => {
            if let Some(row) = row {
                checkpoint.stack(row.rename).iter().take(FEW).for_each(|error| keep("experts", error));
            }
            wrong.iter().take(FEW).for_each(|error| keep("files", error));
            if let Some(more) = wrong.len().checked_sub(FEW).filter(|&more| more > 0) {
                let message = format!("does not agree with the shards in {more} more places");
                keep("files", &Error::file(files.path_of(INDEX), message));
            }
            Some(checkpoint)
        }
        Err(error) => {
            keep("files", &error);
            None
        }
    }
}

fn names(checkpoint: &Checkpoint, row: Option<&Architecture>) -> BTreeMap<String, String> {
    let renamed = |name: &str| match row.map_or(Rename::Keep, |row| (row.rename)(name)) {
        Rename::Keep => Some(name.to_owned()),
        Rename::To(name) => Some(name),
        // Experts that could not be stacked, which was said.
        Rename::Expert { .. } | Rename::Drop => None,
    };
    checkpoint.iter().filter_map(|(name, _)| Some((renamed(name)?, name.to_owned()))).collect()
}
