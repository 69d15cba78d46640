//! A decoder's specification, read from the keys that all architectures share.

use super::biases::Biases;
use super::experts::{ExpertsSpec, SharedGate, SharedSpec};
use super::manifest::Manifest;
use super::mlp::{Activation, MlpSpec};
use super::names::{LLAMA_NAMES, ModuleNames, inside};
use super::norm::{NormKind, NormSpec, QkNorm};
use super::parts::{
    AttentionSpan, AttentionSpec, BlockSpec, Branch, EmbedSpec, HeadSpec, PositionsSpec, TIE,
};
use super::rope::{Rope, RopeScaling};
use serde_json::Value;

use crate::error::Result;
use crate::models::config::ModelConfig;

/// Attention temperature tuning (arXiv 2501.19399): queries at position p are multiplied by
/// ln(1 + floor(p / `floor_scale`)) * `attn_scale` + 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TemperatureTuning {
    /// Tokens per step.
    pub floor_scale: f64,
    /// Strength.
    pub attn_scale: f64,
    /// Position of the first token.
    pub first_position: f64,
}

/// A decoder: embedding, blocks, head.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Context the model was made for, where the config says.
    pub max_position_embeddings: Option<usize>,
    /// Token embedding.
    pub embed: EmbedSpec,
    /// Distinct rotations, to which blocks refer by index.
    pub ropes: Vec<Rope>,
    /// Temperature of the layers that are [`AttentionSpec::tempered`].
    pub temperature_tuning: Option<TemperatureTuning>,
    /// One entry per block.
    pub blocks: Vec<BlockSpec>,
    /// Last norm and output matrix.
    pub head: HeadSpec,
    /// Config keys whose resolved value must be written so that stock mlx-lm reads the same model from the output.
    pub resolved: Vec<(&'static str, Value)>,
    /// Starts of the names of tensors that the checkpoint may have beside the decoder: layers that predict further tokens, and
    /// the like.
    pub extra: Vec<String>,
    /// The defaults that sizes were taken from, as one sentence.
    pub defaults_taken: Option<String>,
    /// Notes for the user, one sentence each: decisions against the config's letter, and the like.
    pub notes: Vec<String>,
}

impl DecoderSpec {
    /// Reads the keys that all architectures share from a config with its architecture's defaults. The architecture's own
    /// file sets what differs.
    pub fn from_config(config: &ModelConfig) -> Result<Self> {
        config.only_silu()?;
        Self::with_rope(config, Rope::from_config(config)?)
    }

    /// Reads the keys but for the MLP's activation and the rotation.
    pub fn with_rope(config: &ModelConfig, rope: Rope) -> Result<Self> {
        let (written, notes) = (rope.written(config), rope.notes(config));
        let mut spec = Self::with_ropes(config, vec![rope])?;
        spec.resolved.extend(written);
        spec.notes.extend(notes);
        Ok(spec)
    }

    /// Reads the keys but for the MLP's activation and rotations, of which all blocks have the first of `ropes`.
    pub fn with_ropes(config: &ModelConfig, ropes: Vec<Rope>) -> Result<Self> {
        let (attention, mlp) = (AttentionSpec::from_config(config)?, MlpSpec::from_config(config)?);
        let num_hidden_layers = config.require_size("num_hidden_layers")?;
        if num_hidden_layers > 10_000 {
            return Err(config.error("num_hidden_layers", format!("{num_hidden_layers} is more than 10000")));
        }
        let tie_word_embeddings = config.required(TIE, ModelConfig::boolean)?;
        let mut resolved = written_sizes(config);
        resolved.extend(written_defaults(config));
        resolved.push((TIE, tie_word_embeddings.into()));
        let defaults_taken = defaults_taken(config);
        let notes: Vec<String> = defaults_taken.iter().cloned().collect();
        let hidden_size = attention.hidden_size;
        let eps = config.required("rms_norm_eps", ModelConfig::positive)? as f32;
        let norm = || NormSpec::rms(String::new(), hidden_size, eps);
        let block = BlockSpec {
            path: String::new(),
            parallel: false,
            attention: Branch::new(norm(), attention),
            mlp: Branch::new(norm(), mlp),
        };
        let mut spec = Self {
            hidden_size,
            vocab_size: config.require_size("vocab_size")?,
            max_position_embeddings: config.size("max_position_embeddings")?,
            embed: EmbedSpec { path: String::new(), scale: None, positions: None, norm: None },
            ropes,
            temperature_tuning: None,
            blocks: vec![block; num_hidden_layers],
            head: HeadSpec {
                norm: norm(),
                path: String::new(),
                tied: tie_word_embeddings,
                tie_key: config.name_of(TIE),
                normalized: false,
                bias: false,
                quantized_tied: true,
                scale: None,
                cap: None,
            },
            resolved,
            extra: Vec::new(),
            defaults_taken,
            notes,
        };
        spec.set_names(&LLAMA_NAMES);
        Ok(spec)
    }

