//! Conversation with a model: its messages, and the commands among the lines that a user types.

use serde_json::Value;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::files::json;
use crate::text::tokenizer::{Message, Tokenizer};

/// Text of `/help`: the commands and their effects.
pub const HELP: &str = "\
/system TEXT  set the system message; \"\" removes the template's own; without TEXT, show it
/reset        forget the conversation, keep the system message
/save FILE    write the conversation to a new file, as a line of JSONL that --calibration reads
/help         show this
/quit         end, as Ctrl-D does
Ctrl-C stops an answer. A line that begins with // is sent with one slash.";

/// Meaning of a line that the user typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Blank line.
    Nothing,
    /// Say this text to the model.
    Say(String),
    /// Set the system message to this text.
    System(String),
    /// Show the system message.
    ShowSystem,
    /// Forget the messages so far, except the system message.
    Reset,
    /// Write the conversation to this file.
    Save(PathBuf),
    /// Show [`HELP`].
    Help,
    /// End the conversation.
    Quit,
}

impl Input {
    /// Reads a line. A line that begins with one slash is a command; one that begins with two slashes is text, said
    /// with one slash.
    ///
    /// # Errors
    /// When there is no such command, `/save` has no file, or `/reset`, `/help` or `/quit` has something after it.
    pub fn parse(line: &str) -> Result<Self> {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return Ok(if line.is_empty() { Self::Nothing } else { Self::Say(line.to_owned()) });
        };
        if command.starts_with('/') {
            return Ok(Self::Say(command.to_owned()));
        }
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        let alone = |input| match rest {
            "" => Ok(input),
            _ => Err(Error::input(format!("/{name} takes nothing after it, found `{rest}`"))
                .hint("/help lists the commands")),
        };
        match name {
            "system" if rest.is_empty() => Ok(Self::ShowSystem),
            "system" => Ok(Self::System(if rest == "\"\"" { String::new() } else { rest.to_owned() })),
            "save" if rest.is_empty() => Err(Error::input("/save needs a file").hint("/save FILE")),
            "save" => Ok(Self::Save(rest.into())),
            "reset" => alone(Self::Reset),
            "help" => alone(Self::Help),
            "quit" => alone(Self::Quit),
            _ => Err(Error::input(format!("there is no command /{name}"))
                .hint("/help lists the commands; a line that begins with // is sent with one slash")),
        }
    }
}

/// Messages of a conversation so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// System message; `None` leaves it to the template, an empty one removes the template's own.
    pub system: Option<String>,
    turns: Vec<Message>,
}

impl Conversation {
    /// Returns a conversation in which nothing was said yet.
    pub fn new(system: Option<String>) -> Self {
        Self { system, turns: Vec::new() }
    }

    /// Adds a message of the user.
    pub fn ask(&mut self, text: String) {
        self.turns.push(Message::new("user", text));
    }

    /// Adds an answer of the model.
    pub fn answered(&mut self, text: String) {
        self.turns.push(Message::new("assistant", text));
    }

    /// Removes the last message of the user or the model, if there is one.
    pub fn take_back(&mut self) {
        self.turns.pop();
    }

    /// Removes all messages except the system message.
    pub fn reset(&mut self) {
        self.turns.clear();
    }

    /// True if nothing was said; the system message does not count.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Returns all messages, the system message first.
    pub fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        system.chain(self.turns.iter().cloned()).collect()
    }

    /// Returns the conversation as a line of JSONL, `{"messages": [...]}`, with a line break at its end, and with `tools`
    /// where the model was offered some.
    pub fn to_jsonl(&self, tools: Option<&[Value]>) -> String {
        let mut record = serde_json::json!({ "messages": self.messages() });
        if let Some(tools) = tools {
            record["tools"] = tools.into();
        }
        format!("{}\n", json::shown(&record))
    }
}

/// Text that the model has seen, with the tokens in which it was given.
///
/// A text has many tokenizations. The tokens of a whole conversation need not begin with those of the prompt and of the
/// answer, even if its text begins with theirs (`\n\n` may be one token at the end of a prompt and two before a word),
/// and the caches are of no use after the first token that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Text that the tokens stand for.
    pub text: String,
    /// Token ids, from the beginning of the text to its end.
    pub tokens: Vec<u32>,
}

impl Seen {
    /// Returns the text and tokens, followed by those of an answer.
    ///
    /// # Errors
    /// When the tokenizer cannot decode the answer.
    pub fn answered(&self, tokenizer: &Tokenizer, answer: &[u32]) -> Result<Self> {
        let text = format!("{}{}", self.text, tokenizer.decode(answer, false)?);
        Ok(Self { text, tokens: [&self.tokens[..], answer].concat() })
    }
}

/// Returns the text `rendered` of a conversation with the white space around the last answer restored: templates leave
/// that out. `before` is the template's text of the last prompt, `prompt` the same prompt as the model has seen it, and
/// `answered` that prompt followed by the answer. Returns `None` if anything else has changed.
///
/// Caches that keep only the latest tokens cannot return to the beginning of the answer. If the text keeps a line break
/// that the template would leave out, such caches resume after the answer; otherwise the model has to read the whole
/// conversation again.
pub fn as_said(rendered: &str, before: &str, prompt: &Seen, answered: &Seen) -> Option<String> {
    let answer = answered.text.strip_prefix(&prompt.text)?;
    let after = rendered.strip_prefix(before).filter(|_| !before.is_empty())?;
    // Where the prompt has the beginning of the answer, the white space after that stays.
    let rest = after.strip_prefix(answer.trim()).or_else(|| after.strip_prefix(answer.trim_end()))?;
    Some(format!("{}{rest}", answered.text))
}

