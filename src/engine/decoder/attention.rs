//! Grouped-query attention.

use mlx_rs::Array;
use mlx_rs::fast::{self, ScaledDotProductAttentionMask as SdpaMask, rms_norm};
use mlx_rs::ops::softmax_axis;
use std::slice::from_mut;
use std::sync::Arc;

use super::capped::Capped;
use super::linear::Linear;
use super::load::Loader;
use super::mlp::{Context, Input, Nodes};
use super::norm::Norm;
use super::positions::{Mask, Positions};
use crate::engine::array::{Packed, capped, slice};
use crate::engine::cache::arrays::CachedArray;
use crate::engine::cache::layer::{KvCache, Slot};
use crate::engine::fused::{self, CachedAttention, Finish, HeadNorm, Layer};
use crate::error::Result;
use crate::models::spec::{AttentionSpec, QkNorm, Role};
use crate::numerics::dtype::Dtype;

/// Weights of attention.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    spec: Arc<AttentionSpec>,
    /// Projections of queries, keys and values, or one of all.
    inputs: Vec<Linear>,
    o: Linear,
    /// Norms of queries and of keys, where they have weights.
    norms: Option<[Norm; 2]>,
}

impl Attention {
    pub(crate) fn load(loader: &Loader<'_>, spec: &AttentionSpec) -> Result<Self> {
        let linear = |role| loader.linear(&spec.projection(role));
        let norms = match &spec.qk_norm {
            QkNorm::Weighted([q, k]) | QkNorm::AllHeads([q, k]) => {
                Some([Norm::load(loader, q)?, Norm::load(loader, k)?])
            }
            QkNorm::Weightless(_) | QkNorm::None => None,
        };
        Ok(Self {
            inputs: spec.input_roles().iter().map(|&role| linear(role)).collect::<Result<_>>()?,
            o: linear(Role::O)?,
            norms,
            spec: Arc::new(spec.clone()),
        })
    }

    /// Returns the linear layers.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut [Linear]> {
        self.inputs.iter_mut().chain([&mut self.o]).map(from_mut)
    }

    /// Returns the norms of queries and of keys that have weights.
    pub(crate) fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        self.norms.iter_mut().flatten()
    }

    /// Computes the output for x [batch, tokens, hidden], plus `addend` if there is one. Without a cache the tokens are the
    /// whole sequence. `observe` sees the inputs of the linear layers.
    pub(crate) fn forward_plus(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        cache: Option<&mut KvCache>,
        addend: Option<&Array>,
        observe: &mut dyn FnMut(Input, &Array),
    ) -> Result<Array> {
        observe(self.inputs[0].tap.into(), x);
        let out = self.attended(context, x, positions, cache)?;
        observe(self.o.tap.into(), &out);
        self.o.forward_plus(context, &out, addend)
    }

    /// Computes the input of the output projection [batch, tokens, heads * dim].
    fn attended(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        mut cache: Option<&mut KvCache>,
    ) -> Result<Array> {
        if let Some(cache) = cache.as_deref_mut()
            && let Some(out) = self.attended_at_once(context, x, positions, cache)?
        {
            return Ok(out);
        }
        let AttentionSpec { scale, span, cap, .. } = *self.spec;
        let scores = Scores { scale, cap };
        let (q, k, v) = self.heads(self.projected(x)?, positions)?;
        let out = if let Some(cache) = cache {
            let (k, v) = cache.update(&k, &v)?;
            attend_cached(&q, &k, &v, scores, &positions.mask(cache.span(), k.positions()), context.dtype)?
        } else {
            attend(&q, &k, &v, scores, &positions.mask(span, x.shape()[1] as usize))?
        };
        concatenate_heads(&out)
    }

    /// Computes the same with nodes for all projections and for the rest. `None` where the layer, its weights or its cache
    /// are of other kinds than those nodes know.
    fn attended_at_once(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        cache: &mut KvCache,
    ) -> Result<Option<Array>> {
        let AttentionSpec { heads, kv_heads, head_dim, scale, .. } = *self.spec;
        let tempered = self.spec.tempered && positions.temperatures.is_some();
        let is_known = self.spec.cap.is_none() && !tempered && fused::can_attend(head_dim);
        if context.nodes == Nodes::Single || context.dtype != Dtype::F32 || !is_known {
            return Ok(None);
        }
        let norm = match (&self.spec.qk_norm, &self.norms) {
            (QkNorm::AllHeads(_), _) => return Ok(None),
            (QkNorm::Weightless(eps), _) => Some(HeadNorm { query: None, key: None, eps: *eps }),
            (_, Some([query, key])) => {
                let ((query, eps), (key, _)) = (query.parts(), key.parts());
                Some(HeadNorm { query: Some(query), key: Some(key), eps })
            }
            (_, None) => None,
        };
        let tokens = x.dim(1);
        let Some(slot) = cache.slot(tokens as usize) else { return Ok(None) };
        let causal = match positions.mask(cache.span(), slot.visible) {
            Mask::None => false,
            Mask::Causal => true,
            Mask::Array(_) => return Ok(None),
        };
        let layers: Vec<Layer<'_>> = self.inputs.iter().map(Linear::layer).collect();
        let Some(projected) = fused::products(x, &layers, Finish::Concatenated) else { return Ok(None) };
        let rotation = self.spec.rope.map(|rope| &positions.rotations[rope]);
        let Slot { at, visible, .. } = slot;
        let attention =
            CachedAttention { heads, kv_heads, head_dim, norm, rotation, scale, at, visible, causal };
        let sizes = [1, kv_heads as i32, tokens, head_dim as i32];
        let write = |keys, values| fused::attend(&attention, &projected, &keys, &values);
        Ok(Some(cache.rewrite_with(slot, &sizes, write)?))
    }

    /// Returns queries, keys and values [batch, tokens, ..].
    fn projected(&self, x: &Array) -> Result<[Array; 3]> {
        if let [q, k, v] = &self.inputs[..] {
            return Ok([q.forward(x)?, k.forward(x)?, v.forward(x)?]);
        }
        let AttentionSpec { heads, kv_heads, head_dim, .. } = *self.spec;
        let (queries, keys) = (heads * head_dim, (heads + kv_heads) * head_dim);
        let all = self.inputs[0].forward(x)?;
        let values = keys + kv_heads * head_dim;
        Ok([slice(&all, 2, 0, queries)?, slice(&all, 2, queries, keys)?, slice(&all, 2, keys, values)?])
    }

    /// Splits queries, keys and values [batch, tokens, ..] into heads [batch, heads, tokens, dim] and applies their
    /// positions.
    fn heads(&self, [q, k, v]: [Array; 3], positions: &Positions) -> Result<(Array, Array, Array)> {
        let AttentionSpec { heads, kv_heads, head_dim, .. } = *self.spec;
        let split =
            |y: &Array, count: usize| y.reshape(&[y.shape()[0], y.shape()[1], count as i32, head_dim as i32]);
        let [mut q_norm, mut k_norm] =
            self.norms.as_ref().map_or([None, None], |norms| norms.each_ref().map(Some));
        let (mut q, mut k) = (q, k);
        if matches!(self.spec.qk_norm, QkNorm::AllHeads(_))
            && let (Some(q_all), Some(k_all)) = (q_norm.take(), k_norm.take())
        {
            (q, k) = (q_all.forward(&q)?, k_all.forward(&k)?);
        }
        let q = self.positioned(split(&q, heads)?, q_norm, positions)?;
        let k = self.positioned(split(&k, kv_heads)?, k_norm, positions)?;
        let v = split(&v, kv_heads)?.transpose_axes(&[0, 2, 1, 3])?;
        let q = match &positions.temperatures {
            Some(factors) if self.spec.tempered => q.multiply(factors.as_dtype(q.dtype())?)?,
            _ => q,
        };
        Ok((q, k, v))
    }

    /// Applies the norm per head, puts heads before tokens, and rotates.
    fn positioned(&self, x: Array, norm: Option<&Norm>, positions: &Positions) -> Result<Array> {
        let x = match (norm, &self.spec.qk_norm) {
            (Some(norm), _) => norm.forward(&x)?,
            (None, QkNorm::Weightless(eps)) => rms_norm(&x, None, *eps)?,
            (None, _) => x,
        };
        let x = x.transpose_axes(&[0, 2, 1, 3])?;
        match self.spec.rope {
            Some(rope) => positions.rotations[rope].apply(&x),
            None => Ok(x),
        }
    }
}

