//! Files of a model folder beside the weights: config.json, tokenizer, generation config, model card.

use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::hub_cache;
use crate::files::json;
use crate::files::model_files::{ModelFiles, TEMPLATES, refuse_special_file};
use crate::files::names::{is_model_file, is_processor_file};
use crate::files::output_folder::OutputFolder;
use crate::models::bitmap;
use crate::models::bitmap::BitMap;
use crate::models::source::SourceModel;
use crate::models::wrapper::change_decoder_keys;
use crate::numerics::dtype::Dtype;
use crate::text::stop_tokens::{GenerationConfig, StopTokens, make_ids_integers};
use crate::text::tokenizer;
use crate::text::tokenizer::Tokenizer;

const GENERATION: &str = "generation_config.json";

/// Returns config.json of the output: every key of the source, with the resolved values that stock mlx-lm needs, the
/// new dtype and the bit map.
pub fn config(source: &SourceModel, dtype: Dtype, bitmap: &BitMap) -> Value {
    let mut keys: Map<String, Value> = source.config().keys().clone();
    let decoder = source.decoder_config();
    change_decoder_keys(&mut keys, decoder, |keys| {
        for (key, value) in &source.spec().resolved {
            keys.insert((*key).to_owned(), value.clone());
        }
        if decoder.section_name().is_some() {
            keys.shift_remove("quantization_config");
            for key in ["dtype", "torch_dtype"] {
                keys.entry(key).and_modify(|value| *value = dtype.to_string().into());
            }
        }
    });
    let section = decoder.section_name().and_then(|section| keys.get(section)).cloned();
    for key in source.repeated_keys() {
        let value = section.as_ref().and_then(|section| section.get(key));
        keys.extend(value.map(|value| ((*key).to_owned(), value.clone())));
    }
    make_ids_integers(&mut keys);
    let dtype_key = if keys.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    keys.insert(dtype_key.to_owned(), dtype.to_string().into());
    // Of older versions of compressed-tensors.
    keys.shift_remove("compression_config");
    for key in ["quantization", "quantization_config"] {
        keys.shift_remove(key);
        if !bitmap.is_empty() {
            keys.insert(
                key.to_owned(),
                bitmap::to_config(bitmap, source.prefix(), |path| source.spec().names_apart(path)),
            );
        }
    }
    Value::Object(keys)
}

/// Fails where the source has no tokenizer, or one that cannot be read, or stop tokens that are no tokens: such a model
/// is of no use to anybody. Returns notes on these files.
pub fn check_tokenizer(source: &SourceModel) -> Result<Vec<String>> {
    let files = source.files();
    refuse_pointers(files)?;
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

/// Fails where a Git LFS pointer lies in the place of a file that is to be copied.
pub fn refuse_pointers(files: &ModelFiles) -> Result<()> {
    tokenizer::files(files)?.iter().try_for_each(|name| files.refuse_pointer(name))
}

/// Files that make a model, and others in its folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// Names of the files that the model is made of, sorted: weights and their index, config.json, the tokenizer's
    /// files, and documents.
    pub names: Vec<String>,
    /// Names of other files and folders there, sorted; names of folders end with `/`.
    pub left_out: Vec<String>,
}

/// Lists the files that make the model `source`, which must be complete: all weights, and a tokenizer. Its folder may
/// hold only files and folders, since a part of the model could be meant by anything else.
pub fn parts(source: &SourceModel) -> Result<Parts> {
    let files = source.files();
    if files.gguf().is_some() {
        return Err(Error::file(files.path(), "is a GGUF, which is no folder of files")
            .hint("convert it first: `mixbit convert` writes such a folder"));
    }
    check_tokenizer(source)?;
    let weights: Vec<&Path> = source.checkpoint().files().collect();
    let is_broken = matches!(GenerationConfig::read(source.config())?, GenerationConfig::Broken(_));
    let is_part = |name: &String| {
        if is_broken && name == GENERATION {
            return false;
        }
        let is_weights = name.ends_with(".safetensors") || name.ends_with(".npz");
        weights.contains(&files.path_of(name).as_path()) || (!is_weights && is_model_file(name))
    };
    let (names, mut left_out): (Vec<_>, Vec<_>) = files.names()?.into_iter().partition(is_part);
    for entry in fs::read_dir(files.path()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        refuse_special_file(&entry.path())?;
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

/// Writes config.json and copies tokenizer files and, unless it is broken, generation_config.json: with the weights, a
/// model that runs.
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
        copy_generation_config(folder, files)?;
    }
    Ok(())
}

/// Copies the files that say how images become inputs of the towers.
pub fn write_processors(folder: &OutputFolder, source: &SourceModel) -> Result<()> {
    let files = source.files();
    let names = files.names()?;
    let mut processors = names.iter().filter(|name| is_processor_file(name));
    processors.try_for_each(|name| copy(folder, files, name))
}

/// Copies generation_config.json. Token ids that are floats become integers, as in config.json.
fn copy_generation_config(folder: &OutputFolder, files: &ModelFiles) -> Result<()> {
    let (mut value, literals) =
        json::parse_with_literals(&files.path_of(GENERATION), &files.read(GENERATION)?)?;
    if value.as_object_mut().is_some_and(make_ids_integers) {
        return folder.write(GENERATION, format!("{}\n", literals.write(&value)).as_bytes());
    }
    copy(folder, files, GENERATION)
}

/// Copies the file `name`. JSON loses its byte-order mark, which Python's reader refuses.
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

/// Returns the Hub's name of the model, from the hub cache's layout or the config; otherwise the folder's or pack's
/// name.
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
    let source_card = source.files().read_text("README.md").unwrap_or_default();
    let front_matter = inherited_front_matter(&source_card);
    format!(
        "---\n{front_matter}base_model: {name}\nlibrary_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\n---\n\n\
         # {name} for MLX\n\n\
         Made from `{name}` with mixbit {version}.\n\n{how}\n\n\
         ```sh\nmixbit run --model . --prompt \"Hello\"\nmlx_lm.generate --model . --prompt \"Hello\"\n```\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// Returns the top-level entries of a card's YAML header (licence, language and so on) but those that are written anew.
fn inherited_front_matter(card: &str) -> String {
    const REPLACED: [&str; 5] = ["base_model", "library_name", "pipeline_tag", "tags", "base_model_relation"];
    let mut inherited = String::new();
    let mut lines = card.lines();
    if lines.next() != Some("---") {
        return inherited;
    }
    let mut is_inherited = false;
    for line in lines {
        if line == "---" {
            return inherited;
        }
        if let Some((key, _)) = line.split_once(':')
            && !line.starts_with([' ', '-', '#'])
        {
            is_inherited = !REPLACED.contains(&key);
        }
        if is_inherited {
            inherited.push_str(line);
            inherited.push('\n');
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
        assert_eq!(inherited_front_matter(card), "license: mit\nlanguage:\n- en\n- de\n");
        assert_eq!(inherited_front_matter("# no header"), "");
        assert_eq!(inherited_front_matter("---\nlicense: mit\n"), "");
    }
}
