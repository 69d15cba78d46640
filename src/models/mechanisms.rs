//! Mechanisms that a model of an unknown `model_type` seems to need, by the keys of its config and the names of its tensors.
//! This is how people report an architecture; nothing is decided by it.

use serde_json::{Map, Value};

use super::architectures;
use super::architectures::Architecture;
use super::config::ModelConfig;
use crate::error::Result;
use crate::files::json;
use crate::files::model_files::ModelFiles;
use crate::formats::checkpoint::Checkpoint;
use crate::words;

/// A mechanism and its traces.
struct Mechanism {
    name: &'static str,
    /// Keys that models with it have, with a value that is neither null, false, 0, 1, empty nor "none".
    keys: &'static [&'static str],
    /// Parts of a tensor's name, between dots.
    parts: &'static [&'static str],
}

/// Parts of the names of tensors that belong to towers, whose own mechanisms are nobody's concern.
const TOWERS: &[&str] = &["vision_tower", "visual", "vision_model", "audio_tower"];

/// Mechanisms, in the order in which they are named.
const MECHANISMS: &[Mechanism] = &[
    of(
        "experts",
        &["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"],
        &["experts", "switch_mlp"],
    ),
    of(
        "shared experts",
        &[
            "n_shared_experts",
            "num_shared_experts",
            "shared_expert_intermediate_size",
            "moe_num_shared_experts",
        ],
        &["shared_expert", "shared_experts", "shared_mlp"],
    ),
    of(
        "scores of experts other than a softmax",
        &["scoring_func", "score_func", "use_routing_bias", "router_score_function"],
        &["e_score_correction_bias", "expert_bias"],
    ),
    of("latent attention", &["kv_lora_rank"], &["kv_a_proj_with_mqa", "kv_b_proj"]),
    of(
        "state spaces",
        &["ssm_state_size", "mamba_d_state", "mamba_d_ssm", "state_size", "ssm_cfg"],
        &["mamba", "ssm", "A_log", "x_proj", "dt_proj"],
    ),
    of("gated delta rule", &["linear_num_key_heads", "linear_attn_config"], &["linear_attn"]),
    of("short convolutions", &["conv_L_cache", "conv_window"], &["conv", "conv1d", "short_conv"]),
    of(
        "logit caps",
        &["final_logit_softcapping", "attn_logit_softcapping", "logits_soft_cap", "attn_logit_cap"],
        &[],
    ),
    of(
        "scaled embeddings, branches or logits",
        &[
            "embedding_multiplier",
            "residual_multiplier",
            "attention_multiplier",
            "logits_scaling",
            "logit_scale",
            "scale_emb",
            "scale_depth",
            "lm_head_multiplier",
        ],
        &[],
    ),
    of("a factor of the scores of its own", &["query_pre_attn_scalar", "attn_scale"], &[]),
    of("fused qkv", &[], &["qkv_proj", "query_key_value", "Wqkv", "wqkv", "c_attn", "att_proj", "qkv"]),
    of("fused gate and up", &[], &["gate_up_proj", "gate_and_up_proj", "w12"]),
    of(
        "norms of queries and keys",
        &["qk_norm", "use_qk_norm", "qk_layernorm", "use_qk_layernorm"],
        &["q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_layernorm", "key_layernorm"],
    ),
    of("an MLP without a gate", &[], &["fc1", "c_fc", "dense_h_to_4h"]),
    of("clipped qkv", &["clip_qkv"], &[]),
    of(
        "norms after the branches",
        &[],
        &[
            "post_feedforward_layernorm",
            "pre_feedforward_layernorm",
            "post_self_attn_layernorm",
            "post_mlp_layernorm",
            "post_attn_norm",
        ],
    ),
    of(
        "LayerNorm",
        &["layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon"],
        &["ln_1", "ln_f", "final_layer_norm", "final_layernorm"],
    ),
    of("parallel branches", &["use_parallel_residual", "parallel_attn", "parallel_residual"], &[]),
    of("partial RoPE", &["partial_rotary_factor", "rotary_pct", "rotary_dim", "rotary_percentage"], &[]),
    of("RoPE per kind of layer", &["rope_local_base_freq", "local_rope_theta", "swa_rope_theta"], &[]),
    of("learned positions", &["n_positions"], &["wpe", "position_embeddings", "embed_positions"]),
    of("attention sinks", &[], &["sinks", "attention_sink_bias"]),
    of("gated attention", &["attn_output_gate", "use_head_gate"], &["g_proj", "attn_gate"]),
    of("embeddings per layer", &["hidden_size_per_layer_input"], &["embed_tokens_per_layer"]),
    of("keys and values of another layer", &["num_kv_shared_layers", "use_cla"], &[]),
    of("an encoder", &["is_encoder_decoder"], &["encoder"]),
    of("a text model inside", &["text_config", "llm_config", "language_config"], &["language_model"]),
    of("towers for images or sounds", &["vision_config", "audio_config", "vision_tower"], TOWERS),
];

