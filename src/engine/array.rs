//! Arrays from and to Rust memory, slices, and the operations that mlx-rs has in affine mode only.

use mlx_rs::{Array, Stream};
use std::ffi::{CString, c_void};

use super::recompute;
use crate::error::{Error, Result};
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::{Mode, Quant};

// The number 1 in each type of codes and scales.
const E8M0_ONE: u8 = 127;
const E4M3_ONE: u8 = 0x38;
const E2M1_ONE: u8 = 2;

/// Returns MLX's name of a dtype.
pub(crate) fn mlx_dtype(dtype: Dtype) -> mlx_rs::Dtype {
    match dtype {
        Dtype::F64 => mlx_rs::Dtype::Float64,
        Dtype::F32 => mlx_rs::Dtype::Float32,
        Dtype::F16 => mlx_rs::Dtype::Float16,
        Dtype::BF16 => mlx_rs::Dtype::Bfloat16,
        Dtype::I64 => mlx_rs::Dtype::Int64,
        Dtype::I32 => mlx_rs::Dtype::Int32,
        Dtype::I16 => mlx_rs::Dtype::Int16,
        Dtype::I8 => mlx_rs::Dtype::Int8,
        Dtype::U64 => mlx_rs::Dtype::Uint64,
        Dtype::U32 => mlx_rs::Dtype::Uint32,
        Dtype::U16 => mlx_rs::Dtype::Uint16,
        // Numbers of 8 bits are decoded before they come here.
        Dtype::U8 | Dtype::F8E4M3 | Dtype::F8E8M0 => mlx_rs::Dtype::Uint8,
        Dtype::Bool => mlx_rs::Dtype::Bool,
    }
}

/// Converts sizes to the integers that MLX takes.
pub(crate) fn shape(sizes: &[usize]) -> Vec<i32> {
    sizes.iter().map(|&n| n as i32).collect()
}

