//! Settings of jobs, with flags, recipe and defaults resolved.

use std::fmt;
use std::path::PathBuf;

use crate::choose::candidate::Candidate;
use crate::choose::plan::Plan;
use crate::choose::recipe::{Learn, Quality, Recipe};
use crate::choose::scores::Method;
use crate::error::{Error, Result};
use crate::jobs::template::Template;
use crate::models::spec::DecoderSpec;
use crate::numerics::quant::Quant;
use crate::numerics::rounding::Technique;
use crate::progress::Progress;
use crate::words::count;

/// Method of measuring sensitivities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MeasureMethod {
    /// Second order: the effect of rounding on the KL divergence, by the diagonal of the Fisher information.
    #[default]
    Fisher,
    /// First order, as mlx-lm's dynamic_quant does it; to compare.
    Alignment,
}

/// Number of sequences to take of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Samples {
    /// As many as a short text gives, and no more than these.
    AtMost(u32),
    /// No fewer than these: a text that gives fewer is an error.
    Exactly(u32),
}

impl Samples {
    /// Returns the number of sequences that are wanted.
    pub const fn count(self) -> u32 {
        match self {
            Self::AtMost(count) | Self::Exactly(count) => count,
        }
    }
}

/// Number of sequences that sensitivities are measured on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SensitivitySamples {
    /// As many as the method needs.
    #[default]
    ByMethod,
    /// Number that the user asks for.
    FromUser(u32),
    /// Number that the recipe asks for.
    FromRecipe(u32),
}

/// Text and settings that sensitivities are measured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calibration {
    /// File of the text; `None` for the one that mixbit carries.
    pub text: Option<PathBuf>,
    /// Number of sequences.
    pub samples: Samples,
    /// Number of them that sensitivities are measured on.
    pub sensitivity_samples: SensitivitySamples,
    /// Tokens per sequence.
    pub sequence_length: u32,
    /// Seed of the choice of sequences and of labels.
    pub seed: u64,
    /// Bytes of hidden states in memory.
    pub memory: u64,
    /// Rounding technique, where the user or the recipe chooses it.
    pub rounding: Option<Technique>,
    /// Preset.
    pub quality: Option<Quality>,
    /// Method of measuring sensitivities.
    pub method: MeasureMethod,
    /// Chat template for conversations in the text.
    pub template: Template,
}

/// Default bytes of hidden states in memory.
pub const ACTIVATION_MEMORY: u64 = 4_000_000;

impl Calibration {
    /// Returns the settings of the preset balanced for a model of this architecture, on the built-in text.
    pub fn of_model(spec: &DecoderSpec) -> Self {
        Self {
            text: None,
            samples: Samples::AtMost(64),
            sensitivity_samples: SensitivitySamples::default(),
            sequence_length: sequence_length(spec),
            seed: 0,
            memory: ACTIVATION_MEMORY,
            rounding: None,
            quality: None,
            method: MeasureMethod::default(),
            template: Template::default(),
        }
    }

    /// Returns how many of the `sequences` sensitivities are measured on. On the trained models tried, 16 led to models
    /// as near the float one as 64 did; alignment, which has more noise, takes all. Fails where more are asked for than
    /// there are.
    pub fn measured(&self, sequences: usize) -> Result<usize> {
        const DEFAULT_SEQUENCES: usize = 16;
        let (who, wanted) = match self.sensitivity_samples {
            SensitivitySamples::ByMethod => {
                return Ok(match self.method {
                    MeasureMethod::Fisher => DEFAULT_SEQUENCES.min(sequences),
                    MeasureMethod::Alignment => sequences,
                });
            }
            SensitivitySamples::FromUser(wanted) => ("setting `sensitivity_samples` asks", wanted),
            SensitivitySamples::FromRecipe(wanted) => {
                ("the recipe's calibration.sensitivity_samples asks", wanted)
            }
        };
        if wanted as usize > sequences {
            let all = count(sequences, "sequence");
            return Err(Error::usage(format!("{who} for {wanted} of {all}")).hint(
                "give more setting `samples`, a longer setting `calibration` text, or a smaller setting `sensitivity_samples`",
            ));
        }
        Ok(wanted as usize)
    }

