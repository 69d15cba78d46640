//! Helium: Llama's block with interleaved RoPE and no bias on attention's output.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::DecoderSpec;

/// Defaults of transformers' `HeliumConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 48_000),
    KeyDefault::size("hidden_size", 2560),
    KeyDefault::size("intermediate_size", 7040),
    KeyDefault::size("num_hidden_layers", 24),
    KeyDefault::size("num_attention_heads", 20),
    KeyDefault::nullable_size("num_key_value_heads", 20),
    KeyDefault::size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 4096).minor(),
    KeyDefault::number("rms_norm_eps", 1e-8),
    KeyDefault::number("rope_theta", 100_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("mlp_bias", false),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    let hidden = spec.hidden_size;
    let sizes = spec.attentions().map(|attention| (attention.head_dim, attention.heads)).next();
    if let Some((head_dim, heads)) = sizes.filter(|(head_dim, heads)| head_dim * heads != hidden) {
        let message = format!("{head_dim} times {heads} heads is not the hidden_size {hidden}");
        return Err(config
            .error("head_dim", message)
            .hint("attention's output is a square matrix in Helium"));
    }
    spec.ropes[0].traditional = true;
    spec.attentions_mut().for_each(|attention| attention.o_bias = false);
    spec.note_rope_scaling(config);
    if spec.head.tied {
        spec.notes
            .push("mlx-lm's helium cannot load a model with a tied head: it wants an lm_head".to_owned());
    }
    Ok(spec)
}
