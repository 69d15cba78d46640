//! `quantization_config`: which tool quantized a checkpoint, and how. Read here and nowhere else; what is not known is an error.

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

use super::fp8::Extent;
use super::layer::Layer;
use super::nvfp4::Names;
use super::parts::Parts;
use super::targets::Targets;
use super::{awq, bitsandbytes, compressed, fp8, gptq, gptq_config, int8, mxfp4, nvfp4, packed};
use crate::error::{Error, Result};
use crate::files::json;
use crate::files::model_files::ModelFiles;
use crate::formats::stored::Stored;
use crate::numerics::dtype::Dtype;

/// Keys under which config.json describes quantized weights, the first of which that is there counts.
const KEYS: [&str; 4] =
    ["quantization", "quantization_config", "compression_config", "text_config.quantization_config"];

/// File of NVIDIA's ModelOpt with what config.json otherwise has.
const MODELOPT: &str = "hf_quant_config.json";

/// Names of the quantization methods that mixbit reads, for messages.
const READ: &str = "mixbit reads fp8, compressed-tensors, awq, gptq, auto-round, bitsandbytes, modelopt, fbgemm_fp8 and mxfp4; \
                    start from the float checkpoint, or dequantize with the tool that made it";

/// Form of a checkpoint's quantized layers.
#[derive(Debug)]
pub(crate) struct Declared {
    /// Name of the method, as config.json has it.
    pub(crate) method: String,
    /// Forms, and the layers that are in each.
    pub(crate) schemes: Vec<(Targets, Scheme)>,
    /// Key with settings of single layers, where one is there.
    pub(crate) layer_key: Option<String>,
}

/// Integers of a number of bits with a scale for each row, or each group of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Integer {
    pub(crate) bits: u32,
    pub(crate) group: Option<usize>,
    /// True if the middle code stands for zero; otherwise the layer stores zero points.
    pub(crate) symmetric: bool,
}

impl Integer {
    /// Returns the columns of a group in rows of `columns`.
    pub(crate) fn width(self, columns: usize) -> usize {
        self.group.unwrap_or(columns)
    }

    /// Takes a compressed-tensors layer's zero points; an asymmetric layer must have them.
    pub(crate) fn zero_points(self, parts: &mut Parts<'_>) -> Result<Option<Stored>> {
        const ZERO_POINTS: &str = ".weight_zero_point";
        if self.symmetric { Ok(parts.find(ZERO_POINTS)) } else { parts.need(ZERO_POINTS).map(Some) }
    }
}

/// Form of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Fp8(Extent),
    Packed(Integer),
    Int8(Integer),
    Mxfp4,
    Mxfp4Blocks,
    Nvfp4(Names),
    Awq(Option<usize>),
    Gptq(gptq::Settings),
    BitsandbytesInt8,
    BitsandbytesTable,
    /// Floats: packed tensors are an error.
    Float,
}

impl Scheme {
    /// Forms whose tensors have names or types that no float layer and no layer of MLX has.
    pub(crate) const EVIDENT: [Self; 5] =
        [Self::Float, Self::Mxfp4, Self::Mxfp4Blocks, Self::BitsandbytesInt8, Self::BitsandbytesTable];

