//! Producers of output tensors: copied, cast, quantized or dequantized.

use super::damage::check_range;
use super::damage::{Warnings, unroundable};
use super::spool::Spooled;
use crate::error::{Error, Result};
use crate::files::output_folder::OutputFolder;
use crate::formats::checkpoint::{Checkpoint, Tensor};
use crate::formats::npz::write_npz;
use crate::formats::writer::{OutputTensor, Produce, Shards, Sink, write_safetensors};
use crate::models::source::{SourceModel, SourceTensor};
use crate::models::spec::with_columns;
use crate::numerics::affine::{FloatType, QuantizeError, Quantized, Rows};
use crate::numerics::dtype::{CastReport, Dtype, cast, float_type};
use crate::numerics::quant::{Mode, Quant};
use crate::numerics::rounding::{Importance, RoundingError};
use crate::numerics::{nearest, rounding};
use crate::progress::Progress;

/// Source bytes in a chunk.
pub(crate) const CHUNK_BYTES: usize = 4 << 20;

/// A tensor written unchanged.
pub struct CopyTensor<'a> {
    source: SourceTensor<'a>,
    warnings: &'a Warnings,
}

impl<'a> CopyTensor<'a> {
    /// Copies `source`.
    pub fn new(source: SourceTensor<'a>, warnings: &'a Warnings) -> Self {
        Self { source, warnings }
    }
}

impl Produce for CopyTensor<'_> {
    fn outputs(&self) -> Vec<OutputTensor> {
        let tensor = &self.source.tensor;
        vec![OutputTensor {
            name: self.source.name.to_owned(),
            dtype: tensor.dtype,
            shape: tensor.shape.to_vec(),
        }]
    }

    fn chunks(&self) -> usize {
        self.source.tensor.byte_len().div_ceil(CHUNK_BYTES)
    }

    fn produce(&self, index: usize, sink: &mut Sink<'_>) -> Result<()> {
        let start = index * CHUNK_BYTES;
        let end = (start + CHUNK_BYTES).min(self.source.tensor.byte_len());
        let bytes = self.source.tensor.slice(start, end);
        if self.source.tensor.dtype.is_float() {
            let report = cast(self.source.tensor.dtype, &bytes, Dtype::F32, &mut Vec::new());
            self.warnings.add(self.source.name, report);
        }
        sink(0, start as u64, &bytes)?;
        self.source.tensor.release(start, end);
        Ok(())
    }
}

/// A tensor cast to a float dtype.
pub struct CastTensor<'a> {
    source: SourceTensor<'a>,
    dtype: Dtype,
    warnings: &'a Warnings,
}

impl<'a> CastTensor<'a> {
    /// Casts `source` to `dtype`.
    pub fn new(source: SourceTensor<'a>, dtype: Dtype, warnings: &'a Warnings) -> Self {
        Self { source, dtype, warnings }
    }

    fn chunk_values(&self) -> usize {
        CHUNK_BYTES / self.source.tensor.dtype.size()
    }
}

impl Produce for CastTensor<'_> {
    fn outputs(&self) -> Vec<OutputTensor> {
        let shape = self.source.tensor.shape.to_vec();
        vec![OutputTensor { name: self.source.name.to_owned(), dtype: self.dtype, shape }]
    }

    fn chunks(&self) -> usize {
        self.source.tensor.len().div_ceil(self.chunk_values())
    }

    fn produce(&self, index: usize, sink: &mut Sink<'_>) -> Result<()> {
        let tensor = &self.source.tensor;
        let size = tensor.dtype.size();
        let first = index * self.chunk_values();
        let end = (first + self.chunk_values()).min(tensor.len());
        let mut out = Vec::new();
        let report = cast(tensor.dtype, &tensor.slice(first * size, end * size), self.dtype, &mut out);
        check_range(&self.source, self.dtype, report)?;
        self.warnings.add(self.source.name, report);
        tensor.release(first * size, end * size);
        sink(0, (first * self.dtype.size()) as u64, &out)
    }
}

