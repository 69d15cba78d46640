//! Grouped-query attention.

use mlx_rs::Array;
use mlx_rs::fast::{self, ScaledDotProductAttentionMask as SdpaMask, rms_norm};
use mlx_rs::ops::{concatenate, logaddexp, sigmoid, softmax_axis};
use std::slice::from_mut;
use std::sync::Arc;

use super::capped::Capped;
use super::linear::Linear;
use super::load::Loader;
use super::mlp::{Context, Input, Nodes};
use super::norm::Norm;
use super::positions::{Mask, Positions};
use crate::engine::array::{Packed, capped, clamped, factor, slice};
use crate::engine::cache::arrays::CachedArray;
use crate::engine::cache::layer::{KvCache, Slot};
use crate::engine::fused::{self, Around, AttentionLayers, CachedAttention, HeadNorm, Layer};
use crate::error::Result;
use crate::models::spec::{AttentionGate, AttentionSpec, Projections, QkNorm, Role};
use crate::numerics::dtype::Dtype;

/// Weights of attention.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    spec: Arc<AttentionSpec>,
    /// Projections of queries, keys and values, or one of all.
    inputs: Vec<Linear>,
    /// Gate of the heads' output.
    gate: Option<Linear>,
    o: Linear,
    /// Norms of queries and of keys that have parameters: one each, or one for each head.
    norms: Vec<Norm>,
    /// Scores of the heads beside those of the keys, [heads].
    sinks: Option<Array>,
}

impl Attention {
    pub(crate) fn load(loader: &Loader<'_>, spec: &AttentionSpec) -> Result<Self> {
        let linear = |role| loader.linear(&spec.projection(role));
        let norms = spec.norms().iter().map(|norm| Norm::load(loader, norm)).collect::<Result<_>>()?;
        Ok(Self {
            inputs: spec.input_roles().iter().map(|&role| linear(role)).collect::<Result<_>>()?,
            gate: spec.gate.map(|gate| linear(gate.role())).transpose()?,
            o: linear(Role::O)?,
            norms,
            sinks: spec.sinks().map(|name| loader.float(&name)).transpose()?,
            spec: Arc::new(spec.clone()),
        })
    }

