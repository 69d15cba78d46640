//! Arguments of what runs models on tokens.

use std::path::PathBuf;

use clap::Args;

use super::{FloatDtype, Hub};

/// How tokens are chosen.
#[derive(Debug, Args)]
pub struct Sampling {
    /// 0 is greedy
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Keep this many tokens; 0 keeps all
    #[arg(long, default_value_t = 0)]
    pub top_k: u32,
    /// Drop tokens less likely than this times the likeliest
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Seed of sampling
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `mixbit run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Model folder, Hugging Face's or MLX's, pack, or name on the Hub
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: Hub,
    /// The prompt; `-` reads stdin
    #[arg(long, short, required_unless_present = "prompt_tokens", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Token ids instead of a prompt, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["prompt", "system"])]
    pub prompt_tokens: Vec<u32>,
    /// Most tokens to generate
    #[arg(long, short, default_value_t = 256, value_name = "N")]
    pub max_tokens: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: Sampling,
    /// System message for the chat template; an empty one removes the template's own
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Give the model the prompt as it is
    #[arg(long, conflicts_with = "system")]
    pub disable_chat_template: bool,
    /// Go on past end-of-sequence tokens
    #[arg(long)]
    pub ignore_eos: bool,
    /// Show the prompt as the model sees it, and the stop tokens
    #[arg(long)]
    pub verbose: bool,
    /// Compute in this type [default: float32 on the CPU, the model's own on Metal]
    #[arg(long, value_enum)]
    pub dtype: Option<FloatDtype>,
}

/// `mixbit logits`.
#[derive(Debug, Args)]
pub struct Logits {
    /// Model folder, Hugging Face's or MLX's, pack, or name on the Hub
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: Hub,
    /// Token ids separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', required_unless_present = "prompt")]
    pub tokens: Vec<u32>,
    /// Text instead of token ids, tokenized with the tokenizer's own BOS rule
    #[arg(long, conflicts_with = "tokens")]
    pub prompt: Option<String>,
    /// Feed the tokens through the cache so many at a time, instead of all at once without a cache
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub step: Option<u32>,
    /// File to write: float32 `logits` [tokens, vocabulary] and int32 `tokens`
    #[arg(long, value_name = "FILE.npz")]
    pub out: PathBuf,
    /// Compute in this type [default: float32 on the CPU, the model's own on Metal]
    #[arg(long, value_enum)]
    pub dtype: Option<FloatDtype>,
}
