//! Tokens of a user's prompt, through the chat template.

use std::fs;
use std::io::Read;

use super::templating::hint_on_failure;
use crate::cli::args;
use crate::cli::args::Run;
use crate::error::{Error, ErrorKind, Result};
use crate::files::lfs_pointer;
use crate::text::tokenizer::{Message, Tokenizer};

/// The system message of `--final-only`.
const FINAL_ONLY: &str = "Give only the final answer, within \\boxed{}, and nothing else.";

/// A prompt as the chat template writes it, and the beginning of the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RenderedPrompt {
    /// Text of the prompt, with the beginning of the answer; `None` without a chat template.
    pub rendered: Option<String>,
    /// Beginning of the answer, as it stands in the prompt; empty where the model begins it.
    pub prefill: String,
}

/// Returns the prompt's tokens, with one BOS, and the prompt as the chat template writes it.
pub fn prompt(run: &Run, tokenizer: &Tokenizer) -> Result<(Vec<u32>, RenderedPrompt)> {
    let args = &run.prompt;
    if !args.prompt_tokens.is_empty() {
        return Ok((args.prompt_tokens.clone(), RenderedPrompt::default()));
    }
    let text = text(args)?;
    if text.is_empty() {
        return Err(Error::usage("the prompt is empty")
            .hint("give --prompt TEXT, --prompt-file FILE, or text on stdin with --prompt-file -"));
    }
    if args.disable_chat_template {
        return Ok((tokenizer.encode(&text, true)?, RenderedPrompt::default()));
    }
    let on_failure = |error: Error| error.hint(hint_on_failure(tokenizer, &run.asking.template));
    tokenizer.template_in_use().map_err(|error| match error.kind() {
        ErrorKind::Template { line: Some(_), .. } => on_failure(error),
        _ => error,
    })?;
    let system = if args.final_only { Some(FINAL_ONLY) } else { args.system.as_deref() };
    let prefill = run.asking.template.prefill_response.as_deref();
    let prompt = render(tokenizer, messages(&text, system), prefill).map_err(|error| match error.kind() {
        ErrorKind::Usage(_) => error,
        _ => on_failure(error),
    })?;
    let flag = if args.final_only { "--final-only" } else { "--system" };
    if system.is_some_and(|system| ignores_system(tokenizer, system)) {
        return Err(system_ignored(flag));
    }
    if prompt.rendered.is_none() && system.is_some() {
        return Err(Error::usage(format!("{flag} needs a chat template, and this model has none"))
            .hint("put the text into --prompt"));
    }
    Ok((encode_chat(tokenizer, prompt.rendered.as_deref(), &text)?, prompt))
}

/// Renders `messages` with the chat template, for an answer that begins with `prefill`.
pub fn render(
    tokenizer: &Tokenizer,
    mut messages: Vec<Message>,
    prefill: Option<&str>,
) -> Result<RenderedPrompt> {
    let Some(prefill) = prefill else {
        let rendered = tokenizer.apply_chat_template(&messages, true)?;
        return Ok(RenderedPrompt { rendered, prefill: String::new() });
    };
    messages.push(Message::new("assistant", prefill));
    let rendered = tokenizer.continue_final_message(&messages)?;
    // Templates may take white space off the ends of messages.
    let is_whole = rendered.as_ref().is_some_and(|rendered| rendered.ends_with(prefill));
    let prefill = if is_whole { prefill } else { prefill.trim() };
    Ok(RenderedPrompt { rendered, prefill: prefill.to_owned() })
}

/// True if the chat template ignores the system message `system`. One that changes nothing because it is the template's
/// own is not ignored, and neither is an empty one.
pub fn ignores_system(tokenizer: &Tokenizer, system: &str) -> bool {
    let render = |system| chat_text(tokenizer, "Hi", system).ok().flatten();
    let without = render(None);
    let changes_nothing = |system| render(Some(system)) == without;
    !system.trim().is_empty()
        && without.is_some()
        && changes_nothing(system)
        && changes_nothing("A system message that no template has")
}

/// Returns the error of a `flag` whose system message the chat template ignores.
pub fn system_ignored(flag: &str) -> Error {
    Error::usage(format!("{flag}: this model's chat template leaves out system messages"))
        .hint("put the text into the prompt")
}

/// Reads the prompt from the flag, or from a file or stdin without its last line end.
fn text(args: &args::Prompt) -> Result<String> {
    let without_line_end = |text: String| {
        let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        line.map_or_else(|| text.clone(), str::to_owned)
    };
    // A byte order mark is no part of the prompt.
    let without_mark =
        |text: String| text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), str::to_owned);
    let from_stdin = || {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|error| Error::io("stdin", error))?;
        Ok(without_line_end(without_mark(text)))
    };
    match (&args.prompt, &args.prompt_file) {
        (_, Some(path)) if path.as_os_str() == "-" => from_stdin(),
        (_, Some(path)) => {
            let text = fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
            lfs_pointer::refuse(path, text.as_bytes())?;
            Ok(without_line_end(without_mark(text)))
        }
        (Some(flag), None) if flag == "-" => from_stdin(),
        (flag, None) => Ok(flag.clone().unwrap_or_default()),
    }
}

/// Renders a user's `text` after a system message with the chat template, where there is one.
pub fn chat_text(tokenizer: &Tokenizer, text: &str, system: Option<&str>) -> Result<Option<String>> {
    tokenizer.apply_chat_template(&messages(text, system), true)
}

/// Returns the messages of a user's `text` after a system message.
pub fn messages(text: &str, system: Option<&str>) -> Vec<Message> {
    let system = system.map(|system| Message::new("system", system));
    system.into_iter().chain([Message::new("user", text)]).collect()
}

/// Encodes the text that the template wrote, which has its BOS already, or the text itself, with BOS.
pub fn encode_chat(tokenizer: &Tokenizer, rendered: Option<&str>, text: &str) -> Result<Vec<u32>> {
    rendered.map_or_else(|| tokenizer.encode(text, true), |rendered| tokenizer.encode(rendered, false))
}
