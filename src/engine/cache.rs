//! Keys and values of earlier tokens: growing for full attention, rotating for sliding windows.

use mlx_rs::Array;
use mlx_rs::ops::{concatenate, zeros_dtype};

use super::array::{slice, slice_update};
use crate::error::Result;
use crate::spec::AttentionSpan;

/// Positions that a growing buffer gains at a time.
const STEP: usize = 256;
/// The axis of positions in [batch, heads, positions, dim].
const AXIS: usize = 2;

/// One layer's cache.
#[derive(Debug)]
pub(super) struct KvCache {
    window: Option<usize>,
    offset: usize,
    keys: Option<Array>,
    values: Option<Array>,
    /// Of a full ring: the slot of its oldest position.
    oldest: usize,
}

impl KvCache {
    pub(super) fn new(span: AttentionSpan) -> Self {
        let window = match span {
            AttentionSpan::Sliding(window) => Some(window),
            AttentionSpan::Full | AttentionSpan::Chunked(_) => None,
        };
        Self { window, offset: 0, keys: None, values: None, oldest: 0 }
    }

    /// Positions seen so far.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// The arrays held, to be evaluated.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.keys.iter().chain(&self.values)
    }

    /// Whether all but the first `length` positions can be forgotten: a window that has let go of its first positions
    /// cannot go back.
    pub(super) fn can_trim(&self, length: usize) -> bool {
        self.window.is_none_or(|_| length == self.offset || self.held() == self.offset)
    }

    /// Forgets all but the first `length` positions, where [`can_trim`](Self::can_trim) says that this can be done.
    pub(super) fn trim(&mut self, length: usize) -> Result<()> {
        if length >= self.offset {
            return Ok(());
        }
        // A growing buffer is overwritten from its offset on; a window's is as long as what it holds.
        if self.window.is_some() {
            for buffer in self.keys.iter_mut().chain(&mut self.values) {
                *buffer = slice(buffer, AXIS, 0, length)?.contiguous()?;
            }
        }
        self.offset = length;
        Ok(())
    }

    /// Positions that there is room for, filled or not.
    fn held(&self) -> usize {
        self.keys.as_ref().map_or(0, |keys| keys.shape()[AXIS] as usize)
    }

    /// Takes the new keys and values in and returns those to attend to: the latest positions, in order unless there is
    /// one query only, to which order does not matter.
    pub(super) fn update(&mut self, keys: Array, values: Array) -> Result<(Array, Array)> {
        let count = keys.shape()[AXIS] as usize;
        let result = match self.window {
            None => {
                (grow(&mut self.keys, &keys, self.offset)?, grow(&mut self.values, &values, self.offset)?)
            }
            Some(window) if count == 1 && self.offset >= window => {
                let slot = self.oldest;
                self.oldest = (slot + 1) % window;
                (replace(&mut self.keys, &keys, slot)?, replace(&mut self.values, &values, slot)?)
            }
            Some(window) => {
                let oldest = std::mem::take(&mut self.oldest);
                (
                    append(&mut self.keys, keys, window, oldest)?,
                    append(&mut self.values, values, window, oldest)?,
                )
            }
        };
        self.offset += count;
        Ok(result)
    }
}

/// Writes `new` at `offset` into a buffer that grows by whole steps, and returns the filled part.
fn grow(buffer: &mut Option<Array>, new: &Array, offset: usize) -> Result<Array> {
    let count = new.shape()[AXIS] as usize;
    let capacity = buffer.as_ref().map_or(0, |b| b.shape()[AXIS] as usize);
    if offset + count > capacity {
        let mut shape = new.shape().to_vec();
        shape[AXIS] = count.next_multiple_of(STEP) as i32;
        let room = zeros_dtype(&shape, new.dtype())?;
        *buffer = Some(match buffer.take() {
            Some(old) => concatenate(&[slice(&old, AXIS, 0, offset)?, room], AXIS as i32)?,
            None => room,
        });
    }
    // The old handle is given up before the update is evaluated, so that MLX writes in place.
    let old = buffer.take().unwrap_or(new.clone());
    let updated = slice_update(&old, new, AXIS, offset)?;
    drop(old);
    let filled = slice(&updated, AXIS, 0, offset + count)?;
    *buffer = Some(updated);
    Ok(filled)
}

/// Writes `new` over the slot of a full ring.
fn replace(buffer: &mut Option<Array>, new: &Array, slot: usize) -> Result<Array> {
    let old = buffer.take().unwrap_or(new.clone());
    let updated = slice_update(&old, new, AXIS, slot)?;
    *buffer = Some(updated.clone());
    Ok(updated)
}

/// Puts a ring in order, keeps what the first new position still sees, and appends `new`. The buffer keeps the window.
fn append(buffer: &mut Option<Array>, new: Array, window: usize, oldest: usize) -> Result<Array> {
    let all = match buffer.take() {
        None => new,
        Some(ring) => {
            let held = ring.shape()[AXIS] as usize;
            let ordered = if oldest == 0 {
                ring
            } else {
                let parts = [slice(&ring, AXIS, oldest, held)?, slice(&ring, AXIS, 0, oldest)?];
                concatenate(&parts, AXIS as i32)?
            };
            let kept = held.min(window - 1);
            concatenate(&[slice(&ordered, AXIS, held - kept, held)?, new], AXIS as i32)?
        }
    };
    let length = all.shape()[AXIS] as usize;
    let latest =
        if length > window { slice(&all, AXIS, length - window, length)?.contiguous()? } else { all.clone() };
    *buffer = Some(latest);
    Ok(all)
}