    /// Returns the method for `candidates`. Alignment is measured where mlx-lm does it, at 4 bits in groups of 64, or
    /// at the first candidate.
    pub fn method(&self, candidates: &[Quant]) -> Method {
        match self.method {
            MeasureMethod::Fisher => Method::FisherDiagonal,
            MeasureMethod::Alignment => {
                let usual = Quant::affine(4, 64);
                let first = candidates.first().copied().unwrap_or(usual);
                Method::Alignment { at: if candidates.contains(&usual) { usual } else { first } }
            }
        }
    }
}

/// Returns the default number of tokens per sequence: no more than the model's context.
pub fn sequence_length(spec: &DecoderSpec) -> u32 {
    const MOST_TOKENS: u32 = 512;
    let context = spec.max_position_embeddings.and_then(|most| u32::try_from(most).ok());
    context.unwrap_or(MOST_TOKENS).clamp(2, MOST_TOKENS)
}

/// Refinement and distillation after rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tuning {
    /// Most steps of distillation.
    pub distill: Option<u32>,
    /// Parts of the layers that distillation tunes.
    pub learn: Learn,
    /// Length of the first step of codes, in steps of one code.
    pub code_rate: Option<f64>,
    /// Most bytes that a job may take in which codes learn all at once; past it they learn block by block. By default, what
    /// the machine has free.
    pub memory_limit: Option<u64>,
    /// Length of the first step, relative to the scales.
    pub rate: Option<f64>,
    /// Temperature at which the two models are compared.
    pub temperature: f64,
    /// True if norms are tuned too.
    pub norms: bool,
    /// Most rounds of refinement.
    pub refine: Option<u32>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            distill: None,
            learn: Learn::Scales,
            code_rate: None,
            memory_limit: None,
            rate: None,
            temperature: 1.0,
            norms: false,
            refine: None,
        }
    }
}

impl Tuning {
    /// True if anything follows rounding.
    pub const fn any(self) -> bool {
        self.distill.is_some() || self.refine.is_some()
    }
}

/// Reads the list of candidates of the setting of that name.
pub fn candidates(list: &str) -> Result<Vec<Candidate>> {
    Candidate::parse_list(list).map_err(|error| error.at_setting("setting `candidates`"))
}

/// Loads the recipe `name`, with `candidates` in place of its own where there are some.
pub fn recipe(
    name: Option<&str>,
    candidates: Option<&str>,
    console: &dyn Progress,
) -> Result<Option<Recipe>> {
    let Some(name) = name else { return Ok(None) };
    let mut recipe = Recipe::load(name)?;
    if let Some(list) = candidates {
        recipe.candidates = Some(self::candidates(list)?);
    }
    console.line(&format!("recipe {}: {}", recipe.name, recipe.description));
    Ok(Some(recipe))
}

/// Size that the result must not exceed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Bits per weight of the layers decided on.
    Bpw(f64),
    /// Bytes of all tensors.
    Size(u64),
    /// No limit: bits are fixed.
    Fixed,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bpw(bpw) => write!(f, "{bpw} bpw"),
            Self::Size(size) => write!(f, "{size} bytes"),
            Self::Fixed => f.write_str("fixed"),
        }
    }
}

impl Target {
    /// Fails where there is a choice and no target.
    pub fn check(self, plan: &Plan<'_>, recipe: Option<&Recipe>) -> Result<()> {
        match recipe {
            Some(recipe) if self == Self::Fixed && !plan.is_fixed() => Err(Error::usage(format!(
                "the recipe {} has no target_bpw and leaves layers a choice",
                recipe.name
            ))
            .hint("give setting `target_bpw` or setting `target_size`")),
            _ => Ok(()),
        }
    }
}
