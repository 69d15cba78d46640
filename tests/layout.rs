//! Rules of the source tree that the compiler does not check.
#![allow(missing_docs, clippy::unwrap_used)]

use clap::CommandFactory;
use mixbit::cli::args::Cli;
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
fn jobs_know_no_flags_and_no_terminal() {
    let above =
        |place: &str| ["src/cli/", "src/report/", "src/main.rs"].iter().any(|room| place.contains(room));
    for path in all_sources().into_iter().filter(|path| !above(&path.to_str().unwrap().replace('\\', "/"))) {
        let code = code(&fs::read_to_string(&path).unwrap());
        for name in ["clap::", "indicatif::", "println!", "io::stdout", "io::stderr", "io::stdin"] {
            assert!(
                !code.contains(name),
                "{} has `{name}`, which belongs into cli or report",
                path.display()
            );
        }
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
    assert!(upward.is_empty(), "imports that point up: {upward:?}");
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

/// The most doc lines in src/ that may begin with a word of [`DEPENDENT_STARTS`]. It may only shrink.
const DEPENDENT_DOC_LINES: usize = 60;

/// First words of a doc line that mostly needs the item before it to be understood.
const DEPENDENT_STARTS: [&str; 8] = ["The same", "What", "Those", "Of", "How", "Whether", "Which", "Where"];

/// True if a line is a doc comment that begins with a word of [`DEPENDENT_STARTS`].
fn is_dependent_doc(line: &str) -> bool {
    let line = line.trim_start();
    let Some(doc) = ["/// ", "//! "].iter().find_map(|start| line.strip_prefix(start)) else { return false };
    DEPENDENT_STARTS.iter().any(|start| {
        let rest = doc.strip_prefix(start);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    })
}

#[test]
fn doc_lines_stand_alone() {
    let texts = all_sources().into_iter().map(|path| fs::read_to_string(path).unwrap());
    let count: usize = texts.map(|text| text.lines().filter(|line| is_dependent_doc(line)).count()).sum();
    assert!(
        count <= DEPENDENT_DOC_LINES,
        "{count} doc lines begin with one of {DEPENDENT_STARTS:?}, at most {DEPENDENT_DOC_LINES} may: say what the item is, \
         or begin with a verb"
    );
}

/// Command-line flags in the string literals of files below cli/, with their number. The list may only shrink: messages of
/// the library name settings, and the command line adds its flags.
const FLAGS_BELOW_CLI: [(&str, usize); 3] =
    [("jobs/evaluation/reference.rs", 4), ("jobs/write/companions.rs", 4), ("text/conversation.rs", 1)];

/// The string literals of a source, without those in comments and unit tests.
fn string_literals(text: &str) -> Vec<&str> {
    let code = text.split("mod tests {").next().unwrap();
    let mut literals = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(['"', '\'', '/']) {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        rest = match &rest[at..=at] {
            "/" if after.starts_with('/') => after.split_once('\n').map_or("", |(_, next)| next),
            "/" => after,
            // A character; a lifetime has no second quote.
            "'" if after.starts_with('\\') => after[2..].split_once('\'').unwrap().1,
            "'" => {
                let mut characters = after.chars();
                characters.next();
                if characters.next() == Some('\'') { characters.as_str() } else { after }
            }
            _ => {
                let hashes = before.len() - before.trim_end_matches('#').len();
                let is_raw = before[..before.len() - hashes].ends_with('r');
                let end = if is_raw { raw_end(after, hashes) } else { plain_end(after) };
                literals.push(&after[..end]);
                &after[end + 1..]
            }
        };
    }
    literals
}

/// Returns the end of the raw literal that begins at `text`.
fn raw_end(text: &str, hashes: usize) -> usize {
    text.find(&format!("\"{}", "#".repeat(hashes))).unwrap()
}

/// Returns the end of the literal that begins at `text`: the first quote without a backslash before it.
fn plain_end(text: &str) -> usize {
    let mut is_escaped = false;
    text.find(|c| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    })
    .unwrap()
}

/// The number of flags in a text: two hyphens and a letter, with no hyphen before them.
fn flags(text: &str) -> usize {
    let is_flag = |at: usize| {
        let next = text[at + 2..].chars().next();
        !text[..at].ends_with('-') && next.is_some_and(|c| c.is_ascii_alphabetic())
    };
    text.match_indices("--").filter(|(at, _)| is_flag(*at)).count()
}

#[test]
fn literals_are_found_in_sources() {
    let source = r##"x('"', '\'', "a\"b", r"\", r#"c"d"#); // "no"
        /// "no" either
        fn f<'a>(x: &'a str) -> &'a str { "e/f" }
        mod tests { "no" }"##;
    assert_eq!(string_literals(source), [r#"a\"b"#, r"\", "c\"d", "e/f"]);
    assert_eq!(flags("--model needs --bits-per-weight, not ---- nor -b nor a -- b"), 2);
}

#[test]
fn flags_stay_in_the_command_line() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut counts = Vec::new();
    for path in all_sources() {
        let place = path.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
        let is_test = ["tests.rs", "testing.rs"].iter().any(|name| place.ends_with(name));
        if place.starts_with("cli/") || place.contains("native_tests/") || is_test {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let count: usize = string_literals(&text).into_iter().map(flags).sum();
        if count > 0 {
            counts.push((place, count));
        }
    }
    counts.sort();
    let listed: Vec<_> = FLAGS_BELOW_CLI.iter().map(|(place, count)| ((*place).to_owned(), *count)).collect();
    assert_eq!(counts, listed, "flags below the command line, and those that are listed");
}

/// Names of settings in the messages of a source, and in the headers of its journals.
fn settings(code: &str) -> Vec<&str> {
    let in_messages = code.split("setting `").skip(1).filter_map(|rest| rest.split_once('`'));
    let in_headers = code.split(".with(\"").skip(1).filter_map(|rest| rest.split_once('"'));
    let names = in_messages.chain(in_headers).map(|(name, _)| name);
    let is_setting = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    names.filter(is_setting).collect()
}

#[test]
fn settings_in_messages_are_flags() {
    let command = Cli::command();
    let flags: Vec<&str> = command
        .get_subcommands()
        .flat_map(clap::Command::get_arguments)
        .filter_map(clap::Arg::get_long_and_visible_aliases)
        .flatten()
        .collect();
    let mut count = 0;
    for path in all_sources() {
        let text = fs::read_to_string(&path).unwrap();
        for setting in settings(&code(&text)) {
            let flag = setting.replace('_', "-");
            assert!(flags.contains(&&*flag), "{}: there is no --{flag}", path.display());
            count += 1;
        }
    }
    assert!(count > 50, "{count} settings in messages");
}
