//! The arrays behind a layer's cache: keys or values as they are, or as codes, scales and biases. All have the positions
//! in the same axis, so that what is done to one is done to each.

use mlx_rs::Array;
use mlx_rs::ops::{concatenate, quantize, zeros_dtype};

use crate::engine::array::{Packed, slice, slice_update};
use crate::error::Result;
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::Quant;

/// Positions that a growing buffer gains at a time.
const STEP: usize = 256;
/// The axis of positions in [batch, heads, positions, dim].
pub(crate) const AXIS: usize = 2;

/// Keys or values [batch, heads, positions, dim], as attention gets them.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    Float(Array),
    Quantized(Packed),
}

impl Held {
    pub(crate) fn positions(&self) -> usize {
        let array = match self {
            Self::Float(array) => array,
            Self::Quantized(packed) => &packed.codes,
        };
        array.shape()[AXIS] as usize
    }

    /// In float.
    pub(crate) fn dense(&self, dtype: Dtype) -> Result<Array> {
        match self {
            Self::Float(array) => Ok(array.clone()),
            Self::Quantized(packed) => packed.dequantize(dtype),
        }
    }
}

/// A buffer of positions. Its user knows how many of them are filled.
#[derive(Debug)]
pub(crate) struct Store {
    quant: Option<Quant>,
    /// One array, or codes, scales and biases; none before the first position.
    parts: Vec<Array>,
}

/// What to do with a ring when positions are appended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Append {
    /// The slot of the oldest position.
    pub(crate) oldest: usize,
    /// Positions held.
    pub(crate) filled: usize,
    /// How many of the latest of them stay before the new ones are counted.
    pub(crate) kept: usize,
    /// Positions to hold after that at most.
    pub(crate) most: usize,
    /// How many of the latest are handed to attention.
    pub(crate) visible: usize,
}

impl Store {
    pub(crate) fn new(quant: Option<Quant>) -> Self {
        Self { quant, parts: Vec::new() }
    }

    /// The arrays held, to be evaluated.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.parts.iter()
    }

    /// Positions that there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.parts.first().map_or(0, |part| part.shape()[AXIS] as usize)
    }

    /// Writes `new` after the `filled` positions, into a buffer that grows by whole steps up to `most` positions.
    pub(crate) fn grow(&mut self, new: &Array, filled: usize, most: usize) -> Result<Held> {
        let new = self.encode(new)?;
        let mut parts = std::mem::take(&mut self.parts).into_iter();
        let mut seen = Vec::new();
        for new in new {
            let (stored, visible) = grow(parts.next(), &new, filled, most)?;
            self.parts.push(stored);
            seen.push(visible);
        }
        Ok(self.held(seen))
    }

    /// Writes `new` over the slot of a full ring.
    pub(crate) fn replace(&mut self, new: &Array, slot: usize) -> Result<Held> {
        let new = self.encode(new)?;
        let parts = std::mem::take(&mut self.parts);
        for (part, new) in parts.into_iter().zip(new) {
            self.parts.push(slice_update(&part, &new, AXIS, slot)?);
        }
        Ok(self.held(self.parts.clone()))
    }

    /// Puts a ring in order and appends `new`.
    pub(crate) fn append(&mut self, new: &Array, how: Append) -> Result<Held> {
        let new = self.encode(new)?;
        let mut parts = std::mem::take(&mut self.parts).into_iter();
        let mut seen = Vec::new();
        for new in new {
            let (stored, visible) = append(parts.next(), new, how)?;
            self.parts.push(stored);
            seen.push(visible);
        }
        Ok(self.held(seen))
    }

    /// Takes `dropped` of the `filled` positions out after the first `sinks`. `first` replaces the sinks where given.
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

    /// Replaces the positions `from..to` by what `change` makes of them in float32, and cuts the buffer there.
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

    /// A copy of the positions `from..to` in float32.
    pub(crate) fn float(&self, from: usize, to: usize) -> Result<Array> {
        let parts = self.parts.iter().map(|part| slice(part, AXIS, from, to)).collect::<Result<_>>()?;
        Ok(self.held(parts).dense(Dtype::F32)?.as_dtype(mlx_rs::Dtype::Float32)?)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.parts.clear();
    }

    fn encode(&self, new: &Array) -> Result<Vec<Array>> {
        let Some(quant) = self.quant else { return Ok(vec![new.clone()]) };
        let (codes, scales, biases) = quantize(new, quant.group_size as i32, quant.bits as i32)?;
        Ok(vec![codes, scales, biases])
    }

    fn held(&self, parts: Vec<Array>) -> Held {
        let mut parts = parts.into_iter();
        match (self.quant, parts.next(), parts.next(), parts.next()) {
            (Some(quant), Some(codes), Some(scales), biases) => {
                Held::Quantized(Packed { codes, scales, biases, quant })
            }
            (_, part, ..) => Held::Float(part.unwrap_or_else(crate::engine::array::empty)),
        }
    }
}

/// The buffer with `new` at `filled`, and its filled part.
fn grow(buffer: Option<Array>, new: &Array, filled: usize, most: usize) -> Result<(Array, Array)> {
    let count = new.shape()[AXIS] as usize;
    let capacity = buffer.as_ref().map_or(0, |b| b.shape()[AXIS] as usize);
    let buffer = match buffer {
        Some(buffer) if filled + count <= capacity => buffer,
        old => {
            let mut shape = new.shape().to_vec();
            let gained = count.next_multiple_of(STEP).min(most.saturating_sub(filled)).max(count);
            shape[AXIS] = gained as i32;
            let room = zeros_dtype(&shape, new.dtype())?;
            match old {
                Some(old) => concatenate(&[slice(&old, AXIS, 0, filled)?, room], AXIS as i32)?,
                None => room,
            }
        }
    };
    // The old handle is given up before the update is evaluated, so that MLX writes in place.
    let updated = slice_update(&buffer, new, AXIS, filled)?;
    drop(buffer);
    let visible = slice(&updated, AXIS, 0, filled + count)?;
    Ok((updated, visible))
}

/// What is stored of ring and `new`, and what is visible.
fn append(buffer: Option<Array>, new: Array, how: Append) -> Result<(Array, Array)> {
    let Append { oldest, filled, kept, most, visible } = how;
    let all = match buffer {
        None => new,
        Some(ring) => {
            let ordered = if oldest == 0 {
                ring
            } else {
                let parts = [slice(&ring, AXIS, oldest, filled)?, slice(&ring, AXIS, 0, oldest)?];
                concatenate(&parts, AXIS as i32)?
            };
            concatenate(&[slice(&ordered, AXIS, filled - kept, filled)?, new], AXIS as i32)?
        }
    };
    let length = all.shape()[AXIS] as usize;
    let latest = |count: usize| -> Result<Array> {
        if length > count { slice(&all, AXIS, length - count, length) } else { Ok(all.clone()) }
    };
    Ok((if length > most { latest(most)?.contiguous()? } else { all.clone() }, latest(visible)?))
}
