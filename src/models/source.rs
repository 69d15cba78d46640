//! A model folder or pack, Hugging Face's or MLX's, opened and checked: config, tensors under mlx-lm's names, bit map.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

use super::bitmap;
use super::bitmap::BitMap;
use super::config::ModelConfig;
use super::incoming::{Forms, decode_layer, decode_routers, drop_zero_biases};
use super::mechanisms;
use super::names::Rename;
use super::notes::{Notes, Sentences};
use super::towers::Towers;
use crate::error::{Error, Result};
use crate::files::digest::hexadecimal;
use crate::files::model_files::ModelFiles;
use crate::formats::checkpoint::{Checkpoint, Tensor};
use crate::formats::entry::Incoming;
use crate::models::architectures::{Architecture, TensorShapes};
use crate::models::dropped::{drop_extra, drop_tied_head, left_out, not_tied};
use crate::models::spec::{DecoderSpec, Manifest, Role, TensorSpec, with_columns};
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::{Mode, Quant};

/// A model folder or pack whose config and tensors agree: nothing missing, nothing left over, every shape as expected.
#[derive(Debug)]
pub struct SourceModel {
    files: ModelFiles,
    config: ModelConfig,
    decoder_config: ModelConfig,
    row: &'static Architecture,
    checkpoint: Checkpoint,
    towers: Towers,
    spec: DecoderSpec,
    manifest: Manifest,
    bitmap: BitMap,
    stored: BTreeMap<String, String>,
    tied_head: Option<String>,
    notes: Notes,
    file_notes: Vec<String>,
}

/// A stored tensor with the name it gets.
#[derive(Debug, Clone, Copy)]
pub struct SourceTensor<'a> {
    /// mlx-lm's name.
    pub name: &'a str,
    /// Data in the weight file.
    pub tensor: Tensor<'a>,
}

impl SourceModel {
    /// Opens the folder or pack `path`, and fails where [`SourceModel::verify`] does.
    pub fn open(path: &Path) -> Result<Self> {
        let model = Self::open_headers(path)?;
        model.verify()?;
        Ok(model)
    }

    /// Opens the folder or pack `path` and reads headers only: for what looks at names, types and shapes and at no value, or
    /// has other things to check before [`SourceModel::verify`].
    pub fn open_headers(path: &Path) -> Result<Self> {
        Self::headers_from_files(ModelFiles::open(path)?)
    }

    /// Takes the layers that are quantized for float ones with the values that their codes stand for.
    pub fn decoded(mut self) -> Result<Self> {
        Sentences { all: self.spec.notes, of_files: self.file_notes } = self.notes.where_decoded();
        for (layer, quant) in std::mem::take(&mut self.bitmap) {
            decode_layer(&mut self.checkpoint, &mut self.stored, &layer, quant)?;
        }
        Ok(self)
    }

    /// Returns the notes of [`SourceModel::spec`] as they are where every layer is decoded.
    pub(crate) fn notes_where_decoded(&self) -> Vec<String> {
        self.notes.where_decoded().all
    }

    /// Returns the number of layers that came in another tool's form and are decoded wherever the model is read.
    pub fn always_decoded(&self) -> usize {
        self.notes.forms.always_decoded()
    }

    /// Returns the layers that came in another tool's form, or were decoded, in the manifest's order.
    pub fn incoming(&self) -> impl Iterator<Item = (&str, Incoming)> {
        let of = |spec: &TensorSpec| self.tensor(&spec.name).ok()?.incoming;
        self.manifest.iter().filter_map(move |spec| Some((spec.path()?, of(spec)?)))
    }

    /// Opens the model that `files` are, as [`SourceModel::open_headers`].
    fn headers_from_files(files: ModelFiles) -> Result<Self> {
        let config = ModelConfig::from_files(&files)?;
        let row = mechanisms::find_architecture(&config, &files)?;
        let (checkpoint, wrong) = Checkpoint::open_with_faults(&files)?;
        if let Some(error) = wrong.into_iter().next() {
            return Err(error);
        }
        Self::assemble(files, config, row, checkpoint)
    }

    /// The model of `files` whose weights are in `checkpoint`, whatever else their index lists. Values are not looked at.
    pub fn from_checkpoint(files: ModelFiles, mut checkpoint: Checkpoint) -> Result<Self> {
        checkpoint.absent.clear();
        let config = ModelConfig::from_files(&files)?;
        let row = mechanisms::find_architecture(&config, &files)?;
        Self::assemble(files, config, row, checkpoint)
    }

