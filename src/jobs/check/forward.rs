//! A forward pass of two tokens: logits must be finite.

use super::check::Finding;
use super::folder::Folder;
use crate::engine::decoder::model::Model;
use crate::engine::runtime::Engine;
use crate::models::source::SourceModel;
use crate::words::compared_bytes;

/// Magnitude of logits from which a note is due.
const LARGE_LOGIT: f32 = 1e4;
/// Magnitude of logits that no training gives.
const ABSURD_LOGIT: f32 = 1e6;

const SUBJECT: &str = "forward pass";

/// Runs BOS (or token 0) and the id after it. Skipped, with a note, where there is no engine or too little memory.
pub(crate) fn check(folder: &Folder) -> Option<Finding> {
    let source = folder.source.as_ref()?;
    let vocabulary = source.spec().vocab_size as u32;
    let bos = folder.tokenizer.as_ref().and_then(crate::text::tokenizer::Tokenizer::bos_token_id);
    let first = bos.filter(|&bos| bos < vocabulary).unwrap_or(0);
    Some(run(source, &[first, (first + 1) % vocabulary]))
}

fn run(source: &SourceModel, tokens: &[u32]) -> Finding {
    let needed = source.manifest().parameters() * 4;
    if let Some(available) = crate::system::available_memory().filter(|&available| available < needed) {
        let [needed, available] = compared_bytes([needed, available]);
        let message = format!("left out: it takes up to {needed} of memory, {available} are free");
        return Finding::note(SUBJECT, message);
    }
    let engine = match Engine::start() {
        Ok(engine) => engine,
        Err(error) => {
            return Finding { level: super::check::Level::Note, ..Finding::refusal(SUBJECT, &error) };
        }
    };
    let logits = Model::load(&engine, source, None).and_then(|model| model.logits(tokens, None));
    let logits = match logits {
        Ok(logits) => logits,
        Err(error) => return Finding::refusal(SUBJECT, &error),
    };
    let bad = logits.iter().filter(|x| !x.is_finite()).count();
    if bad > 0 {
        let message = format!("{bad} of {} logits are NaN or infinite", logits.len());
        return Finding::problem(SUBJECT, message);
    }
    let least = logits.iter().copied().fold(f32::INFINITY, f32::min);
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = format!("tokens {tokens:?} give finite logits, from {least:.2} to {most:.2}");
    match least.abs().max(most.abs()) {
        largest if largest > ABSURD_LOGIT => Finding::problem(SUBJECT, format!("{range}: absurdly large"))
            .hint("the model is damaged: take it from its source again, or quantize again"),
        largest if largest > LARGE_LOGIT => Finding::note(SUBJECT, format!("{range}: very large")),
        _ => Finding::ok(SUBJECT, range),
    }
}
