//! The tensors that a decoder must have: name, shape, role.

use std::collections::BTreeMap;
use std::fmt;

use super::decoder::DecoderSpec;

/// Role of a tensor in the decoder. Displayed as the column names of the bit map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Query, key and value projections in one matrix.
    Qkv,
    /// Attention output projection.
    O,
    /// Gate of each value of attention's output.
    OutputGate,
    /// Gate of each head's output.
    HeadGate,
    /// Gate of the MLP.
    Gate,
    /// Up projection of the MLP.
    Up,
    /// Gate and up projection of the MLP in one matrix.
    GateUp,
    /// Down projection of the MLP.
    Down,
    /// Gate of shared experts.
    SharedGate,
    /// Up projection of shared experts.
    SharedUp,
    /// Down projection of shared experts.
    SharedDown,
    /// Gate of the shared experts' output, a number or two per token.
    SharedScale,
    /// Router, which chooses the experts of an MLP that is made of them.
    Router,
    /// Token embedding.
    Embed,
    /// Table of learned positions.
    Positions,
    /// Untied output head.
    Head,
    /// Weight or bias of a norm.
    Norm,
    /// Learned number of an activation.
    Activation,
    /// Addends of the scores that experts are chosen by.
    Correction,
    /// Scores of attention's heads beside those of the keys.
    Sinks,
}

impl Role {
    /// The roles that a block's columns may show, in order; a model has some of them.
    pub const BLOCK: [Self; 13] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::Qkv,
        Self::OutputGate,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::GateUp,
        Self::Down,
        Self::SharedGate,
        Self::SharedUp,
        Self::SharedDown,
    ];

    /// True if a matrix of this role is a linear layer, to be quantized by default and counted in bits per weight.
    /// Embeddings stay float, and what is small and decides over much: routers, and gates of whole heads or of
    /// shared experts.
    pub fn is_linear(self) -> bool {
        !matches!(
            self,
            Self::Embed
                | Self::Positions
                | Self::Router
                | Self::SharedScale
                | Self::HeadGate
                | Self::Norm
                | Self::Activation
                | Self::Correction
                | Self::Sinks
        )
    }

    /// Returns the role that a layer of an MLP has where the MLP is shared experts.
    pub(super) fn of_shared_experts(self) -> Self {
        match self {
            Self::Gate => Self::SharedGate,
            Self::Up => Self::SharedUp,
            Self::Down => Self::SharedDown,
            other => other,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::Qkv => "qkv",
            Self::O => "o",
            Self::OutputGate => "o_gate",
            Self::HeadGate => "head_gate",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::GateUp => "gate_up",
            Self::Down => "down",
            Self::SharedGate => "shared_gate",
            Self::SharedUp => "shared_up",
            Self::SharedDown => "shared_down",
            Self::SharedScale => "shared_scale",
            Self::Router => "router",
            Self::Embed => "embed",
            Self::Positions => "positions",
            Self::Head => "head",
            Self::Norm => "norm",
            Self::Activation => "activation",
            Self::Correction => "correction",
            Self::Sinks => "sinks",
        })
    }
}

/// Input that some linear layers of a block share: they have one matrix of second moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tap(u8);

impl Tap {
    /// Input of attention.
    pub const ATTENTION: Self = Self(0);
    /// Values that the heads gathered.
    pub const HEADS: Self = Self(1);
    /// Input of the MLP.
    pub const MLP: Self = Self(2);
    /// Values between gate and down projection.
    pub const INNER: Self = Self(3);
    /// Input of the head, which is in no block.
    pub const HEAD: Self = Self(4);
    /// Input of shared experts, which is the MLP's.
    pub const SHARED: Self = Self(5);
    /// Values between gate and down projection of shared experts.
    pub const SHARED_INNER: Self = Self(6);
}

/// One tensor of the decoder, as float.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// mlx-lm's name, for instance `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Rows then columns of a matrix, after the number of experts where theirs lie one after the other; one size of a
    /// vector.
    pub shape: Vec<usize>,
    /// Role of the tensor.
    pub role: Role,
    /// Block that the tensor is in.
    pub layer: Option<usize>,
    /// Input of the linear layer that the tensor belongs to.
    pub tap: Option<Tap>,
}

impl TensorSpec {
    /// Returns the path of the layer that a matrix belongs to (the name without `.weight`): the key of the bit map. `None`
    /// for vectors, experts' biases, and the weights of norms that differ by head.
    pub fn path(&self) -> Option<&str> {
        let is_matrix = self.shape.len() > 1 && self.role != Role::Norm;
        if is_matrix { self.name.strip_suffix(".weight") } else { None }
    }

    /// True if this is a linear layer's matrix; see [`Role::is_linear`].
    pub fn quantizable(&self) -> bool {
        self.path().is_some() && self.role.is_linear()
    }

    /// True for what is small and decides what all else is multiplied with: it stays float.
    pub fn is_router(&self) -> bool {
        matches!(self.role, Role::Router | Role::HeadGate)
    }

    /// Returns the rows of the matrix, or of all experts' matrices.
    pub fn rows(&self) -> usize {
        self.len() / self.columns().max(1)
    }

    /// Returns the columns of the matrix.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    /// Returns the number of experts whose matrices lie one after the other; `None` for a single matrix.
    pub fn experts(&self) -> Option<usize> {
        if let [experts, _, _] = self.shape[..] { Some(experts) } else { None }
    }

    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Returns `shape` with other columns.
pub fn with_columns(shape: &[usize], columns: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    shape
}

/// All tensors by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    tensors: BTreeMap<String, TensorSpec>,
}

impl Manifest {
    pub(crate) fn new(spec: &DecoderSpec) -> Self {
        let embed = spec.embed.tensors(spec.vocab_size, spec.hidden_size).into_iter();
        let blocks = spec.blocks.iter().enumerate().flat_map(|(layer, block)| block.tensors(layer));
        let all = embed.chain(blocks).chain(spec.head.tensors(spec.vocab_size));
        Self { tensors: all.map(|tensor| (tensor.name.clone(), tensor)).collect() }
    }

    /// Returns the tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&TensorSpec> {
        self.tensors.get(name)
    }

    /// Returns all tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &TensorSpec> {
        self.tensors.values()
    }

    /// Returns the matrix of the layer at `path`.
    pub fn layer(&self, path: &str) -> Option<&TensorSpec> {
        self.tensors.get(&format!("{path}.weight")).filter(|tensor| tensor.path().is_some())
    }

    /// Returns the number of values in all tensors.
    pub fn parameters(&self) -> u64 {
        self.iter().map(|t| t.len() as u64).sum()
    }
}
