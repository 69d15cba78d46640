//! The bit map: which layers are quantized, each with its own bits, group size and mode.
//!
//! In config.json it stands under `quantization` and, identical, under `quantization_config`: a global default and one
//! entry for every quantized layer. A layer that is not listed is float. mlx-lm's own files list only the layers that
//! differ from the default; there the presence of `.scales` decides, and their shapes tell the setting, as in mlx-lm's
//! loader.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

use super::architectures::{self, Architecture};
use super::config::ModelConfig;
use super::names::Rename;
use super::wrapper::Wrapper;
use crate::error::{Error, Result};
use crate::files::json;
use crate::formats::checkpoint::{Checkpoint, Tensor};
use crate::formats::forms;
use crate::models::spec::{Manifest, TensorSpec};
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::{Mode, Quant};
use crate::words::{count, list, nearest};

/// Path of a quantized layer to how it is quantized. A path that is absent is float.
pub type BitMap = BTreeMap<String, Quant>;

/// A config's `quantization`, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// For quantized layers without an entry.
    pub default: Option<Quant>,
    /// `None`: declared float.
    pub layers: BTreeMap<String, Option<Quant>>,
    /// Keys of the entries, by the layer's path, where they differ: with a wrapper's prefix, or of one expert.
    pub keys: BTreeMap<String, String>,
}

impl Declared {
    /// Returns the key that the entry of the layer at `path` has in the file.
    fn key<'a>(&'a self, path: &'a str) -> &'a str {
        self.keys.get(path).map_or(path, String::as_str)
    }

    /// Reads `quantization`, or an MLX-like `quantization_config`; entries that cannot be read are given beside it, by path.
    /// Other tools' forms have no bit map; those that are not read are an error.
    pub fn from_config(config: &ModelConfig) -> Result<(Self, BTreeMap<String, Error>)> {
        let mut bad = BTreeMap::new();
        let Some((key, value)) = section(config)? else { return Ok(Default::default()) };
        let object = value.as_object().ok_or_else(|| config.error(key, "expected an object"))?;
        // mlx-lm reads both, whatever the layers' own entries say.
        if let Some(absent) = ["bits", "group_size"].into_iter().find(|name| !object.contains_key(*name)) {
            return Err(config.error(&format!("{key}.{absent}"), "missing").hint(
                "bits and group_size stand beside the layers' entries, for layers without one; mlx-lm needs both",
            ));
        }
        let globals = object.iter().filter(|(_, v)| !v.is_object() && !v.is_boolean());
        let globals: Map<String, Value> = globals.map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut declared =
            Self { default: Some(parse(config, key, &Value::Object(globals))?), ..Self::default() };
        let row = architectures::find(config).ok();
        let wrapper = row.and_then(|row| row.wrapper);
        let is_of_tower = |path: &str| wrapper.is_some_and(|wrapper| wrapper.tower(path).is_some());
        for (path, entry) in object.iter().filter(|(path, _)| !is_of_tower(path)) {
            let nested = format!("{key}.{path}");
            let is_layer = path.contains('.') || HEADS.contains(&path.as_str());
            let quant = match entry {
                // A setting of another tool (`desc_act`), or a record of how the model was made, as some tools write it
                // here.
                _ if !is_layer && !is_setting(entry) => continue,
                // mlx-lm takes both for "leave it float".
                Value::Bool(false) | Value::Null => None,
                Value::Bool(true) => declared.default.map(Ok),
                Value::Object(_) => Some(parse(config, &nested, entry)),
                _ => Some(Err(config.error(
                    &nested,
                    format!(
                        "expected an object with bits and group_size, true or false, found {}",
                        json::shown(entry)
                    ),
                ))),
            };
            let name = path;
            let path = if wrapper.is_some() { Wrapper::inner_name(name).into_owned() } else { name.clone() };
            let path = row.and_then(|row| stack_of(row, &path)).unwrap_or(path);
            if path != *name {
                declared.keys.entry(path.clone()).or_insert_with(|| name.clone());
            }
            match quant.transpose() {
                Ok(quant) => {
                    let other = declared.layers.insert(path.clone(), quant);
                    if other.is_some_and(|other| other != quant) {
                        let message =
                            "the experts of a block have different settings, which is not supported";
                        bad.insert(path, config.error(&nested, message));
                    }
                }
                Err(error) => drop(bad.insert(path, error)),
            }
        }
        Ok((declared, bad))
    }
}

