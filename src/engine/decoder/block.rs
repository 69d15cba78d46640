//! The decoder block, once for every architecture.

use mlx_rs::Array;
use mlx_rs::fast::rms_norm;
use std::slice::from_mut;

use super::attention::{Positions, attend, attend_cached};
use super::experts::{Choice, Router};
use super::linear::Linear;
use super::load::Loader;
use super::mlp::{Context, Gated, Matrix};
use crate::engine::cache::layer::KvCache;
use crate::error::Result;
use crate::models::spec::{DecoderSpec, LayerSpec, QkNorm, Role};

/// Weights of one block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) layer: LayerSpec,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) mlp: Gated,
    /// Router of an MLP of experts.
    pub(crate) router: Option<Router>,
    q_norm: Option<Array>,
    k_norm: Option<Array>,
    input_norm: Array,
    post_attention_norm: Array,
}

/// Outputs of a block's attention: the inputs of its MLP.
pub(crate) struct Attended {
    /// Residual stream [batch, tokens, hidden].
    stream: Array,
    /// Normed input of the MLP [batch, tokens, hidden].
    normed: Array,
    /// Probabilities of the experts, [tokens, experts].
    probabilities: Option<Array>,
}

impl Attended {
    /// Returns all arrays, to be evaluated.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        [&self.stream, &self.normed].into_iter().chain(&self.probabilities)
    }
}

impl Block {
    pub(crate) fn load(loader: &Loader<'_>, index: usize) -> Result<Self> {
        let spec = loader.source.spec();
        let path = format!("model.layers.{index}");
        let attention =
            |name: &str, role| loader.linear(&format!("{path}.self_attn.{name}"), spec.biases.has(role));
        let router = Router::load(loader, index)?;
        let mlp = |name: &str, role| match spec.experts_of(index) {
            Some(experts) => loader.experts(&spec.experts_path(index, name), experts.count),
            None => Ok(vec![loader.linear(&spec.mlp_path(index, name), spec.biases.has(role))?]),
        };
        let norm = |name: &str| loader.float(&format!("{path}.{name}.weight"));
        let weighted = spec.qk_norm == QkNorm::Weighted;
        Ok(Self {
            layer: spec.layers[index],
            q: attention("q_proj", Role::Q)?,
            k: attention("k_proj", Role::K)?,
            v: attention("v_proj", Role::V)?,
            o: attention("o_proj", Role::O)?,
            mlp: Gated {
                gate: mlp("gate_proj", Role::Gate)?,
                up: mlp("up_proj", Role::Up)?,
                down: mlp("down_proj", Role::Down)?,
            },
            router,
            q_norm: weighted.then(|| norm("self_attn.q_norm")).transpose()?,
            k_norm: weighted.then(|| norm("self_attn.k_norm")).transpose()?,
            input_norm: norm("input_layernorm")?,
            post_attention_norm: norm("post_attention_layernorm")?,
        })
    }

    /// Loads a block that many sequences go through. On the CPU, whose products with quantized matrices decode them, all
    /// of them are decoded here once and not for each sequence.
    pub(crate) fn load_for_many(loader: &Loader<'_>, context: Context<'_>, index: usize) -> Result<Self> {
        let mut block = Self::load(loader, index)?;
        if !context.on_gpu {
            for role in Role::BLOCK {
                for linear in block.linears_mut(role) {
                    linear.weight.decode(context.dtype)?;
                }
            }
            if let Some(router) = &mut block.router {
                router.weight.decode(context.dtype)?;
            }
        }
        Ok(block)
    }

    /// Returns the linear layers of `role`: one, or one per expert.
    pub(crate) fn linears_mut(&mut self, role: Role) -> &mut [Linear] {
        match role {
            Role::Q => from_mut(&mut self.q),
            Role::K => from_mut(&mut self.k),
            Role::V => from_mut(&mut self.v),
            Role::O => from_mut(&mut self.o),
            Role::Gate => &mut self.mlp.gate,
            Role::Up => &mut self.mlp.up,
            Role::Down => &mut self.mlp.down,
            Role::Router | Role::Embed | Role::Head | Role::Norm => &mut [],
        }
    }

