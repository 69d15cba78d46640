//! Configs as people's tools write them: keys that are absent, there twice or spelled in their own way.
#![allow(missing_docs, clippy::unwrap_used, clippy::float_cmp)]

mod common;

use common::{
    RawCheckpoint, bundled, copy_folder, fixtures, json_file, make, mixbit, stderr, stdout, succeeded,
};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use mixbit::models::source::SourceModel;
use mixbit::models::spec::{AttentionSpan, RopeScaling};

/// A copy of a model whose JSON files are changed.
struct Variant {
    home: TempDir,
}

impl Variant {
    fn of(model: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        copy_folder(model, &home.path().join("model"));
        Self { home }
    }

    fn golden(case: &str) -> Self {
        Self::of(&fixtures().join("golden").join(case))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join("model").join(name)
    }

    fn config(self, change: impl FnOnce(&mut Map<String, Value>)) -> Self {
        let mut config = json_file(&self.file("config.json"));
        change(config.as_object_mut().unwrap());
        fs::write(self.file("config.json"), config.to_string()).unwrap();
        self
    }

    fn quantization(self, change: impl FnOnce(&mut Map<String, Value>)) -> Self {
        self.config(|config| {
            change(config["quantization"].as_object_mut().unwrap());
            config["quantization_config"] = config["quantization"].clone();
        })
    }

    fn source(&self) -> SourceModel {
        SourceModel::open(&self.file("")).unwrap()
    }

    #[track_caller]
    fn refusal(&self) -> String {
        let error = SourceModel::open(&self.file("")).unwrap_err();
        format!("{error}; {}", error.hint_text().unwrap_or_default())
    }

    /// Converts; returns the output's folder and the messages of `convert`.
    #[track_caller]
    fn converted(&self) -> (PathBuf, String) {
        let out = self.home.path().join("out");
        let output = make("convert", &self.file(""), &out, &[]);
        succeeded(&output);
        (out, stderr(&output))
    }
}

fn notes(source: &SourceModel) -> String {
    source.spec().notes.join("\n")
}

