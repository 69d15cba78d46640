//! Parts that blocks are made of, and the tensors of each: names, shapes, roles, taps.

use super::decoder::head_dim;
use super::manifest::{Role, Tap, TensorSpec};
use super::mlp::MlpSpec;
use super::names::{LLAMA_NAMES, ModuleNames, inside};
use super::norm::{NormSpec, QkNorm};
use crate::error::Result;
use crate::models::config::ModelConfig;

/// Keys that a query sees, beside causality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionSpan {
    /// All keys before the query.
    Full,
    /// The latest so many keys, the query's own included.
    Sliding(usize),
    /// Keys in the query's own chunk of so many positions.
    Chunked(usize),
}

/// Linear layer, or the layers of experts that lie one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearSpec {
    /// Path of the layer.
    pub path: String,
    /// Rows of each matrix.
    pub rows: usize,
    /// Columns of each matrix.
    pub columns: usize,
    /// Number of experts' matrices; `None` for a single one.
    pub experts: Option<usize>,
    /// True if a bias is added.
    pub bias: bool,
    /// Role of the matrix.
    pub role: Role,
    /// Input that the layer reads.
    pub tap: Tap,
}

impl LinearSpec {
    /// Counts the weights of all matrices.
    pub fn weights(&self) -> usize {
        self.rows * self.columns * self.experts.unwrap_or(1)
    }

    fn tensors(&self, layer: Option<usize>) -> impl Iterator<Item = TensorSpec> {
        let &Self { rows, columns, experts, role, tap, .. } = self;
        let sizes = |sizes: &[usize]| experts.iter().chain(sizes).copied().collect::<Vec<_>>();
        let tensor = |part: &str, shape| TensorSpec {
            name: format!("{}.{part}", self.path),
            shape,
            role,
            layer,
            tap: Some(tap),
        };
        let bias = self.bias.then(|| tensor("bias", sizes(&[rows])));
        std::iter::once(tensor("weight", sizes(&[rows, columns]))).chain(bias)
    }
}

/// Matrices of projections that read one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// One each.
    Apart,
    /// One for all, their rows one after the other.
    Fused,
    /// One for all: the rows of a key head's queries, of its keys and of its values are together.
    FusedByHead,
    /// One for both: up's rows, then the gate's.
    UpFirst,
}

/// Sigmoids, of the part's input, that attention's output is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionGate {
    /// One per value.
    PerValue,
    /// One per head.
    PerHead,
    /// One per head, softplus in place of sigmoid.
    PerHeadSoftplus,
}

impl AttentionGate {
    /// Returns the role of the gate's matrix.
    pub fn role(self) -> Role {
        match self {
            Self::PerValue => Role::OutputGate,
            Self::PerHead | Self::PerHeadSoftplus => Role::HeadGate,
        }
    }
}

/// Grouped-query attention.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct AttentionSpec {
    /// Path that the names of its tensors begin with.
    pub path: String,
    /// Names of its layers and norms.
    pub names: &'static ModuleNames,
    /// Width of input and output.
    pub hidden_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// True if query head h reads key head h mod `kv_heads`; otherwise neighbours share one.
    pub interleaved_heads: bool,
    /// Dimensions of a head's queries and keys.
    pub head_dim: usize,
    /// Dimensions of a head's values.
    pub value_dim: usize,
    /// Factor on the values.
    pub value_factor: Option<f32>,
    /// Matrices of q, k and v.
    pub projections: Projections,
    /// True if q, k and v have biases.
    pub qkv_bias: bool,
    /// True if the output projection has a bias.
    pub o_bias: bool,
    /// Most that a query's, key's or value's numbers can be, in either direction: what is more is cut.
    pub clip: Option<f32>,
    /// Rotation of queries and keys, as an index of [`DecoderSpec::ropes`](super::DecoderSpec::ropes); `None` where they
    /// are not rotated.
    pub rope: Option<usize>,
    /// Keys that a query sees.
    pub span: AttentionSpan,
    /// Factor on the products of queries and keys.
    pub scale: f32,
    /// Most that a score can be, in either direction: it becomes `cap * tanh(score / cap)`.
    pub cap: Option<f32>,
    /// True if each head has a learned score beside those of the keys, with nothing to gather.
    pub sinks: bool,
    /// Norm of queries and keys.
    pub qk_norm: QkNorm,
    /// True if queries are multiplied by the decoder's temperatures.
    pub tempered: bool,
    /// Gate of the heads' output; its bias is there where those of q, k and v are.
    pub gate: Option<AttentionGate>,
}

