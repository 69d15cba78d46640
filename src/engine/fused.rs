//! Several operations as one node of MLX's graph, where our own library has them: linear layers of one input with what is
//! added to them, MLPs, and attention behind a cache.
//!
//! Making and scheduling nodes takes a good part of a generated token's time. For few tokens [`Eager`] has them computed as they
//! are made. The results are those of the single nodes, to the bit but for GELU, which is within float32's rounding. There
//! are no gradients.

use mlx_rs::Array;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Range;

use crate::engine::array::mlx_dtype;
use crate::engine::decoder::linear::Weight;
#[cfg(target_os = "linux")]
use crate::engine::native;
use crate::engine::positions::Rotation;
use crate::error::{Error, Result};
use crate::models::spec::Activation;
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::Quant;

/// What becomes of linear layers' outputs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Finish<'a> {
    /// They stand side by side: [.., rows of all].
    Concatenated,
    /// Of one: an array of its shape is added.
    Plus(&'a Array),
}

/// Attention over what a cache holds: sizes, norms and positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CachedAttention<'a> {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Norm of queries and keys per head.
    pub(crate) head_norm: Option<HeadNorm<'a>>,
    /// Rotation of queries and keys.
    pub(crate) rotation: Option<&'a Rotation>,
    /// Factor on the products of queries and keys.
    pub(crate) scale: f32,
    /// Position in the cache of the first new key.
    pub(crate) at: usize,
    /// Positions of the cache that queries attend to.
    pub(crate) visible: usize,
    /// True if a query sees no keys after its own.
    pub(crate) causal: bool,
}

/// RMS norm of heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadNorm<'a> {
    pub(crate) query: Option<&'a Array>,
    pub(crate) key: Option<&'a Array>,
    pub(crate) eps: f32,
}

/// RMS norm of what a part reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RmsNorm<'a> {
    /// Factors [columns] on the normalized values.
    pub(crate) weight: &'a Array,
    pub(crate) eps: f32,
}

/// Input of a part of a block and the array added to its output, both the residual stream in most blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around<'a> {
    /// Input [batch, tokens, hidden].
    pub(crate) x: &'a Array,
    /// Norm of the input that the part computes.
    pub(crate) norm: Option<RmsNorm<'a>>,
    /// Array that is added to the part's output.
    pub(crate) addend: Option<&'a Array>,
}

/// Layers of an MLP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MlpLayers<'a> {
    /// Gate and up, one of both with gate's rows first, or up alone.
    pub(crate) first: &'a [Layer<'a>],
    pub(crate) activation: Activation,
    /// True if the activation of gate's values is multiplied by up's.
    pub(crate) gated: bool,
    pub(crate) down: Layer<'a>,
}

/// Layers of attention: those of queries, keys and values, one beside the other, and the one that reads the heads' outputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionLayers<'a> {
    pub(crate) inputs: &'a [Layer<'a>],
    pub(crate) output: Option<Layer<'a>>,
}

/// Matrix [rows, columns] and bias [rows] of a linear layer.
pub(crate) type Layer<'a> = (&'a Weight, Option<&'a Array>);

/// Guard during whose life norms, products, MLPs and attention are computed as their nodes are made, where their inputs have
/// their values. Without it they are computed when MLX evaluates them.
pub(crate) struct Eager(PhantomData<*const ()>);

impl Drop for Eager {
    fn drop(&mut self) {
        set_eager(false);
    }
}

/// Evaluates `x` and returns the guard; `None` on other platforms, which have no such nodes.
pub(crate) fn eager(x: &Array) -> Result<Option<Eager>> {
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    x.eval()?;
    set_eager(true);
    Ok(Some(Eager(PhantomData)))
}

fn set_eager(eager: bool) {
    #[cfg(target_os = "linux")]
    native::set_eager(eager);
    #[cfg(not(target_os = "linux"))]
    let _ = eager;
}

