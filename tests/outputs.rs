//! Outputs that cannot be written, and outputs of two runs at once.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{bundled, interrupted_after, mixbit, stderr, succeeded};

#[test]
#[cfg(unix)]
fn a_limit_on_file_sizes_leaves_nothing_behind() {
    let model = bundled();
    let model = model.display();
    for (command, size) in [
        (format!("convert --hf-path {model} --mlx-path out"), ""),
        (format!("convert --hf-path {model} --mlx-path out --format npz"), ""),
        (format!("pack {model} --out out"), "the pack takes "),
    ] {
        let home = tempfile::tempdir().unwrap();
        let script = format!("ulimit -f 1000; exec {} -q {command}", env!("CARGO_BIN_EXE_mixbit"));
        let output =
            std::process::Command::new("sh").args(["-c", &script]).current_dir(&home).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.starts_with("error: ") && text.contains("out") && text.contains("ulimit -f"), "{text}");
        assert!(text.contains(size) && text.lines().count() == 2, "{text}");
        assert!(!text.contains("staging") && !text.contains("partial"), "{text}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn outputs_where_nothing_can_be_made_are_named() {
    let model = bundled();
    let model = model.to_str().unwrap();
    for out in ["/proc/x", "/proc/x/y"] {
        for arguments in [
            &["convert", "--hf-path", model, "--mlx-path", out][..],
            &["quantize", "--hf-path", model, "--mlx-path", out, "--bits", "4"],
            &["analyze", "--model", model, "--out", out],
            &["pack", model, "--out", out],
        ] {
            let output = mixbit(arguments);
            let expected = format!(
                "error: {out}: No such file or directory\nhint: nothing can be made in /proc: make it writable, or \
                 choose another output\n"
            );
            assert_eq!((stderr(&output), output.status.code()), (expected, Some(1)), "{arguments:?}");
        }
    }
}

#[test]
fn folders_above_an_output_are_made_or_nothing_is_left() {
    let model = bundled();
    let model = model.to_str().unwrap();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let few = ["--samples", "2", "--sequence-length", "32", "--candidates", "4"];
    let analyze = [&["analyze", "--model", model, "--out", "a/b/table"][..], &few].concat();
    let eval = ["eval", "--model", model, "--data", data, "--max-tokens", "64", "--json", "a/b/json"];
    let logits = ["logits", "--model", model, "--tokens", "1,2,3", "--out", "a/b/logits.npz"];
    let inspect = ["inspect", model, "--html", "a/b/page.html"];
    for (command, file) in [
        (&["convert", "--hf-path", model, "--mlx-path", "a/b/out"][..], "out/config.json"),
        (&["pack", model, "--out", "a/b/pack"], "pack"),
        (&["report", model, "--out", "a/b/report.html"], "report.html"),
        (&analyze, "table"),
        (&eval, "json"),
        (&logits, "logits.npz"),
        (&inspect, "page.html"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let run = |command: &[&str]| {
            let program = env!("CARGO_BIN_EXE_mixbit");
            Command::new(program).args(command).current_dir(home.path()).output().unwrap()
        };
        succeeded(&run(command));
        assert!(home.path().join("a/b").join(file).exists(), "{command:?}");
    }
}

#[test]
#[cfg(unix)]
fn folders_above_an_output_go_where_the_work_fails() {
    let model = bundled();
    let model = model.display();
    let damaged = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        if let Ok(bytes) = fs::read(bundled().join(name)) {
            fs::write(damaged.path().join(name), bytes).unwrap();
        }
    }
    let weights = damaged.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let tail = bytes.len() - 1000;
    // NaN in every float type.
    bytes[tail..].fill(0xff);
    fs::write(&weights, bytes).unwrap();
    let damaged = damaged.path().display();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let many = vec!["1"; 200].join(",");
    for command in [
        format!("convert --hf-path {model} --mlx-path c/d/out"),
        format!("pack {model} --out c/d/out"),
        format!(
            "eval --model {damaged} --data {data} --max-tokens 64 --reference {model} --save-reference c/d/out"
        ),
        format!("eval --model {damaged} --data {data} --max-tokens 64 --json c/d/out"),
        format!("logits --model {model} --tokens {many} --out c/d/out.npz"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let script = format!("ulimit -f 1000; exec {} -q {command}", env!("CARGO_BIN_EXE_mixbit"));
        let output = Command::new("sh").args(["-c", &script]).current_dir(&home).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}: {}", stderr(&output));
        assert!(!home.path().join("c").exists(), "{command}");
    }
}

/// Returns a command that makes `out` from the bundled model in `home`, and takes a while.
fn command(home: &Path, command: &str) -> Command {
    let (model, out) = (bundled(), home.join("out"));
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    let texts = ["--samples", "8", "--sequence-length", "64"];
    let mut made = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    match command {
        "analyze" => made.args([command, "--model", model, "--out", out, "--candidates", "2,3,4,5,6,8"]),
        _ => made.args([command, "--hf-path", model, "--mlx-path", out, "--target-bpw", "4", "--no-eval"]),
    };
    made.args(texts).stdout(Stdio::piped()).stderr(Stdio::piped());
    made
}

fn wait_for(path: &Path, child: &mut Child) {
    while !path.exists() {
        assert!(child.try_wait().unwrap().is_none(), "ended before it claimed {}", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn two_runs_do_not_make_one_output() {
    for name in ["analyze", "quantize"] {
        let home = tempfile::tempdir().unwrap();
        let lock = home.path().join(".out.lock");
        let mut first = command(home.path(), name).spawn().unwrap();
        wait_for(&lock, &mut first);
        for more in [&[][..], &["--overwrite"], &["--resume"]] {
            let second = command(home.path(), name).args(more).output().unwrap();
            let text = stderr(&second);
            assert_eq!(second.status.code(), Some(1), "{name} {more:?}: {text}");
            assert!(text.contains("/out: another run is making it, and holds "), "{text}");
            assert!(text.contains("hint: wait until that is done"), "{text}");
        }
        succeeded(&first.wait_with_output().unwrap());
        let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["out"], "{name}");
        // A lock that a kill has left locks nothing.
        fs::write(&lock, "").unwrap();
        succeeded(&command(home.path(), name).arg("--overwrite").output().unwrap());
        assert!(!lock.exists());
    }
}

/// Work that a new start discards is none that the run could be resumed after.
#[test]
#[cfg(unix)]
fn discarded_work_is_not_what_an_interruption_keeps() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("out.rounding");
    fs::write(&journal, "of another run").unwrap();
    let (model, out) = (bundled(), home.path().join("out"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    command.args(["quantize", "--hf-path", model.to_str().unwrap(), "--mlx-path", out.to_str().unwrap()]);
    command.args(["--target-bpw", "4", "--overwrite"]);
    let output = interrupted_after(&mut command, "-INT", "estimated");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("hint: nothing is kept yet") && !text.contains("out.rounding"), "{text}");
    assert_eq!(fs::read(&journal).unwrap(), b"of another run");
}

#[test]
fn a_folder_that_hides_a_name_on_the_hub_is_named() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir_all(home.path().join("org/tiny")).unwrap();
    fs::create_dir_all(home.path().join("org/tiny@v1")).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
        stderr(&command.args(arguments).current_dir(home.path()).output().unwrap())
    };
    let taken =
        "hint: the local folder `org/tiny` was taken, which has no config.json; `org/tiny@main` is the model";
    for arguments in [
        &["run", "--model", "org/tiny", "--prompt", "Hi"][..],
        &["convert", "--hf-path", "org/tiny", "--mlx-path", "out"],
        &["inspect", "org/tiny"],
        &["check", "org/tiny"],
    ] {
        let text = run(arguments);
        assert!(text.contains(taken), "{arguments:?}: {text}");
    }
    let text = run(&["inspect", "org/tiny@v1"]);
    assert!(text.contains("`org/tiny@v1` was taken, which has no config.json; move it away"), "{text}");
    // What is no name there hides none.
    let text = run(&["inspect", "./org/tiny"]);
    assert!(text.contains("hint: ") && !text.contains("was taken"), "{text}");
    let reference =
        run(&["eval", "--model", bundled().to_str().unwrap(), "--data", "x", "--reference", "org/tiny"]);
    assert!(reference.contains(taken), "{reference}");
    assert!(mixbit(["inspect", bundled().to_str().unwrap()]).status.success());
}
