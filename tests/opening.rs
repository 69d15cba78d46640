//! Every command that reads weights verifies them, and no other one opens models.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{RawCheckpoint, bundled, make, mixbit, stderr, stdout, succeeded};
use tempfile::TempDir;

/// `{bad}` is a model that is damaged, `{good}` one that is not, `{home}` a folder for outputs, `{text}` a text.
const COMMANDS: [&str; 17] = [
    "run --model {bad} --prompt Hi --max-tokens 1",
    "run --model {good} --draft-model {bad} --prompt Hi --max-tokens 1",
    "chat --model {bad}",
    "chat --model {good} --draft-model {bad}",
    "eval --model {bad} --data {text} --max-tokens 64",
    "eval --model {bad} --data {text} --max-tokens 64 --stream",
    "eval --model {good} --reference {bad} --data {text} --max-tokens 64",
    "logits --model {bad} --tokens 1,2 --out {home}/new.npz",
    "quantize --hf-path {bad} --mlx-path {home}/new --bits 8",
    "analyze --model {bad} --out {home}/new.json",
    "convert --hf-path {bad} --mlx-path {home}/new",
    "dequantize --hf-path {bad} --mlx-path {home}/new",
    "report {bad} --prompt Hi --out {home}/new.html",
    "report {good} --reference {bad} --out {home}/new.html",
    "pack {bad} --out {home}/new.mlxpack",
    "upload {bad} org/name",
    "check {good} --reference {bad}",
];

struct Setup {
    home: TempDir,
}

impl Setup {
    /// A quantized model twice.
    fn new(format: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        for name in ["bad", "good"] {
            let flags = ["--bits", "4", "--format", format];
            succeeded(&make("quantize", &bundled(), &home.path().join(name), &flags));
        }
        fs::write(home.path().join("text"), "The rain falls on the roof of the house. ".repeat(40)).unwrap();
        Self { home }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn run(&self, command: &str) -> Output {
        let arguments = command.split(' ').map(|word| {
            let put = |text: String, name: &str| {
                text.replace(&format!("{{{name}}}"), self.file(name).to_str().unwrap())
            };
            let text = ["bad", "good", "text"].into_iter().fold(word.to_owned(), put);
            text.replace("{home}", self.home.path().to_str().unwrap())
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
        // Where nobody is, should an upload get so far.
        command.env("HF_ENDPOINT", "http://127.0.0.1:9").env("HF_HOME", self.home.path()).args(arguments);
        command.output().unwrap()
    }

    /// All commands refuse the damaged model for the same reason, and write nothing.
    #[track_caller]
    fn all_refuse(&self, expected: &str) {
        let entries = || fs::read_dir(self.home.path()).unwrap().count();
        let before = entries();
        for command in COMMANDS {
            let output = self.run(command);
            let said = format!("{}{}", stdout(&output), stderr(&output));
            assert_eq!(output.status.code(), Some(1), "{command}: {said}");
            assert!(said.contains(expected), "{command}: {said}");
            assert_eq!(entries(), before, "{command} has left something");
        }
        let check = self.run("check {bad}");
        assert!(!check.status.success() && stdout(&check).contains("problem"), "{}", stdout(&check));
        // Headers are all that these read.
        succeeded(&self.run("inspect {bad}"));
        succeeded(&self.run("report {bad} --out {home}/page.html"));
    }
}

#[test]
fn every_command_refuses_a_damaged_npz() {
    let setup = Setup::new("npz");
    let weights = setup.file("bad").join("weights.npz");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&weights, bytes).unwrap();
    setup.all_refuse("is damaged: its CRC-32 is");
}

#[test]
fn every_command_refuses_an_untied_head() {
    let setup = Setup::new("safetensors");
    let weights = setup.file("bad").join("model.safetensors");
    let mut raw = RawCheckpoint::read(&weights);
    let (_, dtype, shape, mut data) = raw.get_mut("model.embed_tokens.weight").clone();
    *data.last_mut().unwrap() ^= 1;
    raw.tensors.push(("lm_head.weight".to_owned(), dtype, shape, data));
    raw.write(&weights);
    setup.all_refuse("`lm_head.weight`: differs from the embedding it is said to be tied to");
}

#[test]
fn the_list_has_every_command_that_reads_weights() {
    let help = stdout(&mixbit(["help"]));
    let names: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()))
        .collect();
    assert!(names.len() > 12, "{help}");
    let others = ["inspect", "models", "curve", "recipes", "unpack", "help"];
    for name in names {
        let listed = COMMANDS.iter().any(|command| command.split(' ').next() == Some(name));
        assert!(listed != others.contains(&name), "`{name}` is in neither list, or in both");
    }
}

#[test]
fn models_are_opened_in_one_place() {
    let commands = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/commands");
    let mut folders = vec![commands];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            files += 1;
            assert!(
                path.ends_with("opening.rs") || !text.contains("SourceModel::open"),
                "{} opens a model by itself: use commands/opening.rs",
                path.display()
            );
        }
    }
    assert!(files > 20);
}
