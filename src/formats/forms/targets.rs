//! Layers that a setting of config.json is for.

use regex::Regex;

use super::declared::Section;
use crate::error::Result;

/// Layers that a setting is for.
#[derive(Debug)]
pub(crate) enum Targets {
    All,
    /// Layers of these names, and those whose path begins with a match of a pattern.
    Some {
        names: Vec<String>,
        patterns: Vec<Regex>,
    },
}

impl Targets {
    pub(crate) const fn none() -> Self {
        Self::Some { names: Vec::new(), patterns: Vec::new() }
    }

    /// Adds the layer `name` to some.
    pub(crate) fn add_name(&mut self, name: &str) {
        if let Self::Some { names, .. } = self {
            names.push(name.to_owned());
        }
    }

    /// Adds the layers whose path begins with a match of `pattern`, which stands under `key` in `section`.
    ///
    /// # Errors
    /// Where it is not a regular expression, or one that looks around.
    pub(crate) fn add_pattern(&mut self, section: &Section<'_>, key: &str, pattern: &str) -> Result<()> {
        let regex = Regex::new(pattern);
        let regex = regex.map_err(|_| {
            section.error(key, format!("`{pattern}` is not a regular expression that mixbit reads"))
        })?;
        if let Self::Some { patterns, .. } = self {
            patterns.push(regex);
        }
        Ok(())
    }

    /// True if the layer at `path` is one of these.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.strip_suffix(".weight").unwrap_or(path);
        match self {
            Self::All => true,
            Self::Some { names, patterns } => {
                let begins = |pattern: &Regex| pattern.find(path).is_some_and(|found| found.start() == 0);
                names.iter().any(|name| name == path) || patterns.iter().any(begins)
            }
        }
    }
}
