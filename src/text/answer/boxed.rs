//! Boxes, `\boxed{...}`, in which models that were trained on mathematics put their answer. Braces nest, and escaped
//! ones (`\{`) do not count.

const NAME: &str = r"\boxed";

/// Count of open braces, from the first that opens a box.
#[derive(Debug, Clone, Copy)]
struct Braces {
    open: usize,
    escaped: bool,
}

impl Braces {
    fn new() -> Self {
        Self { open: 1, escaped: false }
    }

    /// Takes a character. True if it closes the first brace.
    fn close(&mut self, c: char) -> bool {
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' => self.escaped = true,
            '{' => self.open += 1,
            '}' => self.open -= 1,
            _ => {}
        }
        self.open == 0
    }
}

/// Returns the content of the last box that is closed, or of the inner one if boxes are nested.
pub fn last_boxed(text: &str) -> Option<&str> {
    text.rmatch_indices(NAME).find_map(|(at, name)| {
        let content = text.get(at + name.len()..)?.trim_start().strip_prefix('{')?;
        let mut braces = Braces::new();
        let (end, _) = content.char_indices().find(|&(_, c)| braces.close(c))?;
        content.get(..end)
    })
}

/// Search for the end of the first box in a text that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct FirstBox(State);

#[derive(Debug, Default)]
enum State {
    #[default]
    Outside,
    /// Within the name, after this many of its characters.
    Name(usize),
    /// Between the name and the opening brace.
    Before,
    Inside(Braces),
}

impl FirstBox {
    /// Takes a piece. Returns the length in bytes of its part up to and including the brace that closes the first box,
    /// or `None` if that brace is not in the piece.
    pub(crate) fn push(&mut self, piece: &str) -> Option<usize> {
        for (at, c) in piece.char_indices() {
            if let State::Inside(braces) = &mut self.0 {
                if braces.close(c) {
                    return Some(at + c.len_utf8());
                }
                continue;
            }
            self.0 = match (&self.0, c) {
                (State::Before, '{') => State::Inside(Braces::new()),
                (State::Before, c) if c.is_whitespace() => State::Before,
                (&State::Name(length), c) if NAME.chars().nth(length) == Some(c) => {
                    if length + 1 == NAME.len() { State::Before } else { State::Name(length + 1) }
                }
                (_, '\\') => State::Name(1),
                _ => State::Outside,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_closed_box_counts() {
        for (text, expected) in [
            (r"\boxed{4}", Some("4")),
            (r"\boxed{1} then \boxed{2}.", Some("2")),
            (r"\boxed{1} then \boxed{2", Some("1")),
            (r"$\boxed{\frac{1}{x^{2}}}$", Some(r"\frac{1}{x^{2}}")),
            (r"\boxed{\left\{ 1, 2 \right.}", Some(r"\left\{ 1, 2 \right.")),
            (r"\boxed{a \\}", Some(r"a \\")),
            (r"\boxed {5}", Some("5")),
            (r"\boxed{\boxed{3}}", Some("3")),
            (r"\boxed{}", Some("")),
            (r"\boxed{é}", Some("é")),
            (r"boxed{4} \boxes{5} \boxedx{6} \boxed", None),
            ("", None),
        ] {
            assert_eq!(last_boxed(text), expected, "{text}");
        }
    }

    #[test]
    fn the_first_box_ends_where_its_brace_closes() {
        for (text, expected) in [
            (r"so \boxed{4}. And \boxed{5}", Some(r"so \boxed{4}")),
            (r"\boxed{\frac{1}{2}} x", Some(r"\boxed{\frac{1}{2}}")),
            (r"\boxed{\boxed{3}} x", Some(r"\boxed{\boxed{3}}")),
            (r"\boxed{a\}b} x", Some(r"\boxed{a\}b}")),
            (r"\bo\boxed {é} x", Some(r"\bo\boxed {é}")),
            (r"\boxed{4 } {", Some(r"\boxed{4 }")),
            (r"\boxed 4 {x} \boxes{y} {z}", None),
            (r"\boxed{4", None),
        ] {
            let mut whole = FirstBox::default();
            assert_eq!(whole.push(text).and_then(|end| text.get(..end)), expected, "{text}");
            let mut by_characters = FirstBox::default();
            let mut starts = text.char_indices().map(|(at, c)| at..at + c.len_utf8());
            let end = starts.find(|range| by_characters.push(&text[range.clone()]).is_some());
            assert_eq!(end.and_then(|range| text.get(..range.end)), expected, "{text}");
        }
    }
}