#[test]
fn numbers_of_python_survive_convert() {
    let variant = Variant::of(&bundled());
    let add = |name: &str, keys: &str| {
        let text = fs::read_to_string(variant.file(name)).unwrap();
        fs::write(variant.file(name), format!("\u{feff}{}", text.replacen('{', &format!("{{{keys},"), 1)))
            .unwrap();
    };
    add("config.json", r#""limits": [0.0, Infinity, NaN], "low": -Infinity, "long": 123456789012345678901"#);
    add("tokenizer_config.json", r#""model_max_length": Infinity"#);
    add("generation_config.json", r#""typical_p": NaN"#);
    let (out, _) = variant.converted();
    let text = fs::read_to_string(out.join("config.json")).unwrap();
    for part in ["Infinity,\n    NaN\n", "\"low\": -Infinity,", "123456789012345678901,"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for name in ["config.json", "tokenizer_config.json", "generation_config.json"] {
        assert_eq!(fs::read(out.join(name)).unwrap()[0], b'{', "{name}");
    }
    SourceModel::open(&out).unwrap();
}

#[test]
fn absent_keys_take_the_class_default() {
    let variant = Variant::golden("mixtral-untied").config(|config| drop(config.remove("rms_norm_eps")));
    let source = variant.source();
    assert_eq!(source.spec().head.norm.eps, 1e-5);
    assert!(notes(&source).contains("leaves out rms_norm_eps"), "{}", notes(&source));
    let (out, said) = variant.converted();
    assert!(said.contains("leaves out rms_norm_eps"), "{said}");
    assert_eq!(json_file(&out.join("config.json"))["rms_norm_eps"], json!(1e-5));
    let silent = SourceModel::open(&out).unwrap();
    assert_eq!(notes(&silent), "");
}

#[test]
fn an_absent_window_is_not_a_window_of_null() {
    let window = |variant: Variant| variant.source().spec().blocks[0].attention.part.span;
    let golden = || Variant::golden("mistral-untied-float16");
    let absent = golden().config(|config| drop(config.remove("sliding_window")));
    assert!(notes(&absent.source()).contains("sliding_window (4096)"));
    assert_eq!(window(absent), AttentionSpan::Sliding(4096));
    assert_eq!(
        window(golden().config(|c| drop(c.insert("sliding_window".into(), Value::Null)))),
        AttentionSpan::Full
    );
}

#[test]
fn wrong_defaults_fail_on_the_shapes() {
    let variant =
        Variant::golden("mixtral-untied").config(|config| drop(config.remove("num_key_value_heads")));
    let refusal = variant.config(|config| config["num_attention_heads"] = json!(8)).refusal();
    assert!(refusal.contains("k_proj.weight") && refusal.contains("expected [32, 32]"), "{refusal}");
    assert!(refusal.contains("leaves out num_key_value_heads (8)"), "{refusal}");
}

#[test]
fn rope_scaling_counts_before_rope_parameters() {
    let variant = Variant::golden("llama-mha-untied").config(|config| {
        config.insert("rope_scaling".into(), json!({"type": "linear", "factor": 2}));
        config.insert("rope_parameters".into(), json!({"rope_type": "default", "rope_theta": 500_000.0}));
        config.remove("rope_theta");
    });
    let source = variant.source();
    assert_eq!(source.spec().ropes[0].scaling, RopeScaling::Linear { factor: 2.0 });
    assert_eq!(source.spec().ropes[0].theta, 10_000.0);
    assert!(notes(&source).contains("rope_scaling is taken with base 10000"), "{}", notes(&source));
    let (out, _) = variant.converted();
    let config = json_file(&out.join("config.json"));
    assert_eq!(
        (&config["rope_theta"], &config["rope_scaling"]["type"]),
        (&json!(10_000.0), &json!("linear"))
    );
    let again = SourceModel::open(&out).unwrap();
    assert_eq!((&again.spec().ropes, notes(&again)), (&source.spec().ropes, String::new()));
}

#[test]
fn messages_write_numbers_as_python_does() {
    for (key, found) in
        [("rms_norm_eps", "NaN"), ("hidden_size", "Infinity"), ("no_rope_layers", "[-Infinity]")]
    {
        let variant = Variant::of(&bundled());
        let text = fs::read_to_string(variant.file("config.json")).unwrap();
        let mut keys: Map<String, Value> = serde_json::from_str(&text).unwrap();
        keys.remove(key);
        let text = Value::from(keys).to_string().replacen('{', &format!("{{\"{key}\": {found},"), 1);
        fs::write(variant.file("config.json"), text).unwrap();
        let refusal = variant.refusal();
        assert!(refusal.contains(&format!("key `{key}`: expected")), "{refusal}");
        assert!(refusal.contains(&format!(", found {found}")), "{refusal}");
    }
}

#[test]
fn equal_numbers_are_equal() {
    let variant = Variant::golden("llama-mha-untied").config(|config| {
        config.insert("partial_rotary_factor".into(), json!(1));
        config["hidden_size"] = json!(64.0);
        config["num_key_value_heads"] = json!(4.0);
        config.insert("head_dim".into(), json!(16.0));
    });
    let (out, _) = variant.converted();
    let text = fs::read_to_string(out.join("config.json")).unwrap();
    assert!(text.contains("\"hidden_size\": 64,") && text.contains("\"num_key_value_heads\": 4,"), "{text}");
    assert!(text.contains("\"head_dim\": 16,"), "{text}");
}

#[test]
fn experts_are_counted_under_either_name() {
    for (case, own, other) in [
        ("qwen3-moe-untied", "num_experts", "num_local_experts"),
        ("mixtral-untied", "num_local_experts", "num_experts"),
        ("mellum-full-tied", "num_experts", "num_local_experts"),
    ] {
        let variant = Variant::golden(case).config(|config| {
            let count = config.remove(own).unwrap();
            config.insert(other.into(), count);
        });
        let (out, _) = variant.converted();
        assert_eq!(json_file(&out.join("config.json"))[own], json!(8), "{case}");
        let refusal = variant.config(|config| drop(config.insert(own.into(), json!(4)))).refusal();
        assert!(refusal.contains("another name for it, is 8"), "{refusal}");
    }
}

/// Returns the bundled model with three settings.
fn mixed() -> Variant {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("model");
    let layers = ["--layer", "*.v_proj=6:32", "--layer", "*.down_proj=8:64"];
    let output = make("quantize", &bundled(), &out, &[&["--bits", "4"][..], &layers].concat());
    succeeded(&output);
    fs::remove_file(out.join("mixbit-report.json")).unwrap();
    Variant { home }
}

#[test]
fn shapes_decide_where_the_bit_map_is_silent() {
    let bits = mixed().source().bitmap().clone();
    for default in [json!({"bits": 4, "group_size": 64}), json!({"bits": 8.0, "group_size": 32.0})] {
        let variant = mixed().quantization(|map| *map = default.as_object().unwrap().clone());
        let source = variant.source();
        assert_eq!(source.bitmap(), &bits);
        let said = notes(&source);
        assert!(said.contains("shapes say") && said.contains("4 x 6:32"), "{said}");
        let output = mixbit(["check".as_ref(), variant.file("").as_os_str()]);
        let found = stdout(&output) + &stderr(&output);
        assert!(output.status.success() && found.contains("only their shapes tell"), "{found}");
    }
}

#[test]
fn foreign_entries_and_notes_are_left_out() {
    let bits = mixed().source().bitmap().clone();
    let variant = mixed().quantization(|map| {
        map.insert("audio_tower.layers.0.fc1".into(), json!({"bits": 8, "group_size": 64}));
        map.insert("audio_tower.layers.1.fc1".into(), json!({"bits": 16, "mode": "dense"}));
        map.insert("quant_method".into(), json!("mlx"));
        map.insert("calibration".into(), json!({"samples": 16}));
        map.insert("desc_act".into(), json!(true));
        map.insert("sym".into(), json!(false));
    });
    let source = variant.source();
    assert_eq!(source.bitmap(), &bits);
    let said = notes(&source);
    assert!(
        said.contains("lists 2 layers beside the decoder, `audio_tower.layers.0.fc1` first: not read"),
        "{said}"
    );
    let model = variant.file("");
    let output = mixbit(["run", "--model", model.to_str().unwrap(), "--prompt-tokens", "1,2", "-m", "1"]);
    assert!(stderr(&output).contains("lists 2 layers beside the decoder"), "{}", stderr(&output));
}

#[test]
fn a_bit_map_names_only_layers_that_there_are() {
    let entry = json!({"bits": 3, "group_size": 64});
    let refusal = |paths: &[&str]| {
        let variant = mixed().quantization(|map| {
            map.extend(paths.iter().map(|path| ((*path).to_owned(), entry.clone())));
        });
        let out = variant.home.path().join("out");
        let output = make("convert", &variant.file(""), &out, &[]);
        assert_eq!(output.status.code(), Some(1), "{paths:?}");
        assert!(!out.exists());
        let checked = mixbit(["check".as_ref(), variant.file("").as_os_str()]);
        assert!(!checked.status.success() && stdout(&checked).contains("that this model lacks"));
        stderr(&output)
    };
    let said =
        refusal(&["layers.0.feed_forward.up_proj", "model.layers.9.feed_forward.up_proj", "x.y", "x.z"]);
    for part in [
        "config.json: key `quantization`: names 4 layers that this model lacks: `layers.0.feed_forward.up_proj`",
        "`x.y` and 1 more",
        "called like `model.layers.0.",
        "did you mean `model.layers.0.feed_forward.up_proj` by `layers.0.feed_forward.up_proj`?",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!refusal(&["model.layers.9.feed_forward.up_proj"]).contains("did you mean"));
}

#[test]
fn a_bit_map_has_the_defaults_that_mlx_lm_reads() {
    for key in ["bits", "group_size"] {
        let refusal = mixed().quantization(|map| drop(map.remove(key))).refusal();
        assert!(refusal.contains(&format!("config.json: key `quantization.{key}`: missing")), "{refusal}");
        assert_eq!(mixed().quantization(|map| map[key] = Value::Null).source().bitmap().len(), 28, "{key}");
    }
}

#[test]
fn entries_that_contradict_tensors_are_refused() {
    let path = "model.layers.0.self_attn.v_proj";
    let refusal = mixed().quantization(|map| map[path]["bits"] = json!(4)).refusal();
    assert!(refusal.contains(&format!("`{path}.weight`: shape")), "{refusal}");
    let refusal = mixed().quantization(|map| map[path] = Value::Null).refusal();
    assert!(refusal.contains("config.json says this layer is float"), "{refusal}");
    let variant = mixed().config(|config| config.retain(|key, _| !key.starts_with("quantization")));
    assert!(variant.refusal().contains("no `quantization` entry"));
}

#[test]
fn another_tools_method_is_named_first() {
    let variant = Variant::of(&bundled());
    let mut raw = RawCheckpoint::read(&variant.file("model.safetensors"));
    for tensor in raw.tensors.iter_mut().filter(|tensor| tensor.0.ends_with("proj.weight")) {
        tensor.3.truncate(tensor.3.len() / 4);
        tensor.1 = "F8_E4M3".to_owned();
    }
    raw.write(&variant.file("model.safetensors"));
    let method = json!({"quant_method": "hqq"});
    let variant = variant.config(|config| drop(config.insert("quantization_config".into(), method)));
    assert!(
        variant.refusal().contains("quantized by \"hqq\", whose form is not read"),
        "{}",
        variant.refusal()
    );
}

#[test]
fn a_missing_head_is_said_to_be_perhaps_tied() {
    let variant = Variant::of(&bundled()).config(|config| config["tie_word_embeddings"] = json!(false));
    let refusal = variant.refusal();
    assert!(
        refusal.contains("output.weight") && refusal.contains("\"tie_word_embeddings\": true"),
        "{refusal}"
    );
    for (case, key) in [("openelm-tied", "share_input_output_layers"), ("olmo-tied", "weight_tying")] {
        let refusal = Variant::golden(case).config(|config| config[key] = json!(false)).refusal();
        assert!(refusal.contains(&format!("set \"{key}\": true in config.json")), "{refusal}");
    }
}

#[test]
fn stop_tokens_outside_the_vocabulary_are_noted() {
    let variant = Variant::of(&bundled()).config(|config| config["eos_token_id"] = json!([1, 99_999]));
    let mut keys = json_file(&variant.file("generation_config.json"));
    keys["eos_token_id"] = json!(5000);
    fs::write(variant.file("generation_config.json"), keys.to_string()).unwrap();
    let model = variant.file("");
    let output = mixbit(["run", "--model", model.to_str().unwrap(), "--prompt-tokens", "1,2", "-m", "1"]);
    succeeded(&output);
    for said in [&stderr(&output), &variant.converted().1] {
        for (file, id) in [("config.json", 99_999), ("generation_config.json", 5000)] {
            let note = format!("{file}: key `eos_token_id`: {id} is outside the vocabulary of ");
            assert!(said.contains(&note), "{said}");
        }
    }
}

#[test]
fn written_configs_say_what_mlx_lm_reads() {
    for (case, key, expected) in [
        ("qwen2-untied-window-yarn", "tie_word_embeddings", json!(false)),
        ("smollm3-tied", "tie_word_embeddings", json!(true)),
        ("smollm3-untied-window", "no_rope_layers", json!([1, 0, 1])),
        (
            "smollm3-untied-window",
            "layer_types",
            json!(["full_attention", "sliding_attention", "full_attention"]),
        ),
        ("seed-oss-untied", "attention_bias", json!(true)),
        ("internlm3-biases-tied", "qkv_bias", json!(true)),
    ] {
        let variant = Variant::golden(case);
        let (out, _) = variant.converted();
        assert_eq!(json_file(&out.join("config.json"))[key], expected, "{case}");
    }
    let absent = Variant::golden("llama4-scout")
        .config(|config| drop(config["text_config"].as_object_mut().unwrap().remove("rope_scaling")));
    let written = json_file(&absent.converted().0.join("config.json"));
    assert_eq!(written["text_config"].get("rope_scaling"), Some(&Value::Null), "{written}");
    let variant = Variant::golden("telechat3-yarn");
    let (out, _) = variant.converted();
    assert_eq!(json_file(&out.join("config.json"))["rope_scaling"]["mscale"], json!(0.7));
    // mlx-lm would divide by a factor of its own.
    let variant = Variant::golden("telechat3-yarn").config(|config| {
        config["rope_scaling"]["mscale"] = json!(1.0);
        config["rope_scaling"]["mscale_all_dim"] = json!(1.0);
    });
    let (out, _) = variant.converted();
    let scaling = &json_file(&out.join("config.json"))["rope_scaling"];
    assert_eq!((&scaling["mscale"], &scaling["mscale_all_dim"]), (&json!(0.7), &json!(0)));
}

#[test]
fn biases_have_either_name_in_internlm3() {
    let variant = Variant::golden("internlm3-biases-tied").config(|config| {
        for (old, new) in [("qkv_bias", "attention_bias"), ("bias", "mlp_bias")] {
            let value = config.remove(old).unwrap();
            config.insert(new.into(), value);
        }
        config["rope_scaling"] = json!({"type": "linear", "factor": 2.5});
    });
    let (out, _) = variant.converted();
    let written = json_file(&out.join("config.json"));
    assert_eq!((&written["qkv_bias"], &written["bias"]), (&json!(true), &json!(true)));
    assert_eq!(written["rope_scaling"], json!({"rope_type": "linear", "factor": 2.5}));
    let refusal = variant.config(|config| drop(config.insert("bias".into(), json!(false)))).refusal();
    assert!(refusal.contains("another name for it, is false"), "{refusal}");
}

#[test]
fn biases_that_a_config_leaves_out_are_missed() {
    let refusal = Variant::golden("seed-oss-untied")
        .config(|config| drop(config.insert("attention_out_bias".into(), json!(true))))
        .refusal();
    assert!(refusal.contains("self_attn.o_proj.bias`: missing"), "{refusal}");
}

#[test]
fn layers_for_further_tokens_are_left_out_with_a_note() {
    let source = Variant::golden("mimo-mtp-layers").source();
    let said = notes(&source);
    assert!(said.contains("2 tensors left out") && said.contains("model.mtp_layers.0"), "{said}");
}