    /// Returns the path of the layer that the tensor `name` of type `dtype` shows to be in this form.
    pub(crate) fn layer_of<'a>(&self, name: &'a str, dtype: Dtype) -> Option<&'a str> {
        match self {
            Self::Fp8(_) => (dtype == Dtype::F8E4M3 && !name.ends_with("_scale")).then_some(name),
            Self::Packed(_) | Self::Mxfp4 | Self::Nvfp4(Names::Compressed) => {
                name.strip_suffix(".weight_packed")
            }
            Self::Int8(_) => name.strip_suffix(".weight").filter(|_| dtype == Dtype::I8),
            Self::Mxfp4Blocks => {
                let layer = name.strip_suffix("_blocks").or_else(|| name.strip_suffix("_scales"));
                layer.filter(|_| matches!(dtype, Dtype::U8 | Dtype::F8E8M0))
            }
            Self::Nvfp4(Names::ModelOpt) => {
                let codes = || name.strip_suffix(".weight").filter(|_| dtype == Dtype::U8);
                name.strip_suffix(".weight_scale_2").or_else(codes)
            }
            Self::Awq(_) | Self::Gptq(_) | Self::Float => name.strip_suffix(".qweight"),
            Self::BitsandbytesInt8 => name.strip_suffix(".SCB"),
            Self::BitsandbytesTable => {
                let mut ends = bitsandbytes::STATES.iter().chain([&bitsandbytes::FACTORS]);
                ends.find_map(|end| name.strip_suffix(end))
            }
        }
    }

    /// True if the path of a layer is the name of its weight.
    pub(crate) fn completes_weight(&self) -> bool {
        matches!(self, Self::Fp8(_) | Self::BitsandbytesTable)
    }

    /// Reads the layer that has `parts`.
    pub(crate) fn read(&self, parts: &mut Parts<'_>) -> Result<Layer> {
        match *self {
            Self::Fp8(extent) => fp8::read(extent, parts),
            Self::Packed(settings) => packed::read(settings, parts),
            Self::Int8(settings) => int8::read_compressed(settings, parts),
            Self::Mxfp4 => mxfp4::read_packed(parts),
            Self::Mxfp4Blocks => mxfp4::read_blocks(parts),
            Self::Nvfp4(names) => nvfp4::read(names, parts),
            Self::Awq(group) => awq::read(group, parts),
            Self::Gptq(settings) => gptq::read(settings, parts),
            Self::BitsandbytesInt8 => int8::read_bitsandbytes(parts),
            Self::BitsandbytesTable => bitsandbytes::read(parts),
            Self::Float => {
                Err(parts.need(".qweight")?.error("is packed, and config.json says that the layer is float"))
            }
        }
    }
}

/// A config's description of quantized weights.
pub(crate) struct Section<'a> {
    path: PathBuf,
    key: String,
    pub(crate) value: &'a Value,
}

impl Section<'_> {
    /// Returns the settings with `overrides` in the place of some.
    pub(crate) fn with_overrides(&self, overrides: &Map<String, Value>) -> Value {
        let mut keys = self.value.as_object().cloned().unwrap_or_default();
        keys.extend(overrides.clone());
        Value::Object(keys)
    }

    /// Returns the settings `value` of the layers `name`, which stand under `key`.
    pub(crate) fn of_layer<'b>(&self, key: &str, name: &str, value: &'b Value) -> Section<'b> {
        Section { path: self.path.clone(), key: format!("{}.{key}.{name}", self.key), value }
    }

    /// True if the layers have 16 or more bits, which are floats.
    pub(crate) fn is_float(&self) -> bool {
        self.value.get("bits").and_then(json::as_u64).is_some_and(|bits| bits >= 16)
    }

    /// Fails unless there are settings by name.
    fn check_is_object(&self) -> Result<()> {
        if self.value.is_object() {
            return Ok(());
        }
        Err(self.error("", format!("expected an object, found {}", json::shown(self.value))))
    }

    /// Makes an error about the key `name` in this section.
    pub(crate) fn error(&self, name: &str, message: impl Into<String>) -> Error {
        let key = if name.is_empty() { self.key.clone() } else { format!("{}.{name}", self.key) };
        Error::key(&self.path, key, message)
    }

    /// Makes the error for a form that is not read.
    pub(crate) fn refuse(&self, name: &str, what: &str) -> Error {
        self.error(name, format!("the checkpoint is quantized by {}: {what} is not read", self.method()))
            .hint(READ)
    }

    fn method(&self) -> &str {
        self.value.get("quant_method").and_then(Value::as_str).unwrap_or("another tool")
    }

    /// True if the section names no tool and is not of MLX, whose keys stand under `quantization` or are named so.
    fn is_nameless(&self) -> bool {
        let is_of_mlx =
            |keys: &Map<String, Value>| ["bits", "group_size"].iter().any(|key| keys.contains_key(*key));
        let names_none = self.value.get("quant_method").is_none_or(Value::is_null);
        names_none
            && self.key != "quantization"
            && self.value.as_object().is_some_and(|keys| !is_of_mlx(keys))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.value.get(name).and_then(Value::as_str)
    }

    /// Fails unless the value under `name` is absent or one of `known`.
    pub(crate) fn only(&self, name: &str, known: &[&str]) -> Result<()> {
        let value = self.value.get(name).filter(|value| !value.is_null());
        let is_known =
            |value: &&Value| value.as_str().is_some_and(|text| known.contains(&text.to_lowercase().as_str()));
        match value.filter(|value| !is_known(value)) {
            Some(value) => Err(self.refuse(name, &format!("`{name}` {}", json::shown(value)))),
            None => Ok(()),
        }
    }

    /// Returns the flag `value`, which stands under `name`; `default` where it is absent.
    pub(crate) fn flag(&self, name: &str, value: Option<&Value>, default: bool) -> Result<bool> {
        match value {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => {
                Err(self.error(name, format!("expected true or false, found {}", json::shown(value))))
            }
        }
    }

    /// Returns the bits under `bits`, one of `known`.
    pub(crate) fn bits(&self, known: &[u32]) -> Result<u32> {
        let value = self.value.get("bits").unwrap_or(&Value::Null);
        let bits = json::as_u64(value).and_then(|bits| u32::try_from(bits).ok());
        bits.filter(|bits| known.contains(bits))
            .ok_or_else(|| self.refuse("bits", &format!("`bits` {}", json::shown(value))))
    }

    /// Returns the columns of a group under `group_size`; `None` for -1, one group per row.
    pub(crate) fn group(&self) -> Result<Option<usize>> {
        let value = self.value.get("group_size").unwrap_or(&Value::Null);
        if json::equal(value, &(-1).into()) {
            return Ok(None);
        }
        let size = json::as_u64(value).and_then(|size| usize::try_from(size).ok());
        match size.filter(|size| (1..1 << 31).contains(size)) {
            Some(size) => Ok(Some(size)),
            None => Err(self.error(
                "group_size",
                format!("expected a number of columns or -1, found {}", json::shown(value)),
            )),
        }
    }
}