/// Origin of a matrix' codes.
#[derive(Debug, Clone, Copy)]
pub enum Codes<'a> {
    /// Round to nearest, as `mx.quantize`.
    Nearest,
    /// Scale search, with E[x_j^2] of the layer's input where it is known; of each expert's input in turn.
    Searched(Option<&'a [f32]>),
    /// Codes made earlier.
    Ready(Quantized<&'a [u8]>, &'a Spooled),
}

/// A matrix quantized to packed codes and scales, and biases in affine mode.
pub struct QuantizeTensor<'a> {
    source: SourceTensor<'a>,
    layer: String,
    quant: Quant,
    dtype: Dtype,
    codes: Codes<'a>,
    warnings: &'a Warnings,
}

impl<'a> QuantizeTensor<'a> {
    /// Quantizes the matrix `source` of `layer`; the weights are first cast to `dtype`, the type of affine scales and
    /// biases.
    pub fn new(
        source: SourceTensor<'a>,
        layer: &str,
        quant: Quant,
        dtype: Dtype,
        codes: Codes<'a>,
        warnings: &'a Warnings,
    ) -> Self {
        Self { source, layer: layer.to_owned(), quant, dtype, codes, warnings }
    }

    fn rows(&self) -> usize {
        self.source.tensor.len() / self.columns()
    }

    fn columns(&self) -> usize {
        self.source.tensor.columns()
    }

    /// Rounds the rows in `bytes`, of the type of scales, of which the first is row `first` of the matrix.
    fn round(&self, first: usize, bytes: &[u8]) -> Result<Quantized> {
        let dtype = float_type(self.dtype)?;
        let quantized = match self.codes {
            Codes::Searched(importance) if self.quant.mode == Mode::Affine => {
                let mut weights = vec![0.0; bytes.len() / dtype.bytes()];
                dtype.widen(bytes, &mut weights);
                self.search(first, &weights, dtype, importance)
            }
            _ => Rows::new(bytes, dtype, self.columns())
                .and_then(|rows| nearest::quantize(rows, self.quant, dtype))
                .map_err(|e| RoundingError::from(e).offset_rows(first)),
        };
        quantized.map_err(|e| unroundable(&self.source, e))
    }

    fn search(
        &self,
        first: usize,
        weights: &[f32],
        dtype: FloatType,
        importance: Option<&[f32]>,
    ) -> Result<Quantized, RoundingError> {
        let columns = self.columns();
        let importance = importance.and_then(|values| Importance::new(values, self.rows(), columns));
        let mut all = Quantized::default();
        for (rows, importance) in Importance::parts(importance, first..first + weights.len() / columns) {
            let weights = &weights[(rows.start - first) * columns..(rows.end - first) * columns];
            let quantized = rounding::search(weights, columns, self.quant, dtype, importance)
                .map_err(|e| e.offset_rows(rows.start))?;
            all.extend(&quantized);
        }
        Ok(all)
    }

    fn chunk_rows(&self) -> usize {
        (CHUNK_BYTES / (self.columns() * self.source.tensor.dtype.size())).max(1)
    }
}

