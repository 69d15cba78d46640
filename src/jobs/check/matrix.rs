//! A matrix or vector of any stored type as rows of float32, a few megabytes at a time.

use std::borrow::Cow;

use crate::formats::checkpoint::Tensor;
use crate::models::source::SourceModel;
use crate::models::spec::TensorSpec;
use crate::numerics::affine::{FloatType, Quantized};
use crate::numerics::dtype::{Dtype, extend_f32, float_type};
use crate::numerics::nearest;
use crate::numerics::quant::{Mode, Quant};

/// Values in a chunk, unless a row has more.
const CHUNK_VALUES: usize = 1 << 20;

/// Default number of weights in a group.
pub(crate) const DEFAULT_GROUP_SIZE: usize = 64;

/// A float tensor, or the two or three tensors of a quantized layer, as `rows x columns` weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    weight: Tensor<'a>,
    packed: Option<Packed<'a>>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

#[derive(Debug, Clone, Copy)]
struct Packed<'a> {
    quant: Quant,
    dtype: FloatType,
    scales: Tensor<'a>,
    biases: Option<Tensor<'a>>,
}

impl<'a> Matrix<'a> {
    /// Views a float tensor as rows; a vector is one row. `None` where there is nothing to read.
    pub(crate) fn float(tensor: Tensor<'a>) -> Option<Self> {
        let (&columns, leading) = tensor.shape.split_last()?;
        let rows = leading.iter().product();
        (tensor.dtype.is_float() && rows * columns > 0).then_some(Self {
            weight: tensor,
            packed: None,
            rows,
            columns,
        })
    }

    /// Views the tensor `spec` of `source`, quantized or not. `None` where a part of it is missing or of the wrong
    /// type.
    pub(crate) fn of(source: &'a SourceModel, spec: &TensorSpec) -> Option<Self> {
        let weight = source.tensor(&spec.name).ok()?;
        let Some((path, quant)) = spec.path().and_then(|path| Some((path, *source.bitmap().get(path)?)))
        else {
            return Self::float(weight);
        };
        let scales = source.tensor(&format!("{path}.scales")).ok()?;
        let (dtype, biases) = match quant.mode {
            Mode::Affine => {
                (float_type(scales.dtype).ok()?, Some(source.tensor(&format!("{path}.biases")).ok()?))
            }
            // The scales' own type is in the mode.
            _ => (FloatType::F32, None),
        };
        let (rows, columns) = (spec.rows(), spec.columns());
        let is_complete = weight.dtype == Dtype::U32 && biases.is_none_or(|b| b.dtype == scales.dtype);
        let packed = Some(Packed { quant, dtype, scales, biases });
        is_complete.then_some(Self { weight, packed, rows, columns })
    }

    /// Returns the layer's quantization setting.
    pub(crate) fn quant(&self) -> Option<Quant> {
        self.packed.map(|packed| packed.quant)
    }

    /// Returns the number of weights that share a scale; the default for a float tensor.
    pub(crate) fn group(&self) -> usize {
        self.packed.map_or(DEFAULT_GROUP_SIZE, |packed| packed.quant.group_size as usize)
    }

    /// Returns the parts of a quantized layer with values that are not finite, and their number.
    pub(crate) fn non_finite_parts(&self) -> Vec<(&'static str, u64)> {
        let Some(packed) = self.packed else { return Vec::new() };
        let count = |tensor: &Tensor<'_>| match packed.quant.mode {
            Mode::Affine => {
                parts_of(tensor, |values| values.iter().filter(|x| !x.is_finite()).count() as u64).sum()
            }
            // NaN in e4m3, which has no infinities.
            Mode::Nvfp4 => tensor.bytes().iter().filter(|&&byte| byte & 0x7f == 0x7f).count() as u64,
            // NaN in e8m0.
            _ => tensor.bytes().iter().map(|&byte| u64::from(byte == 0xff)).sum(),
        };
        let counts = [("scales", count(&packed.scales)), ("biases", packed.biases.as_ref().map_or(0, count))];
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Returns the part that decides how large the values are: codes are small.
    pub(crate) fn largest_part(&self) -> &'static str {
        let Some(packed) = self.packed else { return "weight" };
        let largest = |tensor: &Tensor<'_>| {
            parts_of(tensor, |values| values.iter().fold(0.0_f32, |most, x| most.max(x.abs())))
                .fold(0.0, f32::max)
        };
        match packed.biases {
            Some(biases)
                if largest(&biases) > largest(&packed.scales) * 2_f32.powi(packed.quant.bits as i32) =>
            {
                "biases"
            }
            _ => "scales",
        }
    }

    /// Returns the element type of a float tensor's values, or of a quantized layer's scales.
    pub(crate) fn dtype(&self) -> Dtype {
        self.packed.map_or(self.weight.dtype, |packed| packed.scales.dtype)
    }

    /// Returns the number of bytes that reading all chunks reads.
    pub(crate) fn bytes(&self) -> u64 {
        self.weight.byte_len() as u64
    }

    /// Returns the number of chunks, which depends on the shape alone.
    pub(crate) fn chunks(&self) -> usize {
        self.rows.div_ceil(self.chunk_rows())
    }

    fn chunk_rows(&self) -> usize {
        (CHUNK_VALUES / self.columns).max(1)
    }

    /// Reads the rows of chunk `index` into `out` and gives their pages back.
    pub(crate) fn read(&self, index: usize, out: &mut Vec<f32>) {
        let first = index * self.chunk_rows();
        let end = (first + self.chunk_rows()).min(self.rows);
        out.clear();
        let Some(packed) = self.packed else {
            extend_f32(self.weight.dtype, &rows_of(&self.weight, self.rows, first, end), out);
            release(&self.weight, self.rows, first, end);
            return;
        };
        let part = |tensor| rows_of(tensor, self.rows, first, end);
        let (codes, scales) = (part(&self.weight), part(&packed.scales));
        let biases = packed.biases.as_ref().map(part).unwrap_or_default();
        let parts = Quantized { packed: &*codes, scales: &*scales, biases: &*biases };
        out.resize((end - first) * self.columns, 0.0);
        if nearest::dequantize(parts, packed.quant, packed.dtype, out).is_err() {
            // Shapes were checked when the folder was opened; values that cannot be decoded count as NaN.
            out.fill(f32::NAN);
        }
        release(&self.weight, self.rows, first, end);
    }
}

/// Applies `measure` to the values of a float tensor, chunk after chunk.
fn parts_of<'a, T>(
    tensor: &'a Tensor<'a>,
    measure: impl Fn(&[f32]) -> T + 'a,
) -> impl Iterator<Item = T> + 'a {
    let step = CHUNK_VALUES * tensor.dtype.size();
    let mut values = Vec::new();
    (0..tensor.byte_len()).step_by(step).map(move |start| {
        values.clear();
        let bytes = tensor.slice(start, (start + step).min(tensor.byte_len()));
        extend_f32(tensor.dtype, &bytes, &mut values);
        measure(&values)
    })
}

fn rows_of<'a>(tensor: &Tensor<'a>, rows: usize, first: usize, end: usize) -> Cow<'a, [u8]> {
    let row = tensor.byte_len() / rows;
    tensor.slice(first * row, end * row)
}

fn release(tensor: &Tensor<'_>, rows: usize, first: usize, end: usize) {
    let row = tensor.byte_len() / rows;
    tensor.release(first * row, end * row);
}