/// Returns the layer of all experts that the layer at `path` is one expert's of; `None` for other layers.
fn stack_of(row: &Architecture, path: &str) -> Option<String> {
    match (row.rename)(&format!("{path}.weight")) {
        Rename::Expert { stack, .. } => stack.strip_suffix(".weight").map(str::to_owned),
        _ => None,
    }
}

/// The keys of an entry.
const SETTINGS: [&str; 3] = ["bits", "group_size", "mode"];

/// Layers whose paths have no dot.
const HEADS: [&str; 2] = ["lm_head", "output"];

/// True if `entry` is an object with bits, group size or mode, so that its key is a layer's path even without a dot.
fn is_setting(entry: &Value) -> bool {
    entry.as_object().is_some_and(|entry| SETTINGS.iter().any(|key| entry.contains_key(*key)))
}

/// Returns the config's bit map, and the key that it stands under. mlx-lm looks into `text_config` last.
///
/// # Errors
/// Where the weights are in another tool's form that is not read.
fn section(config: &ModelConfig) -> Result<Option<(&'static str, &Value)>> {
    let of_other_tool = forms::refuse_unknown(config.path(), config.keys())?;
    Ok(forms::section(config.keys()).filter(|_| !of_other_tool))
}

/// The parts of a layer that is stored with scales.
#[derive(Debug, Clone, Copy)]
pub struct StoredLayer<'a> {
    /// Columns of the float matrix.
    pub columns: usize,
    /// Shape of the codes.
    pub weight: &'a [usize],
    /// Shape of the scales.
    pub scales: &'a [usize],
    /// Element type of the scales.
    pub scales_dtype: Dtype,
    /// Presence of biases, which affine layers alone have.
    pub biases: bool,
}

impl<'a> StoredLayer<'a> {
    /// Finds the parts of the layer of `spec` at `path`; `tensor` finds them by mlx-lm's names. `None` where the codes or
    /// the scales are missing.
    pub fn find(spec: &TensorSpec, path: &str, tensor: impl Fn(&str) -> Option<Tensor<'a>>) -> Option<Self> {
        let scales = tensor(&format!("{path}.scales"))?;
        Some(Self {
            columns: spec.columns(),
            weight: tensor(&spec.name)?.shape,
            scales: scales.shape,
            scales_dtype: scales.dtype,
            biases: tensor(&format!("{path}.biases")).is_some(),
        })
    }

    /// Returns bits, group size and mode as the shapes tell them, by the rule of mlx-lm's loader; `None` where MLX has no
    /// such setting.
    pub fn quant(&self) -> Option<Quant> {
        let divided = |whole: usize, part: usize| {
            let exact = part != 0 && whole.is_multiple_of(part);
            u32::try_from(whole / part.max(1)).ok().filter(|_| exact)
        };
        let bits = divided(self.weight.last()?.checked_mul(32)?, self.columns)?;
        let group_size = divided(self.columns, *self.scales.last()?)?;
        let affine = self.scales_dtype.is_float() && self.biases;
        let floating = self.scales_dtype == Dtype::U8 && !self.biases;
        Mode::ALL
            .into_iter()
            .filter(|&mode| if mode == Mode::Affine { affine } else { floating })
            .map(|mode| Quant { bits, group_size, mode })
            .find(|quant| quant.validate().is_ok())
    }
}

