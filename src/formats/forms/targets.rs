//! Layers that a setting of config.json is for.

use std::collections::HashSet;

use regex::Regex;

use super::declared::Section;
use crate::error::Result;

/// Beginnings of paths that a wrapper of the text model adds, longer ones first. Tools write a layer's name in settings with
/// another one than its tensors have.
const WRAPPERS: [&str; 4] = ["model.language_model.", "language_model.model.", "language_model.", "model."];

/// Hint for patterns that are not read.
const PATTERNS: &str = "look-around and back-references are not read; start from the float checkpoint";

/// Where in a path a pattern may match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Anywhere,
}

/// Layers that a setting is for.
#[derive(Debug)]
pub(crate) enum Targets {
    All,
    /// Layers at one of the paths, with one of the stretches in theirs, or with a path that matches a pattern.
    Some {
        paths: HashSet<String>,
        stretches: HashSet<String>,
        patterns: Vec<Pattern>,
    },
}

/// Regular expression, and the text that config.json has for it.
#[derive(Debug)]
pub(crate) struct Pattern {
    text: String,
    regex: Regex,
}

impl Targets {
    /// Returns targets that no layer is one of, to add to.
    pub(crate) fn none() -> Self {
        Self::Some { paths: HashSet::new(), stretches: HashSet::new(), patterns: Vec::new() }
    }

    /// Adds the layer at `path`.
    pub(crate) fn add_path(&mut self, path: &str) {
        if let Self::Some { paths, .. } = self {
            paths.insert(without_wrapper(path).to_owned());
        }
    }

    /// Adds the layers that have `stretch` in their path, by whole parts: `layers.1` is in `model.layers.1.mlp`, and not in
    /// `model.layers.10.mlp`.
    pub(crate) fn add_stretch(&mut self, stretch: &str) {
        if let Self::Some { stretches, .. } = self {
            stretches.insert(without_wrapper(stretch).to_owned());
        }
    }

    /// Adds the layers whose path matches `pattern`, which stands under `key` in `section`.
    ///
    /// # Errors
    /// Where it is not a regular expression that is read.
    pub(crate) fn add_pattern(
        &mut self,
        section: &Section<'_>,
        key: &str,
        pattern: &str,
        anchor: Anchor,
    ) -> Result<()> {
        let anchored = match anchor {
            Anchor::Start => format!("^(?:{pattern})"),
            Anchor::Anywhere => pattern.to_owned(),
        };
        let regex = Regex::new(&anchored).map_err(|_| {
            let message = format!("`{pattern}` is not a regular expression that mixbit reads");
            section.error(key, message).hint(PATTERNS)
        })?;
        if let Self::Some { patterns, .. } = self {
            patterns.push(Pattern { text: pattern.to_owned(), regex });
        }
        Ok(())
    }

    /// True if the layer at `path` is one of these.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.strip_suffix(".weight").unwrap_or(path);
        match self {
            Self::All => true,
            Self::Some { paths, stretches, patterns } => {
                paths.contains(without_wrapper(path))
                    || (!stretches.is_empty()
                        && stretches_of(path).any(|stretch| stretches.contains(stretch)))
                    || patterns.iter().any(|pattern| pattern.regex.is_match(path))
            }
        }
    }

    /// Returns the stretches, without a wrapper's beginning, and the patterns that no layer at one of `paths` has.
    pub(crate) fn without_layer(&self, paths: &[&str]) -> Vec<String> {
        let Self::Some { stretches, patterns, .. } = self else { return Vec::new() };
        let mut unseen: HashSet<&str> = stretches.iter().map(String::as_str).collect();
        for path in paths {
            if unseen.is_empty() {
                break;
            }
            for stretch in stretches_of(path) {
                unseen.remove(stretch);
            }
        }
        let is_idle = |pattern: &&Pattern| !paths.iter().any(|path| pattern.regex.is_match(path));
        let idle = patterns.iter().filter(is_idle).map(|pattern| pattern.text.as_str());
        unseen.into_iter().chain(idle).map(str::to_owned).collect()
    }
}

fn without_wrapper(path: &str) -> &str {
    WRAPPERS.iter().find_map(|wrapper| path.strip_prefix(wrapper)).unwrap_or(path)
}

/// Returns every stretch of whole parts of a path, without its wrapper's beginning.
fn stretches_of(path: &str) -> impl Iterator<Item = &str> {
    let path = without_wrapper(path);
    let dots = || path.match_indices('.').map(|(at, _)| at);
    let starts = std::iter::once(0).chain(dots().map(|at| at + 1));
    starts.flat_map(move |start| {
        let ends = dots().chain(std::iter::once(path.len())).filter(move |&end| end > start);
        ends.map(move |end| &path[start..end])
    })
}
