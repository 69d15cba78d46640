//! What a command will do, from its flags, the recipe and the defaults, in this order of precedence.

use crate::progress::Progress;
use std::fmt;
use std::path::PathBuf;

use crate::choose::candidate::Candidate;
use crate::choose::plan::Plan;
use crate::choose::recipe::{Quality, Recipe};
use crate::choose::scores::Method;
use crate::cli::args;
use crate::cli::args::MeasureMethod;
use crate::error::{Error, Result};
use crate::models::spec::DecoderSpec;
use crate::numerics::quant::{Mode, Quant};
use crate::numerics::rounding::Technique;
use crate::words::count;

/// How sensitivities are measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calibration {
    /// The text; `None` for the one that mixbit carries.
    pub text: Option<PathBuf>,
    /// How its conversations are written out.
    pub template: args::Template,
    /// Number of sequences.
    pub samples: u32,
    /// Whether the user asked for just so many.
    pub samples_given: bool,
    /// How many of them sensitivities are measured on, where that is said.
    pub sensitivity_samples: Option<u32>,
    /// Whether a flag says so, and not the recipe.
    pub sensitivity_samples_given: bool,
    /// Tokens in each.
    pub sequence_length: u32,
    /// Seed of sequence choice and labels.
    pub seed: u64,
    /// Bytes of hidden states in memory.
    pub memory: u64,
    /// How weights are rounded, where the user says.
    pub rounding: Option<Technique>,
    /// The preset.
    pub quality: Option<Quality>,
    method: MeasureMethod,
}

impl Calibration {
    /// From flags and recipe, for a model with this architecture.
    pub fn resolve(flags: &args::Calibration, recipe: Option<&Recipe>, spec: &DecoderSpec) -> Result<Self> {
        let quality = flags.quality.or_else(|| recipe?.tuning.quality);
        let recipe = recipe.map(|recipe| recipe.calibration.clone()).unwrap_or_default();
        Ok(Self {
            text: flags.calibration.clone().or(recipe.text),
            template: flags.template.clone(),
            samples: flags.samples.or(recipe.samples).unwrap_or(match quality {
                Some(Quality::Fast) => 16,
                Some(Quality::Balanced) | None => 64,
                Some(Quality::Best) => 128,
            }),
            samples_given: flags.samples.is_some(),
            sensitivity_samples: flags.sensitivity_samples.or(recipe.sensitivity_samples),
            sensitivity_samples_given: flags.sensitivity_samples.is_some(),
            sequence_length: flags
                .sequence_length
                .or(recipe.sequence_length)
                .unwrap_or_else(|| sequence_length(spec)),
            seed: flags.seed.or(recipe.seed).unwrap_or(0),
            memory: flags.activation_memory.unwrap_or(args::ACTIVATION_MEMORY),
            rounding: flags.rounding.map(Into::into).or(quality.map(|quality| match quality {
                Quality::Fast => Technique::Search,
                Quality::Balanced | Quality::Best => Technique::Gptq,
            })),
            quality,
            method: flags.method.unwrap_or_default(),
        })
    }

    /// Of `sequences`, how many sensitivities are measured on. On the trained models tried, 16 led to models as near
    /// the float one as 64 did; alignment, which has more noise, takes all.
    pub fn measured(&self, sequences: usize) -> Result<usize> {
        const ENOUGH: usize = 16;
        if let Some(wanted) = self.sensitivity_samples.filter(|&wanted| wanted as usize > sequences) {
            let who = if self.sensitivity_samples_given {
                "--sensitivity-samples asks"
            } else {
                "the recipe's calibration.sensitivity_samples asks"
            };
            let all = count(sequences, "sequence");
            return Err(Error::usage(format!("{who} for {wanted} of {all}")).hint(
                "give more --samples, a longer --calibration text, or a smaller --sensitivity-samples",
            ));
        }
        let usual = match self.method {
            MeasureMethod::Fisher => ENOUGH,
            MeasureMethod::Alignment => usize::MAX,
        };
        Ok(self.sensitivity_samples.map_or(usual, |samples| samples as usize).min(sequences))
    }

