//! `mixbit quantize`, from arguments to report.

use crate::choose::candidate::{Candidate, DEFAULT_CANDIDATES};
use crate::cli::args::Quantize;
use crate::error::Result;
use crate::files::output_file::Claim;
use crate::files::output_folder::{check_destination, check_writable, leftover_notes};
use crate::jobs::opening::{Need, open_after};
use crate::jobs::quantize::job::Job;
use crate::jobs::write::companions;
use crate::models::source::SourceModel;
use crate::numerics::quant::Quant;
use crate::report::Console;
use crate::text::corpus::holds_token_ids;
use crate::text::tokenizer::Tokenizer;

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
            console.notes(&leftover_notes(&output.mlx_path));
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
        console.notes(&companions::check_tokenizer(source)?);
        return Ok(());
    }
    if companions::check_tokenizer(source).is_err() {
        console.notes(&["there is no tokenizer: the result has none either".to_owned()]);
    }
    Ok(())
}

pub(crate) fn candidates(args: &Quantize) -> Result<Vec<Candidate>> {
    let size = &args.size;
    if size.bits.is_some() || size.mode.is_some() {
        return Ok(vec![Quant::uniform(size.bits.as_deref(), args.group_size, size.mode)?.into()]);
    }
    args.candidates.as_deref().map_or(Ok(DEFAULT_CANDIDATES.to_vec()), Candidate::parse_list)
}
