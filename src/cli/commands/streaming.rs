//! `mixbit eval --stream`: perplexity over a text of any length through the cache, which forgets the tokens that a
//! generation of that length would forget.

use serde_json::json;
use std::time::Instant;

use super::caching::{cache_settings, context_note};
use super::figures::print_figures;
use super::settings;
use super::templating::refuse_idle;
use crate::cli::args::Eval;
use crate::engine::decoder::model::Model;
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::jobs::evaluation::Scores;
use crate::jobs::scoring::{guessing, not_finite};
use crate::jobs::texts::TextInput;
use crate::models::source::SourceModel;
use crate::report::Console;
use crate::words::{bytes, count};

/// Fewest tokens of a stream: one prediction has no standard error.
const MIN_TOKENS: usize = 3;

/// Most logits that are computed at a time.
const LOGITS_PER_STEP: usize = 1 << 24;

/// Runs the command.
pub fn run(args: &Eval, source: &SourceModel, console: &Console) -> Result<()> {
    let settings = cache_settings(&args.cache, source.spec())?;
    console.notes(context_note(&settings, source.spec()).as_slice());
    if let Some(most) = args.max_tokens.filter(|&most| most < MIN_TOKENS) {
        return Err(Error::usage(format!(
            "--stream needs at least {MIN_TOKENS} tokens, --max-tokens allows {most}"
        ))
        .hint("give a larger --max-tokens, or leave it out"));
    }
    let TextInput { text, tokenizer } =
        TextInput::open(source, Some(&args.data), &settings::template(&args.template), console)?;
    refuse_idle(&args.template, &[text.name()], text.has_conversations())?;
    let tokens = text.windows(tokenizer.as_ref(), usize::MAX, args.max_tokens)?.windows.concat();
    let engine = Engine::start()?;
    let model = Model::load(&engine, source, None)?;
    let vocabulary = source.spec().vocab_size;
    let step = (args.cache.prefill_step()).min((LOGITS_PER_STEP / vocabulary).max(1));
    let bar = console.steps_bar("running the model", tokens.len() as u64);
    let mut scores = Scores::default();
    let mut labels = tokens.get(1..).unwrap_or_default();
    let started = Instant::now();
    let figures = model.stream(&tokens, &settings, step, |logits| {
        let rows = logits.len() / vocabulary;
        // The last token predicts nothing that is known.
        let (now, later) = labels.split_at(rows.min(labels.len()));
        scores
            .add(&logits[..now.len() * vocabulary], None, now)
            .map_err(|bad| not_finite(source, bad, scores.len()))?;
        labels = later;
        bar.inc(rows as u64);
        Ok(())
    })?;
    bar.finish_and_clear();
    let rate = tokens.len() as f64 / started.elapsed().as_secs_f64();
    console.line(&format!(
        "a stream of {}, {} forgotten, cache {} at most",
        count(tokens.len(), "token"),
        figures.evicted,
        bytes(figures.bytes as u64)
    ));
    let more = [
        ("context_size", json!(settings.context.map(|context| context.size()))),
        ("tokens_forgotten", json!(figures.evicted)),
        ("cache_bytes", json!(figures.bytes)),
    ];
    let summary = scores.summary();
    console.notes(guessing(&summary, source).as_slice());
    print_figures(args.json.as_deref(), &summary, rate, more)
}
