//! `mixbit quantize --distill`: gradients against finite differences, and the command as a user runs it.
#![allow(missing_docs, clippy::unwrap_used)]

mod codes;
#[path = "../common/mod.rs"]
mod common;

use common::{RawCheckpoint, bundled, fixtures, json_file, make, mixbit, stderr, stdout, succeeded};
use std::fs;
use std::path::Path;
use std::process::Command;

use mixbit::engine::decoder::load::{Tuned, Values};
use mixbit::engine::learn::layer::Codes;
use mixbit::engine::learn::learning::{Learners, Norms};
use mixbit::engine::learn::student::{Student, Target};
use mixbit::engine::runtime::Engine;
use mixbit::models::source::SourceModel;
use mixbit::models::spec::Role;
use mixbit::numerics::dtype::extend_f32;
use mixbit::numerics::latent::{highest_latent, unpack_latents};
use mixbit::numerics::quant::{Mode, Quant};

const SMALL: [&str; 4] = ["--samples", "8", "--sequence-length", "48"];

/// Returns the values of the tensors that learn.
fn values(source: &SourceModel, names: &[String]) -> Values {
    let decoded = names.iter().map(|name| {
        let tensor = source.tensor(name).unwrap();
        let mut values = Vec::new();
        extend_f32(tensor.dtype, &tensor.bytes(), &mut values);
        (name.clone(), values)
    });
    decoded.collect()
}

/// Returns `float` values without latent codes.
fn tuned<'a>(floats: &'a Values, latents: &'a Values) -> Tuned<'a> {
    Tuned { floats, latents }
}

/// Returns some sequences of a model's vocabulary.
fn sequences(source: &SourceModel) -> Vec<Vec<u32>> {
    let vocabulary = source.spec().vocab_size as u32;
    (0..3u32).map(|s| (0..24).map(|i| (i * (37 + s) + 5) % vocabulary).collect()).collect()
}

/// Returns the loss and all its gradients.
fn loss_and_gradients(
    learner: &Student<'_>,
    values: Tuned<'_>,
    target: &Target<'_>,
    chosen: &[usize],
    temperature: f64,
) -> (f64, Values) {
    let mut gradients = Values::new();
    let mut finished = |some: &Values| gradients.extend(some.clone());
    let loss = learner.gradients(values, target, chosen, temperature, &mut finished).unwrap();
    (loss, gradients)
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// Slope of a function of a distance at 0, by differences at `far` and half of it: Richardson's extrapolation takes the
/// third order out.
fn slope(far: f64, value: impl Fn(f64) -> f64) -> f64 {
    let difference = |step: f64| (value(step) - value(-step)) / (2.0 * step);
    (4.0 * difference(far / 2.0) - difference(far)) / 3.0
}

/// The gradient of every tensor that learns is the slope of the loss along it.
fn check_gradients(float: &Path, flags: &[&str]) {
    const TEMPERATURE: f64 = 1.5;
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&make("quantize", float, &out, flags));
    let engine = Engine::start().unwrap();
    let (float, student) = (SourceModel::open(float).unwrap(), SourceModel::open(&out).unwrap());
    let layers = student.bitmap();
    let learners = Learners { layers: layers.clone(), norms: Norms::Learning, ..Learners::default() };
    let learner = Student::new(&engine, &student, learners, 1 << 16);
    let sequences = sequences(&student);
    let target = Target::new(&engine, &float, &sequences, 1 << 16, &|| {}).unwrap();
    let start = values(&student, &learner.names());
    let none = Values::new();
    let loss =
        |values: &Values| loss_and_gradients(&learner, tuned(values, &none), &target, &[0, 2], TEMPERATURE);
    let (at_start, gradients) = loss(&start);
    assert_eq!(gradients.keys().collect::<Vec<_>>(), start.keys().collect::<Vec<_>>());
    assert!(
        gradients.len()
            == 2 * layers.len() + float.manifest().iter().filter(|tensor| tensor.role == Role::Norm).count()
    );
    for (name, gradient) in &gradients {
        let length = norm(gradient);
        let moved = |step: f64| {
            let mut values = start.clone();
            let towards = values.get_mut(name).unwrap().iter_mut().zip(gradient);
            towards.for_each(|(v, &g)| *v += (step * f64::from(g) / length) as f32);
            loss(&values).0
        };
        // As far as changes the loss by a fiftieth or the tensor by a hundredth.
        let far = (0.02 * at_start / length).min(0.01 * norm(&start[name]));
        let slope = slope(far, moved);
        assert!((slope / length - 1.0).abs() < 5e-3, "{name}: slope {slope}, gradient {length}");
    }
    let all = learner.divergences(tuned(&start, &none), &target).unwrap();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let (same, _) = loss_and_gradients(&learner, tuned(&start, &none), &target, &[0, 1, 2], 1.0);
    assert!((mean / same - 1.0).abs() < 1e-4, "{mean} {same}");
}

