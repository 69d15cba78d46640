//! Lines of a conversation: typed at a terminal, with editing and history, or through a pipe.

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{IsTerminal, stderr, stdin, stdout};

use crate::error::{Error, Result};

/// Prompt of a terminal.
const PROMPT: &str = "> ";

/// Line of a conversation, or the event in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A line, without its end.
    Text(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    /// Ctrl-D, or the end of the input.
    End,
}

/// Reader of lines.
pub struct Lines {
    /// Line editor; `None` where input or output is no terminal.
    editor: Option<DefaultEditor>,
}

impl Lines {
    /// Opens stdin.
    pub fn open() -> Result<Self> {
        let terminal = stdin().is_terminal() && stdout().is_terminal();
        let editor = terminal.then(DefaultEditor::new).transpose().map_err(input_error)?;
        Ok(Self { editor })
    }

    /// True if a user types the lines.
    pub fn are_typed(&self) -> bool {
        stdin().is_terminal()
    }

    /// Waits for the next line.
    pub fn read(&mut self) -> Result<Line> {
        let Some(editor) = &mut self.editor else { return read_line() };
        match editor.readline(PROMPT) {
            Ok(line) => {
                editor.add_history_entry(line.as_str()).map_err(input_error)?;
                Ok(Line::Text(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(input_error(error)),
        }
    }
}

/// Reads a line without an editor.
fn read_line() -> Result<Line> {
    if stdin().is_terminal() && stderr().is_terminal() {
        eprint!("{PROMPT}");
    }
    let mut line = String::new();
    match stdin().read_line(&mut line) {
        Ok(0) => Ok(Line::End),
        Ok(_) => Ok(Line::Text(line.trim_end_matches(['\n', '\r']).to_owned())),
        Err(error) => Err(Error::io("stdin", error)),
    }
}

fn input_error(error: ReadlineError) -> Error {
    match error {
        ReadlineError::Io(error) => Error::io("stdin", error),
        other => Error::io("stdin", std::io::Error::other(other)),
    }
}
