//! Settings and versions that made the model.

use super::page::Page;
use crate::choose::table::Measurement;
use crate::jobs::record::{Distillation, GptqStats, Record, Wanted};
use crate::words::{bytes, count};

/// Returns name and value of each setting; `None` without a record.
pub fn section(page: &Page<'_>) -> Option<Vec<(&'static str, String)>> {
    let record = page.record?;
    let mut lines = vec![
        ("made with", made_with(record)),
        ("float model", record.base_model.clone()),
        (
            "target",
            match record.target {
                Wanted::Bpw(bpw) => format!("{bpw} bits per weight of the linear layers at most"),
                Wanted::Bytes(size) => format!("{} of tensors at most", bytes(size)),
                Wanted::Fixed => "fixed by hand or recipe".to_owned(),
            },
        ),
        ("recipe", record.recipe.clone().unwrap_or_else(|| "none".to_owned())),
        ("rounding", record.rounding.clone()),
        ("scales, biases and float part", record.dtype.clone()),
    ];
    let feedback = record.feedback.iter().flat_map(GptqStats::sentences);
    lines.extend(feedback.map(|sentence| ("error feedback", sentence)));
    lines.extend(record.refinement.iter().map(|refinement| {
        let accepted = refinement.rounds.iter().filter(|round| round.kept).count();
        let basis = if accepted > 0 { "; by measured changes, so nothing is predicted" } else { "" };
        ("refined", format!("{accepted} of {} kept{basis}", count(refinement.rounds.len(), "round")))
    }));
    let blocks = record.distillation.iter().filter_map(|distillation| distillation.blocks.as_ref());
    lines.extend(blocks.map(|blocks| {
        let kl = format!("KL divergence {:.2e} before, {:.2e} after", blocks.kl_before, blocks.kl_after);
        (
            "learned block by block",
            format!("codes, in {} each: {}; {kl}", count(blocks.steps, "step"), blocks.outcome()),
        )
    }));
    let end_to_end = record.distillation.iter().filter(|distillation| distillation.steps > 0);
    lines.extend(end_to_end.map(|distillation| {
        let Distillation { kept, steps, rate, codes, kl_before, kl_after, .. } = distillation;
        let changes = codes.as_ref().map_or_else(String::new, |codes| format!(", {}", codes.changes()));
        let kl = format!("KL divergence {kl_before:.2e} before, {kl_after:.2e} after");
        let (steps, what) = (count(*steps, "step"), distillation.what());
        ("distilled", format!("{what}: {kept} of {steps} kept, rate {rate}{changes}; {kl}"))
    }));
    lines.extend(record.measurement.iter().flat_map(measurement));
    lines.extend(measured_on(record));
    Some(lines)
}

fn made_with(record: &Record) -> String {
    let mlx = record
        .mlx
        .as_ref()
        .map_or_else(|| "; no MLX version is recorded".to_owned(), |mlx| format!(" and MLX {mlx}"));
    format!("mixbit {}{mlx}", record.mixbit)
}

fn measurement(measurement: &Measurement) -> Vec<(&'static str, String)> {
    let candidates: Vec<String> = measurement.candidates.iter().map(ToString::to_string).collect();
    vec![
        (
            "sensitivities",
            format!(
                "{}, seed {}, of {}",
                measurement.method,
                measurement.seed,
                count(measurement.sensitivity_samples.unwrap_or(measurement.samples), "sequence")
            ),
        ),
        (
            "calibration",
            format!(
                "{} of {}",
                count(measurement.samples, "sequence"),
                count(measurement.sequence_length, "token")
            ),
        ),
        ("candidates", candidates.join(", ")),
        ("fingerprint of the float model", measurement.model.clone()),
        ("SHA-256 of the calibration tokens", measurement.text.clone()),
    ]
}

fn measured_on(record: &Record) -> Option<(&'static str, String)> {
    let evaluation = record.evaluation.as_ref()?;
    let (windows, length) = (evaluation.windows, evaluation.sequence_length);
    Some((
        "measured when made, on",
        format!("{}: {} of {}", evaluation.text, count(windows, "window"), count(length, "token")),
    ))
}
