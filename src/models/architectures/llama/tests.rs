//! All spellings of the rotation in a config.

use serde_json::{Value, json};
use std::path::Path;

use super::*;
use crate::models::spec::RopeScaling;

fn rope(keys: &Value) -> Result<(f64, RopeScaling)> {
    let mut config = json!({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4});
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let config = ModelConfig::parse(Path::new("config.json"), &config.to_string())?;
    let rope = spec(&config, &TensorShapes::new())?.ropes.swap_remove(0);
    Ok((rope.theta, rope.scaling))
}

/// The expected values are those of transformers 5.23's `LlamaConfig.from_dict`.
#[test]
fn rope_keys_are_read_as_in_transformers() {
    let default = json!({"rope_type": "default", "rope_theta": 5e5});
    let linear = || RopeScaling::Linear { factor: 2.0 };
    for (keys, theta, scaling) in [
        (json!({}), 1e4, RopeScaling::Default),
        (json!({"rope_scaling": null, "rope_theta": 3}), 3.0, RopeScaling::Default),
        (json!({"rope_parameters": default, "rope_theta": 3}), 5e5, RopeScaling::Default),
        (json!({"rope_parameters": {"rope_type": "default"}, "rope_theta": 3}), 3.0, RopeScaling::Default),
        (json!({"rope_parameters": default, "rope_scaling": {}}), 5e5, RopeScaling::Default),
        (json!({"rope_parameters": default, "rope_scaling": false}), 5e5, RopeScaling::Default),
        (json!({"rope_scaling": {"rope_type": "default", "factor": 2}}), 1e4, RopeScaling::Default),
        (json!({"rope_scaling": {"type": "linear", "factor": 2}}), 1e4, linear()),
        (json!({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2}}), 1e4, linear()),
        (json!({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": default}), 1e4, linear()),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2, "rope_theta": 7}, "rope_theta": 3}),
            7.0,
            linear(),
        ),
        (
            json!({"rope_scaling": {"type": "dynamic", "factor": 2}}),
            1e4,
            RopeScaling::Dynamic { factor: 2.0, max_positions: 2048.0 },
        ),
    ] {
        assert_eq!(rope(&keys).unwrap(), (theta, scaling), "{keys}");
    }
}

#[test]
fn rope_spellings_of_one_meaning_are_no_note() {
    let notes = |parameters: Value| {
        let scaling = json!({"type": "linear", "factor": 2.0});
        let config = json!({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
            "rope_theta": 3, "rope_scaling": scaling, "rope_parameters": parameters});
        let config = ModelConfig::parse(Path::new("config.json"), &config.to_string()).unwrap();
        let notes = spec(&config, &TensorShapes::new()).unwrap().notes;
        notes.iter().filter(|note| note.contains("rope_parameters")).count()
    };
    assert_eq!(notes(json!({"rope_type": "linear", "factor": 2})), 0);
    assert_eq!(notes(json!({"type": "linear", "factor": 2, "rope_theta": 3.0})), 0);
    assert_eq!(notes(json!({"rope_type": "linear", "factor": 2, "rope_theta": 4})), 1);
    assert_eq!(notes(json!({"rope_type": "linear", "factor": 3})), 1);
    assert_eq!(notes(json!({"rope_type": "default"})), 1);
}

#[test]
fn original_context_is_found_in_three_places() {
    for (keys, inside, expected) in [
        (json!({}), json!({}), 2048.0),
        (json!({"max_position_embeddings": 512}), json!({}), 512.0),
        (json!({}), json!({"original_max_position_embeddings": 128}), 128.0),
        (
            json!({"original_max_position_embeddings": 64}),
            json!({"original_max_position_embeddings": 128}),
            64.0,
        ),
    ] {
        let mut keys = keys.clone();
        keys["rope_scaling"] =
            json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4});
        keys["rope_scaling"].as_object_mut().unwrap().extend(inside.as_object().unwrap().clone());
        let RopeScaling::Llama3 { original_max_positions, .. } = rope(&keys).unwrap().1 else {
            panic!("{keys}")
        };
        assert_eq!(original_max_positions, expected, "{keys}");
    }
}

#[test]
fn rope_that_is_not_known_is_refused() {
    for (keys, expected) in [
        (json!({"rope_scaling": [1]}), "key `rope_scaling`: expected an object"),
        (json!({"rope_scaling": {"type": "longrope"}}), "short_factor`: missing"),
        (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor`: missing"),
        (json!({"partial_rotary_factor": 0.5}), "0.5 is not supported"),
    ] {
        let message = rope(&keys).unwrap_err().to_string();
        assert!(message.contains(expected), "{keys}: {message}");
    }
}
