//! Arguments of commands that run models on tokens.

use clap::{ArgGroup, Args};
use std::path::PathBuf;

use super::cache::{Cache, Draft};
use super::command::{FloatDtype, GENERAL, at_least_one, whole, whole_in, within};
use super::share::Hub;
use super::template::Asking;

/// Largest penalty, factor and temperature that is plausible.
const LARGEST_VALUE: f32 = 100.0;

/// Choice of tokens.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling: biases, penalties, temperature, top-k, top-p, min-p, in this order")]
pub struct Sampling {
    /// 0 is greedy
    #[arg(long, alias = "temp", default_value_t = 0.0, value_parser = within(0.0, LARGEST_VALUE))]
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this
    #[arg(long, default_value_t = 1.0, value_parser = within(0.0, 1.0))]
    pub top_p: f32,
    /// Keep this many tokens; 0 keeps all
    #[arg(long, default_value_t = 0, value_parser = whole::<u32>)]
    pub top_k: u32,
    /// Drop tokens less likely than this times the likeliest
    #[arg(long, default_value_t = 0.0, value_parser = within(0.0, 1.0))]
    pub min_p: f32,
    /// Seed of sampling [default: 0]
    #[arg(long, value_parser = whole::<u64>)]
    pub seed: Option<u64>,
    /// Divide the logits of the latest tokens, prompt included, by this (multiply negative ones); 1 changes nothing
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    pub repetition_penalty: Option<f32>,
    /// Number of latest tokens that the repetition penalty looks at; 0 for all
    #[arg(long, value_name = "N", default_value_t = 20, requires = "repetition_penalty", value_parser = whole::<usize>)]
    pub repetition_context_size: usize,
    /// Lower a token's logit by this for each time that it was generated
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = within(-LARGEST_VALUE, LARGEST_VALUE))]
    pub frequency_penalty: f32,
    /// Lower a token's logit by this once it was generated
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = within(-LARGEST_VALUE, LARGEST_VALUE))]
    pub presence_penalty: f32,
    /// Add this to a token's logit, -inf to ban it; several separated by commas, or the flag again
    #[arg(long, value_name = "ID=VALUE", value_delimiter = ',', value_parser = parse_bias)]
    pub logit_bias: Vec<(u32, f32)>,
}

/// Ends of an answer beside the model's own stop tokens.
#[derive(Debug, Args)]
#[command(next_help_heading = "Ending")]
pub struct Ending {
    /// Most tokens to generate
    #[arg(long, short, default_value_t = 256, value_name = "N", value_parser = at_least_one)]
    pub max_tokens: usize,
    /// End the answer before this text, which may be the text of a special token; repeatable
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// End the answer after the brace that closes the first \boxed{
    #[arg(long)]
    pub stop_at_boxed: bool,
}

/// Flags of the chat template, which do not go with a prompt that is given to the model as it is.
const NOT_WITHOUT_TEMPLATE: [&str; 6] =
    ["system", "final_only", "chat_template", "chat_template_config", "tools", "prefill_response"];

/// Flags of prompts and the chat template, which do not go with token ids.
const NOT_WITH_TOKENS: [&str; 8] = [
    "prompt",
    "prompt_file",
    "system",
    "final_only",
    "chat_template",
    "chat_template_config",
    "tools",
    "prefill_response",
];

/// Prompt, as text or token ids.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Prompt",
    group = ArgGroup::new("input").required(true).multiple(true).args(["prompt", "prompt_file", "prompt_tokens"])
)]
pub struct Prompt {
    /// The prompt; `-` reads stdin
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// A file with the prompt, UTF-8, or `-` for stdin; one line end at its end is left out
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// Token ids instead of a prompt, separated by commas
    #[arg(
        long, value_name = "IDS", value_delimiter = ',', value_parser = whole::<u32>,
        conflicts_with_all = NOT_WITH_TOKENS
    )]
    pub prompt_tokens: Vec<u32>,
    /// System message for the chat template; an empty one removes the template's own
    #[arg(long, alias = "system-prompt", value_name = "TEXT")]
    pub system: Option<String>,
    /// Ask for the final answer only, in \boxed{}: a system message in place of the template's own
    #[arg(long, conflicts_with = "system")]
    pub final_only: bool,
    /// Give the model the prompt as it is
    #[arg(long, alias = "ignore-chat-template", conflicts_with_all = NOT_WITHOUT_TEMPLATE)]
    pub disable_chat_template: bool,
}

