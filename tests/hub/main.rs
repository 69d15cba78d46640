//! Names on the Hub where a model is expected, and `mixbit upload`, against a small Hub on loopback.
#![allow(missing_docs, clippy::unwrap_used)]

mod cache;
#[path = "../common/mod.rs"]
mod common;
mod gguf;
mod headers;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{bundled, copy_folder, fixtures, mixbit, stderr, stdout, succeeded};
use server::{COMMIT, Hub, sha256};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";

/// A Hub with a model, and an empty cache.
struct Setup {
    hub: Hub,
    home: TempDir,
}

impl Setup {
    fn new(model: &Path, beside: &[&str]) -> Self {
        let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(model)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read(path).unwrap())
            })
            .collect();
        files.extend(beside.iter().map(|name| ((*name).to_owned(), vec![7; 100])));
        let files: Vec<(&str, Vec<u8>)> =
            files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        Self { hub: Hub::start(&files), home: tempfile::tempdir().unwrap() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
        for name in [
            "HF_TOKEN",
            "HF_HUB_CACHE",
            "HF_TOKEN_PATH",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_HUB_OFFLINE",
            "HF_HUB_ETAG_TIMEOUT",
            "HF_HUB_DOWNLOAD_TIMEOUT",
            "http_proxy",
        ] {
            command.env_remove(name);
        }
        command.env("HF_HOME", self.home.path().join("hf")).env("HF_ENDPOINT", &self.hub.endpoint);
        command.env("NO_PROXY", "127.0.0.1").current_dir(self.home.path()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must fail with all of `expected` in the message, and a hint.
    #[track_caller]
    fn refused(&self, arguments: &[&str], expected: &[&str]) {
        self.refused_with(1, arguments, expected);
    }

    /// Runs a command that must fail for wrong flags, with all of `expected` in the message.
    #[track_caller]
    fn misused(&self, arguments: &[&str], expected: &[&str]) {
        self.refused_with(2, arguments, expected);
    }

    #[track_caller]
    fn refused_with(&self, code: i32, arguments: &[&str], expected: &[&str]) {
        let output = self.run(arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        for part in expected.iter().chain(&["hint: "]) {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
    }

    fn repository(&self) -> PathBuf {
        self.home.path().join("hf/hub/models--org--tiny")
    }

    fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.snapshot()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn only_what_is_needed_comes_and_only_once() {
    let beside = [
        "pytorch_model.bin",
        "tiny.gguf",
        "onnx/model.onnx",
        "original/consolidated.pth",
        "other/model.safetensors",
        "README.md",
        ".gitattributes",
        "flax_model.msgpack",
    ];
    let setup = Setup::new(&bundled(), &beside);
    let output = setup.run(&["run", "--model", "org/tiny", "--prompt", "Hello", "--max-tokens", "8"]);
    succeeded(&output);
    let local =
        mixbit(["run", "--model", bundled().to_str().unwrap(), "--prompt", "Hello", "--max-tokens", "8"]);
    assert_eq!(stdout(&output), stdout(&local));
    let mut expected: Vec<String> = fs::read_dir(bundled())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| fs::metadata(bundled().join(name)).unwrap().is_file())
        .chain(["README.md".to_owned()])
        .collect();
    expected.sort();
    assert_eq!(setup.files(), expected);
    // The cache is the one that other programs use.
    assert_eq!(fs::read_to_string(setup.repository().join("refs/main")).unwrap(), COMMIT);
    let blob = setup.repository().join("blobs").join(sha256(&fs::read(bundled().join(WEIGHTS)).unwrap()));
    assert_eq!(fs::canonicalize(setup.snapshot().join(WEIGHTS)).unwrap(), fs::canonicalize(blob).unwrap());
    // Once more: one question, no file.
    setup.hub.state().log.clear();
    succeeded(&setup.run(&["check", "org/tiny"]));
    assert_eq!(setup.hub.state().log, ["GET /api/models/org/tiny/revision/main?blobs=true -"]);
    setup.hub.state().log.clear();
    succeeded(&setup.command(&["check", "org/tiny"]).env("HF_HUB_OFFLINE", "1").output().unwrap());
    assert!(setup.hub.state().log.is_empty());
    // The Hub's name goes into what is made.
    let out = setup.home.path().join("out");
    succeeded(&setup.run(&["convert", "--hf-path", "org/tiny", "--mlx-path", out.to_str().unwrap()]));
    assert!(fs::read_to_string(out.join("README.md")).unwrap().contains("base_model: org/tiny"));
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let setup = Setup::new(&bundled(), &[]);
    let length = fs::metadata(bundled().join(WEIGHTS)).unwrap().len();
    setup.hub.state().breaks.insert(WEIGHTS.to_owned(), 2);
    let output = setup.run(&["check", "org/tiny"]);
    succeeded(&output);
    assert!(stderr(&output).contains("the connection broke, continuing at"), "{}", stderr(&output));
    let whole = fs::read(setup.snapshot().join(WEIGHTS)).unwrap();
    assert!(whole == fs::read(bundled().join(WEIGHTS)).unwrap());
    let starts: Vec<u64> = setup
        .hub
        .requests("/cdn/")
        .iter()
        .map(|line| {
            line.split("bytes=").nth(1).map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
        })
        .collect();
    assert_eq!(starts, [0, length / 2, length / 2 + (length - length / 2) / 2]);
}

#[test]
fn the_next_run_continues_what_an_earlier_one_gave_up() {
    let setup = Setup::new(&bundled(), &[]);
    let length = fs::metadata(bundled().join(WEIGHTS)).unwrap().len();
    let part = setup.repository().join("blobs").join(sha256(&fs::read(bundled().join(WEIGHTS)).unwrap()));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(part.with_extension("part"), &fs::read(bundled().join(WEIGHTS)).unwrap()[..1_000_000]).unwrap();
    succeeded(&setup.run(&["check", "org/tiny"]));
    let fetched = setup.hub.requests("/cdn/").iter().any(|line| line.ends_with("bytes=1000000-"));
    assert!(fetched && length > 1_000_000, "{:?}", setup.hub.state().log);
    // A part that is whole, or longer than it can be, is not asked to be continued.
    let setup = Setup::new(&bundled(), &[]);
    let part = setup.repository().join("blobs").join(part.file_name().unwrap());
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(part.with_extension("part"), vec![0; length as usize]).unwrap();
    succeeded(&setup.run(&["check", "org/tiny"]));
}

#[test]
fn damaged_weights_are_thrown_away() {
    let setup = Setup::new(&bundled(), &[]);
    setup.hub.state().damage = true;
    setup.refused(
        &["check", "org/tiny"],
        &["org/tiny", "`model.safetensors`: what came is damaged: its SHA-256"],
    );
    assert!(!setup.snapshot().join(WEIGHTS).exists());
    setup.hub.state().damage = false;
    succeeded(&setup.run(&["check", "org/tiny"]));
}

#[test]
fn shards_are_those_of_the_index() {
    let model = fixtures().join("golden/llama-sharded-inv-freq");
    let setup = Setup::new(&model, &["model-00003-of-00003.safetensors", "model.fp32.safetensors"]);
    let logits = ["logits", "--model", "org/tiny", "--tokens", "1", "--out", "x.npz"];
    succeeded(&setup.run(&logits));
    let files = setup.files();
    assert!(files.contains(&"model-00002-of-00002.safetensors".to_owned()), "{files:?}");
    assert!(!files.iter().any(|name| name.contains("00003") || name.contains("fp32")), "{files:?}");
    setup.hub.state().files.remove("model-00002-of-00002.safetensors");
    fs::remove_dir_all(setup.repository()).unwrap();
    setup.refused(&["inspect", "org/tiny"], &["its index names `model-00002-of-00002.safetensors`"]);
    let setup = Setup::new(&bundled(), &["consolidated.00.pth"]);
    setup.hub.state().files.remove(WEIGHTS);
    setup.refused(&["inspect", "org/tiny"], &["org/tiny: no weights", "makers' own names"]);
}

#[test]
fn what_has_no_header_comes_whole() {
    let setup = Setup::new(&fixtures().join("golden/forms/pytorch-strided"), &[]);
    setup.hub.state().files.remove("golden.safetensors");
    succeeded(&setup.run(&["inspect", "org/tiny"]));
    assert!(setup.files().contains(&"pytorch_model.bin".to_owned()), "{:?}", setup.files());
}

#[test]
fn forms_show_by_their_headers() {
    for form in ["gptq", "gptq-act-order", "packed", "nvfp4-compressed", "awq", "fp8-blocks"] {
        let folder = fixtures().join("golden/forms").join(form);
        let setup = Setup::new(&folder, &[]);
        setup.hub.state().files.remove("golden.safetensors");
        let output = setup.run(&["inspect", "org/tiny", "--layers"]);
        succeeded(&output);
        assert!(stdout(&output).contains("came as"), "{form}");
        assert!(!setup.files().contains(&WEIGHTS.to_owned()), "{form}");
    }
}

#[test]
fn a_missing_token_is_named_with_the_ways_to_give_it() {
    let setup = Setup::new(&bundled(), &[]);
    setup.hub.state().token = Some("hf_right".to_owned());
    let arguments = ["check", "org/tiny"];
    let file = setup.home.path().join("hf/token");
    let path = file.to_str().unwrap().to_owned();
    setup
        .refused(&arguments, &["org/tiny: the Hub wants a token", "401", "HF_TOKEN", &path, "hf auth login"]);
    let wrong = setup.command(&arguments).env("HF_TOKEN", "hf_wrong").output().unwrap();
    let text = stderr(&wrong);
    assert!(text.contains("does not take the token from HF_TOKEN") && !text.contains("hf_wrong"), "{text}");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "hf_wrong").unwrap();
    setup.refused(&arguments, &["does not take the token from", &path]);
    succeeded(&setup.command(&arguments).env("HF_TOKEN", "hf_right").output().unwrap());
    fs::write(&file, "hf_right\n").unwrap();
    succeeded(&setup.run(&arguments));
}

#[test]
fn what_is_not_there_and_what_is_not_allowed() {
    let setup = Setup::new(&bundled(), &[]);
    setup.refused(&["inspect", "org/other"], &["org/other: is not there (HTTP 404)", "folder of this name"]);
    setup.refused(&["check", "org/tiny", "--revision", "v9"], &["org/tiny: has no revision `v9`"]);
    setup.refused(&["inspect", "org/tiny@v9"], &["org/tiny: has no revision `v9`"]);
    setup.misused(&["inspect", "org/tiny@v9", "--revision", "v8"], &["both --revision and @"]);
    setup.misused(&["check", "org/tiny", "--revision", "../x"], &["`../x` is no name of a revision"]);
    setup.misused(&["inspect", bundled().to_str().unwrap(), "--revision", "v1"], &["is a local model"]);
    setup.misused(&["inspect", "no/such/folder", "--revision", "v1"], &["is no name on the Hub"]);
    setup.refused(&["inspect", "no/such/folder"], &["the model folder does not exist", "organisation/name"]);
    setup.hub.state().refusal = Some((403, "GatedRepo"));
    setup.refused(&["check", "org/tiny"], &["is gated", "ask for access at", "HF_TOKEN"]);
    setup.hub.state().refusal = Some((500, ""));
    setup.refused(&["check", "org/tiny"], &["the Hub refused (HTTP 500)"]);
}

#[test]
fn revisions_lie_beside_each_other() {
    let setup = Setup::new(&bundled(), &[]);
    setup.hub.state().branches.push("v1".to_owned());
    let model = ["eval", "--model", "org/tiny", "--revision", "v1", "--reference", "org/tiny@main"];
    let text = setup.home.path().join("text.txt");
    fs::write(&text, "The model reads this, and then some more of it. ".repeat(20)).unwrap();
    succeeded(
        &setup.run(&[&model[..], &["--data", text.to_str().unwrap(), "--sequence-length", "32"]].concat()),
    );
    for branch in ["v1", "main"] {
        assert_eq!(fs::read_to_string(setup.repository().join("refs").join(branch)).unwrap(), COMMIT);
    }
    assert_eq!(setup.hub.requests("/cdn/").len(), 1);
}

#[test]
fn without_the_hub_there_is_the_cache() {
    let setup = Setup::new(&bundled(), &[]);
    let offline = setup.command(&["check", "org/tiny"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let text = stderr(&offline);
    assert_eq!(offline.status.code(), Some(1), "{text}");
    assert!(
        text.contains("not in the cache, and HF_HUB_OFFLINE is set") && text.contains("hint: "),
        "{text}"
    );
    succeeded(&setup.run(&["check", "org/tiny"]));
    // A port that nobody listens on.
    let away = |arguments: &[&str]| {
        setup.command(arguments).env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap()
    };
    let output = away(&["check", "org/tiny"]);
    succeeded(&output);
    assert!(
        stderr(&output).contains("the Hub does not answer: using what the cache has"),
        "{}",
        stderr(&output)
    );
    let output = away(&["inspect", "org/other"]);
    assert!(stderr(&output).contains("org/other: no answer from the Hub"), "{}", stderr(&output));
}

#[test]
fn a_local_folder_wins() {
    let setup = Setup::new(&fixtures().join("golden/qwen3-tied"), &[]);
    copy_folder(&bundled(), &setup.home.path().join("org/tiny"));
    let output = setup.run(&["inspect", "org/tiny"]);
    succeeded(&output);
    assert!(
        stdout(&output).starts_with("llama4_text") && setup.hub.state().log.is_empty(),
        "{}",
        stdout(&output)
    );
}

#[test]
fn contents_that_another_revision_has_are_not_fetched_again() {
    let setup = Setup::new(&bundled(), &[]);
    let blobs = setup.repository().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let bytes = fs::read(bundled().join(WEIGHTS)).unwrap();
    fs::write(blobs.join(sha256(&bytes)), &bytes).unwrap();
    succeeded(&setup.run(&["check", "org/tiny"]));
    assert!(setup.hub.requests("/cdn/").is_empty());
}

#[test]
fn the_token_is_for_the_hub_alone() {
    let store = Setup::new(&bundled(), &[]);
    let setup = Setup::new(&bundled(), &[]);
    setup.hub.state().token = Some("hf_right".to_owned());
    setup.hub.state().store = Some(store.hub.endpoint.clone());
    setup.hub.state().breaks.insert("config.json".to_owned(), 1);
    store.hub.state().breaks.insert(WEIGHTS.to_owned(), 1);
    succeeded(&setup.command(&["check", "org/tiny"]).env("HF_TOKEN", "hf_right").output().unwrap());
    assert_eq!(store.hub.requests("/cdn/model.safetensors").len(), 2, "broken and continued");
    assert_eq!(store.hub.state().with_token, Vec::<String>::new());
    let asked = setup.hub.state().with_token.clone();
    assert!(asked.contains(&format!("HEAD /org/tiny/resolve/{COMMIT}/{WEIGHTS}")), "{asked:?}");
    assert_eq!(asked.len(), setup.hub.state().log.len());
}

#[test]
fn a_hub_that_says_nothing_is_not_waited_for() {
    const ALWAYS: usize = 1000;
    let setup = Setup::new(&bundled(), &[]);
    let impatient = |arguments: &[&str]| {
        let mut command = setup.command(arguments);
        command.env("HF_HUB_ETAG_TIMEOUT", "0.5").env("HF_HUB_DOWNLOAD_TIMEOUT", "0.4").output().unwrap()
    };
    setup.hub.state().silent.insert("/api/models", ALWAYS);
    let output = impatient(&["check", "org/tiny"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let address =
        format!("nothing came from {}/api/models/org/tiny/revision/main for 0.5 s", setup.hub.endpoint);
    for part in [&address, "HF_HUB_ETAG_TIMEOUT", "HF_HUB_OFFLINE=1", "HF_ENDPOINT"] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    // Contents that never begin.
    setup.hub.state().silent.clear();
    setup.hub.state().silent.insert("/cdn/", ALWAYS);
    let text = stderr(&impatient(&["check", "org/tiny"]));
    let address = format!("`{WEIGHTS}`: nothing came from {}/cdn/{WEIGHTS} for 0.4 s", setup.hub.endpoint);
    assert!(text.contains(&address) && text.contains("HF_HUB_DOWNLOAD_TIMEOUT"), "{text}");
    // Contents that stop in the middle go on where they stopped.
    setup.hub.state().silent.clear();
    setup.hub.state().stall = true;
    setup.hub.state().breaks.insert(WEIGHTS.to_owned(), 2);
    let output = impatient(&["check", "org/tiny"]);
    succeeded(&output);
    assert!(stderr(&output).contains("nothing comes, continuing at"), "{}", stderr(&output));
    assert!(fs::read(setup.snapshot().join(WEIGHTS)).unwrap() == fs::read(bundled().join(WEIGHTS)).unwrap());
    // What is in the cache is used where the Hub is silent.
    setup.hub.state().silent.insert("/api/models", 1);
    let output = impatient(&["check", "org/tiny"]);
    succeeded(&output);
    assert!(stderr(&output).contains("using what the cache has"), "{}", stderr(&output));
}

#[test]
fn variables_that_cannot_be_used_are_named() {
    let setup = Setup::new(&bundled(), &[]);
    for (variable, value) in
        [("HF_ENDPOINT", "notaurl"), ("HF_ENDPOINT", "ftp://x"), ("HF_HUB_ETAG_TIMEOUT", "soon")]
    {
        let output = setup.command(&["check", "org/tiny"]).env(variable, value).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(&format!("{variable} is `{value}`")) && text.contains("expected"), "{text}");
    }
    assert!(setup.hub.state().log.is_empty());
}

fn upload(setup: &Setup, more: &[&str]) -> Output {
    let model = bundled();
    let arguments = [&["upload", model.to_str().unwrap(), "org/tiny"], more].concat();
    setup.command(&arguments).env("HF_TOKEN", "hf_right").output().unwrap()
}

#[test]
fn what_is_uploaded_is_what_comes_back() {
    for chunk in [None, Some(1_000_000)] {
        let setup = Setup { hub: Hub::start(&[]), home: tempfile::tempdir().unwrap() };
        setup.hub.state().token = Some("hf_right".to_owned());
        setup.hub.state().chunk = chunk;
        setup.hub.state().put_failures = 1;
        let output = upload(&setup, &["--private"]);
        succeeded(&output);
        assert!(stderr(&output).contains("1 of them sent as large ones"), "{}", stderr(&output));
        assert!(stderr(&output).contains("/org/tiny/commit/1"), "{}", stderr(&output));
        let create = setup.hub.state().posted[0].clone();
        assert_eq!(create.0, "/api/repos/create");
        assert!(
            create.1["private"] == true && create.1["name"] == "tiny" && create.1["organization"] == "org"
        );
        for (name, bytes) in &setup.hub.state().files {
            assert!(*bytes == fs::read(bundled().join(name)).unwrap(), "{name}");
        }
        let inspected = setup.command(&["check", "org/tiny"]).env("HF_TOKEN", "hf_right").output().unwrap();
        succeeded(&inspected);
        // What the Hub has is not sent again, and another branch is made.
        setup.hub.state().log.clear();
        let output = upload(&setup, &["--revision", "v2"]);
        succeeded(&output);
        assert!(stderr(&output).contains("0 of them sent as large ones"), "{}", stderr(&output));
        assert_eq!(setup.hub.requests("/branch/v2").len(), 1);
        assert_eq!(setup.hub.requests("/commit/v2").len(), 1);
        assert!(setup.hub.requests("PUT").is_empty());
    }
}

#[test]
fn uploads_that_cannot_be() {
    let setup = Setup::new(&bundled(), &[]);
    setup.hub.state().token = Some("hf_other".to_owned());
    let model = bundled();
    let model = model.to_str().unwrap();
    setup.refused(&["upload", model, "org/tiny"], &["needs a token that may write", "HF_TOKEN"]);
    setup.misused(&["upload", model, "no name"], &["`no name` is no name for a model on the Hub"]);
    setup.refused(&["upload", "no/such/folder", "org/tiny"], &["does not exist"]);
    assert!(setup.hub.state().log.is_empty());
    let output = upload(&setup, &[]);
    assert!(stderr(&output).contains("does not take the token from HF_TOKEN"), "{}", stderr(&output));
    setup.hub.state().token = None;
    setup.hub.state().refusal = Some((403, ""));
    let output = upload(&setup, &[]);
    assert!(
        stderr(&output).contains("making the model's page: the token does not allow this"),
        "{}",
        stderr(&output)
    );
    let offline = setup.command(&["upload", model, "org/tiny"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(stderr(&offline).contains("HF_HUB_OFFLINE is set"), "{}", stderr(&offline));
    assert!(setup.hub.requests("/commit/").is_empty());
}
