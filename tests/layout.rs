//! Rules of the source tree that the compiler does not check.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 20);
    found
}

#[test]
fn only_the_engine_uses_mlx() {
    for path in all_sources() {
        let text = fs::read_to_string(&path).unwrap();
        let inside = path.components().any(|part| part.as_os_str() == "engine");
        let uses = text.contains("mlx_rs") || text.contains("mlx_sys");
        assert!(inside || !uses, "{} uses MLX; only src/engine may", path.display());
    }
}

#[test]
fn files_stay_readable_in_a_sitting() {
    let mut files = all_sources();
    for folder in ["tests", "fuzz", "benches", "xtask/src"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
    }
    for path in files {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 500, "{} has {lines} lines: split it by subject", path.display());
    }
}

#[test]
fn only_the_command_line_ends_the_process() {
    // The allocator cannot return an error.
    let allowed = ["src/cli/", "src/commands/", "src/main.rs", "src/memory_limit.rs"];
    for path in all_sources() {
        let text = fs::read_to_string(&path).unwrap();
        let place =
            path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap().replace('\\', "/");
        let inside = allowed.iter().any(|start| place.starts_with(start));
        let ends = text.contains("process::exit") || text.contains("process::abort");
        assert!(inside || !ends, "{place} ends the process; only the command line may");
    }
}