    /// Returns the weights of this block's norms, with their names inside the block.
    pub(crate) fn norms_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Array)> {
        let Self { q_norm, k_norm, input_norm, post_attention_norm, .. } = self;
        [
            ("self_attn.q_norm.weight", q_norm.as_mut()),
            ("self_attn.k_norm.weight", k_norm.as_mut()),
            ("input_layernorm.weight", Some(input_norm)),
            ("post_attention_layernorm.weight", Some(post_attention_norm)),
        ]
        .into_iter()
        .filter_map(|(name, norm)| Some((name, norm?)))
    }

    /// Computes the block's output [batch, tokens, hidden] from x of that shape. Without a cache the tokens are the
    /// whole sequence.
    pub(crate) fn forward(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        cache: Option<&mut KvCache>,
    ) -> Result<Array> {
        let attended = self.attend(context, x, positions, cache, &mut |_, _| {})?;
        let choice = self.choose(&attended)?;
        self.finish(context, &attended, choice.as_ref(), &mut |_, _| {})
    }

    /// Computes the block's output for a whole sequence x, with its experts already chosen.
    pub(crate) fn forward_chosen(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        choice: Option<&Choice>,
    ) -> Result<Array> {
        let attended = self.attend(context, x, positions, None, &mut |_, _| {})?;
        self.finish(context, &attended, choice, &mut |_, _| {})
    }

    /// Computes attention, up to the MLP's input. `observe` sees the inputs of the linear layers: of q (which k and v
    /// share) and o.
    pub(crate) fn attend(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        cache: Option<&mut KvCache>,
        observe: &mut dyn FnMut(Matrix, &Array),
    ) -> Result<Attended> {
        let eps = context.spec.rms_norm_eps;
        let normed = rms_norm(x, Some(&self.input_norm), eps)?;
        let stream = x.add(self.attention(context, &normed, positions, cache, observe)?)?;
        let normed = rms_norm(&stream, Some(&self.post_attention_norm), eps)?;
        let probabilities = self.router.as_ref().map(|router| router.probabilities(&normed));
        Ok(Attended { probabilities: probabilities.transpose()?, stream, normed })
    }

    /// Chooses the experts of the tokens; `None` where the MLP has none. Evaluates.
    pub(crate) fn choose(&self, attended: &Attended) -> Result<Option<Choice>> {
        let Some(router) = &self.router else { return Ok(None) };
        attended.probabilities.as_ref().map(|probabilities| router.choose(probabilities)).transpose()
    }

    /// Computes the MLP and the block's output. `observe` sees the inputs of gate (which up shares) and down.
    pub(crate) fn finish(
        &self,
        context: Context<'_>,
        attended: &Attended,
        choice: Option<&Choice>,
        observe: &mut dyn FnMut(Matrix, &Array),
    ) -> Result<Array> {
        let Attended { stream, normed, probabilities } = attended;
        let added = if let Some(router) = &self.router
            && let Some(probabilities) = probabilities
            && let Some(choice) = choice
        {
            router.forward(context, &self.mlp, normed, probabilities, choice, observe)?
        } else {
            self.mlp.forward(normed, observe)?
        };
        Ok(stream.add(added)?)
    }

    fn attention(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        cache: Option<&mut KvCache>,
        observe: &mut dyn FnMut(Matrix, &Array),
    ) -> Result<Array> {
        observe(Role::Q.into(), x);
        let Context { spec, dtype, .. } = context;
        let linear = |linear: &Linear| linear.forward(x);
        let projected = [linear(&self.q)?, linear(&self.k)?, linear(&self.v)?];
        let (q, k, v) = self.heads(context, projected, positions)?;
        let scale = attention_scale(spec);
        let out = if let Some(cache) = cache {
            let (k, v) = cache.update(&k, &v)?;
            attend_cached(&q, &k, &v, scale, &positions.mask(cache.span(), k.positions()), dtype)?
        } else {
            attend(&q, &k, &v, scale, &positions.mask(self.layer.span, x.shape()[1] as usize))?
        };
        let out = concatenate_heads(&out)?;
        observe(Role::O.into(), &out);
        self.o.forward(&out)
    }

    /// Splits queries, keys and values [batch, tokens, ..] into heads [batch, heads, tokens, dim] and applies their
    /// positions.
    fn heads(
        &self,
        context: Context<'_>,
        [q, k, v]: [Array; 3],
        positions: &Positions,
    ) -> Result<(Array, Array, Array)> {
        let spec = context.spec;
        let heads = |y: &Array, count: usize| {
            y.reshape(&[y.shape()[0], y.shape()[1], count as i32, spec.head_dim as i32])
        };
        let (q, k) = (heads(&q, spec.num_attention_heads)?, heads(&k, spec.num_key_value_heads)?);
        let q = self.positioned(context, q, self.q_norm.as_ref(), positions)?;
        let k = self.positioned(context, k, self.k_norm.as_ref(), positions)?;
        let v = heads(&v, spec.num_key_value_heads)?.transpose_axes(&[0, 2, 1, 3])?;
        let q = match &positions.temperatures {
            Some(factors) if !self.layer.rope => q.multiply(factors.as_dtype(q.dtype())?)?,
            _ => q,
        };
        Ok((q, k, v))
    }

    /// Applies the norm per head, puts heads before tokens, and rotates.
    fn positioned(
        &self,
        context: Context<'_>,
        x: Array,
        weight: Option<&Array>,
        positions: &Positions,
    ) -> Result<Array> {
        let eps = context.spec.rms_norm_eps;
        let x = match context.spec.qk_norm {
            QkNorm::Weighted => rms_norm(&x, weight, eps)?,
            QkNorm::Weightless if self.layer.rope => rms_norm(&x, None, eps)?,
            QkNorm::Weightless | QkNorm::None => x,
        };
        let x = x.transpose_axes(&[0, 2, 1, 3])?;
        if self.layer.rope { positions.rotation.apply(&x) } else { Ok(x) }
    }
}

/// Returns the factor on the products of queries and keys.
fn attention_scale(spec: &DecoderSpec) -> f32 {
    (spec.head_dim as f32).powf(-0.5)
}

/// Concatenates heads [batch, heads, tokens, dim] to [batch, tokens, heads * dim].
fn concatenate_heads(heads: &Array) -> Result<Array> {
    let sizes = heads.shape();
    let concatenated = [sizes[0], sizes[2], sizes[1] * sizes[3]];
    Ok(heads.transpose_axes(&[0, 2, 1, 3])?.reshape(&concatenated)?)
}