    /// Returns the linear layers.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut [Linear]> {
        self.inputs.iter_mut().chain(&mut self.gate).chain([&mut self.o]).map(from_mut)
    }

    /// Returns the norms of queries and of keys that have parameters.
    pub(crate) fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        self.norms.iter_mut()
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
        let out = self.gated(x, self.attended(context, x, positions, cache)?)?;
        observe(self.o.tap.into(), &out);
        self.o.forward_plus(context, &out, addend)
    }

    /// Multiplies the heads' output [batch, tokens, heads * dim] by the gate of x.
    fn gated(&self, x: &Array, out: Array) -> Result<Array> {
        let Some(gate) = &self.gate else { return Ok(out) };
        let gates = gate.forward(x)?;
        let gates = match self.spec.gate {
            Some(AttentionGate::PerHeadSoftplus) => logaddexp(&gates, factor(0.0, &gates)?)?,
            _ => sigmoid(&gates)?,
        };
        if self.spec.gate == Some(AttentionGate::PerValue) {
            return Ok(out.multiply(gates)?);
        }
        let sizes = out.shape();
        let heads = out.reshape(&[sizes[0], sizes[1], gates.dim(2), -1])?;
        Ok(heads.multiply(gates.expand_dims(3)?)?.reshape(sizes)?)
    }

    /// Computes what the heads gather [batch, tokens, heads * dim].
    fn attended(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        mut cache: Option<&mut KvCache>,
    ) -> Result<Array> {
        if let Some(cache) = cache.as_deref_mut() {
            let around = Around { x, norm: None, addend: None };
            if let Some(out) = self.attended_fused(context, &around, None, positions, cache)? {
                return Ok(out);
            }
        }
        let AttentionSpec { scale, span, cap, .. } = *self.spec;
        let scores = Scores { scale, cap, sinks: self.sinks.as_ref() };
        let (q, k, v) = self.heads(self.projected(x)?, positions)?;
        let out = if let Some(cache) = cache {
            let (k, v) = cache.update(&k, &v)?;
            attend_cached(&q, &k, &v, scores, &positions.mask(cache.span(), k.positions()), context.dtype)?
        } else {
            attend(&q, &k, &v, scores, &positions.mask(span, x.shape()[1] as usize))?
        };
        let out = if self.spec.interleaved_heads { regrouped(&out, 1, self.spec.kv_heads)? } else { out };
        concatenate_heads(&out)
    }

    /// Computes the output, behind a norm and plus an addend, as one node. `None` where the layer, its weights or its cache
    /// are of other kinds than that node knows.
    pub(crate) fn forward_fused(
        &self,
        context: Context<'_>,
        around: &Around<'_>,
        positions: &mut Positions,
        cache: &mut KvCache,
    ) -> Result<Option<Array>> {
        if self.gate.is_some() {
            return Ok(None);
        }
        self.attended_fused(context, around, Some(self.o.layer()), positions, cache)
    }

    /// Computes what `output`, or without one the heads, give as one node; `None` where there is none.
    fn attended_fused(
        &self,
        context: Context<'_>,
        around: &Around<'_>,
        output: Option<Layer<'_>>,
        positions: &mut Positions,
        cache: &mut KvCache,
    ) -> Result<Option<Array>> {
        let AttentionSpec { heads, kv_heads, head_dim, scale, .. } = *self.spec;
        if context.nodes == Nodes::Single || context.dtype != Dtype::F32 || !self.is_known_to_nodes(positions)
        {
            return Ok(None);
        }
        let Some(head_norm) = self.head_norm() else { return Ok(None) };
        let tokens = around.x.dim(1);
        let Some(slot) = cache.slot(tokens as usize) else { return Ok(None) };
        let causal = match positions.mask(cache.span(), slot.visible) {
            Mask::None => false,
            Mask::Causal => true,
            Mask::Array(_) => return Ok(None),
        };
        let inputs: Vec<Layer<'_>> = self.inputs.iter().map(Linear::layer).collect();
        let layers = AttentionLayers { inputs: &inputs, output };
        let rotation = self.spec.rope.map(|rope| &positions.rotations[rope]);
        let Slot { at, visible, .. } = slot;
        let attention =
            CachedAttention { heads, kv_heads, head_dim, head_norm, rotation, scale, at, visible, causal };
        let sizes = [1, kv_heads as i32, tokens, head_dim as i32];
        cache.rewrite_with(slot, &sizes, |stored| fused::attend(&attention, around, &layers, stored))
    }

    /// True if attention as one node computes what the spec says.
    fn is_known_to_nodes(&self, positions: &Positions) -> bool {
        let AttentionSpec { cap, clip, interleaved_heads, tempered, projections, head_dim, .. } = *self.spec;
        let has_usual_values = self.spec.value_dim == head_dim && self.spec.value_factor.is_none();
        let is_plain = cap.is_none() && clip.is_none() && !interleaved_heads && self.sinks.is_none();
        let is_plain = is_plain && has_usual_values;
        let is_tempered = tempered && positions.temperatures.is_some();
        is_plain && !is_tempered && projections != Projections::FusedByHead && fused::can_attend(head_dim)
    }

    /// Returns the norm of queries and keys as a node knows it, which may be none; `None` where no node does.
    #[allow(clippy::option_option)]
    fn head_norm(&self) -> Option<Option<HeadNorm<'_>>> {
        match (&self.spec.qk_norm, &self.norms[..]) {
            (QkNorm::None, _) => Some(None),
            (QkNorm::Weightless(eps), _) => Some(Some(HeadNorm { query: None, key: None, eps: *eps })),
            (QkNorm::Weighted(_), [query, key]) => {
                let (query, key) = (query.rms()?, key.rms()?);
                let norm = HeadNorm { query: Some(query.weight), key: Some(key.weight), eps: query.eps };
                (query.eps.to_bits() == key.eps.to_bits()).then_some(Some(norm))
            }
            _ => None,
        }
    }

    /// Returns queries, keys and values [batch, tokens, ..].
    fn projected(&self, x: &Array) -> Result<[Array; 3]> {
        let AttentionSpec { heads, kv_heads, head_dim, value_dim, clip, .. } = *self.spec;
        let projected = if let [q, k, v] = &self.inputs[..] {
            [q.forward(x)?, k.forward(x)?, v.forward(x)?]
        } else {
            let all = self.inputs[0].forward(x)?;
            if self.spec.projections == Projections::FusedByHead {
                let by_head = all.reshape(&[all.dim(0), all.dim(1), kv_heads as i32, -1])?;
                let queries = heads / kv_heads;
                let part = |from: usize, to: usize| -> Result<Array> {
                    let part = slice(&by_head, 3, from * head_dim, to * head_dim)?;
                    Ok(part.reshape(&[all.dim(0), all.dim(1), -1])?)
                };
                [part(0, queries)?, part(queries, queries + 1)?, part(queries + 1, queries + 2)?]
            } else {
                let (queries, keys) = (heads * head_dim, (heads + kv_heads) * head_dim);
                let values = keys + kv_heads * value_dim;
                [slice(&all, 2, 0, queries)?, slice(&all, 2, queries, keys)?, slice(&all, 2, keys, values)?]
            }
        };
        let Some(most) = clip else { return Ok(projected) };
        let [q, k, v] = projected.map(|y| clamped(&y, most));
        Ok([q?, k?, v?])
    }

    /// Splits queries, keys and values [batch, tokens, ..] into heads [batch, heads, tokens, dim] and applies their
    /// positions.
    fn heads(&self, [q, k, v]: [Array; 3], positions: &Positions) -> Result<(Array, Array, Array)> {
        let AttentionSpec { heads, kv_heads, head_dim, .. } = *self.spec;
        let parts = |y: &Array, count: usize, size: usize| {
            y.reshape(&[y.dim(0), y.dim(1), count as i32, size as i32])
        };
        let split = |y: &Array, count: usize| parts(y, count, head_dim);
        let (q, k) = match (&self.spec.qk_norm, &self.norms[..]) {
            (QkNorm::AllHeads(_), [query, key]) => {
                (split(&query.forward(&q)?, heads)?, split(&key.forward(&k)?, kv_heads)?)
            }
            (QkNorm::Weighted(_), [query, key]) => {
                (query.forward(&split(&q, heads)?)?, key.forward(&split(&k, kv_heads)?)?)
            }
            (QkNorm::EachHead(_), norms) => {
                let (queries, keys) = norms.split_at(heads);
                let q = Norm::forward_each(queries, &split(&q, heads)?)?;
                (q, Norm::forward_each(keys, &split(&k, kv_heads)?)?)
            }
            (QkNorm::Weightless(eps), _) => {
                (rms_norm(split(&q, heads)?, None, *eps)?, rms_norm(split(&k, kv_heads)?, None, *eps)?)
            }
            _ => (split(&q, heads)?, split(&k, kv_heads)?),
        };
        let q = if self.spec.interleaved_heads { regrouped(&q, 2, heads / kv_heads)? } else { q };
        let (mut q, mut k) = (self.positioned(&q, positions)?, self.positioned(&k, positions)?);
        if let (QkNorm::Rotated(_), [query, key]) = (&self.spec.qk_norm, &self.norms[..]) {
            (q, k) = (query.forward(&q)?, key.forward(&k)?);
        }
        let mut v = parts(&v, kv_heads, self.spec.value_dim)?.transpose_axes(&[0, 2, 1, 3])?;
        if let Some(times) = self.spec.value_factor {
            v = v.multiply(factor(times, &v)?)?;
        }
        let q = match &positions.temperatures {
            Some(factors) if self.spec.tempered => q.multiply(factors.as_dtype(q.dtype())?)?,
            _ => q,
        };
        Ok((q, k, v))
    }

    /// Puts heads before tokens and rotates.
    fn positioned(&self, x: &Array, positions: &Positions) -> Result<Array> {
        let x = x.transpose_axes(&[0, 2, 1, 3])?;
        match self.spec.rope {
            Some(rope) => positions.rotations[rope].apply(&x),
            None => Ok(x),
        }
    }
}