/// Sections of config.json that may hold the keys of a text model, or those of its attention and its MLPs.
const SECTIONS: [&str; 5] = ["text_config", "llm_config", "language_config", "attn_config", "ffn_config"];

/// Names of the activation of a `llama`.
const ACTIVATIONS: [&str; 2] = ["silu", "swish"];

/// Keys that change what other architectures compute, and that `llama` does not have.
const FOREIGN: [&str; 11] = [
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "query_pre_attn_scalar",
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "logits_scaling",
    "logit_scale",
    "scale_emb",
    "scale_depth",
    "clip_qkv",
];

const fn of(name: &'static str, keys: &'static [&'static str], parts: &'static [&'static str]) -> Mechanism {
    Mechanism { name, keys, parts }
}

/// True if `name` is that of a tensor or layer of a tower.
pub(super) fn is_of_tower(name: &str) -> bool {
    name.split('.').any(|part| TOWERS.contains(&part))
}

/// Describes in one sentence what a model with this config and tensors of these `names` seems to need, each mechanism with the
/// key or name that speaks for it.
fn seemingly_needed<'a>(config: &ModelConfig, names: impl Iterator<Item = &'a str>) -> String {
    let (towers, decoder): (Vec<&str>, Vec<&str>) = names.partition(|name| is_of_tower(name));
    let sections = sections(config.keys());
    let mut needed: Vec<String> = MECHANISMS
        .iter()
        .filter_map(|mechanism| {
            let names = if mechanism.parts == TOWERS { &towers } else { &decoder };
            Some(format!("{} (`{}`)", mechanism.name, trace(mechanism, &sections, names)?))
        })
        .collect();
    let has = |part| decoder.iter().any(|name| has_part(name, part));
    if has("up_proj") && !has("gate_proj") {
        needed.push("an MLP without a gate (`up_proj`)".to_owned());
    }
    needed.extend(activation(&sections).map(|name| format!("the activation `{name}`")));
    if needed.is_empty() {
        return "nothing in config.json and the tensors' names looks unlike a `llama`".to_owned();
    }
    format!("by config.json and the tensors' names it seems to need {}", needed.join(", "))
}

/// Finds the row for the `model_type` of the `config` of a model that consists of `files`.
///
/// # Errors
/// When there is none. The hint says what the model seems to need, and how to report it.
pub fn find_architecture(config: &ModelConfig, files: &ModelFiles) -> Result<&'static Architecture> {
    architectures::find(config).map_err(|error| {
        let needed = match Checkpoint::open_with_faults(files) {
            Ok((checkpoint, _)) => seemingly_needed(config, checkpoint.iter().map(|(name, _)| name)),
            Err(_) => seemingly_needed(config, std::iter::empty()),
        };
        let known = architectures::rows().iter().map(|row| row.model_type);
        let near = words::nearest(config.model_type(), known)
            .map(|near| format!("did you mean `{near}`? If it is another architecture, "))
            .unwrap_or_default();
        error.hint(format!(
            "{near}{needed}; `mixbit models` lists what is supported; to ask for more, open an issue with this message \
             and config.json"
        ))
    })
}

/// Returns a note on keys of other architectures in the config of a `llama` or `mistral`, which that class does not read.
pub fn ignored_keys(config: &ModelConfig, architecture: &str) -> Option<String> {
    if !["llama", "mistral"].contains(&architecture) {
        return None;
    }
    let is_set = |key: &&&str| config.get(key).is_some_and(is_in_effect);
    let keys: Vec<String> = FOREIGN.iter().filter(is_set).map(|key| format!("`{key}`")).collect();
    (!keys.is_empty()).then(|| {
        let keys = keys.join(", ");
        format!("config.json has keys of other architectures, {keys}: ignored, as transformers does for a `{architecture}`")
    })
}

/// Returns config.json's keys, and those of the sections in it.
fn sections(keys: &Map<String, Value>) -> Vec<&Map<String, Value>> {
    let inner = SECTIONS.iter().filter_map(|section| keys.get(*section)?.as_object());
    std::iter::once(keys).chain(inner).collect()
}

