//! The tensors that a decoder must have: name, shape, role.

use std::collections::BTreeMap;
use std::fmt;

use super::decoder::{DecoderSpec, ExpertsSpec, QkNorm, ROUTER};

/// Role of a tensor in the decoder. Displayed as the column names of the bit map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Attention output projection.
    O,
    /// Gate of the MLP.
    Gate,
    /// Up projection of the MLP.
    Up,
    /// Down projection of the MLP.
    Down,
    /// Router, which chooses the experts of an MLP that is made of them.
    Router,
    /// Token embedding.
    Embed,
    /// Untied output head.
    Head,
    /// Weight of an RMS norm.
    Norm,
}

impl Role {
    /// The roles that a block's columns show, in order.
    pub const BLOCK: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// True if a matrix of this role is a linear layer, to be quantized by default and counted in bits per weight.
    /// Embeddings stay float, and routers, which are small and decide over everything else in a token's MLP.
    pub fn is_linear(self) -> bool {
        !matches!(self, Self::Embed | Self::Router | Self::Norm)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
            Self::Router => "router",
            Self::Embed => "embed",
            Self::Head => "head",
            Self::Norm => "norm",
        })
    }
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
}

impl TensorSpec {
    /// Returns the path of the layer that a matrix belongs to (the name without `.weight`): the key of the bit map. `None`
    /// for vectors.
    pub fn path(&self) -> Option<&str> {
        if self.shape.len() > 1 { self.name.strip_suffix(".weight") } else { None }
    }

    /// True if this is a linear layer's matrix; see [`Role::is_linear`].
    pub fn quantizable(&self) -> bool {
        self.shape.len() > 1 && self.role.is_linear()
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
        let mut builder = Builder { tensors: BTreeMap::new() };
        let hidden = spec.hidden_size;
        builder.matrix("model.embed_tokens", spec.vocab_size, hidden, Role::Embed, None);
        for layer in 0..spec.layers.len() {
            builder.block(spec, layer);
        }
        builder.vector("model.norm.weight", hidden, Role::Norm, None);
        if !spec.tie_word_embeddings {
            builder.linear(spec, spec.head_name, [spec.vocab_size, hidden], Role::Head, None);
        }
        Self { tensors: builder.tensors }
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
        self.tensors.get(&format!("{path}.weight")).filter(|t| t.shape.len() > 1)
    }

    /// Returns the number of values in all tensors.
    pub fn parameters(&self) -> u64 {
        self.iter().map(|t| t.len() as u64).sum()
    }
}

struct Builder {
    tensors: BTreeMap<String, TensorSpec>,
}

impl Builder {
    fn add(&mut self, name: String, shape: Vec<usize>, role: Role, layer: Option<usize>) {
        self.tensors.insert(name.clone(), TensorSpec { name, shape, role, layer });
    }

    fn matrix(&mut self, path: &str, rows: usize, columns: usize, role: Role, layer: Option<usize>) {
        self.add(format!("{path}.weight"), vec![rows, columns], role, layer);
    }

    fn linear(
        &mut self,
        spec: &DecoderSpec,
        path: &str,
        [rows, columns]: [usize; 2],
        role: Role,
        layer: Option<usize>,
    ) {
        self.matrix(path, rows, columns, role, layer);
        if spec.biases.has(role) {
            self.vector(&format!("{path}.bias"), rows, role, layer);
        }
    }

    fn vector(&mut self, name: &str, size: usize, role: Role, layer: Option<usize>) {
        self.add(name.to_owned(), vec![size], role, layer);
    }

    fn block(&mut self, spec: &DecoderSpec, layer: usize) {
        let block = format!("model.layers.{layer}");
        let hidden = spec.hidden_size;
        let heads = spec.num_attention_heads * spec.head_dim;
        let kv_heads = spec.num_key_value_heads * spec.head_dim;
        let attention = |name: &str| format!("{block}.self_attn.{name}");
        for (path, rows, columns, role) in [
            (attention("q_proj"), heads, hidden, Role::Q),
            (attention("k_proj"), kv_heads, hidden, Role::K),
            (attention("v_proj"), kv_heads, hidden, Role::V),
            (attention("o_proj"), hidden, heads, Role::O),
        ] {
            self.linear(spec, &path, [rows, columns], role, Some(layer));
        }
        match spec.experts_of(layer) {
            Some(experts) => self.experts(spec, experts, layer),
            None => self.mlp(spec, layer),
        }
        if spec.qk_norm == QkNorm::Weighted {
            self.vector(&attention("q_norm.weight"), spec.head_dim, Role::Norm, Some(layer));
            self.vector(&attention("k_norm.weight"), spec.head_dim, Role::Norm, Some(layer));
        }
        self.vector(&format!("{block}.input_layernorm.weight"), hidden, Role::Norm, Some(layer));
        self.vector(&format!("{block}.post_attention_layernorm.weight"), hidden, Role::Norm, Some(layer));
    }

    fn mlp(&mut self, spec: &DecoderSpec, layer: usize) {
        let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
        for (name, rows, columns, role) in [
            ("gate_proj", inner, hidden, Role::Gate),
            ("up_proj", inner, hidden, Role::Up),
            ("down_proj", hidden, inner, Role::Down),
        ] {
            self.linear(spec, &spec.mlp_path(layer, name), [rows, columns], role, Some(layer));
        }
    }

    fn experts(&mut self, spec: &DecoderSpec, experts: ExpertsSpec, layer: usize) {
        let (hidden, inner) = (spec.hidden_size, experts.intermediate_size);
        self.matrix(&spec.mlp_path(layer, ROUTER), experts.count, hidden, Role::Router, Some(layer));
        for (name, rows, columns, role) in [
            ("gate_proj", inner, hidden, Role::Gate),
            ("up_proj", inner, hidden, Role::Up),
            ("down_proj", hidden, inner, Role::Down),
        ] {
            let path = spec.experts_path(layer, name);
            self.add(format!("{path}.weight"), vec![experts.count, rows, columns], role, Some(layer));
        }
    }
}
