//! GGUF models on the Hub: the one that a name chooses, and nothing beside it.

use std::fs;
use std::path::Path;

use super::Setup;
use super::common::{bundled, fixtures, mixbit, stderr, stdout, succeeded};

fn gguf(name: &str) -> Vec<u8> {
    fs::read(fixtures().join("gguf").join(name)).unwrap()
}

/// Returns a Hub whose model has `files`, with the contents of fixtures of these names.
fn with_files(model: &Path, files: &[(&str, &str)]) -> Setup {
    let setup = Setup::new(model, &["mmproj-tiny-f16.gguf"]);
    for (name, fixture) in files {
        setup.hub.state().files.insert((*name).to_owned(), gguf(fixture));
    }
    setup
}

fn only_gguf(files: &[(&str, &str)]) -> Setup {
    let empty = tempfile::tempdir().unwrap();
    with_files(empty.path(), files)
}

fn inspected(fixture: &str) -> String {
    let path = fixtures().join("gguf").join(fixture);
    stdout(&mixbit(["inspect", path.to_str().unwrap()]))
}

impl Setup {
    /// Asserts that `name` stands for the model of the fixture, with the Hub and without.
    #[track_caller]
    fn stands_for(&self, name: &str, fixture: &str) {
        for offline in ["0", "1"] {
            let output = self.command(&["inspect", name]).env("HF_HUB_OFFLINE", offline).output().unwrap();
            succeeded(&output);
            assert_eq!(stdout(&output), inspected(fixture), "{name}");
        }
    }
}

#[test]
fn the_only_gguf_is_the_model() {
    let setup = only_gguf(&[("README.md", "types.json"), ("tiny-Q8_0.gguf", "qwen2-tied.gguf")]);
    setup.hub.state().breaks.insert("tiny-Q8_0.gguf".to_owned(), 1);
    let output = setup.run(&["convert", "--hf-path", "org/tiny", "--mlx-path", "out"]);
    succeeded(&output);
    assert!(stderr(&output).contains("the connection broke, continuing at"), "{}", stderr(&output));
    assert_eq!(setup.files(), ["tiny-Q8_0.gguf"]);
    let card = fs::read_to_string(setup.home.path().join("out/README.md")).unwrap();
    assert!(card.contains("base_model: org/tiny"), "{card}");
    setup.hub.state().log.clear();
    succeeded(&setup.run(&["check", "org/tiny"]));
    assert_eq!(setup.hub.state().log, ["GET /api/models/org/tiny/revision/main?blobs=true -"]);
    setup.stands_for("org/tiny", "qwen2-tied.gguf");
    // A changed bit is found, as in other weights.
    let blob = fs::canonicalize(setup.snapshot().join("tiny-Q8_0.gguf")).unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&blob, bytes).unwrap();
    setup.refused(&["convert", "--hf-path", "org/tiny", "--mlx-path", "x"], &["is damaged: its SHA-256 is"]);
}

#[test]
fn damaged_gguf_is_thrown_away() {
    let setup = only_gguf(&[("tiny.gguf", "qwen2-tied.gguf")]);
    setup.hub.state().damage = true;
    setup.refused(&["inspect", "org/tiny"], &["`tiny.gguf`: what came is damaged: its SHA-256"]);
    setup.hub.state().damage = false;
    succeeded(&setup.run(&["inspect", "org/tiny"]));
}

