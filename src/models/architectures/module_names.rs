//! Names that classes have for modules and keys where they differ from Llama's.

use crate::models::spec::{LLAMA_NAMES, ModuleNames};

/// Keys of GPT-2 and GPT-J, by ours.
pub(super) const GPT2_KEYS: &[(&str, &str)] = &[
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("max_position_embeddings", "n_positions"),
    ("rms_norm_eps", "layer_norm_epsilon"),
];

/// Keys of `OLMo` 1 as its makers have it, by ours.
pub(super) const OLMO_KEYS: &[(&str, &str)] = &[
    ("vocab_size", "embedding_size"),
    ("hidden_size", "d_model"),
    ("num_hidden_layers", "n_layers"),
    ("num_attention_heads", "n_heads"),
    ("num_key_value_heads", "n_kv_heads"),
    ("max_position_embeddings", "max_sequence_length"),
    ("tie_word_embeddings", "weight_tying"),
    ("attention_bias", "include_bias"),
];

/// Keys of DBRX, by ours.
pub(super) const DBRX_KEYS: &[(&str, &str)] = &[
    ("hidden_size", "d_model"),
    ("num_hidden_layers", "n_layers"),
    ("num_attention_heads", "n_heads"),
    ("num_key_value_heads", "attn_config.kv_n_heads"),
    ("intermediate_size", "ffn_config.ffn_hidden_size"),
    ("max_position_embeddings", "max_seq_len"),
    ("rope_theta", "attn_config.rope_theta"),
    ("num_experts_per_tok", "ffn_config.moe_top_k"),
];

/// Keys of Phixtral in mlx-lm, by ours.
pub(super) const PHIXTRAL_KEYS: &[(&str, &str)] = &[
    ("vocab_size", "num_vocab"),
    ("hidden_size", "model_dim"),
    ("num_hidden_layers", "num_layers"),
    ("num_attention_heads", "num_heads"),
];

/// Keys of Phixtral in mlx-lm, and the makers', of which it reads none.
pub(super) const PHIXTRAL_MAKERS_KEYS: [(&str, &str); 5] = [
    ("num_vocab", "vocab_size"),
    ("model_dim", "n_embd"),
    ("num_heads", "n_head"),
    ("num_layers", "n_layer"),
    ("max_position_embeddings", "n_positions"),
];

/// Keys of `OpenELM`, by ours.
pub(super) const OPENELM_KEYS: &[(&str, &str)] = &[
    ("hidden_size", "model_dim"),
    ("num_hidden_layers", "num_transformer_layers"),
    ("max_position_embeddings", "max_context_length"),
    ("tie_word_embeddings", "share_input_output_layers"),
];

/// Modules of Apertus.
pub(super) const APERTUS: ModuleNames =
    ModuleNames { attention_norm: "attention_layernorm", mlp_norm: "feedforward_layernorm", ..LLAMA_NAMES };

/// Modules of `StarCoder` 1.
pub(super) const GPT_BIGCODE: ModuleNames = ModuleNames {
    blocks: "transformer.h",
    embed: "transformer.wte",
    norm: "transformer.ln_f",
    attention: "attn",
    attention_norm: "ln_1",
    qkv: "c_attn",
    o: "c_proj",
    mlp_norm: "ln_2",
    up: "c_fc",
    down: "c_proj",
    ..LLAMA_NAMES
};

/// Modules of `BailingMoE`.
pub(super) const BAILING: ModuleNames = ModuleNames {
    embed: "model.word_embeddings",
    attention: "attention",
    qkv: "query_key_value",
    o: "dense",
    q_norm: "query_layernorm",
    k_norm: "key_layernorm",
    ..LLAMA_NAMES
};

/// Modules of DBRX.
pub(super) const DBRX: ModuleNames = ModuleNames {
    blocks: "transformer.blocks",
    embed: "transformer.wte",
    norm: "transformer.norm_f",
    attention: "norm_attn_norm.attn",
    attention_norm: "norm_attn_norm.norm_1",
    qkv: "Wqkv",
    o: "out_proj",
    mlp: "ffn",
    mlp_norm: "norm_attn_norm.norm_2",
    gate: "w1",
    up: "v1",
    down: "w2",
    ..LLAMA_NAMES
};

