//! nanochat: norms without weights, also after the embedding; an MLP of squares, angles of RoPE negative, capped logits.

use super::module_names::{NANOCHAT, NANOCHAT_MODULES};
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::Rename;
use crate::models::spec::{Activation, DecoderSpec, NormKind, NormSpec, QkNorm, Rope};

/// Defaults of transformers' `NanoChatConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 50_304),
    KeyDefault::size("hidden_size", 768),
    KeyDefault::size("intermediate_size", 8192),
    KeyDefault::size("num_hidden_layers", 12),
    KeyDefault::size("num_attention_heads", 6),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::text("hidden_act", "relu2"),
    KeyDefault::size("max_position_embeddings", 2048).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::nullable_number("final_logit_softcapping", 15.0),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_activation("hidden_act", &["relu2"])?;
    let rope = Rope { reversed: true, ..Rope::from_config(config)? };
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    spec.set_names(&NANOCHAT);
    spec.embed.norm = Some(NormSpec::rms(String::new(), spec.hidden_size, spec.head.norm.eps));
    spec.set_norms(NormKind::RmsWeightless);
    spec.set_plain_mlps(Activation::Relu2);
    let eps = spec.head.norm.eps;
    spec.attentions_mut().for_each(|attention| attention.qk_norm = QkNorm::Weightless(eps));
    spec.head.cap = config.positive("final_logit_softcapping")?.map(|cap| cap as f32);
    spec.notes.push("norms have the config's epsilon; mlx-lm's nanochat has 1e-5 always".to_owned());
    spec.note_rope_scaling(config);
    spec.note_head_dim(config);
    spec.note_head(config, false);
    Ok(spec)
}

/// Renames transformers' modules.
pub fn rename(name: &str) -> Rename {
    if name == "model.embed_tokens.weight" {
        return Rename::To("transformer.wte.weight".to_owned());
    }
    let Some((layer, rest)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
        return Rename::Keep;
    };
    let module = NANOCHAT_MODULES.iter().find_map(|(theirs, ours)| Some((ours, rest.strip_prefix(theirs)?)));
    module.map_or(Rename::Keep, |(module, part)| Rename::To(format!("transformer.h.{layer}.{module}{part}")))
}
