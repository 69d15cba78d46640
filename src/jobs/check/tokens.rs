//! The tokenizer beside the model: vocabulary, the token that begins a text, the ones that end it.
//!
//! Padded embeddings, and configs whose ids nobody uses, are common in models that work. Only faults that no such model
//! has are problems.

use super::check::Finding;
use super::folder::Folder;
use super::template;
use super::words::describe_all;
use crate::models::config::ModelConfig;
use crate::text::stop_tokens;
use crate::text::stop_tokens::{GenerationConfig, StopTokens, describe};
use crate::text::tokenizer::Tokenizer;
use crate::words::count;

/// More spare rows than this share of the embedding are hardly padding.
const MOST_PADDING: f64 = 0.1;

/// Tokens that begin a turn's header in the templates of widely used models. The tokens that this model's own template
/// writes before an answer are looked at too.
const HEADERS: [&str; 9] = [
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|header_start|>",
    "<|header_end|>",
    "<|im_start|>",
    "<|start_of_role|>",
    "<|end_of_role|>",
    "<start_of_turn>",
    "[INST]",
];

/// Checks vocabulary, BOS and EOS, and that the tokenizer's files agree.
pub(crate) fn check(folder: &Folder) -> Vec<Finding> {
    let Some(tokenizer) = &folder.tokenizer else { return Vec::new() };
    let rows = folder
        .rows(folder.spec.as_ref().map_or("model.embed_tokens", |spec| spec.embed.path.as_str()))
        .or_else(|| folder.spec.as_ref().map(|spec| spec.vocab_size));
    let mut findings = Vec::new();
    if let Some(rows) = rows {
        findings.push(vocabulary(tokenizer, rows, folder.config.as_ref()));
    }
    if let Some(problem) = contradiction(tokenizer) {
        findings.push(problem);
    } else {
        // A broken chat template is a problem of its own.
        let notes = tokenizer.notes().iter().filter(|note| !note.starts_with("chat template: "));
        findings.extend(notes.map(|note| Finding::note("tokenizer", note.as_str())));
    }
    if let Some(config) = &folder.config {
        findings.push(begin(tokenizer, config, rows));
        findings.extend(other_begin(config));
        findings.extend(padding(config, rows));
        findings.extend(ends(tokenizer, config, rows));
    }
    findings
}

/// Compares the tokenizer's ids with the embedding's rows. Ids without a row are a problem, and so are too many rows
/// without an id where something else does not fit either.
fn vocabulary(tokenizer: &Tokenizer, rows: usize, config: Option<&ModelConfig>) -> Finding {
    let subject = "vocabulary";
    let tokens = tokenizer.vocab_size();
    let ids = tokenizer.largest_id().map_or(0, |id| id as usize + 1);
    let message =
        format!("the tokenizer has {}, the embedding {}", count(tokens, "token"), count(rows, "row"));
    if ids > rows {
        let message = format!("{message}: ids up to {} have no row", ids - 1);
        return Finding::problem(subject, message).hint("tokenizer and weights do not belong together");
    }
    if ((rows - ids) as f64) <= MOST_PADDING * rows as f64 {
        return Finding::ok(subject, message);
    }
    let message = format!("{message}: {} without a token, more than padding", count(rows - ids, "row"));
    if config.is_some_and(|config| is_of_another(tokenizer, config)) {
        return Finding::problem(subject, message).hint("tokenizer and weights do not belong together");
    }
    Finding::note(subject, message).hint("tokenizer and weights may not belong together")
}

/// True if the tokenizer is another model's: a token of the configs is ordinary text to it, or one of the chat template
/// is no token.
fn is_of_another(tokenizer: &Tokenizer, config: &ModelConfig) -> bool {
    let stop = StopTokens::read(config, tokenizer).unwrap_or_default();
    let named = stop.ids().into_iter().chain(named_bos(config).and_then(|id| u32::try_from(id).ok()));
    named.into_iter().any(|id| tokenizer.is_ordinary(id)) || !template::unknown_tokens(tokenizer).is_empty()
}

