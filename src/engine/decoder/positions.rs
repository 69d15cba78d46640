//! Positions of one call: which keys a query attends to, as MLX masks, rotations and temperatures.

use mlx_rs::Array;

use crate::engine::positions::{Place, Rotation};
use crate::models::spec::{AttentionSpan, DecoderSpec, TemperatureTuning};

/// Attention mask of one call.
#[derive(Debug, Clone)]
pub(crate) enum Mask {
    /// Every key is seen.
    None,
    /// Every key not after the query.
    Causal,
    /// [queries, keys], true where seen.
    Array(Array),
}

impl Mask {
    /// Makes the mask of `queries` positions from `offset` on, over the latest `keys` positions.
    pub(crate) fn new(span: AttentionSpan, offset: usize, queries: usize, keys: usize) -> Self {
        let total = offset + queries;
        let first_key = total - keys;
        let everything = match span {
            AttentionSpan::Full => true,
            AttentionSpan::Sliding(window) => total <= window || (queries == 1 && keys <= window),
            AttentionSpan::Chunked(chunk) => first_key / chunk == (total - 1) / chunk,
        };
        if everything {
            return if queries == 1 { Self::None } else { Self::Causal };
        }
        Self::Array(Self::cells(span, offset, queries, first_key))
    }

    /// Makes the array of a causal mask for the last `queries` of `keys` positions.
    pub(crate) fn causal(queries: usize, keys: usize) -> Array {
        Self::cells(AttentionSpan::Full, keys - queries, queries, 0)
    }

    fn cells(span: AttentionSpan, offset: usize, queries: usize, first_key: usize) -> Array {
        let total = offset + queries;
        let seen = |query: usize, key: usize| {
            key <= query
                && match span {
                    AttentionSpan::Full => true,
                    AttentionSpan::Sliding(window) => query - key < window,
                    AttentionSpan::Chunked(chunk) => query / chunk == key / chunk,
                }
        };
        let cells: Vec<bool> =
            (offset..total).flat_map(|query| (first_key..total).map(move |key| seen(query, key))).collect();
        Array::from_slice(&cells, &[queries as i32, (total - first_key) as i32])
    }
}

/// Returns the factors [1, 1, queries, 1] on the queries of layers that are tempered; `None` where all are 1.
pub(crate) fn temperatures(tuning: TemperatureTuning, offset: usize, queries: usize) -> Option<Array> {
    let steps = |position: usize| ((position as f64 + tuning.first_position) / tuning.floor_scale).floor();
    if steps(offset + queries) < 1.0 {
        return None;
    }
    let factor = |position| (steps(position).ln_1p() * tuning.attn_scale + 1.0) as f32;
    let factors: Vec<f32> = (offset..offset + queries).map(factor).collect();
    Some(Array::from_slice(&factors, &[1, 1, queries as i32, 1]))
}

/// Positions and masks of one call, shared by all blocks.
#[derive(Debug)]
pub(crate) struct Positions {
    pub(crate) rotations: Vec<Rotation>,
    pub(crate) temperatures: Option<Array>,
    seen: usize,
    queries: usize,
    masks: Vec<(AttentionSpan, usize, Mask)>,
}

impl Positions {
    /// Makes the positions of `queries` tokens from `offset` on, with all tokens before them remembered.
    pub(crate) fn new(spec: &DecoderSpec, offset: usize, queries: usize) -> Self {
        Self::at(spec, Place { seen: offset, held: offset, rotation: offset, context: None }, queries)
    }

    /// Makes the positions of `queries` tokens, the first of them at `place`.
    pub(crate) fn at(spec: &DecoderSpec, place: Place, queries: usize) -> Self {
        let length = place.context.unwrap_or(place.rotation + queries);
        let rotations = spec.ropes.iter().map(|rope| Rotation::new(rope, place.rotation as i32, length));
        Self {
            rotations: rotations.collect(),
            temperatures: spec
                .temperature_tuning
                .and_then(|tuning| temperatures(tuning, place.held, queries)),
            seen: place.seen,
            queries,
            masks: Vec::new(),
        }
    }

    /// Returns the number of tokens in the text before these.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    /// Returns the mask for `span` over the latest `keys` positions.
    pub(crate) fn mask(&mut self, span: AttentionSpan, keys: usize) -> Mask {
        if let Some((_, _, mask)) = self.masks.iter().find(|(s, k, _)| *s == span && *k == keys) {
            return mask.clone();
        }
        let mask = Mask::new(span, self.seen, self.queries, keys);
        self.masks.push((span, keys, mask.clone()));
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(mask: &Mask) -> Option<Vec<bool>> {
        match mask {
            Mask::Array(array) => array.to_vec_exact::<bool>().ok(),
            _ => None,
        }
    }

    #[test]
    fn short_sequences_need_no_array() {
        assert!(matches!(Mask::new(AttentionSpan::Sliding(8), 0, 8, 8), Mask::Causal));
        assert!(matches!(Mask::new(AttentionSpan::Sliding(8), 100, 1, 8), Mask::None));
        assert!(matches!(Mask::new(AttentionSpan::Chunked(8), 0, 8, 8), Mask::Causal));
        assert!(matches!(Mask::new(AttentionSpan::Full, 5, 1, 6), Mask::None));
    }

    #[test]
    fn windows_and_chunks() {
        let window = cells(&Mask::new(AttentionSpan::Sliding(2), 1, 2, 3)).unwrap();
        assert_eq!(window, [true, true, false, false, true, true]);
        let chunk = cells(&Mask::new(AttentionSpan::Chunked(2), 1, 2, 3)).unwrap();
        assert_eq!(chunk, [true, true, false, false, false, true]);
    }
}
