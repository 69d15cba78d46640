//! config.json of each architecture. Keys and defaults are those of llama.cpp, which runs the files.

use serde_json::{Map, Value, json};

use super::config::{has, head_dim, shared, whole_rope, with_rms_and_rope};
use super::keys::{Keys, number};
use super::rope;
use crate::error::Result;

type Config = Map<String, Value>;

/// Adds the pairs of an object to a config.
fn with(mut config: Config, more: Value) -> Config {
    if let Value::Object(more) = more {
        config.extend(more);
    }
    config
}

/// Starts a config of Llama's keys.
fn like_llama(keys: &Keys<'_>, model_type: &str, class: &str) -> Result<Config> {
    let config = with_rms_and_rope(keys, shared(keys, model_type, class)?)?;
    Ok(with(config, json!({"hidden_act": "silu"})))
}

/// Returns the keys that say which layers of a Llama have biases.
fn biases(keys: &Keys<'_>) -> Value {
    json!({
        "attention_bias": has(keys.gguf, "blk.0.attn_q.bias"),
        "mlp_bias": has(keys.gguf, "blk.0.ffn_up.bias"),
    })
}

/// Returns the names of windows by block in `layer_types`.
fn layer_types(windows: &[bool]) -> Value {
    let name = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
    windows.iter().map(name).collect()
}

/// Returns the scores' divisor squared: the size of a head, but in models of `blocks` blocks, whose queries are divided by the
/// root of what the width has per head.
fn query_scalar(keys: &Keys<'_>, blocks: usize) -> Result<usize> {
    let is_width = keys.required_size("block_count")? == blocks;
    let size =
        if is_width { keys.required_size("embedding_length")? / keys.heads()? } else { head_dim(keys)? };
    let rule = if is_width { "the width per head" } else { "the size of a head" };
    keys.assume("what scores are divided by", &format!("the root of {size}, {rule}"));
    Ok(size)
}

pub(super) fn llama(keys: &Keys<'_>) -> Result<Config> {
    let experts = keys.count("expert_count")?.filter(|experts| *experts > 0);
    let used = keys.count("expert_used_count")?;
    Ok(match experts {
        None => with(like_llama(keys, "llama", "LlamaForCausalLM")?, biases(keys)),
        Some(experts) => with(
            like_llama(keys, "mixtral", "MixtralForCausalLM")?,
            json!({"num_local_experts": experts, "num_experts_per_tok": used}),
        ),
    })
}

pub(super) fn qwen2(keys: &Keys<'_>) -> Result<Config> {
    like_llama(keys, "qwen2", "Qwen2ForCausalLM")
}

pub(super) fn qwen3(keys: &Keys<'_>) -> Result<Config> {
    Ok(with(like_llama(keys, "qwen3", "Qwen3ForCausalLM")?, json!({"attention_bias": false})))
}

/// Returns the keys of Qwen's experts, which are in all blocks.
fn qwen_experts(keys: &Keys<'_>) -> Result<Value> {
    Ok(json!({
        "num_experts": keys.required_size("expert_count")?,
        "num_experts_per_tok": keys.required_size("expert_used_count")?,
        "moe_intermediate_size": keys.required_size("expert_feed_forward_length")?,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }))
}

pub(super) fn qwen2_moe(keys: &Keys<'_>) -> Result<Config> {
    let shared_expert = keys.required_size("expert_shared_feed_forward_length")?;
    let config = with(like_llama(keys, "qwen2_moe", "Qwen2MoeForCausalLM")?, qwen_experts(keys)?);
    Ok(with(config, json!({"shared_expert_intermediate_size": shared_expert, "norm_topk_prob": false})))
}

pub(super) fn qwen3_moe(keys: &Keys<'_>) -> Result<Config> {
    let config = with(like_llama(keys, "qwen3_moe", "Qwen3MoeForCausalLM")?, qwen_experts(keys)?);
    Ok(with(config, json!({"attention_bias": false, "norm_topk_prob": true})))
}

/// Starts a config of Gemma's keys.
fn like_gemma(keys: &Keys<'_>, model_type: &str, class: &str) -> Result<Config> {
    let config = with_rms_and_rope(keys, shared(keys, model_type, class)?)?;
    let activation = "gelu_pytorch_tanh";
    Ok(with(
        config,
        json!({"hidden_activation": activation, "hidden_act": activation, "attention_bias": false}),
    ))
}

pub(super) fn gemma(keys: &Keys<'_>) -> Result<Config> {
    like_gemma(keys, "gemma", "GemmaForCausalLM")
}

