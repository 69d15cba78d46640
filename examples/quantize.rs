//! Quantizes a model to 4.5 bits per weight: `cargo run --example quantize -- MODEL OUTPUT`.
#![allow(clippy::print_stdout, reason = "the results of an example go to standard output")]

use mixbit::choose::{DEFAULT_CANDIDATES, Plan};
use mixbit::jobs::{Need, Quantization, open, quantize};
use mixbit::numerics::dtype::Dtype;
use mixbit::progress::Quiet;
use std::path::Path;

fn main() -> mixbit::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, output] = &arguments[..] else {
        return Err(mixbit::Error::usage("expected two arguments: MODEL OUTPUT"));
    };
    run(Path::new(model), Path::new(output))
}

/// Quantizes the model in the folder `model` and writes it to the new folder `output`.
pub fn run(model: &Path, output: &Path) -> mixbit::Result<()> {
    let model = open(model, Need::Files)?;
    let plan = Plan::new(&model, &DEFAULT_CANDIDATES, &[], Dtype::F16)?;
    let settings = Quantization::to_bpw(4.5, &model, output);
    let quantized = quantize(&model, plan, settings, &Quiet)?;

    println!("{:.3} bits per weight", quantized.decision.solution.bpw);
    for (layer, quant) in &quantized.decision.solution.bitmap {
        println!("{quant} {layer}");
    }
    let evaluation = quantized.record.evaluation.as_ref();
    if let Some(divergence) = evaluation.and_then(|evaluation| evaluation.summary.divergence.as_ref()) {
        println!("KL divergence {:.5} nats per token", divergence.kl_mean);
    }
    Ok(())
}
