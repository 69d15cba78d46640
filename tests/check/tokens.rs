//! The tokenizer, the tokens that end a text, and the chat template.

use std::fs;

use serde_json::{Value, json};

use crate::chained::{DamagedModel, findings};

#[test]
fn vocabularies_and_the_ends_of_texts() {
    let extra = |config: &mut Value| config["extra_special_tokens"] = json!(["<x>"]);
    DamagedModel::new().json("tokenizer_config.json", extra).finds(
        "problem",
        "vocabulary",
        "ids up to 1024 have no row",
    );
    DamagedModel::new().config("vocab_size", json!(2048)).finds("ok", "vocabulary", "1024 rows");
    DamagedModel::new().config("bos_token_id", json!(3)).finds("note", "bos", "config.json names 3");
    DamagedModel::new().json("generation_config.json", |config| config["bos_token_id"] = json!(3)).finds(
        "note",
        "bos",
        "generation_config.json 3",
    );
    DamagedModel::new().config("pad_token_id", json!(9000)).finds("note", "pad", "config.json names 9000");
    DamagedModel::new()
        .json("tokenizer.json", |tokenizer| {
            let bos = tokenizer["post_processor"]["single"][0].clone();
            tokenizer["post_processor"]["single"].as_array_mut().unwrap().insert(0, bos);
        })
        .finds("problem", "bos", "2 times");
    let no_eos = |name| {
        move |damaged: DamagedModel| {
            damaged.json(name, |v| drop(v.as_object_mut().unwrap().remove("eos_token_id")))
        }
    };
    let damaged = no_eos("generation_config.json")(no_eos("config.json")(DamagedModel::new()));
    damaged
        .finds("ok", "eos", "4 `<|eot_id|>`")
        .json("tokenizer_config.json", |config| config["eos_token"] = Value::Null)
        .finds("problem", "eos", "no token ends a text");
    let eos = |ids: Value| {
        DamagedModel::new()
            .config("eos_token_id", ids.clone())
            .json("generation_config.json", |config| config["eos_token_id"] = ids)
    };
    eos(json!([1, 2, 4])).finds("problem", "eos", "2 `<|start_header_id|>` begins a turn");
    eos(json!([1, 4, 5000])).finds("problem", "eos", "ids that are no tokens: [5000]");
    eos(json!(-1)).finds("problem", "eos", "expected a token id");
    let template = "ends an answer with 4 `<|eot_id|>`, which does not end generation";
    let one = eos(json!(1));
    let one = one
        .finds(
            "ok",
            "eos",
            "1 `<|end_of_text|>` (config.json, generation_config.json), 4 `<|eot_id|>` (the tokenizer)",
        )
        .finds(
            "note",
            "eos",
            "eos_token, 4 `<|eot_id|>`, is not among those of the configs: mixbit and mlx-lm stop",
        );
    one.json("tokenizer_config.json", |config| config["eos_token"] = Value::Null)
        .finds("note", "template", template);
    DamagedModel::new().config("eos_token_id", json!(1)).finds(
        "note",
        "eos",
        "config.json says [1], generation_config.json [1, 4]",
    );
}

#[test]
fn a_tokenizer_of_another_model() {
    // The text of every token but the special ones, whose ids are as they were, up to `most`.
    let cut = |most: u64| {
        move |tokenizer: &mut Value| {
            let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
            vocabulary.retain(|_, id| id.as_u64().unwrap() < most);
            tokenizer["model"]["merges"] = json!([]);
        }
    };
    let smaller = |most| DamagedModel::new().json("tokenizer.json", cut(most));
    smaller(1000).finds("ok", "vocabulary", "the embedding 1024 rows");
    smaller(700).finds("note", "vocabulary", "324 rows without a token, more than padding");
    let ordinary = |name: &'static str| {
        move |damaged: DamagedModel| damaged.json(name, |value| value["eos_token_id"] = json!([300]))
    };
    ordinary("config.json")(ordinary("generation_config.json")(DamagedModel::new()))
        .finds(
            "problem",
            "eos",
            "4 `<|eot_id|>`, is not among those of the configs, and ordinary text is: 300",
        )
        .finds("ok", "vocabulary", "the embedding 1024 rows");
    ordinary("config.json")(DamagedModel::new()).finds("problem", "eos", "ordinary text ends an answer: 300");
    // What may be and something that does not fit are more than either.
    ordinary("config.json")(smaller(700)).finds("problem", "vocabulary", "324 rows without a token");
    smaller(700).template(|t| t.replace("<|start_header_id|>", "<|im_start|>")).finds(
        "problem",
        "vocabulary",
        "324 rows without a token",
    );
    DamagedModel::new().template(|t| t.replace("<|start_header_id|>", "<|im_start|>")).finds(
        "note",
        "template",
        "writes `<|im_start|>`, which the tokenizer takes for ordinary text",
    );
    smaller(1000).config("bos_token_id", json!(1010)).finds(
        "problem",
        "bos",
        "config.json names 1010, which is no token",
    );
}

