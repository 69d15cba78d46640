//! `mixbit recipes`, and `quantize` and `analyze` with `--recipe`; the mixed recipes against mlx-lm's own predicates.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{bundled, fixtures, json_file, make, mixbit, stderr, stdout, succeeded};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mixbit::choose::recipe::{BUILTIN, Recipe};
use mixbit::models::architectures::{TensorShapes, find};
use mixbit::models::bitmap::BitMap;
use mixbit::models::config::ModelConfig;
use mixbit::models::source::SourceModel;
use mixbit::numerics::quant::Quant;

const QUICK: [&str; 4] = ["--samples", "2", "--sequence-length", "32"];

fn quantize(out: &Path, more: &[&str]) -> std::process::Output {
    make("quantize", &bundled(), out, more)
}

fn bitmap(model: &Path) -> BitMap {
    SourceModel::open(model).unwrap().bitmap().clone()
}

/// Returns the bits by path of a case of fixtures/golden/recipes.
fn expected(bits: &Value) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for (path, digits) in bits.as_object().unwrap() {
        let digits: Vec<u32> =
            digits.as_str().unwrap().chars().map(|digit| digit.to_digit(10).unwrap()).collect();
        if !path.contains('.') {
            found.insert(path.clone(), digits[0]);
            continue;
        }
        for (block, bits) in digits.iter().enumerate() {
            found.insert(format!("model.layers.{block}.{path}"), *bits);
        }
    }
    found
}

#[test]
fn mixed_recipes_are_mlx_lms() {
    let cases = json_file(&fixtures().join("golden/recipes/mixed.json"));
    let mut seen = BTreeSet::new();
    for case in cases.as_array().unwrap() {
        let config = ModelConfig::parse(Path::new("config.json"), &case["config"].to_string()).unwrap();
        let manifest = (find(&config).unwrap().spec)(&config, &TensorShapes::new()).unwrap().manifest();
        for (predicate, bits) in case["bits"].as_object().unwrap() {
            let recipe = Recipe::load(&predicate.replace('_', "-")).unwrap();
            let applied = recipe.apply(&manifest).unwrap();
            let found = applied.candidates.iter().map(|(path, candidates)| {
                let quant = candidates[0].quant().unwrap();
                assert_eq!((candidates.len(), quant), (1, Quant::affine(quant.bits, 64)), "{path}");
                (path.clone(), quant.bits)
            });
            assert_eq!(found.collect::<BTreeMap<_, _>>(), expected(bits), "{predicate} {}", case["config"]);
            seen.insert(predicate.clone());
        }
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn recipes_are_listed_and_shown() {
    let list = mixbit(["recipes"]);
    succeeded(&list);
    let list = stdout(&list);
    assert_eq!(list.lines().count(), BUILTIN.len() + 1);
    for (name, text) in BUILTIN {
        assert!(list.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}: {list}");
        let shown = mixbit(["recipes", "show", name]);
        succeeded(&shown);
        assert_eq!(stdout(&shown), text);
        assert_eq!(
            text,
            fs::read_to_string(
                Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("quant-recipes/{name}.toml"))
            )
            .unwrap()
        );
    }
    let unknown = mixbit(["recipes", "show", "nix"]);
    assert_eq!(unknown.status.code(), Some(2));
    for (name, _) in BUILTIN {
        assert!(stderr(&unknown).contains(name), "{}", stderr(&unknown));
    }
}

#[test]
fn a_recipe_that_fixes_all_layers_measures_nothing() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let output = quantize(&out, &["--recipe", "mixed-3-6"]);
    succeeded(&output);
    assert!(!stderr(&output).contains("calibration"), "{}", stderr(&output));
    let found = bitmap(&out);
    assert_eq!(found.len(), 28);
    for (path, quant) in &found {
        // Of 4 blocks: the third of each three, and the last eighth, which is the last.
        let high = ["2", "3"].contains(&path.split('.').nth(2).unwrap())
            && (path.ends_with("v_proj") || path.ends_with("down_proj"));
        assert_eq!(*quant, Quant::affine(if high { 6 } else { 3 }, 64), "{path}");
    }
    let uniform = home.path().join("uniform");
    let bits = home.path().join("bits");
    succeeded(&quantize(&uniform, &["--recipe", "uniform-4bit"]));
    succeeded(&quantize(&bits, &["--bits", "4"]));
    for file in ["model.safetensors", "config.json"] {
        assert!(fs::read(uniform.join(file)).unwrap() == fs::read(bits.join(file)).unwrap(), "{file}");
    }
}

