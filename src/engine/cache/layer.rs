//! Keys and values of earlier tokens in one layer: all of them, the first and the latest, or those of a window or chunk.
//!
//! Positions are those in the cache, as in StreamingLLM (arXiv 2309.17453). RoPE lets attention see differences of
//! positions only, so when the middle goes, the latest keys stay as they are and the few sinks are turned forward to
//! close the gap, always from the keys as they first came. Keys cached before RoPE would have to be rotated at every use,
//! all of them; turning the latest back at each eviction would let roundings pile up in half precision or quantized.

use mlx_rs::Array;
use mlx_rs::ops::zeros_dtype;

use super::arrays::{AXIS, Append, Held, Store};
use crate::engine::array::slice_update;
use crate::engine::positions::Rotation;
use crate::error::Result;
use crate::models::spec::{AttentionSpan, LayerSpec};
use crate::numerics::quant::Quant;

/// One layer's cache.
#[derive(Debug)]
pub(crate) struct KvCache {
    span: AttentionSpan,
    rope: bool,
    /// Positions that a ring holds beyond its window, so that as many of the latest can be taken back.
    slack: usize,
    /// Positions that a full layer comes to hold.
    most: usize,
    seen: usize,
    filled: usize,
    /// Of a full ring: the slot of its oldest position.
    oldest: usize,
    keys: Store,
    values: Store,
    /// The sinks' keys at their first positions, once something was evicted.
    sinks: Option<Array>,
}

impl KvCache {
    /// For one `layer` of a model that remembers `context` positions at most. Windows and chunks that are not smaller
    /// never end within it.
    pub(crate) fn new(layer: LayerSpec, context: Option<usize>, quant: Option<Quant>, slack: usize) -> Self {
        let span = match layer.span {
            AttentionSpan::Sliding(n) | AttentionSpan::Chunked(n)
                if context.is_some_and(|most| n >= most) =>
            {
                AttentionSpan::Full
            }
            span => span,
        };
        Self {
            span,
            rope: layer.rope,
            slack,
            most: context.unwrap_or(usize::MAX),
            seen: 0,
            filled: 0,
            oldest: 0,
            keys: Store::new(quant),
            values: Store::new(quant),
            sinks: None,
        }
    }

    /// Which of the held keys a query sees.
    pub(crate) fn span(&self) -> AttentionSpan {
        self.span
    }

    /// The arrays held, to be evaluated.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.keys.arrays().chain(self.values.arrays()).chain(&self.sinks)
    }

    /// Takes the new keys and values in and returns those to attend to: the latest positions, in order unless there is
    /// one query only, to which order does not matter.
    pub(crate) fn update(&mut self, keys: &Array, values: &Array) -> Result<(Held, Held)> {
        let count = keys.shape()[AXIS] as usize;
        self.seen += count;
        let AttentionSpan::Sliding(window) = self.span else {
            let filled = self.filled;
            self.filled += count;
            let most = self.most;
            return Ok((self.keys.grow(keys, filled, most)?, self.values.grow(values, filled, most)?));
        };
        let full = self.filled == window && self.keys.capacity() == window;
        if count == 1 && self.slack == 0 && full {
            let slot = self.oldest;
            self.oldest = (slot + 1) % window;
            return Ok((self.keys.replace(keys, slot)?, self.values.replace(values, slot)?));
        }
        let how = Append {
            oldest: std::mem::take(&mut self.oldest),
            filled: self.filled,
            kept: self.filled.min(window - 1 + self.slack),
            most: window + self.slack,
            visible: window - 1 + count,
        };
        self.filled = (how.kept + count).min(how.most);
        Ok((self.keys.append(keys, how)?, self.values.append(values, how)?))
    }

    /// Whether the latest `count` positions can be taken back, with all that the next token is to see left.
    pub(crate) fn can_trim(&self, count: usize) -> bool {
        let (Some(left), Some(seen)) = (self.filled.checked_sub(count), self.seen.checked_sub(count)) else {
            return false;
        };
        match self.span {
            AttentionSpan::Full => true,
            AttentionSpan::Sliding(window) => self.oldest == 0 && left >= seen.min(window - 1),
            AttentionSpan::Chunked(chunk) => left >= seen % chunk,
        }
    }

    /// Takes the latest `count` positions back.
    pub(crate) fn trim(&mut self, count: usize) {
        self.filled -= count;
        self.seen -= count;
    }

    /// Takes `dropped` positions out after the first `sinks`, which `forward` turns by as many as were taken out so far.
    /// Windows forget by themselves; of chunks those are dropped that are over.
    pub(crate) fn evict(&mut self, sinks: usize, dropped: usize, forward: &Rotation) -> Result<()> {
        match self.span {
            AttentionSpan::Sliding(_) => Ok(()),
            AttentionSpan::Chunked(chunk) => {
                let over = (self.seen / chunk * chunk).saturating_sub(self.seen - self.filled);
                self.drop_positions(0, over, None)
            }
            AttentionSpan::Full if self.rope && sinks > 0 => {
                let original = match &self.sinks {
                    Some(original) => original.clone(),
                    None => own(&self.keys.float(0, sinks)?)?,
                };
                let dtype = self.keys.arrays().last().map_or(mlx_rs::Dtype::Float32, Array::dtype);
                let turned = forward.turn(&original)?.as_dtype(dtype)?;
                self.sinks = Some(original);
                self.drop_positions(sinks, dropped, Some(&turned))
            }
            AttentionSpan::Full => self.drop_positions(sinks, dropped, None),
        }
    }

    fn drop_positions(&mut self, sinks: usize, dropped: usize, first: Option<&Array>) -> Result<()> {
        if dropped == self.filled {
            self.keys.clear();
            self.values.clear();
        } else if dropped > 0 {
            self.keys.evict(sinks, dropped, self.filled, first)?;
            self.values.evict(sinks, dropped, self.filled, None)?;
        }
        self.filled -= dropped;
        Ok(())
    }

    /// Turns all keys but the sinks by `back`, and the sinks to their first positions.
    pub(crate) fn turn_back(&mut self, sinks: usize, back: &Rotation) -> Result<()> {
        if !self.rope || self.filled == 0 {
            return Ok(());
        }
        let from = if self.sinks.is_some() { sinks } else { 0 };
        self.keys.rewrite(from, self.filled, self.sinks.as_ref(), |keys| back.turn(keys))
    }
}

/// A copy that does not keep a larger buffer alive.
fn own(array: &Array) -> Result<Array> {
    slice_update(&zeros_dtype(array.shape(), array.dtype())?, array, AXIS, 0)
}