/// Computes the outputs of linear layers for float32 activations x [.., columns]; `None` where the library has no such node:
/// weights or biases of other types, or another platform.
pub(crate) fn products(x: &Array, layers: &[Layer<'_>], finish: Finish<'_>) -> Option<Array> {
    #[cfg(target_os = "linux")]
    return native::products(x, layers, finish);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (x, layers, finish);
        None
    }
}

/// Computes an MLP for float32 activations; `None` where the library has no such node.
pub(crate) fn mlp(around: &Around<'_>, layers: &MlpLayers<'_>) -> Option<Array> {
    #[cfg(target_os = "linux")]
    return native::mlp(around, layers);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (around, layers);
        None
    }
}

/// Quantized matrix in the order that the processor multiplies fastest.
#[derive(Debug, Clone)]
pub(crate) struct Interleaved {
    /// Bytes, as the library made them.
    pub(crate) bytes: Array,
    pub(crate) form: StoredForm,
}

impl Interleaved {
    /// Decodes the matrix to `dtype`, [rows, columns].
    pub(crate) fn dequantize(&self, dtype: Dtype) -> Result<Array> {
        let rows = self.form.rows as u32;
        let all: Vec<u32> = (0..rows).collect();
        Ok(self.take_rows(&Array::from_slice(&all, &[rows as i32]))?.as_dtype(mlx_dtype(dtype))?)
    }

    /// Returns the rows at `indices` as float32, [.., columns].
    pub(crate) fn take_rows(&self, indices: &Array) -> Result<Array> {
        mlx_rs::transforms::eval([indices])?;
        #[cfg(target_os = "linux")]
        let rows = native::interleaved_rows(self, indices);
        #[cfg(not(target_os = "linux"))]
        let rows = None;
        rows.ok_or_else(|| {
            Error::engine(format!(
                "cannot read rows of an interleaved matrix [{}, {}]: indices of type {:?} that are not uint32 or go beyond \
                 its rows, or too few bytes ({})",
                self.form.rows,
                self.form.columns,
                indices.dtype(),
                self.bytes.nbytes()
            ))
        })
    }
}

/// Sizes and types of a stored matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredForm {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Dtype of scales and biases.
    pub(crate) scales: Dtype,
    pub(crate) quant: Quant,
}

/// Codes, scales and biases of some rows, as they are stored.
pub(crate) type StoredRows<'a> = [Cow<'a, [u8]>; 3];

/// Puts an affine matrix in the order that the processor multiplies fastest, some rows at a time. `read` returns the rows of a
/// range, and `done` is told when they were read. `None` where there is no such order: another mode, other sizes, another
/// processor.
pub(crate) fn interleave<'a>(
    form: StoredForm,
    read: impl Fn(Range<usize>) -> StoredRows<'a>,
    done: impl Fn(Range<usize>),
) -> Result<Option<Interleaved>> {
    #[cfg(target_os = "linux")]
    return native::interleave(form, read, done);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (form, read, done);
        Ok(None)
    }
}

/// True if [`attend`] has heads of so many dimensions.
pub(crate) fn can_attend(head_dim: usize) -> bool {
    #[cfg(target_os = "linux")]
    return native::can_attend(head_dim);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = head_dim;
        false
    }
}

/// Computes attention for float32 activations [1, tokens, hidden] and returns the output layer's outputs, or without one the
/// heads' [1, tokens, heads * head_dim], and the caches [1, kv heads, capacity, head_dim] with the new keys and values, in place
/// if they are evaluated at the call and nobody else holds them. `None` where the library has no such node.
pub(crate) fn attend(
    attention: &CachedAttention<'_>,
    around: &Around<'_>,
    layers: &AttentionLayers<'_>,
    [keys, values]: [&Array; 2],
) -> Option<[Array; 3]> {
    #[cfg(target_os = "linux")]
    return native::attend(attention, around, layers, [keys, values]);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (attention, around, layers, keys, values);
        None
    }
}
