//! Capabilities of the terminal: colours and block characters, or neither.

use std::io::IsTerminal;

/// Way to draw on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canvas {
    /// A file or a pipe: text that scripts read.
    Plain,
    /// A terminal without colours (`NO_COLOR`, or a dumb one).
    Blocks,
    /// A terminal with colours.
    Colour,
}

impl Canvas {
    /// Returns the way to draw that stdout allows.
    pub fn stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        if !std::io::stdout().is_terminal() {
            Self::Plain
        } else if set("NO_COLOR").is_some() || dumb {
            Self::Blocks
        } else {
            Self::Colour
        }
    }

    /// Returns `text` in the colours of an SGR code such as `1;31`, or as it is without colours.
    pub fn paint(self, code: &str, text: &str) -> String {
        if self == Self::Colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// True if stdout may get more than ASCII: always a file or a pipe, and a terminal if its locale (LC_ALL, LC_CTYPE,
/// LANG) allows it.
pub fn unicode() -> bool {
    supports_unicode::on(supports_unicode::Stream::Stdout)
}

/// True if stderr, where bars are drawn, may get more than ASCII.
pub fn unicode_bars() -> bool {
    supports_unicode::on(supports_unicode::Stream::Stderr)
}

/// Returns `±`, or `+-` where only ASCII may be written.
pub fn plus_minus() -> &'static str {
    if unicode() { "\u{b1}" } else { "+-" }
}