/// Returns each layer's setting, and notes for the user on where it comes from, one sentence each.
///
/// An entry of config.json counts, whatever the shapes; layers without one are as their shapes say, as in mlx-lm, or
/// where these say nothing as the default does. `stored` gives the checkpoint's name of a tensor. `is_left_out` tells
/// layers that may be listed although the decoder lacks them.
///
/// # Errors
/// When an entry cannot be read, names a layer that the model lacks, or contradicts the tensors.
pub fn resolve(
    config: &ModelConfig,
    manifest: &Manifest,
    checkpoint: &Checkpoint,
    stored: &BTreeMap<String, String>,
    is_left_out: impl Fn(&str) -> bool,
) -> Result<(BitMap, Vec<String>)> {
    let (declared, bad) = Declared::from_config(config)?;
    let has_section = section(config)?.is_some();
    let (foreign, bad): (BTreeMap<_, _>, BTreeMap<_, _>) =
        bad.into_iter().partition(|(path, _)| manifest.layer(path).is_none());
    if let Some((_, error)) = bad.into_iter().next() {
        return Err(error);
    }
    // mlx-lm's AWQ writes `false` for norms too.
    let quantized = declared.layers.iter().filter(|(_, quant)| quant.is_some()).map(|(path, _)| path);
    let absent = quantized.filter(|path| manifest.layer(path).is_none()).chain(foreign.keys());
    let (left_out, unknown): (Vec<&String>, Vec<&String>) = absent.partition(|path| is_left_out(path));
    refuse_unknown_layers(config, manifest, &declared, &unknown)?;
    let tensor = |name: &str| stored.get(name).and_then(|name| checkpoint.get(name));
    let mut map = BitMap::new();
    let mut inferred: BTreeMap<Quant, usize> = BTreeMap::new();
    for spec in manifest.iter() {
        let Some(path) = spec.path() else { continue };
        let scales_name = format!("{path}.scales");
        let wrong = |message: &str| Error::tensor(checkpoint.path(), &scales_name, message);
        let scales = tensor(&scales_name);
        if let Some(quant) = tensor(&spec.name).and_then(|weight| weight.incoming?.quant) {
            map.insert(path.to_owned(), quant);
            continue;
        }
        let quant = match (declared.layers.get(path), &scales) {
            (Some(Some(quant)), Some(_)) => *quant,
            (Some(Some(_)), None) => {
                return Err(wrong("missing")
                    .hint("config.json lists this layer as quantized; without scales it cannot be read"));
            }
            (Some(None) | None, None) => continue,
            (Some(None), Some(_)) => return Err(wrong("config.json says this layer is float")),
            (None, Some(_)) if !has_section => {
                return Err(wrong("config.json has no `quantization` entry for it")
                    .hint("config.json is not the one that belongs to these weights"));
            }
            (None, Some(_)) => {
                let shown = StoredLayer::find(spec, path, tensor).and_then(|layer| layer.quant());
                if let Some(quant) = shown.filter(|quant| declared.default != Some(*quant)) {
                    *inferred.entry(quant).or_default() += 1;
                }
                shown.or(declared.default).ok_or_else(|| {
                    wrong("config.json has no `quantization` entry for it, and the shapes are of no setting of MLX")
                        .hint("config.json is not the one that belongs to these weights")
                })?
            }
        };
        map.insert(path.to_owned(), quant);
    }
    let mut notes: Vec<String> = inferred_note(&declared, &inferred).into_iter().collect();
    notes.extend(left_out_note(&declared, &left_out));
    Ok((map, notes))
}

fn inferred_note(declared: &Declared, inferred: &BTreeMap<Quant, usize>) -> Option<String> {
    let layers = count(inferred.values().sum::<usize>(), "layer");
    let silent = match declared.default {
        Some(default) => format!("leaves {layers} to a default of {default}"),
        None => format!("does not name {layers}"),
    };
    let settings: Vec<String> = inferred.iter().map(|(quant, count)| format!("{count} x {quant}")).collect();
    let settings = settings.join(", ");
    let note = format!("config.json's bit map {silent}; the tensors' shapes say {settings}, and they decide");
    (!inferred.is_empty()).then_some(note)
}

fn left_out_note(declared: &Declared, left_out: &[&String]) -> Option<String> {
    let layers = count(left_out.len(), "layer");
    let first = declared.key(left_out.first()?);
    Some(format!("config.json's bit map lists {layers} beside the decoder, `{first}` first: not read"))
}

