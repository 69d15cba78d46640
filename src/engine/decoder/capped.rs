//! Attention whose scores are capped before they are masked.
//!
//! MLX has no single operation for it, so scores are arrays [batch, kv heads, heads per kv head, queries, keys]. Those of some
//! queries are in memory at a time, also on the way back.

use mlx_rs::Array;
use mlx_rs::ops::{concatenate, select, softmax_axis};
use std::ops::Range;

use super::positions::Mask;
use crate::engine::array::{capped, factor, slice};
use crate::engine::recompute::recomputed;
use crate::error::Result;

/// Queries whose scores are in memory at a time.
pub(crate) const QUERIES_AT_ONCE: usize = 512;

/// Factor on the products of queries and keys, and the most that a score can be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capped {
    pub(crate) scale: f32,
    pub(crate) cap: f32,
}

impl Capped {
    /// Computes softmax(cap tanh(q k^T scale / cap) + mask) v for q [batch, heads, queries, dim] and k, v
    /// [batch, kv heads, keys, dim].
    pub(crate) fn attend(self, q: &Array, k: &Array, v: &Array, mask: &Mask) -> Result<Array> {
        self.attend_in_parts(q, k, v, mask, QUERIES_AT_ONCE)
    }

    /// Computes the same with at most `step` queries at a time.
    fn attend_in_parts(self, q: &Array, k: &Array, v: &Array, mask: &Mask, step: usize) -> Result<Array> {
        let (queries, keys) = (q.dim(2) as usize, k.dim(2) as usize);
        if queries <= step || matches!(mask, Mask::None) {
            return self.attend_part(q, k, v, seen_by(0..queries, keys, mask)?.as_ref());
        }
        let (mut parts, mut k) = (Vec::new(), k.clone());
        for start in (0..queries).step_by(step) {
            let end = (start + step).min(queries);
            // No query of this part sees later keys.
            let visible = keys - queries + end;
            let mut inputs = vec![slice(q, 2, start, end)?, k.clone(), v.clone()];
            inputs.extend(seen_by(start..end, visible, mask)?);
            let outputs = recomputed(&inputs, move |inputs| {
                let (k, v) = (slice(&inputs[1], 2, 0, visible)?, slice(&inputs[2], 2, 0, visible)?);
                let part = self.attend_part(&inputs[0], &k, &v, inputs.get(3))?;
                // With keys that come out of this part the next one waits for it, and on the way back this one for the next.
                Ok(vec![part, inputs[1].clone()])
            })?;
            let mut outputs = outputs.into_iter();
            parts.extend(outputs.next());
            k = outputs.next().unwrap_or(k);
        }
        Ok(concatenate(&parts, 2)?)
    }

    /// Computes attention to the keys that `seen` [queries, keys] is true for, or to all.
    fn attend_part(self, q: &Array, k: &Array, v: &Array, seen: Option<&Array>) -> Result<Array> {
        let sizes = q.shape();
        // The query heads of a key head are an axis of their own.
        let grouped = q.reshape(&[sizes[0], k.dim(1), -1, sizes[2], sizes[3]])?;
        let products =
            grouped.multiply(factor(self.scale, q)?)?.matmul(k.expand_dims(2)?.swap_axes(-1, -2)?)?;
        let scores = capped(&products, self.cap)?;
        let scores = match seen {
            Some(seen) => select(seen, &scores, factor(f32::NEG_INFINITY, &scores)?)?,
            None => scores,
        };
        let weights = softmax_axis(&scores, -1, true)?;
        Ok(weights.matmul(v.expand_dims(2)?)?.reshape(&[sizes[0], sizes[1], sizes[2], v.dim(3)])?)
    }
}

/// Returns which of the first `keys` some of the `queries` of `mask` attend to, [queries, keys]; `None` for all. The last of
/// these keys is that of the last query.
fn seen_by(queries: Range<usize>, keys: usize, mask: &Mask) -> Result<Option<Array>> {
    Ok(match mask {
        Mask::None => None,
        Mask::Causal => Some(Mask::causal(queries.len(), keys)),
        Mask::Array(seen) => Some(slice(&slice(seen, 0, queries.start, queries.end)?, 1, 0, keys)?),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::array::{from_vec, to_vec, vector_jacobian_products};
    use crate::engine::runtime::Engine;
    use crate::models::spec::AttentionSpan;

    const CAPPED: Capped = Capped { scale: 0.5, cap: 2.0 };

    fn waves(seed: f32, sizes: &[usize]) -> Array {
        let count: usize = sizes.iter().product();
        from_vec((0..count).map(|i| (i as f32 * 0.7 + seed).sin()).collect(), sizes)
    }

    fn assert_close(a: &Array, b: &Array) {
        let (a, b) = (to_vec(a).unwrap(), to_vec(b).unwrap());
        let error = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(a.len() == b.len() && error < 1e-6, "{error}");
    }

    #[test]
    fn parts_give_what_the_whole_gives() {
        let _engine = Engine::start().unwrap();
        let (queries, keys) = (7, 9);
        let inputs =
            [waves(0.0, &[1, 4, queries, 8]), waves(1.0, &[1, 2, keys, 8]), waves(2.0, &[1, 2, keys, 8])];
        let cotangent = waves(3.0, &[1, 4, queries, 8]);
        let masks = [Mask::Causal, Mask::new(AttentionSpan::Sliding(3), keys - queries, queries, keys)];
        for mask in masks {
            let attend = |inputs: &[Array], step| {
                CAPPED.attend_in_parts(&inputs[0], &inputs[1], &inputs[2], &mask, step)
            };
            assert_close(&attend(&inputs, 3).unwrap(), &attend(&inputs, queries).unwrap());
            let gradients = |step| {
                vector_jacobian_products(|inputs| attend(inputs, step), &inputs, cotangent.clone()).unwrap()
            };
            for (in_parts, whole) in gradients(3).iter().zip(&gradients(queries)) {
                assert_close(in_parts, whole);
            }
        }
    }
}
