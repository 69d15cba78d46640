//! Changes that several architectures make to Llama's block, or that take more than a line.

use serde_json::Value;

use super::decoder::DecoderSpec;
use super::mlp::XIELU_PARAMETERS;
use super::norm::{NormKind, NormSpec, QkNorm};
use super::parts::{AttentionSpan, BlockSpec, Projections};
use crate::error::Result;
use crate::models::config::ModelConfig;

/// Most heads with a norm each that are taken for meant.
const MOST_HEADS: usize = 1024;

/// Test of blocks that have a window.
pub(crate) struct WindowPattern {
    /// Letters of a repeated pattern, L for a window; none where there is one block without it in `distance`, the last.
    letters: Vec<u8>,
    distance: usize,
}

impl WindowPattern {
    /// Reads `key`: letters (L and G, repeated), or the distance of blocks without a window, 1 where it is absent.
    pub fn from_config(config: &ModelConfig, key: &str) -> Result<Self> {
        match config.get(key) {
            Some(Value::String(text)) if !text.is_empty() && text.chars().all(|c| "LG".contains(c)) => {
                Ok(Self { letters: text.clone().into_bytes(), distance: text.len() })
            }
            Some(Value::String(_)) => Err(config.error(key, "expected a number, or the letters L and G")),
            _ => Ok(Self { letters: Vec::new(), distance: config.size(key)?.unwrap_or(1) }),
        }
    }

    /// True if `block` has a window.
    pub fn is_sliding(&self, block: usize) -> bool {
        let place = block % self.distance;
        self.letters.get(place).map_or(place + 1 < self.distance, |&letter| letter == b'L')
    }
}

/// Returns the multiple of `divisor` nearest to `wanted`, or the next where that is more than a tenth less.
pub(crate) fn divisible_size(wanted: f64, divisor: usize) -> usize {
    let rounded = ((wanted + divisor as f64 / 2.0) as usize / divisor * divisor).max(divisor);
    if (rounded as f64) < 0.9 * wanted { rounded + divisor } else { rounded }
}

impl BlockSpec {
    /// Returns the norms before and after the parts, to be changed.
    pub(crate) fn norms_mut(&mut self) -> impl Iterator<Item = &mut NormSpec> {
        let Self { attention, mlp, .. } = self;
        [&mut attention.before, &mut attention.after, &mut mlp.before, &mut mlp.after].into_iter().flatten()
    }

    /// Returns the norms after the parts, to be changed.
    pub(crate) fn norms_after_mut(&mut self) -> impl Iterator<Item = &mut NormSpec> {
        self.attention.after.iter_mut().chain(&mut self.mlp.after)
    }
}

impl DecoderSpec {
    /// Takes query, key and value of each head from rows that lie together; every head has its own key and value.
    pub(crate) fn fuse_heads(&mut self) {
        for attention in self.attentions_mut() {
            (attention.projections, attention.kv_heads) = (Projections::FusedByHead, attention.heads);
        }
    }

    /// Gives every head of the queries and keys a norm of this kind, inside `q_layernorm` and `k_layernorm`.
    ///
    /// # Errors
    /// When there are more heads than any model has.
    pub(crate) fn set_norms_of_each_head(&mut self, config: &ModelConfig, kind: NormKind) -> Result<()> {
        let heads = self.attentions().map(|attention| attention.heads).max().unwrap_or(0);
        if heads > MOST_HEADS {
            return Err(config.error("num_attention_heads", format!("{heads} is more than {MOST_HEADS}")));
        }
        let eps = self.head.norm.eps;
        for attention in self.attentions_mut() {
            let norm = |of: &str, head: usize| {
                let path = format!("{}.{of}.norms.{head}", attention.path);
                NormSpec { kind, ..NormSpec::rms(path, attention.head_dim, eps) }
            };
            let queries = (0..attention.heads).map(|head| norm("q_layernorm", head));
            let keys = (0..attention.kv_heads).map(|head| norm("k_layernorm", head));
            attention.qk_norm = QkNorm::EachHead(queries.chain(keys).collect());
        }
        Ok(())
    }

    /// Gives the activations of all MLPs their parameters: single numbers, as vectors of one or as scalars, whichever of the
    /// two `stored` has of a name. Other shapes are refused later.
    pub(crate) fn set_activation_parameters<'s>(&mut self, stored: impl Fn(&str) -> Option<&'s Vec<usize>>) {
        for mlp in self.mlps_mut() {
            let usual = |name: &str| if name.starts_with("alpha") { vec![1] } else { Vec::new() };
            mlp.activation_shapes = XIELU_PARAMETERS.map(usual).into();
            let names: Vec<String> = mlp.activation_names().collect();
            for (shape, name) in mlp.activation_shapes.iter_mut().zip(&names) {
                if let Some(stored) = stored(name).filter(|stored| stored.iter().all(|size| *size == 1)) {
                    shape.clone_from(stored);
                }
            }
        }
    }

    /// Writes which blocks have a window, for a class of mlx-lm's that finds them otherwise.
    pub(crate) fn write_layer_types(&mut self) {
        let kind = |span| if span == AttentionSpan::Full { "full_attention" } else { "sliding_attention" };
        let kinds: Vec<&str> = self.attentions().map(|attention| kind(attention.span)).collect();
        self.resolved.push(("layer_types", kinds.into()));
    }

    /// Writes the base of each block's rotation, 0 where nothing is rotated.
    pub(crate) fn write_layer_bases(&mut self) {
        let base = |rope: Option<usize>| rope.map_or(0.0, |rope| self.ropes[rope].theta);
        let bases: Vec<f64> = self.attentions().map(|attention| base(attention.rope)).collect();
        self.resolved.push(("layer_rope_theta", bases.into()));
    }

    /// Writes null for those of `keys` that neither the config has nor a line before this wrote, for a class of mlx-lm's that
    /// has no defaults for them.
    pub(crate) fn write_absent(&mut self, config: &ModelConfig, keys: &[&'static str]) {
        for &key in keys {
            if config.get(key).is_none() && !self.resolved.iter().any(|(resolved, _)| *resolved == key) {
                self.resolved.push((key, Value::Null));
            }
        }
    }
}
