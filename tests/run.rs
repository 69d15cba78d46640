//! `mixbit run` and `logits` as a user runs them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{bundled, mixbit, stderr, stdout, succeeded};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use mixbit::text::tokenizer::Tokenizer;

fn run(more: &[&str]) -> std::process::Output {
    let model = bundled();
    let mut arguments = vec!["run", "--model", model.to_str().unwrap()];
    arguments.extend(more);
    mixbit(arguments)
}

#[test]
fn greedy_is_deterministic_and_seeds_repeat() {
    let prompt = ["--prompt", "What is a trait?", "--max-tokens", "24", "--ignore-eos"];
    let with = |more: &[&str]| {
        let output = run(&[&prompt[..], more].concat());
        succeeded(&output);
        stdout(&output)
    };
    assert_eq!(with(&[]), with(&["--seed", "9"]));
    let sampled = ["--temperature", "1", "--top-p", "0.95"];
    assert_eq!(
        with(&[&sampled[..], &["--seed", "3"]].concat()),
        with(&[&sampled[..], &["--seed", "3"]].concat())
    );
    assert_ne!(
        with(&[&sampled[..], &["--seed", "3"]].concat()),
        with(&[&sampled[..], &["--seed", "4"]].concat())
    );
}

#[test]
fn bos_comes_once_with_and_without_the_template() {
    let tokenizer = Tokenizer::from_dir(&bundled()).unwrap();
    let bos = tokenizer.id_to_token(tokenizer.bos_token_id().unwrap()).unwrap();
    let more: [&[&str]; 4] =
        [&[], &["--disable-chat-template"], &["--system", "Be brief."], &["--system", ""]];
    for more in more {
        let output = run(&[&["--prompt", "Hi", "--max-tokens", "1", "--verbose"], more].concat());
        succeeded(&output);
        let text = stderr(&output);
        let line = text.lines().find(|line| line.starts_with("prompt text: ")).unwrap();
        assert_eq!(line.matches(&bos).count(), 1, "{line}");
        assert_eq!(line.contains("boxed"), more.is_empty(), "{line}");
        assert!(text.contains("stop tokens: 1 `<|end_of_text|>` (config.json, generation_config.json), 4 `<|eot_id|>` (config.json, generation_config.json, the tokenizer)"), "{text}");
    }
}