/// Fails where the bit map quantizes layers of which the model has none: the layers that were meant would stay as they are.
fn refuse_unknown_layers(
    config: &ModelConfig,
    manifest: &Manifest,
    declared: &Declared,
    unknown: &[&String],
) -> Result<()> {
    let Some(first) = unknown.first() else { return Ok(()) };
    let has_wrapper = architectures::find(config).is_ok_and(|row| row.wrapper.is_some());
    // Other names are shown in the form that the file has.
    let named = |path: &str, like: &str| {
        let name = if has_wrapper { Wrapper::outer_name(path, declared.key(like)) } else { path.into() };
        format!("`{name}`")
    };
    let layers = || manifest.iter().filter(|spec| spec.quantizable()).filter_map(TensorSpec::path);
    let names: Vec<String> = unknown.iter().map(|path| format!("`{}`", declared.key(path))).collect();
    let key = section(config)?.map_or("quantization", |(key, _)| key);
    let message = format!("names {} that this model lacks: {}", count(unknown.len(), "layer"), list(&names));
    let example = layers().next().map_or_else(String::new, |path| named(path, first));
    let near = unknown.iter().find_map(|path| Some((path, named(nearest(path, layers())?, path))));
    let near = near.map_or_else(String::new, |(path, near)| {
        format!("; did you mean {near} by `{}`?", declared.key(path))
    });
    Err(config.error(key, message).hint(format!("its layers are called like {example}{near}")))
}

fn parse(config: &ModelConfig, key: &str, value: &Value) -> Result<Quant> {
    // mlx-lm's mixed predicates write null where the mode's default is meant.
    let setting = |name: &str| value.get(name).filter(|value| !value.is_null());
    let mode = match setting("mode") {
        None => Mode::Affine,
        Some(mode) => {
            let name = mode.as_str().ok_or_else(|| config.error(key, "mode: expected a string"))?;
            name.parse().map_err(|e: Error| config.error(key, e.to_string()))?
        }
    };
    let default = mode.default_quant();
    let size = |name: &str, default: u32| match setting(name) {
        None => Ok(default),
        Some(v) => json::as_u64(v).and_then(|n| u32::try_from(n).ok()).ok_or_else(|| {
            config.error(key, format!("{name}: expected an integer, found {}", json::shown(v)))
        }),
    };
    let quant = Quant {
        bits: size("bits", default.bits)?,
        group_size: size("group_size", default.group_size)?,
        mode,
    };
    quant.validate().map_err(|e| config.error(key, e.to_string()))?;
    Ok(quant)
}

