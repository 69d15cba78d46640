//! Our own library's functions for [`fused`](super::fused): what it is handed and what it returns.

use mlx_rs::{Array, Stream};
use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::ptr::null;

use super::fused::{
    Around, AttentionLayers, CachedAttention, Finish, Interleaved, Layer, MlpLayers, RmsNorm, StoredForm,
    StoredRows,
};
use crate::engine::array::{Packed, filled_bytes};
use crate::engine::decoder::linear::Weight;
use crate::engine::positions::Rotation;
use crate::error::{Error, Result};
use crate::models::spec::Activation;
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::Mode;

const STRIPE_ROWS: usize = mlx_sys::MIXBIT_STRIPE_ROWS as usize;
/// Bytes that are put in order at a time.
const BAND_BYTES: usize = 4 << 20;

fn handle(array: &Array) -> *const c_void {
    array.as_ptr().ctx
}

fn optional(array: Option<&Array>) -> *const c_void {
    array.map_or(null(), handle)
}

/// Takes over a new array.
fn owned(ctx: *mut c_void) -> Option<Array> {
    // SAFETY: the library hands out new arrays, which nobody else has.
    (!ctx.is_null()).then(|| unsafe { Array::from_ptr(mlx_sys::mlx_array { ctx }) })
}

/// Says whether this thread's next nodes are computed as they are made.
pub(super) fn set_eager(eager: bool) {
    // SAFETY: sets a value of this thread.
    unsafe { mlx_sys::mixbit_set_eager(eager.into()) }
}

fn mode_name(mode: Mode) -> &'static CStr {
    match mode {
        Mode::Affine => c"affine",
        Mode::Mxfp4 => c"mxfp4",
        Mode::Mxfp8 => c"mxfp8",
        Mode::Nvfp4 => c"nvfp4",
    }
}

/// Describes a layer; `None` for a matrix of float32.
fn describe((weight, bias): Layer<'_>) -> Option<mlx_sys::mixbit_linear> {
    let bias = optional(bias);
    match weight {
        Weight::Float(_) => None,
        Weight::Halves(weight) => Some(mlx_sys::mixbit_linear {
            weight: handle(weight),
            scales: null(),
            biases: null(),
            bias,
            group: 0,
            bits: 16,
            ..NONE
        }),
        Weight::Quantized(packed) => Some(mlx_sys::mixbit_linear { bias, ..describe_packed(packed) }),
        Weight::Interleaved(matrix) => Some(mlx_sys::mixbit_linear { bias, ..describe_interleaved(matrix)? }),
    }
}

const NONE: mlx_sys::mixbit_linear = mlx_sys::mixbit_linear {
    weight: null(),
    scales: null(),
    biases: null(),
    bias: null(),
    group: 0,
    bits: 0,
    mode: null(),
    interleaved: 0,
    rows: 0,
    columns: 0,
    scale: 0,
};

fn describe_packed(packed: &Packed) -> mlx_sys::mixbit_linear {
    mlx_sys::mixbit_linear {
        weight: handle(&packed.codes),
        scales: handle(&packed.scales),
        biases: optional(packed.biases.as_ref()),
        group: packed.quant.group_size as i32,
        bits: packed.quant.bits as i32,
        mode: mode_name(packed.quant.mode).as_ptr(),
        ..NONE
    }
}

/// Describes an interleaved matrix; `None` if no such matrix has its scales.
fn describe_interleaved(matrix: &Interleaved) -> Option<mlx_sys::mixbit_linear> {
    let StoredForm { rows, columns, scales, quant } = matrix.form;
    Some(mlx_sys::mixbit_linear {
        weight: handle(&matrix.bytes),
        group: quant.group_size as i32,
        bits: quant.bits as i32,
        interleaved: 1,
        rows: rows as i32,
        columns: columns as i32,
        scale: scale_number(scales)?,
        ..NONE
    })
}

/// Returns the library's number of a kind of scales; `None` where they are no floats.
fn scale_number(dtype: Dtype) -> Option<i32> {
    let number = match dtype {
        Dtype::F32 => mlx_sys::mixbit_scale_MIXBIT_FLOAT32_SCALE,
        Dtype::F16 => mlx_sys::mixbit_scale_MIXBIT_HALF_SCALE,
        Dtype::BF16 => mlx_sys::mixbit_scale_MIXBIT_BRAIN_SCALE,
        _ => return None,
    };
    Some(number as i32)
}

