//! Perplexity and distance from a reference, as llama.cpp's `--kl-divergence` lays them out.

use std::fmt::Write;

use super::paint;
use crate::jobs::evaluation::{Divergence, Summary};

/// Formats the figures, one per line, followed by the `rate` in tokens per second.
pub fn evaluation_table(summary: &Summary, rate: f64) -> String {
    let text = figures(summary) + &format!("tokens per second    {rate:.0}\n");
    if paint::unicode() { text } else { text.replace('±', "+-").replace('Δ', "d") }
}

fn figures(summary: &Summary) -> String {
    let mut text = format!("tokens predicted     {}\n", summary.tokens);
    let plus_minus = |value: f64, stderr: f64| format!("{value:.6} ± {stderr:.6}");
    let perplexity = plus_minus(summary.perplexity, summary.perplexity_stderr);
    let Some(divergence) = &summary.divergence else {
        let _ = writeln!(text, "perplexity           {perplexity}");
        return text;
    };
    against(&mut text, &perplexity, divergence, plus_minus);
    text
}

fn against(
    text: &mut String,
    perplexity: &str,
    divergence: &Divergence,
    plus_minus: impl Fn(f64, f64) -> String,
) {
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<20} {value}");
    };
    let d = divergence;
    line("PPL(model)", perplexity.to_owned());
    line("PPL(reference)", plus_minus(d.reference_perplexity, d.reference_perplexity_stderr));
    line("ln(PPL ratio)", plus_minus(d.ln_perplexity_ratio, d.ln_perplexity_ratio_stderr));
    line("correlation of ln p", format!("{:.4} %", 100.0 * d.nll_correlation));
    line("KL mean", plus_minus(d.kl_mean, d.kl_stderr));
    line("KL maximum", format!("{:.6}", d.kl_max));
    for (percent, kl) in &d.kl_percentiles {
        let name =
            if (percent - 50.0).abs() < 1e-9 { "KL median".to_owned() } else { format!("KL {percent} %") };
        line(&name, format!("{kl:.6}"));
    }
    line("KL minimum", format!("{:.6}", d.kl_min));
    let percent = |value: f64, stderr: f64| format!("{:.3} ± {:.3} %", 100.0 * value, 100.0 * stderr);
    line("mean Δp", percent(d.probability_change_mean, d.probability_change_stderr));
    line("RMS Δp", format!("{:.3} %", 100.0 * d.probability_change_rms));
    line("same top token", percent(d.same_top, d.same_top_stderr));
}
