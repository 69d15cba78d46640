//! The library without the command line: what examples/ shows works.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

use mixbit::choose::{DEFAULT_CANDIDATES, Plan};
use mixbit::error::ErrorKind;
use mixbit::jobs::check::Level;
use mixbit::jobs::{
    Against, Calibration, Container, EvaluationSettings, EvaluationText, Need, Output, Quantization, Samples,
    analyze, check, convert, dequantize, evaluate, open, quantize,
};
use mixbit::numerics::dtype::Dtype;
use mixbit::progress::Quiet;

#[path = "../examples/quantize.rs"]
#[allow(dead_code, reason = "its main function is for the command line")]
mod example;

fn model() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/models/mobilellm-docs-1m"))
}

#[test]
fn example_quantizes_a_model() {
    let home = tempfile::tempdir().unwrap();
    let output = home.path().join("q");
    example::run(model(), &output).unwrap();
    let quantized = open(&output, Need::Weights).unwrap();
    assert!(!quantized.bitmap().is_empty());
    let error = example::run(model(), &output).unwrap_err();
    assert!(error.to_string().contains("exists"), "{error}");
}

#[test]
fn jobs_take_plain_settings() {
    let home = tempfile::tempdir().unwrap();
    let (half, quarter, back) = (home.path().join("f16"), home.path().join("q"), home.path().join("back"));
    let source = open(model(), Need::Files).unwrap();
    let container = Container::Npz;
    convert(&source, Dtype::F16, &Output { container, ..Output::new(&half) }, &Quiet).unwrap();
    assert!(half.join("weights.npz").exists());

    let mut calibration = Calibration::of_model(source.spec());
    (calibration.samples, calibration.sequence_length) = (Samples::AtMost(4), 64);
    let plan = || Plan::new(&source, &DEFAULT_CANDIDATES, &[], Dtype::F16).unwrap();
    let table = analyze(&source, &plan(), &calibration, &Quiet).unwrap();
    assert_eq!(table.layers.len(), plan().len());

    let mut settings = Quantization::to_bpw(4.0, &source, &quarter);
    settings.calibration = calibration;
    let quantized = quantize(&source, plan(), settings.clone(), &Quiet).unwrap();
    assert!(quantized.decision.solution.bpw <= 4.0);
    let measured = quantized.record.evaluation.unwrap().summary.divergence.unwrap();

    let written = open(&quarter, Need::Files).unwrap();
    let windows = EvaluationSettings { sequence_length: Some(64), ..EvaluationSettings::default() };
    let evaluation = evaluate(&written, &Against::Model(&source), &windows, &Quiet).unwrap();
    let divergence = evaluation.summary.divergence.unwrap();
    assert!((divergence.kl_mean - measured.kl_mean).abs() < 1e-9, "{divergence:?} {measured:?}");
    dequantize(&written, Dtype::F32, &Output::new(&back), &Quiet).unwrap();
    let findings = check(&back, None, &|_, _| {}).unwrap();
    assert!(findings.iter().all(|finding| finding.level != Level::Problem), "{findings:?}");
    for output in [Output { overwrite: true, ..Output::new(&quarter) }, Output::new(quarter.join("inside"))] {
        assert!(dequantize(&written, Dtype::F32, &output, &Quiet).is_err(), "the source is overwritten");
        assert!(convert(&written, Dtype::F32, &output, &Quiet).is_err(), "the source is overwritten");
    }
}

#[test]
fn settings_that_contradict_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let source = open(model(), Need::Files).unwrap();
    let plan = || Plan::new(&source, &DEFAULT_CANDIDATES, &[], Dtype::F16).unwrap();
    let base = Quantization::to_bpw(1.0, &source, home.path().join("q"));
    let refusal = |settings| quantize(&source, plan(), settings, &Quiet).err().unwrap();
    assert!(refusal(base.clone()).to_string().contains("cannot be reached"));
    let missing = EvaluationText::File(home.path().join("no.txt"));
    let mut settings = Quantization { evaluation: missing, ..base.clone() };
    settings.target = mixbit::jobs::Target::Bpw(4.0);
    assert!(matches!(refusal(settings).kind(), ErrorKind::Io { .. }));
    let fixed = Quantization { target: mixbit::jobs::Target::Fixed, ..base.clone() };
    assert!(refusal(fixed).to_string().contains("layers have a choice"));
    let mut settings = Quantization { target: mixbit::jobs::Target::Bpw(4.0), ..base.clone() };
    settings.calibration.sequence_length = 1;
    assert!(refusal(settings).to_string().contains("sequence_length"));
    let mut settings = Quantization { target: mixbit::jobs::Target::Bpw(4.0), ..base };
    settings.tuning.temperature = f64::NAN;
    assert!(refusal(settings).to_string().contains("distill_temperature"));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "something was left behind");
}