pub(super) fn interleave<'a>(
    form: StoredForm,
    read: impl Fn(Range<usize>) -> StoredRows<'a>,
    done: impl Fn(Range<usize>),
) -> Result<Option<Interleaved>> {
    let StoredForm { rows, columns, scales, quant } = form;
    let Some(scale) = scale_number(scales).filter(|_| quant.mode == Mode::Affine) else {
        return Ok(None);
    };
    let describe = |rows: usize, [codes, scales, biases]: [*const u8; 3]| mlx_sys::mixbit_matrix {
        codes,
        scales,
        biases,
        rows: rows as i64,
        columns: columns as i64,
        bits: quant.bits as i32,
        group: quant.group_size as i32,
        code: mlx_sys::mixbit_code_MIXBIT_AFFINE as i32,
        scale,
    };
    let whole = describe(rows, [null(); 3]);
    // SAFETY: only the sizes are read.
    let width = unsafe { mlx_sys::mixbit_stripe_bytes(&raw const whole) } as usize;
    if width == 0 {
        return Ok(None);
    }
    // One stripe more has room for the beginning, which may be anywhere.
    let sizes = [rows.div_ceil(STRIPE_ROWS) + 1, width];
    let mut filled = null();
    let bytes = filled_bytes(Dtype::U8, &sizes, |memory| {
        let start = memory.as_ptr().align_offset(mlx_sys::MIXBIT_ALIGNMENT as usize);
        let band = (BAND_BYTES / width).max(1) * STRIPE_ROWS;
        for first in (0..rows).step_by(band) {
            let some = first..(first + band).min(rows);
            let parts = read(some.clone());
            let groups = columns / quant.group_size as usize;
            let lengths = [columns * quant.bits as usize / 8, groups * scales.size(), groups * scales.size()];
            for (part, length) in parts.iter().zip(lengths) {
                assert_eq!(part.len(), some.len() * length, "as many bytes as the form says");
            }
            let stored = describe(some.len(), parts.each_ref().map(|part| part.as_ptr()));
            let to = &mut memory[start + first / STRIPE_ROWS * width..];
            assert!(to.len() >= some.len().div_ceil(STRIPE_ROWS) * width, "room for the stripes");
            // SAFETY: the parts are those of so many rows, and `to` has room for their stripes.
            if unsafe { mlx_sys::mixbit_interleave(&raw const stored, to.as_mut_ptr()) } == 0 {
                return Err(Error::engine("no memory or no thread to put a matrix in order"));
            }
            done(some);
        }
        filled = memory.as_ptr();
        Ok(())
    })?;
    // A copy may begin elsewhere among multiples of the alignment.
    // SAFETY: the array is evaluated.
    if unsafe { mlx_sys::mlx_array_data_uint8(bytes.as_ptr()) } != filled {
        return Err(Error::engine("no memory for a matrix in order"));
    }
    Ok(Some(Interleaved { bytes, form }))
}

pub(super) fn interleaved_rows(matrix: &Interleaved, indices: &Array) -> Option<Array> {
    let described = describe_interleaved(matrix)?;
    // SAFETY: both arrays have their values.
    owned(unsafe { mlx_sys::mixbit_interleaved_rows(&raw const described, handle(indices)) })
}

