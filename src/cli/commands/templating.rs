//! Flags of chat templates: applied to a tokenizer, or refused where they would do nothing.

use serde_json::Value;
use std::fs;
use std::path::Path;

use super::settings;
use crate::cli::args;
use crate::error::{Error, Result};
use crate::files::{json, lfs_pointer};
use crate::text::tokenizer::{Message, Tokenizer, kind};

/// Applies the flags' template and tools to the tokenizer. Fails where there is no template, or it ignores tools.
pub fn for_answers(tokenizer: Tokenizer, asked: &args::Asking) -> Result<Tokenizer> {
    let tools = asked.tools.as_deref().map(read_tools).transpose()?;
    let tokenizer = settings::template(&asked.template).apply_with_tools(tokenizer, tools.clone())?;
    let flags = asked.template.flags().into_iter().chain(tools.is_some().then_some("--tools"));
    if let Some(flag) = flags.into_iter().next()
        && !tokenizer.has_chat_template()
    {
        return Err(Error::usage(format!("{flag} needs a chat template, and this model has none"))
            .hint("--chat-template FILE gives it one"));
    }
    let messages = [Message::new("user", "Hi")];
    let render = |tools| tokenizer.render_with_tools(&messages, tools);
    // A template that fails is reported where it is used.
    if let Some(tools) = tools.as_deref()
        && let (Ok(with), Ok(without)) = (render(Some(tools)), render(None))
        && with == without
    {
        return Err(Error::usage("--tools: this model's chat template leaves out tools")
            .hint("describe them in --system, or give a --chat-template that knows tools"));
    }
    Ok(tokenizer)
}

/// Hint where the chat template of prompts fails: it names the user's own file.
pub fn hint_on_failure(tokenizer: &Tokenizer, flags: &args::Template) -> String {
    let path = tokenizer.template_in_use().ok().flatten().map(|(_, path)| path);
    match flags.chat_template.as_deref().filter(|own| path == Some(*own)) {
        Some(own) => format!("mend {}, or leave out --chat-template", own.display()),
        None => "--disable-chat-template gives the model the prompt as it is".to_owned(),
    }
}

fn read_tools(path: &Path) -> Result<Vec<Value>> {
    let hint = "expected a list such as [{\"type\": \"function\", \"function\": {\"name\": ..., \"parameters\": ...}}]";
    if path.as_os_str() == "-" {
        return Err(Error::usage("--tools reads a file, not standard input, and `-` names none")
            .hint("write the definitions into a file, and name that"));
    }
    let bytes = fs::read(path).map_err(|error| Error::io(path, error))?;
    lfs_pointer::refuse(path, &bytes)?;
    let value = json::parse_exact(path, &bytes).map_err(|error| error.hint(hint))?;
    let Value::Array(tools) = value else {
        let message = format!("expected a list of tools, found {}", kind(&value));
        return Err(Error::file(path, message).hint(hint));
    };
    if tools.is_empty() {
        return Err(Error::file(path, "lists no tools").hint("leave --tools out, or list at least one tool"));
    }
    match tools.iter().position(|tool| !tool.is_object()) {
        Some(index) => {
            Err(Error::key(path, format!("[{index}]"), "expected an object that defines a tool").hint(hint))
        }
        None => Ok(tools),
    }
}

/// Fails where there are flags of chat templates and no conversation. `texts` are the names of the texts that were
/// read.
pub fn refuse_idle(flags: &args::Template, texts: &[String], conversations: bool) -> Result<()> {
    if conversations {
        return Ok(());
    }
    let Some(flag) = flags.flags().into_iter().next() else { return Ok(()) };
    let reason = match texts {
        [] => "no text is read".to_owned(),
        texts => format!("there is no conversation in {}", texts.join(" or ")),
    };
    Err(Error::usage(format!("{flag} says how conversations are written out, and {reason}"))
        .hint(format!("leave {flag} out, or give JSONL with `messages` or `conversations`")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Returns the tokenizer of a model whose template is `template`, for answers with one tool.
    fn with_one_tool(template: &str) -> Result<Tokenizer> {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/mobilellm-docs-1m");
        let folder = tempfile::tempdir().unwrap();
        let (file, tools) = (folder.path().join("t.jinja"), folder.path().join("tools.json"));
        fs::write(&file, template).unwrap();
        fs::write(&tools, "\u{feff}[{\"type\": \"function\", \"limit\": Infinity}]").unwrap();
        let template = args::Template { chat_template: Some(file), ..args::Template::default() };
        let asked = args::Asking { template, tools: Some(tools) };
        for_answers(Tokenizer::from_dir(&model).unwrap(), &asked)
    }

    #[test]
    fn a_failing_template_does_not_leave_out_tools() {
        let error = with_one_tool("{{ messages[0].content }}").err().unwrap();
        assert!(error.to_string().contains("leaves out tools"), "{error}");
        let tokenizer = with_one_tool("{{ raise_exception('never') }}").unwrap();
        let error = tokenizer.apply_chat_template(&[Message::new("user", "Hi")], true).unwrap_err();
        assert!(error.to_string().contains("never"), "{error}");
    }
}