/// Returns the tokens of `text`: those of the first of `seen` that `text` begins with, followed by those of the rest,
/// if together they decode to the same text as the tokenizer's own tokens. Any of `seen` for which that does not hold
/// is skipped; if none is left, the tokenizer's own tokens are returned.
///
/// # Errors
/// When the tokenizer cannot encode or decode the text.
pub fn encode_after(tokenizer: &Tokenizer, text: &str, seen: &[Seen]) -> Result<Vec<u32>> {
    let plain = tokenizer.encode(text, false)?;
    let meant = tokenizer.decode(&plain, false)?;
    for seen in seen {
        let Some(rest) = text.strip_prefix(&seen.text) else { continue };
        let tokens = [&seen.tokens[..], &tokenizer.encode(rest, false)?].concat();
        if tokenizer.decode(&tokens, false)? == meant {
            return Ok(tokens);
        }
    }
    Ok(plain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_was_seen_keeps_its_tokens() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/mobilellm-docs-1m");
        let tokenizer = Tokenizer::from_dir(&dir).unwrap();
        let seen = |text: &str, tokens: &[u32]| Seen { text: text.to_owned(), tokens: tokens.to_vec() };
        let plain = tokenizer.encode("a\n\nword<|eot_id|>x", false).unwrap();
        let prompt = seen("a\n\n", &tokenizer.encode("a\n\n", false).unwrap());
        assert!(!plain.starts_with(&prompt.tokens), "or this tests nothing");
        // The letters of the answer one by one, as no tokenizer would have them.
        let letters: Vec<u32> =
            "word".chars().map(|c| tokenizer.token_to_id(&c.to_string()).unwrap()).collect();
        let answered = prompt.answered(&tokenizer, &letters).unwrap();
        let all = [prompt.clone(), answered.clone()];
        let encode = |text: &str, seen: &[Seen]| encode_after(&tokenizer, text, seen).unwrap();
        let tokens = encode("a\n\nword<|eot_id|>x", &[answered.clone(), prompt.clone()]);
        assert!(tokens.starts_with(&answered.tokens));
        assert_eq!(tokenizer.decode(&tokens, false).unwrap(), "a\n\nword<|eot_id|>x");
        // An answer that was changed: from the prompt on. Another prompt: anew.
        assert!(encode("a\n\nworx", &[answered, prompt]).starts_with(&all[0].tokens));
        assert_eq!(encode("b\n\nword", &all), tokenizer.encode("b\n\nword", false).unwrap());
        // Tokens that do not stand for what they are said to are not used.
        let wrong = seen("a", &tokenizer.encode("b", false).unwrap());
        assert_eq!(encode("aa", &[wrong]), tokenizer.encode("aa", false).unwrap());
    }

    #[test]
    fn an_answer_keeps_the_white_space_that_the_model_has_seen() {
        let seen = |text: &str| Seen { text: text.to_owned(), tokens: Vec::new() };
        let (prompt, answered) = (seen("<u>\n Hi <a>"), seen("<u>\n Hi <a>\n\nHo \n"));
        let said = |rendered: &str| as_said(rendered, "<u>Hi<a>", &prompt, &answered);
        assert_eq!(said("<u>Hi<a>Ho<u>What?<a>").as_deref(), Some("<u>\n Hi <a>\n\nHo \n<u>What?<a>"));
        // Another system message, an answer that was cut, a new conversation.
        assert_eq!(said("<s><u>Hi<a>Ho<u>What?<a>"), None);
        assert_eq!(said("<u>Hi<a>H<u>What?<a>"), None);
        assert_eq!(as_said("<u>Hi<a>", "", &Seen::default(), &Seen::default()), None);
    }

    #[test]
    fn lines_are_said_or_obeyed() {
        let say = |text: &str| Input::Say(text.to_owned());
        for (line, expected) in [
            ("", Input::Nothing),
            ("  ", Input::Nothing),
            (" Hi there ", say("Hi there")),
            ("a /reset", say("a /reset")),
            ("//etc is a folder", say("/etc is a folder")),
            ("/system  Be brief. ", Input::System("Be brief.".into())),
            ("/system", Input::ShowSystem),
            ("/system \"\"", Input::System(String::new())),
            ("/save my talk.jsonl", Input::Save("my talk.jsonl".into())),
            ("/reset ", Input::Reset),
            ("/help", Input::Help),
            ("/quit", Input::Quit),
        ] {
            assert_eq!(Input::parse(line).unwrap(), expected, "{line:?}");
        }
        for (line, expected) in [
            ("/", "no command /"),
            ("/etc/x y", "no command /etc/x"),
            ("/save", "needs a file"),
            ("/quit now", "`now`"),
        ] {
            let error = Input::parse(line).unwrap_err();
            assert!(error.to_string().contains(expected) && error.hint_text().is_some(), "{error}");
        }
    }

    #[test]
    fn a_saved_conversation_is_a_text() {
        let mut conversation = Conversation::new(Some("Be \"brief\".".into()));
        conversation.ask("Hi".into());
        conversation.answered("Hello\nthere".into());
        conversation.ask("never mind".into());
        conversation.take_back();
        let expected = concat!(
            r#"{"messages":[{"role":"system","content":"Be \"brief\"."},{"role":"user","content":"Hi"},"#,
            r#"{"role":"assistant","content":"Hello\nthere"}]}"#,
            "\n"
        );
        assert_eq!(conversation.to_jsonl(None), expected);
        let tools = [serde_json::json!({"type": "function"})];
        let expected = expected.replace("]}\n", "],\"tools\":[{\"type\":\"function\"}]}\n");
        assert_eq!(conversation.to_jsonl(Some(&tools)), expected);
        conversation.reset();
        assert!(conversation.is_empty());
        assert_eq!(conversation.messages().len(), 1, "the system message stays");
    }
}
