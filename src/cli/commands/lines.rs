//! Lines that a user types, edited and with history at a terminal, or that come through a pipe.

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{IsTerminal, stderr, stdin, stdout};

use crate::error::{Error, Result};

/// Before what the user types.
const PROMPT: &str = "> ";

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A line, without its end.
    Text(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    /// Ctrl-D, or the end of the input.
    End,
}

/// Where lines come from.
pub struct Lines {
    /// `None`: no terminal, or one that shows something else.
    editor: Option<DefaultEditor>,
}

impl Lines {
    /// From stdin.
    pub fn open() -> Result<Self> {
        let terminal = stdin().is_terminal() && stdout().is_terminal();
        let editor = terminal.then(DefaultEditor::new).transpose().map_err(wrong)?;
        Ok(Self { editor })
    }

    /// Whether somebody types them.
    pub fn are_typed(&self) -> bool {
        stdin().is_terminal()
    }

    /// Waits for the next one.
    pub fn read(&mut self) -> Result<Line> {
        let Some(editor) = &mut self.editor else { return piped() };
        match editor.readline(PROMPT) {
            Ok(line) => {
                editor.add_history_entry(line.as_str()).map_err(wrong)?;
                Ok(Line::Text(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(wrong(error)),
        }
    }
}

fn piped() -> Result<Line> {
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

fn wrong(error: ReadlineError) -> Error {
    match error {
        ReadlineError::Io(error) => Error::io("stdin", error),
        other => Error::io("stdin", std::io::Error::other(other)),
    }
}
