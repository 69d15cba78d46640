//! A model in mixbit's formats and in llama.cpp's of about the same size.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;
use xtask::{process, smollm2, workspace};

use crate::checkpoint;
use crate::llama_cpp::LlamaPrograms;
use crate::peers::{Programs, Who};

/// A model that is quantized and run.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// SmolLM2-135M-Instruct
    #[value(name = "smollm2-135m")]
    Smollm2,
    /// Random weights in MobileLLM-R1-950M's shape
    #[value(name = "950m")]
    Mobilellm950m,
}

impl Subject {
    /// Returns the name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smollm2 => smollm2::NAME,
            Self::Mobilellm950m => "random weights in MobileLLM-R1-950M's shape",
        }
    }

    /// Returns the model's folder, fetched or written first if it is not there.
    fn ensure(self) -> Result<PathBuf> {
        match self {
            Self::Smollm2 => smollm2::ensure(),
            Self::Mobilellm950m => checkpoint::mobilellm_r1_950m()?.ensure(),
        }
    }

    /// Returns the number of parameters of the linear layers, the head included.
    pub fn linear_parameters(self) -> Result<f64> {
        match self {
            Self::Smollm2 => Ok(smollm2::LINEAR),
            // The head is the embedding, so that all matrices are linear layers.
            Self::Mobilellm950m => Ok(checkpoint::mobilellm_r1_950m()?.matrix_bytes() as f64 / 4.0),
        }
    }

    /// Returns what mixbit's `quantize` does with the embedding, as options, for its format `embedding`. That of
    /// MobileLLM-R1 stays float, as mlx-lm cannot run it otherwise.
    fn mixbit_options(self, embedding: &str) -> [&str; 2] {
        match self {
            Self::Smollm2 => ["--quantize-embeddings", embedding],
            Self::Mobilellm950m => ["--dtype", "float16"],
        }
    }

    /// Returns the same for `llama-quantize`, which quantizes it unless it is told otherwise.
    fn llama_cpp_options(self) -> &'static [&'static str] {
        match self {
            Self::Smollm2 => &[],
            Self::Mobilellm950m => &["--token-embedding-type", "f16"],
        }
    }

    /// Returns true if the model is measured in this format: the large one only in those of whole files of 4 and 8 bits.
    fn has(self, format: &str) -> bool {
        self == Self::Smollm2 || ["4:32", "4:64", "8:32", "8:64", "Q4_0", "Q8_0"].contains(&format)
    }
}

/// A program that reads quantized models.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// mixbit.
    Mixbit,
    /// llama.cpp.
    LlamaCpp,
}

impl Program {
    /// Returns the name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mixbit => "mixbit",
            Self::LlamaCpp => "llama.cpp",
        }
    }
}

/// mixbit's formats: name in tables, options of `quantize`, and the embedding's format. SmolLM2's float16 is taken as it is.
const MIXBIT_FORMATS: [(&str, [&str; 2], &str); 6] = [
    (FLOAT16, ["", ""], ""),
    ("4:32", ["--bits", "4:32"], "4:32"),
    ("4:64", ["--bits", "4:64"], "4:64"),
    ("8:32", ["--bits", "8:32"], "8:32"),
    ("8:64", ["--bits", "8:64"], "8:64"),
    ("4.5 bpw", ["--target-bpw", "4.5"], "4:64"),
];
const FLOAT16: &str = "float16";
/// llama.cpp's formats, by its names.
const LLAMA_CPP_FORMATS: [&str; 4] = ["F16", "Q4_0", "Q4_1", "Q8_0"];

/// A model in one format.
pub struct Model {
    /// The program that reads it.
    pub program: Program,
    /// Name of the format in tables.
    pub format: &'static str,
    /// Folder (mixbit) or file (llama.cpp).
    pub path: PathBuf,
    /// Bytes of the weight files.
    pub bytes: u64,
}

/// Returns the names of all formats.
pub fn formats() -> Vec<&'static str> {
    MIXBIT_FORMATS.map(|format| format.0).into_iter().chain(LLAMA_CPP_FORMATS).collect()
}

/// Writes a model in the formats that are `wanted` into `bench-data/run`; those of llama.cpp only if its programs are there.
/// If none are wanted by name, all are that the model has.
pub fn write(
    subject: Subject,
    wanted: &[String],
    programs: &Programs,
    llama: Option<&LlamaPrograms>,
) -> Result<Vec<Model>> {
    let has =
        |format: &str| subject.has(format) && (wanted.is_empty() || wanted.iter().any(|name| name == format));
    let ours: Vec<_> = MIXBIT_FORMATS.into_iter().filter(|format| has(format.0)).collect();
    let theirs: Vec<_> = LLAMA_CPP_FORMATS.into_iter().filter(|format| has(format)).collect();
    if ours.is_empty() && theirs.is_empty() {
        bail!("{} is in none of the formats {}", subject.name(), wanted.join(", "));
    }
    let folder = workspace::root().join("bench-data/run");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let source = subject.ensure()?;
    let mut models = Vec::new();
    for (format, options, embedding) in ours {
        let path = if format == FLOAT16 {
            source.clone()
        } else {
            let options = [options, subject.mixbit_options(embedding)].concat();
            mixbit_model(programs, &source, &folder, format, &options)?
        };
        let bytes = weight_bytes(&path)?;
        models.push(Model { program: Program::Mixbit, format, path, bytes });
    }
    if let Some(llama) = llama.filter(|_| !theirs.is_empty()) {
        let float = folder.join("float32.gguf");
        let script = workspace::root().join("bench/peers/write_gguf.py");
        let mut convert = Command::new(&llama.python);
        process::output(convert.arg(script).arg("--model").arg(&source).arg("--out").arg(&float))?;
        for format in theirs {
            let path = folder.join(format).with_extension("gguf");
            llama_cpp_model(llama, subject.llama_cpp_options(), &float, &path, format)?;
            let bytes = fs::metadata(&path)?.len();
            models.push(Model { program: Program::LlamaCpp, format, path, bytes });
        }
        fs::remove_file(float)?;
    }
    Ok(models)
}

fn mixbit_model(
    programs: &Programs,
    source: &Path,
    folder: &Path,
    format: &str,
    options: &[&str],
) -> Result<PathBuf> {
    eprintln!("bench: quantizing to {format}");
    let path = folder.join(format.replace([':', ' '], "-"));
    let mut command = programs.command(Who::Mixbit)?;
    command.args(["quantize", "--quiet", "--rounding", "rtn", "--no-eval"]).args(options);
    process::output(command.arg("--hf-path").arg(source).arg("--mlx-path").arg(&path))?;
    Ok(path)
}

/// Quantizes all tensors to one type, but for what `options` say.
fn llama_cpp_model(
    llama: &LlamaPrograms,
    options: &[&str],
    float: &Path,
    path: &Path,
    format: &str,
) -> Result<()> {
    eprintln!("bench: quantizing to {format}");
    process::output(llama.quantize().arg("--pure").args(options).arg(float).arg(path).arg(format))?;
    Ok(())
}

/// Returns the bytes of a folder's safetensors files.
fn weight_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            bytes += fs::metadata(path)?.len();
        }
    }
    Ok(bytes)
}
