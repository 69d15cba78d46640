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
    for folder in ["tests", "fuzz", "benches", "xtask/src", "bench/src"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
    }
    for path in files {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 500, "{} has {lines} lines: split it by subject", path.display());
    }
}

#[test]
fn only_the_command_line_ends_the_process() {
    let allowed = ["src/cli/", "src/main.rs"];
    for path in all_sources() {
        let text = fs::read_to_string(&path).unwrap();
        let place =
            path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap().replace('\\', "/");
        let inside = allowed.iter().any(|start| place.starts_with(start));
        let ends = text.contains("process::exit") || text.contains("process::abort");
        assert!(inside || !ends, "{place} ends the process; only the command line may");
    }
}

/// The rooms of src/, each above all that it may use. The ground files are below the first.
const ROOMS: [&str; 10] =
    ["numerics", "files", "formats", "models", "text", "choose", "engine", "jobs", "report", "cli"];

/// Files that everybody may use.
const GROUND: [&str; 5] = ["error", "interrupt", "progress", "system", "words"];

/// Imports that still point up: a file, and the room that it must not know. The list may only shrink.
const EXCEPTIONS: [(&str, &str); 1] = [("jobs/quantize/job.rs", "cli")];

/// The height of a room or ground file; `None` for a name that is neither.
fn height(name: &str) -> Option<usize> {
    if GROUND.contains(&name) {
        return Some(0);
    }
    ROOMS.iter().position(|room| *room == name).map(|place| place + 1)
}

/// A source without its comments, attributes and unit tests.
fn code(text: &str) -> String {
    let text = text.split("mod tests {").next().unwrap();
    let is_code = |line: &&str| !["//", "#["].iter().any(|start| line.trim_start().starts_with(start));
    text.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

/// The names that follow `crate::` in a source.
fn imported(code: &str) -> Vec<&str> {
    let after = code.split("crate::").skip(1);
    after.map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()).collect()
}

#[test]
fn imports_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut upward = Vec::new();
    for path in all_sources() {
        let place = path.strip_prefix(&src).unwrap();
        let room = place.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if room == "main" || room == "lib" {
            continue;
        }
        let own = height(room).unwrap_or_else(|| panic!("{} is in no room", path.display()));
        for name in imported(&code(&fs::read_to_string(&path).unwrap())) {
            if height(name).is_some_and(|other| other > own) {
                upward.push((place.to_str().unwrap().to_owned(), name.to_owned()));
            }
        }
    }
    upward.sort();
    upward.dedup();
    let known: Vec<_> =
        EXCEPTIONS.iter().map(|(file, room)| ((*file).to_owned(), (*room).to_owned())).collect();
    assert_eq!(upward, known, "imports that point up, and the exceptions that are listed");
}

#[test]
fn mod_files_define_nothing() {
    for path in all_sources().into_iter().filter(|path| path.ends_with("mod.rs")) {
        let code = code(&fs::read_to_string(&path).unwrap());
        for statement in code.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
            let keyword = statement.split_whitespace().find(|word| !word.starts_with("pub"));
            let lists = matches!(keyword, Some("mod" | "use"));
            assert!(lists, "{} defines something: {statement}", path.display());
        }
    }
}
