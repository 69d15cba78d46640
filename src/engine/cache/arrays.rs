//! The arrays behind a layer's cache: keys or values in float, or as codes, scales and biases. Positions are the same
//! axis in all of them, so that every change applies to each.

use mlx_rs::Array;
use mlx_rs::ops::{concatenate, quantize, zeros_dtype};
use mlx_rs::transforms::eval;

use super::sequence::KvStorage;
use crate::engine::array::{Packed, mlx_dtype, slice, slice_update};
use crate::error::Result;
use crate::numerics::dtype::Dtype;

/// Positions by which a growing buffer is enlarged.
const GROWTH_POSITIONS: usize = 256;
/// Axis of positions in [batch, heads, positions, dim].
pub(crate) const AXIS: usize = 2;

/// Keys or values [batch, heads, positions, dim], float or quantized, as attention gets them.
#[derive(Debug, Clone)]
pub(crate) enum CachedArray {
    Float(Array),
    Quantized(Packed),
}

impl CachedArray {
    pub(crate) fn positions(&self) -> usize {
        let array = match self {
            Self::Float(array) => array,
            Self::Quantized(packed) => &packed.codes,
        };
        array.shape()[AXIS] as usize
    }

    /// Returns the values as floats of `dtype`.
    pub(crate) fn dense(&self, dtype: Dtype) -> Result<Array> {
        match self {
            Self::Float(array) => Ok(array.as_dtype(mlx_dtype(dtype))?),
            Self::Quantized(packed) => packed.dequantize(dtype),
        }
    }
}

/// Growing or ring buffer of keys or values by position. Its user counts how many positions are filled.
#[derive(Debug)]
pub(crate) struct KvBuffer {
    storage: KvStorage,
    /// One array, or codes, scales and biases; empty before the first position.
    parts: Vec<Array>,
}

/// Positions that a growing buffer may come to hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Most positions that it may hold.
    pub(crate) most: usize,
    /// Positions that it will hold once the announced tokens are read. It grows to them in one step.
    pub(crate) expected: usize,
}

/// State of a ring buffer, and how much of it stays when positions are appended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Append {
    /// Slot of the oldest position.
    pub(crate) oldest: usize,
    /// Filled positions.
    pub(crate) filled: usize,
    /// Number of latest positions that stay in addition to the new ones.
    pub(crate) retained: usize,
    /// Most positions to store afterwards.
    pub(crate) most: usize,
    /// Number of latest positions that attention sees.
    pub(crate) visible: usize,
}

impl KvBuffer {
    pub(crate) fn new(storage: KvStorage) -> Self {
        Self { storage, parts: Vec::new() }
    }

