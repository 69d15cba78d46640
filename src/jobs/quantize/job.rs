//! A quantization from its arguments to its report.

use crate::progress::Progress;
use std::path::Path;

use crate::choose::allocate::CurvePoint;
use crate::choose::curve::STEP;
use crate::choose::plan::{Plan, Solution};
use crate::choose::rules::LayerRule;
use crate::choose::table::Table;
use crate::cli::args::Quantize;
use crate::cli::commands::quantize::command::candidates;
use crate::cli::commands::settings;
use crate::cli::commands::templating::with_template;
use crate::engine::measure::settings::StepCosts;
use crate::error::{Error, Result};
use crate::jobs::measure::Measure;
use crate::jobs::settings::{Calibration, Target, Tuning, recipe};
use crate::jobs::texts::Texts;
use crate::jobs::write::check_values;
use crate::models::source::SourceModel;
use crate::numerics::dtype::{Dtype, float_type};
use crate::numerics::quant::Mode;
use crate::numerics::rounding::Technique;
use crate::text::tokenizer::Tokenizer;

/// What is to be done, resolved from flags and recipe.
pub(crate) struct Job<'a> {
    pub(crate) args: &'a Quantize,
    pub(crate) console: &'a dyn Progress,
    pub(crate) source: &'a SourceModel,
    pub(crate) dtype: Dtype,
    pub(crate) recipe: Option<String>,
    pub(crate) plan: Plan<'a>,
    pub(crate) target: Target,
    pub(crate) calibration: Calibration,
    pub(crate) technique: Technique,
    pub(crate) tuning: Tuning,
    /// The table that `--sensitivities` names, where there is a choice.
    pub(crate) given: Option<Table>,
    /// Where something is measured.
    pub(crate) texts: Option<Texts>,
}

/// What was decided, and what it was decided on.
pub struct Decision {
    pub(crate) solution: Solution,
    pub(crate) table: Option<Table>,
    pub(crate) curve: Vec<CurvePoint>,
}

impl<'a> Job<'a> {
    pub(crate) fn resolve(
        args: &'a Quantize,
        source: &'a SourceModel,
        console: &'a dyn Progress,
    ) -> Result<Self> {
        let dtype: Dtype = args.dtype.into();
        let rules: Vec<LayerRule> = args.layer.iter().map(|rule| rule.parse()).collect::<Result<_>>()?;
        let recipe = recipe(args.recipe.as_deref(), args.candidates.as_deref(), console)?;
        let mut plan = match &recipe {
            Some(recipe) => Plan::with_recipe(source, recipe, &rules, dtype)?,
            None => Plan::new(source, &candidates(args)?, &rules, dtype)?,
        };
        if let Some(setting) = &args.quantize_embeddings {
            let quant = setting.parse().map_err(|e: Error| {
                let hint = e.hint_text().unwrap_or_default().to_owned();
                Error::usage(format!("--quantize-embeddings: {e}")).hint(hint)
            })?;
            plan.quantize_embedding(source, quant)?;
        }
        let target = settings::target(&args.size, recipe.as_ref());
        target.check(&plan, recipe.as_ref())?;
        let calibration = settings::calibration(&args.calibration, recipe.as_ref(), source.spec())?;
        let fixed = target == Target::Fixed || plan.is_fixed();
        let affine = plan.quants().iter().any(|quant| quant.mode == Mode::Affine);
        let tuning = settings::tuning(&args.tuning, recipe.as_ref(), calibration.quality, &plan, fixed)?;
        let usual = match (fixed, (calibration.text.is_some() || tuning.any()) && affine) {
            (false, _) => Technique::Gptq,
            (true, true) => Technique::Search,
            (true, false) => Technique::Rtn,
        };
        let technique = calibration.rounding.unwrap_or(usual);
        let mut job = Self {
            args,
            console,
            source,
            dtype,
            recipe: recipe.as_ref().map(|recipe| recipe.name.clone()),
            plan,
            target,
            calibration,
            technique,
            tuning,
            given: None,
            texts: None,
        };
        job.given = job.read_table(fixed)?;
        job.announce();
        job.check_target()?;
        job.check_tuning(recipe.as_ref())?;
        job.check_idle(fixed)?;
        // Scale search does without a text where all bits are fixed, and so does rounding to nearest.
        if !fixed || technique == Technique::Gptq || job.calibration.text.is_some() || tuning.any() {
            let apart = !(args.no_eval || args.eval_data.is_some()) || tuning.any();
            job.texts = Some(job.divided(apart)?);
        }
        if tuning.any() {
            job.slice()?;
        }
        Ok(job)
    }