    /// Names all modules, before anything else is set that has names of its own.
    pub fn set_names(&mut self, names: &'static ModuleNames) {
        names.embed.clone_into(&mut self.embed.path);
        names.norm.clone_into(&mut self.head.norm.path);
        names.head.clone_into(&mut self.head.path);
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            block.path = format!("{}.{layer}", names.blocks);
            let BlockSpec { path, attention, mlp, .. } = block;
            (attention.part.names, mlp.part.names) = (names, names);
            attention.part.path = inside(path, names.attention);
            mlp.part.path = inside(path, names.mlp);
            for (norm, name) in
                [(&mut attention.before, names.attention_norm), (&mut mlp.before, names.mlp_norm)]
            {
                if let Some(norm) = norm {
                    norm.path = inside(path, name);
                }
            }
        }
    }

    /// Makes every norm one of this kind.
    pub fn set_norms(&mut self, kind: NormKind) {
        self.norms_mut().for_each(|norm| norm.kind = kind);
    }

    /// Gives the MLP of every block no gate.
    pub fn set_plain_mlps(&mut self, activation: Activation) {
        self.mlps_mut().for_each(|mlp| (mlp.gated, mlp.activation) = (false, activation));
    }

    /// Adds learned positions, of which there are `count`, to the embedded tokens; nothing is rotated.
    pub fn set_learned_positions(&mut self, path: &str, count: usize) {
        self.embed.positions = Some(PositionsSpec { path: path.to_owned(), count });
        self.max_position_embeddings = Some(count);
        self.ropes.clear();
        self.attentions_mut().for_each(|attention| attention.rope = None);
    }

    /// Returns the attention of each block.
    pub fn attentions(&self) -> impl Iterator<Item = &AttentionSpec> {
        self.blocks.iter().map(|block| &block.attention.part)
    }

    /// Returns the attention of each block, to be changed.
    pub fn attentions_mut(&mut self) -> impl Iterator<Item = &mut AttentionSpec> {
        self.blocks.iter_mut().map(|block| &mut block.attention.part)
    }

    /// Returns the MLP of each block.
    pub fn mlps(&self) -> impl Iterator<Item = &MlpSpec> {
        self.blocks.iter().map(|block| &block.mlp.part)
    }

    /// Returns the MLP of each block, to be changed.
    pub fn mlps_mut(&mut self) -> impl Iterator<Item = &mut MlpSpec> {
        self.blocks.iter_mut().map(|block| &mut block.mlp.part)
    }

    /// Returns the experts of the first block whose MLP is made of some.
    pub fn experts(&self) -> Option<ExpertsSpec> {
        self.mlps().find_map(|mlp| mlp.experts)
    }

    /// Returns every norm, to be changed.
    pub fn norms_mut(&mut self) -> impl Iterator<Item = &mut NormSpec> {
        let blocks = self.blocks.iter_mut().flat_map(|BlockSpec { attention, mlp, .. }| {
            let own = [&mut attention.before, &mut attention.after, &mut mlp.before, &mut mlp.after];
            own.into_iter().flatten().chain(attention.part.qk_norm.norms_mut())
        });
        blocks.chain(&mut self.embed.norm).chain([&mut self.head.norm])
    }

    /// Gives queries and keys of every block norms with weights per dimension of the head, called `q_norm` and `k_norm`.
    pub fn set_qk_norms(&mut self) {
        let eps = self.head.norm.eps;
        for attention in self.attentions_mut() {
            attention.qk_norm = QkNorm::Weighted(attention.norms_of([attention.head_dim; 2], eps));
        }
    }

    /// Gives queries and keys of every block norms over all heads at once.
    pub fn set_norms_of_all_heads(&mut self) {
        let eps = self.head.norm.eps;
        for attention in self.attentions_mut() {
            let sizes = [attention.heads, attention.kv_heads].map(|heads| heads * attention.head_dim);
            attention.qk_norm = QkNorm::AllHeads(attention.norms_of(sizes, eps));
        }
    }

    /// Gives each part a norm of its output beside that of its input, with Gemma's names.
    pub fn set_norms_after(&mut self) {
        for BlockSpec { path, attention, mlp, .. } in &mut self.blocks {
            attention.set_norm_after(format!("{path}.post_attention_layernorm"));
            mlp.set_norm_after(format!("{path}.post_feedforward_layernorm"));
            if let Some(norm) = &mut mlp.before {
                norm.path = format!("{path}.pre_feedforward_layernorm");
            }
        }
    }

    /// Gives queries and keys of every block norms with weights per dimension of the head, after they are rotated.
    pub fn set_norms_of_rotated(&mut self) {
        let eps = self.head.norm.eps;
        for attention in self.attentions_mut() {
            attention.qk_norm = QkNorm::Rotated(attention.norms_of([attention.head_dim; 2], eps));
        }
    }

    /// True if keys in a cache can be turned to other positions: not those of learned positions, nor those that a norm has
    /// weighed after they were rotated.
    pub fn can_turn_keys(&self) -> bool {
        let is_weighed = |attention: &AttentionSpec| matches!(attention.qk_norm, QkNorm::Rotated(_));
        self.embed.positions.is_none() && !self.attentions().any(is_weighed)
    }

    /// Writes the kind of RoPE's scaling under its older name, which is the one that some of mlx-lm's classes read.
    pub(crate) fn write_rope_type(&mut self) {
        for (key, value) in &mut self.resolved {
            if *key == "rope_scaling"
                && let Some(scaling) = value.as_object_mut()
                && let Some(kind) = scaling.get("rope_type").cloned()
            {
                scaling.insert("type".to_owned(), kind);
            }
        }
    }

    /// Sets which linear layers have biases.
    pub fn set_biases(&mut self, biases: Biases) {
        for BlockSpec { attention, mlp, .. } in &mut self.blocks {
            (attention.part.qkv_bias, attention.part.o_bias) = (biases.qkv, biases.o);
            (mlp.part.gate_up_bias, mlp.part.down_bias) = (biases.gate_up, biases.down);
        }
        self.head.bias = biases.head;
    }

    /// Notes that mlx-lm ignores a scaling of RoPE in this architecture.
    pub(crate) fn note_rope_scaling(&mut self, config: &ModelConfig) {
        if self.ropes.iter().any(|rope| rope.scaling != RopeScaling::Default) {
            let name = config.model_type();
            self.notes
                .push(format!("rope_scaling is applied as transformers does; mlx-lm's {name} ignores it"));
        }
    }

    /// Notes a `head_dim` that mlx-lm, which divides the hidden size by the heads in this architecture, does not read.
    pub(crate) fn note_head_dim(&mut self, config: &ModelConfig) {
        let hidden_size = self.hidden_size;
        let unread = self.attentions().find(|attention| attention.head_dim * attention.heads != hidden_size);
        if let Some(head_dim) = unread.map(|attention| attention.head_dim) {
            let name = config.model_type();
            self.notes.push(format!("head_dim is {head_dim}; mlx-lm's {name} does not read it"));
        }
    }

    /// Notes that mlx-lm's class, whose head is always the embedding or (`is_tied` false) never, cannot load this model.
    pub(crate) fn note_head(&mut self, config: &ModelConfig, is_tied: bool) {
        let name = config.model_type();
        if self.head.tied != is_tied {
            let head = if is_tied { "a head of its own" } else { "a tied head" };
            self.notes.push(format!("mlx-lm's {name} cannot load a model with {head}"));
        }
    }

    /// Notes that mlx-lm's class has all biases, and cannot load this model, which lacks some.
    pub(crate) fn note_biases(&mut self, config: &ModelConfig, has_all: bool) {
        if !has_all {
            let name = config.model_type();
            self.notes.push(format!("mlx-lm's {name} cannot load a model without biases"));
        }
    }

    /// Notes that mlx-lm's class computes GELU in one way, and this model's config asks for the other.
    pub(crate) fn note_gelu(&mut self, config: &ModelConfig, theirs: Activation) {
        let ours = self.mlps().map(|mlp| mlp.activation).next();
        if ours.is_some_and(|ours| ours != theirs) {
            let way = if theirs == Activation::Gelu { "exactly" } else { "by its approximation with tanh" };
            let name = config.model_type();
            self.notes
                .push(format!("the activation is that of config.json; mlx-lm's {name} computes GELU {way}"));
        }
    }

    /// Notes an MLP of another width than the `usual` one, which is all that mlx-lm's class has.
    pub(crate) fn note_inner_size(&mut self, config: &ModelConfig, usual: usize) {
        let other = self.mlps().map(|mlp| mlp.intermediate_size).find(|size| *size != usual);
        if let Some(size) = other {
            let name = config.model_type();
            self.notes.push(format!("the MLP is {size} wide; mlx-lm's {name} has {usual} always"));
        }
    }

    /// Names the MLP of every block.
    pub fn set_mlp_name(&mut self, name: &str) {
        self.blocks.iter_mut().for_each(|block| block.mlp.part.path = format!("{}.{name}", block.path));
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
            && types.len() != self.blocks.len()
        {
            return Err(config
                .error("layer_types", format!("{} entries for {} layers", types.len(), self.blocks.len())));
        }
        for (i, layer) in self.attentions_mut().enumerate() {
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
        let slides = self.attentions().any(|layer| matches!(layer.span, AttentionSpan::Sliding(_)));
        if let Some(window) = window.filter(|_| slides && config.added().contains(&"sliding_window")) {
            self.notes.push(absent(config, &[format!("sliding_window ({window})")]));
        }
        Ok(())
    }

    /// True if the tensor `name` lies beside the decoder.
    pub(crate) fn leaves_out(&self, name: &str) -> bool {
        self.extra.iter().any(|start| name.starts_with(start.as_str()))
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
        if let Some(groups) = experts.groups {
            let within = groups.chosen * (count / groups.count);
            if within < per_token {
                let message =
                    format!("{} groups have {within} experts, {per_token} are chosen", groups.chosen);
                return Err(config.error("topk_group", message));
            }
            let note = "no expert outside the chosen groups is taken, as in transformers; mlx-lm gives those a score of 0";
            self.notes.push(note.to_owned());
        }
        for (block, mlp) in self.mlps_mut().enumerate() {
            mlp.experts = Some(experts).filter(|_| sparse(block));
        }
        Ok(())
    }

    /// Gives the MLPs of experts shared ones beside them, after paths, biases and experts are set.
    pub fn set_shared_experts(&mut self, intermediate_size: usize, gate: Option<SharedGate>) {
        for mlp in self.mlps_mut() {
            let Some(experts) = mlp.experts else { continue };
            let path = format!("{}.{}", mlp.path, experts.names.shared);
            let own = MlpSpec { path, intermediate_size, experts: None, is_shared: true, ..mlp.clone() };
            mlp.shared = Some(Box::new(SharedSpec { mlp: own, gate }));
        }
    }

    /// Returns the tensors of this decoder under mlx-lm's names.
    pub fn manifest(&self) -> Manifest {
        Manifest::new(self)
    }
}

/// Returns the dimensions of a head.
pub(super) fn head_dim(config: &ModelConfig) -> Result<usize> {
    let (hidden_size, heads) =
        (config.require_size("hidden_size")?, config.require_size("num_attention_heads")?);
    let head_dim = match config.size("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            return Err(config.error(
                "num_attention_heads",
                format!("{heads} does not divide hidden_size {hidden_size}, and there is no head_dim"),
            ));
        }
    };
    if !head_dim.is_multiple_of(2) {
        return Err(config.error("head_dim", format!("RoPE needs an even size, found {head_dim}")));
    }
    Ok(head_dim)
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
