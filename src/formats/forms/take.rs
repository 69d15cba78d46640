//! Layers of other tools in a checkpoint: found, read, and replaced by what MLX or float arithmetic can use.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use super::declared::{Declared, Scheme, undeclared};
use super::layer::{Layer, Part, Values};
use super::parts::Parts;
use crate::error::{Error, Result};
use crate::files::model_files::ModelFiles;
use crate::formats::backing::{Made, Make};
use crate::formats::checkpoint::{Checkpoint, Tensor};
use crate::formats::entry::{Entry, Incoming};
use crate::formats::stored::Stored;
use crate::numerics::dtype::Dtype;
use crate::words::list;

/// Scales of keys, values and activations that belong to no layer's weight.
const ACTIVATIONS: [&str; 8] = [
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".prob_scale",
    ".output_scale",
    ".input_scale",
    ".activation_scale",
    ".kv_cache_scaling_factor",
];

/// Hint where config.json and the tensors disagree.
const FOREIGN_CONFIG: &str = "config.json is not the one that belongs to these weights";

/// Replaces the layers of `checkpoint`, which is of `files`, that are in the form that config.json declares.
///
/// # Errors
/// Where a layer's tensors do not fit its form, or are in one that is not declared.
pub(crate) fn take(
    checkpoint: &mut Checkpoint,
    declared: Option<&Declared>,
    files: &ModelFiles,
) -> Result<()> {
    if let Some(declared) = declared {
        take_declared(checkpoint, declared)?;
    }
    match (first_packed(checkpoint), declared) {
        (None, _) => refuse_scaled(checkpoint),
        (Some((name, _)), None) => Err(undeclared(files, name)),
        (Some((name, tensor)), Some(Declared { method, .. })) => {
            let message = format!("is packed, and not as the {method} settings say");
            Err(Error::tensor(tensor.file, name, message).hint(FOREIGN_CONFIG))
        }
    }
}

fn take_declared(checkpoint: &mut Checkpoint, declared: &Declared) -> Result<()> {
    checkpoint.stored_bytes = Some(checkpoint.stored_bytes());
    checkpoint.notes.extend(note_without_layer(checkpoint, declared));
    let layers = layers(checkpoint, declared);
    for (path, scheme) in &layers {
        let mut parts = Parts::new(checkpoint, path);
        let layer = scheme.read(&mut parts)?;
        let (taken, bytes) = (parts.taken, parts.bytes);
        checkpoint.insert_layer(&Place::of(path, scheme.completes_weight()), &taken, bytes, layer)?;
    }
    refuse_left(checkpoint, declared)?;
    let is_of_activations = |name: &&String| ACTIVATIONS.iter().any(|end| name.ends_with(end));
    let left: Vec<String> = checkpoint.entries.keys().filter(is_of_activations).cloned().collect();
    for name in &left {
        checkpoint.entries.remove(name);
    }
    if layers.is_empty() {
        checkpoint.notes.push(format!(
            "config.json says that the checkpoint is quantized by {}, and no tensor is: the weights are taken as they are",
            declared.method
        ));
    }
    Ok(())
}

/// Returns a sentence about settings of single layers that name none.
fn note_without_layer(checkpoint: &Checkpoint, declared: &Declared) -> Option<String> {
    let key = declared.layer_key.as_ref()?;
    let mut paths: Vec<&str> =
        checkpoint.entries.keys().filter_map(|name| Some(name.rsplit_once('.')?.0)).collect();
    paths.dedup();
    let of_none = declared.schemes.iter().flat_map(|(targets, _)| targets.without_layer(&paths));
    let of_none: BTreeSet<String> = of_none.map(|name| format!("`{name}`")).collect();
    let of_none: Vec<String> = of_none.into_iter().collect();
    (!of_none.is_empty()).then(|| format!("`{key}` names no layer of this model: {}", list(&of_none)))
}

/// Returns the first tensor that is packed in a form of another tool, with its name.
fn first_packed(checkpoint: &Checkpoint) -> Option<(&str, Tensor<'_>)> {
    let is_packed = |(name, tensor): &(&str, Tensor<'_>)| {
        Scheme::EVIDENT.iter().any(|scheme| scheme.layer_of(name, tensor.dtype).is_some())
    };
    checkpoint.iter().find(is_packed)
}

/// Fails where a layer in the form is left, which the targets in config.json do not have.
fn refuse_left(checkpoint: &Checkpoint, declared: &Declared) -> Result<()> {
    let is_left = |(name, tensor): &(&str, Tensor<'_>)| {
        declared.schemes.iter().any(|(_, scheme)| scheme.layer_of(name, tensor.dtype).is_some())
    };
    checkpoint.iter().find(is_left).map_or(Ok(()), |(name, tensor)| {
        let message =
            format!("is of a layer that no `targets` of config.json's {} settings have", declared.method);
        Err(Error::tensor(tensor.file, name, message).hint(FOREIGN_CONFIG))
    })
}

/// Names that the tensors of a layer get.
pub(crate) struct Place {
    layer: String,
    weight: String,
}

/// Tensor that a layer was read from, or the first of them.
pub(crate) struct Origin {
    pub(crate) name: String,
    /// File that it lies in.
    pub(crate) path: PathBuf,
}

impl Place {
    /// Returns the names for a layer that was found at `path`: of the layer or, where a form completes the weight's own name,
    /// of its weight.
    pub(crate) fn of(path: &str, is_weight: bool) -> Self {
        let layer = path.strip_suffix(".weight").unwrap_or(path).to_owned();
        let weight = if is_weight { path.to_owned() } else { format!("{path}.weight") };
        Self { layer, weight }
    }
}