/// Reports ids that other files of the tokenizer give to tokens and the vocabulary, which counts, does not.
fn contradiction(tokenizer: &Tokenizer) -> Option<Finding> {
    let wrong = tokenizer.contradicted();
    let &(file, declared, text, id) = wrong.first()?;
    let more = match wrong.len() - 1 {
        0 => String::new(),
        more => format!(", and so with {}", count(more, "more token")),
    };
    let message = format!("{file} says that `{text}` is {declared}, by the vocabulary it is {id}{more}");
    Some(Finding::problem("tokenizer", message).hint("take all tokenizer files from the same model"))
}

fn named_bos(config: &ModelConfig) -> Option<u64> {
    config.get("bos_token_id").and_then(serde_json::Value::as_u64)
}

/// Checks the token that begins a text. The tokenizer's rule is its post-processor, applied to a plain text.
fn begin(tokenizer: &Tokenizer, config: &ModelConfig, rows: Option<usize>) -> Finding {
    let subject = "bos";
    let named = named_bos(config);
    if let Some(id) = named.filter(|&id| rows.is_some_and(|rows| id >= rows as u64)) {
        let message = format!("config.json names {id}, which the embedding has no row for");
        return Finding::problem(subject, message).hint("correct bos_token_id in config.json");
    }
    let is_none = |id: &u64| u32::try_from(*id).is_ok_and(|id| tokenizer.id_to_token(id).is_none());
    if let Some(id) = named.filter(is_none) {
        let message = format!("config.json names {id}, which is no token of the tokenizer");
        return Finding::problem(subject, message).hint("tokenizer and config.json do not belong together");
    }
    let Some(bos) = tokenizer.first_token_id() else {
        return match named {
            Some(id) => Finding::note(subject, format!("config.json names {id}, the tokenizer none")),
            None => Finding::ok(subject, "none"),
        };
    };
    let what = describe(tokenizer, bos);
    let plain = match tokenizer.encode("Hi", true) {
        Ok(ids) => template::leading(&ids, bos),
        Err(error) => return Finding::refusal(subject, &error),
    };
    if let Some(id) = named.filter(|&id| id != u64::from(bos)) {
        if tokenizer.is_added_later(bos) {
            return Finding::problem(
                subject,
                format!("the tokenizer's is {what}, which tokenizer.json lacks, config.json names {id}"),
            )
            .hint("tokenizer.json is another model's");
        }
        return Finding::note(subject, format!("the tokenizer's is {what}, config.json names {id}"));
    }
    match plain {
        0 => Finding::ok(subject, format!("{what}, not put before a text")),
        1 => Finding::ok(subject, format!("{what}, put before every text")),
        n => Finding::problem(subject, format!("the tokenizer puts {what} before a text {n} times"))
            .hint("its post-processor in tokenizer.json is wrong"),
    }
}

/// Reports a generation_config.json that names another token that begins a text. Its errors are reported by [`ends`].
fn other_begin(config: &ModelConfig) -> Option<Finding> {
    let GenerationConfig::Whole { keys, .. } = GenerationConfig::read(config).ok()? else { return None };
    let (one, other) = (named_bos(config)?, keys.get("bos_token_id")?.as_u64()?);
    let message = || format!("config.json names {one}, generation_config.json {other}");
    (one != other).then(|| Finding::note("bos", message()))
}

/// Reports a padding token that the embedding lacks: training with it fails, generating never meets it.
fn padding(config: &ModelConfig, rows: Option<usize>) -> Option<Finding> {
    let id = config.get("pad_token_id")?.as_u64().filter(|&id| rows.is_some_and(|rows| id >= rows as u64))?;
    let message = format!("config.json names {id}, which the embedding has no row for");
    Some(Finding::note("pad", message).hint("correct pad_token_id in config.json, or training may fail"))
}

