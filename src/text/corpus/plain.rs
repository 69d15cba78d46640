//! Plain text: documents, and the line that separates them.

/// The separator of documents: a line that is exactly this.
pub const DOCUMENT_SEPARATOR: &str = "<|endoftext|>";

/// The documents of a plain text, without the line breaks around them. Empty ones are left out.
pub fn documents(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let (document, after) = split(rest?);
        rest = after;
        Some(document)
    })
    .map(|document| document.trim_matches(['\n', '\r']))
    .filter(|document| !document.is_empty())
}

/// What comes before the first separator, and what after it, if there is one.
fn split(text: &str) -> (&str, Option<&str>) {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        if line.trim_end_matches('\n').trim_end_matches('\r') == DOCUMENT_SEPARATOR {
            return (&text[..start], Some(&text[end..]));
        }
        start = end;
    }
    (text, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        documents(text).collect()
    }

    #[test]
    fn documents_are_separated_by_their_line() {
        assert_eq!(found("a\nb\n<|endoftext|>\n\nc\n<|endoftext|>\n"), ["a\nb", "c"]);
        assert_eq!(found("<|endoftext|>\na\n<|endoftext|>"), ["a"]);
        assert_eq!(found("a\r\n<|endoftext|>\r\nb"), ["a", "b"]);
        assert_eq!(found(""), Vec::<&str>::new());
    }

    #[test]
    fn only_a_line_of_its_own_separates() {
        for text in ["a <|endoftext|> b", "a\n <|endoftext|>\nb", "a\n<|endoftext|> \nb", "a<|endoftext|>\nb"]
        {
            assert_eq!(found(text), [text]);
        }
    }
}