/// Output of an answer.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Show {
    /// Print nothing but the content of the last \boxed{}; exit with 3 if there is none
    #[arg(long)]
    pub extract_boxed: bool,
    /// Print one JSON object: text, tokens, why it ended, the prompt's tokens, timings, memory
    #[arg(long)]
    pub json: bool,
    /// Print each token's log-probability before temperature and masks, and those of the N likeliest [without N: 0]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0", value_parser = whole::<usize>)]
    pub logprobs: Option<usize>,
    /// Show the prompt as the model sees it, and the stop tokens
    #[arg(long)]
    pub verbose: bool,
}

/// Model that answers, and its settings.
#[derive(Debug, Args)]
pub struct Answering {
    /// Model folder, Hugging Face's or MLX's, pack, or name on the Hub. Loading a pack does not compare its weights
    /// with their SHA-256: `mixbit check` does
    #[arg(long, value_name = "MODEL", help_heading = GENERAL)]
    pub model: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: Hub,
    /// Compute in this type [default: float32 on the CPU, the model's own on Metal]
    #[arg(long, value_enum, help_heading = GENERAL)]
    pub dtype: Option<FloatDtype>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: Sampling,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ending: Ending,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: Cache,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub draft: Draft,
}

/// `mixbit run`.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub prompt: Prompt,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub asking: Asking,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub answering: Answering,
    /// Continue past end-of-sequence tokens
    #[arg(long, help_heading = "Ending")]
    pub ignore_eos: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub show: Show,
}

/// Treatment of mistakes in `mixbit chat`, for the help text.
const CHAT_MISTAKES: &str = "\
A line that cannot be obeyed or answered can be tried again at a terminal. From a pipe or
file the first such line ends the conversation, with exit code 1: what follows may depend
on it. After a /save that fails it continues, and the exit code is 1 at its end.";

/// `mixbit chat`.
#[derive(Debug, Args)]
#[command(after_help = CHAT_MISTAKES)]
pub struct Chat {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub answering: Answering,
    /// System message; an empty one removes the template's own
    #[arg(long, alias = "system-prompt", value_name = "TEXT", help_heading = GENERAL)]
    pub system: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub asking: Asking,
    /// Show how many tokens went through the model, and how fast, after each answer
    #[arg(long, help_heading = GENERAL)]
    pub verbose: bool,
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
    #[arg(long, value_name = "IDS", value_delimiter = ',', required_unless_present = "prompt", value_parser = whole::<u32>)]
    pub tokens: Vec<u32>,
    /// Text instead of token ids, tokenized with the tokenizer's own BOS rule
    #[arg(long, conflicts_with = "tokens")]
    pub prompt: Option<String>,
    /// Feed the tokens through the cache this many at a time, instead of all at once without a cache
    #[arg(long, value_name = "N", value_parser = whole_in(1, u32::MAX))]
    pub step: Option<u32>,
    /// File to write: float32 `logits` [tokens, vocabulary] and int32 `tokens`
    #[arg(long, value_name = "FILE.npz")]
    pub out: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub overwrite: bool,
    /// Compute in this type [default: float32 on the CPU, the model's own on Metal]
    #[arg(long, value_enum)]
    pub dtype: Option<FloatDtype>,
}

/// Parses a factor that logits are divided by.
fn factor(text: &str) -> Result<f32, String> {
    match within(0.0, LARGEST_VALUE)(text)? {
        0.0 => Err("logits are divided by it: 1 changes nothing".to_owned()),
        factor => Ok(factor),
    }
}

/// Parses a bias, `ID=VALUE`.
fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, value) = text.split_once('=').ok_or("expected ID=VALUE, such as 13=-2.5")?;
    let id = id.trim().parse().map_err(|_| format!("`{id}` is not a token id"))?;
    match value.trim().parse::<f32>() {
        Ok(value) if value < f32::INFINITY => Ok((id, value)),
        _ => Err(format!("`{value}` is not a number that can be added (-inf bans the token)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases() {
        assert_eq!(parse_bias("13=-2.5"), Ok((13, -2.5)));
        assert_eq!(parse_bias(" 0 = -inf"), Ok((0, f32::NEG_INFINITY)));
        for bad in ["", "13", "=1", "-1=1", "x=1", "1=", "1=x", "1=inf", "1=nan", "4294967296=1"] {
            assert!(parse_bias(bad).is_err(), "{bad}");
        }
    }
}
