//! Names of a decoder's modules, as mlx-lm's class of each architecture has them.

/// Names of the modules of a decoder whose blocks are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the name of the module that it is called after")]
pub struct ModuleNames {
    /// Path of the list of blocks.
    pub blocks: &'static str,
    pub embed: &'static str,
    /// Path of the last norm.
    pub norm: &'static str,
    pub head: &'static str,
    /// Attention inside a block; empty where its layers are the block's own.
    pub attention: &'static str,
    pub attention_norm: &'static str,
    pub q: &'static str,
    pub k: &'static str,
    pub v: &'static str,
    pub qkv: &'static str,
    pub o: &'static str,
    /// Gate of attention's output.
    pub attention_gate: &'static str,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    /// Learned scores of the heads, beside those of the keys.
    pub sinks: &'static str,
    /// MLP inside a block; empty where its layers are the block's own.
    pub mlp: &'static str,
    pub mlp_norm: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub gate_up: &'static str,
    pub down: &'static str,
}

/// Names in Llama, and in what descends from it.
pub const LLAMA_NAMES: ModuleNames = ModuleNames {
    blocks: "model.layers",
    embed: "model.embed_tokens",
    norm: "model.norm",
    head: "lm_head",
    attention: "self_attn",
    attention_norm: "input_layernorm",
    q: "q_proj",
    k: "k_proj",
    v: "v_proj",
    qkv: "qkv_proj",
    o: "o_proj",
    attention_gate: "gate_proj",
    q_norm: "q_norm",
    k_norm: "k_norm",
    sinks: "sinks",
    mlp: "mlp",
    mlp_norm: "post_attention_layernorm",
    gate: "gate_proj",
    up: "up_proj",
    gate_up: "gate_up_proj",
    down: "down_proj",
};

/// Returns the path of what is called `name` in the module at `path`; the module's own where `name` is empty.
pub(super) fn inside(path: &str, name: &str) -> String {
    if name.is_empty() { path.to_owned() } else { format!("{path}.{name}") }
}