impl Produce for QuantizeTensor<'_> {
    fn outputs(&self) -> Vec<OutputTensor> {
        let words = self.quant.packed_columns(self.columns()).unwrap_or(0);
        let groups = self.quant.groups(self.columns()).unwrap_or(0);
        let output = |part: &str, dtype, columns| OutputTensor {
            name: format!("{}.{part}", self.layer),
            dtype,
            shape: with_columns(self.source.tensor.shape, columns),
        };
        let codes = output("weight", Dtype::U32, words);
        match self.quant.mode {
            Mode::Affine => {
                vec![codes, output("scales", self.dtype, groups), output("biases", self.dtype, groups)]
            }
            _ => vec![codes, output("scales", Dtype::U8, groups)],
        }
    }

    fn chunks(&self) -> usize {
        self.rows().div_ceil(self.chunk_rows())
    }

    fn produce(&self, index: usize, sink: &mut Sink<'_>) -> Result<()> {
        let tensor = &self.source.tensor;
        let row = self.columns() * tensor.dtype.size();
        let first = index * self.chunk_rows();
        let end = (first + self.chunk_rows()).min(self.rows());
        if let Codes::Ready(layer, spooled) = self.codes {
            let parts = [layer.packed, layer.scales, layer.biases];
            for (output, part) in parts.iter().enumerate().filter(|(_, part)| !part.is_empty()) {
                let row = part.len() / self.rows();
                sink(output, (first * row) as u64, &part[first * row..end * row])?;
                spooled.release(&part[first * row..end * row]);
            }
            return Ok(());
        }
        let mut rounded = Vec::new();
        let report = cast(tensor.dtype, &tensor.slice(first * row, end * row), self.dtype, &mut rounded);
        check_range(&self.source, self.dtype, report)?;
        self.warnings.add(self.source.name, report);
        let parts = self.round(first, &rounded)?;
        let parts = [parts.packed, parts.scales, parts.biases];
        for (output, part) in parts.iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            let row_bytes = part.len() / (end - first);
            sink(output, (first * row_bytes) as u64, part)?;
        }
        tensor.release(first * row, end * row);
        Ok(())
    }
}

/// A quantized matrix decoded to a float dtype.
pub struct DequantizeTensor<'a> {
    name: String,
    codes: Tensor<'a>,
    scales: Tensor<'a>,
    biases: Option<Tensor<'a>>,
    quant: Quant,
    /// Type of affine scales and biases; in other modes the type decoded to.
    stored: FloatType,
    dtype: Dtype,
    warnings: &'a Warnings,
}

impl<'a> DequantizeTensor<'a> {
    /// Decodes `layer`, which `source` lists as quantized, to `dtype`.
    pub fn new(
        source: &'a SourceModel,
        layer: &str,
        quant: Quant,
        dtype: Dtype,
        warnings: &'a Warnings,
    ) -> Result<Self> {
        let part = |part: &str, expected: &dyn Fn(Dtype) -> bool| {
            let name = format!("{layer}.{part}");
            let tensor = source.tensor(&name)?;
            if expected(tensor.dtype) {
                return Ok(tensor);
            }
            Err(Error::tensor(tensor.file, name, format!("is {}, which {quant} cannot be", tensor.dtype)))
        };
        let name = format!("{layer}.weight");
        let codes = part("weight", &|stored| stored == Dtype::U32)?;
        if quant.mode != Mode::Affine {
            let scales = part("scales", &|stored| stored == Dtype::U8)?;
            let stored = float_type(dtype)?;
            return Ok(Self { name, codes, scales, biases: None, quant, stored, dtype, warnings });
        }
        let scales = part("scales", &|stored| float_type(stored).is_ok())?;
        let biases = Some(part("biases", &|stored| stored == scales.dtype)?);
        let stored = float_type(scales.dtype)?;
        Ok(Self { name, codes, scales, biases, quant, stored, dtype, warnings })
    }

    fn rows(&self) -> usize {
        self.codes.len() / self.codes.columns()
    }

    fn columns(&self) -> usize {
        self.codes.columns() * 32 / self.quant.bits as usize
    }

    fn chunk_rows(&self) -> usize {
        (CHUNK_BYTES / (self.columns() * self.dtype.size())).max(1)
    }

    /// Decodes rows of `weights` values in all. Float32 is computed in float32, as the engine computes with a quantized
    /// layer; other types are as `mx.dequantize(.., dtype=dtype)` gives them.
    fn decode(&self, parts: Quantized<&[u8]>, weights: usize) -> Result<(Vec<u8>, CastReport)> {
        let fail = |e: QuantizeError| Error::tensor(self.codes.file, &self.name, e.to_string());
        let mut out = Vec::new();
        if self.dtype == Dtype::F32 {
            let mut values = vec![0.0f32; weights];
            nearest::dequantize(parts, self.quant, self.stored, &mut values).map_err(fail)?;
            let report = cast(Dtype::F32, bytemuck::cast_slice(&values), self.dtype, &mut out);
            return Ok((out, report));
        }
        let mut stored = vec![0; weights * self.stored.bytes()];
        nearest::dequantize_stored(parts, self.quant, self.stored, &mut stored).map_err(fail)?;
        let mut report = cast(self.stored.into(), &stored, self.dtype, &mut out);
        if self.quant.mode != Mode::Affine {
            // Decoded in `dtype` itself: infinite values were too large for it.
            report.overflow |= report.non_finite > 0;
        }
        Ok((out, report))
    }
}

