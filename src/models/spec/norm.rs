//! Norms and their tensors.

use super::manifest::{Role, TensorSpec};

/// Arithmetic of a norm, and which parameters it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMS norm with weight.
    Rms,
    /// RMS norm without weight.
    RmsWeightless,
    /// Layer norm with weight and bias.
    Layer,
    /// Layer norm with weight only.
    LayerUnbiased,
    /// Layer norm without weight and bias.
    LayerWeightless,
}

impl NormKind {
    /// True if the mean is subtracted.
    pub fn is_layer_norm(self) -> bool {
        !matches!(self, Self::Rms | Self::RmsWeightless)
    }

    /// Returns the parameters that the norm has.
    pub fn parameters(self) -> &'static [NormParameter] {
        match self {
            Self::Rms | Self::LayerUnbiased => &[NormParameter::Weight],
            Self::Layer => &[NormParameter::Weight, NormParameter::Bias],
            Self::RmsWeightless | Self::LayerWeightless => &[],
        }
    }
}

/// Parameter of a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormParameter {
    /// Factors on the normalized values.
    Weight,
    /// Addends.
    Bias,
}

impl NormParameter {
    fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
        }
    }
}

/// Norm of hidden states, or of queries and keys.
#[derive(Debug, Clone, PartialEq)]
pub struct NormSpec {
    /// Path that the names of its parameters begin with.
    pub path: String,
    /// Number of values that are normalized together, with a weight each.
    pub size: usize,
    /// Heads whose weights differ, as rows of one tensor; `None` where there is one row for all.
    pub heads: Option<usize>,
    /// Epsilon.
    pub eps: f32,
    /// True if the weight is stored less 1.
    pub less_one: bool,
    /// Arithmetic and parameters.
    pub kind: NormKind,
}

impl NormSpec {
    /// Describes an RMS norm with a weight.
    pub fn rms(path: String, size: usize, eps: f32) -> Self {
        Self { path, size, heads: None, eps, less_one: false, kind: NormKind::Rms }
    }

    /// Returns the name of a parameter.
    pub fn name(&self, parameter: NormParameter) -> String {
        format!("{}.{}", self.path, parameter.name())
    }

    /// Returns the names of the parameters.
    pub fn names(&self) -> impl Iterator<Item = (NormParameter, String)> {
        self.kind.parameters().iter().map(|&parameter| (parameter, self.name(parameter)))
    }

    pub(super) fn tensors(&self, layer: Option<usize>) -> impl Iterator<Item = TensorSpec> {
        let shape: Vec<usize> = self.heads.into_iter().chain([self.size]).collect();
        self.names().map(move |(_, name)| TensorSpec {
            name,
            shape: shape.clone(),
            role: Role::Norm,
            layer,
            tap: None,
        })
    }
}

/// Norm of queries and keys, per head where nothing else is said.
#[derive(Debug, Clone, PartialEq)]
pub enum QkNorm {
    /// None.
    None,
    /// RMS norm without weight, with this epsilon (`llama4_text`).
    Weightless(f32),
    /// With a weight per dimension of the head, before RoPE (`qwen3`): the norms of queries and of keys.
    Weighted([NormSpec; 2]),
    /// A norm for each head of the queries, then for each of the keys (`stablelm`).
    EachHead(Vec<NormSpec>),
    /// Over all heads at once (`olmo2`).
    AllHeads([NormSpec; 2]),
}

impl QkNorm {
    /// Returns the norms that have parameters.
    pub fn norms(&self) -> &[NormSpec] {
        match self {
            Self::Weighted(norms) | Self::AllHeads(norms) => norms,
            Self::EachHead(norms) => norms,
            Self::Weightless(_) | Self::None => &[],
        }
    }

    pub(super) fn norms_mut(&mut self) -> &mut [NormSpec] {
        match self {
            Self::Weighted(norms) | Self::AllHeads(norms) => norms,
            Self::EachHead(norms) => norms,
            Self::Weightless(_) | Self::None => &mut [],
        }
    }
}