pub(super) fn gemma2(keys: &Keys<'_>) -> Result<Config> {
    let config = like_gemma(keys, "gemma2", "Gemma2ForCausalLM")?;
    let cap = |key: &str, usual: f64| keys.number(key).map(|cap| number(cap.unwrap_or(usual)));
    let layers = keys.required_size("block_count")?;
    let more = json!({
        "attn_logit_softcapping": cap("attn_logit_softcapping", 50.0)?,
        "final_logit_softcapping": cap("final_logit_softcapping", 30.0)?,
        "sliding_window": keys.size("attention.sliding_window")?.unwrap_or(4096),
        "layer_types": layer_types(&keys.windows(layers, 2)?),
        "query_pre_attn_scalar": query_scalar(keys, 46)?,
    });
    Ok(with(config, more))
}

pub(super) fn gemma3(keys: &Keys<'_>) -> Result<Config> {
    let config = like_gemma(keys, "gemma3_text", "Gemma3ForCausalLM")?;
    let layers = keys.required_size("block_count")?;
    let window = keys.count("attention.sliding_window")?.filter(|window| *window > 0);
    let windows = keys.windows(layers, 6)?;
    let windows = if window.is_some() { windows } else { vec![false; layers] };
    let cap = keys.number("final_logit_softcapping")?.filter(|cap| *cap > 0.0);
    let more = json!({
        "attn_logit_softcapping": null,
        "final_logit_softcapping": cap.map(number),
        "sliding_window": window,
        "layer_types": layer_types(&windows),
        "rope_local_base_freq": number(keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0)),
        "query_pre_attn_scalar": query_scalar(keys, 62)?,
    });
    Ok(with(config, more))
}

pub(super) fn phi3(keys: &Keys<'_>) -> Result<Config> {
    let mut config = shared(keys, "phi3", "Phi3ForCausalLM")?;
    let dims = head_dim(keys)?;
    let rotated = keys.size("rope.dimension_count")?.unwrap_or(dims);
    // Of the scaling nothing is taken but the factors: the rest follows from the two contexts.
    keys.number("rope.scaling.attn_factor")?;
    let scaling = rope::longrope(keys)?;
    let is_longrope = keys.text("rope.scaling.type")? == Some("longrope");
    if scaling.is_some() || is_longrope {
        keys.number("rope.freq_base")?;
        let base = keys.required_number("rope.freq_base")?;
        config = with(config, json!({"rope_theta": number(base), "rope_scaling": scaling}));
    } else {
        rope::add(keys, &mut config)?;
    }
    let more = json!({
        "rms_norm_eps": number(keys.required_number("attention.layer_norm_rms_epsilon")?),
        "hidden_act": "silu",
        "partial_rotary_factor": number(rotated as f64 / dims as f64),
        "original_max_position_embeddings": keys.required_size("rope.scaling.original_context_length")?,
        "sliding_window": keys.count("attention.sliding_window")?.filter(|window| *window > 0),
    });
    Ok(with(config, more))
}