/// Modules of Phixtral.
pub(super) const PHIXTRAL: ModuleNames = ModuleNames {
    blocks: "transformer.h",
    embed: "transformer.embd.wte",
    norm: "lm_head.ln",
    head: "lm_head.linear",
    attention: "mixer",
    attention_norm: "ln",
    qkv: "Wqkv",
    o: "out_proj",
    mlp: "moe",
    up: "fc1",
    down: "fc2",
    ..LLAMA_NAMES
};

/// Modules of GPT-2.
pub(super) const GPT2: ModuleNames =
    ModuleNames { blocks: "model.h", embed: "model.wte", norm: "model.ln_f", ..GPT_BIGCODE };

/// Modules of GPT-J.
pub(super) const GPTJ: ModuleNames = ModuleNames {
    blocks: "model.h",
    embed: "model.wte",
    norm: "model.ln_f",
    attention: "attn",
    attention_norm: "ln_1",
    o: "out_proj",
    up: "fc_in",
    down: "fc_out",
    ..LLAMA_NAMES
};

/// Modules of GPT-NeoX.
pub(super) const GPT_NEOX: ModuleNames = ModuleNames {
    blocks: "model.h",
    embed: "model.embed_in",
    norm: "model.final_layer_norm",
    head: "model.embed_out",
    attention: "attention",
    qkv: "query_key_value",
    o: "dense",
    up: "dense_h_to_4h",
    down: "dense_4h_to_h",
    ..LLAMA_NAMES
};

/// Modules of nanochat.
pub(super) const NANOCHAT: ModuleNames = ModuleNames {
    blocks: "transformer.h",
    embed: "transformer.wte",
    attention: "attn",
    q: "c_q",
    k: "c_k",
    v: "c_v",
    o: "c_proj",
    up: "c_fc",
    down: "c_proj",
    ..LLAMA_NAMES
};

/// Modules of `OLMo` 1 as its makers have it.
pub(super) const OLMO: ModuleNames = ModuleNames {
    blocks: "model.transformer.blocks",
    embed: "model.transformer.wte",
    head: "model.transformer.ff_out",
    attention: "",
    qkv: "att_proj",
    o: "attn_out",
    mlp: "",
    gate_up: "ff_proj",
    down: "ff_out",
    ..LLAMA_NAMES
};

/// Modules of `OpenELM`.
pub(super) const OPENELM: ModuleNames = ModuleNames {
    blocks: "transformer.layers",
    embed: "transformer.token_embeddings",
    norm: "transformer.norm",
    attention: "attn",
    attention_norm: "attn_norm",
    o: "out_proj",
    mlp: "ffn",
    mlp_norm: "ffn_norm",
    gate_up: "proj_1",
    down: "proj_2",
    ..LLAMA_NAMES
};

/// Modules of Qwen 1.
pub(super) const QWEN: ModuleNames = ModuleNames {
    blocks: "transformer.h",
    embed: "transformer.wte",
    norm: "transformer.ln_f",
    attention: "attn",
    attention_norm: "ln_1",
    qkv: "c_attn",
    o: "c_proj",
    mlp_norm: "ln_2",
    gate: "w2",
    up: "w1",
    down: "c_proj",
    ..LLAMA_NAMES
};

/// Modules of `PLaMo` 3.
pub(super) const PLAMO3: ModuleNames = ModuleNames {
    blocks: "model.layers.layers",
    attention: "mixer",
    attention_norm: "pre_mixer_norm",
    mlp_norm: "pre_mlp_norm",
    ..LLAMA_NAMES
};

/// Modules of Spark X2.5.
pub(super) const SPARK2_5: ModuleNames = ModuleNames {
    embed: "model.embedding",
    qkv: "q_k_v_proj",
    o: "out_proj",
    attention_gate: "g_proj",
    ..LLAMA_NAMES
};

/// Modules of nanochat in transformers, with the names that mlx-lm has for them.
pub(super) const NANOCHAT_MODULES: [(&str, &str); 6] = [
    ("self_attn.q_proj", "attn.c_q"),
    ("self_attn.k_proj", "attn.c_k"),
    ("self_attn.v_proj", "attn.c_v"),
    ("self_attn.o_proj", "attn.c_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
];
