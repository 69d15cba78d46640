//! Tensors against config: shapes, element types, the bit map.

use std::collections::BTreeMap;

use super::folder::Folder;
use super::{Finding, count, list};
use crate::bitmap::Declared;
use crate::candidate::{Mode, Quant};
use crate::checkpoint::Dtype;
use crate::report::bytes;
use crate::spec::{Manifest, TensorSpec};

/// Shapes, element types and the bit map.
pub(super) fn check(folder: &Folder) -> Vec<Finding> {
    let mut findings = Vec::new();
    if folder.checkpoint.is_none() {
        return findings;
    }
    if let Some(manifest) = &folder.manifest {
        findings.extend(shapes(folder, manifest));
        findings.extend(integers(folder, manifest));
    }
    findings.extend(dtypes(folder));
    findings.extend(bit_map(folder));
    findings
}

/// How the layer at `path` is stored: as its entry or the default says, if it has scales or an entry.
fn stored_quant(folder: &Folder, declared: &Declared, path: &str) -> Option<Quant> {
    match declared.layers.get(path) {
        Some(entry) => *entry,
        None if folder.names.contains_key(&format!("{path}.scales")) => declared.default,
        None => None,
    }
}

/// Names and shapes of what the tensor `spec` is stored as.
fn expected(spec: &TensorSpec, quant: Option<Quant>) -> Vec<(String, Vec<usize>)> {
    let (Some(path), Some(quant), [rows, columns]) = (spec.path(), quant, &spec.shape[..]) else {
        return vec![(spec.name.clone(), spec.shape.clone())];
    };
    let groups = quant.groups(*columns).unwrap_or(0);
    let mut tensors = vec![
        (spec.name.clone(), vec![*rows, quant.packed_columns(*columns).unwrap_or(0)]),
        (format!("{path}.scales"), vec![*rows, groups]),
    ];
    if quant.mode == Mode::Affine {
        tensors.push((format!("{path}.biases"), vec![*rows, groups]));
    }
    tensors
}

/// All that is missing, left over or misshapen, where the loader stops at the first.
fn shapes(folder: &Folder, manifest: &Manifest) -> Vec<Finding> {
    let declared =
        folder.config.as_ref().and_then(|config| Declared::from_config(config).ok()).unwrap_or_default();
    let quant = |spec: &TensorSpec| spec.path().and_then(|path| stored_quant(folder, &declared, path));
    let expected: BTreeMap<String, Vec<usize>> =
        manifest.iter().flat_map(|spec| expected(spec, quant(spec))).collect();
    let absent = expected.keys().filter(|name| !folder.names.contains_key(*name));
    let missing: Vec<String> = absent.map(|name| format!("`{name}`")).collect();
    let (mut extra, mut misshapen) = (Vec::new(), Vec::new());
    for (name, tensor) in folder.tensors() {
        match expected.get(name) {
            None if folder.is_head(name) => {}
            None => extra.push(format!("`{name}`")),
            Some(shape) if shape != tensor.shape => {
                misshapen.push(format!("`{name}` {:?} instead of {shape:?}", tensor.shape));
            }
            Some(_) => {}
        }
    }
    let subject = "shapes";
    let mut findings = Vec::new();
    for (what, names) in [("missing", missing), ("left over", extra), ("misshapen", misshapen)] {
        if !names.is_empty() {
            let message = format!("{} {what}: {}", count(names.len(), "tensor"), list(&names));
            findings.push(Finding::problem(subject, message));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            subject,
            format!("{}, all as config.json says", count(expected.len(), "tensor")),
        ));
    }
    findings
}

/// Tensors that should be numbers and are integers.
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

/// Float element types, beside what the config says.
fn dtypes(folder: &Folder) -> Option<Finding> {
    let mut sizes: BTreeMap<Dtype, (usize, u64)> = BTreeMap::new();
    for (_, tensor) in folder.tensors().filter(|(_, tensor)| tensor.dtype.is_float()) {
        let (tensors, bytes) = sizes.entry(tensor.dtype).or_default();
        *tensors += 1;
        *bytes += tensor.bytes().len() as u64;
    }
    let (&main, _) = sizes.iter().max_by_key(|(_, (_, bytes))| *bytes)?;
    let all: Vec<String> = sizes
        .iter()
        .map(|(dtype, (tensors, size))| format!("{dtype} ({}, {})", count(*tensors, "tensor"), bytes(*size)))
        .collect();
    let claimed = folder.config.as_ref().and_then(|config| config.dtype_name().ok()?.map(str::to_owned));
    let differs = claimed.as_deref().is_some_and(|name| Dtype::from_name(name) != Some(main));
    let claim = claimed.map(|name| format!("; config.json says {name}")).unwrap_or_default();
    let message = format!("float tensors are {}{claim}", all.join(" and "));
    let plain = sizes.len() == 1 && !differs && main != Dtype::F64;
    Some(if plain { Finding::ok("dtypes", message) } else { Finding::note("dtypes", message) })
}

/// The bit map beside the tensors. (That every entry has its scales was checked by the loader.)
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
        Ok(declared) => declared,
        Err(error) => {
            // Without a source this was not said yet: the spec may have failed first.
            if folder.spec.is_none() {
                findings.push(Finding::refusal(subject, &error));
            }
            return findings;
        }
    };
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
    let unlisted = source.bitmap().keys().filter(|path| !declared.layers.contains_key(*path)).count();
    let tail = match unlisted {
        0 => "each with its own entry".to_owned(),
        n => format!("{n} without an entry, which follow the default"),
    };
    let layers = count(source.bitmap().len(), "quantized layer");
    findings.push(Finding::ok(subject, format!("{layers} ({}), {tail}", settings.join(", "))));
    findings
}