/// Returns the scales of a layer; those of mxfp4 and mxfp8 are exponents of 2.
fn scales(student: &SourceModel, path: &str, quant: Quant) -> Vec<f32> {
    let name = format!("{path}.scales");
    if quant.mode == Mode::Affine {
        return values(student, std::slice::from_ref(&name)).remove(&name).unwrap();
    }
    let exponents = student.tensor(&name).unwrap().bytes().to_vec();
    exponents.into_iter().map(|exponent| (f32::from(exponent) - 127.0).exp2()).collect()
}

/// The gradient of latent codes is the slope of the loss of a model whose codes need not be integers: of a float one, with
/// weights `scale * latent + bias`.
fn check_straight_through(float: &Path, flags: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let (out, surrogate) = (home.path().join("out"), home.path().join("surrogate"));
    succeeded(&make("quantize", float, &out, flags));
    succeeded(&make("dequantize", &out, &surrogate, &["--dtype", "float32"]));
    let engine = Engine::start().unwrap();
    let [float, student, surrogate] =
        [float, &out, &surrogate].map(|folder| SourceModel::open(folder).unwrap());
    let learners = Learners { layers: student.bitmap().clone(), codes: Codes::Learning, norms: Norms::Fixed };
    let learner = Student::new(&engine, &student, learners, 1 << 16);
    let sequences = sequences(&student);
    let target = Target::new(&engine, &float, &sequences, 1 << 16, &|| {}).unwrap();
    let all = [0, 1, 2];
    let none = Values::new();
    let (loss, gradients) = loss_and_gradients(&learner, tuned(&none, &none), &target, &all, 1.0);
    let relaxed = Student::new(&engine, &surrogate, Learners::default(), 1 << 16);
    let relaxed_loss = |weights: &Values| {
        let divergences = relaxed.divergences(tuned(weights, &none), &target).unwrap();
        divergences.iter().sum::<f64>() / divergences.len() as f64
    };
    assert!((relaxed_loss(&none) / loss - 1.0).abs() < 1e-3);

    for (path, quant) in student.bitmap() {
        let name = format!("{path}.weight");
        let gradient = &gradients[&name];
        let start = values(&surrogate, std::slice::from_ref(&name));
        let scales = scales(&student, path, *quant);
        assert_eq!(gradient.len(), start[&name].len());
        let length = norm(gradient);
        let moved = |step: f64| {
            let mut weights = start.clone();
            for (index, weight) in weights.get_mut(&name).unwrap().iter_mut().enumerate() {
                let scale = f64::from(scales[index / quant.group_size as usize]);
                *weight += (scale * step * f64::from(gradient[index]) / length) as f32;
            }
            relaxed_loss(&weights)
        };
        // As far as changes the loss by a tenth, or codes by a twentieth.
        let far = (0.1 * loss / length).min(0.05 * (gradient.len() as f64).sqrt());
        let slope = slope(far, moved);
        assert!((slope / length - 1.0).abs() < 1e-2, "{name}: slope {slope}, gradient {length}");

        // Latents count by the nearest codes, those beyond the range by its ends.
        let latents = unpack_latents(&student.tensor(&name).unwrap().bytes(), *quant);
        let highest = highest_latent(*quant);
        let off = latents.iter().map(|&code| match code / highest {
            ..=0.0 => -3.0,
            1.0.. => code + 2.0,
            _ => code + 0.4,
        });
        let off = Values::from([(name.clone(), off.collect())]);
        let (same, of_rounded) = loss_and_gradients(&learner, tuned(&none, &off), &target, &all, 1.0);
        assert!((same / loss - 1.0).abs() < 1e-12 && of_rounded == gradients, "{name}");
    }
}

