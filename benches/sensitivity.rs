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
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let source = SourceModel::open(&arguments.model)?;
    let tokenizer = Tokenizer::from_dir(source.dir())?;
    let length = arguments.sequence_length;
    let calibration = Text::open(arguments.calibration.as_deref())?;
    let data = Text::open(arguments.data.as_deref().or(arguments.calibration.as_deref()))?;
    let setting = Setting {
        sequences: calibration.sequences(&tokenizer, arguments.samples, length, 0)?,
        windows: data.windows(&tokenizer, length, Some(arguments.windows * length))?.windows,
        candidates: Candidate::parse_list(&arguments.candidates)?.iter().filter_map(|c| c.quant()).collect(),
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

fn print_row(method: &str, candidate: &str, pairs: &[(f64, f64)]) {
    let [low, median, high] = one_layer::ratios(pairs);
    let spearman = one_layer::rank_correlation(pairs);
    println!(
        "{method:20} {candidate:>9} {:>7} {spearman:>10.3} {:>25}",
        pairs.len(),
        format!("{median:.2} ({low:.2}-{high:.2})")
    );
}
