//! Keys and values of earlier tokens in one layer: all of them, the first and the latest, or the latest of a window or
//! chunk.
//!
//! Positions are counted in the cache, as in StreamingLLM (arXiv 2309.17453). RoPE lets attention see differences of
//! positions only, so when the middle is evicted, the latest keys stay as they are and the few sinks are rotated
//! forward to close the gap, always from their original keys. Keys cached before RoPE would all have to be rotated at
//! every use; rotating the latest back at each eviction would accumulate rounding errors in half precision or
//! quantized.

use mlx_rs::Array;
use mlx_rs::ops::zeros_dtype;

use super::arrays::{AXIS, Append, CachedArray, KvBuffer, Room};
use super::sequence::KvStorage;
use crate::engine::array::slice_update;
use crate::engine::positions::Rotation;
use crate::error::Result;
use crate::models::spec::{AttentionSpan, AttentionSpec};

/// Place of new positions in a cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    /// Position in the stored arrays of the first.
    pub(crate) at: usize,
    /// Positions, from the first one stored on, that queries attend to.
    pub(crate) visible: usize,
    /// Number of new positions.
    pub(crate) count: usize,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(crate) struct KvCache {
    span: AttentionSpan,
    /// Rotation of the keys.
    rope: Option<usize>,
    /// Positions that a ring stores beyond its window, so that as many of the latest can be removed again.
    slack: usize,
    /// Limit and expectation for layers without a window.
    room: Room,
    seen: usize,
    filled: usize,
    /// Slot of the oldest position in a full ring.
    oldest: usize,
    keys: KvBuffer,
    values: KvBuffer,
    /// Keys of the sinks at their original positions, once something was evicted.
    sinks: Option<Array>,
}

