//! What the terminal can show: colours and block characters, or neither.

use std::io::IsTerminal;

/// How to draw on stdout.
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
    /// What stdout is.
    pub fn stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        match std::io::stdout().is_terminal() {
            false => Self::Plain,
            true if set("NO_COLOR").is_some() || dumb => Self::Blocks,
            true => Self::Colour,
        }
    }

    /// `text` in the colours of an SGR code such as `1;31`, where there are colours.
    pub fn paint(self, code: &str, text: &str) -> String {
        if self == Self::Colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Whether what is written to stdout may be more than ASCII: anything in a file or a pipe, and on a terminal what its
/// locale (LC_ALL, LC_CTYPE, LANG) allows.
pub fn unicode() -> bool {
    supports_unicode::on(supports_unicode::Stream::Stdout)
}

/// The same of stderr, where bars are drawn.
pub fn unicode_bars() -> bool {
    supports_unicode::on(supports_unicode::Stream::Stderr)
}

/// `±`, or what stands for it in ASCII.
pub fn plus_minus() -> &'static str {
    if unicode() { "\u{b1}" } else { "+-" }
}
