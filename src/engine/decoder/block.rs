//! The decoder block, once for every architecture.

use mlx_rs::Array;
use mlx_rs::fast::rms_norm;
use std::slice::from_mut;

use super::attention::{Positions, attend, attend_held};
use super::experts::{Choice, Router};
use super::linear::Linear;
use super::load::Loader;
use super::mlp::{Context, Gated, Matrix};
use crate::engine::cache::layer::KvCache;
use crate::error::Result;
use crate::models::spec::{DecoderSpec, LayerSpec, QkNorm, Role};

/// The weights of one block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) layer: LayerSpec,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) mlp: Gated,
    /// Where the MLP is made of experts.
    pub(crate) router: Option<Router>,
    q_norm: Option<Array>,
    k_norm: Option<Array>,
    input_norm: Array,
    post_attention_norm: Array,
}

/// A block's way up to its MLP.
pub(crate) struct Attended {
    /// The residual stream.
    stream: Array,
    /// What the MLP gets.
    normed: Array,
    /// Of the experts, [tokens, experts].
    probabilities: Option<Array>,
}

impl Attended {
    /// All of it.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        [&self.stream, &self.normed].into_iter().chain(&self.probabilities)
    }
}

impl Block {
    pub(crate) fn load(loader: &Loader<'_>, index: usize) -> Result<Self> {
        let spec = loader.source.spec();
        let path = format!("model.layers.{index}");
        let attention = |name: &str| loader.linear(&format!("{path}.self_attn.{name}"), spec.attention_bias);
        let router = Router::load(loader, index)?;
        let mlp = |name: &str| match spec.experts_of(index) {
            Some(experts) => loader.experts(&spec.experts_path(index, name), experts.count),
            None => Ok(vec![loader.linear(&spec.mlp_path(index, name), spec.mlp_bias)?]),
        };
        let norm = |name: &str| loader.float(&format!("{path}.{name}.weight"));
        let weighted = spec.qk_norm == QkNorm::Weighted;
        Ok(Self {
            layer: spec.layers[index],
            q: attention("q_proj")?,
            k: attention("k_proj")?,
            v: attention("v_proj")?,
            o: attention("o_proj")?,
            mlp: Gated { gate: mlp("gate_proj")?, up: mlp("up_proj")?, down: mlp("down_proj")? },
            router,
            q_norm: weighted.then(|| norm("self_attn.q_norm")).transpose()?,
            k_norm: weighted.then(|| norm("self_attn.k_norm")).transpose()?,
            input_norm: norm("input_layernorm")?,
            post_attention_norm: norm("post_attention_layernorm")?,
        })
    }

    /// Loads a block that many sequences go through: on the CPU, which decodes quantized matrices for products with many
    /// rows, this is done here once and not for each of them.
    pub(crate) fn load_for_many(loader: &Loader<'_>, context: Context<'_>, index: usize) -> Result<Self> {
        let mut block = Self::load(loader, index)?;
        if !context.on_gpu {
            let Self { q, k, v, o, mlp: Gated { gate, up, down }, router, .. } = &mut block;
            let mlps = [gate, up, down].into_iter().flatten();
            let linears = [q, k, v, o].into_iter().chain(mlps).map(|linear| &mut linear.weight);
            let router = router.as_mut().map(|router| &mut router.weight);
            linears.chain(router).try_for_each(|weight| weight.decode(context.dtype))?;
        }
        Ok(block)
    }

    /// The linear layers of `role`: one, or one an expert.
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

    /// The weights of the norms that this block has, by the rest of their names.
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

    /// x [batch, tokens, hidden] to the same. Without a cache the tokens are the whole sequence.
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

    /// The same of a whole sequence for which the experts are chosen.
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

    /// The experts that the tokens of a whole sequence x go to, if there are any. Evaluates.
    pub(crate) fn choose_for(&self, context: Context<'_>, x: &Array) -> Result<Option<Choice>> {
        if self.router.is_none() {
            return Ok(None);
        }
        let mut positions = Positions::new(context.spec, 0, x.shape()[1] as usize);
        self.choose(&self.attend(context, x, &mut positions, None, &mut |_, _| {})?)
    }

    /// Up to the MLP, showing `observe` the input of the linear layers: of q (and k and v) and o.
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
        let probabilities = self.router.as_ref().map(|router| router.probabilities(context, &normed));
        Ok(Attended { probabilities: probabilities.transpose()?, stream, normed })
    }

    /// The experts that the tokens go to, if there are any. Evaluates.
    pub(crate) fn choose(&self, attended: &Attended) -> Result<Option<Choice>> {
        let chosen = self.router.as_ref().zip(attended.probabilities.as_ref());
        chosen.map(|(router, probabilities)| router.choose(probabilities)).transpose()
    }

    /// Through the MLP, showing `observe` the input of gate (and up) and down.
    pub(crate) fn finish(
        &self,
        context: Context<'_>,
        attended: &Attended,
        choice: Option<&Choice>,
        observe: &mut dyn FnMut(Matrix, &Array),
    ) -> Result<Array> {
        let Attended { stream, normed, probabilities } = attended;
        let added = match (&self.router, probabilities, choice) {
            (Some(router), Some(probabilities), Some(choice)) => {
                router.forward(context, &self.mlp, normed, probabilities, choice, observe)?
            }
            _ => self.mlp.forward(context, normed, observe)?,
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
        let Context { spec, dtype, on_gpu } = context;
        let linear = |linear: &Linear| linear.forward(x, dtype, on_gpu);
        let projected = [linear(&self.q)?, linear(&self.k)?, linear(&self.v)?];
        let (q, k, v) = self.heads(context, projected, positions)?;
        let scale = scale(spec);
        let out = if let Some(cache) = cache {
            let (k, v) = cache.update(&k, &v)?;
            attend_held(&q, &k, &v, scale, &positions.mask(cache.span(), k.positions()), dtype)?
        } else {
            attend(&q, &k, &v, scale, &positions.mask(self.layer.span, x.shape()[1] as usize))?
        };
        let out = beside(&out)?;
        observe(Role::O.into(), &out);
        self.o.forward(&out, dtype, on_gpu)
    }

    /// What the linear layers give for queries, keys and values [batch, tokens, ..] to heads [batch, heads, tokens, dim]
    /// that know their positions.
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

    /// Norm per head, heads before tokens, rotation.
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

/// The factor on scores of queries and keys.
fn scale(spec: &DecoderSpec) -> f32 {
    (spec.head_dim as f32).powf(-0.5)
}

/// Heads [batch, heads, tokens, dim] beside each other: [batch, tokens, heads * dim].
fn beside(heads: &Array) -> Result<Array> {
    let sizes = heads.shape();
    let together = [sizes[0], sizes[2], sizes[1] * sizes[3]];
    Ok(heads.transpose_axes(&[0, 2, 1, 3])?.reshape(&together)?)
}
