//! Parts that blocks are made of, and the tensors of each: names, shapes, roles, taps.

use super::decoder::head_dim;
use super::manifest::{Role, Tap, TensorSpec};
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

/// Norm of hidden states, or of queries and keys.
#[derive(Debug, Clone, PartialEq)]
pub struct NormSpec {
    /// Path of the weight.
    pub path: String,
    /// Number of weights.
    pub size: usize,
    /// Epsilon.
    pub eps: f32,
    /// True if the weight is stored less 1.
    pub less_one: bool,
}

impl NormSpec {
    /// Returns the name of the weight.
    pub fn name(&self) -> String {
        format!("{}.weight", self.path)
    }

    fn tensor(&self, layer: Option<usize>) -> TensorSpec {
        TensorSpec { name: self.name(), shape: vec![self.size], role: Role::Norm, layer, tap: None }
    }
}

/// RMS norm of queries and keys, per head where nothing else is said.
#[derive(Debug, Clone, PartialEq)]
pub enum QkNorm {
    /// None.
    None,
    /// Without weight, with this epsilon (`llama4_text`).
    Weightless(f32),
    /// With a weight per dimension of the head, before RoPE (`qwen3`): the norms of queries and of keys.
    Weighted([NormSpec; 2]),
    /// Over all heads at once (`olmo2`).
    AllHeads([NormSpec; 2]),
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
        let shape = experts.into_iter().chain([rows, columns]).collect();
        let tensor = |part: &str, shape| TensorSpec {
            name: format!("{}.{part}", self.path),
            shape,
            role,
            layer,
            tap: Some(tap),
        };
        let bias = self.bias.then(|| tensor("bias", vec![rows]));
        std::iter::once(tensor("weight", shape)).chain(bias)
    }
}

/// Matrices of projections that read one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// One each.
    Apart,
    /// One for all, their rows one after the other.
    Fused,
}

/// Grouped-query attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Path that the names of its tensors begin with.
    pub path: String,
    /// Width of input and output.
    pub hidden_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Matrices of q, k and v.
    pub projections: Projections,
    /// True if q, k and v have biases.
    pub qkv_bias: bool,
    /// True if the output projection has a bias.
    pub o_bias: bool,
    /// Rotation of queries and keys, as an index of [`DecoderSpec::ropes`](super::DecoderSpec::ropes); `None` where they
    /// are not rotated.
    pub rope: Option<usize>,
    /// Keys that a query sees.
    pub span: AttentionSpan,
    /// Factor on the products of queries and keys.
    pub scale: f32,
    /// Most that a score can be, in either direction: it becomes `cap * tanh(score / cap)`.
    pub cap: Option<f32>,
    /// Norm of queries and keys.
    pub qk_norm: QkNorm,
    /// True if queries are multiplied by the decoder's temperatures.
    pub tempered: bool,
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
            hidden_size: config.require_size("hidden_size")?,
            heads,
            kv_heads,
            head_dim,
            projections: Projections::Apart,
            qkv_bias: bias,
            o_bias: bias,
            rope: Some(0),
            span: AttentionSpan::Full,
            scale: (head_dim as f32).powf(-0.5),
            cap: None,
            qk_norm: QkNorm::None,
            tempered: false,
        })
    }

    /// Returns the projection with a role.
    pub fn projection(&self, role: Role) -> LinearSpec {
        let (heads, kv_heads) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let (name, rows, columns, bias) = match role {
            Role::K => ("k_proj", kv_heads, self.hidden_size, self.qkv_bias),
            Role::Qkv => ("qkv_proj", heads + 2 * kv_heads, self.hidden_size, self.qkv_bias),
            Role::V => ("v_proj", kv_heads, self.hidden_size, self.qkv_bias),
            Role::O => ("o_proj", self.hidden_size, heads, self.o_bias),
            _ => ("q_proj", heads, self.hidden_size, self.qkv_bias),
        };
        let tap = if role == Role::O { Tap::HEADS } else { Tap::ATTENTION };
        let path = format!("{}.{name}", self.path);
        LinearSpec { path, rows, columns, experts: None, bias, role, tap }
    }

    /// Returns the roles of the matrices that read the part's input.
    pub fn input_roles(&self) -> &'static [Role] {
        match self.projections {
            Projections::Apart => &[Role::Q, Role::K, Role::V],
            Projections::Fused => &[Role::Qkv],
        }
    }

    fn linears(&self) -> impl Iterator<Item = LinearSpec> {
        self.input_roles().iter().chain(&[Role::O]).map(|&role| self.projection(role))
    }

    /// Returns norms of queries and of keys over so many values, with the names that they have here.
    pub fn norms_of(&self, [queries, keys]: [usize; 2], eps: f32) -> [NormSpec; 2] {
        [("q_norm", queries), ("k_norm", keys)].map(|(name, size)| NormSpec {
            path: format!("{}.{name}", self.path),
            size,
            eps,
            less_one: false,
        })
    }

    pub(super) fn norms_mut(&mut self) -> &mut [NormSpec] {
        match &mut self.qk_norm {
            QkNorm::Weighted(norms) | QkNorm::AllHeads(norms) => norms,
            QkNorm::Weightless(_) | QkNorm::None => &mut [],
        }
    }

    /// Returns the norms of queries and keys that have weights.
    pub fn norms(&self) -> &[NormSpec] {
        match &self.qk_norm {
            QkNorm::Weighted(norms) | QkNorm::AllHeads(norms) => norms,
            QkNorm::Weightless(_) | QkNorm::None => &[],
        }
    }
}

