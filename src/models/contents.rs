//! Contents of a weight file on its own, as far as names, types and shapes tell without a config.
//!
//! A quantized layer is a uint32 `.weight` beside `.scales` (and `.biases`, in affine mode). Of a row, that tells
//! bits x group size, which is often one setting, and sometimes one of two or three: then bits, group size and number of
//! columns stay unknown, and the settings are listed.

use serde::Serialize;

use super::inventory::ClassBytes;
use crate::formats::checkpoint::{Checkpoint, Tensor};
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::{AFFINE_BITS, AFFINE_GROUP_SIZES, Mode, Quant};

/// The last part of an embedding's path, or of a table of positions, in all architectures.
const EMBEDDINGS: [&str; 7] =
    ["embed_tokens", "tok_embeddings", "embedding", "wte", "wpe", "embed_in", "token_embeddings"];

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorEntry {
    /// Name of the tensor.
    pub name: String,
    /// Element type, as MLX calls it.
    pub dtype: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Bytes of its data.
    pub bytes: u64,
}

/// A matrix, or a stack of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileLayer {
    /// Path of the layer.
    pub path: String,
    /// Sizes before packing; `None` where those of a quantized layer are not certain.
    pub shape: Option<Vec<usize>>,
    /// Bits of a code; `None` for float, and where not certain.
    pub bits: Option<u32>,
    /// Weights that share a scale; `None` for float, and where not certain.
    pub group_size: Option<u32>,
    /// MLX's mode; `None` for float.
    pub mode: Option<&'static str>,
    /// Form that another tool stored the layer in: `None`, as config.json alone names it.
    pub form: Option<&'static str>,
    /// Stored bytes: codes, scales and biases, or float weights.
    pub bytes: u64,
    /// Settings that a quantized layer may have, where not certain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<String>,
}

/// The contents of a weight file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileContents {
    /// All tensors, by name.
    pub tensors: Vec<TensorEntry>,
    /// Matrices, by path.
    pub layers: Vec<FileLayer>,
    /// Bytes by class.
    pub bytes: ClassBytes,
    /// Values before any packing; `None` where not certain.
    pub parameters: Option<u64>,
}

impl FileContents {
    /// Looks at headers only.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let mut contents = Self { parameters: Some(0), ..Self::default() };
        for (name, tensor) in checkpoint.iter() {
            let bytes = tensor.byte_len() as u64;
            contents.tensors.push(TensorEntry {
                name: name.to_owned(),
                dtype: tensor.dtype.to_string(),
                shape: tensor.shape.to_vec(),
                bytes,
            });
            contents.bytes.total += bytes;
            let (path, part) = name.rsplit_once('.').unwrap_or((name, ""));
            match (quantized_layer(checkpoint, path), part) {
                (Some(layer), "weight") => contents.add_quantized(layer, bytes),
                (Some(_), "scales" | "biases") => {}
                _ => contents.add_float(path, part, &tensor),
            }
        }
        contents
    }

    fn add_quantized(&mut self, layer: FileLayer, codes: u64) {
        if is_embedding(&layer.path) {
            self.bytes.embeddings += layer.bytes;
        } else {
            self.bytes.codes += codes;
            self.bytes.scales_biases += layer.bytes - codes;
        }
        self.count(layer.shape.as_deref());
        self.layers.push(layer);
    }

    fn add_float(&mut self, path: &str, part: &str, tensor: &Tensor<'_>) {
        let bytes = tensor.byte_len() as u64;
        let class = if is_embedding(path) { &mut self.bytes.embeddings } else { &mut self.bytes.float };
        *class += bytes;
        self.count(Some(tensor.shape));
        if part == "weight" && tensor.shape.len() > 1 && tensor.dtype.is_float() {
            self.layers.push(FileLayer {
                path: path.to_owned(),
                shape: Some(tensor.shape.to_vec()),
                bits: None,
                group_size: None,
                mode: None,
                form: None,
                bytes,
                settings: Vec::new(),
            });
        }
    }

    fn count(&mut self, shape: Option<&[usize]>) {
        let values = shape.map(|shape| shape.iter().map(|&n| n as u64).product::<u64>());
        self.parameters = self.parameters.zip(values).map(|(sum, values)| sum + values);
    }

    /// Bits a weight of all matrices but embeddings; `None` where not certain.
    pub fn bpw_quantized(&self) -> Option<f64> {
        let (mut bytes, mut weights) = (0, 0);
        for layer in self.layers.iter().filter(|layer| !is_embedding(&layer.path)) {
            bytes += layer.bytes;
            weights += layer.shape.as_ref()?.iter().product::<usize>();
        }
        Some(if weights == 0 { 0.0 } else { bytes as f64 * 8.0 / weights as f64 })
    }

    /// Bits a value of the whole file; `None` where not certain.
    pub fn bpw_model(&self) -> Option<f64> {
        self.parameters.filter(|&n| n > 0).map(|n| self.bytes.total as f64 * 8.0 / n as f64)
    }
}