    /// Returns the stored arrays, to be evaluated.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.parts.iter()
    }

    /// Returns the number of positions that the buffer has room for.
    pub(crate) fn capacity(&self) -> usize {
        self.parts.first().map_or(0, |part| part.shape()[AXIS] as usize)
    }

    /// Writes `new` after the `filled` positions, into a buffer that grows in whole steps.
    pub(crate) fn grow(&mut self, new: &Array, filled: usize, room: Room) -> Result<CachedArray> {
        let new = self.encode(new)?;
        let mut parts = std::mem::take(&mut self.parts).into_iter();
        let mut visible_parts = Vec::new();
        for new in new {
            let (stored, visible) = grow(parts.next(), &new, filled, room)?;
            self.parts.push(stored);
            visible_parts.push(visible);
        }
        Ok(self.assemble(visible_parts))
    }

    /// True if positions are stored in a dtype that attention as one node reads.
    pub(crate) fn is_known_to_nodes(&self) -> bool {
        matches!(self.storage, KvStorage::AsComputed | KvStorage::Float(Dtype::F32 | Dtype::F16))
    }

    /// Makes room for new positions of shape `sizes` from position `at` on, in a buffer of floats. Evaluates a larger one.
    pub(crate) fn make_room(&mut self, sizes: &[i32], at: usize, room: Room) -> Result<()> {
        let dtype = match self.storage {
            KvStorage::Float(dtype) => mlx_dtype(dtype),
            KvStorage::AsComputed | KvStorage::Quantized(_) => mlx_rs::Dtype::Float32,
        };
        let capacity = self.capacity();
        let stored = with_room(self.parts.last().cloned(), sizes, dtype, at, room)?;
        self.put(stored);
        if self.capacity() > capacity {
            eval(&self.parts)?;
        }
        Ok(())
    }

    /// Returns the array of a buffer of floats.
    pub(crate) fn float_array(&self) -> Option<&Array> {
        self.parts.first()
    }

    /// Replaces the array of a buffer of floats.
    pub(crate) fn put(&mut self, array: Array) {
        self.parts = vec![array];
    }

    /// Writes `new` into one slot of a full ring.
    pub(crate) fn replace(&mut self, new: &Array, slot: usize) -> Result<CachedArray> {
        let new = self.encode(new)?;
        let parts = std::mem::take(&mut self.parts);
        for (part, new) in parts.into_iter().zip(new) {
            self.parts.push(slice_update(&part, &new, AXIS, slot)?);
        }
        Ok(self.assemble(self.parts.clone()))
    }

    /// Puts a ring's positions in order and appends `new`.
    pub(crate) fn append(&mut self, new: &Array, how: Append) -> Result<CachedArray> {
        let new = self.encode(new)?;
        let mut parts = std::mem::take(&mut self.parts).into_iter();
        let mut visible_parts = Vec::new();
        for new in new {
            let (stored, visible) = append(parts.next(), new, how)?;
            self.parts.push(stored);
            visible_parts.push(visible);
        }
        Ok(self.assemble(visible_parts))
    }

    /// Removes `dropped` of the `filled` positions after the first `sinks`. `first`, if present, replaces the sinks.
    pub(crate) fn evict(
        &mut self,
        sinks: usize,
        dropped: usize,
        filled: usize,
        first: Option<&Array>,
    ) -> Result<()> {
        let first = first.map(|first| self.encode(first)).transpose()?.unwrap_or_default();
        for (index, part) in self.parts.iter_mut().enumerate() {
            let rest = slice(part, AXIS, sinks + dropped, filled)?;
            *part = match first.get(index) {
                Some(first) => concatenate(&[first.clone(), rest], AXIS as i32)?,
                None if sinks > 0 => concatenate(&[slice(part, AXIS, 0, sinks)?, rest], AXIS as i32)?,
                None => rest,
            };
        }
        Ok(())
    }

    /// Replaces the positions `from..to` by what `change` returns for them in float32, and cuts the buffer there.
    /// `first`, if present, is put before them.
    pub(crate) fn rewrite(
        &mut self,
        from: usize,
        to: usize,
        first: Option<&Array>,
        change: impl FnOnce(&Array) -> Result<Array>,
    ) -> Result<()> {
        let changed = change(&self.float(from, to)?)?;
        let changed = match first {
            Some(first) => concatenate(&[first.clone(), changed], AXIS as i32)?,
            None => changed,
        };
        let dtype = self.parts.last().map_or(mlx_rs::Dtype::Float32, Array::dtype);
        self.parts = self.encode(&changed.as_dtype(dtype)?)?;
        Ok(())
    }

    /// Returns a copy of the positions `from..to` in float32.
    pub(crate) fn float(&self, from: usize, to: usize) -> Result<Array> {
        let parts = self.parts.iter().map(|part| slice(part, AXIS, from, to)).collect::<Result<_>>()?;
        Ok(self.assemble(parts).dense(Dtype::F32)?.as_dtype(mlx_rs::Dtype::Float32)?)
    }

    /// Removes all positions.
    pub(crate) fn clear(&mut self) {
        self.parts.clear();
    }

    fn encode(&self, new: &Array) -> Result<Vec<Array>> {
        match self.storage {
            KvStorage::AsComputed => Ok(vec![new.clone()]),
            KvStorage::Float(dtype) => Ok(vec![new.as_dtype(mlx_dtype(dtype))?]),
            KvStorage::Quantized(quant) => {
                let (codes, scales, biases) = quantize(new, quant.group_size as i32, quant.bits as i32)?;
                Ok(vec![codes, scales, biases])
            }
        }
    }

    /// Puts `parts`, as `encode` returned them, together again.
    fn assemble(&self, parts: Vec<Array>) -> CachedArray {
        let mut parts = parts.into_iter();
        let first = parts.next().unwrap_or_else(crate::engine::array::empty);
        if let KvStorage::Quantized(quant) = self.storage
            && let Some(scales) = parts.next()
        {
            return CachedArray::Quantized(Packed { codes: first, scales, biases: parts.next(), quant });
        }
        CachedArray::Float(first)
    }
}