#[test]
fn rules_by_hand_win_over_the_recipe() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&quantize(
        &out,
        &["--recipe", "mixed-3-6", "--layer", "*.3.*.v_proj=8:32", "--layer", "*.0.*.q_proj=float"],
    ));
    let found = bitmap(&out);
    assert_eq!(found["model.layers.3.self_attn.v_proj"], Quant::affine(8, 32));
    assert!(!found.contains_key("model.layers.0.self_attn.q_proj"));
    assert_eq!(found["model.layers.2.self_attn.v_proj"], Quant::affine(6, 64));
}

#[test]
fn a_file_is_followed_and_flags_override_it() {
    let home = tempfile::tempdir().unwrap();
    let recipe = home.path().join("my.toml");
    fs::copy(bundled().join("config.json"), home.path().join("text.txt")).unwrap();
    let text = "
        description = 'q, k and v together'
        target_bpw = 4.0
        candidates = '3,4,6 x 64'
        tie = [['q', 'k', 'v']]
        [calibration]
        text = 'text.txt'
        samples = 3
        sequence_length = 16
        [[rule]]
        role = 'o'
        float = true";
    fs::write(&recipe, text).unwrap();
    let out = home.path().join("out");
    let run = |more: &[&str]| {
        let output = quantize(&out, &[&["--recipe", recipe.to_str().unwrap(), "--overwrite"], more].concat());
        succeeded(&output);
        output
    };
    let dry = run(&["--target-bpw", "6", "--dry-run"]);
    assert!(stdout(&dry).contains(" of 6 (") && !out.exists(), "{}", stdout(&dry));
    let by_size = run(&["--target-size", "740KB", "--dry-run"]);
    assert!(stdout(&by_size).contains("below the target"), "{}", stdout(&by_size));
    let shorter = run(&["--target-bpw", "6", "--samples", "2", "--dry-run"]);
    assert!(stderr(&shorter).contains("calibration: 2 x 16 tokens"), "{}", stderr(&shorter));
    let output = run(&["--target-bpw", "5.5"]);
    assert!(stderr(&output).contains("calibration: 3 x 16 tokens"), "{}", stderr(&output));
    let found = bitmap(&out);
    assert_eq!(found.len(), 24);
    for block in 0..4 {
        let of = |name: &str| found.get(&format!("model.layers.{block}.self_attn.{name}_proj"));
        assert!(of("q").is_some() && of("q") == of("k") && of("k") == of("v") && of("o").is_none());
    }
    assert!(found.values().all(|quant| quant.group_size == 64 && [3, 4, 6].contains(&quant.bits)));
    let output = run(&["--candidates", "5,8", "--target-bpw", "9"]);
    let said = stdout(&output);
    assert!(said.contains("at 8 bits") && !said.contains("at 6 bits"), "{said}");
}

#[test]
fn shipped_recipes_keep_their_targets() {
    let home = tempfile::tempdir().unwrap();
    for (name, target) in [("balanced", 4.5), ("small", 3.5)] {
        let out = home.path().join(name);
        let output = quantize(&out, &[&["--recipe", name], &QUICK[..]].concat());
        succeeded(&output);
        assert!(stdout(&output).contains(&format!(" of {target} (")), "{}", stdout(&output));
        let inspected = mixbit(["inspect", "--json", out.to_str().unwrap()]);
        let report: Value = serde_json::from_str(&stdout(&inspected)).unwrap();
        let bpw = report["bpw_quantized"].as_f64().unwrap();
        assert!(bpw <= target && bpw > target - 0.02, "{name}: {bpw}");
    }
}

#[test]
fn analyze_measures_a_recipes_candidates() {
    let home = tempfile::tempdir().unwrap();
    let table = home.path().join("table.json");
    let model = bundled();
    let arguments = ["analyze", "--model", model.to_str().unwrap(), "--out", table.to_str().unwrap()];
    succeeded(&mixbit([&arguments[..], &["--recipe", "balanced"], &QUICK].concat()));
    let measured = json_file(&table);
    let candidates = measured["measurement"]["candidates"].as_array().unwrap();
    assert!(candidates.len() == 15 && candidates.iter().all(|quant| quant["bits"] != 2), "{candidates:?}");
    assert_eq!(measured["measurement"]["samples"], 2);
    let out = home.path().join("out");
    let output = quantize(&out, &["--recipe", "balanced", "--sensitivities", table.to_str().unwrap()]);
    succeeded(&output);
    assert!(stdout(&output).contains(" of 4.5 ("), "{}", stdout(&output));
}