impl AttentionSpec {
    /// Reads Llama's attention from the keys that all architectures share.
    pub(super) fn from_config(config: &ModelConfig) -> Result<Self> {
        let heads = config.require_size("num_attention_heads")?;
        let kv_heads = config.size("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let message = format!("{kv_heads} does not divide num_attention_heads {heads}");
            return Err(config.error("num_key_value_heads", message));
        }
        let (head_dim, bias) = (head_dim(config)?, config.boolean("attention_bias")?.unwrap_or(false));
        Ok(Self {
            path: String::new(),
            names: &LLAMA_NAMES,
            hidden_size: config.require_size("hidden_size")?,
            heads,
            kv_heads,
            interleaved_heads: false,
            head_dim,
            value_dim: head_dim,
            value_factor: None,
            projections: Projections::Apart,
            qkv_bias: bias,
            o_bias: bias,
            clip: None,
            rope: Some(0),
            span: AttentionSpan::Full,
            scale: (head_dim as f32).powf(-0.5),
            cap: None,
            sinks: false,
            qk_norm: QkNorm::None,
            tempered: false,
            gate: None,
        })
    }

    /// Returns the projection with a role.
    pub fn projection(&self, role: Role) -> LinearSpec {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let (gathered, values) = (self.heads * self.value_dim, self.kv_heads * self.value_dim);
        let (name, rows, columns, bias) = match role {
            Role::K => (self.names.k, keys, self.hidden_size, self.qkv_bias),
            Role::Qkv => (self.names.qkv, queries + keys + values, self.hidden_size, self.qkv_bias),
            Role::V => (self.names.v, values, self.hidden_size, self.qkv_bias),
            Role::O => (self.names.o, self.hidden_size, gathered, self.o_bias),
            Role::OutputGate => (self.names.attention_gate, gathered, self.hidden_size, self.qkv_bias),
            Role::HeadGate => (self.names.attention_gate, self.heads, self.hidden_size, self.qkv_bias),
            _ => (self.names.q, queries, self.hidden_size, self.qkv_bias),
        };
        let tap = if role == Role::O { Tap::HEADS } else { Tap::ATTENTION };
        let path = inside(&self.path, name);
        LinearSpec { path, rows, columns, experts: None, bias, role, tap }
    }

    /// True if a cache can hold keys and values in groups of `group_size` codes.
    pub fn holds_groups_of(&self, group_size: usize) -> bool {
        self.head_dim.is_multiple_of(group_size) && self.value_dim.is_multiple_of(group_size)
    }

    /// Returns the roles of the matrices that read the part's input.
    pub fn input_roles(&self) -> &'static [Role] {
        match self.projections {
            Projections::Apart => &[Role::Q, Role::K, Role::V],
            _ => &[Role::Qkv],
        }
    }

    fn linears(&self) -> impl Iterator<Item = LinearSpec> {
        let gate = self.gate.map(AttentionGate::role);
        let roles = self.input_roles().iter().copied().chain(gate).chain([Role::O]);
        roles.map(|role| self.projection(role))
    }

    /// Returns norms of queries and of keys over so many values, with the names that they have here.
    pub fn norms_of(&self, [queries, keys]: [usize; 2], eps: f32) -> [NormSpec; 2] {
        [(self.names.q_norm, queries), (self.names.k_norm, keys)]
            .map(|(name, size)| NormSpec::rms(inside(&self.path, name), size, eps))
    }

    /// Returns the name of the heads' learned scores; `None` where there are none.
    pub fn sinks(&self) -> Option<String> {
        self.sinks.then(|| inside(&self.path, self.names.sinks))
    }

    fn sink_tensor(&self, layer: Option<usize>) -> Option<TensorSpec> {
        let tensor = |name| TensorSpec { name, shape: vec![self.heads], role: Role::Sinks, layer, tap: None };
        self.sinks().map(tensor)
    }

    /// Returns the norms of queries and keys that have parameters.
    pub fn norms(&self) -> &[NormSpec] {
        self.qk_norm.norms()
    }
}

/// Part of a block whose output is added to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch<P> {
    /// Norm of the part's input.
    pub before: Option<NormSpec>,
    /// What is computed.
    pub part: P,
    /// Norm of the part's output.
    pub after: Option<NormSpec>,
    /// Factor on the output.
    pub factor: Option<f32>,
}

impl<P> Branch<P> {
    /// Makes a branch with a norm of its input only.
    pub(super) fn new(before: NormSpec, part: P) -> Self {
        Self { before: Some(before), part, after: None, factor: None }
    }

    /// Gives the part a norm of its output, like that of its input.
    pub fn set_norm_after(&mut self, path: String) {
        self.after = self.before.as_ref().map(|norm| NormSpec { path, ..norm.clone() });
    }

    fn norms(&self) -> impl Iterator<Item = &NormSpec> {
        self.before.iter().chain(&self.after)
    }
}

