//! `mixbit quantize`: reachable sizes, sensitivities, allocation, rounding, fine-tuning, proof, report.

mod distill;
mod estimate;
mod idle;
mod inputs;
mod proof;
mod refine;
mod report;
mod round;
mod unfinished;
mod write;

use std::path::Path;

use super::curve::STEP;
use super::measure::Measure;
use super::opening::{Need, open_after};
use super::settings::{Calibration, Target, Tuning, recipe};
use super::texts::Texts;
use crate::allocate::CurvePoint;
use crate::candidate::{Candidate, DEFAULT_CANDIDATES, Mode, Quant};
use crate::checkpoint::{Dtype, SourceModel, check_destination, check_writable, left_behind};
use crate::cli::Quantize;
use crate::error::{Error, Result};
use crate::estimate::StepCosts;
use crate::export;
use crate::output_file::Claim;
use crate::plan::{Plan, Solution};
use crate::report::Console;
use crate::rounding::Technique;
use crate::rules::LayerRule;
use crate::sensitivity::Table;
use crate::text::holds_token_ids;
use crate::tokenizer::Tokenizer;
use crate::weights::{check_values, float_type};

/// What is to be done, resolved from flags and recipe.
struct Job<'a> {
    args: &'a Quantize,
    console: &'a Console,
    source: &'a SourceModel,
    dtype: Dtype,
    recipe: Option<String>,
    plan: Plan<'a>,
    target: Target,
    calibration: Calibration,
    technique: Technique,
    tuning: Tuning,
    /// The table that `--sensitivities` names, where there is a choice.
    given: Option<Table>,
    /// Where something is measured.
    texts: Option<Texts>,
}

/// What was decided, and what it was decided on.
struct Decision {
    solution: Solution,
    table: Option<Table>,
    curve: Vec<CurvePoint>,
}

/// Runs the command.
pub fn run(args: &Quantize, console: &Console) -> Result<()> {
    let output = &args.output;
    output.container()?;
    let mut claim = None;
    let source = open_after(&args.hf_path, Need::Files, |source| {
        check_tokenizer(args, source, console)?;
        check_destination(source.dir(), &output.mlx_path, output.overwrite)?;
        if !args.dry_run {
            check_writable(&output.mlx_path)?;
            claim = Claim::new(&output.mlx_path)?;
            console.notes(&left_behind(&output.mlx_path));
        }
        Ok(())
    })?;
    console.notes(&source.spec().notes);
    let job = Job::resolve(args, &source, console)?;
    if !args.dry_run {
        job.check_unfinished()?;
    }
    let proof = job.proof()?;
    job.check_template(proof.as_ref())?;
    let costs = job.estimate(proof.as_ref())?.map(|estimate| estimate.steps).unwrap_or_default();
    let decision = job.decide(costs)?;
    if args.dry_run {
        return job.report(&decision, None);
    }
    let (decision, record) = job.write_model(decision, proof)?;
    drop(claim);
    job.report(&decision, Some(&record))
}

/// Fails where there is no tokenizer, unless nothing has to be tokenized.
fn check_tokenizer(args: &Quantize, source: &SourceModel, console: &Console) -> Result<()> {
    let given = args.calibration.calibration.iter().chain(&args.eval_data);
    let ids = args.calibration.calibration.is_some() && given.into_iter().all(|path| holds_token_ids(path));
    if !ids || Tokenizer::is_in(source.files()) {
        console.notes(&export::check_tokenizer(source)?);
        return Ok(());
    }
    if export::check_tokenizer(source).is_err() {
        console.notes(&["there is no tokenizer: the result has none either".to_owned()]);
    }
    Ok(())
}

impl<'a> Job<'a> {
    fn resolve(args: &'a Quantize, source: &'a SourceModel, console: &'a Console) -> Result<Self> {
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
        let target = Target::resolve(&args.size, recipe.as_ref());
        target.check(&plan, recipe.as_ref())?;
        let calibration = Calibration::resolve(&args.calibration, recipe.as_ref(), source.spec())?;
        let fixed = target == Target::Fixed || plan.is_fixed();
        let affine = plan.quants().iter().any(|quant| quant.mode == Mode::Affine);
        let tuning = Tuning::resolve(&args.tuning, recipe.as_ref(), calibration.quality, &plan, fixed)?;
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
    fn decide(&self, costs: StepCosts) -> Result<Decision> {
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
            measure.run(&[], console, |layer| {
                layers.push(layer);
                Ok(())
            })?;
            let correction = measure.correct(&layers, technique, console)?;
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

fn candidates(args: &Quantize) -> Result<Vec<Candidate>> {
    let size = &args.size;
    if size.bits.is_some() || size.mode.is_some() {
        return Ok(vec![Quant::uniform(size.bits.as_deref(), args.group_size, size.mode)?.into()]);
    }
    args.candidates.as_deref().map_or(Ok(DEFAULT_CANDIDATES.to_vec()), Candidate::parse_list)
}