impl KvCache {
    /// Makes the cache for one `layer` of a model that remembers at most `context` positions. Windows and chunks that
    /// are not smaller never end within it.
    pub(crate) fn new(
        layer: &AttentionSpec,
        context: Option<usize>,
        storage: KvStorage,
        slack: usize,
    ) -> Self {
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
            room: Room { most: context.unwrap_or(usize::MAX), expected: 0 },
            seen: 0,
            filled: 0,
            oldest: 0,
            keys: KvBuffer::new(storage),
            values: KvBuffer::new(storage),
            sinks: None,
        }
    }

    /// Returns which of the cached keys a query attends to.
    pub(crate) fn span(&self) -> AttentionSpan {
        self.span
    }

    /// Returns the stored arrays, to be evaluated.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.keys.arrays().chain(self.values.arrays()).chain(&self.sinks)
    }

    /// Announces `count` more positions. Layers with windows and chunks forget, and need less room than that.
    pub(crate) fn announce(&mut self, count: usize) {
        if self.span == AttentionSpan::Full {
            self.room.expected = self.room.expected.max(self.filled.saturating_add(count));
        }
    }

    /// Adds new keys and values and returns the keys and values to attend to: the latest positions, in order unless
    /// there is only one query, for which the order does not matter.
    pub(crate) fn update(&mut self, keys: &Array, values: &Array) -> Result<(CachedArray, CachedArray)> {
        let count = keys.shape()[AXIS] as usize;
        self.seen += count;
        let AttentionSpan::Sliding(window) = self.span else {
            let filled = self.filled;
            self.filled += count;
            let room = self.room;
            return Ok((self.keys.grow(keys, filled, room)?, self.values.grow(values, filled, room)?));
        };
        if count == 1 && self.slack == 0 && self.is_full_ring(window) {
            let slot = self.oldest;
            self.oldest = (slot + 1) % window;
            return Ok((self.keys.replace(keys, slot)?, self.values.replace(values, slot)?));
        }
        let how = Append {
            oldest: std::mem::take(&mut self.oldest),
            filled: self.filled,
            retained: self.filled.min(window - 1 + self.slack),
            most: window + self.slack,
            visible: window - 1 + count,
        };
        self.filled = (how.retained + count).min(how.most);
        Ok((self.keys.append(keys, how)?, self.values.append(values, how)?))
    }

    /// Returns where `count` new positions would be written and what their queries would attend to, if the cache holds
    /// floats and stores new positions after the old ones, or one of them in place of the oldest.
    pub(crate) fn slot(&self, count: usize) -> Option<Slot> {
        if !self.keys.is_known_to_nodes() {
            return None;
        }
        match self.span {
            AttentionSpan::Sliding(window) => {
                let replaces = count == 1 && self.slack == 0 && self.is_full_ring(window);
                replaces.then_some(Slot { at: self.oldest, visible: window, count })
            }
            AttentionSpan::Full | AttentionSpan::Chunked(_) => {
                Some(Slot { at: self.filled, visible: self.filled + count, count })
            }
        }
    }

    /// Lets `write` write new positions [batch, heads, positions, dim] of shape `sizes` to `slot` of the stored keys and
    /// values, which it returns after what it computed of them. Nobody else holds them then: they are written in place if
    /// they are evaluated. Where it computes nothing there is room for the positions, and nothing else is changed.
    pub(crate) fn rewrite_with(
        &mut self,
        slot: Slot,
        sizes: &[i32],
        write: impl FnOnce([&Array; 2]) -> Option<[Array; 3]>,
    ) -> Result<Option<Array>> {
        self.keys.make_room(sizes, slot.at, self.room)?;
        self.values.make_room(sizes, slot.at, self.room)?;
        let (Some(keys), Some(values)) = (self.keys.float_array(), self.values.float_array()) else {
            return Ok(None);
        };
        let Some([out, keys, values]) = write([keys, values]) else { return Ok(None) };
        self.keys.put(keys);
        self.values.put(values);
        self.seen += slot.count;
        match self.span {
            AttentionSpan::Sliding(window) => self.oldest = (slot.at + 1) % window,
            AttentionSpan::Full | AttentionSpan::Chunked(_) => self.filled = slot.visible,
        }
        Ok(Some(out))
    }

    /// Returns the number of tokens that the layer has read.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    fn is_full_ring(&self, window: usize) -> bool {
        self.filled == window && self.keys.capacity() == window
    }

    /// True if the latest `count` positions can be removed and all that the next token attends to remains.
    pub(crate) fn can_trim(&self, count: usize) -> bool {
        let Some(remaining) = self.filled.checked_sub(count) else { return false };
        let Some(seen) = self.seen.checked_sub(count) else { return false };
        match self.span {
            AttentionSpan::Full => true,
            AttentionSpan::Sliding(window) => self.oldest == 0 && remaining >= seen.min(window - 1),
            AttentionSpan::Chunked(chunk) => remaining >= seen % chunk,
        }
    }

    /// Removes the latest `count` positions.
    pub(crate) fn trim(&mut self, count: usize) {
        self.filled -= count;
        self.seen -= count;
    }

    /// Removes `dropped` positions after the first `sinks`, which the layer's rotation in `forward` turns by all positions removed so far.
    /// Windows evict by themselves; chunks drop what lies before the current chunk.
    pub(crate) fn evict(&mut self, sinks: usize, dropped: usize, forward: &[Rotation]) -> Result<()> {
        match self.span {
            AttentionSpan::Sliding(_) => Ok(()),
            AttentionSpan::Chunked(chunk) => {
                let over = (self.seen / chunk * chunk).saturating_sub(self.seen - self.filled);
                self.drop_positions(0, over, None)
            }
            AttentionSpan::Full
                if sinks > 0
                    && let Some(rope) = self.rope =>
            {
                let original = match &self.sinks {
                    Some(original) => original.clone(),
                    None => own(&self.keys.float(0, sinks)?)?,
                };
                let dtype = self.keys.arrays().last().map_or(mlx_rs::Dtype::Float32, Array::dtype);
                let turned = forward[rope].turn(&original)?.as_dtype(dtype)?;
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

    /// Rotates all keys but the sinks by the layer's rotation `back`, and the sinks to their original positions.
    pub(crate) fn turn_back(&mut self, sinks: usize, back: &[Rotation]) -> Result<()> {
        let Some(rope) = self.rope.filter(|_| self.filled > 0) else { return Ok(()) };
        let from = if self.sinks.is_some() { sinks } else { 0 };
        self.keys.rewrite(from, self.filled, self.sinks.as_ref(), |keys| back[rope].turn(keys))
    }
}

/// Returns a copy that does not keep a larger buffer alive.
fn own(array: &Array) -> Result<Array> {
    slice_update(&zeros_dtype(array.shape(), array.dtype())?, array, AXIS, 0)
}