/// Decoder block: attention and an MLP, one after the other or side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockSpec {
    /// Path that the names of its tensors begin with.
    pub path: String,
    /// True if the MLP reads the block's input, as attention does. Without a norm of its own it reads attention's normed
    /// input.
    pub parallel: bool,
    /// Attention.
    pub attention: Branch<AttentionSpec>,
    /// MLP.
    pub mlp: Branch<MlpSpec>,
}

impl BlockSpec {
    /// Returns the linear layers, with the router.
    pub fn linears(&self) -> impl Iterator<Item = LinearSpec> {
        self.attention.part.linears().chain(self.mlp.part.linears())
    }

    /// Lets the MLP read what attention reads, through the same norm.
    pub fn share_input(&mut self) {
        (self.parallel, self.mlp.before) = (true, None);
        self.mlp.part.tap = Tap::ATTENTION;
    }

    /// Returns the tensors of this block, which is number `layer`.
    pub fn tensors(&self, layer: usize) -> impl Iterator<Item = TensorSpec> {
        let layer = Some(layer);
        let norms = self.attention.norms().chain(self.mlp.norms()).chain(self.attention.part.norms());
        let norms: Vec<TensorSpec> = norms.flat_map(|norm| norm.tensors(layer)).collect();
        let linears = self.linears().flat_map(move |linear| linear.tensors(layer).collect::<Vec<_>>());
        let parameters =
            self.attention.part.sink_tensor(layer).into_iter().chain(self.mlp.part.parameters(layer));
        linears.chain(norms).chain(parameters)
    }
}

/// Token embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedSpec {
    /// Path of the matrix.
    pub path: String,
    /// Factor on the embedded tokens.
    pub scale: Option<f32>,
    /// Learned positions, which are added.
    pub positions: Option<PositionsSpec>,
    /// Norm of the sum.
    pub norm: Option<NormSpec>,
}

/// Table of learned positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionsSpec {
    /// Path of the matrix.
    pub path: String,
    /// Most tokens of a text: rows of the matrix.
    pub count: usize,
}

impl EmbedSpec {
    /// Returns the tensors of an embedding of `vocabulary` tokens in states of `hidden_size`.
    pub(super) fn tensors(&self, vocabulary: usize, hidden_size: usize) -> Vec<TensorSpec> {
        let table = |path: &str, rows: usize, role: Role| TensorSpec {
            name: format!("{path}.weight"),
            shape: vec![rows, hidden_size],
            role,
            layer: None,
            tap: None,
        };
        let positions = self.positions.as_ref();
        let positions = positions.map(|positions| table(&positions.path, positions.count, Role::Positions));
        let norm = self.norm.iter().flat_map(|norm| norm.tensors(None));
        [table(&self.path, vocabulary, Role::Embed)].into_iter().chain(positions).chain(norm).collect()
    }
}

/// Key of config.json that says whether the head is the embedding, in most classes.
pub(crate) const TIE: &str = "tie_word_embeddings";

/// Norm before the output matrix, and that matrix.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct HeadSpec {
    /// Norm of the last hidden states.
    pub norm: NormSpec,
    /// Path of the matrix where it is not the embedding.
    pub path: String,
    /// True if the matrix is the embedding.
    pub tied: bool,
    /// Key of config.json that says whether it is.
    pub tie_key: &'static str,
    /// True if each column of an untied head's matrix is to be divided by its norm (Euclidean, plus 1e-7).
    pub normalized: bool,
    /// True if an untied head has a bias.
    pub bias: bool,
    /// True if stock mlx-lm can run a tied head whose embedding is quantized.
    pub quantized_tied: bool,
    /// Factor on the logits.
    pub scale: Option<f32>,
    /// Most that a logit can be, in either direction: it becomes `cap * tanh(logit / cap)`.
    pub cap: Option<f32>,
}

impl HeadSpec {
    /// Returns the advice to say in config.json that the head is the embedding.
    pub(crate) fn tie_hint(&self) -> String {
        format!("set \"{}\": true in config.json if the embedding is the head", self.tie_key)
    }

    /// Returns the advice to say in config.json that the head is not the embedding.
    pub(crate) fn untie_hint(&self) -> String {
        format!("set \"{}\": false in config.json if the head was trained on its own", self.tie_key)
    }

    /// Returns the tensors of a head for `vocabulary` tokens.
    pub(super) fn tensors(&self, vocabulary: usize) -> Vec<TensorSpec> {
        let mut tensors: Vec<TensorSpec> = self.norm.tensors(None).collect();
        if !self.tied {
            tensors.extend(self.linear(vocabulary).tensors(None));
        }
        tensors
    }

    /// Returns the untied output matrix for `vocabulary` tokens.
    fn linear(&self, vocabulary: usize) -> LinearSpec {
        LinearSpec {
            path: self.path.clone(),
            rows: vocabulary,
            columns: self.norm.size,
            experts: None,
            bias: self.bias,
            role: Role::Head,
            tap: Tap::HEAD,
        }
    }
}
