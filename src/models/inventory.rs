//! Contents of a model, to the byte: layers, classes of bytes, bits per weight. From headers alone.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::bitmap::BitMap;
use super::source::SourceModel;
use crate::formats::entry::Incoming;
use crate::models::spec::{Role, TensorSpec};
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::{Quant, divisible};

/// One matrix, or those of all experts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerEntry {
    /// Path of the layer, such as `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Rows and columns, after the number of experts whose matrices these are.
    pub shape: Vec<usize>,
    /// Bits of a code; `null` for float.
    pub bits: Option<u32>,
    /// Weights that share a scale; `null` for float.
    pub group_size: Option<u32>,
    /// MLX's mode; `null` for float.
    pub mode: Option<&'static str>,
    /// Form of another tool that the layer came in; `null` for float and for what MLX quantized.
    pub form: Option<&'static str>,
    /// Stored bytes: codes, scales and biases, or float weights.
    pub bytes: u64,
    /// Block that the layer is in.
    #[serde(skip)]
    pub block: Option<usize>,
    /// Role of the layer.
    #[serde(skip)]
    pub role: Role,
}

impl LayerEntry {
    /// Returns the number of weights.
    pub fn weights(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product()
    }

    /// True if the layer is quantized, or could be: some affine group divides its rows.
    fn is_quantizable(&self) -> bool {
        self.bits.is_some() || divisible(self.shape.last().copied().unwrap_or(0))
    }
}

/// Bytes by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassBytes {
    /// Everything.
    pub total: u64,
    /// The token embedding, float or quantized.
    pub embeddings: u64,
    /// Packed codes of quantized layers.
    pub codes: u64,
    /// Scales and biases of quantized layers.
    pub scales_biases: u64,
    /// Whatever else is float.
    pub float: u64,
}

/// The contents of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Inventory {
    /// Matrices, in the manifest's order.
    pub layers: Vec<LayerEntry>,
    /// Bytes by class.
    pub bytes: ClassBytes,
    /// Values before any packing.
    pub parameters: u64,
}

impl Inventory {
    /// Counts what `source` holds now.
    pub fn of_source(source: &SourceModel) -> Self {
        Self::build(source, source.bitmap(), |spec, layer| {
            stored_bytes(source, spec, layer.map(|(path, _)| path))
        })
    }

    /// Counts what `source` will hold with `bitmap`, its float part in `dtype`. Layers that are quantized already keep
    /// theirs.
    pub fn planned(source: &SourceModel, bitmap: &BitMap, dtype: Dtype) -> Self {
        Self::build(source, bitmap, |spec, layer| match layer {
            None => (spec.len() as u64 * source.written_dtype(&spec.name, dtype).size() as u64, 0),
            Some((path, _)) if source.bitmap().contains_key(path) => stored_bytes(source, spec, Some(path)),
            Some((_, quant)) => {
                let total = quant.bytes(spec.rows(), spec.columns(), dtype.size()).unwrap_or(0);
                let codes = spec.len() as u64 * u64::from(quant.bits) / 8;
                (codes, total - codes)
            }
        })
    }

    /// Counts layers and bytes; `sizes` gives the bytes of codes (or float values) and of scales and biases.
    fn build(
        source: &SourceModel,
        bitmap: &BitMap,
        sizes: impl Fn(&TensorSpec, Option<(&str, Quant)>) -> (u64, u64),
    ) -> Self {
        let mut bytes = ClassBytes::default();
        let mut layers = Vec::new();
        for spec in source.manifest().iter() {
            let layer = spec.path().and_then(|path| Some((path, *bitmap.get(path)?)));
            let (values, scales) = sizes(spec, layer);
            bytes.total += values + scales;
            match (spec.role, layer) {
                (Role::Embed | Role::Positions, _) => bytes.embeddings += values + scales,
                (_, None) => bytes.float += values,
                (_, Some(_)) => {
                    bytes.codes += values;
                    bytes.scales_biases += scales;
                }
            }
            if let Some(path) = spec.path() {
                let quant = layer.map(|(_, quant)| quant);
                layers.push(LayerEntry {
                    path: path.to_owned(),
                    shape: spec.shape.clone(),
                    bits: quant.map(|q| q.bits),
                    group_size: quant.map(|q| q.group_size),
                    mode: quant.map(|q| q.mode.name()),
                    form: source.tensor(&spec.name).ok().and_then(|tensor| Some(tensor.incoming?.form)),
                    bytes: values + scales,
                    block: spec.layer,
                    role: spec.role,
                });
            }
        }
        Self { layers, bytes, parameters: source.manifest().parameters() }
    }

    /// Bits a weight of the linear layers that MLX could quantize, whether they are or not. Embeddings, routers, norms and
    /// layers whose rows no group size divides are outside, as they are outside `--target-bpw`.
    pub fn bpw_quantized(&self) -> f64 {
        let linear = self.layers.iter().filter(|layer| layer.role.is_linear() && layer.is_quantizable());
        let (bytes, weights) =
            linear.fold((0, 0), |(bytes, weights), layer| (bytes + layer.bytes, weights + layer.weights()));
        if weights == 0 { 0.0 } else { bytes as f64 * 8.0 / weights as f64 }
    }

    /// Returns the number of linear layers that are float because no group size divides their rows.
    pub fn indivisible(&self) -> usize {
        self.layers.iter().filter(|layer| layer.role.is_linear() && !layer.is_quantizable()).count()
    }

    /// Bits a parameter of the whole model.
    pub fn bpw_model(&self) -> f64 {
        self.bytes.total as f64 * 8.0 / self.parameters as f64
    }

    /// Returns the roles that linear layers of blocks have, in the order of columns.
    pub fn roles(&self) -> Vec<Role> {
        let occurs = |role: &Role| self.layers.iter().any(|layer| layer.role == *role);
        Role::BLOCK.into_iter().filter(occurs).collect()
    }

    /// The layers of the blocks.
    pub fn cells(&self) -> BTreeMap<(usize, Role), &LayerEntry> {
        self.layers.iter().filter_map(|layer| Some(((layer.block?, layer.role), layer))).collect()
    }
}

/// Bytes of `spec`'s values or codes, and of the scales and biases of a quantized `layer`.
fn stored_bytes(source: &SourceModel, spec: &TensorSpec, layer: Option<&str>) -> (u64, u64) {
    if let Ok(tensor) = source.tensor(&spec.name)
        && let Some(Incoming { quant: None, bytes_per_value, .. }) = tensor.incoming
    {
        return ((bytes_per_value * tensor.len() as f64).round() as u64, 0);
    }
    let size = |name: &str| source.tensor(name).map_or(0, |tensor| tensor.byte_len() as u64);
    let scales = layer.map_or(0, |path| size(&format!("{path}.scales")) + size(&format!("{path}.biases")));
    (size(&spec.name), scales)
}
