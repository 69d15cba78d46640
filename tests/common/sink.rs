//! The bundled model with heads that rest on the first token, as most heads of larger models do most of the time (the
//! attention sinks of arXiv 2309.17453); the trained models here are too small to have grown any.
//!
//! A block is put before the others. Its heads look at the first token, whose value is zero; without that token they see the
//! mean of the others' values, which disturbs the text. Two channels are added to the residual stream, which no other block
//! sees: one is equal for all tokens, one is set for the first alone.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::common::{RawCheckpoint, bundled, copy_folder, json_file};

const WIDTH: usize = 128;
const WIDER: usize = WIDTH + 2;
const MLP: usize = 384;
const HEAD: usize = 32;
const HEADS: usize = 4;
const LAYERS: usize = 4;

/// Writes the model below `home`.
pub fn with_sink(home: &Path) -> PathBuf {
    let model = home.join("sink");
    copy_folder(&bundled(), &model);
    let weights = model.join("model.safetensors");
    let mut raw = RawCheckpoint { tensors: first_block() };
    for (name, dtype, shape, data) in RawCheckpoint::read(&weights).tensors {
        let values: Vec<f32> = data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let (shape, values) = widened(&name, shape, values);
        raw.tensors.push((later(&name), dtype, shape, bytes(&values)));
    }
    raw.tensors.sort();
    raw.write(&weights);
    let mut config = json_file(&model.join("config.json"));
    config["hidden_size"] = json!(WIDER);
    config["num_hidden_layers"] = json!(LAYERS + 1);
    config["no_rope_layers"] = json!([0, 1, 1, 1, 1]);
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    model
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn later(name: &str) -> String {
    (0..LAYERS)
        .rev()
        .fold(name.to_owned(), |name, i| name.replace(&format!("layers.{i}."), &format!("layers.{}.", i + 1)))
}

/// Returns shape and values of a layer's tensor in the wider stream.
fn widened(name: &str, mut shape: Vec<usize>, mut values: Vec<f32>) -> (Vec<usize>, Vec<f32>) {
    if shape.len() == 1 {
        // The mean of the norm is over more channels.
        let factor = (WIDTH as f32 / WIDER as f32).sqrt();
        for x in &mut values {
            *x *= factor;
        }
        values.extend([0.0; 2]);
        shape[0] = WIDER;
    } else if name.contains("o_proj") || name.contains("down_proj") {
        values.extend(vec![0.0; 2 * shape[1]]);
        shape[0] = WIDER;
    } else {
        let more = |row: usize| match (name.contains("embed"), row) {
            (true, 0) => [1e-3, 1e-3],
            (true, _) => [1e-3, 0.0],
            _ => [0.0, 0.0],
        };
        let rows = values.chunks(WIDTH).enumerate();
        values = rows.flat_map(|(index, row)| [row, &more(index)].concat()).collect();
        shape[1] = WIDER;
    }
    (shape, values)
}

fn first_block() -> Vec<(String, String, Vec<usize>, Vec<u8>)> {
    let tensor = |name: &str, shape: &[usize], value: &dyn Fn(usize, usize) -> f32| {
        let columns = shape[shape.len() - 1];
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|i| value(i / columns, i % columns)).collect();
        (format!("model.layers.0.{name}.weight"), "F32".to_owned(), shape.to_vec(), bytes(&values))
    };
    let only = |yes: bool, x: f32| if yes { x } else { 0.0 };
    let (every, first) = (WIDTH, WIDTH + 1);
    vec![
        tensor("input_layernorm", &[WIDER], &|_, column| only(column >= WIDTH, 100.0)),
        tensor("post_attention_layernorm", &[WIDER], &|_, _| 0.0),
        tensor("self_attn.q_proj", &[HEADS * HEAD, WIDER], &|row, column| {
            only(row % HEAD == 0 && column == every, 100.0)
        }),
        tensor("self_attn.k_proj", &[HEAD, WIDER], &|row, column| only(row == 0 && column == first, 100.0)),
        tensor("self_attn.v_proj", &[HEAD, WIDER], &|row, column| {
            only(row == 0 && column == every, 10.0) - only(row == 0 && column == first, 10.0)
        }),
        tensor("self_attn.o_proj", &[WIDER, HEADS * HEAD], &|row, column| {
            only(row < WIDTH && column % HEAD == 0, if row % 3 == 0 { 1.0 } else { -0.5 })
        }),
        tensor("feed_forward.gate_proj", &[MLP, WIDER], &|_, _| 0.0),
        tensor("feed_forward.up_proj", &[MLP, WIDER], &|_, _| 0.0),
        tensor("feed_forward.down_proj", &[WIDER, MLP], &|_, _| 0.0),
    ]
}