/// Experts that a router chooses from for each token; their outputs are added up, weighed with its probabilities (softmax
/// over all experts).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertsSpec {
    /// Number of experts.
    pub count: usize,
    /// Number of experts per token.
    pub per_token: usize,
    /// Width of each expert.
    pub intermediate_size: usize,
    /// True if the probabilities of the chosen experts are brought to a sum of 1.
    pub normalized: bool,
}

/// Function of the gate's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x sigmoid(x).
    Silu,
    /// GELU by its approximation with tanh.
    GeluTanh,
}

/// Name of the router inside an MLP of experts.
const ROUTER: &str = "gate";
/// Name of the experts' matrices, one after the other, inside an MLP.
const EXPERTS: &str = "switch_mlp";

/// MLP with a gate, or experts that are such MLPs.
#[derive(Debug, Clone, PartialEq)]
pub struct MlpSpec {
    /// Path that the names of its tensors begin with.
    pub path: String,
    /// Width of input and output.
    pub hidden_size: usize,
    /// Width between gate and down projection.
    pub intermediate_size: usize,
    /// Matrices of gate and up.
    pub projections: Projections,
    /// Function of the gate's values.
    pub activation: Activation,
    /// True if gate and up have biases, where there are no experts.
    pub gate_up_bias: bool,
    /// True if down has a bias, where there are no experts.
    pub down_bias: bool,
    /// The experts, where the MLP is made of them.
    pub experts: Option<ExpertsSpec>,
}

impl MlpSpec {
    /// Reads Llama's MLP from the keys that all architectures share.
    pub(super) fn from_config(config: &ModelConfig) -> Result<Self> {
        let bias = config.boolean("mlp_bias")?.unwrap_or(false);
        Ok(Self {
            path: String::new(),
            hidden_size: config.require_size("hidden_size")?,
            intermediate_size: config.require_size("intermediate_size")?,
            projections: Projections::Apart,
            activation: Activation::Silu,
            gate_up_bias: bias,
            down_bias: bias,
            experts: None,
        })
    }

    /// Returns the path of what is called `name` in an MLP without experts.
    pub fn dense_path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Returns the path of the experts' matrices called `name`, one after the other.
    pub fn experts_path(&self, name: &str) -> String {
        format!("{}.{EXPERTS}.{name}", self.path)
    }

    /// Returns the projection with a role.
    pub fn projection(&self, role: Role) -> LinearSpec {
        let inner = self.inner_size();
        let (name, rows, columns, tap) = match role {
            Role::Down => ("down_proj", self.hidden_size, inner, Tap::INNER),
            Role::GateUp => ("gate_up_proj", 2 * inner, self.hidden_size, Tap::MLP),
            Role::Up => ("up_proj", inner, self.hidden_size, Tap::MLP),
            _ => ("gate_proj", inner, self.hidden_size, Tap::MLP),
        };
        let path = if self.experts.is_some() { self.experts_path(name) } else { self.dense_path(name) };
        let experts = self.experts.map(|experts| experts.count);
        let bias = if role == Role::Down { self.down_bias } else { self.gate_up_bias };
        LinearSpec { path, rows, columns, experts, bias: bias && experts.is_none(), role, tap }
    }

    /// Returns the router; `None` where there are no experts.
    pub fn router(&self) -> Option<LinearSpec> {
        Some(LinearSpec {
            path: self.dense_path(ROUTER),
            rows: self.experts?.count,
            columns: self.hidden_size,
            experts: None,
            bias: false,
            role: Role::Router,
            tap: Tap::MLP,
        })
    }

    /// Returns the width between gate and down projection, of each expert where there are some.
    pub fn inner_size(&self) -> usize {
        self.experts.map_or(self.intermediate_size, |experts| experts.intermediate_size)
    }

    /// Returns the roles of the matrices that read the part's input.
    pub fn input_roles(&self) -> &'static [Role] {
        match self.projections {
            Projections::Apart => &[Role::Gate, Role::Up],
            Projections::Fused => &[Role::GateUp],
        }
    }

    fn linears(&self) -> impl Iterator<Item = LinearSpec> {
        let projections = self.input_roles().iter().chain(&[Role::Down]).map(|&role| self.projection(role));
        projections.chain(self.router())
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

/// Decoder block: attention, then an MLP.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockSpec {
    /// Path that the names of its tensors begin with.
    pub path: String,
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

    /// Returns the tensors of this block, which is number `layer`.
    pub fn tensors(&self, layer: usize) -> impl Iterator<Item = TensorSpec> {
        let layer = Some(layer);
        let norms = self.attention.norms().chain(self.mlp.norms()).chain(self.attention.part.norms());
        let norms: Vec<TensorSpec> = norms.map(|norm| norm.tensor(layer)).collect();
        let linears = self.linears().flat_map(move |linear| linear.tensors(layer).collect::<Vec<_>>());
        linears.chain(norms)
    }
}

/// Token embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedSpec {
    /// Path of the matrix.
    pub path: String,
    /// Factor on the embedded tokens.
    pub scale: Option<f32>,
}

/// Norm before the output matrix, and that matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadSpec {
    /// Norm of the last hidden states.
    pub norm: NormSpec,
    /// Path of the matrix where it is not the embedding.
    pub path: String,
    /// True if the matrix is the embedding.
    pub tied: bool,
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
    /// Returns the tensors of a head for `vocabulary` tokens.
    pub(super) fn tensors(&self, vocabulary: usize) -> Vec<TensorSpec> {
        let mut tensors = vec![self.norm.tensor(None)];
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