/// Concatenates heads [batch, heads, tokens, dim] to [batch, tokens, heads * dim].
fn concatenate_heads(heads: &Array) -> Result<Array> {
    let sizes = heads.shape();
    let concatenated = [sizes[0], sizes[2], sizes[1] * sizes[3]];
    Ok(heads.transpose_axes(&[0, 2, 1, 3])?.reshape(&concatenated)?)
}

/// Factor on the products of queries and keys, and the most that a score can be.
#[derive(Debug, Clone, Copy)]
struct Scores {
    scale: f32,
    cap: Option<f32>,
}

/// Computes softmax(q k^T scale + mask) v for q [batch, heads, queries, dim] and k, v [batch, kv heads, keys, dim].
fn attend(q: &Array, k: &Array, v: &Array, scores: Scores, mask: &Mask) -> Result<Array> {
    let Scores { scale, cap } = scores;
    if let Some(cap) = cap {
        return Capped { scale, cap }.attend(q, k, v, mask);
    }
    Ok(match mask {
        Mask::None => fast::scaled_dot_product_attention(q, k, v, scale, None, None)?,
        Mask::Causal => fast::scaled_dot_product_attention(q, k, v, scale, SdpaMask::Causal, None)?,
        Mask::Array(mask) => fast::scaled_dot_product_attention(q, k, v, scale, mask, None)?,
    })
}

/// Computes attention over keys and values as a cache stores them. One query that attends to all keys multiplies codes,
/// as mlx-lm does; for more queries the keys and values of this layer are decoded first.
fn attend_cached(
    q: &Array,
    k: &CachedArray,
    v: &CachedArray,
    scores: Scores,
    mask: &Mask,
    dtype: Dtype,
) -> Result<Array> {
    match (k, v, mask) {
        (CachedArray::Quantized(k), CachedArray::Quantized(v), Mask::None) if q.shape()[2] == 1 => {
            attend_codes(q, k, v, scores)
        }
        _ => attend(q, &k.dense(dtype)?, &v.dense(dtype)?, scores, mask),
    }
}

fn attend_codes(q: &Array, k: &Packed, v: &Packed, Scores { scale, cap }: Scores) -> Result<Array> {
    // The query heads of a key head are rows of one product.
    let sizes = q.shape();
    let grouped = q.reshape(&[sizes[0], k.codes.shape()[1], -1, sizes[3]])?;
    let scale = Array::from_f32(scale).as_dtype(q.dtype())?;
    let scores = k.matmul_transposed(&grouped.multiply(scale)?)?;
    let scores = cap.map_or_else(|| Ok(scores.clone()), |cap| capped(&scores, cap))?;
    let weights = softmax_axis(&scores, -1, true)?;
    Ok(v.matmul(&weights)?.reshape(sizes)?)
}