impl<'a> Produce for DequantizeTensor<'a> {
    fn outputs(&self) -> Vec<OutputTensor> {
        let shape = with_columns(self.codes.shape, self.columns());
        vec![OutputTensor { name: self.name.clone(), dtype: self.dtype, shape }]
    }

    fn chunks(&self) -> usize {
        self.rows().div_ceil(self.chunk_rows())
    }

    fn produce(&self, index: usize, sink: &mut Sink<'_>) -> Result<()> {
        let first = index * self.chunk_rows();
        let end = (first + self.chunk_rows()).min(self.rows());
        let span = |tensor: &Tensor<'a>| {
            let row = tensor.byte_len() / self.rows();
            (first * row, end * row)
        };
        let part = |tensor: &Tensor<'a>| {
            let (start, end) = span(tensor);
            tensor.slice(start, end)
        };
        let biases = self.biases.as_ref();
        let (packed, scales) = (part(&self.codes), part(&self.scales));
        let offsets = biases.map(part).unwrap_or_default();
        let parts = Quantized { packed: &*packed, scales: &*scales, biases: &*offsets };
        let (out, report) = self.decode(parts, (end - first) * self.columns())?;
        check_range(&SourceTensor { name: &self.name, tensor: self.codes }, self.dtype, report)?;
        self.warnings.add(&self.name, report);
        for tensor in [&self.codes, &self.scales].into_iter().chain(biases) {
            let (start, end) = span(tensor);
            tensor.release(start, end);
        }
        sink(0, (first * self.columns() * self.dtype.size()) as u64, &out)
    }
}

/// Format of the weight files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// model.safetensors, or shards of limited size.
    Safetensors {
        /// Most bytes of tensors in one file.
        max_shard_size: u64,
    },
    /// weights.npz.
    Npz,
}

/// Writes the tensors of `producers` to `folder` in the format of `container`, with a progress bar called `verb`.
pub fn write(
    folder: &OutputFolder,
    producers: &[Box<dyn Produce + '_>],
    container: Container,
    parameters: u64,
    console: &dyn Progress,
    verb: &str,
) -> Result<Shards> {
    let total = producers.iter().flat_map(|p| p.outputs()).map(|tensor| tensor.bytes()).sum();
    let bar = console.bytes_bar(verb, total);
    let shards = write_format(folder, producers, container, parameters, &|n| bar.inc(n));
    bar.finish();
    shards.map_err(|error| folder.relocate(error))
}

fn write_format(
    folder: &OutputFolder,
    producers: &[Box<dyn Produce + '_>],
    container: Container,
    parameters: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Shards> {
    match container {
        Container::Safetensors { max_shard_size } => {
            write_safetensors(folder.path(), producers, max_shard_size, parameters, progress)
        }
        Container::Npz => {
            // Members of a ZIP need their checksum first; a safetensors file gives the tensors in order, mapped.
            let staging = folder.path().join("staging");
            std::fs::create_dir(&staging).map_err(|e| Error::io(&staging, e))?;
            let npz = folder.path().join("weights.npz");
            let shards = write_safetensors(&staging, producers, u64::MAX, parameters, progress);
            let shards = shards.map_err(|error| {
                // There is one file, which nobody but this function knows.
                error.relocated(&staging.join("model.safetensors"), &npz).relocated(&staging, &npz)
            })?;
            let checkpoint = Checkpoint::open(&staging)?;
            write_npz(&npz, &checkpoint)?;
            drop(checkpoint);
            std::fs::remove_dir_all(&staging).map_err(|e| Error::io(&staging, e))?;
            Ok(Shards { files: vec!["weights.npz".to_owned()], ..shards })
        }
    }
}