/// Returns an array of `dtype` and shape `sizes` whose bytes `fill` writes in place, all of them.
pub(crate) fn filled_bytes<E>(
    dtype: Dtype,
    sizes: &[usize],
    fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<Array, E> {
    let count = sizes.iter().product::<usize>() * dtype.size();
    #[cfg(target_os = "linux")]
    if let Some(array) = unfilled(sizes, dtype) {
        // SAFETY: the array has so many bytes.
        unsafe { fill_in_place(&array, count, fill)? };
        return Ok(array);
    }
    let mut bytes = vec![0; count];
    fill(&mut bytes)?;
    Ok(from_bytes(&bytes, dtype, sizes))
}

/// Returns an array of shape `sizes` whose values `fill` writes in place, all of them.
pub(crate) fn filled<E>(sizes: &[usize], fill: impl FnOnce(&mut [f32]) -> Result<(), E>) -> Result<Array, E> {
    let count = sizes.iter().product();
    #[cfg(target_os = "linux")]
    if let Some(array) = unfilled(sizes, Dtype::F32) {
        // SAFETY: the array has so many values of float32.
        unsafe { fill_in_place(&array, count, fill)? };
        return Ok(array);
    }
    let mut values = vec![0.0; count];
    fill(&mut values)?;
    Ok(from_vec(values, sizes))
}

/// Returns an array with its memory, which nobody has written yet; `None` if there is none.
#[cfg(target_os = "linux")]
fn unfilled(sizes: &[usize], dtype: Dtype) -> Option<Array> {
    let (shape, dtype) = (shape(sizes), mlx_dtype(dtype) as i32);
    // SAFETY: a shape and its length. The array is evaluated; MLX's allocator, which the compiler does not see into, made its
    // memory, and whatever bits are there are numbers.
    unsafe {
        let ctx = mlx_sys::mixbit_array_unfilled(shape.as_ptr(), shape.len() as i32, dtype);
        (!ctx.is_null()).then(|| Array::from_ptr(mlx_sys::mlx_array { ctx }))
    }
}

/// Lets `fill` write the values of a new array.
///
/// # Safety
///
/// Nobody else has the array, and it has `count` values of type `T`.
#[cfg(target_os = "linux")]
unsafe fn fill_in_place<T, E>(
    array: &Array,
    count: usize,
    fill: impl FnOnce(&mut [T]) -> Result<(), E>,
) -> Result<(), E> {
    if count == 0 {
        return Ok(());
    }
    // SAFETY: as the caller says; MLX aligns its memory for all types.
    unsafe {
        let data = mlx_sys::mlx_array_data_uint8(array.as_ptr()).cast_mut();
        fill(std::slice::from_raw_parts_mut(data.cast(), count))
    }
}

/// Makes an array of `values`, which MLX copies on the CPU and takes over without a copy on a GPU.
pub(crate) fn from_vec(values: Vec<f32>, sizes: &[usize]) -> Array {
    unsafe extern "C" fn free(payload: *mut c_void) {
        // SAFETY: `payload` is the box made below, and MLX calls this once.
        drop(unsafe { Box::from_raw(payload.cast::<Vec<f32>>()) });
    }
    assert_eq!(values.len(), sizes.iter().product::<usize>(), "a buffer has as many values as its shape");
    let mut owner = Box::new(values);
    let data = owner.as_mut_ptr().cast::<c_void>();
    let sizes = shape(sizes);
    // SAFETY: the data has the size that the shape says and lives until `free` is called.
    unsafe {
        Array::from_ptr(mlx_sys::mlx_array_new_data_managed_payload(
            data,
            sizes.as_ptr(),
            sizes.len() as i32,
            mlx_sys::mlx_dtype__MLX_FLOAT32,
            Box::into_raw(owner).cast::<c_void>(),
            Some(free),
        ))
    }
}

/// Makes an array from a copy of little-endian `bytes` of `dtype`.
pub(crate) fn from_bytes(bytes: &[u8], dtype: Dtype, sizes: &[usize]) -> Array {
    assert_eq!(
        bytes.len(),
        sizes.iter().product::<usize>() * dtype.size(),
        "as many bytes as the shape says"
    );
    // SAFETY: MLX copies as many bytes as shape and dtype say, which is the slice's length.
    unsafe { Array::from_raw_data(bytes.as_ptr().cast(), &shape(sizes), mlx_dtype(dtype)) }
}

/// Makes an array [1, tokens] of token ids.
pub(crate) fn from_tokens(tokens: &[u32]) -> Array {
    Array::from_slice(tokens, &[1, tokens.len() as i32])
}

/// Returns an array's values in row-major order, as float32.
pub(crate) fn to_vec(array: &Array) -> Result<Vec<f32>> {
    let array = array.as_dtype(mlx_rs::Dtype::Float32)?.contiguous()?;
    array.to_vec_exact::<f32>().map_err(|e| Error::engine(e.to_string()))
}

/// Evaluates a float32 array and lends its values in row-major order.
pub(crate) fn as_slice(array: &Array) -> Result<&[f32]> {
    array.try_as_slice::<f32>().map_err(|e| Error::engine(e.to_string()))
}

/// Returns `array[.., from..to, ..]` along `axis`, without a copy.
pub(crate) fn slice(array: &Array, axis: usize, from: usize, to: usize) -> Result<Array> {
    let (start, stop, strides) = slice_bounds(array, axis, from as i32, to as i32);
    call(|result, stream| unsafe {
        mlx_sys::mlx_slice(
            result,
            array.as_ptr(),
            start.as_ptr(),
            start.len(),
            stop.as_ptr(),
            stop.len(),
            strides.as_ptr(),
            strides.len(),
            stream,
        )
    })
}

/// Returns `array` with `update` written from position `from` of `axis` on; in place when nobody else holds `array`.
pub(crate) fn slice_update(array: &Array, update: &Array, axis: usize, from: usize) -> Result<Array> {
    let (start, stop, strides) = slice_bounds(array, axis, from as i32, from as i32 + update.shape()[axis]);
    call(|result, stream| unsafe {
        mlx_sys::mlx_slice_update(
            result,
            array.as_ptr(),
            update.as_ptr(),
            start.as_ptr(),
            start.len(),
            stop.as_ptr(),
            stop.len(),
            strides.as_ptr(),
            strides.len(),
            stream,
        )
    })
}

/// Returns start, stop and strides by axis, as mlx-c takes them, of `from..to` along `axis` and all of the others.
fn slice_bounds(array: &Array, axis: usize, from: i32, to: i32) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
    let mut start = vec![0; array.ndim()];
    let mut stop = array.shape().to_vec();
    start[axis] = from;
    stop[axis] = to;
    (start, stop, vec![1; array.ndim()])
}

