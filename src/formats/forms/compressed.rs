//! compressed-tensors: groups of layers, each with a format, in config.json.

use serde_json::Value;

use super::declared::{Integer, Scheme, Section};
use super::fp8::Extent;
use super::nvfp4::Names;
use super::targets::{Anchor, Targets};
use crate::error::Result;
use crate::files::json;

/// Locations whose transforms are already in the stored weights.
const STORED_TRANSFORMS: [&str; 2] = ["weight_input", "weight_output"];

/// Reads the groups of config.json: the layers of each, and their form.
pub(crate) fn schemes(section: &Section<'_>) -> Result<Vec<(Targets, Scheme)>> {
    let sparsity = section.value.get("sparsity_config").and_then(|sparsity| sparsity.get("format"));
    if let Some(format) = sparsity.and_then(Value::as_str).filter(|format| *format != "dense") {
        return Err(section.refuse("sparsity_config.format", &format!("`{format}` of sparse weights")));
    }
    refuse_online_transforms(section)?;
    let groups = section.value.get("config_groups").and_then(Value::as_object);
    let groups = groups.ok_or_else(|| section.error("config_groups", "expected an object of groups"))?;
    let mut schemes = Vec::new();
    for (name, group) in groups {
        let key = format!("config_groups.{name}");
        let format = format(section, &key, group)?;
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

/// Fails where `transform_config` transforms activations at run time: without that step the stored weights compute something else.
fn refuse_online_transforms(section: &Section<'_>) -> Result<()> {
    let groups = section.value.get("transform_config").and_then(|transforms| transforms.get("config_groups"));
    let Some(groups) = groups.filter(|groups| !groups.is_null()) else { return Ok(()) };
    let key = "transform_config.config_groups";
    let groups = groups.as_object().ok_or_else(|| section.error(key, "expected an object of groups"))?;
    for (name, group) in groups {
        let key = format!("{key}.{name}");
        let applied = group.get("apply").and_then(Value::as_array);
        let applied =
            applied.ok_or_else(|| section.error(&format!("{key}.apply"), "expected a list of places"))?;
        for place in applied.iter().map(|applied| applied.get("location").unwrap_or(&Value::Null)) {
            if !place.as_str().is_some_and(|place| STORED_TRANSFORMS.contains(&place)) {
                let what = format!("a transform at {} while the model runs", json::shown(place));
                return Err(section.refuse(&key, &what));
            }
        }
    }
    Ok(())
}

/// Returns the format of the `group` under `key`: its own, or else that of all.
fn format<'a>(section: &'a Section<'_>, key: &str, group: &'a Value) -> Result<&'a str> {
    let named = [(format!("{key}.format"), group), ("format".to_owned(), section.value)];
    for (key, settings) in named {
        match settings.get("format") {
            None | Some(Value::Null) => {}
            Some(Value::String(format)) => return Ok(format),
            Some(other) => {
                return Err(section.error(&key, format!("expected a name, found {}", json::shown(other))));
            }
        }
    }
    Ok("dense")
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
            let symmetric =
                section.flag(&format!("{key}.weights.symmetric"), weights.get("symmetric"), true)?;
            let integer = Integer { bits, group, symmetric };
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
