//! A conversation with a model: what was said, and the commands among the lines that a user types.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::tokenizer::Message;

/// What the commands do, for `/help`.
pub const HELP: &str = "\
/system TEXT  set the system message; \"\" removes the template's own; without TEXT, show it
/reset        forget the conversation, keep the system message
/save FILE    write the conversation to a new file, as a line of JSONL that --calibration reads
/help         show this
/quit         end, as Ctrl-D does
Ctrl-C stops an answer. A line that begins with // is sent with one slash.";

/// A line as it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Nothing but spaces.
    Nothing,
    /// To be said to the model.
    Say(String),
    /// Set the system message.
    System(String),
    /// Show the system message.
    ShowSystem,
    /// Forget what was said.
    Reset,
    /// Write the conversation to this file.
    Save(PathBuf),
    /// Show [`HELP`].
    Help,
    /// End.
    Quit,
}

impl Input {
    /// Reads a line. Lines that begin with a slash are commands, but for two slashes.
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
            _ => Err(Error::usage(format!("/{name} takes nothing after it, found `{rest}`"))
                .hint("/help lists the commands")),
        };
        match name {
            "system" if rest.is_empty() => Ok(Self::ShowSystem),
            "system" => Ok(Self::System(if rest == "\"\"" { String::new() } else { rest.to_owned() })),
            "save" if rest.is_empty() => Err(Error::usage("/save needs a file").hint("/save FILE")),
            "save" => Ok(Self::Save(rest.into())),
            "reset" => alone(Self::Reset),
            "help" => alone(Self::Help),
            "quit" => alone(Self::Quit),
            _ => Err(Error::usage(format!("there is no command /{name}"))
                .hint("/help lists the commands; a line that begins with // is sent with one slash")),
        }
    }
}

/// What was said so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The system message; `None` leaves it to the template.
    pub system: Option<String>,
    turns: Vec<Message>,
}

impl Conversation {
    /// Nothing said yet.
    pub fn new(system: Option<String>) -> Self {
        Self { system, turns: Vec::new() }
    }

    /// The user says something.
    pub fn ask(&mut self, text: String) {
        self.turns.push(Message::new("user", text));
    }

    /// The model has answered.
    pub fn answered(&mut self, text: String) {
        self.turns.push(Message::new("assistant", text));
    }

    /// Takes back what was said last.
    pub fn take_back(&mut self) {
        self.turns.pop();
    }

    /// Forgets what was said.
    pub fn reset(&mut self) {
        self.turns.clear();
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// All messages, the system's first.
    pub fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        system.chain(self.turns.iter().cloned()).collect()
    }

    /// `{"messages": [...]}` on one line.
    pub fn to_jsonl(&self) -> String {
        format!("{}\n", serde_json::json!({ "messages": self.messages() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(conversation.to_jsonl(), expected);
        conversation.reset();
        assert!(conversation.is_empty());
        assert_eq!(conversation.messages().len(), 1, "the system message stays");
    }
}
