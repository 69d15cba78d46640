//! Architectures that GGUF files are read of: each with its names, with what llama.cpp's converter changes in its values, and
//! with the keys of its config.

use serde_json::{Map, Value};

use super::gguf::Gguf;
use super::keys::Keys;
use super::names::{
    ATTENTION, EXAONE, EXAONE_OUTER, EXPERTS, FOUR_NORMS, Fate, GPT2, GPT2_OUTER, GRANITE_EXPERTS, MLP,
    NORMS, NORMS_AFTER, Names, ONE_NORM, OUTER, PHI3, Pairs, QK_NORMS, SHARED_EXPERT, SPARSE_EXPERTS,
    STARCODER2_MLP,
};
use super::{config, config_of};
use crate::error::Result;

/// Architecture of a model in GGUF.
#[derive(Debug)]
pub struct Architecture {
    /// Name under `general.architecture`, with which its keys begin.
    name: &'static str,
    names: Names,
    /// True if the rows of queries and keys lie in pairs, for RoPE on neighbours.
    is_interleaved: bool,
    /// Number that was added to the weights of norms.
    norm_shift: f32,
    /// True if activations are beyond float16's range in models of this architecture.
    needs_bfloat16: bool,
    config: fn(&Keys<'_>) -> Result<Map<String, Value>>,
}

/// Change of a tensor's values that is undone as they are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// None.
    Nothing,
    /// Rows of each of so many heads lie in pairs: those of its first and of its second half in turn.
    Interleaved(usize),
    /// This was added.
    Added(f32),
}

const fn plain(
    name: &'static str,
    parts: &'static [Pairs],
    config: fn(&Keys<'_>) -> Result<Map<String, Value>>,
) -> Architecture {
    let names = Names { outer: OUTER, blocks: "model.layers", parts, dropped: &[] };
    Architecture { name, names, is_interleaved: false, norm_shift: 0.0, needs_bfloat16: false, config }
}

const ROPE_FREQUENCIES: &[&str] = &["rope_freqs"];

const fn interleaved(mut architecture: Architecture) -> Architecture {
    architecture.names.dropped = ROPE_FREQUENCIES;
    architecture.is_interleaved = true;
    architecture
}

const fn gemma(architecture: Architecture) -> Architecture {
    Architecture { norm_shift: 1.0, needs_bfloat16: true, ..architecture }
}

/// All architectures.
const ALL: &[Architecture] = &[
    interleaved(plain("llama", &[ATTENTION, NORMS, MLP, SPARSE_EXPERTS], config_of::llama)),
    plain("qwen2", &[ATTENTION, NORMS, MLP], config_of::qwen2),
    plain("qwen2moe", &[ATTENTION, NORMS, EXPERTS, SHARED_EXPERT], config_of::qwen2_moe),
    plain("qwen3", &[ATTENTION, QK_NORMS, NORMS, MLP], config_of::qwen3),
    plain("qwen3moe", &[ATTENTION, QK_NORMS, NORMS, EXPERTS], config_of::qwen3_moe),
    gemma(plain("gemma", &[ATTENTION, NORMS, MLP], config_of::gemma)),
    gemma(plain("gemma2", &[ATTENTION, FOUR_NORMS, MLP], config_of::gemma2)),
    gemma(plain("gemma3", &[ATTENTION, QK_NORMS, FOUR_NORMS, MLP], config_of::gemma3)),
    Architecture {
        names: Names {
            outer: OUTER,
            blocks: "model.layers",
            parts: &[PHI3, NORMS],
            dropped: &["rope_factors_long", "rope_factors_short"],
        },
        ..plain("phi3", &[], config_of::phi3)
    },
    Architecture {
        names: Names { outer: GPT2_OUTER, blocks: "model.h", parts: &[GPT2], dropped: &[] },
        ..plain("gpt2", &[], config_of::gpt2)
    },
    interleaved(plain("granite", &[ATTENTION, NORMS, MLP], config_of::granite)),
    interleaved(plain("granitemoe", &[ATTENTION, NORMS, GRANITE_EXPERTS], config_of::granite_moe)),
    plain("olmo2", &[ATTENTION, QK_NORMS, NORMS_AFTER, MLP], config_of::olmo2),
    plain("command-r", &[ATTENTION, QK_NORMS, ONE_NORM, MLP], config_of::cohere),
    plain("cohere2", &[ATTENTION, ONE_NORM, MLP], config_of::cohere2),
    plain("starcoder2", &[ATTENTION, NORMS, STARCODER2_MLP], config_of::starcoder2),
    Architecture {
        names: Names {
            outer: EXAONE_OUTER,
            blocks: "transformer.h",
            parts: &[EXAONE],
            dropped: ROPE_FREQUENCIES,
        },
        ..plain("exaone", &[], config_of::exaone)
    },
    interleaved(plain("smollm3", &[ATTENTION, NORMS, MLP], config_of::smollm3)),
];

const KEY: &str = "general.architecture";

impl Architecture {
    /// Finds the architecture of a model.
    ///
    /// # Errors
    /// Fails if it is not known.
    pub fn of(gguf: &Gguf) -> Result<&'static Self> {
        let name = gguf.text(KEY)?.ok_or_else(|| gguf.missing(KEY))?;
        ALL.iter().find(|architecture| architecture.name == name).ok_or_else(|| {
            let known: Vec<&str> = ALL.iter().map(|architecture| architecture.name).collect();
            gguf.error(KEY, format!("`{name}` is not read"))
                .hint(format!("architectures that are read from GGUF: {}", known.join(", ")))
        })
    }

    /// Returns the fate of the tensor called `name`.
    pub fn fate(&self, name: &str) -> Fate {
        self.names.fate(name)
    }

    /// Returns the change of the tensor called `name` that llama.cpp's converter made.
    pub fn change(&self, gguf: &Gguf, name: &str) -> Result<Change> {
        let keys = Keys::new(gguf, self.name);
        let path = name.rsplit_once('.').map_or(name, |(path, _)| path);
        Ok(match path.rsplit('.').next() {
            Some("attn_q") if self.is_interleaved => Change::Interleaved(keys.heads()?),
            Some("attn_k") if self.is_interleaved => Change::Interleaved(keys.kv_heads()?),
            _ if self.norm_shift != 0.0 && name.ends_with("norm.weight") => Change::Added(self.norm_shift),
            _ => Change::Nothing,
        })
    }

    /// Makes config.json of a model's metadata.
    ///
    /// # Errors
    /// Fails if a key is missing, has a value that cannot be, or is one that is not known to the architecture.
    pub fn config(&self, gguf: &Gguf) -> Result<Value> {
        let keys = Keys::new(gguf, self.name);
        let mut config = (self.config)(&keys)?;
        config.insert("torch_dtype".to_owned(), config::dtype(gguf, self.needs_bfloat16).into());
        keys.refuse_others()?;
        Ok(config.into())
    }

    /// Returns a sentence about each value of config.json that the metadata lack and that is none of the file's own.
    ///
    /// # Errors
    /// Fails where [`Self::config`] does.
    pub(crate) fn assumptions(&self, gguf: &Gguf) -> Result<Vec<String>> {
        let keys = Keys::new(gguf, self.name);
        (self.config)(&keys)?;
        Ok(keys.into_assumptions())
    }
}
