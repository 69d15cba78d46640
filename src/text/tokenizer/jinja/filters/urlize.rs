//! `urlize`: addresses in a text as links of HTML.

use minijinja::Value;
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::markup::escaped;
use crate::text::tokenizer::jinja::arguments::Arguments;
use crate::text::tokenizer::jinja::strings::is_space;
use crate::text::tokenizer::jinja::values::{Outcome, fail, integer, iterate, string};
use crate::text::tokenizer::jinja::{budget, text};

/// A pattern, compiled when it is first used.
type Pattern = LazyLock<Result<Regex, regex::Error>>;

/// Addresses of the web: a scheme or `www.` and a host, a host under one of the old top-level domains, or a number of
/// the internet protocol; with port, path, query and fragment.
static WEB: Pattern = LazyLock::new(|| {
    let host = r"(?:https?://|www\.)(?:(?:[\w%-]+\.)+)?(?:[a-z]{2,63}|xn--[\w%]{2,59})";
    let old = r"(?:[\w%-]{2,63}\.)+(?:com|net|int|edu|gov|org|info|mil)";
    let number = r"https?://(?:\d{1,3}(?:\.\d{1,3}){3}|\[(?:[\da-f]{0,4}:){2}(?:[\da-f]{0,4}:?){1,6}\])";
    Regex::new(&format!(r"(?i)^(?:{host}|{old}|{number})(?::\d{{1,5}})?(?:[/?#]\S*)?$"))
});

static MAIL: Pattern = LazyLock::new(|| Regex::new(r"^\S+@\w[\w.-]*\.\w+$"));

static OPENING: Pattern = LazyLock::new(|| Regex::new("^(?:[(<]|&lt;)+"));

static CLOSING: Pattern = LazyLock::new(|| Regex::new("(?:[)>.,]|&gt;)+$"));

static SCHEME: Pattern = LazyLock::new(|| Regex::new(r"^[\w.+-]{2,}:/{0,2}$"));

fn compiled(pattern: &'static Pattern) -> Outcome<&'static Regex> {
    pattern.as_ref().or_else(|error| fail(error.to_string()))
}

/// Settings of the links.
struct Links {
    /// Characters of an address that are shown.
    limit: Option<Value>,
    /// Attributes of each link, a space before each.
    attributes: String,
    /// Further schemes that make an address.
    schemes: Vec<String>,
}

/// Computes `value|urlize(trim_url_limit=None, nofollow=False, target=None, rel=None, extra_schemes=None)`.
pub(crate) fn urlize(arguments: Arguments) -> Outcome {
    let names = ["value", "trim_url_limit", "nofollow", "target", "rel", "extra_schemes"];
    let [value, limit, nofollow, target, rel, schemes] = arguments.bind(names, 1)?;
    let value = value.unwrap_or_default();
    let written = text::str(&value)?;
    let written = if value.is_safe() { written } else { escaped(&written) };
    budget::take_work(written.len().saturating_mul(4))?;
    let is_given = |value: &Value| !value.is_none();
    let rel = rel.filter(Value::is_true).map(|rel| string(&rel).map(str::to_owned)).transpose()?;
    let mut relations: BTreeSet<&str> = rel.as_deref().unwrap_or_default().split(is_space).collect();
    relations.remove("");
    relations.insert("noopener");
    if nofollow.is_some_and(|nofollow| nofollow.is_true()) {
        relations.insert("nofollow");
    }
    let relations = relations.into_iter().collect::<Vec<_>>().join(" ");
    let mut attributes = format!(" rel=\"{}\"", escaped(&relations));
    if let Some(target) = target.filter(Value::is_true) {
        attributes.extend([" target=\"", &escaped(&text::str(&target)?), "\""]);
    }
    let mut links = Links { limit: limit.filter(is_given), attributes, schemes: Vec::new() };
    for scheme in schemes.filter(is_given).map(|schemes| iterate(&schemes)).transpose()?.unwrap_or_default() {
        let scheme = string(&scheme)?;
        if !compiled(&SCHEME)?.is_match(scheme) {
            return fail(format!("{scheme:?} is not a valid URI scheme prefix"));
        }
        links.schemes.push(scheme.to_owned());
    }
    budget::take_work(written.len().saturating_mul(links.schemes.len()))?;
    let mut out = String::new();
    for piece in written.split_inclusive(is_space) {
        let word = piece.trim_end_matches(is_space);
        links.write(&mut out, word)?;
        out.push_str(piece.get(word.len()..).unwrap_or_default());
    }
    Ok(Value::from(out))
}

impl Links {
    /// Writes a word, as a link if it is an address; brackets and full stops around that are no part of it.
    fn write(&self, out: &mut String, word: &str) -> Outcome<()> {
        let head = compiled(&OPENING)?.find(word).map_or(0, |found| found.end());
        let (head, rest) = word.split_at(head);
        let end = compiled(&CLOSING)?.find(rest).map_or(rest.len(), |found| found.start());
        let end = balanced(rest, end);
        let (address, tail) = rest.split_at(end);
        let link = self.link(address)?;
        let link = link.as_deref().unwrap_or(address);
        budget::take(head.len() + link.len() + tail.len())?;
        out.extend([head, link, tail]);
        Ok(())
    }

    /// The link to `address`, if it is one.
    fn link(&self, address: &str) -> Outcome<Option<String>> {
        let attributes = &self.attributes;
        if compiled(&WEB)?.is_match(address) {
            let scheme = if address.starts_with("https://") || address.starts_with("http://") {
                ""
            } else {
                "https://"
            };
            let shown = self.shortened(address)?;
            return Ok(Some(format!("<a href=\"{scheme}{address}\"{attributes}>{shown}</a>")));
        }
        let is_mail = |address: &str| compiled(&MAIL).map(|pattern| pattern.is_match(address));
        if let Some(mail) = address.strip_prefix("mailto:")
            && is_mail(mail)?
        {
            return Ok(Some(format!("<a href=\"{address}\">{mail}</a>")));
        }
        let is_plain = !address.starts_with("www.") && !address.starts_with('@') && !address.contains(':');
        if is_plain && is_mail(address)? {
            return Ok(Some(format!("<a href=\"mailto:{address}\">{address}</a>")));
        }
        let mut link: Option<String> = None;
        for scheme in &self.schemes {
            let linked = link.as_deref().unwrap_or(address);
            if linked != scheme && linked.starts_with(scheme.as_str()) {
                link = Some(format!("<a href=\"{linked}\"{attributes}>{linked}</a>"));
            }
        }
        Ok(link)
    }

    fn shortened(&self, address: &str) -> Outcome<String> {
        let Some(limit) = &self.limit else { return Ok(address.to_owned()) };
        let (length, limit) = (address.chars().count() as i128, integer(limit)?);
        if length <= limit {
            return Ok(address.to_owned());
        }
        let end = if limit < 0 { length.saturating_add(limit) } else { limit };
        let end = usize::try_from(end).unwrap_or(0);
        Ok(format!("{}...", address.chars().take(end).collect::<String>()))
    }
}

/// The end of an address in `text`, moved behind closing brackets as long as more open before it than close.
fn balanced(text: &str, mut end: usize) -> usize {
    for (open, close) in [("(", ")"), ("<", ">"), ("&lt;", "&gt;")] {
        let (address, tail) = text.split_at(end);
        let opened = address.matches(open).count();
        if opened > address.matches(close).count()
            && let Some((at, _)) = tail.match_indices(close).take(opened).last()
        {
            end += at + close.len();
        }
    }
    end
}
