//! Tensors against config: shapes, element types, the bit map.

use std::collections::{BTreeMap, BTreeSet};

use super::check::Finding;
use super::folder::Folder;
use crate::error::Error;
use crate::formats::forms;
use crate::models::bitmap::{Declared, StoredLayer};
use crate::models::config::ModelConfig;
use crate::models::spec::{Manifest, TensorSpec, with_columns};
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::{Mode, Quant};
use crate::words::{bytes, count, list};

/// Checks shapes, element types and the bit map, and returns the names of tensors that are missing, left over or
/// misshapen.
pub(crate) fn check(folder: &Folder) -> (Vec<Finding>, BTreeSet<String>) {
    let (mut findings, mut wrong) = (Vec::new(), BTreeSet::new());
    if folder.checkpoint.is_none() {
        return (findings, wrong);
    }
    if let Some(manifest) = &folder.manifest {
        findings.extend(shapes(folder, manifest, &mut wrong));
        findings.extend(integers(folder, manifest));
    }
    findings.extend(dtypes(folder));
    findings.extend(bit_map(folder));
    (findings, wrong)
}

/// Returns the setting that the layer of `spec` at `path` is stored in: its entry in the config, or else the one that
/// its shapes give, or else the default.
fn stored_quant(folder: &Folder, declared: &Declared, spec: &TensorSpec, path: &str) -> Option<Quant> {
    if let Some(entry) = declared.layers.get(path) {
        return *entry;
    }
    let stored = folder.names.contains_key(&format!("{path}.scales"));
    let layer = StoredLayer::find(spec, path, |name| folder.tensor(name));
    layer.and_then(|layer| layer.quant()).or(declared.default).filter(|_| stored)
}

/// Names and shapes of stored tensors; no shape where the bit map does not give it.
type Expected = Vec<(String, Option<Vec<usize>>)>;

/// Setting of a tensor by the bit map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Float,
    Quantized(Quant),
    /// The config has no readable setting for it.
    Unreadable,
}

/// Returns the tensors that `spec` is stored as in this `setting`.
fn expected(folder: &Folder, spec: &TensorSpec, setting: Setting) -> Expected {
    let Some(path) = spec.path().filter(|_| setting != Setting::Float) else {
        return vec![(spec.name.clone(), Some(spec.shape.clone()))];
    };
    let quant = if let Setting::Quantized(quant) = setting { Some(quant) } else { None };
    let part = |part: &str| format!("{path}.{part}");
    let columns = spec.columns();
    let packed =
        quant.and_then(|quant| Some((quant, quant.packed_columns(columns)?, quant.groups(columns)?)));
    let Some((quant, words, groups)) = packed else {
        let stored = ["weight", "scales", "biases"].map(part).into_iter();
        return stored.filter(|name| folder.names.contains_key(name)).map(|name| (name, None)).collect();
    };
    let with = |columns: usize| Some(with_columns(&spec.shape, columns));
    let mut tensors = vec![(part("weight"), with(words)), (part("scales"), with(groups))];
    if quant.mode == Mode::Affine {
        tensors.push((part("biases"), with(groups)));
    }
    tensors
}

/// Returns names and shapes of all tensors that the decoder is stored as.
fn expected_tensors(folder: &Folder, manifest: &Manifest) -> BTreeMap<String, Option<Vec<usize>>> {
    let config = folder.config.as_ref();
    let declared = config.and_then(|config| Declared::from_config(config).ok());
    let is_readable = declared.is_some();
    let (declared, bad) = declared.unwrap_or_default();
    let setting = |spec: &TensorSpec| {
        let Some(path) = spec.path() else { return Setting::Float };
        let has_scales = folder.names.contains_key(&format!("{path}.scales"));
        if bad.contains_key(path) || (!is_readable && has_scales) {
            return Setting::Unreadable;
        }
        stored_quant(folder, &declared, spec, path).map_or(Setting::Float, Setting::Quantized)
    };
    manifest.iter().flat_map(|spec| expected(folder, spec, setting(spec))).collect()
}