/// Quantized matrix as MLX stores it: packed codes, scales, and biases in affine mode.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub(crate) codes: Array,
    pub(crate) scales: Array,
    pub(crate) biases: Option<Array>,
    pub(crate) quant: Quant,
}

pub(crate) fn optional_int(value: u32) -> mlx_sys::mlx_optional_int {
    mlx_sys::mlx_optional_int { value: value as i32, has_value: true }
}

pub(crate) fn mode_name(mode: Mode) -> Result<CString> {
    CString::new(mode.name()).map_err(|e| Error::engine(e.to_string()))
}

/// Side of a product on which a stored matrix [rows, columns] is summed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Orientation {
    AsStored,
    Transposed,
}

impl Packed {
    /// Computes `x @ w.T`.
    pub(crate) fn matmul_transposed(&self, x: &Array) -> Result<Array> {
        self.product(x, Orientation::Transposed)
    }

    /// Computes `x @ w`.
    pub(crate) fn matmul(&self, x: &Array) -> Result<Array> {
        self.product(x, Orientation::AsStored)
    }

    fn product(&self, x: &Array, orientation: Orientation) -> Result<Array> {
        let mode = mode_name(self.quant.mode)?;
        let none = empty();
        let biases = self.biases.as_ref().unwrap_or(&none);
        call(|result, stream| unsafe {
            mlx_sys::mlx_quantized_matmul(
                result,
                x.as_ptr(),
                self.codes.as_ptr(),
                self.scales.as_ptr(),
                biases.as_ptr(),
                orientation == Orientation::Transposed,
                optional_int(self.quant.group_size),
                optional_int(self.quant.bits),
                mode.as_ptr(),
                stream,
            )
        })
    }

    /// Decodes the matrix to `dtype`, [rows, columns].
    pub(crate) fn dequantize(&self, dtype: Dtype) -> Result<Array> {
        let mode = mode_name(self.quant.mode)?;
        let none = empty();
        // MLX decodes affine codes in the scales' dtype.
        let part = |part: &Array| part.as_dtype(mlx_dtype(dtype));
        let scales = if self.quant.mode == Mode::Affine { part(&self.scales)? } else { self.scales.clone() };
        let biases = self.biases.as_ref().map(part).transpose()?;
        let biases = biases.as_ref().unwrap_or(&none);
        let dtype = mlx_sys::mlx_optional_dtype { value: mlx_dtype(dtype).into(), has_value: true };
        call(|result, stream| unsafe {
            mlx_sys::mlx_dequantize(
                result,
                self.codes.as_ptr(),
                scales.as_ptr(),
                biases.as_ptr(),
                optional_int(self.quant.group_size),
                optional_int(self.quant.bits),
                mode.as_ptr(),
                none.as_ptr(),
                dtype,
                stream,
            )
        })
    }

    /// Returns what the codes stand for without scales and biases, as float32 [rows, groups, group size]: affine codes stand
    /// for themselves.
    pub(crate) fn codes(&self) -> Result<Array> {
        let sizes = [self.scales.shape()[0] as usize, self.scales.shape()[1] as usize];
        let constant = |value: f32| from_vec(vec![value; self.scales.size()], &sizes);
        let one = |code: u8| from_bytes(&vec![code; self.scales.size()], Dtype::U8, &sizes);
        let (scales, biases) = match self.quant.mode {
            Mode::Affine => (constant(1.0), Some(constant(0.0))),
            Mode::Mxfp4 | Mode::Mxfp8 => (one(E8M0_ONE), None),
            Mode::Nvfp4 => (one(E4M3_ONE), None),
        };
        Self { codes: self.codes.clone(), scales, biases, quant: self.quant }.grouped()
    }