/// Checks the tokens that end a text.
fn ends(tokenizer: &Tokenizer, config: &ModelConfig, rows: Option<usize>) -> Vec<Finding> {
    let subject = "eos";
    let by_files = StopTokens::of_files(config).map(|stop| stop.ids());
    let (all, by_files) = match (StopTokens::read(config, tokenizer), by_files) {
        (Ok(all), Ok(by_files)) => (all, by_files),
        (Err(error), _) | (_, Err(error)) => return vec![Finding::refusal(subject, &error)],
    };
    let stop = all.ids();
    if stop.is_empty() {
        return vec![
            Finding::problem(subject, "no token ends a text: generation always runs to its limit")
                .hint("name it as eos_token_id in config.json or generation_config.json"),
        ];
    }
    let mut findings = vec![Finding::ok(subject, all.described(tokenizer).join(", "))];
    let outside =
        |id: u32| rows.is_some_and(|rows| id as usize >= rows) || tokenizer.id_to_token(id).is_none();
    let unknown: Vec<u32> = stop.iter().copied().filter(|&id| outside(id)).collect();
    if !unknown.is_empty() {
        let message = format!("ids that are no tokens: {unknown:?}");
        findings.push(Finding::problem(subject, message).hint("eos_token_id is another model's"));
    }
    let opening = template::opening(tokenizer);
    let is_header = |id: u32| {
        opening.contains(&id)
            || tokenizer.id_to_token(id).is_some_and(|token| HEADERS.contains(&token.as_str()))
    };
    let headers: Vec<u32> = stop.iter().copied().filter(|&id| is_header(id)).collect();
    if !headers.is_empty() {
        let message = format!("{} begins a turn and does not end one", describe_all(tokenizer, &headers));
        findings.push(
            Finding::problem(subject, message)
                .hint("take it out of eos_token_id, or answers may end before they begin"),
        );
    }
    let (ordinary, special): (Vec<u32>, Vec<u32>) =
        by_files.iter().partition(|id| tokenizer.is_ordinary(**id));
    if !ordinary.is_empty() && !special.is_empty() {
        let message = format!("ordinary text ends an answer: {}", describe_all(tokenizer, &ordinary));
        findings.push(
            Finding::problem(subject, message)
                .hint("correct eos_token_id in config.json or generation_config.json"),
        );
    }
    findings.extend(other_eos(tokenizer, &by_files));
    findings.extend(two_files(config));
    findings
}

/// Reports an eos_token of the tokenizer that is not among the configs' `stop` tokens. Where those are ordinary text,
/// or tokenizer.json has no such token, the files are of two models.
fn other_eos(tokenizer: &Tokenizer, stop: &[u32]) -> Option<Finding> {
    let eos = tokenizer.eos_token_id().filter(|id| !stop.is_empty() && !stop.contains(id))?;
    let message =
        format!("the tokenizer's eos_token, {}, is not among those of the configs", describe(tokenizer, eos));
    let ordinary: Vec<u32> = stop.iter().copied().filter(|&id| tokenizer.is_ordinary(id)).collect();
    if !ordinary.is_empty() {
        let message = format!("{message}, and ordinary text is: {}", describe_all(tokenizer, &ordinary));
        return Some(
            Finding::problem("eos", message).hint("eos_token_id is another model's, or the tokenizer is"),
        );
    }
    if tokenizer.is_added_later(eos) {
        let message = format!("{message}, and tokenizer.json lacks it");
        return Some(Finding::problem("eos", message).hint("tokenizer.json is another model's"));
    }
    Some(Finding::note("eos", format!("{message}: mixbit and mlx-lm stop at it too")))
}

/// Notes stop tokens that differ between config.json and generation_config.json: mlx-lm takes the latter's alone,
/// mixbit takes both.
fn two_files(config: &ModelConfig) -> Option<Finding> {
    let sorted = |mut ids: Vec<u32>| {
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let one = sorted(stop_tokens::from_config(config).ok()?);
    let GenerationConfig::Whole { stop, .. } = GenerationConfig::read(config).ok()? else { return None };
    let other = sorted(stop);
    (!one.is_empty() && !other.is_empty() && one != other).then(|| {
        Finding::note(
            "eos",
            format!("config.json says {one:?}, generation_config.json {other:?}: mixbit stops at all of them, mlx-lm at the latter"),
        )
    })
}
