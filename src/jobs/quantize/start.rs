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
    chosen.filter(|(_, quant)| can_learn(*quant, learn)).collect()
}

/// True if a layer of this setting has something to learn: affine scales and biases, or codes of any mode.
pub(crate) fn can_learn(quant: Quant, learn: Learn) -> bool {
    quant.mode == Mode::Affine || learn == Learn::Codes
}

/// Returns the error for models without a layer that can learn.
pub(crate) fn nothing_learns() -> Error {
    Error::usage(
        "setting `distill` has nothing to fine-tune: no layer becomes affine, and other modes have no free scales",
    )
    .hint("set setting `learn` to codes, choose affine bits, or leave setting `distill` out")
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

/// Counts the codes of `student` that are others in `codes`, which were learned at this `rate`.
pub(crate) fn changes(
    student: &SourceModel,
    codes: &BTreeMap<String, Vec<u8>>,
    forms: &Forms,
    rate: f64,
) -> Result<LearnedCodes> {
    let mut learned = LearnedCodes { rate, count: 0, changed: 0 };
    for (name, packed) in codes {
        let Some(&quant) = forms.codes.get(name) else { continue };
        let before = unpack_latents(&student.tensor(name)?.bytes(), quant);
        let after = unpack_latents(packed, quant);
        learned.count += after.len() as u64;
        learned.changed += before.iter().zip(&after).filter(|(before, after)| before != after).count() as u64;
    }
    Ok(learned)
}
