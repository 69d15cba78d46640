//! Names of Step 3.5's tensors.

use crate::models::derived::{Derived, Step};
use crate::models::names::Rename;
use crate::models::spec::{EXPERT_NAMES, ExpertNames};

/// Modules of the experts in mlx-lm.
pub(super) const EXPERTS: ExpertNames = ExpertNames {
    router: "gate.gate",
    correction: "gate.router_bias",
    shared: "share_expert",
    ..EXPERT_NAMES
};

/// Modules of the makers, and what mlx-lm calls them.
const MODULES: [(&str, &str); 4] = [
    (".moe.gate.", ".mlp.gate.gate."),
    (".moe.router_bias", ".mlp.gate.router_bias"),
    (".moe.", ".mlp.switch_mlp."),
    (".share_expert.", ".mlp.share_expert."),
];

/// Renames experts and shared ones, and adds 1 to the weights of norms.
pub fn rename(name: &str) -> Rename {
    if name.ends_with("norm.weight") {
        return Rename::Derived(vec![Derived::new(name.to_owned(), [Step::Plus(1.0)])]);
    }
    let is_own = name.contains(".mlp.");
    let module = MODULES.iter().find(|(old, _)| !is_own && name.contains(old));
    module.map_or(Rename::Keep, |(old, new)| Rename::To(name.replacen(old, new, 1)))
}
