//! A decoder's specification, read from the keys that all architectures share.

use super::biases::Biases;
use super::manifest::Manifest;
use super::rope::{Rope, RopeScaling};
use serde_json::Value;

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

/// RMS norm of queries and keys per head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Without weight, only where RoPE is applied (`llama4_text`).
    Weightless,
    /// With a weight per dimension of the head, before RoPE (`qwen3`).
    Weighted,
}

/// Attention temperature tuning of layers without RoPE (arXiv 2501.19399): queries at position p are multiplied by
/// ln(1 + floor((p + 1) / `floor_scale`)) * `attn_scale` + 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TemperatureTuning {
    /// Tokens per step.
    pub floor_scale: f64,
    /// Strength.
    pub attn_scale: f64,
}

/// One decoder block's own choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSpec {
    /// True if queries and keys are rotated.
    pub rope: bool,
    /// Keys that a query sees.
    pub span: AttentionSpan,
    /// True if the block's MLP is the decoder's experts.
    pub sparse: bool,
}

/// An MLP that is made of experts: a router chooses some of them for each token, and their outputs are added up, weighed
/// with its probabilities (softmax over all experts).
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

/// Name of the router inside an MLP of experts.
pub const ROUTER: &str = "gate";
/// Name of the experts' matrices, one after the other, inside an MLP.
const EXPERTS: &str = "switch_mlp";

/// A decoder: pre-norm blocks of grouped-query attention and a SiLU-gated MLP.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP that is not made of experts.
    pub intermediate_size: usize,
    /// The experts of the blocks that are [`LayerSpec::sparse`].
    pub experts: Option<ExpertsSpec>,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Epsilon of every RMS norm.
    pub rms_norm_eps: f32,
    /// Context the model was made for, where the config says.
    pub max_position_embeddings: Option<usize>,
    /// Position embedding.
    pub rope: Rope,
    /// Norm of queries and keys.
    pub qk_norm: QkNorm,
    /// Temperature of layers without RoPE.
    pub temperature_tuning: Option<TemperatureTuning>,
    /// Linear layers with a bias.
    pub biases: Biases,
    /// True if the head is the embedding.
    pub tie_word_embeddings: bool,
    /// True if stock mlx-lm can run a tied head whose embedding is quantized.
    pub quantized_tied_head: bool,
    /// Name of the MLP inside a block.
    pub mlp_name: &'static str,
    /// Name of an untied head.
    pub head_name: &'static str,
    /// One entry per block.
    pub layers: Vec<LayerSpec>,
    /// Config keys whose resolved value must be written so that stock mlx-lm reads the same model from the output.
    pub resolved: Vec<(&'static str, Value)>,
    /// The defaults that sizes were taken from, as one sentence.
    pub defaults_taken: Option<String>,
    /// Notes for the user, one sentence each: decisions against the config's letter, and the like.
    pub notes: Vec<String>,
}