/// Reorders the heads along an axis of x [.., heads, ..], which are `groups` of one size one after the other: all first ones of
/// the groups, then all second ones, and so on.
fn regrouped(x: &Array, axis: usize, groups: usize) -> Result<Array> {
    let mut sizes = x.shape().to_vec();
    sizes.splice(axis..=axis, [groups as i32, -1]);
    Ok(x.reshape(&sizes)?.swap_axes(axis as i32, axis as i32 + 1)?.reshape(x.shape())?)
}

/// Concatenates heads [batch, heads, tokens, dim] to [batch, tokens, heads * dim].
fn concatenate_heads(heads: &Array) -> Result<Array> {
    let sizes = heads.shape();
    let concatenated = [sizes[0], sizes[2], sizes[1] * sizes[3]];
    Ok(heads.transpose_axes(&[0, 2, 1, 3])?.reshape(&concatenated)?)
}

/// Factor, cap and sinks that turn products of queries and keys into weights.
#[derive(Debug, Clone, Copy)]
struct Scores<'a> {
    /// Factor on the products.
    scale: f32,
    /// Most that a score can be.
    cap: Option<f32>,
    /// Scores of the heads beside those of the keys, [heads].
    sinks: Option<&'a Array>,
}

/// Computes softmax(q k^T scale + mask) v for q [batch, heads, queries, dim] and k, v [batch, kv heads, keys, dim].
fn attend(q: &Array, k: &Array, v: &Array, scores: Scores<'_>, mask: &Mask) -> Result<Array> {
    let Scores { scale, cap, sinks } = scores;
    if let Some(cap) = cap {
        return Capped { scale, cap }.attend(q, k, v, mask);
    }
    Ok(match mask {
        Mask::None => fast::scaled_dot_product_attention(q, k, v, scale, None, sinks)?,
        Mask::Causal => fast::scaled_dot_product_attention(q, k, v, scale, SdpaMask::Causal, sinks)?,
        Mask::Array(mask) => fast::scaled_dot_product_attention(q, k, v, scale, mask, sinks)?,
    })
}

