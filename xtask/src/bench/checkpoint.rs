//! Checkpoints of real shapes with random weights, made once under `bench-data/`.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::workspace;

/// Config keys and the tokenizer come from here.
const TEMPLATE: &str = "fixtures/models/mobilellm-docs-1m";
/// Random values are drawn once; each tensor reads them in a circle, from another place.
const BLOCK: usize = 1 << 20;

/// The element type of a checkpoint.
#[derive(Clone, Copy)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
}

/// A checkpoint to make: its config and its tensors with their shapes.
pub struct Checkpoint {
    folder: &'static str,
    dtype: Dtype,
    config: Value,
    tensors: Vec<(String, Vec<usize>)>,
}

/// The sizes that the tensors' shapes follow from.
struct Sizes {
    hidden: usize,
    layers: usize,
    query: usize,
    key_value: usize,
    intermediate: usize,
    vocabulary: usize,
}

/// MobileLLM-R1-950M's shape in float32.
pub fn mobilellm_r1_950m() -> Result<Checkpoint> {
    mobilellm_r1("mobilellm-r1-950m", 22)
}

/// The same with twice its blocks: 1700M parameters.
pub fn mobilellm_r1_deep() -> Result<Checkpoint> {
    mobilellm_r1("mobilellm-r1-deep", 44)
}

fn mobilellm_r1(folder: &'static str, layers: usize) -> Result<Checkpoint> {
    let template = fs::read_to_string(workspace::root().join(TEMPLATE).join("config.json"))
        .with_context(|| format!("cannot read {TEMPLATE}/config.json"))?;
    let mut config: Value = serde_json::from_str(&template)?;
    let sizes = Sizes {
        hidden: 1536,
        layers,
        query: 24 * 64,
        key_value: 6 * 64,
        intermediate: 6144,
        vocabulary: 128_256,
    };
    for (key, value) in [
        ("hidden_size", json!(sizes.hidden)),
        ("num_hidden_layers", json!(layers)),
        ("num_attention_heads", json!(24)),
        ("num_key_value_heads", json!(6)),
        ("head_dim", json!(64)),
        ("intermediate_size", json!(sizes.intermediate)),
        ("intermediate_size_mlp", json!(sizes.intermediate)),
        ("vocab_size", json!(sizes.vocabulary)),
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
    let tensors = sizes.tensors("feed_forward", true);
    Ok(Checkpoint { folder, dtype: Dtype::F32, config, tensors })
}

impl Sizes {
    fn tensors(&self, mlp: &str, tied: bool) -> Vec<(String, Vec<usize>)> {
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocabulary, self.hidden]),
            ("model.norm.weight".to_owned(), vec![self.hidden]),
        ];
        if !tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocabulary, self.hidden]));
        }
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: &[usize]| {
                tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
            };
            add("input_layernorm", &[self.hidden]);
            add("post_attention_layernorm", &[self.hidden]);
            add("self_attn.q_proj", &[self.query, self.hidden]);
            add("self_attn.k_proj", &[self.key_value, self.hidden]);
            add("self_attn.v_proj", &[self.key_value, self.hidden]);
            add("self_attn.o_proj", &[self.hidden, self.query]);
            add(&format!("{mlp}.gate_proj"), &[self.intermediate, self.hidden]);
            add(&format!("{mlp}.up_proj"), &[self.intermediate, self.hidden]);
            add(&format!("{mlp}.down_proj"), &[self.hidden, self.intermediate]);
        }
        tensors.sort();
        tensors
    }
}

impl Checkpoint {
    /// How many weights it has.
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Its folder's name.
    pub fn name(&self) -> &'static str {
        self.folder
    }

    /// Bytes of its matrices, the embedding among them or not.
    pub fn matrix_bytes(&self, with_embedding: bool) -> usize {
        let matrices = self.tensors.iter().filter(|(name, shape)| {
            shape.len() == 2 && (with_embedding || name != "model.embed_tokens.weight")
        });
        matrices.map(|(_, shape)| shape.iter().product::<usize>() * self.dtype.size()).sum()
    }

    /// Its folder, written first if it is not there.
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
        let (random, ones) = (self.dtype.block(&normals()), self.dtype.block(&[1.0; 4096]));
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(&self.header()?)?;
        for (index, (_, shape)) in self.tensors.iter().enumerate() {
            let bytes = shape.iter().product::<usize>() * self.dtype.size();
            if shape.len() == 1 {
                write_circle(&mut out, &ones, 0, bytes)?;
            } else {
                let start = (index * 7919 * 61 % BLOCK) * self.dtype.size();
                write_circle(&mut out, &random, start, bytes)?;
            }
        }
        out.into_inner()?.sync_all()?;
        Ok(())
    }

    /// Length and JSON, padded with spaces to a multiple of eight.
    fn header(&self) -> Result<Vec<u8>> {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut start = 0;
        for (name, shape) in &self.tensors {
            let end = start + shape.iter().product::<usize>() * self.dtype.size();
            let entry = json!({ "dtype": self.dtype.name(), "shape": shape, "data_offsets": [start, end] });
            header.insert(name.clone(), entry);
            start = end;
        }
        let mut json = serde_json::to_vec(&header)?;
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json);
        Ok(bytes)
    }
}

impl Dtype {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
        }
    }

    fn size(self) -> usize {
        match self {
            Self::F32 => 4,
        }
    }

    fn block(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }
}

/// Normal values to a good approximation (the sum of four uniform ones), with a standard deviation of 0.02.
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
    (0..BLOCK).map(|_| draw()).collect()
}

fn write_circle(out: &mut impl Write, block: &[u8], start: usize, bytes: usize) -> Result<()> {
    let (mut at, mut left) = (start, bytes);
    while left > 0 {
        let take = left.min(block.len() - at);
        out.write_all(&block[at..at + take])?;
        (at, left) = (0, left - take);
    }
    Ok(())
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
        assert_eq!(mobilellm_r1_950m()?.parameters(), 949_685_760);
        Ok(())
    }

    #[test]
    fn values_look_normal() {
        let values = normals();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let square = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 1e-4, "mean {mean}");
        assert!((square.sqrt() - 0.02).abs() < 2e-4, "deviation {}", square.sqrt());
    }

    #[test]
    fn headers_end_on_eight_bytes() -> Result<()> {
        assert_eq!(mobilellm_r1_950m()?.header()?.len() % 8, 0);
        Ok(())
    }
}
