//! Distance of the model from the float one: the distribution of KL divergences, and figures.

use serde::Serialize;

use super::axis::{Axis, extremes, place};
use super::frame::Frame;
use super::page::Page;
use super::template::{kl, kl_plus_minus, share};
use crate::jobs::evaluation::{Divergence, Histogram, Summary};
use crate::words::count;

/// Fewest bins that are shown; further empty bins at both ends are left out.
const FEWEST_BINS: usize = 10;

/// Charts and figures of the distance from the float model.
#[derive(Debug, Serialize)]
pub struct Distance {
    text: String,
    /// Amount of text that was measured on.
    amount: String,
    /// True if the distance was measured for this page, false if when the model was made.
    measured_here: bool,
    /// Name, value and standard error of each figure.
    figures: Vec<[String; 3]>,
    /// Name and value of each figure of the divergence.
    divergence: Vec<[String; 2]>,
    /// Charts, one per width of the page; empty without divergences.
    charts: Vec<Chart>,
    bins: Vec<Bin>,
}

#[derive(Debug, Serialize)]
struct Chart {
    #[serde(flatten)]
    frame: Frame,
    bars: Vec<Bar>,
    marks: Vec<Mark>,
}

#[derive(Debug, Clone, Serialize)]
struct Bin {
    from: f64,
    to: f64,
    count: usize,
    share: f64,
}

#[derive(Debug, Serialize)]
struct Bar {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    title: String,
}

#[derive(Debug, Serialize)]
struct Mark {
    x: f64,
    label: String,
    /// Text anchor of the label.
    anchor: &'static str,
    text_x: f64,
}

/// Computes the section; `None` where nothing was measured.
pub fn section(page: &Page<'_>) -> Option<Distance> {
    let evaluation = page.evaluation()?;
    let bins = bins(&evaluation.kl_histogram);
    let divergence = evaluation.summary.divergence.as_ref().filter(|_| !bins.is_empty());
    let charts = divergence.map_or_else(Vec::new, |d| {
        vec![chart(&bins, d, "wide", 600.0, 340.0), chart(&bins, d, "narrow", 350.0, 270.0)]
    });
    Some(Distance {
        text: evaluation.text.clone(),
        amount: format!(
            "{} of {}",
            count(evaluation.windows, "window"),
            count(evaluation.sequence_length, "token")
        ),
        measured_here: page.measured.is_some(),
        figures: figures(&evaluation.summary),
        divergence: evaluation.summary.divergence.as_ref().map_or_else(Vec::new, divergence_figures),
        bins: if charts.is_empty() { Vec::new() } else { bins },
        charts,
    })
}

/// Returns the bins from the first to the last that holds a token.
fn bins(histogram: &Histogram) -> Vec<Bin> {
    let Histogram { least, per_decade, counts } = histogram;
    let total: usize = counts.iter().sum();
    let is_sound = *least > 0.0 && *per_decade > 0.0 && least.is_finite() && per_decade.is_finite();
    let Some(first) = counts.iter().position(|n| *n > 0) else { return Vec::new() };
    let last = counts.iter().rposition(|n| *n > 0).unwrap_or(first);
    let edge = |bin: usize| least * 10f64.powf(bin as f64 / per_decade);
    if !is_sound || !edge(counts.len()).is_finite() {
        return Vec::new();
    }
    let last = last.max(first + FEWEST_BINS).min(counts.len() - 1);
    let bins = counts.iter().enumerate().take(last + 1).skip(first).map(|(bin, &count)| Bin {
        from: edge(bin),
        to: edge(bin + 1),
        count,
        share: count as f64 / total as f64,
    });
    bins.collect()
}