    fn assemble(
        files: ModelFiles,
        config: ModelConfig,
        row: &'static Architecture,
        mut checkpoint: Checkpoint,
    ) -> Result<Self> {
        let names = checkpoint.names(row);
        let unstacked = checkpoint.stack(names);
        let mut stored = names.stored_names(&checkpoint)?;
        let shapes: TensorShapes = stored
            .iter()
            .filter_map(|(name, original)| Some((name.clone(), checkpoint.get(original)?.shape.to_vec())))
            .collect();
        let (decoder, decoder_config) = row.decoder(&config)?;
        // Every command refuses a type that there is not, whether it needs the type or not.
        config.dtype()?;
        decoder_config.dtype()?;
        let mut spec = (decoder.spec)(&decoder_config, &shapes)?;
        let architecture = decoder.alias_of.unwrap_or(decoder.model_type);
        spec.notes.extend(mechanisms::ignored_keys(&decoder_config, architecture));
        let is_stored = |name: &str| stored.contains_key(name);
        let absent = checkpoint.absent(names.accounting(Some(&spec), is_stored));
        if let Some(error) = absent.into_iter().chain(unstacked).next() {
            return Err(error);
        }
        checkpoint.notes.extend(names.note());
        checkpoint.notes.extend(left_out(row, &checkpoint));
        spec.notes.extend(checkpoint.notes.iter().cloned());
        let tied_head = drop_tied_head(&mut spec, &checkpoint, &mut stored)?;
        drop_extra(&mut spec, &mut stored);
        let head = format!("{}.weight", spec.head.path);
        if let Some(head) = stored.get(&head).filter(|_| spec.head.normalized) {
            checkpoint.normalize_columns(head)?;
        }
        let manifest = spec.manifest();
        spec.notes.extend(decode_routers(&manifest, &mut checkpoint, &mut stored)?);
        spec.notes.extend(drop_zero_biases(&manifest, &checkpoint, &mut stored));
        let is_left_out = |layer: &str| {
            let weight = format!("{layer}.weight");
            spec.leaves_out(&weight)
                || names.rename(&weight) == Rename::Drop
                || (spec.head.tied && layer == spec.head.path)
                || mechanisms::is_of_tower(layer)
        };
        let (bitmap, of_bitmap) = bitmap::resolve(&config, &manifest, &checkpoint, &stored, is_left_out)?;
        let towers = Towers::of(row.wrapper, &checkpoint);
        let notes = Notes {
            model: spec.notes,
            files: checkpoint.notes.clone(),
            forms: Forms::of(&manifest, &checkpoint, &stored),
            bitmap: of_bitmap,
            towers: towers.notes(),
        };
        let file_notes;
        Sentences { all: spec.notes, of_files: file_notes } = notes.where_taken();
        let model = Self {
            files,
            config,
            decoder_config,
            row,
            checkpoint,
            towers,
            spec,
            manifest,
            bitmap,
            stored,
            tied_head,
            notes,
            file_notes,
        };
        model.check()?;
        Ok(model)
    }

    /// Decisions about weight files, tensor names and the bit map that the user should know wherever the model is opened.
    pub fn file_notes(&self) -> &[String] {
        &self.file_notes
    }

    /// The folder or pack.
    pub fn dir(&self) -> &Path {
        self.files.path()
    }

    /// Its files.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// Returns the model's config.json.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Returns the keys of config.json that describe the decoder; in a wrapper, those of its text model.
    pub fn decoder_config(&self) -> &ModelConfig {
        &self.decoder_config
    }

