//! Damaged layers of every form: one error each, which names the tensor.

use std::fs;
use std::path::Path;

use crate::common::{RawCheckpoint, copy_folder, fixtures, json_file, make, stderr};

/// Layer that is damaged.
const LAYER: &str = "model.layers.0.mlp.down_proj";

type RawTensor = (String, String, Vec<usize>, Vec<u8>);

/// Damages a copy of a form and returns what `convert` says about it.
fn refused(form: &str, damage: impl Fn(&mut RawCheckpoint)) -> String {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    copy_folder(&fixtures().join("golden/forms").join(form), &folder);
    let file = folder.join("model.safetensors");
    let mut raw = RawCheckpoint::read(&file);
    damage(&mut raw);
    raw.write(&file);
    let output = make("convert", &folder, &home.path().join("out"), &[]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{form}: {said}");
    assert!(!home.path().join("out").exists(), "{form}");
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    said
}

/// Takes away the last row of a tensor, or a byte of one without rows.
fn truncate(tensor: &mut RawTensor) {
    let (_, _, shape, data) = tensor;
    let rows = shape[0];
    data.truncate(data.len() / rows * (rows - 1));
    shape[0] = rows - 1;
}

#[test]
fn truncated_tensors_are_errors() {
    for (form, part) in [
        ("fp8-blocks", "weight_scale_inv"),
        ("fp8-blocks-of-powers", "weight_scale_inv"),
        ("fp8-rows", "weight_scale"),
        ("fp8-fbgemm", "weight_scale"),
        ("packed", "weight_packed"),
        ("packed", "weight_scale"),
        ("packed", "weight_shape"),
        ("packed-asymmetric", "weight_zero_point"),
        ("packed-three-bits", "weight_packed"),
        ("packed-three-bits", "weight_zero_point"),
        ("packed-seven-bits", "weight_scale"),
        ("packed-whole-words", "weight_zero_point"),
        ("packed-eight-bits", "weight_packed"),
        ("packed-act-order", "weight_g_idx"),
        ("int8-rows", "weight_scale"),
        ("mxfp4", "weight_packed"),
        ("mxfp4", "weight_scale"),
        ("nvfp4-compressed", "weight_packed"),
        ("nvfp4-modelopt", "weight_scale"),
        ("gptq", "qweight"),
        ("gptq", "qzeros"),
        ("gptq", "scales"),
        ("gptq-three-bits", "qweight"),
        ("gptq-asymmetric", "qzeros"),
        ("gptq-act-order", "g_idx"),
        ("auto-round", "qzeros"),
        ("auto-round-mixed", "qweight"),
        ("awq", "qweight"),
        ("awq", "qzeros"),
        ("awq", "scales"),
        ("bitsandbytes-int8", "SCB"),
        ("bitsandbytes-nf4", "weight"),
        ("bitsandbytes-nf4", "weight.absmax"),
        ("bitsandbytes-nf4", "weight.nested_quant_map"),
        ("bitsandbytes-fp4", "weight.quant_map"),
    ] {
        let said = refused(form, |raw| truncate(raw.get_mut(&format!("{LAYER}.{part}"))));
        assert!(said.contains(LAYER), "{form} {part}: {said}");
    }
}

#[test]
fn missing_tensors_are_errors() {
    for (form, part) in [
        ("fp8-blocks", "weight_scale_inv"),
        ("fp8-rows", "weight_scale"),
        ("fp8-tensor", "weight_scale_inv"),
        ("fp8-modelopt", "weight_scale"),
        ("packed", "weight_shape"),
        ("packed-asymmetric", "weight_zero_point"),
        ("packed-three-bits", "weight_scale"),
        ("int8-rows", "weight_scale"),
        ("mxfp4", "weight_scale"),
        ("nvfp4-compressed", "weight_global_scale"),
        ("nvfp4-modelopt", "weight_scale_2"),
        ("nvfp4-modelopt", "weight"),
        ("gptq", "qzeros"),
        ("awq", "scales"),
        ("bitsandbytes-int8", "weight"),
        ("bitsandbytes-nf4", "weight.absmax"),
        ("bitsandbytes-nf4", "weight.quant_map"),
    ] {
        let said = refused(form, |raw| raw.remove(&format!("{LAYER}.{part}")));
        assert!(said.contains(&format!("{LAYER}.{part}")), "{form} {part}: {said}");
    }
}

/// Replaces every number.
fn fill(tensor: &mut RawTensor, number: &[u8]) {
    tensor.3.chunks_mut(number.len()).for_each(|bytes| bytes.copy_from_slice(&number[..bytes.len()]));
}

#[test]
fn scales_that_are_no_numbers_or_all_zero_are_errors() {
    const NAN_F32: &[u8] = &f32::NAN.to_le_bytes();
    const NAN_16: &[u8] = &[0xff, 0x7f];
    for (form, part, nan, zero) in [
        ("fp8-blocks", "weight_scale_inv", NAN_F32, &[0; 4][..]),
        ("fp8-rows", "weight_scale", NAN_16, &[0; 2]),
        ("fp8-tensor", "weight_scale_inv", NAN_16, &[0; 2]),
        ("fp8-fbgemm", "weight_scale", NAN_F32, &[0; 4]),
        ("fp8-modelopt", "weight_scale", NAN_F32, &[0; 4]),
        ("packed", "weight_scale", NAN_16, &[0; 2]),
        ("packed-act-order", "weight_scale", NAN_16, &[0; 2]),
        ("packed-eight-bits", "weight_scale", NAN_16, &[0; 2]),
        ("packed-seven-bits", "weight_scale", NAN_16, &[0; 2]),
        ("int8-rows", "weight_scale", NAN_16, &[0; 2]),
        ("nvfp4-compressed", "weight_global_scale", NAN_F32, &[0; 4]),
        ("nvfp4-compressed", "weight_scale", &[0x7f], &[0]),
        ("nvfp4-modelopt", "weight_scale", &[0x7f], &[0]),
        ("nvfp4-modelopt", "weight_scale_2", NAN_F32, &[0; 4]),
        ("gptq", "scales", NAN_16, &[0; 2]),
        ("gptq-act-order", "scales", NAN_16, &[0; 2]),
        ("gptq-three-bits", "scales", NAN_16, &[0; 2]),
        ("auto-round-mixed", "scales", NAN_16, &[0; 2]),
        ("awq", "scales", NAN_16, &[0; 2]),
        ("bitsandbytes-int8", "SCB", NAN_F32, &[0; 4]),
        ("bitsandbytes-nf4", "weight.nested_absmax", NAN_F32, &[0; 4]),
        ("bitsandbytes-nf4", "weight.nested_quant_map", NAN_F32, &[0; 4]),
        ("bitsandbytes-nf4", "weight.quant_map", NAN_F32, &[0; 4]),
        ("bitsandbytes-fp4", "weight.absmax", NAN_F32, &[0; 4]),
    ] {
        for (number, what) in [(nan, "NaN"), (zero, "zero")] {
            let said = refused(form, |raw| fill(raw.get_mut(&format!("{LAYER}.{part}")), number));
            assert!(said.contains(what) && said.contains(LAYER), "{form} {part}: {said}");
        }
    }
    for (form, part) in [("mxfp4", "weight_scale"), ("fp8-blocks-of-powers", "weight")] {
        let said = refused(form, |raw| raw.get_mut(&format!("{LAYER}.{part}")).3[7] = 0xff);
        assert!(said.contains("NaN") && said.contains(&format!("{LAYER}.{part}")), "{form}: {said}");
    }
    let said = refused("mxfp4", |raw| raw.get_mut(&format!("{LAYER}.weight_scale")).3[7] = 253);
    assert!(said.contains("infinite") && said.contains(&format!("{LAYER}.weight_scale")), "{said}");
}

#[test]
fn sizes_and_groups_that_do_not_exist_are_errors() {
    type Damage = fn(&mut RawTensor);
    let json = |text: &'static str| {
        move |tensor: &mut RawTensor| {
            tensor.3 = text.as_bytes().to_vec();
            tensor.2 = vec![text.len()];
        }
    };
    let damages: [(&str, &str, Damage); 3] = [
        ("packed", "weight_shape", |tensor| fill(tensor, &i64::MAX.to_le_bytes())),
        ("packed", "weight_shape", |tensor| fill(tensor, &(-1i64).to_le_bytes())),
        ("gptq-act-order", "g_idx", |tensor| tensor.3[3] = 0x40),
    ];
    for (form, part, damage) in damages {
        let said = refused(form, |raw| damage(raw.get_mut(&format!("{LAYER}.{part}"))));
        assert!(said.contains(&format!("{LAYER}.{part}")), "{form} {part}: {said}");
    }
    for text in [
        "{",
        "{\"blocksize\": 64}",
        "{\"blocksize\": 0, \"shape\": [64, 160]}",
        "{\"blocksize\": 64, \"shape\": [9223372036854775807, 9223372036854775807]}",
        "{\"blocksize\": 64, \"shape\": [64, 161]}",
        "{\"blocksize\": 18446744073709551615, \"shape\": [64, 160]}",
        "{\"blocksize\": 64, \"shape\": [64, 160], \"nested_offset\": \"x\"}",
    ] {
        let state = format!("{LAYER}.weight.quant_state.bitsandbytes__fp4");
        let said = refused("bitsandbytes-fp4", |raw| json(text)(raw.get_mut(&state)));
        assert!(said.contains(&format!("{LAYER}.weight")), "{text}: {said}");
    }
}

