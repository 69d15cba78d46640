//! Layers that came in another tool's form: what is said about them, and what their tools added.

use std::collections::BTreeMap;

use super::names::PARTS;
use crate::error::Result;
use crate::formats::checkpoint::Checkpoint;
use crate::formats::entry::Incoming;
use crate::models::spec::Manifest;
use crate::numerics::affine::Quantized;
use crate::numerics::quant::Quant;
use crate::words::count;

/// Leaves out biases of zero that the architecture does not have: some tools give one to every layer that they quantize. Returns a
/// sentence about them.
pub(super) fn drop_zero_biases(
    manifest: &Manifest,
    checkpoint: &Checkpoint,
    stored: &mut BTreeMap<String, String>,
) -> Option<String> {
    let is_idle = |name: &&String| {
        let Some(layer) = name.strip_suffix(".bias").filter(|_| manifest.get(name).is_none()) else {
            return false;
        };
        let find = |name: &str| stored.get(name).and_then(|name| checkpoint.get(name));
        let came_quantized = find(&format!("{layer}.weight")).is_some_and(|weight| weight.incoming.is_some());
        // Zero in every float type, but for its sign.
        came_quantized && find(name).is_some_and(|bias| bias.bytes().iter().all(|byte| *byte == 0))
    };
    let idle: Vec<String> = stored.keys().filter(is_idle).cloned().collect();
    for name in &idle {
        stored.remove(name);
    }
    let first = idle.first()?;
    Some(format!(
        "{} of zero left out, `{first}` first: the architecture has none",
        count(idle.len(), "bias vector")
    ))
}

/// Decodes routers that came in another tool's form, whatever MLX has for it: they stay float. Returns a sentence about them.
pub(super) fn decode_routers(
    manifest: &Manifest,
    checkpoint: &mut Checkpoint,
    stored: &mut BTreeMap<String, String>,
) -> Result<Option<String>> {
    let mut decoded = Vec::new();
    for spec in manifest.iter().filter(|spec| spec.is_router()) {
        let Some(path) = spec.path() else { continue };
        let weight = stored.get(&spec.name).and_then(|name| checkpoint.get(name));
        let Some(incoming) = weight.and_then(|weight| weight.incoming) else { continue };
        if let Some(quant) = incoming.quant {
            decode_layer(checkpoint, stored, path, quant)?;
        }
        decoded.push(path);
    }
    let routers = count(decoded.len(), "router");
    Ok(decoded
        .first()
        .map(|first| format!("{routers} came quantized: decoded, since they stay float, `{first}` first")))
}

/// Puts the values of a quantized `layer` in the place of its codes, and leaves out its scales and biases.
pub(super) fn decode_layer(
    checkpoint: &mut Checkpoint,
    stored: &mut BTreeMap<String, String>,
    layer: &str,
    quant: Quant,
) -> Result<()> {
    let [packed, scales, biases] = PARTS.map(|part| {
        let name = format!("{layer}.{part}");
        let found = if part == PARTS[0] { stored.get(&name).cloned() } else { stored.remove(&name) };
        found.unwrap_or(name)
    });
    checkpoint.decode(Quantized { packed: &*packed, scales: &*scales, biases: &*biases }, quant)
}

/// Number of layers in each form of another tool, by the setting of MLX with the same numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Forms(BTreeMap<(&'static str, Option<Quant>), usize>);

impl Forms {
    /// Counts the layers of `manifest`, whose tensors lie in `checkpoint` under the names that `stored` has for theirs.
    pub(super) fn of(
        manifest: &Manifest,
        checkpoint: &Checkpoint,
        stored: &BTreeMap<String, String>,
    ) -> Self {
        let mut layers = BTreeMap::new();
        for spec in manifest.iter().filter(|spec| spec.path().is_some() && !spec.is_router()) {
            let tensor = stored.get(&spec.name).and_then(|name| checkpoint.get(name));
            if let Some(Incoming { form, quant, .. }) = tensor.and_then(|tensor| tensor.incoming) {
                *layers.entry((form, quant)).or_default() += 1;
            }
        }
        Self(layers)
    }

    /// Returns a sentence per form where those that MLX has a setting for are taken without loss.
    pub(super) fn where_taken(&self) -> Vec<String> {
        self.sentences(|quant| format!("taken as {quant}, lossless"))
    }

    /// Returns a sentence per form where every layer is decoded.
    pub(super) fn where_decoded(&self) -> Vec<String> {
        self.sentences(|quant| format!("decoded, though {quant} has the same numbers"))
    }

    /// Returns the number of layers that are decoded wherever the model is read.
    pub(super) fn always_decoded(&self) -> usize {
        self.0.iter().filter(|((_, quant), _)| quant.is_none()).map(|(_, number)| number).sum()
    }

    /// Returns a sentence per form. `fate` says what becomes of layers that MLX has a setting for.
    fn sentences(&self, fate: impl Fn(Quant) -> String) -> Vec<String> {
        let sentence = |(&(form, quant), number): (&(&str, Option<Quant>), &usize)| {
            let layers = count(*number, "layer");
            match quant {
                Some(quant) => format!("{layers} in the form {form}: {}", fate(quant)),
                None => format!("{layers} in the form {form}, which MLX lacks: decoded"),
            }
        };
        self.0.iter().map(sentence).collect()
    }
}