/// Returns the value of `quantization` for `map`: the most frequent setting as the default, then every layer, its path after
/// `prefix`; of experts that are layers of their own, `names_apart` gives the paths.
pub fn to_config(map: &BitMap, prefix: &str, names_apart: impl Fn(&str) -> Option<Vec<String>>) -> Value {
    let mut counts: BTreeMap<Quant, usize> = BTreeMap::new();
    for quant in map.values() {
        *counts.entry(*quant).or_default() += 1;
    }
    let default = counts.iter().max_by_key(|(quant, count)| (**count, **quant)).map(|(quant, _)| *quant);
    let entry =
        |quant: Quant| json!({"group_size": quant.group_size, "bits": quant.bits, "mode": quant.mode.name()});
    let mut object = match entry(default.unwrap_or(Mode::Affine.default_quant())) {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    for (path, quant) in map {
        for path in names_apart(path).unwrap_or_else(|| vec![path.clone()]) {
            object.insert(format!("{prefix}{path}"), entry(*quant));
        }
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(quantization: &Value) -> ModelConfig {
        let text = json!({"model_type": "llama", "quantization": quantization}).to_string();
        ModelConfig::parse(Path::new("config.json"), &text).unwrap()
    }

    #[test]
    fn written_maps_read_back() {
        let map: BitMap =
            [("a", Quant::affine(4, 64)), ("b", Quant::affine(8, 32)), ("c", Quant::affine(4, 64))]
                .into_iter()
                .map(|(path, quant)| (path.to_owned(), quant))
                .collect();
        let (declared, _) = Declared::from_config(&config(&to_config(&map, "", |_| None))).unwrap();
        assert_eq!(declared.default, Some(Quant::affine(4, 64)));
        let layers: BitMap = declared.layers.into_iter().filter_map(|(p, q)| Some((p, q?))).collect();
        assert_eq!(layers, map);
    }

    #[test]
    fn impossible_settings_are_named() {
        for (value, expected) in [
            (json!({"bits": 7, "group_size": 64}), "7 bits"),
            (json!({"bits": 4, "group_size": 64, "x": {"bits": 4, "group_size": 48}}), "quantization.x"),
            (json!({"bits": 4, "group_size": 64, "mode": "q4_k"}), "q4_k"),
            (json!({"quant_method": "hqq", "bits": 4}), "quantized by \"hqq\", whose form is not read"),
            (json!({"x.y": true}), "key `quantization.bits`: missing"),
            (
                json!({"bits": 4, "x": {"bits": 4, "group_size": 64}}),
                "key `quantization.group_size`: missing",
            ),
        ] {
            let declared = Declared::from_config(&config(&value));
            let error = declared.map_or_else(|error| error, |(_, mut bad)| bad.pop_first().unwrap().1);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn null_means_the_default() {
        let value =
            json!({"group_size": null, "bits": 4, "mode": "affine", "x": {"group_size": null, "bits": 6}});
        let (declared, _) = Declared::from_config(&config(&value)).unwrap();
        assert_eq!(declared.layers.get("x"), Some(&Some(Quant::affine(6, 64))));
    }

    #[test]
    fn false_and_null_mean_float() {
        let floats = json!({"lm_head": false, "output": null, "x.y": false, "x.z": null});
        let mut value = json!({"bits": 4, "group_size": 64});
        value.as_object_mut().unwrap().extend(floats.as_object().unwrap().clone());
        let (declared, bad) = Declared::from_config(&config(&value)).unwrap();
        assert!(declared.layers.keys().eq(["lm_head", "output", "x.y", "x.z"]), "{declared:?}");
        assert!(declared.layers.values().all(Option::is_none) && bad.is_empty());
    }

    #[test]
    fn notes_and_records_are_no_layers() {
        let value = json!({
            "bits": 4.0, "group_size": 64.0, "quant_method": "mlx", "made_on": "a Tuesday",
            "calibration": {"samples": 16}, "desc_act": true, "sym": false, "damp_percent": null,
        });
        let (declared, bad) = Declared::from_config(&config(&value)).unwrap();
        assert_eq!(declared, Declared { default: Some(Quant::affine(4, 64)), ..Declared::default() });
        assert!(bad.is_empty());
    }

    #[test]
    fn shapes_tell_bits_and_group_size() {
        let layer = |weight, scales, scales_dtype, biases| StoredLayer {
            columns: 256,
            weight,
            scales,
            scales_dtype,
            biases,
        };
        let floating = |mode: Mode| Some(mode.default_quant());
        for (stored, expected) in [
            (layer(&[8, 32], &[8, 4], Dtype::F16, true), Some(Quant::affine(4, 64))),
            (layer(&[2, 8, 24], &[2, 8, 2], Dtype::BF16, true), Some(Quant::affine(3, 128))),
            (layer(&[8, 32], &[8, 8], Dtype::U8, false), floating(Mode::Mxfp4)),
            (layer(&[8, 64], &[8, 8], Dtype::U8, false), floating(Mode::Mxfp8)),
            (layer(&[8, 32], &[8, 16], Dtype::U8, false), floating(Mode::Nvfp4)),
            // Seven bits, groups of 48 or 16, a width that is none, biases that do not fit the mode.
            (layer(&[8, 56], &[8, 4], Dtype::F16, true), None),
            (layer(&[8, 32], &[8, 5], Dtype::F16, true), None),
            (layer(&[8, 32], &[8, 16], Dtype::F16, true), None),
            (layer(&[8, 33], &[8, 4], Dtype::F16, true), None),
            (layer(&[8, 32], &[8, 4], Dtype::F16, false), None),
            (layer(&[8, 32], &[8, 8], Dtype::U8, true), None),
            (layer(&[8, 32], &[8, 0], Dtype::F16, true), None),
        ] {
            assert_eq!(stored.quant(), expected, "{stored:?}");
        }
    }
}