fn describe_all(layers: &[Layer<'_>]) -> Option<Vec<mlx_sys::mixbit_linear>> {
    layers.iter().map(|&layer| describe(layer)).collect()
}

fn describe_norm(norm: &RmsNorm<'_>) -> mlx_sys::mixbit_norm {
    mlx_sys::mixbit_norm { weight: handle(norm.weight), eps: norm.eps }
}

fn pointer<T>(value: Option<&T>) -> *const T {
    value.map_or(null(), std::ptr::from_ref)
}

pub(super) fn products(x: &Array, layers: &[Layer<'_>], finish: Finish<'_>) -> Option<Array> {
    let described = describe_all(layers)?;
    let addend = match finish {
        Finish::Concatenated => null(),
        Finish::Plus(addend) => handle(addend),
    };
    let (count, stream) = (described.len() as i32, Stream::thread_local_or_default());
    // SAFETY: the handles are alive, and `described` has as many layers as its length says.
    owned(unsafe {
        mlx_sys::mixbit_products(handle(x), described.as_ptr(), count, addend, stream.as_ptr().ctx)
    })
}

/// Returns the library's number of an activation; `None` where it has none.
fn activation_number(activation: Activation) -> Option<i32> {
    let number = match activation {
        Activation::Silu => mlx_sys::mixbit_activation_MIXBIT_SILU,
        Activation::Gelu => mlx_sys::mixbit_activation_MIXBIT_GELU,
        Activation::GeluTanh => mlx_sys::mixbit_activation_MIXBIT_GELU_TANH,
        Activation::Relu2 => mlx_sys::mixbit_activation_MIXBIT_RELU2,
        Activation::Xielu | Activation::ClampedSwish { .. } | Activation::ClampedSilu { .. } => return None,
    };
    Some(number as i32)
}

pub(super) fn mlp(around: &Around<'_>, layers: &MlpLayers<'_>) -> Option<Array> {
    let first = describe_all(layers.first)?;
    let described = mlx_sys::mixbit_mlp_layers {
        first: first.as_ptr(),
        count: first.len() as i32,
        activation: activation_number(layers.activation)?,
        gated: layers.gated.into(),
        down: describe(layers.down)?,
    };
    let norm = around.norm.as_ref().map(describe_norm);
    let stream = Stream::thread_local_or_default();
    // SAFETY: the handles are alive, and `first` has as many layers as its length says.
    owned(unsafe {
        mlx_sys::mixbit_mlp(
            handle(around.x),
            pointer(norm.as_ref()),
            &raw const described,
            optional(around.addend),
            stream.as_ptr().ctx,
        )
    })
}

pub(super) fn can_attend(head_dim: usize) -> bool {
    head_dim <= mlx_sys::MIXBIT_MOST_HEAD_DIMS as usize
}

pub(super) fn attend(
    attention: &CachedAttention<'_>,
    around: &Around<'_>,
    layers: &AttentionLayers<'_>,
    [keys, values]: [&Array; 2],
) -> Option<[Array; 3]> {
    let inputs = describe_all(layers.inputs)?;
    let output = layers.output.map(|layer| describe(layer).ok_or(())).transpose().ok()?;
    let norm = around.norm.as_ref().map(describe_norm);
    let settings = settings_of(attention);
    let head_norm = attention.head_norm;
    let frequencies = attention.rotation.and_then(|rotation| rotation.angles().frequencies);
    let parts = mlx_sys::mixbit_attention_parts {
        x: handle(around.x),
        norm: pointer(norm.as_ref()),
        inputs: inputs.as_ptr(),
        count: inputs.len() as i32,
        output: pointer(output.as_ref()),
        addend: optional(around.addend),
        keys: handle(keys),
        values: handle(values),
        query_norm: optional(head_norm.and_then(|norm| norm.query)),
        key_norm: optional(head_norm.and_then(|norm| norm.key)),
        frequencies: optional(frequencies),
    };
    let stream = Stream::thread_local_or_default();
    let mut results = [std::ptr::null_mut(); 3];
    // SAFETY: the handles are alive, and there is room for three results.
    unsafe {
        mlx_sys::mixbit_attend(
            &raw const settings,
            &raw const parts,
            stream.as_ptr().ctx,
            results.as_mut_ptr(),
        )
    };
    let [Some(out), Some(keys), Some(values)] = results.map(owned) else { return None };
    Some([out, keys, values])
}

fn settings_of(attention: &CachedAttention<'_>) -> mlx_sys::mixbit_attention {
    let angles = attention.rotation.map(Rotation::angles);
    let norm = attention.head_norm;
    mlx_sys::mixbit_attention {
        heads: attention.heads as i32,
        kv_heads: attention.kv_heads as i32,
        dims: attention.head_dim as i32,
        norms: norm.is_some().into(),
        norm_eps: norm.map_or(0.0, |norm| norm.eps),
        rotates: angles.is_some().into(),
        rope_dims: angles.map_or(0, |angles| angles.dims),
        rope_traditional: angles.is_some_and(|angles| angles.traditional).into(),
        rope_base: angles.map_or(1.0, |angles| angles.base),
        rope_scale: angles.map_or(1.0, |angles| angles.scale),
        rope_factor: angles.map_or(1.0, |angles| angles.factor),
        rope_offset: angles.map_or(0, |angles| angles.offset),
        scale: attention.scale,
        at: attention.at as i32,
        keys: attention.visible as i32,
        causal: attention.causal.into(),
    }
}
