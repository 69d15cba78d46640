//! `cargo bench --bench sensitivity -- MODEL..`: predicted against measured KL divergence of one layer at a time.
//! `cargo xtask bench sensitivity` gives it models and texts.
#![allow(clippy::print_stdout, missing_docs)]

#[path = "../tests/common/one_layer.rs"]
mod one_layer;

use clap::Parser;
use one_layer::{MEMORY, Measured, Setting, measure};
use std::path::{Path, PathBuf};

use mixbit::choose::candidate::Candidate;
use mixbit::choose::scores::Method;
use mixbit::choose::table::Table;
use mixbit::engine::measure::compare::Comparison;
use mixbit::engine::runtime::Engine;
use mixbit::error::{Error, Result};
use mixbit::models::source::SourceModel;
use mixbit::numerics::quant::Quant;
use mixbit::numerics::rounding::Technique;
use mixbit::text::corpus::Text;
use mixbit::text::tokenizer::Tokenizer;

#[derive(Parser)]
struct Arguments {
    /// Model folder
    #[arg(long)]
    model: PathBuf,
    /// Text to measure sensitivities on [default: the one that mixbit carries]
    #[arg(long)]
    calibration: Option<PathBuf>,
    /// Text to measure the KL divergence on [default: the same]
    #[arg(long)]
    data: Option<PathBuf>,
    #[arg(long, default_value_t = 48)]
    samples: usize,
    #[arg(long, default_value_t = 256)]
    sequence_length: usize,
    /// Windows to measure the KL divergence on
    #[arg(long, default_value_t = 16)]
    windows: usize,
    #[arg(long, default_value = "2,3,4,6")]
    candidates: String,
    /// Distance of the blocks whose layers are rounded, for large models: with 3 those of every third block
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    every: u16,
    /// Random tokens instead of texts, for models without a tokenizer
    #[arg(long, conflicts_with_all = ["calibration", "data"])]
    random_tokens: bool,
    /// Folders that were quantized from the model by GPTQ, whose layers are taken one at a time in place of rounding to
    /// nearest
    #[arg(long, value_name = "DIR", requires = "sensitivities")]
    quantized: Vec<PathBuf>,
    /// Table of `mixbit analyze --rounding gptq` that predicts for those folders
    #[arg(long, value_name = "TABLE", requires = "quantized", conflicts_with = "random_tokens")]
    sensitivities: Option<PathBuf>,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let source = SourceModel::open(&arguments.model)?;
    let [sequences, windows] = tokens(&arguments, &source)?;
    let setting = Setting {
        sequences,
        windows,
        candidates: Candidate::parse_list(&arguments.candidates)?.iter().filter_map(|c| c.quant()).collect(),
        every: arguments.every.into(),
    };
    let engine = Engine::start()?;
    let (length, name) = (arguments.sequence_length, source.dir().file_name().unwrap_or_default().display());
    let predicted_from = match &arguments.sensitivities {
        Some(table) => format!("{}", table.display()),
        None => format!("{} x {length} tokens", setting.sequences.len()),
    };
    println!(
        "{name}: predicted from {predicted_from}, {} x {length} tokens to measure, one layer at a time",
        setting.windows.len()
    );
    println!(
        "{:20} {:>9} {:>7} {:>10} {:>25}",
        "method", "candidate", "layers", "Spearman", "predicted/measured"
    );
    let (method, pairs) = if let Some(table) = &arguments.sensitivities {
        ("with GPTQ", gptq_pairs(&engine, &source, &setting, table, &arguments.quantized)?)
    } else {
        let measured = one_layer::measured(&engine, &source, &setting)?;
        ("fisher-diagonal", measure(&engine, &source, &setting, Method::FisherDiagonal, &measured)?)
    };
    let mut quants: Vec<Quant> = pairs.iter().map(|pair| pair.0).collect();
    quants.sort_unstable();
    quants.dedup();
    for quant in quants {
        let chosen: Vec<(f64, f64)> = pairs.iter().filter(|p| p.0 == quant).map(|p| (p.1, p.2)).collect();
        print_row(method, &quant.to_string(), &chosen);
    }
    print_row(method, "all", &pairs.iter().map(|p| (p.1, p.2)).collect::<Vec<_>>());
    Ok(())
}

/// Returns (candidate, predicted, measured) of layers that GPTQ rounded, predicted by the `table` as `quantize` does.
fn gptq_pairs(
    engine: &Engine,
    source: &SourceModel,
    setting: &Setting,
    table: &Path,
    folders: &[PathBuf],
) -> Result<Vec<(Quant, f64, f64)>> {
    let found = Table::read(table)?;
    found.check(table, &source.fingerprint()?, found.measurement.dtype)?;
    if found.correction.gptq.is_empty() {
        let message = "has no factors of GPTQ: `mixbit analyze --rounding gptq` measures them";
        return Err(Error::file(table, message));
    }
    let layers = found.correction.scores_for(Technique::Gptq, &found.layers);
    let comparison = Comparison::new(engine, source, &setting.windows, MEMORY)?;
    let mut measured = Measured::new();
    for folder in folders {
        let rounded = SourceModel::open(folder)?;
        let bitmap = rounded.bitmap().clone();
        let rounded = rounded.decoded()?;
        for (_, path) in setting.layers(source) {
            let Some(&quant) = bitmap.get(path) else { continue };
            let key = (path.to_owned(), quant);
            measured.insert(key, comparison.kl_divergence_of_layer(&rounded, path)?);
        }
    }
    let pairs = one_layer::pairs_of(&layers, &measured);
    if pairs.len() < measured.len() {
        let message = format!("predicts {} of {} layers that were measured", pairs.len(), measured.len());
        return Err(Error::file(table, message).hint("measure the bits and group sizes of the folders"));
    }
    Ok(pairs)
}

/// Returns tokens to predict from and others to measure on.
fn tokens(arguments: &Arguments, source: &SourceModel) -> Result<[Vec<Vec<u32>>; 2]> {
    let Arguments { samples, windows, sequence_length, .. } = *arguments;
    if arguments.random_tokens {
        let vocabulary = source.spec().vocab_size as u32;
        let mut rng = fastrand::Rng::with_seed(0);
        let mut sequence = || (0..sequence_length).map(|_| rng.u32(0..vocabulary)).collect();
        return Ok([samples, windows].map(|count| (0..count).map(|_| sequence()).collect()));
    }
    let tokenizer = Tokenizer::from_dir(source.dir())?;
    let calibration = Text::open(arguments.calibration.as_deref())?;
    let data = Text::open(arguments.data.as_deref().or(arguments.calibration.as_deref()))?;
    let sequences = match arguments.sensitivities {
        // The table was made from a text of its own.
        Some(_) => Vec::new(),
        None => calibration.sequences(&tokenizer, samples, sequence_length, 0)?,
    };
    Ok([sequences, data.windows(&tokenizer, sequence_length, Some(windows * sequence_length))?.windows])
}

fn print_row(method: &str, candidate: &str, pairs: &[(f64, f64)]) {
    let [low, median, high] = one_layer::ratios(pairs);
    let spearman = one_layer::rank_correlation(pairs);
    println!(
        "{method:20} {candidate:>9} {:>7} {spearman:>10.3} {:>25}",
        pairs.len(),
        format!("{median:.2} ({low:.2}-{high:.2})")
    );
}