/// Lists all tensors that are missing, left over or misshapen, where the loader stops at the first. Layers that the bit
/// map gives no setting for are left to [`bit_map`].
fn shapes(folder: &Folder, manifest: &Manifest, wrong: &mut BTreeSet<String>) -> Vec<Finding> {
    let expected = expected_tensors(folder, manifest);
    let absent = expected.keys().filter(|name| !folder.names.contains_key(*name));
    let missing: Vec<(&str, String)> = absent.map(|name| (name.as_str(), format!("`{name}`"))).collect();
    let (mut extra, mut misshapen) = (Vec::new(), Vec::new());
    for (name, tensor) in folder.tensors() {
        match expected.get(name) {
            None if folder.is_head(name) || folder.is_left_out(name) => {}
            None => extra.push((name, format!("`{name}`"))),
            Some(Some(shape)) if shape != tensor.shape => {
                misshapen.push((name, format!("`{name}` {:?} instead of {shape:?}", tensor.shape)));
            }
            Some(_) => {}
        }
    }
    let subject = "shapes";
    let mut findings = Vec::new();
    for (what, tensors) in [("missing", missing), ("left over", extra), ("misshapen", misshapen)] {
        let (names, described): (Vec<&str>, Vec<String>) = tensors.into_iter().unzip();
        if !names.is_empty() {
            let message = format!("{} {what}: {}", count(names.len(), "tensor"), list(&described));
            findings.push(Finding::problem(subject, message).hint(hint(&names, what)));
        }
        wrong.extend(names.into_iter().map(str::to_owned));
    }
    if findings.is_empty() {
        let unknown = expected.values().filter(|shape| shape.is_none()).count();
        let all = count(expected.len() - unknown, "tensor");
        let rest = if unknown == 0 {
            String::new()
        } else {
            format!("; {unknown} more cannot be told: config.json does not say how they are quantized")
        };
        findings.push(Finding::ok(subject, format!("{all}, all as config.json says{rest}")));
    }
    findings
}

/// Returns the hint for tensors that are `what`: missing, left over or misshapen.
fn hint(names: &[&str], what: &str) -> &'static str {
    let packed = |name: &&str| name.ends_with(".scales") || name.ends_with(".biases");
    match what {
        _ if names.iter().any(packed) => {
            "the bit map in config.json does not belong to these weights, or they are not whole"
        }
        "missing" => "the download is incomplete, or config.json does not belong to these weights",
        _ => "config.json does not belong to these weights",
    }
}

/// Reports tensors that should be float and are integers.
fn integers(folder: &Folder, manifest: &Manifest) -> Option<Finding> {
    let wrong: Vec<String> = manifest
        .iter()
        .filter(|spec| spec.path().is_none_or(|path| !folder.names.contains_key(&format!("{path}.scales"))))
        .filter_map(|spec| Some((spec, folder.tensor(&spec.name)?)))
        .filter(|(_, tensor)| !tensor.dtype.is_float())
        .map(|(spec, tensor)| format!("`{}` ({})", spec.name, tensor.dtype))
        .collect();
    let message = format!("{} should be float: {}", count(wrong.len(), "tensor"), list(&wrong));
    let hint = "another tool's quantized or packed weights: start from the float checkpoint";
    (!wrong.is_empty()).then(|| Finding::problem("dtypes", message).hint(hint))
}

/// Compares the float element types with the config's.
fn dtypes(folder: &Folder) -> Option<Finding> {
    let mut sizes: BTreeMap<Dtype, (usize, u64)> = BTreeMap::new();
    for (_, tensor) in folder.tensors().filter(|(_, tensor)| tensor.dtype.is_float()) {
        let (tensors, bytes) = sizes.entry(tensor.dtype).or_default();
        *tensors += 1;
        *bytes += tensor.byte_len() as u64;
    }
    let (&main, _) = sizes.iter().max_by_key(|(_, (_, bytes))| *bytes)?;
    let all: Vec<String> = sizes
        .iter()
        .map(|(dtype, (tensors, size))| format!("{dtype} ({}, {})", count(*tensors, "tensor"), bytes(*size)))
        .collect();
    let claimed = match folder.config.as_ref().map_or(Ok(None), ModelConfig::dtype) {
        Ok(claimed) => claimed,
        Err(error) => return Some(Finding::refusal("dtypes", &error)),
    };
    let differs = claimed.is_some_and(|dtype| dtype != main);
    let claim = claimed.map(|dtype| format!("; config.json says {dtype}")).unwrap_or_default();
    let message = format!("float tensors are {}{claim}", all.join(" and "));
    let plain = sizes.len() == 1 && !differs && main != Dtype::F64;
    Some(if plain { Finding::ok("dtypes", message) } else { Finding::note("dtypes", message) })
}

