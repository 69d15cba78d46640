//! Names that mlx-lm has for the tensors of GGUF files.

/// Pairs of a name in GGUF and a path.
pub(super) type Pairs = &'static [(&'static str, &'static str)];

/// Names of an architecture's tensors.
#[derive(Debug)]
pub(super) struct Names {
    /// Tensors outside of blocks.
    pub(super) outer: Pairs,
    /// Path of the blocks, before their numbers.
    pub(super) blocks: &'static str,
    /// Tensors of a block.
    pub(super) parts: &'static [Pairs],
    /// Tensors that say what config.json says.
    pub(super) dropped: &'static [&'static str],
}

/// Place of a tensor in the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// mlx-lm's name.
    Named(String),
    /// The model has no such tensor: config.json says what it says.
    Dropped,
    /// The architecture is not known to have it.
    Unknown,
}

impl Names {
    /// Returns the fate of the tensor called `name`.
    pub(super) fn fate(&self, name: &str) -> Fate {
        let Some((path, part)) = name.rsplit_once('.').filter(|(_, part)| ["weight", "bias"].contains(part))
        else {
            return Fate::Unknown;
        };
        if self.dropped.contains(&path) {
            return Fate::Dropped;
        }
        let find = |pairs: Pairs, path: &str| {
            pairs.iter().find(|(theirs, _)| *theirs == path).map(|(_, ours)| *ours)
        };
        let in_block = || {
            let (number, path) = path.strip_prefix("blk.")?.split_once('.')?;
            number.parse::<u32>().ok().filter(|parsed| parsed.to_string() == number)?;
            let ours = self.parts.iter().find_map(|pairs| find(pairs, path))?;
            Some(format!("{}.{number}.{ours}.{part}", self.blocks))
        };
        let outer = find(self.outer, path).map(|ours| format!("{ours}.{part}"));
        outer.or_else(in_block).map_or(Fate::Unknown, Fate::Named)
    }
}

pub(super) const OUTER: Pairs =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

pub(super) const ATTENTION: Pairs = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
];

pub(super) const QK_NORMS: Pairs =
    &[("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")];

pub(super) const NORMS: Pairs = &[("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")];

/// Norms before and after attention and MLP.
pub(super) const FOUR_NORMS: Pairs = &[
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// Norms after attention and MLP alone.
pub(super) const NORMS_AFTER: Pairs =
    &[("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")];

/// The one norm of blocks whose parts share their input.
pub(super) const ONE_NORM: Pairs = &[("attn_norm", "input_layernorm")];

pub(super) const MLP: Pairs =
    &[("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj")];

pub(super) const EXPERTS: Pairs = &[
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
    ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
    ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
];

pub(super) const SHARED_EXPERT: Pairs = &[
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];

/// Experts of Mixtral.
pub(super) const SPARSE_EXPERTS: Pairs = &[
    ("ffn_gate_inp", "block_sparse_moe.gate"),
    ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
    ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
    ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
];

/// Experts of Granite.
pub(super) const GRANITE_EXPERTS: Pairs = &[
    ("ffn_gate_inp", "block_sparse_moe.router.layer"),
    ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
    ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
    ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
];

/// Attention and MLP of Phi-3, each with one matrix for what shares an input.
pub(super) const PHI3: Pairs = &[
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

pub(super) const GPT2_OUTER: Pairs = &[
    ("token_embd", "model.wte"),
    ("position_embd", "model.wpe"),
    ("output_norm", "model.ln_f"),
    ("output", "lm_head"),
];

pub(super) const GPT2: Pairs = &[
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

pub(super) const STARCODER2_MLP: Pairs = &[("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")];

pub(super) const EXAONE_OUTER: Pairs =
    &[("token_embd", "transformer.wte"), ("output_norm", "transformer.ln_f"), ("output", "lm_head")];

pub(super) const EXAONE: Pairs = &[
    ("attn_norm", "ln_1"),
    ("attn_q", "attn.attention.q_proj"),
    ("attn_k", "attn.attention.k_proj"),
    ("attn_v", "attn.attention.v_proj"),
    ("attn_output", "attn.attention.out_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_gate", "mlp.c_fc_0"),
    ("ffn_up", "mlp.c_fc_1"),
    ("ffn_down", "mlp.c_proj"),
];