pub(super) fn gpt2(keys: &Keys<'_>) -> Result<Config> {
    let mut config = shared(keys, "gpt2", "GPT2LMHeadModel")?;
    for (ours, theirs) in [
        ("hidden_size", "n_embd"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("max_position_embeddings", "n_positions"),
        ("intermediate_size", "n_inner"),
    ] {
        let value = config.shift_remove(ours);
        config.extend(value.map(|value| (theirs.to_owned(), value)));
    }
    for key in ["num_key_value_heads", "head_dim"] {
        config.shift_remove(key);
    }
    let more = json!({
        "n_ctx": config.get("n_positions"),
        "layer_norm_epsilon": number(keys.required_number("attention.layer_norm_epsilon")?),
        "activation_function": "gelu_new",
    });
    Ok(with(config, more))
}

/// Returns Granite's factors.
fn granite_factors(keys: &Keys<'_>) -> Result<Value> {
    let or = |factor: Option<f64>, usual| number(factor.filter(|factor| *factor != 0.0).unwrap_or(usual));
    let factor = |key: &str, usual: f64| keys.number(key).map(|factor| or(factor, usual));
    let usual = (head_dim(keys)? as f64).powf(-0.5);
    Ok(json!({
        "attention_multiplier": factor("attention.scale", usual)?,
        "embedding_multiplier": factor("embedding_scale", 1.0)?,
        "residual_multiplier": factor("residual_scale", 1.0)?,
        "logits_scaling": number(keys.required_number("logit_scale")?),
    }))
}

pub(super) fn granite(keys: &Keys<'_>) -> Result<Config> {
    let config = with(like_llama(keys, "granite", "GraniteForCausalLM")?, biases(keys));
    keys.count("expert_count")?;
    Ok(with(config, granite_factors(keys)?))
}

pub(super) fn granite_moe(keys: &Keys<'_>) -> Result<Config> {
    let mut config = with(like_llama(keys, "granitemoe", "GraniteMoeForCausalLM")?, granite_factors(keys)?);
    config.shift_remove("head_dim");
    let more = json!({
        "num_local_experts": keys.required_size("expert_count")?,
        "num_experts_per_tok": keys.required_size("expert_used_count")?,
        "attention_bias": false,
    });
    Ok(with(config, more))
}

pub(super) fn olmo2(keys: &Keys<'_>) -> Result<Config> {
    let Some(window) = keys.size("attention.sliding_window")? else {
        return Ok(with(like_llama(keys, "olmo2", "Olmo2ForCausalLM")?, json!({"attention_bias": false})));
    };
    let layers = keys.required_size("block_count")?;
    let types = layer_types(&keys.windows(layers, 4)?);
    let config = like_llama(keys, "olmo3", "Olmo3ForCausalLM")?;
    if let Some(base) = keys.number("rope.freq_base_swa")?
        && config.get("rope_theta") != Some(&number(base))
    {
        return Err(
            keys.error("rope.freq_base_swa", format!("is {base}, expected that of blocks without windows"))
        );
    }
    Ok(with(config, json!({"attention_bias": false, "sliding_window": window, "layer_types": types})))
}

/// Starts a config of Cohere's keys.
fn like_cohere(keys: &Keys<'_>, model_type: &str, class: &str) -> Result<Config> {
    let mut config = shared(keys, model_type, class)?;
    whole_rope(keys, &mut config)?;
    let more = json!({
        "layer_norm_eps": number(keys.required_number("attention.layer_norm_epsilon")?),
        "logit_scale": number(keys.required_number("logit_scale")?),
        "hidden_act": "silu",
        "attention_bias": has(keys.gguf, "blk.0.attn_q.bias"),
    });
    Ok(with(config, more))
}

pub(super) fn cohere(keys: &Keys<'_>) -> Result<Config> {
    let config = like_cohere(keys, "cohere", "CohereForCausalLM")?;
    Ok(with(config, json!({"use_qk_norm": has(keys.gguf, "blk.0.attn_q_norm.weight")})))
}

pub(super) fn cohere2(keys: &Keys<'_>) -> Result<Config> {
    let layers = keys.required_size("block_count")?;
    let more = json!({
        "sliding_window": keys.required_size("attention.sliding_window")?,
        "layer_types": layer_types(&keys.windows(layers, 4)?),
    });
    Ok(with(like_cohere(keys, "cohere2", "Cohere2ForCausalLM")?, more))
}

pub(super) fn starcoder2(keys: &Keys<'_>) -> Result<Config> {
    let mut config = shared(keys, "starcoder2", "Starcoder2ForCausalLM")?;
    whole_rope(keys, &mut config)?;
    let more = json!({
        "norm_epsilon": number(keys.required_number("attention.layer_norm_epsilon")?),
        "hidden_act": "gelu_pytorch_tanh",
        "use_bias": has(keys.gguf, "blk.0.attn_q.bias"),
        "sliding_window": null,
    });
    Ok(with(config, more))
}

pub(super) fn exaone(keys: &Keys<'_>) -> Result<Config> {
    let mut config = shared(keys, "exaone", "ExaoneForCausalLM")?;
    whole_rope(keys, &mut config)?;
    let layers = config.shift_remove("num_hidden_layers");
    // Its class has the epsilon of an RMS norm under the name of another, and so has the converter.
    let other = keys.number("attention.layer_norm_epsilon")?;
    let epsilon = keys.number("attention.layer_norm_rms_epsilon")?.or(other);
    let missing = || keys.error("attention.layer_norm_rms_epsilon", "missing");
    let more = json!({
        "num_layers": layers,
        "layer_norm_epsilon": number(epsilon.ok_or_else(missing)?),
        "activation_function": "silu",
    });
    Ok(with(config, more))
}

pub(super) fn smollm3(keys: &Keys<'_>) -> Result<Config> {
    let config = with(like_llama(keys, "smollm3", "SmolLM3ForCausalLM")?, biases(keys));
    keys.assume("which blocks have no RoPE", "every fourth");
    Ok(with(config, json!({"no_rope_layer_interval": 4})))
}