/// Returns what config.json says about quantized weights, and the key that it stands under.
pub fn section(keys: &Map<String, Value>) -> Option<(&'static str, &Value)> {
    let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
    let get = |key: &str| {
        let mut names = key.split('.');
        let first = keys.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    };
    KEYS.into_iter()
        .find_map(|key| Some((key, get(key).filter(|value| !is_empty(value) && !value.is_null())?)))
}

/// True if `value`, which a config has under [`section`], is of another tool than MLX. (`mlx` is a note that some tools leave.)
fn is_of_other_tool(value: &Value) -> bool {
    match value.get("quant_method") {
        None | Some(Value::Null) => false,
        Some(Value::String(method)) => !method.eq_ignore_ascii_case("mlx"),
        Some(_) => true,
    }
}

/// True if the config at `path` with these `keys` says that a tool quantized the weights whose form is read here.
///
/// # Errors
/// Where it names another tool, or none and is not of MLX, or settings that are not read.
pub fn refuse_unknown(path: &Path, keys: &Map<String, Value>) -> Result<bool> {
    read(path, keys).map(|declared| declared.is_some())
}

/// Reads the form of the weights of the model that consists of `files`; `None` for floats and for MLX's own form.
pub(crate) fn declared(files: &ModelFiles) -> Result<Option<Declared>> {
    // What is wrong with config.json itself is said where it is read as a whole.
    let read_keys = |name: &str| json::parse_object(&files.path_of(name), &files.read(name).ok()?).ok();
    let Some(keys) = read_keys("config.json") else { return Ok(None) };
    if let Some(declared) = read(&files.path_of("config.json"), &keys)? {
        return Ok(Some(declared));
    }
    if section(&keys).is_some() || !files.has(MODELOPT) {
        return Ok(None);
    }
    let keys = json::parse_object(&files.path_of(MODELOPT), &files.read(MODELOPT)?)?;
    let Some(value) = keys.get("quantization") else { return Ok(None) };
    let section = Section { path: files.path_of(MODELOPT), key: "quantization".to_owned(), value };
    section.check_is_object()?;
    let declared = |schemes| Declared { method: "modelopt".to_owned(), schemes, layer_key: None };
    Ok(modelopt(&section)?.map(declared))
}

