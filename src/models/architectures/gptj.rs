//! GPT-J: attention and an MLP without gate side by side behind one layer norm, interleaved RoPE on a part of each head.

use super::module_names::{GPT2_KEYS, GPTJ};
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::{ATTENTION_BUFFERS, Rename, rename_prefix};
use crate::models::spec::{Activation, Biases, BlockSpec, DecoderSpec, NormKind, Rope};

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

/// Base of the rotation, which no key says.
const BASE: f64 = 10_000.0;

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS).with_names(GPT2_KEYS).with_inner_size()?;
    config.only("tie_word_embeddings", &false.into())?;
    let dims = config.require_size("rotary_dim")?;
    let rope = Rope { traditional: true, ..Rope::plain(dims, BASE) };
    let mut spec = DecoderSpec::with_ropes(config, vec![rope])?;
    let head_dim = spec.attentions().next().map_or(0, |attention| attention.head_dim);
    if dims > head_dim || !dims.is_multiple_of(2) {
        let message = format!("{dims} is no even number up to the {head_dim} dimensions of a head");
        return Err(config.error("rotary_dim", message));
    }
    spec.set_names(&GPTJ);
    spec.set_norms(NormKind::Layer);
    spec.set_plain_mlps(Activation::from_config(config, "activation_function")?);
    spec.set_biases(Biases { head: true, ..Biases::of_parts(false, true) });
    spec.blocks.iter_mut().for_each(BlockSpec::share_input);
    spec.note_gelu(config, Activation::GeluTanh);
    spec.note_inner_size(config, 4 * spec.hidden_size);
    Ok(spec)
}

/// Renames what transformers keeps in `transformer`, and drops buffers.
pub fn rename(name: &str) -> Rename {
    let kept = ["lm_head.", "model."].map(|start| (start, start));
    let moved = ["transformer.", ""].map(|start| (start, "model."));
    rename_prefix(name, &ATTENTION_BUFFERS, &[kept, moved].concat())
}
