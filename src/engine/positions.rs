//! Positions of tokens in attention: rotation, offsets and scale.

use mlx_rs::Array;
use mlx_rs::fast::{self};

use crate::error::Result;
use crate::models::spec::Rope;

/// RoPE for positions from `offset` on, made once per call and shared by all layers.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    dims: i32,
    traditional: bool,
    theta: f32,
    scale: f32,
    attention_factor: f32,
    freqs: Option<Array>,
    offset: i32,
}

impl Rotation {
    /// Makes the rotation for positions from `offset` on in a sequence of `length` tokens, which dynamic scaling
    /// depends on.
    pub(crate) fn new(rope: &Rope, offset: i32, length: usize) -> Self {
        let freqs = rope.freqs(length);
        Self {
            dims: rope.dims as i32,
            traditional: rope.traditional,
            theta: rope.theta as f32,
            scale: rope.scale(),
            attention_factor: rope.attention_factor(),
            freqs: freqs.map(|freqs| Array::from_slice(&freqs, &[freqs.len() as i32])),
            offset,
        }
    }

    /// Rotates x [batch, heads, tokens, dim].
    pub(crate) fn apply(&self, x: &Array) -> Result<Array> {
        let rotated = self.rotate(x)?;
        if self.dims == x.dim(-1) || (self.attention_factor - 1.0).abs() < f32::EPSILON {
            return Ok(scaled(rotated, self.attention_factor)?);
        }
        let factor = |dim| if dim < self.dims { self.attention_factor } else { 1.0 };
        let factors: Vec<f32> = (0..x.dim(-1)).map(factor).collect();
        Ok(rotated.multiply(Array::from_slice(&factors, &[x.dim(-1)]).as_dtype(x.dtype())?)?)
    }

    /// Rotates already rotated keys [batch, heads, tokens, dim] further, all of them by the offset.
    pub(crate) fn turn(&self, x: &Array) -> Result<Array> {
        // Each key is the first of a sequence of its own.
        let each = x.reshape(&[-1, 1, 1, x.dim(-1)])?;
        Ok(self.rotate(&each)?.reshape(x.shape())?)
    }

    fn rotate(&self, x: &Array) -> Result<Array> {
        let base = if self.freqs.is_some() { None } else { Some(self.theta) };
        let freqs = self.freqs.as_ref();
        Ok(fast::rope(x, self.dims, self.traditional, base, self.scale, self.offset, freqs)?)
    }
}

/// Position of the first of some new tokens, as each part of attention counts it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Tokens before it in the text. Borders of attention chunks are counted here, so that a chunk begins as it did in
    /// training.
    pub(crate) seen: usize,
    /// Keys before it in a cache that evicts: the number it may attend to, which temperatures depend on.
    pub(crate) held: usize,
    /// Position that RoPE rotates by.
    pub(crate) rotation: usize,
    /// Most positions that the cache holds. Dynamic RoPE is set for all of them at once.
    pub(crate) context: Option<usize>,
}

fn scaled(x: Array, factor: f32) -> mlx_rs::error::Result<Array> {
    if (factor - 1.0).abs() < f32::EPSILON {
        return Ok(x);
    }
    x.multiply(Array::from_f32(factor).as_dtype(x.dtype())?)
}
