//! Choice among the GGUF models of a repository: by a quantization's name, as llama.cpp's `-hf` takes it, or by a file's path.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::name::ModelName;
use crate::error::{Error, Result};
use crate::files::gguf::{has_other_weights, models_among};
use crate::files::names::has_extension;
use crate::files::pack::safe_name;
use crate::words::{bytes, count};

/// Paths of files in a repository, with their bytes where these are known.
pub(crate) type Sizes = BTreeMap<String, Option<u64>>;

/// GGUF model that is chosen by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The one with this quantization, such as `Q4_K_M`, in its file's name.
    Quantization(String),
    /// The one that the file of this path in the repository is of.
    File(String),
}

impl Choice {
    /// Splits `organisation/name:QUANTIZATION` and `organisation/name/path/file.gguf` after `organisation/name`. `None` where
    /// anything else follows that.
    pub(crate) fn split(text: &str) -> Option<(&str, Option<Self>)> {
        if let Some((id, quantization)) = text.split_once(':') {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let is_name = !quantization.is_empty() && quantization.chars().all(is_allowed);
            return is_name.then(|| (id, Some(Self::Quantization(quantization.to_owned()))));
        }
        let Some((end, _)) = text.match_indices('/').nth(1) else { return Some((text, None)) };
        let (id, file) = (&text[..end], &text[end + 1..]);
        let is_file = has_extension(file, "gguf") && safe_name(file);
        is_file.then(|| (id, Some(Self::File(file.to_owned()))))
    }

    /// True if this chooses the model that consists of `files`.
    fn is_of(&self, files: &[String]) -> bool {
        match self {
            Self::Quantization(name) => files.first().is_some_and(|file| has_component(file, name)),
            Self::File(file) => files.contains(file),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Quantization(text) | Self::File(text)) = self;
        f.write_str(text)
    }
}

/// True if the name of the file at `path` has `component`, in any case, between marks that separate.
fn has_component(path: &str, component: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let component = component.to_ascii_lowercase();
    name.match_indices(&component).any(|(start, _)| {
        let (before, rest) = name.split_at(start);
        let begins = !before.ends_with(|c: char| c.is_ascii_alphanumeric());
        begins && rest[component.len()..].starts_with(['-', '.'])
    })
}

/// Returns the paths of all files of the GGUF model that `name` stands for in a repository with files of these `sizes`; `None`
/// where it chooses none and there are other weights, or no GGUF. `place` is for messages.
///
/// # Errors
/// Where several models could be meant, or what is chosen is not there. The error lists the models.
pub(crate) fn chosen_files(name: &ModelName, sizes: &Sizes, place: &Path) -> Result<Option<Vec<String>>> {
    let all = models_among(sizes.keys());
    let choice = name.choice.as_ref();
    if choice.is_none() && (all.is_empty() || has_other_weights(&top_level(sizes))) {
        return Ok(None);
    }
    let is_meant = |files: &&Vec<String>| choice.is_none_or(|choice| choice.is_of(files));
    let meant: Vec<Vec<String>> = all.iter().filter(is_meant).cloned().collect();
    if let [files] = meant.as_slice() {
        return Ok(Some(files.clone()));
    }
    let id = &name.repository.id;
    let called = choice.map_or_else(String::new, |choice| format!(" `{choice}`"));
    let Some(example) = all.iter().flatten().next() else {
        return Err(Error::file(place, format!("has no GGUF model{called}"))
            .hint(format!("`{id}` without a choice stands for its other weights")));
    };
    let message = if meant.is_empty() {
        format!("has no GGUF model{called}; there are: {}", listed(&all, sizes))
    } else {
        format!("has {} GGUF models{called}: {}", meant.len(), listed(&meant, sizes))
    };
    Err(Error::file(place, message).hint(format!(
        "choose one by its quantization, such as `{id}:Q4_K_M`, or its path: `{id}/{example}`"
    )))
}

/// Returns the names of the files that are in no folder.
fn top_level(sizes: &Sizes) -> Vec<String> {
    sizes.keys().filter(|name| !name.contains('/')).cloned().collect()
}

/// Lists `models` by the first file and the bytes of each.
fn listed(models: &[Vec<String>], sizes: &Sizes) -> String {
    let described: Vec<String> = models.iter().filter_map(|files| described(files, sizes)).collect();
    described.join(", ")
}

