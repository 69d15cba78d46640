//! A recipe that was read and checked, on its own.

use super::blocks::Blocks;
use super::builtin::BUILTIN;
use super::tuning::Tuning;
use glob::Pattern;
use std::fs;
use std::path::{Path, PathBuf};

use super::document::Document;
use crate::choose::candidate::Candidate;
use crate::error::{Error, Result};
use crate::files::lfs_pointer;
use crate::models::spec::Role;

/// A recipe, checked as far as that goes without a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Name of the file without `.toml`.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Bits per weight, unless the command line says otherwise.
    pub target_bpw: Option<f64>,
    /// Candidates of layers that no rule selects; `None` for [`crate::choose::candidate::DEFAULT_CANDIDATES`].
    pub candidates: Option<Vec<Candidate>>,
    /// Settings of the measurement, unless the command line says otherwise.
    pub calibration: Calibration,
    /// Settings of the work that follows, unless the command line says otherwise.
    pub tuning: Tuning,
    /// Rules in the file's order; the last that selects a layer decides.
    pub(crate) rules: Vec<Rule>,
    pub(crate) ties: Vec<RoleTie>,
    pub(crate) expect: Expect,
    pub(crate) document: Document,
}

/// Settings of the measurement, where the recipe has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calibration {
    /// A text, found from the current folder.
    pub text: Option<PathBuf>,
    /// Number of sequences.
    pub samples: Option<u32>,
    /// Number of sequences that sensitivities are measured on.
    pub sensitivity_samples: Option<u32>,
    /// Tokens per sequence.
    pub sequence_length: Option<u32>,
    /// Seed of sequence choice and labels.
    pub seed: Option<u64>,
}

/// Some layers and what they may become. Selectors that are there must all hold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pub(crate) line: usize,
    pub(crate) roles: Vec<Role>,
    pub(crate) layers: Vec<Pattern>,
    pub(crate) blocks: Vec<Blocks>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) optional: bool,
}

/// Roles that get the same candidate within a block.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RoleTie {
    pub(crate) line: usize,
    pub(crate) roles: Vec<Role>,
}

/// Sizes that the recipe was made for, each with its line.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Expect {
    pub(crate) blocks: Option<(usize, usize)>,
    pub(crate) linear_layers: Option<(usize, usize)>,
}

impl Recipe {
    /// Reads the recipe called `name`, or the one in the file `name`. A name goes first; `./name` is always a file.
    pub fn load(name: &str) -> Result<Self> {
        if let Some(recipe) = Self::builtin(name) {
            return recipe;
        }
        let path = Path::new(name);
        let is_path = path.components().count() > 1 || path.extension().is_some_and(|e| e == "toml");
        if !is_path && !path.exists() {
            return Err(Error::usage(format!("no recipe is called `{name}`"))
                .hint(format!("there is: {}; or give a file, such as ./{name}.toml", names())));
        }
        let text = fs::read_to_string(path).map_err(|e| {
            let hint = format!("setting `recipe` takes a TOML file, or one of: {}", names());
            Error::io(path, e).hint(hint)
        })?;
        lfs_pointer::refuse(path, text.as_bytes())?;
        Self::parse(path, &text)
    }

    /// Returns the recipe of that name that mixbit carries.
    pub fn builtin(name: &str) -> Option<Result<Self>> {
        let (name, text) = BUILTIN.iter().find(|(builtin, _)| *builtin == name)?;
        Some(Self::parse(&Path::new("quant-recipes").join(format!("{name}.toml")), text))
    }

    /// Parses and checks `text`, found at `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        super::parse::recipe(Document { path: path.to_owned(), text: text.to_owned() })
    }

    /// Returns the error `cause` as one at the recipe's `key`.
    pub fn blame(&self, key: &str, cause: &Error) -> Error {
        let line = self.document.line_of(key);
        let message = cause.to_string();
        self.document.error(line, key, message).hint(format!("leave `{key}` out of the recipe, or change it"))
    }

    /// Returns the TOML.
    pub fn text(&self) -> &str {
        &self.document.text
    }
}

fn names() -> String {
    BUILTIN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
