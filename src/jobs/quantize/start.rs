//! State that a distillation starts from: the values of what learns, as rounding left them, and how each moves.

use std::collections::BTreeMap;

use super::job::Decision;
use crate::error::{Error, Result};
use crate::jobs::quantize::tuning::{Coordinate, Forms, State};
use crate::jobs::record::LearnedCodes;
use crate::models::source::SourceModel;
use crate::numerics::affine::{unpack, unpack_latents};
use crate::numerics::dtype::{extend_f32, float_type};
use crate::numerics::quant::{Mode, Quant};

/// Returns the layers of `decision` that become affine, with their settings. Fails where there are none.
pub(crate) fn learning_layers(decision: &Decision) -> Result<BTreeMap<String, Quant>> {
    let chosen = decision.solution.bitmap.iter().map(|(path, quant)| (path.clone(), *quant));
    let layers: BTreeMap<_, _> = chosen.filter(|(_, quant)| quant.mode == Mode::Affine).collect();
    if layers.is_empty() { Err(nothing_learns()) } else { Ok(layers) }
}

/// Returns the error for models without a layer that can learn.
pub(crate) fn nothing_learns() -> Error {
    Error::usage(
        "setting `distill` has nothing to fine-tune: no layer becomes affine, and other modes have no free scales",
    )
    .hint("leave setting `distill` out, or choose affine bits")
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
            state.latents.insert(name.clone(), unpack_latents(&tensor.bytes(), quant.bits));
            forms.bits.insert(name.clone(), quant.bits);
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
    let highest = |quant: &Quant| ((1u32 << quant.bits) - 1) as f32;
    let mut coordinates = Vec::new();
    for (path, quant) in layers {
        coordinates.push(Coordinate::Affine {
            scales: format!("{path}.scales"),
            biases: format!("{path}.biases"),
            middle: highest(quant) / 2.0,
        });
        let name = format!("{path}.weight");
        if state.latents.contains_key(&name) {
            coordinates.push(Coordinate::Codes { name, highest: highest(quant) });
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
        let Some(&bits) = forms.bits.get(name) else { continue };
        let count = packed.len() * 8 / bits as usize;
        let [mut before, mut after] = [vec![0; count], vec![0; count]];
        unpack(&student.tensor(name)?.bytes(), bits, &mut before);
        unpack(packed, bits, &mut after);
        learned.count += count as u64;
        learned.changed += before.iter().zip(&after).filter(|(before, after)| before != after).count() as u64;
    }
    Ok(learned)
}