#[test]
fn straight_through_gradients_are_slopes() {
    let model = fixtures().join("golden/qwen3-untied-rope-parameters");
    for bits in ["2:32", "3:32", "4:32", "5:32", "6:32", "8:32"] {
        check_straight_through(&model, &["--bits", bits, "--dtype", "float32"]);
    }
    for mode in ["mxfp4", "mxfp8"] {
        check_straight_through(&model, &["--mode", mode, "--dtype", "float32"]);
    }
}

#[test]
fn straight_through_gradients_are_slopes_in_experts() {
    // With fewer bits the slope's steps are so long that tokens go to other experts.
    check_straight_through(
        &fixtures().join("golden/qwen3-moe-mixed"),
        &["--bits", "6:32", "--dtype", "float32"],
    );
}

#[test]
fn gradients_are_slopes_with_norms_on_heads_and_an_untied_head() {
    check_gradients(&fixtures().join("golden/qwen3-untied-rope-parameters"), &["--bits", "2:32"]);
}

#[test]
fn gradients_are_slopes_in_experts() {
    check_gradients(&fixtures().join("golden/qwen3-moe-mixed"), &["--bits", "6:32"]);
}

#[test]
fn gradients_are_slopes_in_layer_norms_and_norms_of_each_head() {
    check_gradients(&fixtures().join("golden/stablelm-parallel"), &["--bits", "4:32"]);
    check_gradients(&fixtures().join("golden/cohere-qk-norm"), &["--bits", "4:32"]);
}

#[test]
fn gradients_are_slopes_in_plain_mlps() {
    check_gradients(&fixtures().join("golden/nemotron-untied"), &["--bits", "4:32"]);
    check_gradients(&fixtures().join("golden/apertus-untied"), &["--bits", "4:32"]);
}

#[test]
fn gradients_are_slopes_in_a_trained_model_with_a_tied_head() {
    check_gradients(
        &bundled(),
        &["--bits", "2", "--layer", "*.0.*.v_proj=3:32", "--layer", "*.1.*.q_proj=8"],
    );
}

fn divergence(model: &Path) -> f64 {
    let report = model.with_extension("json");
    let (model, float) = (model.to_str().unwrap().to_owned(), bundled().to_str().unwrap().to_owned());
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let arguments =
        ["eval", "--model", &model, "--reference", &float, "--data", text, "--max-tokens", "4000", "--json"];
    succeeded(&mixbit(arguments.into_iter().chain([report.to_str().unwrap()])));
    json_file(&report)["kl_mean"].as_f64().unwrap()
}

#[test]
fn scales_learn_and_nothing_else_does() {
    let home = tempfile::tempdir().unwrap();
    let (plain, tuned, norms) =
        (home.path().join("plain"), home.path().join("tuned"), home.path().join("norms"));
    let rounding = [&["--bits", "3", "--rounding", "gptq"], &SMALL[..]].concat();
    let distill = [&rounding[..], &["--distill", "30", "--distill-rate", "0.003"]].concat();
    succeeded(&make("quantize", &bundled(), &plain, &rounding));
    let output = make("quantize", &bundled(), &tuned, &distill);
    succeeded(&output);
    assert!(stdout(&output).contains("distilled scales and biases: 30 of 30 steps"), "{}", stdout(&output));
    succeeded(&make("quantize", &bundled(), &norms, &[&distill[..], &["--distill-norms"]].concat()));
    let record = &json_file(&tuned.join("mixbit-report.json"))["distillation"];
    let kl = |key: &str| record[key].as_f64().unwrap();
    assert!(kl("kl_after") < kl("kl_before") && record["kept"].as_u64().unwrap() > 0, "{record}");
    assert!(divergence(&tuned) < divergence(&plain));
    let tensors = |model: &Path| RawCheckpoint::read(&model.join("model.safetensors")).tensors;
    let (plain_tensors, tuned_tensors) = (tensors(&plain), tensors(&tuned));
    for (before, after) in plain_tensors.iter().zip(&tuned_tensors) {
        assert_eq!((&before.0, &before.1, &before.2), (&after.0, &after.1, &after.2));
        let learns = before.0.ends_with(".scales") || before.0.ends_with(".biases");
        assert_eq!(before.3 != after.3, learns, "{}", before.0);
    }
    let changed = plain_tensors.iter().zip(tensors(&norms)).filter(|(before, after)| before.3 != after.3);
    assert!(changed.into_iter().any(|(before, _)| before.0 == "model.norm.weight"));
    let (plain, tuned) = (json_file(&plain.join("config.json")), json_file(&tuned.join("config.json")));
    assert_eq!(plain, tuned);
}