#[test]
fn several_models_need_a_choice() {
    let files = [
        ("tiny-Q4_K_M.gguf", "qwen2-tied.gguf"),
        ("tiny-Q8_0.gguf", "gpt2-plain.gguf"),
        ("more/tiny-f16.gguf", "smollm3-tied.gguf"),
    ];
    let setup = only_gguf(&files);
    let listed = "more/tiny-f16.gguf (55.1 kB), tiny-Q4_K_M.gguf (45.8 kB), tiny-Q8_0.gguf (93.2 kB)";
    let several = format!("org/tiny/tree/main: has 3 GGUF models: {listed}");
    setup
        .refused(&["inspect", "org/tiny"], &[&several, "`org/tiny:Q4_K_M`", "`org/tiny/more/tiny-f16.gguf`"]);
    for name in ["org/tiny:Q4_K", "org/tiny:Q6_K", "org/tiny/tiny-f16.gguf", "org/tiny/mmproj-tiny-f16.gguf"]
    {
        let choice = &name["org/tiny/".len()..];
        let expected = format!("has no GGUF model `{choice}`; there are: {listed}");
        setup.refused(&["convert", "--hf-path", name, "--mlx-path", "out"], &[&expected, "choose one"]);
    }
    setup.refused(&["inspect", "org/tiny:Q4_K_M", "--revision", "v9"], &["has no revision `v9`"]);
    assert!(setup.hub.requests("gguf").is_empty(), "{:?}", setup.hub.state().log);

    setup.stands_for("org/tiny:q4_k_m", "qwen2-tied.gguf");
    assert_eq!(setup.files(), ["tiny-Q4_K_M.gguf"]);
    setup.stands_for("org/tiny:F16@main", "smollm3-tied.gguf");
    setup.stands_for("org/tiny/more/tiny-f16.gguf", "smollm3-tied.gguf");
    setup.stands_for("org/tiny/tiny-Q8_0.gguf", "gpt2-plain.gguf");
    let offline =
        |name: &str| stderr(&setup.command(&["inspect", name]).env("HF_HUB_OFFLINE", "1").output().unwrap());
    fs::remove_file(setup.snapshot().join("tiny-Q8_0.gguf")).unwrap();
    for text in [offline("org/tiny:Q8_0"), offline("org/tiny")] {
        let listed = "more/tiny-f16.gguf (55.1 kB), tiny-Q4_K_M.gguf (45.8 kB)";
        assert!(text.contains(listed) && text.contains("only the cache was looked at"), "{text}");
    }
}

#[test]
fn parts_are_one_model() {
    let part = |number: usize| (format!("q8/tiny-q8_0-0000{number}-of-00003.gguf"), gguf(&split(number)));
    let setup = only_gguf(&[("tiny-Q4_0.gguf", "qwen2-tied.gguf")]);
    setup.hub.state().files.extend((1..=3).map(part));
    setup.refused(
        &["inspect", "org/tiny"],
        &["has 2 GGUF models", "q8/tiny-q8_0-00001-of-00003.gguf (3 files, 46.1 kB)"],
    );
    setup.stands_for("org/tiny:Q8_0", &split(1));
    setup.stands_for("org/tiny/q8/tiny-q8_0-00002-of-00003.gguf", &split(1));
    assert_eq!(setup.files(), ["q8"]);
    let (lost, _) = part(2);
    fs::remove_file(setup.snapshot().join(&lost)).unwrap();
    let offline = setup.command(&["inspect", "org/tiny:Q8_0"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let expected = format!("`{lost}` is not in the cache, and HF_HUB_OFFLINE is set");
    assert!(stderr(&offline).contains(&expected), "{}", stderr(&offline));
    setup.hub.state().files.remove(&lost);
    setup.refused(&["inspect", "org/tiny:Q8_0"], &[&format!("`{lost}` is not there, one of 3 files")]);
}

fn split(number: usize) -> String {
    format!("split-0000{number}-of-00003.gguf")
}

#[test]
fn gguf_beside_safetensors_is_chosen_by_name() {
    let files = [("tiny-Q4_0.gguf", "qwen2-tied.gguf"), ("tiny-Q8_0.gguf", "gpt2-plain.gguf")];
    let setup = with_files(&bundled(), &files);
    setup.stands_for("org/tiny:Q4_0", "qwen2-tied.gguf");
    setup.stands_for("org/tiny:Q8_0", "gpt2-plain.gguf");
    let output = setup.run(&["inspect", "org/tiny"]);
    succeeded(&output);
    assert_eq!(stdout(&output), stdout(&mixbit(["inspect", bundled().to_str().unwrap()])));
    let output = setup.run(&["check", "org/tiny"]);
    succeeded(&output);
    assert!(stdout(&output).contains("1 weight file, 38 tensors"), "{}", stdout(&output));
    setup.misused(&["upload", "org/tiny", "org/copy:Q4_0"], &["is no name for a model on the Hub"]);
    let setup = Setup::new(&bundled(), &[]);
    setup
        .refused(&["inspect", "org/tiny:Q4_0"], &["has no GGUF model `Q4_0`", "`org/tiny` without a choice"]);
}