    /// The tokenizer with the chat template that flags ask for.
    pub(crate) fn templated(&self, tokenizer: Tokenizer) -> Result<Tokenizer> {
        with_template(tokenizer, &self.args.calibration.template)
    }

    /// The table that was given: of this model, for scales of this type, with every layer and candidate.
    fn read_table(&self, fixed: bool) -> Result<Option<Table>> {
        let Some(path) = self.args.sensitivities.as_deref().filter(|_| !fixed) else { return Ok(None) };
        let table = Table::read(path)?;
        table.check(path, &self.source.fingerprint()?, float_type(self.dtype)?)?;
        self.plan.check_table(&table.layers).map_err(|e| wrong_table(path, &e))?;
        Ok(Some(table))
    }

    fn check_target(&self) -> Result<()> {
        match self.target {
            Target::Bpw(bpw) => self.plan.check_target(bpw),
            Target::Size(size) => self.plan.bpw_of_model_size(self.source, size).map(drop),
            Target::Fixed => Ok(()),
        }
    }

    /// Chooses what every layer gets, measuring sensitivities if there is a choice and no table.
    pub(crate) fn decide(&self, costs: StepCosts) -> Result<Decision> {
        let Self { args, console, source, plan, given, .. } = self;
        let fixed = || Decision { solution: plan.fixed(), table: None, curve: Vec::new() };
        let target = match self.target {
            Target::Bpw(bpw) => bpw,
            Target::Size(size) => plan.bpw_of_model_size(source, size)?,
            Target::Fixed => return Ok(fixed()),
        };
        let (false, Some(texts)) = (plan.is_fixed(), &self.texts) else { return Ok(fixed()) };
        let float = float_type(self.dtype)?;
        let table = if let Some(table) = given {
            check_values(source, self.dtype)?;
            table.clone()
        } else {
            let (calibration, technique) = (&self.calibration, self.technique);
            let measure = Measure::prepare(source, calibration, texts, technique, plan.quants(), float)?
                .with_costs(costs);
            let mut layers = Vec::new();
            measure.run(&[], *console, |layer| {
                layers.push(layer);
                Ok(())
            })?;
            let correction = measure.correct(&layers, technique, *console)?;
            Table { measurement: measure.measurement, layers, correction }
        };
        let correction = &table.correction;
        let layers = correction.scores_for(self.technique, &table.layers);
        let mut solution = plan.solve(&layers, target).map_err(|e| match &args.sensitivities {
            Some(path) => wrong_table(path, &e),
            None => e,
        })?;
        let predicted = solution.kl.map(|kl| correction.whole(kl));
        solution.gap *=
            predicted.zip(solution.kl).map_or(1.0, |(whole, sum)| whole / sum.max(f64::MIN_POSITIVE));
        solution.kl = predicted;
        let curve = correction.curve(plan.curve(&layers, STEP)?);
        let table = Table { layers, ..table };
        Ok(Decision { solution, table: Some(table), curve })
    }
}

fn wrong_table(path: &Path, error: &Error) -> Error {
    Error::file(path, error.to_string())
        .hint("measure this model again with `mixbit analyze`, with the same --candidates")
}
