//! Report of `mixbit quantize`: the reachable range before any work, tables at the end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use crate::choose::plan::{Plan, Solution};
use crate::choose::table::Table;
use crate::error::Result;
use crate::jobs::quantize::{Decision, Job};
use crate::jobs::record::{Distillation, Evaluation, Record, Refinement};
use crate::jobs::settings::Target;
use crate::models::inventory::Inventory;
use crate::models::spec::TensorSpec;
use crate::numerics::quant::Mode;
use crate::numerics::rounding::Technique;
use crate::report::{bit_table, class_bars, class_table, out, plus_minus};
use crate::words::{INDIVISIBLE, UNFIT, bytes, count};

/// Announces the reachable sizes, before any work.
pub fn announce(job: &Job<'_>) {
    let Job { plan, source, progress: console, .. } = job;
    let (least, most) = plan.reachable_bpw();
    let rest = plan.rest_bytes(source);
    let size = |bpw: f64| bytes((bpw * plan.weights() as f64 / 8.0) as u64 + rest);
    console.line(&format!(
        "{}, {}; reachable: {least:.3} to {most:.3} bpw, whole model {} to {}",
        count(plan.len(), "linear layer"),
        count(plan.weights(), "weight"),
        size(least),
        size(most)
    ));
    if !plan.already.is_empty() {
        console.line(&format!("already quantized, passed through: {}", count(plan.already.len(), "layer")));
    }
    let float = [(&plan.indivisible, INDIVISIBLE, "outside"), (&plan.unfit, UNFIT, "within")];
    for (layers, why, place) in float {
        let Some(first) = layers.first() else { continue };
        let columns = source.manifest().layer(first).map_or(0, TensorSpec::columns);
        let layers = count(layers.len(), "layer");
        console.line(&format!(
            "left float, {place} the target: {layers} {why}; the first is {first}, with rows of {columns}"
        ));
    }
    if !plan.embedding().is_empty() {
        console.line("the embedding is quantized too: outside the target, and not in the prediction");
    }
}

/// Says what learning codes is expected to leave of the predicted KL divergence, before anything is rounded.
pub fn announce_learning(job: &Job<'_>, decision: &Decision) {
    if let Some((rounded, learned)) = job.expected_after_learning(decision) {
        job.progress.line(&format!(
            "predicted KL divergence: {rounded:.3e} nats per token as rounded, about {learned:.1e} once codes have learned"
        ));
    }
}

/// Prints the bit map and its cost, and that nothing was written but the `generated` calibration text.
pub fn print_dry_run(job: &Job<'_>, decision: &Decision, generated: Option<&Path>) -> Result<()> {
    let learned = job.expected_after_learning(decision).map(|(_, learned)| learned);
    print_decision(job, decision, learned)?;
    let exception = generated.map_or_else(String::new, |path| {
        format!(" but the generated calibration text, kept in {}", path.display())
    });
    out(&format!("dry run: nothing was written{exception}\n"))
}

/// Prints the bit map and its cost, and the measurements of the `record`.
pub fn print(job: &Job<'_>, decision: &Decision, record: &Record) -> Result<()> {
    print_decision(job, decision, None)?;
    if let Some(refinement) = &record.refinement {
        out(&refined(refinement))?;
    }
    if let Some(distillation) = &record.distillation {
        out(&distilled(distillation))?;
    }
    match &record.evaluation {
        Some(evaluation) => out(&measured(evaluation))?,
        None => job.progress.line("not measured: `mixbit eval` does it, or --eval-data"),
    }
    out(&format!("wrote {}\n", job.settings.output.path.display()))
}

fn print_decision(job: &Job<'_>, decision: &Decision, learned: Option<f64>) -> Result<()> {
    let Decision { solution, .. } = decision;
    let before = Inventory::of_source(job.source);
    let after = Inventory::planned(job.source, &job.bitmap(decision), job.plan.dtype());
    let columns = [("before", before.bytes), ("after", after.bytes)];
    out(&format!("{}\n{}{}", bit_table(&after), class_table(&columns), class_bars(&columns)))?;
    let all = if job.plan.already.is_empty() {
        String::new()
    } else {
        format!(" over the layers decided here, {:.4} over all linear layers", after.bpw_quantized())
    };
    let predicted = solution.kl.map_or_else(String::new, |kl| predicted_line(job, decision, kl, learned));
    out(&format!(
        "\nlayers: {}{}\nbpw: {:.4}{}{all}, whole model {:.4}\n{predicted}",
        layers_by_bits(decision),
        float_layers(&job.plan, solution),
        solution.bpw,
        below_target(job.settings.target, solution.bpw, after.bytes.total),
        after.bpw_model(),
    ))
}

/// Describes the prediction `kl`, and what is expected once codes have `learned`.
fn predicted_line(
    job: &Job<'_>,
    Decision { solution, table, .. }: &Decision,
    kl: f64,
    learned: Option<f64>,
) -> String {
    let gap = 100.0 * solution.gap / kl.abs().max(f64::MIN_POSITIVE);
    let choice = if gap < 0.005 {
        "with the best choice of bits".to_owned()
    } else {
        format!("within {gap:.2} % of the best choice of bits")
    };
    let Some(table) = table else { return String::new() };
    if table.measurement.method.starts_with("alignment") {
        return format!("alignment score: {kl:.3e}, {choice}; it is no KL divergence\n");
    }
    let other = other_rounding(job.technique, table);
    let before = if job.settings.tuning.distill.is_some() { ", before distillation" } else { "" };
    let learned = learned.map_or_else(String::new, |kl| format!("; about {kl:.1e} once codes have learned"));
    format!("predicted KL divergence: {kl:.3e} nats per token, {choice}{other}{before}{learned}\n")
}

