//! Plain text: documents and the line that separates them.

/// Line that separates documents; nothing else may be on it.
pub const DOCUMENT_SEPARATOR: &str = "<|endoftext|>";

/// Returns the documents of a plain text, without the line breaks around them. Empty documents are left out.
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

/// Splits `text` at the first separator. Returns the text before it and the text after it; the latter is `None` if
/// there is no separator.
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
