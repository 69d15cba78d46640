//! Arguments of what a model remembers.

use clap::Args;

/// What is remembered of a text.
#[derive(Debug, Args)]
#[command(next_help_heading = "Context")]
pub struct Cache {
    /// Remember so many tokens at most: the first and the latest [default: the model's context]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub context_size: Option<u32>,
    /// First tokens that are never forgotten
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub num_sink_tokens: u32,
    /// How much of a full context is forgotten at a time, the oldest after the first tokens
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub eviction_batch_percent: u32,
    /// Tokens of a prompt that go through the model at a time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub prefill_step_size: u32,
}