/// Describes the model that consists of `files` by the first of them and the bytes of all.
fn described(files: &[String], sizes: &Sizes) -> Option<String> {
    let first = files.first()?;
    let total: Option<u64> = files.iter().map(|file| sizes.get(file).copied().flatten()).sum();
    let number = (files.len() > 1).then(|| count(files.len(), "file"));
    let facts: Vec<String> = number.into_iter().chain(total.map(bytes)).collect();
    Some(if facts.is_empty() { first.clone() } else { format!("{first} ({})", facts.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantizations_are_whole_components() {
        let names = |name: &str| {
            let files = [
                "tiny-Q4_K_M.gguf",
                "tiny.q4_k_s.gguf",
                "tiny-IQ4_XS.gguf",
                "tiny_Q4_K_L-imat.gguf",
                "UD/tiny-UD-Q4_K_XL-00001-of-00002.gguf",
                "BF16/tiny-F16.gguf",
            ];
            files.into_iter().filter(|file| has_component(file, name)).collect::<Vec<_>>()
        };
        assert_eq!(names("q4_k_m"), ["tiny-Q4_K_M.gguf"]);
        assert_eq!(names("Q4_K_S"), ["tiny.q4_k_s.gguf"]);
        assert_eq!(names("Q4_K_L"), ["tiny_Q4_K_L-imat.gguf"]);
        assert_eq!(names("UD-Q4_K_XL"), names("Q4_K_XL"));
        assert_eq!(names("F16"), ["BF16/tiny-F16.gguf"]);
        for name in ["Q4_K", "Q4", "4_K_M", "Q4_XS", "BF16", "gguf", "UD/tiny"] {
            assert!(names(name).is_empty(), "{name}");
        }
    }

    #[test]
    fn choices_follow_the_repository() {
        let split = |text| Choice::split(text).map(|(id, choice)| (id, choice.map(|c| c.to_string())));
        assert_eq!(split("a/b"), Some(("a/b", None)));
        assert_eq!(split("a/b.gguf"), Some(("a/b.gguf", None)));
        assert_eq!(split("a/b:q8_0"), Some(("a/b", Some("q8_0".to_owned()))));
        assert_eq!(split("a/b/c/d.gguf"), Some(("a/b", Some("c/d.gguf".to_owned()))));
        for text in ["a/b:", "a/b:Q4 K", "a/b:x/y.gguf", "a/b/c", "a/b/../c.gguf", "a/b//c.gguf"] {
            assert_eq!(split(text), None, "{text}");
        }
    }

    #[test]
    fn other_weights_come_first() {
        let sizes = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), Some(1000))).collect();
        let chosen = |text: &str, names: &[&str]| {
            chosen_files(&ModelName::parse(text).unwrap(), &sizes(names), Path::new("hub"))
                .map_err(|error| error.to_string())
        };
        let both = ["model.safetensors", "x-Q4_0.gguf"];
        assert_eq!(chosen("a/b", &both), Ok(None));
        assert_eq!(chosen("a/b:Q4_0", &both), Ok(Some(vec!["x-Q4_0.gguf".to_owned()])));
        assert_eq!(chosen("a/b", &["README.md", "mmproj-x.gguf"]), Ok(None));
        let twice = ["x-Q4_0.gguf", "y-Q4_0-00001-of-00002.gguf", "y-Q4_0-00002-of-00002.gguf"];
        let listed = "x-Q4_0.gguf (1.0 kB), y-Q4_0-00001-of-00002.gguf (2 files, 2.0 kB)";
        assert_eq!(chosen("a/b:q4_0", &twice), Err(format!("hub: has 2 GGUF models `q4_0`: {listed}")));
        assert_eq!(chosen("a/b", &twice), Err(format!("hub: has 2 GGUF models: {listed}")));
        assert_eq!(
            chosen("a/b:Q8_0", &twice),
            Err(format!("hub: has no GGUF model `Q8_0`; there are: {listed}"))
        );
        let part = chosen("a/b/y-Q4_0-00002-of-00002.gguf", &twice);
        assert_eq!(part, Ok(Some(twice[1..].iter().map(|name| (*name).to_owned()).collect())));
        assert!(chosen("a/b:Q8_0", &["model.safetensors"]).unwrap_err().contains("has no GGUF model `Q8_0`"));
    }
}
