//! A model folder or pack, opened as far as it goes.

use std::collections::BTreeMap;
use std::path::Path;

use super::check::Finding;
use crate::error::{Error, Result};
use crate::files::model_files::ModelFiles;
use crate::files::weight_files::INDEX;
use crate::formats::checkpoint::{Checkpoint, Tensor};
use crate::models::architectures::TensorShapes;
use crate::models::config::ModelConfig;
use crate::models::mechanisms;
use crate::models::names::{Names, Rename};
use crate::models::source::SourceModel;
use crate::models::spec::{DecoderSpec, Manifest};
use crate::text::tokenizer::Tokenizer;

/// Most findings about one kind of fault.
const FINDINGS_SHOWN: usize = 3;

/// Opened parts of a model folder. A part that could not be opened is `None`, and a finding already.
pub(crate) struct Folder {
    pub(crate) files: ModelFiles,
    pub(crate) config: Option<ModelConfig>,
    /// Keys that describe the decoder; in a wrapper, those of its text model.
    pub(crate) decoder_config: Option<ModelConfig>,
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Stored names of the tensors by mlx-lm's names; by the stored names where the architecture is unknown.
    pub(crate) names: BTreeMap<String, String>,
    pub(crate) spec: Option<DecoderSpec>,
    pub(crate) manifest: Option<Manifest>,
    pub(crate) source: Option<SourceModel>,
    /// Error that keeps the source from being opened although config and weights are there.
    pub(crate) refused: Option<Error>,
    pub(crate) tokenizer: Option<Tokenizer>,
}

impl Folder {
    /// Opens `dir`; the findings are about parts that could not be opened.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Vec<Finding>)> {
        if !dir.exists() {
            return Err(Error::file(dir, "does not exist")
                .hint("give a model folder, a pack, or the name of a model on the Hub: organisation/name"));
        }
        let files = ModelFiles::open(dir)?;
        let mut findings = Vec::new();
        let mut keep = |subject, error: &Error| findings.push(Finding::refusal(subject, error));
        let config = ModelConfig::from_files(&files).inspect_err(|e| keep("config", e)).ok();
        let row = config.as_ref().and_then(|config| {
            mechanisms::find_architecture(config, &files).inspect_err(|e| keep("config", e)).ok()
        });
        let decoder = row.zip(config.as_ref()).and_then(|(row, config)| row.decoder(config).ok());
        let decoder_config = decoder.map(|(_, config)| config).or_else(|| config.clone());
        let (mut checkpoint, mut wrong) = weights(&files, &mut keep);
        let renamed = row.zip(checkpoint.as_ref()).map(|(row, checkpoint)| checkpoint.names(row));
        if let (Some(checkpoint), Some(renamed)) = (&mut checkpoint, renamed) {
            checkpoint.stack(renamed).iter().take(FINDINGS_SHOWN).for_each(|error| keep("experts", error));
        }
        let names = checkpoint.as_ref().map(|c| names(c, renamed)).unwrap_or_default();
        let mut folder = Self {
            config,
            decoder_config,
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
        wrong.extend(folder.absent(renamed));
        keep_few(&folder.files, &wrong, &mut keep);
        if folder.spec.is_some()
            && folder.checkpoint.is_some()
            && let Ok((checkpoint, _)) = Checkpoint::open_with_faults(&folder.files)
        {
            match SourceModel::from_checkpoint(folder.files.clone(), checkpoint) {
                Ok(source) => folder.source = Some(source),
                Err(error) => folder.refused = Some(error),
            }
        }
        if let Some(source) = &folder.source {
            folder.spec = Some(source.spec().clone());
        }
        let notes = folder.notes(renamed);
        match &mut folder.spec {
            Some(_) if folder.source.is_some() => {}
            Some(spec) => spec.notes.extend(notes),
            None => findings.extend(notes.into_iter().map(|note| Finding::note("files", note))),
        }
        folder.manifest = folder.spec.as_ref().map(DecoderSpec::manifest);
        Ok((folder, findings))
    }

    /// Returns the tensor that mlx-lm calls `name`.
    pub(crate) fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.checkpoint.as_ref()?.get(self.names.get(name)?)
    }

    /// Returns the number of rows of the matrix of the layer at `path`, which packing does not change.
    pub(crate) fn rows(&self, path: &str) -> Option<usize> {
        self.tensor(&format!("{path}.weight"))?.shape.first().copied()
    }

    /// Returns all tensors under mlx-lm's names.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, Tensor<'_>)> {
        self.names.keys().filter_map(|name| Some((name.as_str(), self.tensor(name)?)))
    }

    /// True if `name` is a tensor that the decoder leaves out.
    pub(crate) fn is_left_out(&self, name: &str) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.leaves_out(name))
    }

    /// True if `name` is a tensor of an untied head.
    pub(crate) fn is_head(&self, name: &str) -> bool {
        self.spec
            .as_ref()
            .is_some_and(|spec| name.strip_prefix(&*spec.head.path).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Returns errors about tensors that the index lists, that are in no weight file and have no other place in the
    /// decoder.
    fn absent(&self, names: Option<Names>) -> Vec<Error> {
        let there = |name: &str| self.names.contains_key(name);
        let Some(checkpoint) = &self.checkpoint else { return Vec::new() };
        match names {
            Some(names) => checkpoint.absent(names.accounting(self.spec.as_ref(), there)),
            None => checkpoint.absent(there),
        }
    }

    /// Returns notes on weight files and names.
    fn notes(&self, names: Option<Names>) -> Vec<String> {
        let notes = self.checkpoint.iter().flat_map(|checkpoint| checkpoint.notes().iter().cloned());
        notes.chain(names.and_then(|names| names.note())).collect()
    }

    fn shapes(&self) -> TensorShapes {
        self.tensors().map(|(name, tensor)| (name.to_owned(), tensor.shape.to_vec())).collect()
    }
}

/// Reads the weights as far as possible; the errors are about their index.
fn weights(
    files: &ModelFiles,
    keep: &mut impl FnMut(&'static str, &Error),
) -> (Option<Checkpoint>, Vec<Error>) {
    match Checkpoint::open_with_faults(files) {
        Ok((checkpoint, wrong)) => (Some(checkpoint), wrong),
        Err(error) => {
            keep("files", &error);
            (None, Vec::new())
        }
    }
}

/// Hands the first few `wrong` places of index and shards to `keep`, and the number of the others.
fn keep_few(files: &ModelFiles, wrong: &[Error], keep: &mut impl FnMut(&'static str, &Error)) {
    wrong.iter().take(FINDINGS_SHOWN).for_each(|error| keep("files", error));
    if let Some(more) = wrong.len().checked_sub(FINDINGS_SHOWN).filter(|&more| more > 0) {
        let message = format!("does not agree with the shards in {more} more places");
        keep("files", &Error::file(files.path_of(INDEX), message));
    }
}

fn names(checkpoint: &Checkpoint, names: Option<Names>) -> BTreeMap<String, String> {
    let renamed = |name: &str| match names.map_or(Rename::Keep, |names| names.rename(name)) {
        Rename::Keep => Some(name.to_owned()),
        Rename::To(name) => Some(name),
        Rename::Derived(derived) if derived.iter().any(|derived| derived.name == name) => {
            Some(name.to_owned())
        }
        // Experts that could not be stacked, and what could not be derived: reported already.
        Rename::Expert { .. } | Rename::Derived(_) | Rename::Drop => None,
    };
    checkpoint.iter().filter_map(|(name, _)| Some((renamed(name)?, name.to_owned()))).collect()
}
