//! Experts of an MLP: how a router scores, chooses and weighs them, and what is computed beside them.

use super::mlp::MlpSpec;

/// Score that the router's products give each expert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Score {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid.
    Sigmoid,
    /// Square root of softplus.
    SqrtSoftplus,
    /// The products themselves; the weights are the softmax over those of the chosen experts.
    SoftmaxOfChosen,
    /// The products themselves. The weight of a chosen expert is its share in the softmax over what is not chosen before it
    /// and less than `2 * jitter` of its size below it (arXiv 2409.12136, as at inference).
    Mixer {
        /// Relative width of the band.
        jitter: f32,
    },
}

/// Rule by which the scores of a token's experts become weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Normalization {
    /// They are weights.
    None,
    /// Divided by their sum and this.
    Sum {
        /// Addend of the divisor.
        eps: f32,
    },
    /// Divided by their sum, or by this where it is more.
    AtLeast(f32),
}

/// Groups of neighbouring experts; a token's experts are in some of them, those with the largest sums of their two best scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Number of groups.
    pub count: usize,
    /// Number of groups per token.
    pub chosen: usize,
}

/// Names of modules inside an MLP of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertNames {
    /// The router.
    pub router: &'static str,
    /// The experts' matrices, one after the other.
    pub experts: &'static str,
    /// The addends of the scores that experts are chosen by.
    pub correction: &'static str,
    /// The shared experts.
    pub shared: &'static str,
    /// Their gate.
    pub shared_gate: &'static str,
}

/// Names in Qwen, DeepSeek, and what descends from them.
pub const EXPERT_NAMES: ExpertNames = ExpertNames {
    router: "gate",
    experts: "switch_mlp",
    correction: "gate.e_score_correction_bias",
    shared: "shared_experts",
    shared_gate: "shared_expert_gate",
};

/// Experts that a router chooses from for each token; their outputs are added up with weights.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct ExpertsSpec {
    /// Names of the modules.
    pub names: &'static ExpertNames,
    /// Number of experts.
    pub count: usize,
    /// Number of experts per token.
    pub per_token: usize,
    /// Width of each expert.
    pub intermediate_size: usize,
    /// True if the experts' layers have biases.
    pub bias: bool,
    /// True if the router has a bias.
    pub router_bias: bool,
    /// Most that a product of the router can be, in either direction: it becomes `cap * tanh(product / cap)`.
    pub cap: Option<f32>,
    /// Score of an expert.
    pub score: Score,
    /// True if experts are chosen by scores plus learned numbers, which are no part of the weights.
    pub correction: bool,
    /// Groups that the choice is restricted to.
    pub groups: Option<Groups>,
    /// Rule by which scores become weights.
    pub normalization: Normalization,
    /// Factor on the weights.
    pub factor: f32,
    /// True if it is the experts' input that is multiplied by the weights, and not their output.
    pub weighs_input: bool,
    /// True if mlx-lm has a layer for each expert, and not one for all.
    pub apart: bool,
}

impl ExpertsSpec {
    /// Describes experts with softmax scores, which are their weights.
    pub fn new(count: usize, per_token: usize, intermediate_size: usize) -> Self {
        Self {
            names: &EXPERT_NAMES,
            count,
            per_token,
            intermediate_size,
            bias: false,
            router_bias: false,
            cap: None,
            score: Score::Softmax,
            correction: false,
            groups: None,
            normalization: Normalization::None,
            factor: 1.0,
            weighs_input: false,
            apart: false,
        }
    }

    /// Divides the weights by their sum, plus `eps`, where `is_normalized` says so.
    #[must_use]
    pub fn normalized(self, is_normalized: bool, eps: f32) -> Self {
        let normalization = if is_normalized { Normalization::Sum { eps } } else { Normalization::None };
        Self { normalization, ..self }
    }
}

/// Numbers between shared experts' output and what is added to that of the chosen ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedGate {
    /// A sigmoid, which multiplies the shared experts' output.
    Sigmoid,
    /// A softmax of two, with a bias: the first multiplies the chosen experts' output, the second that of the shared ones.
    Softmax,
}

impl SharedGate {
    /// Returns the number of rows of its matrix.
    pub fn rows(self) -> usize {
        match self {
            Self::Sigmoid => 1,
            Self::Softmax => 2,
        }
    }
}

/// Experts that every token goes through: one MLP as wide as all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedSpec {
    /// The MLP.
    pub mlp: MlpSpec,
    /// Gate of its output.
    pub gate: Option<SharedGate>,
}
