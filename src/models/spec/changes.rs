//! Changes that several architectures make to Llama's block, or that take more than a line.

use serde_json::{Value, json};

use super::decoder::DecoderSpec;
use super::mlp::XIELU_PARAMETERS;
use super::norm::{NormKind, NormSpec, QkNorm};
use super::parts::{AttentionSpan, BlockSpec, Projections};
use super::rope::Rope;
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

    /// Gives the blocks with full attention the first of two rotations, and the others the second.
    pub(crate) fn set_ropes_by_span(&mut self) {
        for attention in self.attentions_mut() {
            attention.rope = Some(usize::from(attention.span != AttentionSpan::Full));
        }
    }

    /// True if some block has a window.
    pub(crate) fn has_windows(&self) -> bool {
        self.attentions().any(|attention| attention.span != AttentionSpan::Full)
    }

    /// Lets only blocks with a window rotate.
    pub(crate) fn rotate_windows_only(&mut self) {
        for attention in self.attentions_mut() {
            attention.rope = attention.rope.filter(|_| attention.span != AttentionSpan::Full);
        }
    }

    /// Gives each block its own of `ropes`, of which equal ones are kept once.
    pub(crate) fn set_layer_ropes(&mut self, ropes: Vec<Rope>) {
        self.ropes.clear();
        for (block, rope) in self.blocks.iter_mut().zip(ropes) {
            let known = self.ropes.iter().position(|known| *known == rope);
            block.attention.part.rope = Some(known.unwrap_or(self.ropes.len()));
            if known.is_none() {
                self.ropes.push(rope);
            }
        }
    }

    /// Gives the block number `block` other heads for queries and for keys, as `key` says it.
    pub(crate) fn set_heads(
        &mut self,
        config: &ModelConfig,
        key: &str,
        block: usize,
        [heads, kv_heads]: [usize; 2],
    ) -> Result<()> {
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(config.error(key, format!("{heads} heads on {kv_heads} of keys")));
        }
        let attention = &mut self.blocks[block].attention.part;
        (attention.heads, attention.kv_heads) = (heads, kv_heads);
        Ok(())
    }

    /// Names the norms before and after the MLP of every block, where there are some.
    pub(crate) fn name_norms_of_mlps(&mut self, before: &str, after: &str) {
        for BlockSpec { path, mlp, .. } in &mut self.blocks {
            for (norm, name) in [(&mut mlp.before, before), (&mut mlp.after, after)] {
                if let Some(norm) = norm {
                    norm.path = format!("{path}.{name}");
                }
            }
        }
    }

    /// Gives every head values of so many dimensions, times a factor.
    pub(crate) fn set_values(&mut self, dims: usize, factor: Option<f32>) {
        self.attentions_mut()
            .for_each(|attention| (attention.value_dim, attention.value_factor) = (dims, factor));
    }

    /// Gives each block the heads that the list `key` has for it, where there is one.
    pub(crate) fn set_heads_by_block(&mut self, config: &ModelConfig, key: &str) -> Result<()> {
        let Some(heads) = config.indices(key)? else { return Ok(()) };
        let count = self.blocks.len();
        if heads.len() != count {
            return Err(config.error(key, format!("{} entries for {count} layers", heads.len())));
        }
        for (block, heads) in heads.into_iter().enumerate() {
            let kv_heads = self.blocks[block].attention.part.kv_heads;
            self.set_heads(config, key, block, [heads, kv_heads])?;
        }
        Ok(())
    }

    /// Writes both rotations where mlx-lm reads them, if config.json leaves them out, and notes what it does not read.
    pub(crate) fn write_ropes(&mut self, config: &ModelConfig) {
        if config.get("rope_parameters.full_attention.attention_factor").is_some() {
            self.notes.push(
                "attention_factor of yarn is applied as transformers does; mlx-lm computes its own"
                    .to_owned(),
            );
        }
        if config.get("rope_parameters").is_none() {
            let plain = |rope: &Rope| json!({"rope_type": "default", "rope_theta": rope.theta});
            let both =
                json!({"full_attention": plain(&self.ropes[0]), "sliding_attention": plain(&self.ropes[1])});
            self.resolved.push(("rope_parameters", both));
        }
    }

    /// Adds a note for the user where it `holds`.
    pub(crate) fn note_if(&mut self, holds: bool, note: &str) {
        self.notes.extend(holds.then(|| note.to_owned()));
    }

    /// Notes that mlx-lm's class, which has no biases, cannot load a model whose queries, keys and values have some.
    pub(crate) fn note_biases_of_queries(&mut self, config: &ModelConfig) {
        if self.attentions().any(|attention| attention.qkv_bias) {
            let name = config.model_type();
            self.notes.push(format!("mlx-lm's {name} cannot load a model with biases"));
        }
    }

    /// Notes that a window is applied which mlx-lm's class does not have.
    pub(crate) fn note_windows(&mut self, config: &ModelConfig) {
        let name = config.model_type();
        self.notes
            .push(format!("sliding_window is applied as transformers does; mlx-lm's {name} ignores it"));
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
