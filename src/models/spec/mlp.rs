//! MLPs and their tensors: names, shapes, roles, taps.

use super::manifest::{Role, Tap, TensorSpec};
use super::names::{LLAMA_NAMES, ModuleNames};
use super::parts::{LinearSpec, Projections};
use crate::error::Result;
use crate::models::config::ModelConfig;

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

/// Function of the gate's values, or of a plain MLP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x sigmoid(x).
    Silu,
    /// GELU.
    Gelu,
    /// GELU by its approximation with tanh.
    GeluTanh,
    /// The square of what is above 0.
    Relu2,
    /// xIELU (arXiv 2411.13010), with two learned numbers.
    Xielu,
}

impl Activation {
    /// Reads the activation that `key` names.
    pub fn from_config(config: &ModelConfig, key: &str) -> Result<Self> {
        let name =
            config.required(key, |config, key| config.string(key).map(|name| name.map(str::to_owned)))?;
        Ok(match name.as_str() {
            "silu" | "swish" => Self::Silu,
            "gelu" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Self::GeluTanh,
            "relu2" => Self::Relu2,
            "xielu" => Self::Xielu,
            _ => {
                let names = "silu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu2 and xielu";
                return Err(config.error(key, format!("`{name}` is not supported, only {names}")));
            }
        })
    }
}

/// Numbers that xIELU has beside the two that are learned: each is a tensor of the activation's module.
pub const XIELU_PARAMETERS: [&str; 4] = ["alpha_p", "alpha_n", "beta", "eps"];

/// Name of an activation that has parameters, inside an MLP.
const ACTIVATION: &str = "act_fn";
/// Name of the router inside an MLP of experts.
const ROUTER: &str = "gate";
/// Name of the experts' matrices, one after the other, inside an MLP.
const EXPERTS: &str = "switch_mlp";

/// MLP with or without a gate, or experts that are such MLPs.
#[derive(Debug, Clone, PartialEq)]
pub struct MlpSpec {
    /// Path that the names of its tensors begin with.
    pub path: String,
    /// Names of its layers.
    pub names: &'static ModuleNames,
    /// Width of input and output.
    pub hidden_size: usize,
    /// Width between up and down projection.
    pub intermediate_size: usize,
    /// True if the activation's values are multiplied by those of up; without a gate it is up's values that it gets.
    pub gated: bool,
    /// Matrices of gate and up.
    pub projections: Projections,
    /// Function of the gate's values.
    pub activation: Activation,
    /// Shapes of the activation's parameters, in the order of [`XIELU_PARAMETERS`]; empty where it has none.
    pub activation_shapes: Vec<Vec<usize>>,
    /// True if gate and up have biases, where there are no experts.
    pub gate_up_bias: bool,
    /// True if down has a bias, where there are no experts.
    pub down_bias: bool,
    /// Input of gate and up: attention's, where the two branches share a norm.
    pub tap: Tap,
    /// The experts, where the MLP is made of them.
    pub experts: Option<ExpertsSpec>,
}

impl MlpSpec {
    /// Reads Llama's MLP from the keys that all architectures share.
    pub(super) fn from_config(config: &ModelConfig) -> Result<Self> {
        let bias = config.boolean("mlp_bias")?.unwrap_or(false);
        Ok(Self {
            path: String::new(),
            names: &LLAMA_NAMES,
            hidden_size: config.require_size("hidden_size")?,
            intermediate_size: config.require_size("intermediate_size")?,
            gated: true,
            projections: Projections::Apart,
            activation: Activation::Silu,
            activation_shapes: Vec::new(),
            gate_up_bias: bias,
            down_bias: bias,
            tap: Tap::MLP,
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
        let (name, rows, columns) = match role {
            Role::Down => (self.names.down, self.hidden_size, inner),
            Role::GateUp => (self.names.gate_up, 2 * inner, self.hidden_size),
            Role::Up => (self.names.up, inner, self.hidden_size),
            _ => (self.names.gate, inner, self.hidden_size),
        };
        let path = if self.experts.is_some() { self.experts_path(name) } else { self.dense_path(name) };
        let experts = self.experts.map(|experts| experts.count);
        let (bias, tap) = match role {
            Role::Down => (self.down_bias, Tap::INNER),
            _ if experts.is_some() => (false, Tap::MLP),
            _ => (self.gate_up_bias, self.tap),
        };
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

    /// Returns the width between up and down projection, of each expert where there are some.
    pub fn inner_size(&self) -> usize {
        self.experts.map_or(self.intermediate_size, |experts| experts.intermediate_size)
    }

    /// Returns the roles of the matrices that read the part's input.
    pub fn input_roles(&self) -> &'static [Role] {
        match self.projections {
            _ if !self.gated => &[Role::Up],
            Projections::Apart => &[Role::Gate, Role::Up],
            _ => &[Role::GateUp],
        }
    }

    /// Returns the names of the activation's parameters, in the order of [`XIELU_PARAMETERS`].
    pub fn activation_names(&self) -> impl Iterator<Item = String> {
        let names = XIELU_PARAMETERS.iter().take(self.activation_shapes.len());
        names.map(|name| format!("{}.{ACTIVATION}.{name}", self.path))
    }

    /// Returns the activation's parameters in block `layer`.
    pub(super) fn activation_tensors(&self, layer: Option<usize>) -> impl Iterator<Item = TensorSpec> {
        self.activation_names().zip(&self.activation_shapes).map(move |(name, shape)| TensorSpec {
            name,
            shape: shape.clone(),
            role: Role::Activation,
            layer,
            tap: None,
        })
    }

    pub(super) fn linears(&self) -> impl Iterator<Item = LinearSpec> {
        let projections = self.input_roles().iter().chain(&[Role::Down]).map(|&role| self.projection(role));
        projections.chain(self.router())
    }
}