    /// Returns the start that mlx-lm's names of the decoder's tensors have in a folder of this model, before those of
    /// [`SourceModel::tensors`].
    pub fn prefix(&self) -> &'static str {
        self.row.wrapper.map_or("", |wrapper| wrapper.prefix)
    }

    /// Returns the decoder's keys that mlx-lm reads beside its section of config.json.
    pub fn repeated_keys(&self) -> &'static [&'static str] {
        self.row.wrapper.map_or(&[], |wrapper| wrapper.repeated)
    }

    /// Returns the tensors beside the decoder.
    pub fn towers(&self) -> &Towers {
        &self.towers
    }

    /// Returns the tensors beside the decoder, each under the name that it gets where it is written.
    pub fn tower_tensors(&self) -> impl Iterator<Item = SourceTensor<'_>> {
        self.towers.tensors().filter_map(|(original, name)| {
            Some(SourceTensor { name, tensor: self.checkpoint.get(original)? })
        })
    }

    /// Returns the description of the decoder.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Returns the decoder's tensors, as float.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the layers that are quantized in this folder.
    pub fn bitmap(&self) -> &BitMap {
        &self.bitmap
    }

    /// Returns the weight files.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Checks what headers alone cannot tell: [`Checkpoint::verify`], and that a head which is left out because it is tied
    /// to the embedding equals the embedding.
    pub fn verify(&self) -> Result<()> {
        const STEP: usize = 4 << 20;
        self.checkpoint.verify()?;
        let Some(name) = &self.tied_head else { return Ok(()) };
        let embedding = self.tensor(&format!("{}.weight", self.spec.embed.path))?;
        let Some(head) = self.checkpoint.get(name) else { return Ok(()) };
        let length = embedding.byte_len();
        for start in (0..length).step_by(STEP) {
            let end = (start + STEP).min(length);
            if head.slice(start, end) != embedding.slice(start, end) {
                return Err(not_tied(&self.spec, &self.checkpoint, name));
            }
            head.release(start, end);
            embedding.release(start, end);
        }
        Ok(())
    }

    /// Returns the tensor that mlx-lm calls `name`, scales and biases of quantized layers among them.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        self.stored
            .get(name)
            .and_then(|original| self.checkpoint.get(original))
            .ok_or_else(|| Error::tensor(self.checkpoint.path(), name, "missing"))
    }

    /// Returns all tensors, sorted by mlx-lm's names.
    pub fn tensors(&self) -> impl Iterator<Item = SourceTensor<'_>> {
        self.stored.iter().filter_map(|(name, original)| {
            Some(SourceTensor { name, tensor: self.checkpoint.get(original)? })
        })
    }

    /// Returns the dtype of this model: that of most float weights, of the scales where layers are quantized. Values in
    /// another tool's form have none; where most are in one, config.json decides.
    pub fn dtype(&self) -> Result<Dtype> {
        let (mut values, mut incoming): (BTreeMap<Dtype, usize>, usize) = Default::default();
        for SourceTensor { tensor, .. } in self.tensors().filter(|source| source.tensor.dtype.is_float()) {
            if tensor.incoming.is_some() {
                incoming += tensor.len();
            } else {
                *values.entry(tensor.dtype).or_default() += tensor.len();
            }
        }
        let stored: usize = values.values().sum();
        let declared = self.declared_dtype()?;
        match values.into_iter().max_by_key(|(_, count)| *count) {
            Some((dtype, _)) if incoming < stored || declared.is_none() => Ok(writable(dtype)),
            _ => Ok(declared.unwrap_or(Dtype::F16)),
        }
    }

    /// Returns the dtype that config.json names.
    fn declared_dtype(&self) -> Result<Option<Dtype>> {
        let declared = match self.config.dtype()? {
            Some(dtype) => Some(dtype),
            None => self.decoder_config.dtype()?,
        };
        Ok(declared.map(writable))
    }

    /// Returns a note where config.json names another dtype than [`SourceModel::dtype`].
    pub fn dtype_note(&self) -> Result<Option<String>> {
        let dtype = self.dtype()?;
        let other = self.declared_dtype()?.filter(|declared| *declared != dtype);
        Ok(other.map(|declared| {
            format!("most weights are {dtype}, and config.json says {declared}: the weights decide, or setting `dtype`")
        }))
    }

    /// Returns the dtype that the float tensor `name` is written in where the model is written in `dtype`: its own for what
    /// experts are chosen with, as mlx-lm does, since the choice hangs on small differences.
    pub fn written_dtype(&self, name: &str, dtype: Dtype) -> Dtype {
        let is_correction = self.manifest.get(name).is_some_and(|spec| spec.role == Role::Correction);
        match self.tensor(name) {
            Ok(tensor) if is_correction => writable(tensor.dtype),
            _ => dtype,
        }
    }

    /// Returns a SHA-256 over config.json's keys, and over name, dtype, shape and both ends (64 KiB each) of every tensor:
    /// tells models apart without reading them whole.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let keys = serde_json::to_vec(self.config.keys());
        hash.update(keys.map_err(|e| Error::file(self.config.path(), e.to_string()))?);
        self.hash_weights(&mut hash);
        Ok(hexadecimal(hash))
    }

    /// Returns a SHA-256 over name, dtype, shape and both ends (64 KiB each) of every tensor.
    pub fn weights_fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        self.hash_weights(&mut hash);
        hexadecimal(hash)
    }

    fn hash_weights(&self, hash: &mut Sha256) {
        const END: usize = 64 << 10;
        for SourceTensor { name, tensor } in self.tensors() {
            let length = tensor.byte_len();
            hash.update(format!("{name} {} {:?}", tensor.dtype, tensor.shape));
            for (start, end) in [(0, length.min(END)), (length.saturating_sub(END), length)] {
                hash.update(tensor.slice(start, end));
                tensor.release(start, end);
            }
        }
    }

    /// Codes are uint32, floating-point modes' scales uint8, everything else float, biases as their scales.
    fn check_dtype(&self, source: &SourceTensor<'_>) -> Result<()> {
        let dtype = source.tensor.dtype;
        let layer = source.name.rsplit_once('.');
        let part = layer.and_then(|(layer, part)| Some((layer, part, self.bitmap.get(layer)?)));
        let expected = match part {
            Some((_, "weight", _)) if dtype != Dtype::U32 => "codes are uint32",
            Some((_, "scales", quant)) if quant.mode != Mode::Affine && dtype != Dtype::U8 => {
                "scales of this mode are uint8"
            }
            Some((_, "scales", quant)) if quant.mode == Mode::Affine && !dtype.is_float() => {
                "scales of affine layers are float"
            }
            Some((layer, "biases", _)) if self.tensor(&format!("{layer}.scales"))?.dtype != dtype => {
                "biases are of the same type as their scales"
            }
            None | Some((_, "bias", _)) if !dtype.is_float() => {
                "weights of float layers are float; packed integers of other tools cannot be read"
            }
            _ => return Ok(()),
        };
        Err(Error::tensor(source.tensor.file, source.name, format!("is {dtype}: {expected}"))
            .hint("config.json and the weights do not belong together, or another tool quantized them"))
    }

    fn check(&self) -> Result<()> {
        let path = self.checkpoint.path();
        let mut expected: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for spec in self.manifest.iter() {
            match spec.path().and_then(|layer| Some((layer, *self.bitmap.get(layer)?))) {
                None => {
                    expected.insert(spec.name.clone(), spec.shape.clone());
                }
                Some((layer, quant)) => expected.extend(packed_shapes(path, layer, spec, quant)?),
            }
        }
        if let Some(missing) = expected.keys().find(|name| !self.stored.contains_key(*name)) {
            if missing.strip_suffix(".weight") == Some(self.spec.head.path.as_str()) {
                return Err(Error::tensor(
                    path,
                    missing,
                    "missing, and config.json says that the head is not tied",
                )
                .hint(format!("{}; otherwise the download is incomplete", self.spec.head.tie_hint())));
            }
            return Err(Error::tensor(path, missing, "missing").hint(format!(
                "a `{}` model with this config needs it: config.json and weights do not belong together, or the download is incomplete{}",
                self.config.model_type(),
                if self.spec.experts().is_some() { "; config.json also says which blocks have experts" } else { "" }
            )));
        }
        for source in self.tensors() {
            self.check_dtype(&source)?;
            let Some(shape) = expected.get(source.name) else {
                let name = match (self.row.wrapper, self.stored.get(source.name)) {
                    (Some(_), Some(original)) => original,
                    _ => source.name,
                };
                return Err(Error::tensor(path, name, "not part of this architecture").hint(format!(
                    "a `{}` model with this config has no such tensor; dropping it silently would change the model",
                    self.config.model_type()
                )));
            };
            if source.tensor.shape != shape.as_slice() {
                if let ([there, found @ ..], [wanted, each @ ..]) = (source.tensor.shape, &shape[..])
                    && found == each
                    && source.tensor.is_stacked()
                {
                    let message = format!("{there} experts are there, config.json says {wanted}");
                    return Err(Error::tensor(path, source.name, message)
                        .hint("the download is incomplete, or config.json is of another model"));
                }
                let origin = source.tensor.made_of().filter(|origin| *origin != source.name);
                let made_of = origin.map_or(String::new(), |origin| format!("made of `{origin}`: "));
                return Err(Error::tensor(
                    source.tensor.file,
                    source.name,
                    format!("{made_of}shape {:?}, expected {shape:?}", source.tensor.shape),
                )
                .hint(match &self.spec.defaults_taken {
                    Some(taken) => format!("{taken}; add these keys if the weights have other sizes"),
                    None => "config.json and the weights do not belong together".to_owned(),
                }));
            }
        }
        Ok(())
    }
}

/// MLX files have no float64: such a model is taken as float32.
fn writable(dtype: Dtype) -> Dtype {
    if dtype == Dtype::F64 { Dtype::F32 } else { dtype }
}

fn packed_shapes(
    path: &Path,
    layer: &str,
    spec: &TensorSpec,
    quant: Quant,
) -> Result<Vec<(String, Vec<usize>)>> {
    let columns = spec.columns();
    let (Some(words), Some(groups)) = (quant.packed_columns(columns), quant.groups(columns)) else {
        return Err(Error::tensor(
            path,
            &spec.name,
            format!("{columns} columns cannot be quantized as {quant}"),
        )
        .hint("the bit map in config.json is wrong for this layer"));
    };
    let with = |columns: usize| with_columns(&spec.shape, columns);
    let mut shapes = vec![(spec.name.clone(), with(words)), (format!("{layer}.scales"), with(groups))];
    if quant.mode == Mode::Affine {
        shapes.push((format!("{layer}.biases"), with(groups)));
    }
    Ok(shapes)
}
