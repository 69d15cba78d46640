//! The bit map: which layers are quantized, each with its own bits, group size and mode.
//!
//! In config.json it stands under `quantization` and, identical, under `quantization_config`: a global default and one
//! entry for every quantized layer. A layer that is not listed is float. mlx-lm's own files list only the layers that
//! differ from the default; there the presence of `.scales` decides, as in mlx-lm's loader.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::candidate::{Mode, Quant};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::spec::Manifest;

/// Path of a quantized layer to how it is quantized. A path that is absent is float.
pub type BitMap = BTreeMap<String, Quant>;

/// A config's `quantization`, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// For quantized layers without an entry.
    pub default: Option<Quant>,
    /// `None`: declared float.
    pub layers: BTreeMap<String, Option<Quant>>,
}

impl Declared {
    /// Reads `quantization`, or an MLX-like `quantization_config`. Other tools' formats are an error.
    pub fn from_config(config: &ModelConfig) -> Result<Self> {
        let (declared, mut bad) = Self::as_far_as_it_goes(config)?;
        bad.pop_first().map_or(Ok(declared), |(_, error)| Err(error))
    }

    /// The same without the entries that cannot be read, and these by path.
    pub fn as_far_as_it_goes(config: &ModelConfig) -> Result<(Self, BTreeMap<String, Error>)> {
        let mut bad = BTreeMap::new();
        let (key, value) = match (config.get("quantization"), config.get("quantization_config")) {
            (Some(value), _) => ("quantization", value),
            (None, Some(value)) => ("quantization_config", value),
            (None, None) => return Ok(Default::default()),
        };
        if let Some(method) = value.get("quant_method") {
            return Err(config
                .error(key, format!("the checkpoint is quantized by {method}, not by MLX"))
                .hint("start from the float checkpoint, or dequantize with the tool that made it"));
        }
        let object = value.as_object().ok_or_else(|| config.error(key, "expected an object"))?;
        let mut declared = Self::default();
        if object.contains_key("bits") || object.contains_key("group_size") {
            let globals = object.iter().filter(|(_, v)| !v.is_object() && !v.is_boolean());
            let globals: Map<String, Value> = globals.map(|(k, v)| (k.clone(), v.clone())).collect();
            declared.default = Some(parse(config, key, &Value::Object(globals))?);
        }
        for (path, entry) in object {
            let nested = format!("{key}.{path}");
            let quant = match entry {
                Value::Bool(false) => None,
                Value::Bool(true) => {
                    Some(declared.default.ok_or_else(|| config.error(&nested, "no default to follow")))
                }
                Value::Object(_) => Some(parse(config, &nested, entry)),
                _ if path.contains('.') || path == "lm_head" => Some(Err(config.error(
                    &nested,
                    format!("expected an object with bits and group_size, true or false, found {entry}"),
                ))),
                _ => continue,
            };
            match quant.transpose() {
                Ok(quant) => drop(declared.layers.insert(path.clone(), quant)),
                Err(error) => drop(bad.insert(path.clone(), error)),
            }
        }
        Ok((declared, bad))
    }

    /// What each layer of `manifest` is, checked against the tensors. `stored` gives the checkpoint's name of a tensor.
    pub fn resolve(
        &self,
        config: &ModelConfig,
        manifest: &Manifest,
        checkpoint: &Checkpoint,
        stored: &BTreeMap<String, String>,
    ) -> Result<BitMap> {
        // mlx-lm's AWQ writes `false` for norms too.
        for (path, quant) in &self.layers {
            if quant.is_some() && manifest.layer(path).is_none() {
                return Err(config.error(
                    "quantization",
                    format!("lists `{path}`, which this architecture does not have"),
                ));
            }
        }
        let mut map = BitMap::new();
        for tensor in manifest.iter() {
            let Some(path) = tensor.path() else { continue };
            let scales_name = format!("{path}.scales");
            let scales = stored.get(&scales_name).and_then(|name| checkpoint.get(name));
            let quant = match (self.layers.get(path), &scales) {
                (Some(Some(quant)), Some(_)) => *quant,
                (Some(Some(_)), None) => {
                    return Err(Error::tensor(checkpoint.path(), &scales_name, "missing").hint(
                        "config.json lists this layer as quantized; without scales it cannot be read",
                    ));
                }
                (Some(None) | None, None) => continue,
                (Some(None), Some(_)) => {
                    return Err(Error::tensor(
                        checkpoint.path(),
                        &scales_name,
                        "config.json says this layer is float",
                    ));
                }
                (None, Some(_)) => self.default.ok_or_else(|| {
                    Error::tensor(
                        checkpoint.path(),
                        &scales_name,
                        "config.json has no `quantization` entry for it",
                    )
                    .hint("config.json is not the one that belongs to these weights")
                })?,
            };
            map.insert(path.to_owned(), quant);
        }
        Ok(map)
    }
}

fn parse(config: &ModelConfig, key: &str, value: &Value) -> Result<Quant> {
    // mlx-lm's mixed predicates write null where the mode's default is meant.
    let given = |name: &str| value.get(name).filter(|value| !value.is_null());
    let mode = match given("mode") {
        None => Mode::Affine,
        Some(mode) => {
            let name = mode.as_str().ok_or_else(|| config.error(key, "mode: expected a string"))?;
            name.parse().map_err(|e: Error| config.error(key, e.to_string()))?
        }
    };
    let default = mode.default_quant();
    let size = |name: &str, default: u32| match given(name) {
        None => Ok(default),
        Some(v) => v
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| config.error(key, format!("{name}: expected an integer, found {v}"))),
    };
    let quant = Quant {
        bits: size("bits", default.bits)?,
        group_size: size("group_size", default.group_size)?,
        mode,
    };
    quant.validate().map_err(|e| config.error(key, e.to_string()))?;
    Ok(quant)
}

/// The value of `quantization` for `map`: the most frequent setting as the default, then every layer.
pub fn to_config(map: &BitMap) -> Value {
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
        object.insert(path.clone(), entry(*quant));
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
        let declared = Declared::from_config(&config(&to_config(&map))).unwrap();
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
            (json!({"quant_method": "awq", "bits": 4}), "not by MLX"),
            (json!({"x": true}), "no default"),
        ] {
            let message = Declared::from_config(&config(&value)).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn null_means_the_default() {
        let value =
            json!({"group_size": null, "bits": 4, "mode": "affine", "x": {"group_size": null, "bits": 6}});
        let declared = Declared::from_config(&config(&value)).unwrap();
        assert_eq!(declared.layers.get("x"), Some(&Some(Quant::affine(6, 64))));
    }

    #[test]
    fn false_means_float() {
        let declared =
            Declared::from_config(&config(&json!({"bits": 4, "group_size": 64, "x": false}))).unwrap();
        assert_eq!(declared.layers.get("x"), Some(&None));
    }
}
