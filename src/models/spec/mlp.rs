//! MLPs and their tensors: names, shapes, roles, taps.

use super::experts::{ExpertsSpec, SharedGate, SharedSpec};
use super::manifest::{Role, Tap, TensorSpec};
use super::names::{LLAMA_NAMES, ModuleNames};
use super::parts::{LinearSpec, Projections};
use crate::error::Result;
use crate::models::config::ModelConfig;

/// Function of the gate's values, or of a plain MLP's.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    /// x sigmoid(alpha x) of the gate's values up to `limit`, times 1 + up's between its negative and it (`gpt_oss`).
    ClampedSwish {
        /// Factor inside the sigmoid.
        alpha: f32,
        /// Most that a value can be.
        limit: f32,
    },
    /// x sigmoid(x) of the gate's values up to `limit`, times up's between its negative and it (Step 3.5).
    ClampedSilu {
        /// Most that either factor can be.
        limit: f32,
    },
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

/// MLP with or without a gate, or experts that are such MLPs.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
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
    /// Experts beside those, which every token goes through.
    pub shared: Option<Box<SharedSpec>>,
    /// True for the MLP that shared experts are.
    pub is_shared: bool,
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
            shared: None,
            is_shared: false,
        })
    }

    /// Returns the path of what is called `name` in an MLP without experts.
    pub fn dense_path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Returns the path of the experts' matrices called `name`, one after the other; that of the MLP's without experts.
    pub fn experts_path(&self, name: &str) -> String {
        match self.experts {
            Some(experts) => format!("{}.{}.{name}", self.path, experts.names.experts),
            None => self.dense_path(name),
        }
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
        let bias = match (self.experts, role) {
            (Some(experts), _) => experts.bias,
            (None, Role::Down) => self.down_bias,
            (None, _) => self.gate_up_bias,
        };
        let tap = match role {
            Role::Down if self.is_shared => Tap::SHARED_INNER,
            Role::Down => Tap::INNER,
            _ if self.is_shared => Tap::SHARED,
            _ if self.experts.is_some() => Tap::MLP,
            _ => self.tap,
        };
        let role = if self.is_shared { role.of_shared_experts() } else { role };
        let (path, experts) = (self.experts_path(name), self.experts.map(|experts| experts.count));
        LinearSpec { path, rows, columns, experts, bias, role, tap }
    }

    /// Returns the router; `None` where there are no experts.
    pub fn router(&self) -> Option<LinearSpec> {
        let experts = self.experts?;
        let path = self.dense_path(experts.names.router);
        Some(self.reader(path, experts.count, experts.router_bias, Role::Router))
    }

    /// Returns the gate of shared experts; `None` where there is none.
    pub fn shared_gate(&self) -> Option<LinearSpec> {
        let (gate, names) = (self.shared.as_ref()?.gate?, self.experts?.names);
        let path = self.dense_path(names.shared_gate);
        Some(self.reader(path, gate.rows(), gate == SharedGate::Softmax, Role::SharedScale))
    }

    /// Describes a small layer that reads the MLP's input.
    fn reader(&self, path: String, rows: usize, bias: bool, role: Role) -> LinearSpec {
        LinearSpec { path, rows, columns: self.hidden_size, experts: None, bias, role, tap: Tap::MLP }
    }

    /// Returns the name of the learned numbers that experts are chosen with; `None` where there are none.
    pub fn correction(&self) -> Option<String> {
        let experts = self.experts.filter(|experts| experts.correction)?;
        Some(self.dense_path(experts.names.correction))
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

    /// Returns the tensors that no linear layer has, in block `layer`: the activation's, and the router's correction.
    pub(super) fn parameters(&self, layer: Option<usize>) -> impl Iterator<Item = TensorSpec> {
        let tensor = move |name, shape, role| TensorSpec { name, shape, role, layer, tap: None };
        let activation = self.activation_names().zip(&self.activation_shapes);
        let activation = activation.map(move |(name, shape)| tensor(name, shape.clone(), Role::Activation));
        let sizes = self.experts.map(|experts| vec![experts.count]).unwrap_or_default();
        activation.chain(self.correction().map(|name| tensor(name, sizes, Role::Correction)))
    }

    /// Returns the linear layers: projections, router, and those of shared experts.
    pub(super) fn linears(&self) -> Vec<LinearSpec> {
        let projections = self.input_roles().iter().chain(&[Role::Down]).map(|&role| self.projection(role));
        let shared = self.shared.iter().flat_map(|shared| shared.mlp.linears());
        projections.chain(self.router()).chain(shared).chain(self.shared_gate()).collect()
    }
}
