//! Experts as the keys say it that several config classes share.

use super::decoder::DecoderSpec;
use super::experts::{ExpertNames, ExpertsSpec, Groups, Normalization, Score};
use super::mlp::MlpSpec;
use crate::error::Result;
use crate::models::config::ModelConfig;

/// Keys of number, choice and width in most classes.
pub(crate) const EXPERT_KEYS: [&str; 3] = ["num_experts", "num_experts_per_tok", "moe_intermediate_size"];

/// Keys of experts in Mixtral, and in what descends from it.
pub(crate) const LOCAL_EXPERT_KEYS: [&str; 3] =
    ["num_local_experts", "num_experts_per_tok", "intermediate_size"];

impl ExpertsSpec {
    /// Reads the number of experts, that of a token's, and their width under these keys.
    pub(crate) fn from_config(config: &ModelConfig, [count, per_token, width]: [&str; 3]) -> Result<Self> {
        let size = |key| config.require_size(key);
        Ok(Self::new(size(count)?, size(per_token)?, size(width)?))
    }

    /// Divides the weights by their sum, plus `eps`, where `norm_topk_prob` says so.
    pub(crate) fn normalized_if_said(self, config: &ModelConfig, eps: f32) -> Result<Self> {
        Ok(self.normalized(config.required("norm_topk_prob", ModelConfig::boolean)?, eps))
    }

    /// Scores experts by sigmoids, and chooses them with a learned correction.
    pub(crate) fn corrected_sigmoids(self, names: &'static ExpertNames) -> Self {
        Self { names, score: Score::Sigmoid, correction: true, ..self }
    }
}

impl DecoderSpec {
    /// Makes MLPs of experts and shared ones, whose keys are `DeepSeek`'s, with sigmoids as scores. Blocks past the last predict
    /// further tokens.
    pub(crate) fn set_deepseek_experts(
        &mut self,
        config: &ModelConfig,
        names: &'static ExpertNames,
        sparse: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let keys = ["n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"];
        let experts = ExpertsSpec::from_config(config, keys)?;
        let normalized = config.boolean("norm_topk_prob")?.unwrap_or(false);
        let experts = ExpertsSpec {
            groups: groups(config, experts.count)?,
            factor: config.positive("routed_scaling_factor")?.unwrap_or(1.0) as f32,
            ..experts.corrected_sigmoids(names).normalized(normalized, 1e-20)
        };
        self.set_experts(config, experts, sparse)?;
        self.set_counted_shared_experts(config, "n_shared_experts", experts.intermediate_size)?;
        self.leave_further_blocks();
        let head_dim = self.attentions().next().map(|attention| attention.head_dim);
        self.resolved.extend([
            ("n_routed_experts", experts.count.into()),
            ("head_dim", head_dim.into()),
            ("norm_topk_prob", normalized.into()),
        ]);
        Ok(())
    }

    /// Makes MLPs of experts as Qwen's keys say it: in every `decoder_sparse_step`-th block, unless `mlp_only_layers` names it.
    pub(crate) fn set_qwen_experts(
        &mut self,
        config: &ModelConfig,
        names: &'static ExpertNames,
    ) -> Result<()> {
        let experts = ExpertsSpec::from_config(config, EXPERT_KEYS)?.normalized_if_said(config, 0.0)?;
        let step = config.require_size("decoder_sparse_step")?;
        let dense = config.indices("mlp_only_layers")?.unwrap_or_default();
        let is_sparse = |block: usize| !dense.contains(&block) && (block + 1).is_multiple_of(step);
        self.set_experts(config, ExpertsSpec { names, ..experts }, is_sparse)?;
        let attention = self.attentions().next().map(|attention| (attention.head_dim, attention.kv_heads));
        let (head_dim, kv_heads) = attention.unwrap_or_default();
        // mlx-lm has no defaults for these, and does not know transformers 5's name for the first.
        self.resolved.extend([
            ("num_experts", experts.count.into()),
            ("head_dim", head_dim.into()),
            ("num_key_value_heads", kv_heads.into()),
            ("norm_topk_prob", (experts.normalization != Normalization::None).into()),
            ("decoder_sparse_step", step.into()),
            ("mlp_only_layers", dense.into()),
        ]);
        Ok(())
    }

    /// Gives the MLPs of experts as many shared ones, `width` wide each, as `key` says, which may be none.
    pub(crate) fn set_counted_shared_experts(
        &mut self,
        config: &ModelConfig,
        key: &str,
        width: usize,
    ) -> Result<()> {
        if let Some(shared) = config.count(key)?.filter(|&shared| shared > 0) {
            self.set_shared_experts(width * shared, None);
        }
        Ok(())
    }

    /// Returns the names that mlx-lm has for each expert's part of the tensor or layer called `name`; `None` where it has one for
    /// all of them, or there are no experts.
    pub fn names_apart(&self, name: &str) -> Option<Vec<String>> {
        let of_mlp = |mlp: &MlpSpec| {
            let experts = mlp.experts.filter(|experts| experts.apart)?;
            let path = mlp.dense_path(experts.names.experts);
            let rest = name.strip_prefix(&path)?.strip_prefix('.')?;
            Some((0..experts.count).map(|expert| format!("{path}.{expert}.{rest}")).collect())
        };
        self.mlps().find_map(of_mlp)
    }

    /// Leaves out blocks past the last, which predict further tokens.
    pub(crate) fn leave_further_blocks(&mut self) {
        self.extra.push(format!("model.layers.{}.", self.blocks.len()));
    }
}

/// Reads the groups of `count` experts; `None` where all of them are chosen.
pub(crate) fn groups(config: &ModelConfig, count: usize) -> Result<Option<Groups>> {
    let groups = config.size("n_group")?.unwrap_or(1);
    let chosen = config.size("topk_group")?.unwrap_or(1);
    if !count.is_multiple_of(groups) {
        return Err(config.error("n_group", format!("{groups} groups do not divide {count} experts")));
    }
    Ok((groups > 1 && chosen < groups).then_some(Groups { count: groups, chosen }))
}

/// Returns which of `count` blocks have experts: those that `mlp_layer_types` calls sparse, or whose flag under `key` is 1, or else
/// those for which `default` says so.
pub(crate) fn sparse_blocks(
    config: &ModelConfig,
    key: &str,
    count: usize,
    default: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    const KINDS: &str = "mlp_layer_types";
    let Some(kinds) = config.strings(KINDS)? else {
        let flags = config.flags_of_layers(key, count)?;
        return Ok(flags.unwrap_or_else(|| (0..count).map(default).collect()));
    };
    if kinds.len() != count {
        return Err(config.error(KINDS, format!("{} entries for {count} layers", kinds.len())));
    }
    Ok(kinds.iter().map(|kind| kind == "sparse").collect())
}