#[test]
fn where_no_step_helps_the_start_is_kept() {
    let home = tempfile::tempdir().unwrap();
    let (plain, tuned) = (home.path().join("plain"), home.path().join("tuned"));
    let rounding = [&["--bits", "8", "--rounding", "rtn"], &SMALL[..]].concat();
    succeeded(&make("quantize", &bundled(), &plain, &["--bits", "8", "--rounding", "rtn"]));
    let output = make(
        "quantize",
        &bundled(),
        &tuned,
        &[&rounding[..], &["--distill", "200", "--distill-rate", "2"]].concat(),
    );
    succeeded(&output);
    // Stopped before the end, too.
    assert!(
        stdout(&output).contains("distilled scales and biases: 160 of 200 steps, none was better"),
        "{}",
        stdout(&output)
    );
    let weights = |model: &Path| fs::read(model.join("model.safetensors")).unwrap();
    assert!(weights(&plain) == weights(&tuned));
}

#[test]
fn resumed_distillation_gives_the_same_bytes() {
    let home = tempfile::tempdir().unwrap();
    let (whole, parts) = (home.path().join("whole"), home.path().join("parts"));
    let gptq = ["--bits", "3", "--rounding", "gptq", "--no-eval", "--distill", "60"];
    let flags = [&gptq, &SMALL[..]].concat();
    succeeded(&make("quantize", &bundled(), &whole, &flags));
    let arguments = |more: &[&str]| {
        let mut arguments = vec!["quantize".to_owned(), "--hf-path".to_owned()];
        arguments.extend([bundled().to_str().unwrap().to_owned(), "--mlx-path".to_owned()]);
        arguments.push(parts.to_str().unwrap().to_owned());
        arguments.extend(flags.iter().chain(more).map(ToString::to_string));
        arguments
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    let partial = home.path().join("parts.partial");
    let output = common::interrupted(command.args(arguments(&[])), "-INT", || partial.exists());
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("--resume resumes after step"), "{}", stderr(&output));
    let mut left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["parts.partial", "parts.rounding", "whole"]);
    let rounding = home.path().join("parts.rounding");
    let kept = || [&partial, &rounding].map(|path| fs::read(path).unwrap());
    let before = kept();
    let anew = mixbit(arguments(&[]));
    assert_eq!(anew.status.code(), Some(1));
    let hint = "--resume continues it, --overwrite starts anew";
    assert!(stderr(&anew).contains(hint), "{}", stderr(&anew));

    let other = mixbit(arguments(&["--resume", "--distill-rate", "0.002"]));
    assert_eq!(other.status.code(), Some(1));
    let expected = "other settings: --distill-rate was 0.003, now it is 0.002\n";
    assert!(stderr(&other).contains(expected), "{}", stderr(&other));
    assert!(!stderr(&other).contains("estimated"), "noticed at once: {}", stderr(&other));
    assert!(kept() == before, "nothing is lost");
    let mut dropped = arguments(&["--resume"]);
    dropped.retain(|argument| argument != "--distill" && argument != "60");
    let dropped = mixbit(dropped);
    assert_eq!(dropped.status.code(), Some(1));
    let expected = "parts.partial: was begun with --distill, which this run does without";
    assert!(stderr(&dropped).contains(expected), "{}", stderr(&dropped));
    assert!(kept() == before, "nothing is lost");
    let mut damaged = before[0].clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&partial, damaged).unwrap();
    let refused = mixbit(arguments(&["--resume"]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("parts.partial: damaged: its SHA-256"), "{}", stderr(&refused));
    fs::write(&partial, &before[0]).unwrap();
    let output = mixbit(arguments(&["--resume"]));
    succeeded(&output);
    assert!(stderr(&output).contains("of 60 steps taken already"), "{}", stderr(&output));
    for file in ["model.safetensors", "mixbit-report.json"] {
        assert!(fs::read(whole.join(file)).unwrap() == fs::read(parts.join(file)).unwrap(), "{file}");
    }
    assert!(!partial.exists() && !rounding.exists());
}

