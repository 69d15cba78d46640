//! The chat template that conversations are written out with.

use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::lfs_pointer;
use crate::text::tokenizer::{ChosenTemplate, TemplateSettings, Tokenizer};

/// Choice of a chat template, variables for it, and the beginning of answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    /// A Jinja file, or the name of one of the model's templates; the model's own where there is none.
    pub name_or_file: Option<PathBuf>,
    /// Variables that the template sees beside the conversation, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// Beginning of the last answer of each conversation of a text. A conversation without an answer ends with it.
    pub prefill: Option<String>,
}

impl Template {
    /// Gives `tokenizer` this template.
    pub fn apply(&self, tokenizer: Tokenizer) -> Result<Tokenizer> {
        self.apply_with_tools(tokenizer, None)
    }

    /// Gives `tokenizer` this template and the `tools` that it offers to the model.
    pub fn apply_with_tools(&self, tokenizer: Tokenizer, tools: Option<Vec<Value>>) -> Result<Tokenizer> {
        let template = self.name_or_file.as_deref().map(|name| choose(name, &tokenizer)).transpose()?;
        let (variables, prefill) = (self.variables.clone(), self.prefill.clone());
        tokenizer.with_template(TemplateSettings { template, variables, tools, prefill })
    }
}

/// Returns the template of `tokenizer` that is called `name_or_file`, or else reads the file.
fn choose(name_or_file: &Path, tokenizer: &Tokenizer) -> Result<ChosenTemplate> {
    let names = tokenizer.template_names();
    if let Some(name) = names.iter().find(|name| Path::new(name) == name_or_file) {
        return Ok(ChosenTemplate::Named((*name).to_owned()));
    }
    let source = fs::read_to_string(name_or_file).map_err(|error| {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        Error::io(name_or_file, error).hint(match names.len() {
            0 => "give a Jinja file; the model has no chat template".to_owned(),
            _ => format!("give a Jinja file, or the name of a template of the model: {}", names.join(", ")),
        })
    })?;
    lfs_pointer::refuse(name_or_file, source.as_bytes())?;
    Ok(ChosenTemplate::Source { path: name_or_file.to_owned(), source })
}
