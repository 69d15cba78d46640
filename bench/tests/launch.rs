//! The measured memory of a program does not depend on how much the bench that starts it holds.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../src/launch.rs"]
#[allow(dead_code, reason = "the other side of it is in the program")]
mod launch;

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use launch::Ended;

fn run(command: &mut Command) -> (Ended, String) {
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("launch-{}.log", std::process::id()));
    let file = fs::File::create(&log).unwrap();
    let ended = launch::run(Path::new(env!("CARGO_BIN_EXE_bench")), command, file).unwrap();
    let output = fs::read_to_string(&log).unwrap();
    fs::remove_file(log).unwrap();
    (ended, output)
}

#[test]
fn peak_is_the_programs_own() {
    let held = black_box(vec![1u8; 100 << 20]);
    let (small, _) = run(&mut Command::new("true"));
    assert_eq!(small.status, 0);
    assert!(small.peak > 0.0 && small.peak < 20e6, "{small:?}");
    // One block of 200 MB goes through its memory.
    let block = ["if=/dev/zero", "of=/dev/null", "count=1", "bs=200000000"];
    let (large, _) = run(Command::new("dd").args(block));
    assert!(large.peak > 200e6 && large.peak < 220e6, "{large:?}");
    assert!(held.iter().all(|byte| *byte == 1));
}

#[test]
fn arguments_variables_and_folder_arrive() {
    let script = "echo \"$1 $GREETING ${HOME-gone} $PWD\"; echo more >&2; exit 3";
    let mut command = Command::new("sh");
    command.args(["-c", script, "--", "--env"]).env("GREETING", "-hello").env_remove("HOME").current_dir("/");
    let (ended, said) = run(&mut command);
    assert_eq!((ended.status, said.as_str()), (3 << 8, "--env -hello gone /\nmore\n"));
    let (ended, said) = run(&mut Command::new("/no/such/program"));
    assert!(ended.status != 0 && said.contains("cannot start /no/such/program"), "{said}");
}
