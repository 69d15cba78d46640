//! `cargo bench --bench sensitivity -- MODEL..`: predicted against measured KL divergence of one layer at a time.
//! `cargo xtask bench sensitivity` gives it models and texts.
#![allow(clippy::print_stdout, missing_docs)]

#[path = "../tests/common/one_layer.rs"]
mod one_layer;

use clap::Parser;
use one_layer::{Setting, measure};
use std::path::PathBuf;

use mixbit::choose::candidate::Candidate;
use mixbit::choose::scores::Method;
use mixbit::engine::runtime::Engine;
use mixbit::error::Result;
use mixbit::models::source::SourceModel;
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
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let source = SourceModel::open(&arguments.model)?;
    let length = arguments.sequence_length;
    let [sequences, windows] = tokens(&arguments, &source)?;
    let setting = Setting {
        sequences,
        windows,
        candidates: Candidate::parse_list(&arguments.candidates)?.iter().filter_map(|c| c.quant()).collect(),
        every: arguments.every.into(),
    };
    let engine = Engine::start()?;
    println!(
        "{}: {} x {length} tokens to predict, {} x {length} to measure, one layer at a time",
        source.dir().file_name().unwrap_or_default().display(),
        setting.sequences.len(),
        setting.windows.len()
    );
    println!(
        "{:20} {:>9} {:>7} {:>10} {:>25}",
        "method", "candidate", "layers", "Spearman", "predicted/measured"
    );
    let measured = one_layer::measured(&engine, &source, &setting)?;
    let method = Method::FisherDiagonal;
    let pairs = measure(&engine, &source, &setting, method, &measured)?;
    for quant in &setting.candidates {
        let chosen: Vec<(f64, f64)> = pairs.iter().filter(|p| p.0 == *quant).map(|p| (p.1, p.2)).collect();
        print_row(&method.to_string(), &quant.to_string(), &chosen);
    }
    print_row(&method.to_string(), "all", &pairs.iter().map(|p| (p.1, p.2)).collect::<Vec<_>>());
    Ok(())
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
    Ok([
        calibration.sequences(&tokenizer, samples, sequence_length, 0)?,
        data.windows(&tokenizer, sequence_length, Some(windows * sequence_length))?.windows,
    ])
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
