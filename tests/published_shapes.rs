//! Parameter counts of published models: the decoder of their config.json has as many as their makers say. A wrong default or
//! a forgotten bias shows here.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod common;

use common::{fixtures, json_file};
use serde_json::Value;

use mixbit::models::architectures::{self, TensorShapes};
use mixbit::models::config::ModelConfig;
use mixbit::models::spec::{Manifest, Role, TensorSpec};

const FILE: &str = "published_shapes.json";

/// Models of fixtures/published_shapes.json whose type the registry has.
fn supported() -> Vec<Value> {
    let models = json_file(&fixtures().join(FILE));
    let is_supported = |model: &&Value| {
        architectures::rows().iter().any(|row| model["config"]["model_type"] == row.model_type)
    };
    models.as_array().unwrap().iter().filter(is_supported).cloned().collect()
}

fn manifest(model: &Value) -> Manifest {
    let name = model["model"].as_str().unwrap();
    let config = ModelConfig::parse(&fixtures().join(FILE), &model["config"].to_string()).unwrap();
    let row = architectures::find(&config).unwrap();
    let spec = (row.spec)(&config, &TensorShapes::new());
    spec.unwrap_or_else(|error| panic!("{name}: {error}")).manifest()
}

/// True if `count` rounds to a number such as "6.98B" or "949M", or has its digits.
fn has_digits(count: u64, digits: &str) -> bool {
    let (number, unit) = digits.split_at(digits.len() - 1);
    let decimals = number.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let scale = if unit == "B" { 1e9 } else { 1e6 } / 10f64.powi(decimals.try_into().unwrap());
    let (counted, stated) = (count as f64 / scale, number.replace('.', "").parse::<f64>().unwrap());
    let is_stated = |number: f64| (number - stated).abs() < 0.5;
    is_stated(counted.round()) || is_stated(counted.floor())
}

#[test]
fn parameters_are_as_many_as_published() {
    let models = supported();
    for model in &models {
        let manifest = manifest(model);
        let source = model["source"].as_str().unwrap();
        let is_table = |role: Role| matches!(role, Role::Embed | Role::Head);
        let tables: usize = manifest.iter().filter(|tensor| is_table(tensor.role)).map(TensorSpec::len).sum();
        let left_out = if source.ends_with("without embeddings") { tables as u64 } else { 0 };
        let count = manifest.parameters() - left_out;
        let is_right = match &model["parameters"] {
            Value::String(digits) => has_digits(count, digits),
            exact => exact.as_u64() == Some(count),
        };
        let (name, expected) = (&model["model"], &model["parameters"]);
        assert!(is_right, "{name}: {count} parameters, but {expected} ({source})");
    }
    println!("{} models", models.len());
}

/// Model types whose published config.json files are behind a gate.
const GATED: [&str; 1] = ["plamo3"];

#[test]
fn every_model_type_has_a_published_model() {
    let models = supported();
    // An alias has the shapes of the row that it names.
    for row in
        architectures::rows().iter().filter(|row| row.alias_of.is_none() && !GATED.contains(&row.model_type))
    {
        let has_one = models.iter().any(|model| model["config"]["model_type"] == row.model_type);
        assert!(has_one, "{}: none in fixtures/{FILE}", row.model_type);
    }
}

#[test]
fn stated_digits_are_rounded_or_cut() {
    assert!(has_digits(6_979_588_096, "6.98B") && has_digits(949_685_760, "949M"));
    assert!(!has_digits(6_979_588_096, "6.96B") && !has_digits(949_685_760, "951M"));
}
