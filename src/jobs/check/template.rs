//! The chat template: that it renders, and fits the tokenizer and the tokens that end a text.

use serde_json::json;
use std::{iter, slice};

use super::check::Finding;
use super::folder::Folder;
use crate::error::Result;
use crate::text::stop_tokens::{StopTokens, describe};
use crate::text::tokenizer::{Message, Tokenizer, render_without_tokenizer};
use crate::words::list;

const QUESTION: &str = "Which number?";
const ANSWER: &str = "Forty-two.";
const LEFT_OUT: &str = "leaves out what the user says";

/// Checks that a question, and a question with its answer, can be rendered.
pub(crate) fn check(folder: &Folder) -> Vec<Finding> {
    let subject = "template";
    let Some(tokenizer) = &folder.tokenizer else { return alone(folder) };
    let prompt = match tokenizer.apply_chat_template(&[Message::new("user", QUESTION)], true) {
        Ok(Some(prompt)) => prompt,
        Ok(None) => {
            let none = Finding::ok(subject, "none: prompts are given to the model as they are");
            return iter::once(none).chain(decisions(tokenizer)).collect();
        }
        Err(error) => return vec![Finding::refusal(subject, &error)],
    };
    if !prompt.contains(QUESTION) {
        return vec![Finding::problem(subject, LEFT_OUT)];
    }
    let mut findings = match bos(tokenizer, &prompt) {
        Ok(finding) => vec![finding],
        Err(error) => vec![Finding::refusal(subject, &error)],
    };
    findings.extend(decisions(tokenizer));
    findings.extend(further(tokenizer));
    findings.extend(note_unknown(tokenizer));
    let stop = folder.config.as_ref().and_then(|config| StopTokens::read(config, tokenizer).ok());
    findings.extend(stop.and_then(|stop| closing(tokenizer, &stop.ids())));
    findings
}

/// Notes what transformers would decide otherwise.
fn decisions(tokenizer: &Tokenizer) -> impl Iterator<Item = Finding> {
    tokenizer.template_notes().into_iter().map(|note| Finding::note("template", note))
}

/// Checks the template of a folder whose tokenizer cannot be read.
fn alone(folder: &Folder) -> Vec<Finding> {
    let subject = "template";
    match render_without_tokenizer(&folder.files, &[Message::new("user", QUESTION)]) {
        Ok(None) => Vec::new(),
        Ok(Some(prompt)) if !prompt.contains(QUESTION) => vec![Finding::problem(subject, LEFT_OUT)],
        Ok(Some(_)) => vec![Finding::ok(subject, "renders; without a tokenizer no more can be said")],
        Err(error) => vec![Finding::refusal(subject, &error)],
    }
}

