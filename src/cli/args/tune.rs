//! Arguments of refinement and distillation, which bring the rounded model closer to the float one.

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::choose::recipe::Learn;

use super::command::{parse_size, whole_in};

/// Fine-tuning of a quantized model.
#[derive(Debug, Args)]
pub struct Tuning {
    /// Fine-tune scales and biases to the float model's logits, in at most this many steps (150 are a good start), and
    /// keep the best values on held-out text; 0 turns off what --quality best or the recipe asks for
    #[arg(long, value_name = "STEPS", value_parser = whole_in(0, 1_000_000))]
    pub distill: Option<u32>,
    /// With --distill: what learns [default: the recipe's, or codes with --quality best, else scales]
    #[arg(long, value_enum, requires = "distilling")]
    pub learn: Option<Learn>,
    /// With --learn codes: length of the first step of codes, in steps of one code; falls to 0 over the steps
    /// [default: 0.02]
    #[arg(long, value_name = "RATE", value_parser = code_rate, requires = "distilling", allow_negative_numbers = true)]
    pub distill_code_rate: Option<f64>,
    /// With --learn codes: most memory for all codes to learn at once; past it they learn block by block, each block to the
    /// float block's outputs, and then scales and biases to the logits [default: what the machine has free, which is known on Linux only]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "distilling")]
    pub memory_limit: Option<u64>,
    /// With --distill: length of the first step, relative to the scales; falls to 0 over the steps [default: 0.003 up
    /// to 4 bits per weight, half of it with every bit more]
    #[arg(long, value_name = "RATE", value_parser = rate, requires = "distilling", allow_negative_numbers = true)]
    pub distill_rate: Option<f64>,
    /// With --distill: temperature at which the two models are compared [default: 1]
    #[arg(long, value_name = "T", value_parser = temperature, requires = "distilling", allow_negative_numbers = true)]
    pub distill_temperature: Option<f64>,
    /// With --distill: fine-tune the norms too
    #[arg(long, requires = "distilling")]
    pub distill_norms: bool,
    /// Move bits between layers of the rounded model within the same target, in at most this many rounds; a round is
    /// kept only if the measured KL divergence falls; 0 turns off what --quality best or the recipe asks for
    #[arg(long, value_name = "N", value_parser = whole_in(0, 100))]
    pub refine: Option<u32>,
    /// Continue an interrupted run after the layers that GPTQ has rounded, the rounds of --refine, the blocks whose codes
    /// have learned and the steps of --distill that were kept beside the output (which --overwrite alone discards); sensitivities are measured again
    /// unless --sensitivities gives them
    #[arg(long)]
    pub resume: bool,
}

impl ValueEnum for Learn {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(match self {
            Self::Scales => "scales and biases; codes stay as rounding left them",
            Self::Codes => {
                "codes too: closer to the float model, the more so the longer the text; 13 bytes of memory per weight, \
                 or block by block where those are not free"
            }
        }))
    }
}

/// Parses a number above 0.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err(format!("`{text}` is not a number above 0")),
    }
}

/// Parses a step's length up to ten scales, which leaves nothing of them.
fn rate(text: &str) -> Result<f64, String> {
    up_to(10.0, text)
}

/// Parses a step's length up to one code, past which every step leaves codes anywhere.
fn code_rate(text: &str) -> Result<f64, String> {
    up_to(1.0, text)
}

/// Parses a temperature up to a thousand, past which all logits look alike.
fn temperature(text: &str) -> Result<f64, String> {
    up_to(1000.0, text)
}

fn up_to(most: f64, text: &str) -> Result<f64, String> {
    let value = positive(text)?;
    if value <= most { Ok(value) } else { Err(format!("`{text}` is above {most}")) }
}
