//! Arguments of the cache and of drafting.

use std::path::PathBuf;

use clap::Args;

use super::command::{whole, whole_in};
use crate::engine::generate::generate::PREFILL_STEP;

/// Size and precision of the cache.
#[derive(Debug, Args)]
pub struct Cache {
    /// Most tokens to remember: the first and the latest [default: the model's context]
    #[arg(long, value_name = "N", help_heading = "Context", value_parser = whole_in(2, u32::MAX))]
    pub context_size: Option<u32>,
    /// First tokens that are never forgotten [default: 4]
    #[arg(long, value_name = "N", help_heading = "Context", value_parser = whole::<u32>)]
    pub num_sink_tokens: Option<u32>,
    /// Share of a full context that is forgotten at a time, the oldest after the first tokens [default: 10]
    #[arg(long, value_name = "PERCENT", help_heading = "Context", value_parser = whole_in(1, 100))]
    pub eviction_batch_percent: Option<u32>,
    /// Bits of keys and values in the cache
    #[arg(long, value_name = "4|8", help_heading = "Context", value_parser = kv_bits)]
    pub kv_bits: Option<u32>,
    /// Dtype of keys and values in the cache [default: as computed, which on a CPU is float32]
    #[arg(long, value_name = "DTYPE", help_heading = "Context", value_enum, conflicts_with = "kv_bits")]
    pub kv_dtype: Option<KvDtype>,
    /// Neighbours in a key or value that share a scale [default: 64, or 32 where heads are not multiples of it]
    #[arg(long, value_name = "32|64|128", help_heading = "Context", requires = "kv_bits", value_parser = kv_group_size)]
    pub kv_group_size: Option<u32>,
    /// Tokens of a prompt that go through the model at a time [default: 256, on macOS 512]
    #[arg(long, value_name = "N", help_heading = "Context", value_parser = whole_in(1, u32::MAX))]
    pub prefill_step_size: Option<u32>,
}

/// Dtypes of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KvDtype {
    /// Half the memory of float32.
    Float16,
    /// As they are computed on a CPU.
    Float32,
}

impl Cache {
    /// Returns the number of first tokens that are never forgotten.
    pub fn sinks(&self) -> usize {
        self.num_sink_tokens.unwrap_or(4) as usize
    }

    /// Returns the percentage of a full context that is forgotten at a time.
    pub fn eviction_percent(&self) -> usize {
        self.eviction_batch_percent.unwrap_or(10) as usize
    }

    /// Returns the number of tokens of a prompt that go through the model at a time.
    pub fn prefill_step(&self) -> usize {
        self.prefill_step_size.map_or(PREFILL_STEP, |step| step as usize)
    }

    /// Returns the flags that are set, for messages.
    pub fn flags(&self) -> Vec<&'static str> {
        [
            ("--context-size", self.context_size.is_some()),
            ("--num-sink-tokens", self.num_sink_tokens.is_some()),
            ("--eviction-batch-percent", self.eviction_batch_percent.is_some()),
            ("--kv-bits", self.kv_bits.is_some()),
            ("--kv-dtype", self.kv_dtype.is_some()),
            ("--prefill-step-size", self.prefill_step_size.is_some()),
        ]
        .into_iter()
        .filter_map(|(flag, is_set)| is_set.then_some(flag))
        .collect()
    }
}

/// Draft model of speculative decoding.
#[derive(Debug, Args)]
pub struct Draft {
    /// Smaller model with the same vocabulary that guesses ahead: the same text up to rounding, sooner
    #[arg(long, value_name = "MODEL", help_heading = "Speculative decoding")]
    pub draft_model: Option<PathBuf>,
    /// Tokens that it guesses at a time
    #[arg(long, value_name = "N", help_heading = "Speculative decoding", requires = "draft_model", default_value_t = 3, value_parser = whole_in(1, 64))]
    pub num_draft_tokens: u32,
}

fn kv_bits(text: &str) -> Result<u32, String> {
    one_of(text, &[4, 8])
}

fn kv_group_size(text: &str) -> Result<u32, String> {
    one_of(text, &crate::numerics::quant::AFFINE_GROUP_SIZES)
}

fn one_of(text: &str, all: &[u32]) -> Result<u32, String> {
    let number = all.iter().find(|number| text.parse() == Ok(**number)).copied();
    number.ok_or_else(|| format!("expected one of {all:?}"))
}