/// Returns the paths of the layers that are in a declared form, with the form of each.
fn layers<'a>(checkpoint: &Checkpoint, declared: &'a Declared) -> Vec<(String, &'a Scheme)> {
    let mut seen = BTreeSet::new();
    let mut layers = Vec::new();
    for (name, entry) in &checkpoint.entries {
        for (targets, scheme) in &declared.schemes {
            let Some(path) = scheme.layer_of(name, entry.dtype) else { continue };
            if targets.has(path) && seen.insert(path.to_owned()) {
                layers.push((path.to_owned(), scheme));
            }
        }
    }
    layers
}

/// Fails where numbers of 8 bits are left, which mean nothing without scales.
fn refuse_scaled(checkpoint: &Checkpoint) -> Result<()> {
    let is_scaled = |dtype| matches!(dtype, Dtype::F8E4M3 | Dtype::F8E8M0);
    let Some((name, tensor)) = checkpoint.iter().find(|(_, tensor)| is_scaled(tensor.dtype)) else {
        return Ok(());
    };
    let dtype = tensor.dtype.safetensors();
    Err(Error::tensor(tensor.file, name, format!("dtype {dtype} is not supported without a scale that config.json's `quantization_config` accounts for"))
        .hint("config.json must be the one that belongs to these weights; checkpoints in float64, float32, float16, bfloat16 or MLX's quantized form need none"))
}

impl Checkpoint {
    /// Puts `layer`, which was read from `taken` tensors of `bytes` bytes in all, in the place of these.
    fn insert_layer(&mut self, place: &Place, taken: &[String], bytes: usize, layer: Layer) -> Result<()> {
        let name = taken.first().cloned().unwrap_or_default();
        let first = self.entries.get(&name).and_then(|entry| entry.pieces.first());
        let path = first.map_or_else(|| self.path().to_owned(), |piece| self.files[piece.file].path.clone());
        let parts = self.parts_of_layer(place, &Origin { name, path }, bytes, layer);
        for name in taken {
            self.entries.remove(name);
        }
        parts.into_iter().try_for_each(|(name, entry)| self.insert(name, entry))
    }

    /// Makes the tensors of `layer`, which has `bytes` bytes in its form, under the names of `place`.
    pub(crate) fn parts_of_layer(
        &mut self,
        place: &Place,
        origin: &Origin,
        bytes: usize,
        layer: Layer,
    ) -> Vec<(String, Entry)> {
        let Layer { form, shape, values, conditions } = layer;
        self.conditions.extend(conditions);
        let bytes_per_value = bytes as f64 / shape.iter().product::<usize>().max(1) as f64;
        let of = |quant| Some(Incoming { form, quant, bytes_per_value });
        match values {
            Values::Floats(rows) => {
                vec![(
                    place.weight.clone(),
                    self.part(origin, &shape, Part::Made(Dtype::F32, rows), of(None)),
                )]
            }
            Values::Mlx { quant, codes, scales, biases } => {
                let columns = shape.last().copied().unwrap_or(0);
                let leading = &shape[..shape.len().saturating_sub(1)];
                let words = [leading, &[quant.packed_columns(columns).unwrap_or(0)]].concat();
                let groups = [leading, &[quant.groups(columns).unwrap_or(0)]].concat();
                let codes = self.part(origin, &words, codes, of(Some(quant)));
                let scales = self.part(origin, &groups, scales, None);
                let biases = biases.map(|biases| self.part(origin, &groups, biases, None));
                let parts = [(".weight", Some(codes)), (".scales", Some(scales)), (".biases", biases)];
                let named =
                    |(end, part): (&str, Option<Entry>)| Some((format!("{}{end}", place.layer), part?));
                parts.into_iter().filter_map(named).collect()
            }
        }
    }

    /// Makes the entry of a part of a layer that was read from the tensor `origin` and others.
    fn part(&mut self, origin: &Origin, shape: &[usize], values: Part, incoming: Option<Incoming>) -> Entry {
        let dtype = match &values {
            Part::Same(_) if incoming.is_some() => Dtype::U32,
            Part::Same(_) => Dtype::U8,
            Part::Made(dtype, _) => *dtype,
        };
        let stays = |stored: &Stored| self.entries.get(&stored.name).filter(|entry| entry.gather.is_none());
        if let Part::Same(stored) = &values
            && let Some(entry) = stays(stored)
        {
            return Entry { dtype, shape: shape.to_vec(), incoming, ..entry.clone() };
        }
        let rows: Box<dyn Make> = match values {
            Part::Same(stored) => Box::new(Bytes { rows: shape.iter().rev().skip(1).product(), stored }),
            Part::Made(_, rows) => rows,
        };
        let row_bytes = shape.last().copied().unwrap_or(1) * dtype.size();
        let file = self.add_made(&origin.path, Made { row_bytes, rows });
        let each = shape.iter().product::<usize>() * dtype.size();
        let mut entry = Entry::new(file, dtype, shape.to_vec(), [0, each]);
        entry.parts.push(origin.name.clone());
        entry.incoming = incoming;
        entry
    }
}

/// Bytes of a tensor whose rows do not lie one after the other in its file.
#[derive(Debug)]
struct Bytes {
    rows: usize,
    stored: Box<Stored>,
}

impl Make for Bytes {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let row = self.stored.byte_len() / self.rows;
        out.copy_from_slice(&self.stored.tensor().slice(rows.start * row, rows.end * row));
    }
}