/// Computes attention over keys and values as a cache stores them. One query that attends to all keys multiplies codes,
/// as mlx-lm does; for more queries the keys and values of this layer are decoded first.
fn attend_cached(
    q: &Array,
    k: &CachedArray,
    v: &CachedArray,
    scores: Scores<'_>,
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

fn attend_codes(q: &Array, k: &Packed, v: &Packed, scores: Scores<'_>) -> Result<Array> {
    let Scores { scale, cap, sinks } = scores;
    // The query heads of a key head are rows of one product.
    let (sizes, kv_heads) = (q.shape(), k.codes.dim(1));
    let grouped = q.reshape(&[sizes[0], kv_heads, -1, sizes[3]])?;
    let scale = Array::from_f32(scale).as_dtype(q.dtype())?;
    let scores = k.matmul_transposed(&grouped.multiply(scale)?)?;
    let scores = cap.map_or_else(|| Ok(scores.clone()), |cap| capped(&scores, cap))?;
    let weights = match sinks {
        None => softmax_axis(&scores, -1, true)?,
        Some(sinks) => {
            let sinks = sinks.as_dtype(q.dtype())?.reshape(&[1, kv_heads, -1, 1])?;
            let keys = scores.dim(3);
            let all = softmax_axis(concatenate(&[scores, sinks], 3)?, -1, true)?;
            slice(&all, 3, 0, keys as usize)?
        }
    };
    let gathered = v.matmul(&weights)?;
    let values = gathered.dim(3);
    Ok(gathered.reshape(&[sizes[0], sizes[1], sizes[2], values])?)
}
