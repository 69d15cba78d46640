//! compressed-tensors: groups of layers, each with a format, in config.json.

use serde_json::Value;

use super::declared::{Integer, Scheme, Section};
use super::fp8::Extent;
use super::nvfp4::Names;
use super::targets::{Anchor, Targets};
use crate::error::Result;
use crate::files::json;

/// Formats that `format` may name, of which each group may have another one.
const FORMATS: [&str; 8] = [
    "dense",
    "pack-quantized",
    "int-quantized",
    "naive-quantized",
    "float-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mixed-precision",
];

/// Places of transforms that are part of the stored weights; others happen while the model runs.
const STORED_TRANSFORMS: [&str; 2] = ["weight_input", "weight_output"];

/// Reads the groups of config.json: the layers of each, and their form.
pub(crate) fn schemes(section: &Section<'_>) -> Result<Vec<(Targets, Scheme)>> {
    let sparsity = section.value.get("sparsity_config").and_then(|sparsity| sparsity.get("format"));
    if let Some(format) = sparsity.and_then(Value::as_str).filter(|format| *format != "dense") {
        return Err(section.refuse("sparsity_config.format", &format!("`{format}` of sparse weights")));
    }
    refuse_online_transforms(section)?;
    section.only("format", &FORMATS)?;
    let groups = section.value.get("config_groups").and_then(Value::as_object);
    let groups = groups.ok_or_else(|| section.error("config_groups", "expected an object of groups"))?;
    let global = section.value.get("format").and_then(Value::as_str);
    let mut schemes = Vec::new();
    for (name, group) in groups {
        let key = format!("config_groups.{name}");
        let own = group.get("format").and_then(Value::as_str);
        let format = own.or(global).unwrap_or("dense");
        if format == "dense" {
            continue;
        }
        let targets = targets(section, &key, group)?;
        let weights = group.get("weights").filter(|weights| weights.is_object());
        let weights =
            weights.ok_or_else(|| section.error(&format!("{key}.weights"), "expected an object"))?;
        schemes.push((targets, scheme(section, &key, format, weights)?));
    }
    // Layers that are named count before those that are of a kind.
    schemes.sort_by_key(|(targets, _)| matches!(targets, Targets::All));
    Ok(schemes)
}

/// Fails where `transform_config` turns activations: the stored weights are then those of another model.
fn refuse_online_transforms(section: &Section<'_>) -> Result<()> {
    let groups = section.value.get("transform_config").and_then(|transforms| transforms.get("config_groups"));
    for (name, group) in groups.and_then(Value::as_object).into_iter().flatten() {
        let applied = group.get("apply").and_then(Value::as_array).into_iter().flatten();
        let places = applied.filter_map(|applied| applied.get("location").and_then(Value::as_str));
        if let Some(place) = places.into_iter().find(|place| !STORED_TRANSFORMS.contains(place)) {
            let key = format!("transform_config.config_groups.{name}");
            return Err(section.refuse(&key, &format!("a transform of `{place}` while the model runs")));
        }
    }
    Ok(())
}

fn targets(section: &Section<'_>, key: &str, group: &Value) -> Result<Targets> {
    let key = format!("{key}.targets");
    let listed = group.get("targets").and_then(Value::as_array);
    let listed = listed.and_then(|targets| targets.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let listed = listed.ok_or_else(|| section.error(&key, "expected a list of layers"))?;
    if listed.contains(&"Linear") {
        return Ok(Targets::All);
    }
    let mut targets = Targets::none();
    for target in listed {
        match target.strip_prefix("re:") {
            Some(pattern) => targets.add_pattern(section, &key, pattern, Anchor::Start)?,
            None => targets.add_path(target),
        }
    }
    Ok(targets)
}

fn scheme(section: &Section<'_>, key: &str, format: &str, weights: &Value) -> Result<Scheme> {
    let text = |name: &str| weights.get(name).and_then(Value::as_str);
    let is_float = text("type") == Some("float");
    let refuse = |name: &str| {
        let value = weights.get(name).unwrap_or(&Value::Null);
        section.refuse(&format!("{key}.weights.{name}"), &format!("{} in {format}", json::shown(value)))
    };
    match format {
        "pack-quantized" | "int-quantized" | "naive-quantized" if !is_float => {
            let size = |name: &str| weights.get(name).and_then(json::as_u64);
            let bits = size("num_bits").and_then(|bits| u32::try_from(bits).ok());
            let bits = bits.filter(|bits| (1..=8).contains(bits)).ok_or_else(|| refuse("num_bits"))?;
            let group = match text("strategy") {
                Some("channel") => None,
                Some("group") => {
                    let group = size("group_size").and_then(|size| usize::try_from(size).ok());
                    Some(group.filter(|size| *size > 0).ok_or_else(|| refuse("group_size"))?)
                }
                _ => return Err(refuse("strategy")),
            };
            let integer = Integer {
                bits,
                group,
                symmetric: section.flag(&format!("{key}.weights"), weights, "symmetric", true)?,
            };
            match format {
                "pack-quantized" => Ok(Scheme::Packed(integer)),
                _ if bits == 8 => Ok(Scheme::Int8(integer)),
                _ => Err(refuse("num_bits")),
            }
        }
        "float-quantized" | "naive-quantized" if is_float => match text("strategy") {
            Some("tensor" | "channel") => Ok(Scheme::Fp8(Extent::TensorOrRows)),
            Some("block") => {
                let block = weights.get("block_structure").and_then(super::declared::pair);
                Ok(Scheme::Fp8(Extent::Blocks(block.ok_or_else(|| refuse("block_structure"))?)))
            }
            _ => Err(refuse("strategy")),
        },
        "nvfp4-pack-quantized" => Ok(Scheme::Nvfp4(Names::Compressed)),
        "mxfp4-pack-quantized" => Ok(Scheme::Mxfp4),
        _ => Err(section.refuse("format", &format!("`{format}` of compressed-tensors"))),
    }
}