/// Returns the buffer with `new` at position `filled`, and its filled part.
fn grow(buffer: Option<Array>, new: &Array, filled: usize, room: Room) -> Result<(Array, Array)> {
    let count = new.shape()[AXIS] as usize;
    let buffer = with_room(buffer, new.shape(), new.dtype(), filled, room)?;
    // The old handle is given up before the update is evaluated, so that MLX writes in place.
    let updated = slice_update(&buffer, new, AXIS, filled)?;
    drop(buffer);
    let visible = slice(&updated, AXIS, 0, filled + count)?;
    Ok((updated, visible))
}

/// Returns the buffer with room for new positions of shape `sizes` after the `filled` ones.
fn with_room(
    buffer: Option<Array>,
    sizes: &[i32],
    dtype: mlx_rs::Dtype,
    filled: usize,
    room: Room,
) -> Result<Array> {
    let count = sizes[AXIS] as usize;
    let capacity = buffer.as_ref().map_or(0, |b| b.shape()[AXIS] as usize);
    let old = match buffer {
        Some(buffer) if filled + count <= capacity => return Ok(buffer),
        old => old,
    };
    let mut shape = sizes.to_vec();
    let wanted = count.max(room.expected.saturating_sub(filled)).next_multiple_of(GROWTH_POSITIONS);
    let gained = wanted.min(room.most.saturating_sub(filled)).max(count);
    shape[AXIS] = gained as i32;
    let empty = zeros_dtype(&shape, dtype)?;
    match old {
        Some(old) => Ok(concatenate(&[slice(&old, AXIS, 0, filled)?, empty], AXIS as i32)?),
        None => Ok(empty),
    }
}

/// Returns the positions of the ring and `new` to store, and those that attention sees.
fn append(buffer: Option<Array>, new: Array, how: Append) -> Result<(Array, Array)> {
    let Append { oldest, filled, retained, most, visible } = how;
    let all = match buffer {
        None => new,
        Some(ring) => {
            let ordered = if oldest == 0 {
                ring
            } else {
                let parts = [slice(&ring, AXIS, oldest, filled)?, slice(&ring, AXIS, 0, oldest)?];
                concatenate(&parts, AXIS as i32)?
            };
            concatenate(&[slice(&ordered, AXIS, filled - retained, filled)?, new], AXIS as i32)?
        }
    };
    let length = all.shape()[AXIS] as usize;
    let latest = |count: usize| -> Result<Array> {
        if length > count { slice(&all, AXIS, length - count, length) } else { Ok(all.clone()) }
    };
    Ok((if length > most { latest(most)?.contiguous()? } else { all.clone() }, latest(visible)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::runtime::Engine;

    #[test]
    fn expected_positions_get_room_at_once() {
        let _engine = Engine::start().unwrap();
        let new = Array::from_slice(&[1.0f32; 100 * 4], &[1, 1, 100, 4]);
        for (expected, most, capacities) in
            [(0, usize::MAX, [256, 256, 456]), (601, usize::MAX, [768; 3]), (601, 300, [300; 3])]
        {
            let mut buffer = KvBuffer::new(KvStorage::AsComputed);
            let found = [0, 100, 200].map(|filled| {
                buffer.grow(&new, filled, Room { most, expected }).unwrap();
                buffer.capacity()
            });
            assert_eq!(found, capacities, "{expected} expected, at most {most}");
        }
    }
}
