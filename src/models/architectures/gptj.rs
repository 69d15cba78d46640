//! GPT-J: attention and an MLP without gate side by side behind one layer norm, interleaved RoPE on a part of each head.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::Rename;
use crate::models::spec::{
    Activation, Biases, BlockSpec, DecoderSpec, LLAMA_NAMES, ModuleNames, NormKind, Rope,
};

/// Defaults of transformers' `GPTJConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 50_400),
    KeyDefault::size("n_positions", 2048).minor(),
    KeyDefault::size("n_embd", 4096),
    KeyDefault::size("n_layer", 28),
    KeyDefault::size("n_head", 16),
    KeyDefault::size("rotary_dim", 64),
    KeyDefault::optional_size("n_inner"),
    KeyDefault::text("activation_function", "gelu_new"),
    KeyDefault::number("layer_norm_epsilon", 1e-5),
    KeyDefault::boolean("tie_word_embeddings", false),
];

/// Keys under GPT-2's names.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("max_position_embeddings", "n_positions"),
    ("rms_norm_eps", "layer_norm_epsilon"),
];

const NAMES: ModuleNames = ModuleNames {
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

/// Base of the rotation, which no key says.
const BASE: f64 = 10_000.0;

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &with_inner_size(&config.with_defaults(DEFAULTS).with_names(KEYS))?;
    config.only("tie_word_embeddings", &false.into())?;
    let dims = config.require_size("rotary_dim")?;
    let rope = Rope { traditional: true, ..Rope::plain(dims, BASE) };
    let mut spec = DecoderSpec::with_ropes(config, vec![rope])?;
    let head_dim = spec.attentions().next().map_or(0, |attention| attention.head_dim);
    if dims > head_dim || !dims.is_multiple_of(2) {
        let message = format!("{dims} is no even number up to the {head_dim} dimensions of a head");
        return Err(config.error("rotary_dim", message));
    }
    spec.set_names(&NAMES);
    spec.set_norms(NormKind::Layer);
    spec.set_plain_mlps(Activation::from_config(config, "activation_function")?);
    spec.set_biases(Biases { head: true, ..Biases::of_parts(false, true) });
    spec.blocks.iter_mut().for_each(BlockSpec::share_input);
    spec.note_gelu(config, Activation::GeluTanh);
    spec.note_inner_size(config, 4 * spec.hidden_size);
    Ok(spec)
}

/// Returns the config with the MLP's width, four times the hidden size where `n_inner` does not say it.
pub(super) fn with_inner_size(config: &ModelConfig) -> Result<ModelConfig> {
    let inner = config.size("n_inner")?.unwrap_or(4 * config.require_size("hidden_size")?);
    Ok(config.clone().with_value("intermediate_size", inner.into()))
}

/// Renames what transformers keeps in `transformer`, and drops buffers.
pub fn rename(name: &str) -> Rename {
    if name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") {
        return Rename::Drop;
    }
    if name.starts_with("lm_head.") || name.starts_with("model.") {
        return Rename::Keep;
    }
    Rename::To(format!("model.{}", name.strip_prefix("transformer.").unwrap_or(name)))
}