impl DecoderSpec {
    /// Reads the keys that all architectures share from a config with its architecture's defaults. The architecture's own
    /// file sets what differs.
    pub fn from_config(config: &ModelConfig) -> Result<Self> {
        let hidden_size = config.require_size("hidden_size")?;
        let num_attention_heads = config.require_size("num_attention_heads")?;
        let num_key_value_heads = config.size("num_key_value_heads")?.unwrap_or(num_attention_heads);
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(config.error(
                "num_key_value_heads",
                format!("{num_key_value_heads} does not divide num_attention_heads {num_attention_heads}"),
            ));
        }
        let head_dim = match config.size("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
            None => {
                return Err(config.error(
                    "num_attention_heads",
                    format!("{num_attention_heads} does not divide hidden_size {hidden_size}, and there is no head_dim"),
                ));
            }
        };
        if !head_dim.is_multiple_of(2) {
            return Err(config.error("head_dim", format!("RoPE needs an even size, found {head_dim}")));
        }
        let num_hidden_layers = config.require_size("num_hidden_layers")?;
        if num_hidden_layers > 10_000 {
            return Err(config.error("num_hidden_layers", format!("{num_hidden_layers} is more than 10000")));
        }
        config.only_silu()?;
        let tie_word_embeddings = config.required("tie_word_embeddings", ModelConfig::boolean)?;
        let rope = Rope::from_config(config, false)?;
        let mut resolved = written_sizes(config);
        resolved.extend(written_defaults(config));
        resolved.push(("tie_word_embeddings", tie_word_embeddings.into()));
        resolved.extend(rope.written(config));
        let defaults_taken = defaults_taken(config);
        let mut notes: Vec<String> = defaults_taken.iter().cloned().collect();
        notes.extend(rope.notes(config));
        Ok(Self {
            hidden_size,
            intermediate_size: config.require_size("intermediate_size")?,
            experts: None,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size: config.require_size("vocab_size")?,
            rms_norm_eps: config.required("rms_norm_eps", ModelConfig::positive)? as f32,
            max_position_embeddings: config.size("max_position_embeddings")?,
            rope,
            qk_norm: QkNorm::None,
            temperature_tuning: None,
            biases: Biases::of_parts(
                config.boolean("attention_bias")?.unwrap_or(false),
                config.boolean("mlp_bias")?.unwrap_or(false),
            ),
            tie_word_embeddings,
            quantized_tied_head: true,
            mlp_name: "mlp",
            head_name: "lm_head",
            layers: vec![
                LayerSpec { rope: true, span: AttentionSpan::Full, sparse: false };
                num_hidden_layers
            ],
            resolved,
            defaults_taken,
            notes,
        })
    }

    /// Gives the blocks that `layer_types` calls sliding (or, without such a list, those for which `default` says so)
    /// the config's `sliding_window`.
    pub fn set_sliding_windows(
        &mut self,
        config: &ModelConfig,
        default: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let window = config.size("sliding_window")?;
        let types = config.strings("layer_types")?;
        if let Some(types) = &types
            && types.len() != self.layers.len()
        {
            return Err(config
                .error("layer_types", format!("{} entries for {} layers", types.len(), self.layers.len())));
        }
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let sliding = match types.as_ref().map(|types| types[i].as_str()) {
                None => window.is_some() && default(i),
                Some("full_attention") => false,
                Some("sliding_attention") => true,
                Some(other) => {
                    return Err(config.error(
                        "layer_types",
                        format!("`{other}` is not supported, only full_attention and sliding_attention"),
                    ));
                }
            };
            if sliding {
                let window = window.ok_or_else(|| {
                    config.error("sliding_window", "missing, and layer_types names sliding layers")
                })?;
                layer.span = AttentionSpan::Sliding(window);
            }
        }
        let slides = self.layers.iter().any(|layer| matches!(layer.span, AttentionSpan::Sliding(_)));
        if let Some(window) = window.filter(|_| slides && config.added().contains(&"sliding_window")) {
            self.notes.push(absent(config, &[format!("sliding_window ({window})")]));
        }
        Ok(())
    }

    /// Notes that mlx-lm ignores a scaling of RoPE in this architecture.
    pub(crate) fn note_rope_scaling(&mut self, config: &ModelConfig) {
        if self.rope.scaling != RopeScaling::Default {
            let name = config.model_type();
            self.notes
                .push(format!("rope_scaling is applied as transformers does; mlx-lm's {name} ignores it"));
        }
    }

    /// Notes a `head_dim` that mlx-lm, which divides the hidden size by the heads in this architecture, does not read.
    pub(crate) fn note_head_dim(&mut self, config: &ModelConfig) {
        if self.head_dim * self.num_attention_heads != self.hidden_size {
            let (name, head_dim) = (config.model_type(), self.head_dim);
            self.notes.push(format!("head_dim is {head_dim}; mlx-lm's {name} does not read it"));
        }
    }

    /// Makes the MLPs of the blocks for which `sparse` says so of `experts`.
    pub fn set_experts(
        &mut self,
        config: &ModelConfig,
        experts: ExpertsSpec,
        sparse: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let ExpertsSpec { count, per_token, .. } = experts;
        if per_token > count {
            return Err(config.error("num_experts_per_tok", format!("{per_token} of {count} experts")));
        }
        for (block, layer) in self.layers.iter_mut().enumerate() {
            layer.sparse = sparse(block);
        }
        self.experts = Some(experts);
        Ok(())
    }

    /// Returns the experts of block `layer`, if its MLP is made of them.
    pub fn experts_of(&self, layer: usize) -> Option<ExpertsSpec> {
        self.experts.filter(|_| self.layers[layer].sparse)
    }

    /// Returns the path of what block `layer` calls `name` in its MLP.
    pub fn mlp_path(&self, layer: usize, name: &str) -> String {
        format!("model.layers.{layer}.{}.{name}", self.mlp_name)
    }

    /// Returns the path of the experts' matrices called `name`, one after the other.
    pub fn experts_path(&self, layer: usize, name: &str) -> String {
        self.mlp_path(layer, &format!("{EXPERTS}.{name}"))
    }

    /// Returns the tensors of this decoder under mlx-lm's names.
    pub fn manifest(&self) -> Manifest {
        Manifest::new(self)
    }
}

/// Returns the sizes that config.json writes as floats, 64.0, as the integers that other readers want. (An impossible size
/// is the error of whoever reads it.)
fn written_sizes(config: &ModelConfig) -> Vec<(&'static str, Value)> {
    let written_as_floats = config.size_keys().filter(|key| config.get(key).is_some_and(Value::is_f64));
    written_as_floats.filter_map(|key| Some((key, config.size(key).ok()??.into()))).collect()
}

/// Returns the keys that the config leaves out, since mlx-lm has no defaults for them, or others (an absent tie is true);
/// and the number that its qwen3 needs where `num_key_value_heads` is null.
fn written_defaults(config: &ModelConfig) -> Vec<(&'static str, Value)> {
    let null = |key: &str| config.keys().get(key).is_some_and(Value::is_null);
    let added = config.added().iter().filter_map(|&key| Some((key, config.get(key)?.clone())));
    let heads = config.get("num_attention_heads").filter(|_| null("num_key_value_heads"));
    added.chain(heads.map(|heads| ("num_key_value_heads", heads.clone()))).collect()
}

/// Returns a note about the defaults that decide over tensors' shapes and the arithmetic of every model.
fn defaults_taken(config: &ModelConfig) -> Option<String> {
    let taken: Vec<String> =
        config.added_decisive().filter_map(|key| Some(format!("{key} ({})", config.get(key)?))).collect();
    (!taken.is_empty()).then(|| absent(config, &taken))
}

fn absent(config: &ModelConfig, taken: &[String]) -> String {
    format!(
        "config.json leaves out {}: taken from transformers' defaults for `{}`",
        taken.join(", "),
        config.model_type()
    )
}