#[test]
fn files_of_two_tokenizers() {
    let named = |key: &'static str| {
        let damaged = DamagedModel::new().json("tokenizer.json", |tokenizer| {
            let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
            vocabulary.retain(|_, id| id.as_u64().unwrap() < 1000);
            tokenizer["model"]["merges"] = json!([]);
        });
        damaged.json("tokenizer_config.json", |config| config[key] = json!("<|other|>"))
    };
    named("bos_token").finds(
        "problem",
        "bos",
        "`<|other|>`, which tokenizer.json lacks, config.json names 0",
    );
    named("eos_token").finds(
        "problem",
        "eos",
        "`<|other|>`, is not among those of the configs, and tokenizer.json lacks it",
    );
    let declared = |id: &str| {
        DamagedModel::new().json("tokenizer_config.json", |config| {
            config["added_tokens_decoder"] =
                json!({"0": {"content": "<|begin_of_text|>", "special": true}, id: {"content": "<|eot_id|>", "special": true}});
        })
    };
    declared("9").finds(
        "problem",
        "tokenizer",
        "tokenizer_config.json says that `<|eot_id|>` is 9, by the vocabulary it is 4",
    );
    let (code, _) = findings(&declared("4").path(), None);
    assert_eq!(code, 0);
}

#[test]
fn templates() {
    DamagedModel::new().finds("note", "template", "the tokenizer adds it too");
    DamagedModel::new()
        .json("tokenizer_config.json", |config| drop(config.as_object_mut().unwrap().remove("bos_token")))
        .template(|template| template.replacen("{{- bos_token }}", "<|begin_of_text|>", 1))
        .finds("note", "template", "the tokenizer adds it too");
    DamagedModel::new()
        .template(|t| t.replacen("{{- bos_token }}", "{{- bos_token }}{{- bos_token }}", 1))
        .finds("problem", "template", "writes BOS (0 `<|begin_of_text|>`) 2 times");
    DamagedModel::new().template(|t| t.replacen("{{- bos_token }}", "", 1)).finds(
        "note",
        "template",
        "renders without BOS",
    );
    DamagedModel::new().template(|t| t + "{% if").finds("problem", "template", "is not closed with `%}`");
    DamagedModel::new().template(|t| t.replace("message['content'] | trim", "''")).finds(
        "problem",
        "template",
        "leaves out what the user says",
    );
    // Whatever the token is called, it comes before an answer.
    DamagedModel::new()
        .template(|t| t.replace("<|start_header_id|>assistant", "<|end_of_text|>assistant"))
        .finds("problem", "eos", "1 `<|end_of_text|>` begins a turn");
    let damaged = DamagedModel::new();
    fs::remove_file(damaged.file("chat_template.jinja")).unwrap();
    damaged.finds("ok", "template", "none");
}

#[test]
fn further_templates_are_tried() {
    let named = |name: &str, source: &str| {
        let damaged = DamagedModel::new();
        fs::create_dir(damaged.file("additional_chat_templates")).unwrap();
        damaged.text(&format!("additional_chat_templates/{name}.jinja"), source)
    };
    let with_tools = "{{ tools[0].function.name }}{{ messages[0].content }}";
    named("tool_use", with_tools).finds("ok", "template", "`tool_use` renders too");
    named("tool_use", "{% if").finds("problem", "template", "is not closed with `%}`");
    named("rag", "{{ raise_exception('no documents') }}").finds(
        "note",
        "template",
        "`rag` takes no plain question",
    );
    named("rag", "documents").finds("note", "template", "`rag` leaves out what the user says");
    // The one in use.
    named("default", "{{ raise_exception('no') }}").finds("problem", "template", "default.jinja");
    DamagedModel::new().template(|t| format!("\u{feff}{t}")).finds("note", "template", "byte-order mark");
}

#[test]
fn templates_without_a_tokenizer() {
    let without = |damaged: DamagedModel| {
        fs::remove_file(damaged.file("tokenizer.json")).unwrap();
        damaged.finds("problem", "tokenizer", "no tokenizer.json")
    };
    without(DamagedModel::new()).finds("ok", "template", "renders; without a tokenizer");
    let broken = without(DamagedModel::new().template(|t| t + "{% if"));
    broken.finds("problem", "template", "is not closed with `%}`");
    let silent = without(DamagedModel::new().template(|t| t.replace("message['content'] | trim", "''")));
    silent.finds("problem", "template", "leaves out what the user says");
    // Said once, where it keeps the tokenizer from being read.
    let damaged =
        DamagedModel::new().json("tokenizer_config.json", |config| config["chat_template"] = json!(3));
    fs::remove_file(damaged.file("chat_template.jinja")).unwrap();
    let (_, findings) = findings(&damaged.path(), None);
    let said = findings.iter().filter(|f| f["message"].as_str().unwrap().contains("`chat_template`"));
    assert_eq!(said.count(), 1, "{findings:#?}");
}