    /// The method for `candidates`. Alignment is measured where mlx-lm does, at 4 bits in groups of 64, or at the first
    /// candidate.
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

/// Tokens in a sequence where nobody says: no more than the model was made for.
pub fn sequence_length(spec: &DecoderSpec) -> u32 {
    const USUAL: u32 = 512;
    let context = spec.max_position_embeddings.and_then(|most| u32::try_from(most).ok());
    context.unwrap_or(USUAL).clamp(2, USUAL)
}

/// What follows rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tuning {
    /// Steps of distillation at most.
    pub distill: Option<u32>,
    /// How far the first step goes, relative to the scales.
    pub rate: Option<f64>,
    /// Temperature at which the two models are compared.
    pub temperature: f64,
    /// Whether norms learn too.
    pub norms: bool,
    /// Rounds of refinement at most.
    pub refine: Option<u32>,
}

impl Tuning {
    /// From flags and recipe; the preset `quality` asks for what this plan has a use for.
    pub fn resolve(
        flags: &args::Tuning,
        recipe: Option<&Recipe>,
        quality: Option<Quality>,
        plan: &Plan<'_>,
        fixed: bool,
    ) -> Result<Self> {
        let best = quality == Some(Quality::Best);
        let learns = plan.quants().iter().any(|quant| quant.mode == Mode::Affine);
        let said = recipe.map(|recipe| recipe.tuning).unwrap_or_default();
        let distill = flags.distill.or(said.distill).or((best && learns).then_some(150));
        let distill = distill.filter(|steps| *steps > 0);
        let refine = flags.refine.or(said.refine).or((best && !fixed).then_some(2));
        for (flag, given) in [
            ("--distill-rate", flags.distill_rate.is_some()),
            ("--distill-temperature", flags.distill_temperature.is_some()),
            ("--distill-norms", flags.distill_norms),
        ] {
            if given && distill.is_none() {
                return Err(Error::usage(format!("{flag} says how to distill, and nothing is distilled"))
                    .hint("give --distill STEPS"));
            }
        }
        Ok(Self {
            distill,
            rate: flags.distill_rate,
            temperature: flags.distill_temperature.unwrap_or(1.0),
            norms: flags.distill_norms || said.distill_norms,
            refine: refine.filter(|rounds| *rounds > 0),
        })
    }

    /// Whether anything does.
    pub fn any(self) -> bool {
        self.distill.is_some() || self.refine.is_some()
    }
}

/// The recipe that is asked for, with `candidates` in place of its own where given.
pub fn recipe(
    name: Option<&str>,
    candidates: Option<&str>,
    console: &dyn Progress,
) -> Result<Option<Recipe>> {
    let Some(name) = name else { return Ok(None) };
    let mut recipe = Recipe::load(name)?;
    if let Some(list) = candidates {
        recipe.candidates = Some(Candidate::parse_list(list)?);
    }
    console.line(&format!("recipe {}: {}", recipe.name, recipe.description));
    Ok(Some(recipe))
}

/// How large the result may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Bits a weight of the layers decided on.
    Bpw(f64),
    /// Bytes of all tensors.
    Size(u64),
    /// As large as fixed bits make it.
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
    /// From flags and recipe.
    pub fn resolve(flags: &args::Size, recipe: Option<&Recipe>) -> Self {
        match (flags.target_bpw, flags.target_size, recipe.and_then(|recipe| recipe.target_bpw)) {
            (Some(bpw), _, _) | (None, None, Some(bpw)) => Self::Bpw(bpw),
            (None, Some(size), _) => Self::Size(size),
            (None, None, None) => Self::Fixed,
        }
    }

    /// Fails where there is a choice and no target.
    pub fn check(self, plan: &Plan<'_>, recipe: Option<&Recipe>) -> Result<()> {
        match recipe {
            Some(recipe) if self == Self::Fixed && !plan.is_fixed() => Err(Error::usage(format!(
                "the recipe {} has no target_bpw and leaves layers a choice",
                recipe.name
            ))
            .hint("give --target-bpw or --target-size")),
            _ => Ok(()),
        }
    }
}