    /// Returns the scales of a floating-point mode as float32 [rows, groups, 1].
    pub(crate) fn scale_values(&self) -> Result<Array> {
        let one = if self.quant.bits == 8 { E4M3_ONE } else { E2M1_ONE << 4 | E2M1_ONE };
        let sizes: Vec<usize> = self.codes.shape().iter().map(|&size| size as usize).collect();
        let codes = from_bytes(&vec![one; self.codes.nbytes()], Dtype::U32, &sizes);
        let ones = Self { codes, scales: self.scales.clone(), biases: None, quant: self.quant };
        // A slice alone would keep the whole decoded matrix.
        Ok(slice(&ones.grouped()?, 2, 0, 1)?.contiguous()?)
    }

    /// Decodes the matrix to float32 [rows, groups, group size].
    fn grouped(&self) -> Result<Array> {
        let (rows, groups) = (self.scales.shape()[0], self.scales.shape()[1]);
        Ok(self.dequantize(Dtype::F32)?.reshape(&[rows, groups, self.quant.group_size as i32])?)
    }

    /// Returns the matrix of the rows at `indices` alone.
    pub(crate) fn rows(&self, indices: &Array) -> Result<Self> {
        let take = |array: &Array| array.take_axis(indices, 0);
        Ok(Self {
            codes: take(&self.codes)?,
            scales: take(&self.scales)?,
            biases: self.biases.as_ref().map(take).transpose()?,
            quant: self.quant,
        })
    }
}

/// Computes SwiGLU: silu(gate) * up.
pub(crate) fn gated(gate: &Array, up: &Array) -> Result<Array> {
    #[cfg(target_os = "linux")]
    {
        let stream = Stream::thread_local_or_default();
        // SAFETY: the handles are alive; the result is null or a new array.
        let ctx = unsafe { mlx_sys::mixbit_gated(gate.as_ptr().ctx, up.as_ptr().ctx, stream.as_ptr().ctx) };
        if !ctx.is_null() {
            // SAFETY: the array is new, and nobody else has it.
            return Ok(unsafe { Array::from_ptr(mlx_sys::mlx_array { ctx }) });
        }
    }
    Ok(gate.multiply(mlx_rs::ops::sigmoid(gate)?)?.multiply(up)?)
}

/// Returns a number that is multiplied with `x`, in its dtype.
pub(crate) fn factor(value: f32, x: &Array) -> Result<Array> {
    Ok(Array::from_f32(value).as_dtype(x.dtype())?)
}

/// Returns values that are no larger than `cap` in either direction: `cap * tanh(x / cap)`.
pub(crate) fn capped(x: &Array, cap: f32) -> Result<Array> {
    let inner = x.multiply(factor(1.0 / cap, x)?)?;
    Ok(mlx_rs::ops::tanh(&inner)?.multiply(factor(cap, x)?)?)
}

/// Returns values cut to what is between the negative of `limit` and it.
pub(crate) fn clamped(x: &Array, limit: f32) -> Result<Array> {
    let above = mlx_rs::ops::maximum(x, factor(-limit, x)?)?;
    Ok(mlx_rs::ops::minimum(above, factor(limit, x)?)?)
}

/// Returns the handle that mlx-c takes for an absent argument.
pub(crate) fn empty() -> Array {
    // SAFETY: a new empty handle, owned from here on.
    unsafe { Array::from_ptr(mlx_sys::mlx_array_new()) }
}

/// Runs one mlx-c operation on the default stream.
fn call(operation: impl FnOnce(*mut mlx_sys::mlx_array, mlx_sys::mlx_stream) -> i32) -> Result<Array> {
    let stream = Stream::thread_local_or_default();
    // SAFETY: `operation` fills the fresh handle or reports failure.
    unsafe {
        let mut result = mlx_sys::mlx_array_new();
        let status = operation(&raw mut result, stream.as_ptr());
        let array = Array::from_ptr(result);
        if status == 0 { Ok(array) } else { Err(Error::engine("an MLX operation failed on these shapes")) }
    }
}

/// Differentiates `function` at `primals`: returns the products of `cotangent` with the derivatives of its value with
/// respect to each of them, not evaluated yet.
pub(crate) fn vector_jacobian_products(
    mut function: impl FnMut(&[Array]) -> Result<Array>,
    primals: &[Array],
    cotangent: Array,
) -> Result<Vec<Array>> {
    recompute::vjp(|primals| Ok(vec![function(primals)?]), primals, &[cotangent])
}
