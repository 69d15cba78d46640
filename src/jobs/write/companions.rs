//! Everything of a model folder but the weights: config.json, tokenizer, generation config, model card.

use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::hub_cache;
use crate::files::model_files::{ModelFiles, TEMPLATES, only_files};
use crate::files::names::is_of_a_model;
use crate::files::output_folder::OutputFolder;
use crate::models::bitmap;
use crate::models::bitmap::BitMap;
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;
use crate::text::stop_tokens::{GenerationConfig, StopTokens};
use crate::text::tokenizer;
use crate::text::tokenizer::Tokenizer;

const GENERATION: &str = "generation_config.json";

/// config.json of the output: every key of the source, with the resolved values that stock mlx-lm needs, the new dtype
/// and the bit map.
pub fn config(source: &SourceModel, dtype: Dtype, bitmap: &BitMap) -> Value {
    let mut keys: Map<String, Value> = source.config().keys().clone();
    for (key, value) in &source.spec().resolved {
        keys.insert((*key).to_owned(), value.clone());
    }
    let dtype_key = if keys.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    keys.insert(dtype_key.to_owned(), dtype.to_string().into());
    for key in ["quantization", "quantization_config"] {
        keys.shift_remove(key);
        if !bitmap.is_empty() {
            keys.insert(key.to_owned(), bitmap::to_config(bitmap));
        }
    }
    Value::Object(keys)
}

/// Fails early when the source has no tokenizer, or one that cannot be read, or stop tokens that are none: a model
/// without them is of no use to anybody. Returns what the user should know of these files.
pub fn check_tokenizer(source: &SourceModel) -> Result<Vec<String>> {
    let files = source.files();
    if Tokenizer::is_in(files) {
        let tokenizer = Tokenizer::from_files(files)?;
        let stop = StopTokens::read(source.config(), &tokenizer)?;
        return Ok([tokenizer.notes(), stop.notes()].concat());
    }
    let vocabulary =
        |name: &String| name.ends_with(".model") || name.ends_with(".tiktoken") || name == "vocab.json";
    if tokenizer::files(files)?.iter().any(vocabulary) {
        return Ok(StopTokens::of_files(source.config())?.notes().to_vec());
    }
    Err(Error::file(files.path(), "no tokenizer: expected tokenizer.json or tokenizer.model")
        .hint("download the tokenizer files beside the weights"))
}

/// What makes a model, and what lies beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// Names of the files that the model is made of, sorted: weights and their index, config.json, the tokenizer's files,
    /// and what is told about it.
    pub names: Vec<String>,
    /// Names of what else is in the folder, sorted; those of folders end with `/`.
    pub left_out: Vec<String>,
}

/// The files that make the model `source`, which must be complete: nothing missing of the weights, and a tokenizer; and
/// nothing but files and folders in its folder, since a part of the model could be meant by what is there.
pub fn parts(source: &SourceModel) -> Result<Parts> {
    check_tokenizer(source)?;
    let files = source.files();
    let weights: Vec<&Path> = source.checkpoint().files().collect();
    let is_broken = matches!(GenerationConfig::read(source.config())?, GenerationConfig::Broken(_));
    let is_part = |name: &String| {
        if is_broken && name == GENERATION {
            return false;
        }
        let is_weights = name.ends_with(".safetensors") || name.ends_with(".npz");
        if is_weights { weights.contains(&files.path_of(name).as_path()) } else { is_of_a_model(name) }
    };
    let (names, mut left_out): (Vec<_>, Vec<_>) = files.names()?.into_iter().partition(is_part);
    for entry in fs::read_dir(files.path()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        only_files(&entry.path())?;
        if entry.path().is_dir() && name != TEMPLATES {
            left_out.push(format!("{name}/"));
        } else if name.starts_with('.') {
            left_out.push(name);
        }
    }
    left_out.sort();
    Ok(Parts { names, left_out })
}

