//! State that a distillation starts from: the values of what learns, as rounding left them, and how each moves.

use std::collections::BTreeMap;

use super::job::Decision;
use crate::choose::recipe::Learn;
use crate::error::{Error, Result};
use crate::jobs::quantize::tuning::{Coordinate, Forms, State};
use crate::jobs::record::LearnedCodes;
use crate::models::source::SourceModel;
use crate::numerics::dtype::{extend_f32, float_type};
use crate::numerics::latent::{highest_latent, unpack_latents};
use crate::numerics::quant::{Mode, Quant};

/// Returns the layers of `decision` that have something to learn, with their settings.
pub(crate) fn learning_layers(decision: &Decision, learn: Learn) -> BTreeMap<String, Quant> {
    let chosen = decision.solution.bitmap.iter().map(|(path, quant)| (path.clone(), *quant));
    chosen.filter(|(_, quant)| learn.applies_to(*quant)).collect()
}

/// Returns the error for a model none of whose layers can `learn` that.
pub(crate) fn nothing_learns(learn: Learn) -> Error {
    let (why, hint) = match learn {
        Learn::Codes => {
            ("no layer is quantized", "choose bits for some layers, or leave setting `distill` out")
        }
        Learn::Scales => (
            "no layer becomes affine, and other modes have no free scales",
            "choose affine bits, or set setting `learn` to codes where other modes are chosen, or leave setting `distill` out",
        ),
    };
    Error::usage(format!("setting `distill` has nothing to fine-tune: {why}")).hint(hint)
}

/// Reads the values of the tensors `names`, and the forms that they are stored in. Codes are those of `layers`.
pub(crate) fn read(
    student: &SourceModel,
    layers: &BTreeMap<String, Quant>,
    names: &[String],
) -> Result<(State, Forms)> {
    let (mut state, mut forms) = (State::default(), Forms::default());
    for name in names {
        let tensor = student.tensor(name)?;
        if let Some(quant) = name.strip_suffix(".weight").and_then(|path| layers.get(path)) {
            state.latents.insert(name.clone(), unpack_latents(&tensor.bytes(), *quant));
            forms.codes.insert(name.clone(), *quant);
            continue;
        }
        let mut decoded = Vec::with_capacity(tensor.len());
        extend_f32(tensor.dtype, &tensor.bytes(), &mut decoded);
        state.floats.insert(name.clone(), decoded);
        forms.dtypes.insert(name.clone(), float_type(tensor.dtype)?);
    }
    Ok((state, forms))
}

/// Returns how the values of a `state` move: scales with their biases, and all others on their own.
pub(crate) fn coordinates(layers: &BTreeMap<String, Quant>, state: &State) -> Vec<Coordinate> {
    let mut coordinates = Vec::new();
    for (path, &quant) in layers {
        let highest = highest_latent(quant);
        if quant.mode == Mode::Affine {
            coordinates.push(Coordinate::Affine {
                scales: format!("{path}.scales"),
                biases: format!("{path}.biases"),
                middle: highest / 2.0,
            });
        }
        let name = format!("{path}.weight");
        if state.latents.contains_key(&name) {
            coordinates.push(Coordinate::Codes { name, highest });
        }
    }
    let is_paired = |name: &str| {
        let path = name.strip_suffix(".scales").or_else(|| name.strip_suffix(".biases"));
        path.is_some_and(|path| layers.contains_key(path))
    };
    coordinates.extend(state.floats.keys().filter(|name| !is_paired(name)).cloned().map(Coordinate::Plain));
    coordinates
}

/// Counts the codes of the `layers` of `student` that are others in what `learned` has of a tensor's bytes by its name, at this
/// `rate`.
pub(crate) fn changes<'l>(
    student: &SourceModel,
    layers: &BTreeMap<String, Quant>,
    learned: impl Fn(&str) -> Option<&'l [u8]>,
    rate: f64,
) -> Result<LearnedCodes> {
    let mut codes = LearnedCodes { rate, count: 0, changed: 0 };
    for (path, &quant) in layers {
        let name = format!("{path}.weight");
        let Some(packed) = learned(&name) else { continue };
        let before = unpack_latents(&student.tensor(&name)?.bytes(), quant);
        let after = unpack_latents(packed, quant);
        codes.count += after.len() as u64;
        codes.changed +=
            before.iter().zip(&after).filter(|(before, after)| (*before - *after).abs() > 0.5).count() as u64;
    }
    Ok(codes)
}
