//! Linear layers of a decoder that have a bias.

/// Biases by the inputs and places of linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Biases {
    /// Query, key and value projections.
    pub qkv: bool,
    /// Attention's output projection.
    pub o: bool,
    /// Gate and up projections of an MLP without experts.
    pub gate_up: bool,
    /// Down projection of an MLP without experts.
    pub down: bool,
    /// Untied head.
    pub head: bool,
}

impl Biases {
    /// Returns the biases of a decoder with all of attention's or none, and all of the MLP's or none.
    pub(crate) fn of_parts(attention: bool, mlp: bool) -> Self {
        Self { qkv: attention, o: attention, gate_up: mlp, down: mlp, head: false }
    }
}