/// Writes config.json, copies tokenizer files and generation_config.json, and writes the model card, whose last part
/// (Markdown) is `how`.
pub fn write_companions(
    folder: &OutputFolder,
    source: &SourceModel,
    dtype: Dtype,
    bitmap: &BitMap,
    how: &str,
) -> Result<()> {
    write_config(folder, source, dtype, bitmap)?;
    write_card(folder, source, how)
}

/// Writes config.json and copies tokenizer files and, unless it is broken, generation_config.json: with the weights, a model
/// that runs.
pub fn write_config(
    folder: &OutputFolder,
    source: &SourceModel,
    dtype: Dtype,
    bitmap: &BitMap,
) -> Result<()> {
    let mut text = source.config().literals().write(&config(source, dtype, bitmap));
    text.push('\n');
    folder.write("config.json", text.as_bytes())?;
    let files = source.files();
    for name in tokenizer::files(files)? {
        copy(folder, files, &name)?;
    }
    if matches!(GenerationConfig::read(source.config())?, GenerationConfig::Whole { .. }) {
        copy(folder, files, GENERATION)?;
    }
    Ok(())
}

/// Copies the file `name`; of JSON without a byte-order mark, which Python's reader refuses.
fn copy(folder: &OutputFolder, files: &ModelFiles, name: &str) -> Result<()> {
    if Path::new(name).extension().is_some_and(|e| e == "json") {
        let text = files.read(name)?;
        if let Some(text) = text.strip_prefix("\u{feff}".as_bytes()) {
            return folder.write(name, text);
        }
    }
    folder.copy(files, name)
}

/// Writes the model card, whose last part (Markdown) is `how`.
pub fn write_card(folder: &OutputFolder, source: &SourceModel, how: &str) -> Result<()> {
    folder.write("README.md", card(source, how).as_bytes())
}

/// The Hub's name of the model, from the hub cache's layout or the config; otherwise the folder's or pack's name.
pub fn base_model(source: &SourceModel) -> String {
    let dir = fs::canonicalize(source.dir()).unwrap_or_else(|_| source.dir().to_owned());
    if let Some(name) = hub_cache::name_in_cache(&dir) {
        return name;
    }
    match source.config().get("_name_or_path").and_then(Value::as_str) {
        Some(name) if name.split('/').count() == 2 && !name.starts_with(['/', '.']) => name.to_owned(),
        _ => source.files().title(),
    }
}

fn card(source: &SourceModel, how: &str) -> String {
    let name = base_model(source);
    let kept = source.files().read_text("README.md").map(|text| kept_front_matter(&text));
    let kept = kept.unwrap_or_default();
    format!(
        "---\n{kept}base_model: {name}\nlibrary_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\n---\n\n\
         # {name} for MLX\n\n\
         Made from `{name}` with mixbit {version}.\n\n{how}\n\n\
         ```sh\nmixbit run --model . --prompt \"Hello\"\nmlx_lm.generate --model . --prompt \"Hello\"\n```\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// The top-level entries of a card's YAML header (licence, language and so on) but those that are written anew.
fn kept_front_matter(card: &str) -> String {
    const REPLACED: [&str; 5] = ["base_model", "library_name", "pipeline_tag", "tags", "base_model_relation"];
    let mut kept = String::new();
    let mut lines = card.lines();
    if lines.next() != Some("---") {
        return kept;
    }
    let mut keep = false;
    for line in lines {
        if line == "---" {
            return kept;
        }
        if let Some((key, _)) = line.split_once(':')
            && !line.starts_with([' ', '-', '#'])
        {
            keep = !REPLACED.contains(&key);
        }
        if keep {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_matter_keeps_the_licence_only() {
        let card = "---\nlicense: mit\nlanguage:\n- en\n- de\ntags:\n- x\nbase_model: a/b\n---\n# text\nlicense: no\n";
        assert_eq!(kept_front_matter(card), "license: mit\nlanguage:\n- en\n- de\n");
        assert_eq!(kept_front_matter("# no header"), "");
        assert_eq!(kept_front_matter("---\nlicense: mit\n"), "");
    }
}
