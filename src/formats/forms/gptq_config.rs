//! Settings of GPTQ and AutoRound in config.json: for all layers, and for single ones.

use serde_json::{Map, Value};

use super::declared::{Scheme, Section};
use super::gptq::Settings;
use super::targets::Targets;
use crate::error::Result;

/// Forms of some layers, the first that has a layer before the others.
type Schemes = Vec<(Targets, Scheme)>;

/// Characters by which AutoRound takes the name of a layer for a pattern.
const PATTERN: [char; 9] = ['*', '^', '$', '|', '(', ')', '[', '?', '+'];

/// Reads GPTQ's settings. GPTQModel has those of single layers under `dynamic`, by patterns that match from a path's beginning.
///
/// # Errors
/// Where a setting is not read.
pub(super) fn gptq(section: &Section<'_>) -> Result<Schemes> {
    let mut schemes = Schemes::new();
    for (pattern, own) in objects(section, "dynamic")? {
        // Layers that are left out are float.
        if !pattern.starts_with("-:") {
            let mut targets = Targets::none();
            targets.add_pattern(section, "dynamic", pattern.strip_prefix("+:").unwrap_or(pattern))?;
            let value = section.changed_by(own);
            schemes.push((targets, gptq_scheme(&section.inner("dynamic", pattern, &value))?));
        }
    }
    schemes.push((Targets::All, gptq_scheme(section)?));
    Ok(schemes)
}

/// Reads AutoRound's settings. Those of single layers are under `extra_config`, by names, parts of names and patterns.
///
/// # Errors
/// Where a setting is not read.
pub(super) fn auto_round(section: &Section<'_>) -> Result<Schemes> {
    let (mut named, mut matched) = (Schemes::new(), Schemes::new());
    for (name, own) in objects(section, "extra_config")? {
        let value = section.changed_by(own);
        let inner = section.inner("extra_config", name, &value);
        if inner.is_float() {
            continue;
        }
        let mut targets = Targets::none();
        targets.add_name(name);
        named.push((targets, auto_round_scheme(&inner)?));
        let part = if name.contains(PATTERN) { name.to_owned() } else { regex::escape(name) };
        let mut targets = Targets::none();
        targets.add_pattern(section, "extra_config", &format!(".*(?:{part})"))?;
        matched.push((targets, auto_round_scheme(&inner)?));
    }
    named.append(&mut matched);
    named.push((Targets::All, auto_round_scheme(section)?));
    Ok(named)
}

/// Returns the settings of single layers under `key`.
fn objects<'a>(section: &Section<'a>, key: &str) -> Result<Vec<(&'a String, &'a Map<String, Value>)>> {
    let layers = match section.value.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => return Ok(Vec::new()),
        Some(value) => value.as_object().ok_or_else(|| section.error(key, "expected an object of layers"))?,
    };
    let of = |(name, own): (&'a String, &'a Value)| {
        let own = own.as_object();
        Ok((name, own.ok_or_else(|| section.error(&format!("{key}.{name}"), "expected an object"))?))
    };
    layers.iter().map(of).collect()
}

fn gptq_scheme(section: &Section<'_>) -> Result<Scheme> {
    Ok(Scheme::Gptq(settings(section)?))
}

fn settings(section: &Section<'_>) -> Result<Settings> {
    section.only("checkpoint_format", &["gptq", "gptq_v2"])?;
    section.only("pack_dtype", &["int32"])?;
    if section.value.get("is_marlin_format").and_then(Value::as_bool) == Some(true) {
        return Err(section.refuse("is_marlin_format", "the order of Marlin's kernels"));
    }
    let less_one = section.text("checkpoint_format") != Some("gptq_v2");
    Ok(Settings { bits: section.bits(&[2, 3, 4, 8])?, group: section.group()?, less_one })
}

fn auto_round_scheme(section: &Section<'_>) -> Result<Scheme> {
    section.only("data_type", &["int"])?;
    match section.text("packing_format").unwrap_or_default() {
        "auto_round:auto_gptq" | "auto_gptq" => Ok(Scheme::Gptq(settings(section)?)),
        "auto_round:gptqmodel" => Ok(Scheme::Gptq(Settings { less_one: false, ..settings(section)? })),
        "auto_round:auto_awq" | "auto_awq" => {
            section.bits(&[4])?;
            Ok(Scheme::Awq(section.group()?))
        }
        format => Err(section.refuse("packing_format", &format!("`packing_format` \"{format}\""))),
    }
}