#[test]
fn the_prompt_may_come_from_stdin_or_as_tokens() {
    let model = bundled();
    let direct = run(&["--prompt", "What is a trait?", "--max-tokens", "8"]);
    for flag in ["--prompt", "--prompt-file"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mixbit"))
            .args(["run", "--model", model.to_str().unwrap(), flag, "-", "--max-tokens", "8"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all("\u{feff}What is a trait?\n".as_bytes()).unwrap();
        let piped = child.wait_with_output().unwrap();
        succeeded(&piped);
        assert_eq!(stdout(&piped), stdout(&direct), "{flag}");
    }
    let tokens = run(&["--prompt-tokens", "0,5,6", "--max-tokens", "4", "--ignore-eos"]);
    succeeded(&tokens);
    assert!(stderr(&tokens).contains("prompt: 3 tokens") && stderr(&tokens).contains("generation: 4 tokens"));
}

/// Returns the JSON object of a run, which must be all of its standard output.
fn answer_json(more: &[&str]) -> Value {
    let output = run(&[&["--json"], more].concat());
    succeeded(&output);
    serde_json::from_str(&stdout(&output)).unwrap()
}

const ASK: [&str; 5] = ["--prompt", "What is a trait?", "--ignore-eos", "--max-tokens", "24"];

#[test]
fn json_holds_all_and_the_tokens_are_the_text() {
    let plain = run(&ASK);
    let object = answer_json(&[&ASK[..], &["--logprobs", "3"]].concat());
    assert_eq!(format!("{}\n", object["text"].as_str().unwrap()), stdout(&plain));
    assert_eq!((&object["finish_reason"], &object["stopped_by"]), (&"length".into(), &Value::Null));
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let tokenizer = Tokenizer::from_dir(&bundled()).unwrap();
    assert_eq!(tokenizer.decode(&ids(&object["tokens"]), true).unwrap(), object["text"].as_str().unwrap());
    let prompt: Vec<String> = ids(&object["prompt_tokens"]).iter().map(ToString::to_string).collect();
    let again = answer_json(&["--prompt-tokens", &prompt.join(","), "--ignore-eos", "--max-tokens", "24"]);
    assert_eq!(again["tokens"], object["tokens"]);
    assert!(again.get("logprobs").is_none() && again.get("boxed").is_none());
    let logprobs = object["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), 24);
    for (entry, token) in logprobs.iter().zip(ids(&object["tokens"])) {
        // Greedy: the chosen token is the likeliest.
        assert_eq!((&entry["token"], &entry["top"][0]["token"]), (&token.into(), &token.into()));
        assert_eq!(entry["logprob"], entry["top"][0]["logprob"]);
        let top: Vec<f64> = (0..3).map(|i| entry["top"][i]["logprob"].as_f64().unwrap()).collect();
        assert!(
            top.is_sorted_by(|a, b| a >= b) && top.iter().map(|p| p.exp()).sum::<f64>() <= 1.0,
            "{top:?}"
        );
    }
    assert!(object["timings"]["generation_tokens_per_second"].as_f64().unwrap() > 0.0);
    let table = run(&[&ASK[..], &["--logprobs", "-q"]].concat());
    assert_eq!(stdout(&table).lines().count(), stdout(&plain).lines().count() + 24);
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let object = answer_json(&ASK);
    let text = object["text"].as_str().unwrap();
    // From the middle of a token to the middle of a later one.
    let stop = text.chars().skip(3).take(9).collect::<String>();
    let (before, _) = text.split_once(&stop).unwrap();
    let stopped = answer_json(&[&ASK[..], &["--stop", "never", "--stop", &stop]].concat());
    assert_eq!(stopped["text"], before);
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["stopped_by"]["string"], stop);
    assert_eq!(stdout(&run(&[&ASK[..], &["--stop", &stop]].concat())), format!("{before}\n"));
    // A special token by its name.
    let first = object["tokens"][0].to_string();
    let banned = format!("{first}=-inf,4=1000");
    let special = ["--logit-bias", &banned, "--stop", "<|eot_id|>", "--logprobs"];
    let special = answer_json(&[&ASK[..], &special].concat());
    assert_eq!((&special["text"], &special["stopped_by"]["token"]), (&"".into(), &4.into()));
    // The tokens are all that the model chose; the text leaves the last one out.
    assert_eq!((&special["tokens"], &special["logprobs"][0]["token"]), (&json!([4]), &4.into()));
}

#[test]
fn penalties_and_biases_change_what_comes() {
    let tokens = |more: &[&str]| -> Vec<u64> {
        let object = answer_json(&[&ASK[..], more].concat());
        object["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    };
    let distinct = |tokens: &[u64]| tokens.iter().collect::<std::collections::BTreeSet<_>>().len();
    let plain = tokens(&[]);
    assert!(distinct(&plain) < 24, "or this tests nothing");
    assert_eq!(distinct(&tokens(&["--presence-penalty", "100"])), 24);
    assert_eq!(distinct(&tokens(&["--frequency-penalty", "100"])), 24);
    assert!(distinct(&tokens(&["--repetition-penalty", "2"])) > distinct(&plain));
    assert_eq!(tokens(&["--repetition-penalty", "1", "--frequency-penalty", "0"]), plain);
    assert!(!tokens(&["--logit-bias", &format!("{}=-inf", plain[0])]).contains(&plain[0]));
    assert_eq!(tokens(&["--logit-bias", "7=500,9=-3"]), [7; 24]);
}

/// Makes the model say `\boxed{7}` and then something else: a bias for each character, less for later ones, and a
/// penalty that keeps it from coming twice.
fn with_box(more: &[&str]) -> std::process::Output {
    let tokenizer = Tokenizer::from_dir(&bundled()).unwrap();
    let ids = r"\boxed{7}".chars().map(|c| tokenizer.token_to_id(&c.to_string()).unwrap());
    let bias: Vec<String> = ids.enumerate().map(|(at, id)| format!("{id}={}", 9000 - 100 * at)).collect();
    let bias = bias.join(",");
    let arguments =
        ["--prompt-tokens", "0", "--ignore-eos", "--repetition-penalty", "100", "--logit-bias", &bias];
    run(&[&arguments, more].concat())
}

#[test]
fn boxes_end_answers_and_are_extracted() {
    let whole = with_box(&["--max-tokens", "9", "-q"]);
    assert_eq!(stdout(&whole), "\\boxed{7}\n");
    let stopped = with_box(&["--max-tokens", "15", "--stop-at-boxed", "--verbose"]);
    assert_eq!(stdout(&stopped), "\\boxed{7}\n");
    assert!(stderr(&stopped).contains("finished by the end of a box"), "{}", stderr(&stopped));
    let extracted = with_box(&["--max-tokens", "15", "--extract-boxed"]);
    succeeded(&extracted);
    assert_eq!(stdout(&extracted), "7\n");
    let none = with_box(&["--max-tokens", "8", "--extract-boxed"]);
    assert_eq!((none.status.code(), stdout(&none).as_str()), (Some(3), ""));
    let text = stderr(&none);
    assert!(text.contains("no \\boxed{} in the answer") && text.contains("raise --max-tokens"), "{text}");
    assert!(text.contains("the answer: \\boxed{7\n"), "what there is instead: {text}");
    for (tokens, code, expected) in [("9", 0, Value::from("7")), ("8", 3, Value::Null)] {
        let output = with_box(&["--max-tokens", tokens, "--extract-boxed", "--json"]);
        assert_eq!(output.status.code(), Some(code));
        let object: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(object.get("boxed"), Some(&expected));
    }
}

#[test]
fn only_the_final_answer_is_asked_for() {
    let output = run(&["--prompt", "Hi", "--final-only", "--max-tokens", "1", "--verbose"]);
    succeeded(&output);
    let text = stderr(&output);
    let line = text.lines().find(|line| line.starts_with("prompt text: ")).unwrap();
    assert!(line.contains("only the final answer") && !line.contains("step-by-step"), "{line}");
}

#[test]
fn the_prompt_may_come_from_a_file() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("prompt.txt");
    std::fs::write(&file, "What is a trait?\n").unwrap();
    let path = file.to_str().unwrap();
    let from_file = run(&["--prompt-file", path, "--max-tokens", "8"]);
    succeeded(&from_file);
    assert_eq!(stdout(&from_file), stdout(&run(&["--prompt", "What is a trait?", "--max-tokens", "8"])));
    std::fs::write(&file, [b'a', 0xFF]).unwrap();
    let output = run(&["--prompt-file", path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("prompt.txt") && stderr(&output).contains("UTF-8"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn templates_that_cannot_be_used_name_the_line() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    common::copy_folder(&bundled(), &model);
    for (template, expected) in [
        ("a\n{{ messages[0].content | nonsense }}", "chat template line 2: unknown filter: filter nonsense"),
        (
            "\n{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "chat template line 2: does not come to an end",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}\n{{ f() }}", "recursion"),
        ("{% if false %}x{% endif %}", "chat template: writes nothing"),
    ] {
        std::fs::write(model.join("chat_template.jinja"), template).unwrap();
        let output = mixbit(["run", "--model", model.to_str().unwrap(), "--prompt", "x"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let text = stderr(&output);
        assert!(text.contains("chat_template.jinja") && text.contains(expected), "{text}");
        assert!(text.contains("--disable-chat-template"), "{text}");
    }
}

#[test]
fn wrong_requests_are_refused() {
    for (arguments, code, expected) in [
        (&["--prompt", ""][..], 2, "the prompt is empty"),
        (&["--prompt", "-x", "--temperature", "-1"], 2, "--temperature"),
        (&["--prompt", "x", "--top-p", "1.5"], 2, "--top-p"),
        (&["--prompt", "x", "--repetition-penalty", "0"], 2, "logits are divided by it"),
        (&["--prompt", "x", "-m", "0"], 2, "it must be at least 1"),
        (&["--prompt", "x", "--frequency-penalty", "nan"], 2, "--frequency-penalty"),
        (&["--prompt", "x", "--logit-bias", "1024=1"], 2, "1024 is not below the vocabulary's size 1024"),
        (&["--prompt", "x", "--logit-bias", "1=1,1=2"], 2, "token 1 has two biases"),
        (&["--prompt", "x", "-m", "-1"], 2, "it must not be negative"),
        (&["--prompt", "x", "--seed", "-1"], 2, "it must not be negative"),
        (&["--prompt", "x", "--logit-bias", "-1=1"], 2, "`-1` is not a token id"),
        (&["--prompt-tokens", "-1,2"], 2, "it must not be negative"),
        (&["--prompt", "x", "--logit-bias", "1:1"], 2, "expected ID=VALUE"),
        (&["--prompt", "x", "--stop", ""], 2, "--stop is empty"),
        (&["--prompt-file", "no/such"], 1, "no/such"),
        (&["--prompt", "x", "--disable-chat-template", "--system", "y"], 2, "cannot be used with"),
        (&["--prompt", "x", "--disable-chat-template", "--final-only"], 2, "cannot be used with"),
        (
            &["--prompt", "x", "--system", "y", "--final-only"],
            2,
            "'--system <TEXT>' cannot be used with '--final-only'",
        ),
        (
            &["--prompt", "x", "--prompt-file", "y"],
            2,
            "'--prompt <TEXT>' cannot be used with '--prompt-file <FILE>'",
        ),
        (&["--prompt-tokens", "1", "--prompt-file", "y"], 2, "cannot be used with"),
        (&["--prompt", "x", "--repetition-context-size", "9"], 2, "--repetition-penalty <FACTOR>"),
        (&["--prompt-tokens", "5000"], 2, "not below the vocabulary"),
        (&["--prompt", "x", "--logit-bias", "1024=1"], 2, "hint: this model's ids are 0 to 1023"),
        (&["--prompt", "x", "-q", "--verbose"], 2, "--quiet and --verbose"),
        (&["--prompt", "x", "--extract-boxed", "--logprobs"], 2, "hint: leave one out; with --json"),
        (&[], 2, "required"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn where_every_token_is_banned_there_is_no_answer() {
    let all: Vec<String> = (0..1024).map(|id| format!("{id}=-inf")).collect();
    let all_but_one = all.iter().filter(|bias| *bias != "7=-inf").cloned().collect::<Vec<_>>().join(",");
    for temperature in ["0", "0.8"] {
        let more = ["--prompt", "x", "-m", "4", "--temperature", temperature, "--logit-bias"];
        let output = run(&[&more[..], &[&all.join(",")]].concat());
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("no token is left to choose from"), "{}", stderr(&output));
        assert!(stderr(&output).contains("hint: ban fewer") && stdout(&output).trim().is_empty());
        let output = run(&[&more[..], &[&all_but_one, "--json"]].concat());
        succeeded(&output);
        let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(answer["tokens"], json!([7, 7, 7, 7]));
    }
}

#[test]
fn a_context_past_the_models_own_is_noted() {
    let noted = |size: &str| {
        let output = run(&["--prompt", "x", "-m", "1", "--context-size", size]);
        succeeded(&output);
        stderr(&output).contains("max_position_embeddings")
    };
    let text = std::fs::read_to_string(bundled().join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let own = config["max_position_embeddings"].as_u64().unwrap();
    assert!(!noted(&own.to_string()) && noted(&(own + 1).to_string()));
}

#[test]
fn without_its_libraries_the_binary_says_what_to_do() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mixbit"))
        .args(["run", "--model", bundled().to_str().unwrap(), "--prompt", "x"])
        .env("MIXBIT_ENGINE_DIR", home.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    let text = stderr(&output);
    assert!(
        text.contains("libmixbit_engine.so") && text.contains("hint: ") && text.contains("cargo xtask setup"),
        "{text}"
    );
}

#[test]
fn logits_are_numpy_arrays() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("logits.npz");
    let model = bundled();
    let arguments =
        ["logits", "--model", model.to_str().unwrap(), "--tokens", "0,5,9", "--out", out.to_str().unwrap()];
    succeeded(&mixbit(arguments));
    let file = mixbit::formats::checkpoint::Checkpoint::open(&out).unwrap();
    let logits = file.get("logits").unwrap();
    assert_eq!(logits.shape, [3, 1024]);
    assert_eq!(file.get("tokens").unwrap().bytes(), [0u32, 5, 9].map(u32::to_le_bytes).concat());
    assert!(logits.bytes().as_chunks().0.iter().all(|b| f32::from_le_bytes(*b).is_finite()));
    let again = mixbit(arguments);
    assert!(stderr(&again).contains("already exists\nhint: --overwrite"), "{}", stderr(&again));
    succeeded(&mixbit([&arguments[..], &["--overwrite"]].concat()));
}

#[test]
fn a_closed_stderr_does_not_matter() {
    let model = bundled();
    let arguments = ["run", "--model", model.to_str().unwrap(), "-p", "Hi", "-m", "3", "--verbose"];
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mixbit"));
    let pipes = || std::process::Stdio::piped();
    let mut child = command.args(arguments).stdout(pipes()).stderr(pipes()).spawn().unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    assert_eq!(stdout(&output), stdout(&mixbit(arguments)));
}

#[test]
fn system_messages_that_the_template_leaves_out_are_not_dropped_silently() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    common::copy_folder(&bundled(), &model);
    let template = model.join("chat_template.jinja");
    std::fs::write(&template, "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
        .unwrap();
    let model = model.to_str().unwrap();
    for (command, more, flag) in [
        ("run", &["--prompt", "x", "-m", "1", "--system", "y"][..], "--system"),
        ("run", &["--prompt", "x", "-m", "1", "--final-only"], "--final-only"),
        ("chat", &["--system", "y"], "--system"),
    ] {
        let output = mixbit([&[command, "--model", model], more].concat());
        let expected = format!("{flag}: this model's chat template leaves out system messages");
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    }
    succeeded(&mixbit(["run", "--model", model, "--prompt", "x", "-m", "1", "--system", ""]));
    // The template's own message, once more, is not left out.
    let own = "Please reason step-by-step and put your final answer within \\boxed{}.";
    succeeded(&run(&["--prompt", "x", "-m", "1", "--system", own]));
    // A folder in the template's place.
    std::fs::remove_file(&template).unwrap();
    std::fs::create_dir(&template).unwrap();
    let output = mixbit(["run", "--model", model, "--prompt", "x", "-m", "1"]);
    assert!(stderr(&output).contains("chat_template.jinja: is a folder"), "{}", stderr(&output));
    let output = mixbit(["check", model]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("chat_template.jinja: is a folder"), "{}", stdout(&output));
}

#[test]
fn flags_of_sampling_do_nothing_for_the_likeliest_token() {
    let output = run(&["--prompt", "x", "-m", "1", "--seed", "1", "--top-k", "3"]);
    assert!(
        stderr(&output).contains("note: at --temperature 0 --top-k, --seed changes nothing"),
        "{}",
        stderr(&output)
    );
    let output = run(&["--prompt", "x", "-m", "1", "--seed", "1", "--temperature", "1"]);
    assert!(!stderr(&output).contains("changes nothing"), "{}", stderr(&output));
}

#[test]
#[cfg(unix)]
fn an_interrupted_answer_is_an_object_all_the_same() {
    let model = bundled();
    let model = ["run", "--model", model.to_str().unwrap(), "-p", "Hi", "-m", "1000000", "--ignore-eos"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    command.args(model).args(["--json", "--verbose"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // What comes after this line runs for minutes, but for the first milliseconds, in which the model is loaded.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("stop tokens: ")));
    std::thread::sleep(std::time::Duration::from_secs(1));
    succeeded(&Command::new("kill").args(["-INT", &child.id().to_string()]).output().unwrap());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{rest:?}");
    let object: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(object["finish_reason"], "interrupted");
    assert_eq!(object["text"].as_str().unwrap().is_empty(), object["tokens"].as_array().unwrap().is_empty());
}
