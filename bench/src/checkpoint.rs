//! Checkpoints of real shapes with random weights, made once under `bench-data/`.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mixbit::models::architectures::{self, TensorShapes};
use mixbit::models::config::ModelConfig;
use safetensors::{Dtype, View};
use serde_json::{Value, json};
use xtask::workspace;

/// Model folder that config keys and the tokenizer are taken from.
const TEMPLATE: &str = "fixtures/models/mobilellm-docs-1m";
/// Number of random values; each tensor reads them in a circle, from a start of its own.
const RANDOM_VALUES: usize = 1 << 20;
/// Bytes of a float32 value.
const VALUE_BYTES: usize = 4;

/// A float32 checkpoint to make: its config, and its tensors with their shapes.
pub struct Checkpoint {
    folder: &'static str,
    config: Value,
    tensors: Vec<(String, Vec<usize>)>,
}

/// Returns MobileLLM-R1-950M's shape.
pub fn mobilellm_r1_950m() -> Result<Checkpoint> {
    mobilellm_r1("mobilellm-r1-950m", 22)
}

/// Returns MobileLLM-R1-950M's shape with twice its blocks: 1700M parameters.
pub fn mobilellm_r1_deep() -> Result<Checkpoint> {
    mobilellm_r1("mobilellm-r1-deep", 44)
}

fn mobilellm_r1(folder: &'static str, layers: usize) -> Result<Checkpoint> {
    let template = workspace::root().join(TEMPLATE).join("config.json");
    let text =
        fs::read_to_string(&template).with_context(|| format!("cannot read {}", template.display()))?;
    let mut config: Value = serde_json::from_str(&text)?;
    for (key, value) in [
        ("hidden_size", json!(1536)),
        ("num_hidden_layers", json!(layers)),
        ("num_attention_heads", json!(24)),
        ("num_key_value_heads", json!(6)),
        ("head_dim", json!(64)),
        ("intermediate_size", json!(6144)),
        ("intermediate_size_mlp", json!(6144)),
        ("vocab_size", json!(128_256)),
        ("tie_word_embeddings", json!(true)),
        ("use_qk_norm", json!(true)),
        ("no_rope_layers", json!(vec![1; layers])),
        ("rope_theta", json!(8_000_000.0)),
        ("max_position_embeddings", json!(32768)),
        ("rms_norm_eps", json!(1e-5)),
        ("torch_dtype", json!("float32")),
    ] {
        config[key] = value;
    }
    let tensors = list_tensors(&template, &config)?;
    Ok(Checkpoint { folder, config, tensors })
}

/// Returns name and shape of each tensor that a decoder with this config has, sorted by name.
fn list_tensors(path: &Path, config: &Value) -> Result<Vec<(String, Vec<usize>)>> {
    let config = ModelConfig::parse(path, &config.to_string())?;
    let architecture = architectures::find(&config)?;
    let spec = (architecture.spec)(&config, &TensorShapes::new())?;
    let manifest = spec.manifest();
    Ok(manifest.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect())
}

impl Checkpoint {
    /// Returns the number of weights.
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Returns the name of the folder.
    pub fn name(&self) -> &'static str {
        self.folder
    }

    /// Returns the bytes of all matrices, those of the embedding included.
    pub fn matrix_bytes(&self) -> usize {
        self.tensors.iter().filter(|(_, shape)| shape.len() == 2).map(|(_, shape)| bytes(shape)).sum()
    }

    /// Returns the bytes of the matrices that mixbit quantizes: all but the embedding.
    pub fn linear_bytes(&self) -> usize {
        let embedding = self.tensors.iter().find(|(name, _)| name == "model.embed_tokens.weight");
        self.matrix_bytes() - embedding.map_or(0, |(_, shape)| bytes(shape))
    }

    /// Returns the path of the folder, written first if it is not there.
    pub fn ensure(&self) -> Result<PathBuf> {
        let data = workspace::root().join("bench-data");
        let folder = data.join(self.folder);
        if folder.exists() {
            return Ok(folder);
        }
        eprintln!("bench: writing {} ({} M random weights)", folder.display(), self.parameters() / 1_000_000);
        let part = data.join(format!("{}.part", self.folder));
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        fs::create_dir_all(&part)?;
        fs::write(part.join("config.json"), serde_json::to_string_pretty(&self.config)?)?;
        copy_tokenizer(&part)?;
        self.write_weights(&part.join("model.safetensors"))?;
        fs::rename(&part, &folder)?;
        Ok(folder)
    }

    fn write_weights(&self, path: &Path) -> Result<()> {
        let (random, ones) = (little_endian(&normals()), little_endian(&[1.0; 4096]));
        let tensors = self.tensors.iter().enumerate().map(|(index, (name, shape))| {
            let is_norm = shape.len() == 1;
            let start = if is_norm { 0 } else { index * 7919 * 61 % RANDOM_VALUES * VALUE_BYTES };
            (name, CircularTensor { shape, values: if is_norm { &ones } else { &random }, start })
        });
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        safetensors::serialize_to_file(tensors, Some(metadata), path)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A float32 tensor whose bytes are read in a circle from `values`, beginning at `start`.
struct CircularTensor<'a> {
    shape: &'a [usize],
    values: &'a [u8],
    start: usize,
}

impl View for CircularTensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut data = Vec::with_capacity(self.data_len());
        let mut rest = &self.values[self.start..];
        while data.len() < self.data_len() {
            let count = rest.len().min(self.data_len() - data.len());
            data.extend_from_slice(&rest[..count]);
            rest = self.values;
        }
        Cow::Owned(data)
    }

    fn data_len(&self) -> usize {
        bytes(self.shape)
    }
}

fn bytes(shape: &[usize]) -> usize {
    shape.iter().product::<usize>() * VALUE_BYTES
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Returns nearly normal values (sums of four uniform ones) with a standard deviation of 0.02.
fn normals() -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let sum: u64 = (0..4).map(|part| (state >> (16 * part)) & 0xffff).sum();
        // Four uniforms of variance 1/12 each have a standard deviation of 0.577 together.
        (sum as f32 / 65536.0 - 2.0) / 0.577 * 0.02
    };
    (0..RANDOM_VALUES).map(|_| draw()).collect()
}

fn copy_tokenizer(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(workspace::root().join(TEMPLATE))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "config.json" && !name.ends_with(".safetensors") {
            fs::copy(entry.path(), folder.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_named() -> Result<()> {
        let checkpoint = mobilellm_r1_950m()?;
        assert_eq!(checkpoint.parameters(), 949_685_760);
        assert_eq!(checkpoint.matrix_bytes() - checkpoint.linear_bytes(), 128_256 * 1536 * 4);
        Ok(())
    }

    #[test]
    fn random_values_look_normal() {
        let values = normals();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let square = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 1e-4, "mean {mean}");
        assert!((square.sqrt() - 0.02).abs() < 2e-4, "deviation {}", square.sqrt());
    }

    #[test]
    fn tensors_read_values_in_a_circle() {
        let tensor = CircularTensor { shape: &[1, 3], values: &[0, 1, 2, 3, 4, 5, 6, 7], start: 4 };
        assert_eq!(*tensor.data(), [4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(tensor.data().len(), tensor.data_len());
    }
}