#[test]
fn overwrite_discards_earlier_journals() {
    let home = tempfile::tempdir().unwrap();
    let (out, partial) = (home.path().join("out"), home.path().join("out.partial"));
    let run = |bits: &str, more: &[&str]| {
        let flags = ["--bits", bits, "--rounding", "gptq", "--no-eval", "--distill", "60"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
        command.args(["quantize", "--hf-path", bundled().to_str().unwrap(), "--mlx-path"]);
        command.arg(&out).args(flags).args(SMALL).args(more);
        command
    };
    let begun = |bits: &str, more: &[&str]| {
        let output = common::interrupted(&mut run(bits, more), "-INT", || partial.exists());
        assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    };
    begun("3", &[]);
    succeeded(&run("4", &["--overwrite", "--dry-run"]).output().unwrap());
    assert!(partial.exists(), "a dry run discards nothing");
    // A run with other settings ends before its own steps: no steps of the first one are left beside its layers.
    let mut other_bits = run("4", &["--overwrite"]);
    let output = common::interrupted(&mut other_bits, "-INT", || !partial.exists());
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("discarded the unfinished work in "), "{}", stderr(&output));
    succeeded(&run("4", &["--resume"]).output().unwrap());

    begun("3", &["--overwrite"]);
    let refused = run("3", &[]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let hint = "--overwrite replaces it and discards the unfinished work in ";
    assert!(stderr(&refused).contains(hint) && partial.exists(), "{}", stderr(&refused));
    let resumed = run("3", &["--resume", "--overwrite"]).output().unwrap();
    succeeded(&resumed);
    assert!(stderr(&resumed).contains("of 60 steps taken already"), "{}", stderr(&resumed));
    assert!(!stderr(&resumed).contains("discarded"), "{}", stderr(&resumed));
}

#[test]
fn damaged_norms_are_refused_before_anything_learns() {
    let home = tempfile::tempdir().unwrap();
    let [damaged, out] = ["damaged", "out"].map(|name| home.path().join(name));
    common::copy_folder(&bundled(), &damaged);
    let weights = damaged.join("model.safetensors");
    let mut raw = RawCheckpoint::read(&weights);
    raw.get_mut("model.norm.weight").3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    raw.write(&weights);
    let flags =
        [&["--bits", "4", "--rounding", "search", "--distill", "1", "--no-eval"], &SMALL[..]].concat();
    let output = make("quantize", &damaged, &out, &flags);
    assert_eq!(output.status.code(), Some(1));
    let expected = "tensor `model.norm.weight`: has a value that is NaN or infinite";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    assert!(!out.exists());
}

#[test]
fn what_cannot_be_distilled_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let run = |more: &[&str]| make("quantize", &bundled(), &out, more);
    for more in [
        &["--bits", "4", "--distill", "-1"][..],
        &["--bits", "4", "--distill", "many"],
        &["--bits", "4", "--distill", "0", "--distill-norms"],
        &["--bits", "4", "--distill", "9", "--distill-rate", "nan"],
        &["--bits", "4", "--distill", "9", "--distill-rate", "-1"],
        &["--bits", "4", "--distill", "9", "--distill-rate", "11"],
        &["--bits", "4", "--distill", "9", "--distill-temperature", "1e30"],
        &["--bits", "4", "--distill", "9", "--distill-temperature", "0"],
        &["--bits", "4", "--distill-norms"],
        &["--bits", "4", "--learn", "codes"],
        &["--bits", "4", "--distill", "9", "--learn", "norms"],
        &["--bits", "4", "--distill", "9", "--distill-code-rate", "0.01"],
        &["--bits", "4", "--distill", "9", "--learn", "codes", "--distill-code-rate", "2"],
    ] {
        assert_eq!(run(more).status.code(), Some(2), "{more:?}");
    }
    for (more, expected) in [
        (&["--mode", "mxfp4", "--distill", "9"][..], "no layer becomes affine"),
        (
            &["--bits", "4", "--distill", "9", "--learn", "codes", "--layer", "*=float"],
            "nothing to fine-tune: no layer is quantized\nhint: choose bits for some layers",
        ),
        (&["--bits", "4", "--quality", "fast", "--distill-norms"], "--distill-norms says how to distill"),
        (&["--bits", "4", "--quality", "fast", "--learn", "codes"], "--learn says how to distill"),
        (
            &["--bits", "4", "--distill", "9", "--learn", "scales", "--distill-code-rate", "0.01"],
            "--distill-code-rate says how codes learn, and codes stay",
        ),
        (&["--bits", "4", "--distill", "9", "--samples", "1", "--sequence-length", "16000"], "one sequence"),
    ] {
        let output = run(more);
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(stderr(&output).contains(expected), "{more:?}: {}", stderr(&output));
    }
    assert!(!out.exists());
}
