//! Names of gpt-oss' tensors.

use crate::models::derived::{Derived, Step};
use crate::models::names::{Rename, rename_common};

/// Names the experts' matrices, rows of gate and up taking turns, and their biases. Floats are stored [experts, in, out]; layers
/// in mxfp4 are [experts, out, in].
pub(super) fn rename(name: &str) -> Rename {
    let Some((experts, part)) = name.split_once(".experts.") else { return rename_common(name) };
    let turns = |part: &str, before: &[Step], after: &[Step]| {
        let derived = |name: &str, first: usize| {
            let steps = [before, &[Step::Every { step: 2, first }], after].concat();
            Derived::new(format!("{experts}.experts.{name}.{part}"), steps)
        };
        Rename::Derived(vec![derived("gate_proj", 0), derived("up_proj", 1)])
    };
    let transposed = &[Step::Transposed];
    match part {
        "gate_up_proj" => turns("weight", transposed, &[]),
        "gate_up_proj.weight" => turns("weight", &[], &[]),
        "gate_up_proj_bias" => turns("bias", transposed, transposed),
        "down_proj" => Rename::transposed(format!("{experts}.experts.down_proj.weight")),
        "down_proj_bias" => Rename::To(format!("{experts}.experts.down_proj.bias")),
        _ => Rename::Keep,
    }
}