/// Renders the templates that a plain question is not written with. The one for tools gets a tool; others may need
/// input that only their users have, documents for example.
fn further(tokenizer: &Tokenizer) -> Vec<Finding> {
    let in_use = tokenizer.template_in_use().ok().flatten().map(|(name, _)| name);
    let tool = json!({"type": "function", "function": {"name": "look_up", "description": "Looks up a word.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}}});
    let names = tokenizer.template_names().into_iter().filter(|&name| in_use != Some(name));
    let try_one = |name: &str| {
        let (subject, is_for_tools) = ("template", name == "tool_use");
        let tools = if is_for_tools { Some(slice::from_ref(&tool)) } else { None };
        match tokenizer.apply_named_template(name, &[Message::new("user", QUESTION)], tools) {
            Ok(None) => None,
            Ok(Some(prompt)) if prompt.contains(QUESTION) => {
                Some(Finding::ok(subject, format!("`{name}` renders too")))
            }
            Ok(Some(_)) => Some(Finding::note(subject, format!("`{name}` {LEFT_OUT}"))),
            Err(error) if is_for_tools => Some(Finding::refusal(subject, &error)),
            Err(error) => Some(Finding::note(subject, format!("`{name}` takes no plain question: {error}"))),
        }
    };
    names.filter_map(try_one).collect()
}

/// Counts the `bos` at the beginning of `ids`.
pub(crate) fn leading(ids: &[u32], bos: u32) -> usize {
    ids.iter().take_while(|&&id| id == bos).count()
}

/// Reports who writes BOS: the template, the tokenizer, both or neither.
fn bos(tokenizer: &Tokenizer, prompt: &str) -> Result<Finding> {
    let subject = "template";
    let Some(bos) = tokenizer.first_token_id() else {
        return Ok(Finding::ok(subject, "renders; there is no BOS"));
    };
    let by_template = leading(&tokenizer.encode(prompt, false)?, bos);
    let by_tokenizer = leading(&tokenizer.encode("Hi", true)?, bos);
    let what = describe(tokenizer, bos);
    Ok(match (by_template, by_tokenizer) {
        (0, 0) => Finding::ok(subject, "renders, without BOS, as the tokenizer does"),
        (1, 0) => Finding::ok(
            subject,
            format!("renders, and writes BOS ({what}), which the tokenizer does not add"),
        ),
        (0, _) => Finding::note(
            subject,
            format!("renders without BOS ({what}), which the tokenizer puts before plain text"),
        ),
        (1, _) => Finding::note(
            subject,
            format!(
                "renders, and writes BOS ({what}); the tokenizer adds it too: tokenize rendered prompts without special tokens (mixbit does)"
            ),
        ),
        (n, _) => Finding::problem(subject, format!("writes BOS ({what}) {n} times"))
            .hint("one is enough: mend the template"),
    })
}

/// Returns the tokens that the template puts before an answer, which it adds when asked for a generation prompt.
pub(crate) fn opening(tokenizer: &Tokenizer) -> Vec<u32> {
    let messages = [Message::new("user", QUESTION)];
    let render = |prompt| tokenizer.apply_chat_template(&messages, prompt).ok().flatten();
    let (Some(with), Some(without)) = (render(true), render(false)) else { return Vec::new() };
    let added = with.strip_prefix(&without).unwrap_or_default();
    tokenizer.encode(added, false).unwrap_or_default()
}

/// Returns the texts that the template writes like special tokens, `<|so|>`, and that are no tokens of the tokenizer.
pub(crate) fn unknown_tokens(tokenizer: &Tokenizer) -> Vec<String> {
    let messages = [Message::new("user", QUESTION)];
    let Ok(Some(prompt)) = tokenizer.apply_chat_template(&messages, true) else { return Vec::new() };
    let mut unknown: Vec<String> = Vec::new();
    for part in prompt.split("<|").skip(1) {
        let name = part.split_once("|>").map(|(name, _)| name);
        let name = name.filter(|name| !name.is_empty() && !name.contains(char::is_whitespace));
        let token = name.map(|name| format!("<|{name}|>"));
        let token = token.filter(|token| tokenizer.token_to_id(token).is_none() && !unknown.contains(token));
        unknown.extend(token);
    }
    unknown
}

/// Notes unknown tokens. Some models are trained with them; for the others the template is another model's.
fn note_unknown(tokenizer: &Tokenizer) -> Option<Finding> {
    let unknown: Vec<String> = unknown_tokens(tokenizer).iter().map(|token| format!("`{token}`")).collect();
    let message = format!("writes {}, which the tokenizer takes for ordinary text", list(&unknown));
    (!unknown.is_empty())
        .then(|| Finding::note("template", message).hint("template and tokenizer may not belong together"))
}

/// Notes an answer after which no token ends generation.
fn closing(tokenizer: &Tokenizer, stop: &[u32]) -> Option<Finding> {
    let messages = [Message::new("user", QUESTION), Message::new("assistant", ANSWER)];
    let rendered = tokenizer.apply_chat_template(&messages, false).ok()??;
    let (_, after) = rendered.rsplit_once(ANSWER)?;
    let ids = tokenizer.encode(after, false).ok()?;
    let &first = ids.first()?;
    let ends = after.trim().is_empty() || ids.iter().any(|id| stop.contains(id));
    (!ends).then(|| {
        let what = describe(tokenizer, first);
        Finding::note("template", format!("ends an answer with {what}, which does not end generation"))
            .hint("add its id to eos_token_id in generation_config.json")
    })
}
