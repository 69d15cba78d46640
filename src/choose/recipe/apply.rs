//! A recipe held against a model: what each linear layer may become, and which layers go together.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::recipe::{Recipe, Rule};
use crate::choose::candidate::{Candidate, DEFAULT_CANDIDATES};
use crate::error::{Error, Result};
use crate::models::spec::{Manifest, Role, TensorSpec};
use crate::words::{count, list};

/// A recipe's meaning for one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Candidates of every linear layer, by path, even those that its rows do not allow.
    pub candidates: BTreeMap<String, Vec<Candidate>>,
    /// Groups of layers, each of which gets one candidate.
    pub ties: Vec<Tie>,
}

/// Layers that get the same candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tie {
    /// `FILE:LINE` of the tie, for messages.
    pub place: PathBuf,
    /// Paths of the layers, two or more.
    pub paths: Vec<String>,
}

impl Recipe {
    /// Applies the recipe to a model.
    ///
    /// # Errors
    /// When the model is not what the recipe was made for: another number of blocks or layers than it expects,
    /// a block number that is not there, or a rule that selects nothing (unless it is optional).
    pub fn apply(&self, manifest: &Manifest) -> Result<Applied> {
        let model = Shape::of(manifest);
        self.check_expectations(&model)?;
        for rule in self.rules.iter().filter(|rule| !rule.optional) {
            self.check_rule(rule, manifest, &model)?;
        }
        let default = self.default_candidates();
        let candidates = manifest.iter().filter(|spec| spec.quantizable()).filter_map(|spec| {
            let rule = self.rules.iter().rev().find(|rule| rule.selects(spec, model.blocks));
            Some((spec.path()?.to_owned(), rule.map_or(default, |rule| &rule.candidates).to_vec()))
        });
        Ok(Applied { candidates: candidates.collect(), ties: self.tied_layers(manifest, &model) })
    }

    /// Returns the candidates of layers that no rule selects.
    pub fn default_candidates(&self) -> &[Candidate] {
        self.candidates.as_deref().unwrap_or(&DEFAULT_CANDIDATES)
    }

    fn check_expectations(&self, model: &Shape) -> Result<()> {
        for (key, expected, actual) in [
            ("expect.blocks", self.expect.blocks, model.blocks),
            ("expect.linear_layers", self.expect.linear_layers, model.linear_layers),
        ] {
            if let Some((line, expected)) = expected
                && expected != actual
            {
                let what = key.trim_start_matches("expect.").replace('_', " ");
                let message =
                    format!("the recipe is for models with {expected} {what}; this one has {actual}");
                return Err(self.mismatch(line, key, message));
            }
        }
        Ok(())
    }

    fn check_rule(&self, rule: &Rule, manifest: &Manifest, model: &Shape) -> Result<()> {
        if !rule.blocks.iter().all(|blocks| blocks.fits(model.blocks)) {
            let message = format!("names a block that this model does not have: {}", model.describe());
            return Err(self.mismatch(rule.line, "rule.blocks", message));
        }
        if !manifest.iter().any(|spec| rule.selects(spec, model.blocks)) {
            let message = format!("selects no layer of this model: {}", model.describe());
            return Err(self.mismatch(rule.line, "rule", message));
        }
        let paths = || manifest.iter().filter_map(TensorSpec::path);
        let unmatched = rule.layers.iter().filter(|glob| !paths().any(|path| glob.matches(path)));
        let unmatched: Vec<String> = unmatched.map(|glob| format!("`{glob}`")).collect();
        if unmatched.is_empty() {
            return Ok(());
        }
        let message = format!("no layer of this model matches {}: {}", list(&unmatched), model.describe());
        Err(self.mismatch(rule.line, "rule.layers", message))
    }

    fn mismatch(&self, line: usize, key: &str, message: String) -> Error {
        let hint = if key.starts_with("rule") {
            "choose another recipe, change this one, or mark the rule `optional = true`"
        } else {
            "choose another recipe, or change this one"
        };
        self.document.error(line, key, message).hint(hint)
    }

    fn tied_layers(&self, manifest: &Manifest, model: &Shape) -> Vec<Tie> {
        let mut ties = Vec::new();
        for tie in &self.ties {
            for block in 0..model.blocks {
                let member = |spec: &&TensorSpec| spec.layer == Some(block) && tie.roles.contains(&spec.role);
                let paths: Vec<String> = manifest
                    .iter()
                    .filter(|spec| spec.quantizable())
                    .filter(member)
                    .filter_map(|spec| spec.path().map(str::to_owned))
                    .collect();
                if paths.len() > 1 {
                    ties.push(Tie { place: self.document.place(tie.line), paths });
                }
            }
        }
        ties
    }
}

impl Rule {
    /// True if the rule selects the matrix `spec` of a decoder with `depth` blocks. Embeddings must be named by their role;
    /// routers are never selected.
    fn selects(&self, spec: &TensorSpec, depth: usize) -> bool {
        let Some(path) = spec.path() else { return false };
        let in_blocks = |block: usize| self.blocks.iter().any(|blocks| blocks.contains(block, depth));
        (spec.role.is_linear() || self.roles.contains(&spec.role))
            && (self.roles.is_empty() || self.roles.contains(&spec.role))
            && (self.layers.is_empty() || self.layers.iter().any(|glob| glob.matches(path)))
            && (self.blocks.is_empty() || spec.layer.is_some_and(in_blocks))
    }
}

/// Sizes and names of a model that a recipe can depend on.
struct Shape {
    blocks: usize,
    linear_layers: usize,
    roles: Vec<String>,
    example: String,
    head: Option<String>,
}

impl Shape {
    fn of(manifest: &Manifest) -> Self {
        let linear = || manifest.iter().filter(|spec| spec.quantizable());
        let path = |spec: &TensorSpec| spec.path().map(str::to_owned);
        let roles = Role::BLOCK.into_iter().filter(|role| linear().any(|spec| spec.role == *role));
        Self {
            blocks: linear().filter_map(|spec| spec.layer).max().map_or(0, |last| last + 1),
            linear_layers: linear().count(),
            roles: roles.map(|role| role.to_string()).collect(),
            example: linear().find(|spec| spec.layer.is_some()).and_then(path).unwrap_or_default(),
            head: linear().find(|spec| spec.role == Role::Head).and_then(path),
        }
    }

    fn describe(&self) -> String {
        let head = match &self.head {
            Some(path) => format!("a head called `{path}`"),
            None => "no head of its own".to_owned(),
        };
        let roles = self.roles.join(", ");
        format!(
            "it has {} of {roles}, called like `{}`, and {head}",
            count(self.blocks, "block"),
            self.example
        )
    }
}
