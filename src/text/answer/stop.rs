//! Stop strings over a text that comes in pieces.

/// Search for stop strings across the borders of pieces, which holds back text that may become a stop string.
///
/// The string that is complete first ends the text; of several that are complete at the same character, the longest.
/// The result therefore does not depend on the borders of the pieces.
#[derive(Debug)]
pub(crate) struct StopStrings {
    /// Stop strings, the longest first.
    strings: Vec<String>,
    held: String,
}

impl StopStrings {
    pub(crate) fn new(strings: &[String]) -> Self {
        let mut strings = strings.to_vec();
        strings.sort_by_key(|string| std::cmp::Reverse(string.len()));
        Self { strings, held: String::new() }
    }

    /// Takes a piece. Returns the text that can be shown, and the stop string that ends it, if one is complete.
    pub(crate) fn push(&mut self, piece: &str) -> (String, Option<String>) {
        for c in piece.chars() {
            self.held.push(c);
            if let Some(stop) = self.strings.iter().find(|stop| self.held.ends_with(stop.as_str())) {
                self.held.truncate(self.held.len() - stop.len());
                return (std::mem::take(&mut self.held), Some(stop.clone()));
            }
        }
        let keep = self.strings.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, kept), None)
    }

    /// Returns the text that was held back and did not become a stop string.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Returns the length in bytes of the longest end of `text` that `stop` begins with; `stop` as a whole does not count.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(length, _)| length)
        .rev()
        .find(|&length| stop.get(..length).is_some_and(|start| text.ends_with(start)))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the text that each piece showed, the text that was still held at the end, and the stop string, if any.
    fn pieces(stops: &[&str], pieces: &[&str]) -> (Vec<String>, String, Option<String>) {
        let mut stop = StopStrings::new(&stops.iter().map(|&s| s.to_owned()).collect::<Vec<_>>());
        let mut shown = Vec::new();
        for piece in pieces {
            let (text, hit) = stop.push(piece);
            shown.push(text);
            if hit.is_some() {
                return (shown, String::new(), hit);
            }
        }
        (shown, stop.finish(), None)
    }

    #[test]
    fn beginnings_are_held_back() {
        let (shown, rest, hit) = pieces(&["</s>", "<x"], &["a<", "/", "b<", "/s", "> c"]);
        assert_eq!((shown.join("|").as_str(), rest.as_str(), hit.as_deref()), ("a||</b||", "", Some("</s>")));
        let (shown, rest, hit) = pieces(&["aab"], &["a", "a", "a", "c", "a"]);
        assert_eq!((shown.join("|").as_str(), rest.as_str(), hit), ("||a|aac|", "a", None));
        let (shown, rest, _) = pieces(&["éß"], &["xé", "y"]);
        assert_eq!((shown.join("|").as_str(), rest.as_str()), ("x|éy", ""));
        assert_eq!(pieces(&[], &["abc"]).0, ["abc"]);
    }

    #[test]
    fn the_first_to_be_complete_wins_wherever_pieces_end() {
        for split in 0..=6 {
            let (before, after) = "xabcdy".split_at(split);
            let (shown, _, hit) = pieces(&["abcd", "bc", "c", "y"], &[before, after]);
            assert_eq!((shown.concat().as_str(), hit.as_deref()), ("xa", Some("bc")), "{split}");
        }
    }
}