fn is_embedding(path: &str) -> bool {
    path.rsplit('.').next().is_some_and(|name| EMBEDDINGS.contains(&name))
}

/// The layer at `path` if its tensors are those of a quantized one.
fn quantized_layer(checkpoint: &Checkpoint, path: &str) -> Option<FileLayer> {
    let part = |part: &str| checkpoint.get(&format!("{path}.{part}"));
    let (codes, scales, biases) = (part("weight")?, part("scales")?, part("biases"));
    let (&words, rows) = codes.shape.split_last()?;
    let (&groups, scale_rows) = scales.shape.split_last()?;
    let as_scales = |biases: Tensor<'_>| biases.dtype == scales.dtype && biases.shape == scales.shape;
    let sound = codes.dtype == Dtype::U32 && !rows.is_empty() && rows == scale_rows && groups > 0;
    let settings = settings(words, groups, scales.dtype);
    if !sound || settings.is_empty() || !biases.map_or(scales.dtype == Dtype::U8, as_scales) {
        return None;
    }
    let certain = match settings[..] {
        [only] => Some(only),
        _ => None,
    };
    let shape = certain.map(|quant| [rows, &[groups * quant.group_size as usize]].concat());
    let bytes = [Some(codes), Some(scales), biases].into_iter().flatten().map(|t| t.byte_len() as u64);
    Some(FileLayer {
        path: path.to_owned(),
        shape,
        bits: certain.map(|quant| quant.bits),
        group_size: certain.map(|quant| quant.group_size),
        mode: settings.first().map(|quant| quant.mode.name()),
        form: None,
        bytes: bytes.sum(),
        settings: if certain.is_some() {
            Vec::new()
        } else {
            settings.iter().map(Quant::to_string).collect()
        },
    })
}

/// The settings in which a row of `words` 32-bit words has `groups` groups with scales of type `scales`.
fn settings(words: usize, groups: usize, scales: Dtype) -> Vec<Quant> {
    let affine =
        AFFINE_BITS.iter().flat_map(|&bits| AFFINE_GROUP_SIZES.map(|size| Quant::affine(bits, size)));
    let floating = [Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4].map(Mode::default_quant);
    let all: Vec<Quant> = match scales {
        Dtype::U8 => floating.to_vec(),
        _ if scales.is_float() => affine.collect(),
        _ => Vec::new(),
    };
    let fits = |quant: &Quant| (quant.group_size * quant.bits) as usize * groups == words.saturating_mul(32);
    all.into_iter().filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_follow_from_shapes() {
        let found = |words, groups, dtype| -> Vec<String> {
            settings(words, groups, dtype).iter().map(Quant::to_string).collect()
        };
        // 128 columns each.
        assert_eq!(found(12, 4, Dtype::F16), ["3:32"]);
        assert_eq!(found(16, 4, Dtype::F16), ["2:64", "4:32"]);
        assert_eq!(found(16, 2, Dtype::F32), ["2:128", "4:64", "8:32"]);
        assert_eq!(found(32, 1, Dtype::BF16), ["8:128"]);
        assert_eq!(found(16, 4, Dtype::U8), ["4:32:mxfp4"]);
        assert_eq!(found(32, 4, Dtype::U8), ["8:32:mxfp8"]);
        assert_eq!(found(16, 8, Dtype::U8), ["4:16:nvfp4"]);
        assert!(found(7, 4, Dtype::F16).is_empty() && found(16, 4, Dtype::I8).is_empty());
    }
}
