//! Figures at the top of the page.

use serde::Serialize;

use super::page::Page;
use super::template::{kl, kl_plus_minus, share};
use crate::jobs::record::Record;
use crate::words::{INDIVISIBLE, bytes, count};

/// Description of the model in a sentence, and its most important figures.
#[derive(Debug, Serialize)]
pub struct Summary {
    sentence: String,
    cards: Vec<Card>,
    /// True if the record describes other weights.
    stale: bool,
}

#[derive(Debug, Serialize)]
struct Card {
    name: &'static str,
    value: String,
    unit: &'static str,
    more: String,
}

fn are_quantized(layers: usize) -> &'static str {
    if layers == 1 { "is quantized" } else { "are quantized" }
}

/// Computes the summary of a page.
pub fn section(page: &Page<'_>) -> Summary {
    let linear = || page.inventory.layers.iter().filter(|layer| layer.role.is_linear());
    let quantized = linear().filter(|layer| layer.bits.is_some()).count();
    let record = page.record;
    let sentence = if quantized == 0 {
        "A float model: none of its layers is quantized.".to_owned()
    } else {
        let of_model = record.map_or_else(String::new, |record| format!(" of {}", record.base_model));
        let sizes = page.before.map_or_else(String::new, |before| {
            let now = bytes(page.inventory.bytes.total);
            format!(": {now} where the float model had {}", bytes(before.total))
        });
        let layers = count(linear().count(), "linear layer");
        format!("{quantized} of {layers}{of_model} {}{sizes}.", are_quantized(quantized))
    };
    let mut cards = vec![size(page), bits(page)];
    cards.extend(measured(page));
    Summary { sentence, cards, stale: record.is_some_and(|r| r.bytes_after != page.inventory.bytes) }
}

/// Formats a standard error to the places of its value: `± 0.00003`.
fn error(value: f64, error: f64) -> String {
    let written = kl_plus_minus(value, error);
    written.split_once(' ').map_or_else(String::new, |(_, error)| error.replace(' ', "\u{a0}"))
}

fn size(page: &Page<'_>) -> Card {
    let now = page.inventory.bytes.total;
    let written = bytes(now);
    let (value, unit) = written.split_once(' ').unwrap_or((&written, ""));
    let more = match page.before {
        Some(before) if before.total > 0 => {
            format!("{} of {}", share(now as f64 / before.total as f64), bytes(before.total))
        }
        _ => format!("{} parameters", page.inventory.parameters),
    };
    let unit = ["GB", "MB", "kB", "B"].into_iter().find(|u| *u == unit).unwrap_or_default();
    Card { name: "Size", value: value.to_owned(), unit, more }
}

fn bits(page: &Page<'_>) -> Card {
    let without = match page.inventory.indivisible() {
        0 => String::new(),
        layers => format!(" but {layers} {INDIVISIBLE}"),
    };
    Card {
        name: "Bits per weight",
        value: format!("{:.3}", page.inventory.bpw_quantized()),
        unit: "",
        more: format!("linear layers{without}; {:.3} over the whole model", page.inventory.bpw_model()),
    }
}

/// Returns cards of KL divergence, perplexity and same likeliest token where they were measured; else of the predicted
/// divergence.
fn measured(page: &Page<'_>) -> Vec<Card> {
    let predicted = page.record.and_then(|record| record.predicted_kl);
    let is_tuned = page.record.is_some_and(Record::is_fine_tuned);
    let before = if is_tuned { " before fine-tuning" } else { "" };
    let divergence = |value: f64, more: String| Card {
        name: if page.evaluation().is_some() { "KL divergence, nats" } else { "Predicted KL, nats" },
        value: kl(value),
        unit: "",
        more,
    };
    let Some(evaluation) = page.evaluation() else {
        return predicted
            .map(|value| divergence(value, format!("per token{before}; not measured")))
            .into_iter()
            .collect();
    };
    let summary = &evaluation.summary;
    let mut cards = Vec::new();
    let mut more = format!("±\u{a0}{:.2}, without a reference", summary.perplexity_stderr);
    if let Some(d) = &summary.divergence {
        let predicted =
            predicted.map_or_else(String::new, |value| format!("; {} predicted{before}", kl(value)));
        cards.push(divergence(d.kl_mean, format!("per token, {}{predicted}", error(d.kl_mean, d.kl_stderr))));
        let change = 100.0 * d.ln_perplexity_ratio.exp_m1();
        more = format!("float {:.2}: {change:+.2}\u{a0}%", d.reference_perplexity);
    }
    cards.push(Card { name: "Perplexity", value: format!("{:.2}", summary.perplexity), unit: "", more });
    if let Some(d) = &summary.divergence {
        cards.push(Card {
            name: "Same likeliest token",
            value: format!("{:.1}", 100.0 * d.same_top),
            unit: "%",
            more: format!(
                "±\u{a0}{:.1}\u{a0}%, of {}",
                100.0 * d.same_top_stderr,
                count(summary.tokens, "token")
            ),
        });
    }
    cards
}