fn chart(bins: &[Bin], d: &Divergence, variant: &'static str, width: f64, height: f64) -> Chart {
    let (left, right, top, bottom) = (46.0, width - 18.0, 30.0, height - 44.0);
    let (low, high) = extremes(bins.iter().flat_map(|bin| [bin.from, bin.to]));
    let x = Axis::decades((low * 1.001, high * 0.999), (left, right));
    let most = bins.iter().map(|bin| bin.share).fold(0.0, f64::max);
    let y = Axis::linear((0.0, 100.0 * most), (bottom, top));
    let bars = bins.iter().filter(|bin| bin.count > 0).map(|bin| {
        let (from, to, at) = (x.at(bin.from), x.at(bin.to), y.at(100.0 * bin.share));
        Bar {
            x: place(from + 0.5),
            y: at,
            width: place((to - from - 1.0).max(0.5)),
            height: place(bottom - at),
            title: format!(
                "{} to {}: {}, {}",
                kl(bin.from),
                kl(bin.to),
                count(bin.count, "token"),
                share(bin.share)
            ),
        }
    });
    let frame = Frame {
        id: "kl".to_owned(),
        variant,
        title: "Distribution of the KL divergence per token".to_owned(),
        description: format!(
            "Share of tokens by KL divergence from the float model, on a logarithmic scale. Median {}, mean {}, \
             greatest {}.",
            kl(d.kl_median),
            kl(d.kl_mean),
            kl(d.kl_max)
        ),
        width,
        height,
        left,
        right,
        top,
        bottom,
        x_ticks: x.ticks(8),
        y_ticks: y.ticks(5),
        x_label: "KL divergence of a token, nats",
        y_label: "tokens, %",
    };
    Chart { frame, bars: bars.collect(), marks: marks(&x, d) }
}

/// Marks median and mean, labelled on the sides that face away from each other.
fn marks(x: &Axis, d: &Divergence) -> Vec<Mark> {
    let mut values = [("median", d.kl_median), ("mean", d.kl_mean)];
    values.sort_by(|a, b| a.1.total_cmp(&b.1));
    let sides = [("end", -6.0), ("start", 6.0)];
    let marks = values.into_iter().zip(sides).map(|((name, value), (anchor, offset))| {
        let at = x.at(value);
        Mark { x: at, label: format!("{name} {}", kl(value)), anchor, text_x: place(at + offset) }
    });
    marks.collect()
}

/// Returns the figures that llama.cpp's `--kl-divergence` prints, but for those of the divergence.
fn figures(summary: &Summary) -> Vec<[String; 3]> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String, error: String| rows.push([name.to_owned(), value, error]);
    let fixed = |value: f64| format!("{value:.4}");
    row("tokens predicted", summary.tokens.to_string(), String::new());
    row("perplexity", fixed(summary.perplexity), fixed(summary.perplexity_stderr));
    let Some(d) = &summary.divergence else { return rows };
    row("perplexity of the float model", fixed(d.reference_perplexity), fixed(d.reference_perplexity_stderr));
    row(
        "ln of their ratio",
        format!("{:.5}", d.ln_perplexity_ratio),
        format!("{:.5}", d.ln_perplexity_ratio_stderr),
    );
    row("correlation of ln p", format!("{:.3} %", 100.0 * d.nll_correlation), String::new());
    let percent = |value: f64| format!("{:.3} %", 100.0 * value);
    row("mean Δp", percent(d.probability_change_mean), percent(d.probability_change_stderr));
    row("RMS Δp", percent(d.probability_change_rms), String::new());
    row("same likeliest token", percent(d.same_top), percent(d.same_top_stderr));
    rows
}

/// Returns the mean, the extremes and the percentiles of the divergence, falling.
fn divergence_figures(d: &Divergence) -> Vec<[String; 2]> {
    let mut rows = vec![
        ["mean".to_owned(), kl_plus_minus(d.kl_mean, d.kl_stderr)],
        ["maximum".to_owned(), kl(d.kl_max)],
    ];
    rows.extend(d.kl_percentiles.iter().map(|(percent, value)| {
        let median = (percent - 50.0).abs() < 1e-9;
        [if median { "median".to_owned() } else { format!("{percent} % of tokens below") }, kl(*value)]
    }));
    rows.push(["minimum".to_owned(), kl(d.kl_min)]);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_bins_at_the_ends_are_left_out() {
        let mut histogram = Histogram::of([2e-4, 3e-4, 0.5].into_iter());
        let bins_shown = bins(&histogram);
        assert_eq!(bins_shown.iter().map(|bin| bin.count).sum::<usize>(), 3);
        let first = &bins_shown[0];
        assert!(first.count > 0 && first.from <= 2e-4 && first.to > 2e-4, "{bins_shown:?}");
        assert!(bins_shown.iter().any(|bin| bin.from <= 0.5 && bin.to > 0.5 && bin.count == 1));
        assert!(bins(&Histogram::of([].into_iter())).is_empty());
        histogram.per_decade = 0.0;
        assert!(bins(&histogram).is_empty(), "a damaged record draws nothing");
    }
}
