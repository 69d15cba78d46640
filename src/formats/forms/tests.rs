use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;

use crate::formats::checkpoint::Checkpoint;
use crate::numerics::affine::Quantized;
use crate::numerics::dtype::{Dtype, extend_f32};
use crate::numerics::microscaling::{E2M1, E4M3};
use crate::numerics::quant::Mode;

/// Opens a folder with a config and these tensors.
fn opened(quantization: &Value, tensors: &[(&str, &str, &[usize], &[u8])]) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"model_type": "x", "quantization_config": quantization});
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, dtype, shape, data) in tensors {
        let (start, next) = (end, end + data.len());
        end = next;
        header.insert(
            (*name).to_owned(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}),
        );
    }
    let header = Value::Object(header).to_string();
    let mut file = fs::File::create(folder.path().join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for (_, _, _, data) in tensors {
        file.write_all(data).unwrap();
    }
    drop(file);
    Checkpoint::open(folder.path()).unwrap()
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint.get(name).unwrap();
    let mut values = Vec::new();
    extend_f32(tensor.dtype, &tensor.bytes(), &mut values);
    values
}

/// Numbers that repeat late.
fn noise(count: usize, below: usize) -> Vec<u8> {
    (0..count).map(|i| ((i * 7919 + i / 13 * 104_729) % below) as u8).collect()
}

#[test]
fn blocks_of_stacked_matrices_are_decoded() {
    let (experts, rows, columns, block) = (2, 37, 48, [16, 32]);
    let codes = noise(experts * rows * columns, 126);
    let scales: Vec<f32> = (0..experts * 3 * 2).map(|i| 0.3 + i as f32).collect();
    let bytes: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let config = json!({"quant_method": "fp8", "weight_block_size": block});
    for name in ["mlp.experts.gate_up_proj", "mlp.weight"] {
        let scale = format!("{name}_scale_inv");
        let checkpoint = opened(
            &config,
            &[
                (name, "F8_E4M3", &[experts, rows, columns], &codes),
                (&scale, "F32", &[experts, 3, 2], &bytes),
            ],
        );
        let found = values(&checkpoint, name);
        for (place, value) in found.iter().enumerate() {
            let (expert, row, column) = (place / (rows * columns), place / columns % rows, place % columns);
            let scale = scales[(expert * 3 + row / block[0]) * 2 + column / block[1]];
            let expected = E4M3[usize::from(codes[place])] * scale;
            assert_eq!(value.to_bits(), expected.to_bits(), "{name} {expert} {row} {column}");
        }
        assert!(checkpoint.get(&scale).is_none());
    }
}

#[test]
fn blocks_of_experts_are_mxfp4_as_they_lie() {
    let (experts, rows, groups) = (2, 6, 3);
    let codes = noise(experts * rows * groups * 16, 256);
    let scales: Vec<u8> = noise(experts * rows * groups, 9).iter().map(|byte| byte + 120).collect();
    let mut checkpoint = opened(
        &json!({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}),
        &[
            ("mlp.experts.down_proj_blocks", "U8", &[experts, rows, groups, 16], &codes),
            ("mlp.experts.down_proj_scales", "U8", &[experts, rows, groups], &scales),
        ],
    );
    let tensor = checkpoint.get("mlp.experts.down_proj.weight").unwrap();
    assert_eq!((tensor.dtype, tensor.shape), (Dtype::U32, &[experts, rows, groups * 4][..]));
    assert_eq!(tensor.incoming.unwrap().quant, Some(Mode::Mxfp4.default_quant()));
    assert!(*tensor.bytes() == *codes, "the bytes stay where they are");
    let names = Quantized {
        packed: "mlp.experts.down_proj.weight",
        scales: "mlp.experts.down_proj.scales",
        biases: "mlp.experts.down_proj.biases",
    };
    checkpoint.decode(names, Mode::Mxfp4.default_quant()).unwrap();
    let found = values(&checkpoint, names.packed);
    assert_eq!(found.len(), codes.len() * 2);
    for (place, value) in found.iter().enumerate() {
        let byte = codes[place / 2];
        let code = if place % 2 == 0 { byte & 15 } else { byte >> 4 };
        let scale = f32::from(scales[place / 32]) - 127.0;
        assert_eq!(*value, E2M1[usize::from(code)] * scale.exp2(), "{place}");
    }
}

#[test]
fn parts_of_made_tensors_are_those_of_the_whole() {
    let forms = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden/forms");
    let mut made = 0;
    for folder in fs::read_dir(forms).unwrap() {
        let folder = folder.unwrap().path();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        checkpoint.verify().unwrap();
        for (name, tensor) in checkpoint.iter().filter(|(name, _)| name.contains("proj")) {
            let whole = tensor.bytes();
            assert_eq!(whole.len(), tensor.byte_len(), "{name}");
            for step in [997, 4096] {
                let starts = (0..whole.len()).step_by(step);
                let parts = starts.map(|start| tensor.slice(start, (start + step).min(whole.len())));
                assert!(parts.collect::<Vec<_>>().concat() == *whole, "{} {name} {step}", folder.display());
            }
            made += 1;
        }
    }
    assert!(made > 200, "{made}");
}
