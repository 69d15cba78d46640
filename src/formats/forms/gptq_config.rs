//! Settings of GPTQ and AutoRound in config.json: for all layers, and for single ones.

use serde_json::{Map, Value};

use super::declared::{Scheme, Section};
use super::gptq::Settings;
use super::targets::{Anchor, Targets};
use crate::error::Result;

/// Keys that settings of single layers stand under: GPTQModel's and AutoRound's.
pub(super) const LAYER_KEYS: [&str; 2] = [DYNAMIC, EXTRA_CONFIG];
const DYNAMIC: &str = "dynamic";
const EXTRA_CONFIG: &str = "extra_config";

/// Forms with the layers that they are for; the first that matches a layer counts.
type Schemes = Vec<(Targets, Scheme)>;

/// Reads GPTQ's settings. GPTQModel has those of single layers under `dynamic`, by patterns that match from a path's beginning.
///
/// # Errors
/// Where a setting is not read.
pub(super) fn read_gptq(section: &Section<'_>) -> Result<Schemes> {
    let mut schemes = Schemes::new();
    for (key, overrides) in layer_settings(section, DYNAMIC)? {
        let mut targets = Targets::none();
        if let Some(pattern) = key.strip_prefix("-:") {
            // A pattern that is not read is left out: the layers that it names are float, and have nothing to misread.
            if targets.add_pattern(section, DYNAMIC, pattern, Anchor::Start).is_ok() {
                schemes.push((targets, Scheme::Float));
            }
            continue;
        }
        let pattern = key.strip_prefix("+:").unwrap_or(key);
        targets.add_pattern(section, DYNAMIC, pattern, Anchor::Start)?;
        let value = section.with_overrides(overrides);
        schemes.push((targets, read_gptq_scheme(&section.of_layer(DYNAMIC, key, &value))?));
    }
    schemes.push((Targets::All, read_gptq_scheme(section)?));
    Ok(schemes)
}

/// Reads AutoRound's settings. Those of single layers are under `extra_config`: by paths, then by parts of paths, then by
/// patterns that match anywhere.
///
/// # Errors
/// Where a setting is not read.
pub(super) fn read_auto_round(section: &Section<'_>) -> Result<Schemes> {
    let (mut at_paths, mut inside, mut matched) = (Schemes::new(), Schemes::new(), Schemes::new());
    for (key, overrides) in layer_settings(section, EXTRA_CONFIG)? {
        let value = section.with_overrides(overrides);
        let scheme = read_auto_round_scheme(&section.of_layer(EXTRA_CONFIG, key, &value))?;
        if is_path(key) {
            entry_of(&mut inside, &scheme).add_stretch(key);
            entry_of(&mut at_paths, &scheme).add_path(key);
        } else {
            let mut targets = Targets::none();
            targets.add_pattern(section, EXTRA_CONFIG, key, Anchor::Anywhere)?;
            matched.push((targets, scheme));
        }
    }
    let mut schemes = at_paths;
    schemes.append(&mut inside);
    schemes.append(&mut matched);
    schemes.push((Targets::All, read_auto_round_scheme(section)?));
    Ok(schemes)
}

/// Returns the targets that `schemes` has for `scheme`, which layers of one form share: a mixture of experts has thousands of paths.
fn entry_of<'a>(schemes: &'a mut Schemes, scheme: &Scheme) -> &'a mut Targets {
    let same = schemes.iter().position(|(_, other)| other == scheme);
    let at = same.unwrap_or_else(|| {
        schemes.push((Targets::none(), *scheme));
        schemes.len() - 1
    });
    &mut schemes[at].0
}

/// True if `key` has the number of a block and nothing that a path has not.
fn is_path(key: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && key.split('.').any(is_number)
}

/// Returns the settings of single layers under `key`.
fn layer_settings<'a>(section: &Section<'a>, key: &str) -> Result<Vec<(&'a String, &'a Map<String, Value>)>> {
    let layers = match section.value.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => return Ok(Vec::new()),
        Some(value) => value.as_object().ok_or_else(|| section.error(key, "expected an object of layers"))?,
    };
    let settings_of = |(name, overrides): (&'a String, &'a Value)| {
        let overrides = overrides.as_object();
        let expected = || section.error(&format!("{key}.{name}"), "expected an object");
        Ok((name, overrides.ok_or_else(expected)?))
    };
    layers.iter().map(settings_of).collect()
}

fn read_gptq_scheme(section: &Section<'_>) -> Result<Scheme> {
    Ok(Scheme::Gptq(read_settings(section)?))
}

fn read_settings(section: &Section<'_>) -> Result<Settings> {
    section.only("checkpoint_format", &["gptq", "gptq_v2"])?;
    section.only("pack_dtype", &["int32"])?;
    if section.flag("is_marlin_format", section.value.get("is_marlin_format"), false)? {
        return Err(section.refuse("is_marlin_format", "the order of Marlin's kernels"));
    }
    let less_one = section.text("checkpoint_format") != Some("gptq_v2");
    Ok(Settings { bits: section.bits(&[2, 3, 4, 8])?, group: section.group()?, less_one })
}

fn read_auto_round_scheme(section: &Section<'_>) -> Result<Scheme> {
    if section.is_float() {
        return Ok(Scheme::Float);
    }
    section.only("data_type", &["int"])?;
    match section.text("packing_format").unwrap_or_default() {
        "auto_round:auto_gptq" | "auto_gptq" => read_gptq_scheme(section),
        "auto_round:gptqmodel" => Ok(Scheme::Gptq(Settings { less_one: false, ..read_settings(section)? })),
        "auto_round:auto_awq" | "auto_awq" => {
            section.bits(&[4])?;
            Ok(Scheme::Awq(section.group()?))
        }
        format => Err(section.refuse("packing_format", &format!("`packing_format` \"{format}\""))),
    }
}