/// Returns the first key or name that speaks for `mechanism`.
fn trace<'a>(mechanism: &Mechanism, sections: &[&Map<String, Value>], names: &[&'a str]) -> Option<&'a str> {
    let is_set = |key: &&&str| sections.iter().any(|keys| keys.get(**key).is_some_and(is_in_effect));
    let key = mechanism.keys.iter().find(is_set).copied();
    key.or_else(|| mechanism.parts.iter().find(|part| names.iter().any(|name| has_part(name, part))).copied())
}

/// Returns an activation that a `llama` does not have.
fn activation<'a>(sections: &[&'a Map<String, Value>]) -> Option<&'a str> {
    let keys = ["hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act"];
    let mut values =
        sections.iter().flat_map(|section| keys.iter().filter_map(|key| section.get(*key)?.as_str()));
    values.find(|name| !ACTIVATIONS.contains(name))
}

/// True if a tensor's name has `part` between its dots.
fn has_part(name: &str, part: &str) -> bool {
    name.split('.').any(|piece| piece == part)
}

/// True if a model whose config has this value of a mechanism's key is one with the mechanism.
fn is_in_effect(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_on) => *is_on,
        // Factors of 1 and counts of 0 change nothing.
        Value::Number(_) => !json::equal(value, &0.into()) && !json::equal(value, &1.into()),
        Value::String(text) => !text.is_empty() && text != "none",
        Value::Array(items) => !items.is_empty(),
        Value::Object(keys) => !keys.is_empty(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;
    use std::path::Path;

    use super::*;

    fn needed(config: &Value, names: &[&str]) -> String {
        let config = ModelConfig::parse(Path::new("config.json"), &config.to_string()).unwrap();
        seemingly_needed(&config, names.iter().copied())
    }

    #[test]
    fn keys_and_names_tell_mechanisms() {
        let gemma2 = json!({
            "model_type": "gemma2", "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 256,
            "hidden_activation": "quick_gelu", "num_experts": 0, "embedding_multiplier": 1.0
        });
        assert_eq!(
            needed(&gemma2, &["model.layers.0.pre_feedforward_layernorm.weight"]),
            "by config.json and the tensors' names it seems to need logit caps (`final_logit_softcapping`), a factor of \
             the scores of its own (`query_pre_attn_scalar`), norms after the branches (`pre_feedforward_layernorm`), \
             the activation `quick_gelu`"
        );
        let phi = needed(&json!({"model_type": "phi3"}), &["model.layers.0.self_attn.qkv_proj.weight"]);
        assert!(phi.ends_with("fused qkv (`qkv_proj`)"), "{phi}");
        let apertus = json!({"model_type": "newthing", "hidden_act": "xielu"});
        let apertus = needed(
            &apertus,
            &["model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_norm.weight"],
        );
        assert!(
            apertus.ends_with(
                "norms of queries and keys (`q_norm`), an MLP without a gate (`up_proj`), the activation `xielu`"
            ),
            "{apertus}"
        );
        for keys in [json!({"clip_qkv": 8.0}), json!({"attn_config": {"clip_qkv": 8}})] {
            let mut olmo = json!({"model_type": "olmo9"});
            olmo.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            let olmo = needed(&olmo, &[]);
            assert!(olmo.ends_with("need clipped qkv (`clip_qkv`)"), "{olmo}");
        }
        let tower = needed(&json!({"model_type": "new_vl"}), &["visual.blocks.0.attn.qkv.weight"]);
        assert!(tower.ends_with("need towers for images or sounds (`visual`)"), "{tower}");
    }

    #[test]
    fn text_models_inside_count() {
        let config =
            json!({"model_type": "kimi_vl", "text_config": {"kv_lora_rank": 512}, "vision_config": {"a": 1}});
        let said = needed(&config, &[]);
        for part in
            ["latent attention (`kv_lora_rank`)", "a text model inside (`text_config`)", "(`vision_config`)"]
        {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn foreign_keys_are_said_to_be_ignored() {
        let keys = json!({"model_type": "llama", "clip_qkv": 8, "embedding_multiplier": 12.0, "logits_scaling": 1.0});
        let config = ModelConfig::parse(Path::new("config.json"), &keys.to_string()).unwrap();
        assert_eq!(
            ignored_keys(&config, "llama").unwrap(),
            "config.json has keys of other architectures, `embedding_multiplier`, `clip_qkv`: ignored, as transformers \
             does for a `llama`"
        );
        assert_eq!(ignored_keys(&config, "granite"), None);
    }

    #[test]
    fn plain_models_need_nothing() {
        let said = needed(&json!({"model_type": "gpt9", "hidden_act": "silu"}), &["model.norm.weight"]);
        assert_eq!(said, "nothing in config.json and the tensors' names looks unlike a `llama`");
    }
}