/// Makes the error for a model of `files` whose tensor `name` is packed, and whose config.json names no method.
pub(crate) fn undeclared(files: &ModelFiles, name: &str) -> Error {
    let message = format!("missing, and tensor `{name}` is of a layer that a tool quantized");
    Error::key(files.path_of("config.json"), "quantization_config.quant_method", message).hint(READ)
}

fn read(path: &Path, keys: &Map<String, Value>) -> Result<Option<Declared>> {
    let Some((key, value)) = section(keys) else { return Ok(None) };
    let section = Section { path: path.to_owned(), key: key.to_owned(), value };
    section.check_is_object()?;
    if !is_of_other_tool(value) {
        return if section.is_nameless() {
            Err(section.error("quant_method", "missing, and the other keys are not MLX's").hint(READ))
        } else {
            Ok(None)
        };
    }
    let Some(method) = section.text("quant_method") else {
        return Err(section.error("quant_method", "expected the name of a method").hint(READ));
    };
    let all = |scheme| vec![(Targets::All, scheme)];
    let schemes = match method.to_lowercase().as_str() {
        "fp8" => all(Scheme::Fp8(fp8_extent(&section)?)),
        "fbgemm_fp8" => all(Scheme::Fp8(Extent::TensorOrRows)),
        "compressed-tensors" | "compressed_tensors" => compressed::schemes(&section)?,
        "awq" => {
            section.only("version", &["gemm"])?;
            section.bits(&[4])?;
            all(Scheme::Awq(section.group()?))
        }
        "gptq" => gptq_config::read_gptq(&section)?,
        "auto-round" | "auto_round" | "intel/auto-round" => gptq_config::read_auto_round(&section)?,
        "bitsandbytes" => {
            vec![(Targets::All, Scheme::BitsandbytesInt8), (Targets::All, Scheme::BitsandbytesTable)]
        }
        "modelopt" => match modelopt(&section)? {
            Some(schemes) => schemes,
            None => return Ok(None),
        },
        "mxfp4" => all(Scheme::Mxfp4Blocks),
        _ => {
            return Err(section
                .error("", format!("the checkpoint is quantized by \"{method}\", whose form is not read"))
                .hint(READ));
        }
    };
    let layer_key = gptq_config::LAYER_KEYS.into_iter().find(|key| value.get(*key).is_some());
    let layer_key = layer_key.map(|name| format!("{key}.{name}"));
    Ok(Some(Declared { method: method.to_owned(), schemes, layer_key }))
}

/// Reads two sizes.
pub(crate) fn pair(value: &Value) -> Option<[usize; 2]> {
    let sizes = value.as_array()?.iter().map(|size| usize::try_from(json::as_u64(size)?).ok());
    let sizes: Vec<usize> = sizes.collect::<Option<_>>()?;
    <[usize; 2]>::try_from(sizes).ok().filter(|sizes| sizes.iter().all(|size| (1..1 << 31).contains(size)))
}

fn fp8_extent(section: &Section<'_>) -> Result<Extent> {
    section.only("fmt", &["e4m3", "float8_e4m3fn"])?;
    match section.value.get("weight_block_size").filter(|value| !value.is_null()) {
        None => Ok(Extent::TensorOrRows),
        Some(value) => pair(value).map(Extent::Blocks).ok_or_else(|| {
            section.error("weight_block_size", format!("expected two sizes, found {}", json::shown(value)))
        }),
    }
}

/// Reads ModelOpt's settings; `None` where they name no algorithm: they are about the cache alone then, and the weights are floats.
fn modelopt(section: &Section<'_>) -> Result<Option<Vec<(Targets, Scheme)>>> {
    if section.value.get("quant_algo").is_none_or(Value::is_null) {
        return Ok(None);
    }
    section.only("quant_algo", &["fp8", "nvfp4"])?;
    let schemes = [Scheme::Nvfp4(Names::ModelOpt), Scheme::Fp8(Extent::TensorOrRows)];
    Ok(Some(schemes.into_iter().map(|scheme| (Targets::All, scheme)).collect()))
}