fn below_target(target: Target, bpw: f64, total: u64) -> String {
    match target {
        Target::Bpw(target) => format!(" of {target} ({:.4} below the target)", target - bpw),
        Target::Size(size) => format!(" ({} below the target)", bytes(size.saturating_sub(total))),
        Target::Fixed => String::new(),
    }
}

/// Describes the effect of a `table` that scores another rounding than the one in force.
fn other_rounding(technique: Technique, table: &Table) -> String {
    let scored = table.correction.predicted_rounding(technique, table.measurement.rounding);
    let than = match technique {
        now if now == scored => return String::new(),
        Technique::Rtn => "higher",
        _ => "lower",
    };
    format!("; that is for --rounding {scored}, {technique} comes out {than}")
}

/// Counts layers by bits: `3 at 4 bits, 2 at 8 bits, `.
fn layers_by_bits(decision: &Decision) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for quant in decision.solution.bitmap.values() {
        let name = match quant.mode {
            Mode::Affine => format!("{} bits", quant.bits),
            mode => mode.to_string(),
        };
        *counts.entry(name).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(bits, n)| format!("{n} at {bits}, ")).collect();
    counts.concat()
}

/// Counts the layers that are float, with the reasons of those that had no choice.
fn float_layers(plan: &Plan<'_>, solution: &Solution) -> String {
    let total = plan.len() - solution.bitmap.len() + plan.indivisible.len();
    let reasons =
        [(plan.indivisible.len(), INDIVISIBLE, ", outside the target"), (plan.unfit.len(), UNFIT, "")];
    let reasons = reasons.into_iter().filter(|(layers, ..)| *layers > 0);
    let reasons: Vec<String> = reasons.map(|(layers, why, place)| format!("{layers} {why}{place}")).collect();
    if reasons.is_empty() {
        format!("{total} float")
    } else {
        format!("{total} float ({})", reasons.join("; "))
    }
}

/// Describes refinement, round by round.
fn refined(refinement: &Refinement) -> String {
    let Refinement { rounds, windows, text } = refinement;
    let kept_rounds = rounds.iter().filter(|round| round.kept).count();
    let moved =
        if kept_rounds > 0 { "; bits were moved by measured changes, so nothing is predicted" } else { "" };
    let mut lines = format!(
        "refined: {kept_rounds} of {} kept, on {windows} {text}{moved}\n",
        count(rounds.len(), "round")
    );
    for (index, round) in rounds.iter().enumerate() {
        let what = match (round.kl_after, round.stderr) {
            (Some(after), Some(stderr)) => format!(
                "{} changed, KL divergence {:.3e} to {after:.3e}, a fall of {:.1e} {} {stderr:.1e}: {}",
                count(round.swaps, "layer"),
                round.kl_before,
                round.kl_before - after,
                plus_minus(),
                if round.kept { "kept" } else { "not kept" }
            ),
            _ => "no swap is predicted to pay".to_owned(),
        };
        let _ = writeln!(lines, "  round {}: {what}", index + 1);
    }
    lines
}

/// Describes distillation.
fn distilled(distillation: &Distillation) -> String {
    let Distillation { steps, taken, kept, kl_before, kl_after, windows, text, codes, blocks, .. } =
        distillation;
    let on = format!("on {windows} {text}");
    let by_block = blocks.as_ref().map_or_else(String::new, |blocks| {
        format!(
            "learned codes block by block, in {} each: {}\n  KL divergence {:.3e} before, {:.3e} after, {on}\n",
            count(blocks.steps, "step"),
            blocks.outcome(),
            blocks.kl_before,
            blocks.kl_after
        )
    });
    if *steps == 0 {
        return by_block;
    }
    let mut outcome = match kept {
        0 => "none was better than the start, which was kept".to_owned(),
        kept => format!("kept what step {kept} gave"),
    };
    if let Some(codes) = codes {
        let _ = write!(outcome, "; {}", codes.changes());
    }
    format!(
        "{by_block}distilled {}: {taken} of {}, {outcome}\n  KL divergence {kl_before:.3e} before, {kl_after:.3e} \
         after, {on}\n",
        distillation.what(),
        count(*steps, "step")
    )
}

/// Describes a measurement by its most telling figures.
fn measured(evaluation: &Evaluation) -> String {
    let summary = &evaluation.summary;
    let Some(divergence) = &summary.divergence else { return String::new() };
    format!(
        "measured on {} ({}):\n  KL divergence {:.3e} {} {:.1e} nats per token\n  perplexity {:.4}, float {:.4}\n  \
         same likeliest token {:.2} %\n",
        count(summary.tokens, "token"),
        evaluation.text,
        divergence.kl_mean,
        plus_minus(),
        divergence.kl_stderr,
        summary.perplexity,
        divergence.reference_perplexity,
        100.0 * divergence.same_top
    )
}
