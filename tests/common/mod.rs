//! Shared by the integration tests: the binary, fixtures, and a checkpoint to damage.
#![allow(dead_code, missing_docs, reason = "each test binary uses a part of this")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Map, Value, json};

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Returns the folder of the bundled trained model.
pub fn bundled() -> PathBuf {
    fixtures().join("models/mobilellm-docs-1m")
}

/// Returns the folders below fixtures/golden that hold a model and its golden logits.
pub fn golden_cases() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![fixtures().join("golden")];
    while let Some(folder) = folders.pop() {
        if folder.join("golden.safetensors").is_file() {
            found.push(folder);
            continue;
        }
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        folders.extend(entries.filter(|path| path.is_dir()));
    }
    found.sort();
    found
}

pub fn json_file(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

pub fn mixbit<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mixbit"))
        .args(arguments)
        .env_remove("MIXBIT_ENGINE_DIR")
        .output()
        .unwrap()
}

/// Runs `command` (convert or quantize) from one folder into another.
pub fn make(command: &str, from: &Path, to: &Path, more: &[&str]) -> Output {
    let mut arguments =
        vec![command, "--hf-path", from.to_str().unwrap(), "--mlx-path", to.to_str().unwrap()];
    arguments.extend(more);
    mixbit(arguments)
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
pub fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}\n{}", stdout(output), stderr(output));
}

/// Copies a folder of files.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.is_file() {
            fs::write(to.join(name), fs::read(&path).unwrap()).unwrap();
        }
    }
}

/// A safetensors file in memory, to be changed and written.
pub struct RawCheckpoint {
    pub tensors: Vec<(String, String, Vec<usize>, Vec<u8>)>,
}

impl RawCheckpoint {
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            (name, view.dtype().to_string(), view.shape().to_vec(), view.data().to_vec())
        });
        let mut tensors: Vec<_> = tensors.collect();
        tensors.sort();
        Self { tensors }
    }

    pub fn get_mut(&mut self, name: &str) -> &mut (String, String, Vec<usize>, Vec<u8>) {
        self.tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap()
    }

    pub fn remove(&mut self, name: &str) {
        self.tensors.retain(|tensor| tensor.0 != name);
    }

    pub fn header(&self) -> Map<String, Value> {
        let mut header = Map::new();
        let mut offset = 0;
        for (name, dtype, shape, data) in &self.tensors {
            let end = offset + data.len();
            header
                .insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}));
            offset = end;
        }
        header
    }

    pub fn write(&self, path: &Path) {
        self.write_with(path, &self.header());
    }

    pub fn write_with(&self, path: &Path, header: &Map<String, Value>) {
        let text = serde_json::to_vec(header).unwrap();
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text);
        self.tensors.iter().for_each(|tensor| bytes.extend(&tensor.3));
        fs::write(path, bytes).unwrap();
    }
}

/// Runs `command` until `is_time`, and ends it with `signal`.
pub fn interrupted(command: &mut Command, signal: &str, is_time: impl Fn() -> bool) -> Output {
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    while !is_time() {
        assert!(child.try_wait().unwrap().is_none(), "it should have kept what is done");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    child.wait_with_output().unwrap()
}

/// Runs `command` until it has said `line`, and ends it with `signal`.
pub fn interrupted_after(command: &mut Command, signal: &str, line: &str) -> Output {
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains(line) {
        assert!(lines.read_line(&mut said).unwrap() > 0, "it ended before it said `{line}`: {said}");
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    lines.read_to_string(&mut said).unwrap();
    Output { status: child.wait().unwrap(), stdout: Vec::new(), stderr: said.into_bytes() }
}
