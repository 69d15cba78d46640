//! Trained models and their texts: the bundled ones, and those in folders that the user names.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use xtask::workspace;

/// Folders of further models and of texts.
#[derive(Args, Clone)]
pub struct Folders {
    /// A folder of trained models, measured beside the bundled one
    #[arg(long, value_name = "DIR", requires = "texts")]
    pub models: Option<PathBuf>,
    /// A folder of texts NAME-calibration.txt and NAME-eval.txt; a model takes docs if its name has that word, else
    /// tinystories; without it the built-in text serves, one part to calibrate and the other to evaluate
    #[arg(long, value_name = "DIR")]
    pub texts: Option<PathBuf>,
}

/// A model with text to calibrate on and other text to evaluate on.
pub struct Trained {
    /// Folder of the model.
    pub model: PathBuf,
    /// Text to calibrate on.
    pub calibration: PathBuf,
    /// Text to evaluate on.
    pub data: PathBuf,
}

impl Trained {
    /// Returns the name of the model's folder.
    pub fn name(&self) -> String {
        self.model.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Folders {
    /// Returns the bundled model, then the others by name.
    pub fn all(&self) -> Result<Vec<Trained>> {
        let mut models = vec![workspace::root().join("fixtures/models/mobilellm-docs-1m")];
        if let Some(folder) = &self.models {
            let entries =
                fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
            let mut others: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            others.retain(|path| {
                path.join("config.json").is_file() && path.file_name() != models[0].file_name()
            });
            others.sort();
            models.extend(others);
        }
        models.into_iter().map(|model| self.with_texts(model)).collect()
    }

    /// Returns the model that most is measured on: the largest.
    pub fn main(&self) -> Result<Trained> {
        let size = |trained: &Trained| {
            fs::metadata(trained.model.join("model.safetensors")).map_or(0, |data| data.len())
        };
        self.all()?.into_iter().max_by_key(size).context("there is no model")
    }

    fn with_texts(&self, model: PathBuf) -> Result<Trained> {
        let Some(texts) = &self.texts else {
            let [calibration, data] = built_in_text()?;
            return Ok(Trained { model, calibration, data });
        };
        let docs = model.file_name().is_some_and(|name| name.to_string_lossy().contains("docs"));
        let text = |part: &str| {
            let name = if docs { "docs" } else { "tinystories" };
            texts.join(format!("{name}-{part}.txt"))
        };
        Ok(Trained { model, calibration: text("calibration"), data: text("eval") })
    }
}

/// Writes the documents of the text that mixbit carries into two files: two of three to calibrate on, the others to evaluate
/// on.
pub fn built_in_text() -> Result<[PathBuf; 2]> {
    const SEPARATOR: &str = "\n<|endoftext|>\n";
    let root = workspace::root();
    let path = root.join("src/text/corpus/default.txt");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let folder = root.join("bench-data");
    fs::create_dir_all(&folder)?;
    let part = |name: &str, wanted: fn(usize) -> bool| -> Result<PathBuf> {
        let documents = text.split(SEPARATOR).enumerate().filter(|(index, _)| wanted(*index));
        let documents: Vec<&str> = documents.map(|(_, document)| document).collect();
        let path = folder.join(name);
        fs::write(&path, documents.join(SEPARATOR))?;
        Ok(path)
    };
    Ok([
        part("built-in-calibration.txt", |index| index % 3 != 2)?,
        part("built-in-eval.txt", |index| index % 3 == 2)?,
    ])
}