/// Compares the bit map with the tensors. The loader has checked already that every entry has its scales.
fn bit_map(folder: &Folder) -> Vec<Finding> {
    let subject = "bit map";
    let mut findings = Vec::new();
    let Some(config) = &folder.config else { return findings };
    if let (Some(one), Some(other)) = (config.get("quantization"), config.get("quantization_config"))
        && one != other
    {
        let message = "`quantization` and `quantization_config` in config.json differ";
        findings.push(
            Finding::problem(subject, message).hint("tools read the one or the other: make them equal"),
        );
    }
    let declared = match Declared::from_config(config) {
        Ok((declared, mut bad)) => {
            let has = |path: &str| folder.manifest.as_ref().is_none_or(|all| all.layer(path).is_some());
            bad.retain(|path, _| has(path));
            findings.extend(bad_entries(&bad));
            declared
        }
        Err(error) => {
            findings.push(Finding::refusal(subject, &error));
            return findings;
        }
    };
    let is_mlx =
        || forms::refuse_unknown(config.path(), config.keys()).is_ok_and(|of_other_tool| !of_other_tool);
    if config.get("quantization").is_none() && config.get("quantization_config").is_some() && is_mlx() {
        let message = "config.json has it under `quantization_config` alone; mlx-lm reads `quantization`";
        findings.push(Finding::note(subject, message).hint("`mixbit convert` writes both"));
    }
    let Some(source) = &folder.source else { return findings };
    if source.bitmap().is_empty() {
        let message = "no layer is quantized";
        findings.push(if declared.default.is_some() {
            Finding::note(subject, format!("{message}, though config.json has a `quantization`"))
        } else {
            Finding::ok(subject, message)
        });
        return findings;
    }
    let mut settings: BTreeMap<Quant, usize> = BTreeMap::new();
    for quant in source.bitmap().values() {
        *settings.entry(*quant).or_default() += 1;
    }
    let settings: Vec<String> = settings.iter().map(|(quant, count)| format!("{count} x {quant}")).collect();
    let unlisted = source.bitmap().iter().filter(|(path, _)| !declared.layers.contains_key(*path));
    let (default, other): (Vec<_>, Vec<_>) =
        unlisted.partition(|(_, quant)| declared.default == Some(**quant));
    let came = source.incoming().filter(|(_, incoming)| incoming.quant.is_some()).count();
    let tail = match (default.len(), other.len()) {
        (0, m) if m > 0 && m == came => "taken as they are from another tool's form".to_owned(),
        (0, 0) => "each with its own entry".to_owned(),
        (n, 0) => format!("{n} without an entry, which follow the default"),
        (n, m) => format!("{} without an entry, {m} of them as only their shapes tell", n + m),
    };
    let layers = count(source.bitmap().len(), "quantized layer");
    findings.push(Finding::ok(subject, format!("{layers} ({}), {tail}", settings.join(", "))));
    findings
}

/// Reports the first few entries that cannot be read.
fn bad_entries(bad: &BTreeMap<String, Error>) -> Vec<Finding> {
    const FINDINGS_SHOWN: usize = 3;
    let mut findings: Vec<Finding> =
        bad.values().take(FINDINGS_SHOWN).map(|error| Finding::refusal("bit map", error)).collect();
    if let Some(more) = bad.len().checked_sub(FINDINGS_SHOWN).filter(|&more| more > 0) {
        let message = format!("{more} more entries of config.json cannot be read");
        findings.push(Finding::problem("bit map", message));
    }
    findings
}
