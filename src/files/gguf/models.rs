//! Names of GGUF files: which are models, and which are parts of one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::header;
use crate::error::{Error, Result};
use crate::files::names::has_extension;

/// Most files of a model that are read.
const MAX_SHARDS: usize = 10_000;

/// Parts of the names of GGUF files that are no models, as llama.cpp has it: projectors of images, importance matrices and heads
/// that draft.
const COMPANIONS: [&str; 3] = ["mmproj", "imatrix", "mtp-"];

/// Parts of a name like `model-00001-of-00003.gguf`.
struct Numbered<'a> {
    stem: &'a str,
    count: usize,
}

impl<'a> Numbered<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let parse = |text: &str| text.parse::<usize>().ok().filter(|_| text.len() == 5);
        let (number, count) = (parse(number)?, parse(count)?);
        ((1..=count).contains(&number) && count <= MAX_SHARDS).then_some(Self { stem, count })
    }

    fn name(&self, number: usize) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }
}

/// Returns the names of all files of the model that the file `name` is of, in their order.
pub(super) fn files_of(name: &str) -> Vec<String> {
    match Numbered::of(name) {
        Some(numbered) => (1..=numbered.count).map(|number| numbered.name(number)).collect(),
        None => vec![name.to_owned()],
    }
}

/// Returns the GGUF models among files called `names`, sorted: the names of all files of each, in their order, whether these are
/// among `names` or not.
pub fn models_among<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<Vec<String>> {
    let mut models = BTreeMap::new();
    for name in names.into_iter().filter(|name| is_model(name)) {
        let first = Numbered::of(name).map_or_else(|| name.clone(), |numbered| numbered.name(1));
        models.entry(first).or_insert_with(|| files_of(name));
    }
    models.into_values().collect()
}

/// True if a file at `path` is called as models are.
fn is_model(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    has_extension(name, "gguf")
        && !name.starts_with('.')
        && !COMPANIONS.iter().any(|companion| name.contains(companion))
}

/// True if files called `names`, of one folder, have weights of a model that are no GGUF.
pub fn has_other_weights(names: &[String]) -> bool {
    let has_config = names.iter().any(|name| name == "config.json");
    let is_other = |name: &String| {
        (has_extension(name, "safetensors") && (has_config || name.starts_with("model")))
            || has_extension(name, "npz")
            || (name.starts_with("pytorch_model") && has_extension(name, "bin"))
            || name.ends_with(".index.json")
    };
    names.iter().any(is_other)
}

/// True if `path` is a file that is, or is called, a GGUF.
pub fn is_gguf(path: &Path) -> bool {
    let is_named = path.file_name().is_some_and(|name| has_extension(&name.to_string_lossy(), "gguf"));
    let begins = || {
        let mut start = [0; 4];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start == header::MAGIC
    };
    path.is_file() && (is_named || begins())
}

/// Returns the model's file in a `folder` that has no other weights; the first of several that are numbered.
///
/// # Errors
/// Fails if there are several models.
pub fn in_folder(folder: &Path) -> Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(None) };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    if has_other_weights(&names) {
        return Ok(None);
    }
    let models = models_among(&names);
    let mut firsts = models.iter().filter_map(|files| files.first());
    let Some(first) = firsts.next() else { return Ok(None) };
    match firsts.next() {
        None => Ok(Some(folder.join(first))),
        Some(other) => {
            Err(Error::file(folder, format!("holds several GGUF models, `{first}` and `{other}` among them"))
                .hint("give the path of one of them"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_names() {
        let expected = ["a-b-00001-of-00002.gguf", "a-b-00002-of-00002.gguf"].map(str::to_owned);
        assert_eq!(files_of("a-b-00002-of-00002.gguf"), expected);
        for name in ["a.gguf", "a-00003-of-00002.gguf", "a-1-of-2.gguf", "a-00000-of-00002.gguf"] {
            assert_eq!(files_of(name), [name], "{name}");
        }
    }

    #[test]
    fn companions_are_no_models() {
        let names = [
            "x/b-00002-of-00002.gguf",
            "a.gguf",
            "mmproj-a.gguf",
            "a-mmproj-f16.gguf",
            "x/imatrix_a.gguf",
            "mtp-a.gguf",
            ".a.gguf",
            "a.safetensors",
        ];
        let models = models_among(&names.map(str::to_owned));
        let numbered = ["x/b-00001-of-00002.gguf", "x/b-00002-of-00002.gguf"].map(str::to_owned);
        assert_eq!(models, [vec!["a.gguf".to_owned()], numbered.to_vec()]);
    }
}