#[test]
fn what_cannot_be_done_is_said() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let file = |name: &str, text: &[u8]| {
        let path = home.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let missing = home.path().join("missing.toml").to_str().unwrap().to_owned();
    for (recipe, more, code, said) in [
        ("nix".to_owned(), &[][..], 2, "no recipe is called `nix`"),
        (missing, &[], 1, "missing.toml: No such file"),
        (file("empty.toml", b""), &[], 1, "empty.toml:1: the recipe is empty"),
        (file("binary.toml", b"\xff\xfe"), &[], 1, "binary.toml"),
        (file("list.toml", b"[[rule]]\nrole = 'x'\nbits = 4\n"), &[], 1, "list.toml:2: key `rule.role`: "),
        (home.path().to_str().unwrap().to_owned(), &[], 1, "directory"),
        (
            file("open.toml", b"candidates = '3,4'\n"),
            &[],
            2,
            "open has no target_bpw and leaves layers a choice",
        ),
        (
            "mobilellm-r1-4.5bpw".to_owned(),
            &[],
            1,
            "key `expect.blocks`: the recipe is for models with 22 blocks; this one has 4",
        ),
        (
            "uniform-4bit".to_owned(),
            &["--target-bpw", "5"],
            2,
            "every layer has one setting, and together they have 4.5000",
        ),
        ("balanced".to_owned(), &["--target-bpw", "2"], 2, "cannot be reached: this model goes from 3.250"),
        ("balanced".to_owned(), &["--layer", "nix=4"], 2, "no float linear layer matches"),
    ] {
        let output = quantize(&out, &[&["--recipe", &recipe], more].concat());
        assert_eq!(output.status.code(), Some(code), "{recipe}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(said) && stderr(&output).contains("hint: "),
            "{said}\n{}",
            stderr(&output)
        );
        assert!(!out.exists());
    }
    for more in [&["--recipe", "small", "--bits", "4"][..], &[], &["--candidates", "4"]] {
        assert_eq!(quantize(&out, more).status.code(), Some(2), "{more:?}");
    }
}

#[test]
fn a_recipe_says_what_follows_rounding_and_flags_go_before_it() {
    let home = tempfile::tempdir().unwrap();
    let (recipe, out) = (home.path().join("my.toml"), home.path().join("out"));
    let run = |text: &str, more: &[&str]| {
        fs::write(&recipe, text).unwrap();
        quantize(&out, &[&["--recipe", recipe.to_str().unwrap(), "--overwrite"][..], &QUICK, more].concat())
    };
    let record = || json_file(&out.join("mixbit-report.json"));
    let fixed = "quality = 'fast'\ndistill = 2\ndistill_norms = true\n[[rule]]\nbits = 3\n";
    succeeded(&run(fixed, &["--no-eval"]));
    assert_eq!(record()["rounding"], "search");
    let distillation = &record()["distillation"];
    assert_eq!((&distillation["steps"], &distillation["norms"]), (&Value::from(2), &Value::from(true)));
    succeeded(&run(
        fixed,
        &["--no-eval", "--quality", "balanced", "--distill", "3", "--distill-rate", "0.002"],
    ));
    assert_eq!(record()["rounding"], "gptq");
    let distillation = &record()["distillation"];
    assert_eq!((&distillation["steps"], &distillation["rate"]), (&Value::from(3), &Value::from(0.002)));
    let choice = "target_bpw = 3.5\ncandidates = '3,4 x 64'\nrefine = 1\n";
    succeeded(&run(choice, &["--no-eval"]));
    assert_eq!(record()["refinement"]["rounds"].as_array().unwrap().len(), 1);

    for (text, expected) in [
        ("# fixed\nrefine = 1\n[[rule]]\nbits = 3\n", "my.toml:2: key `refine`: --refine moves bits"),
        ("distill = 5\n[[rule]]\nmode = 'mxfp4'\n", "my.toml:1: key `distill`: --distill has nothing"),
        ("refine = 101\n[[rule]]\nbits = 3\n", "my.toml:1: key `refine`: 101 is not from 0 to 100"),
    ] {
        let output = run(text, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}