#[test]
fn types_that_a_form_does_not_have_are_errors() {
    for (form, part, dtype) in [
        ("packed", "weight_packed", "F32"),
        ("packed-asymmetric", "weight_zero_point", "F32"),
        ("bitsandbytes-int8", "SCB", "I32"),
        ("gptq", "qweight", "F32"),
        ("awq", "qzeros", "F32"),
        ("mxfp4", "weight_packed", "I8"),
        ("nvfp4-compressed", "weight_scale", "U8"),
        ("bitsandbytes-nf4", "weight", "I8"),
        ("fp8-blocks", "weight_scale_inv", "I32"),
    ] {
        let name = format!("{LAYER}.{part}");
        let said = refused(form, |raw| dtype.clone_into(&mut raw.get_mut(&name).1));
        assert!(said.contains(&name) && said.contains("expected"), "{form} {part}: {said}");
    }
}

#[test]
fn a_float_weight_beside_a_packed_one_is_an_error() {
    let said = refused("gptq", |raw| {
        raw.tensors.push((format!("{LAYER}.weight"), "F16".to_owned(), vec![64, 160], vec![0; 64 * 160 * 2]));
    });
    assert!(said.contains(&format!("{LAYER}.weight")), "{said}");
}

#[test]
fn layers_outside_of_all_targets_are_errors() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    copy_folder(&fixtures().join("golden/forms/packed"), &folder);
    let config: &Path = &folder.join("config.json");
    let text = fs::read_to_string(config).unwrap().replace("\"Linear\"", "\"re:.*(attn|gate|up).*\"");
    fs::write(config, text).unwrap();
    let output = make("convert", &folder, &home.path().join("out"), &[]);
    let said = stderr(&output);
    assert!(said.contains(LAYER) && said.contains("targets"), "{said}");
}

#[test]
fn groups_beyond_all_sizes_are_errors() {
    let home = tempfile::tempdir().unwrap();
    for (form, pointer) in [
        ("packed", "/config_groups/group_0/weights/group_size"),
        ("gptq", "/group_size"),
        ("gptq-act-order", "/group_size"),
        ("awq", "/group_size"),
        ("fp8-blocks", "/weight_block_size/0"),
        ("fp8-blocks", "/weight_block_size/1"),
    ] {
        for size in [u64::MAX, 1 << 63, i64::MAX as u64, 1 << 40] {
            let folder = home.path().join(format!("{form}-{size}-{}", pointer.len()));
            copy_folder(&fixtures().join("golden/forms").join(form), &folder);
            let config = folder.join("config.json");
            let mut keys = json_file(&config);
            *keys["quantization_config"].pointer_mut(pointer).unwrap() = size.into();
            fs::write(config, keys.to_string()).unwrap();
            let output = make("convert", &folder, &home.path().join("out"), &[]);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{form} {size}: {said}");
            assert_eq!(said.matches("error: ").count(), 1, "{form} {size}: {said}");
        }
    }
}
