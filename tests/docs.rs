//! What README.md and docs/ show is what mixbit has: commands and flags exist, figures were measured, links lead somewhere.
#![allow(missing_docs, clippy::unwrap_used)]

use clap::{Command, CommandFactory, Parser};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use mixbit::cli::args::Cli;

/// Words of README.md: what is read in five minutes.
const README_WORDS: usize = 1600;
/// Flags that clap adds to every command.
const FLAGS_OF_CLAP: [&str; 2] = ["help", "version"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn pages_in(folder: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    pages.sort();
    pages
}

/// Pages that tell users how to call mixbit.
fn manual() -> Vec<PathBuf> {
    let pages = [vec![root().join("README.md"), root().join("quant-recipes/README.md")], pages_in("docs")];
    pages.concat()
}

/// Lines outside of fences, and lines of the fences that are marked `sh`.
fn prose_and_shell(text: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut prose, mut shell, mut fence) = (Vec::new(), Vec::new(), None);
    for line in text.lines() {
        match (fence, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => fence = Some(language),
            (Some(_), Some(_)) => fence = None,
            (None, None) => prose.push(line),
            (Some("sh"), None) => shell.push(line),
            (Some(_), None) => {}
        }
    }
    assert_eq!(fence, None, "a fence has no end");
    (prose, shell)
}

/// Contents of `code spans` in a line.
fn code_spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// Words of a command as a shell divides them: quotes hold words together, ` # ` begins a comment.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    assert_eq!(quote, None, "a quote has no end: {line}");
    words.extend(word);
    words
}

fn commands() -> Command {
    let mut commands = Cli::command();
    commands.build();
    commands
}

fn long_flags(command: &Command) -> BTreeSet<String> {
    let names = command.get_arguments().filter_map(clap::Arg::get_long_and_visible_aliases);
    let hidden = command.get_arguments().filter_map(clap::Arg::get_all_aliases);
    names.chain(hidden).flatten().map(str::to_owned).collect()
}

/// The long flags among `words`, without what follows an equals sign.
fn flags_among<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let flags = words.iter().filter_map(|word| word.strip_prefix("--"));
    flags.filter_map(|flag| flag.split(['=', ',']).next()).filter(|flag| !flag.is_empty()).collect()
}

#[test]
fn readme_is_read_in_five_minutes() {
    let words = read(&root().join("README.md")).split_whitespace().count();
    assert!(words < README_WORDS, "README.md has {words} words: move what is reference to docs/");
}

#[test]
fn commands_shown_can_be_parsed() {
    let mut shown = 0;
    for page in manual() {
        let text = read(&page);
        for line in prose_and_shell(&text).1 {
            let words = shell_words(line);
            if words.first().is_some_and(|word| word == "mixbit") {
                shown += 1;
                Cli::try_parse_from(&words).unwrap_or_else(|e| panic!("{}: {line}\n{e}", page.display()));
            }
        }
    }
    assert!(shown >= 20, "only {shown} commands were found");
}

#[test]
fn flags_and_commands_named_exist() {
    let commands = commands();
    let all: BTreeSet<String> = commands.get_subcommands().flat_map(long_flags).collect();
    for page in manual() {
        let text = read(&page);
        for span in prose_and_shell(&text).0.into_iter().flat_map(code_spans) {
            let words: Vec<&str> = span.split_whitespace().collect();
            let known = match &words[..] {
                ["mixbit", name, ..] => {
                    let command = commands.find_subcommand(name);
                    long_flags(command.unwrap_or_else(|| panic!("{}: no command {name}", page.display())))
                }
                [flag, ..] if flag.starts_with("--") => all.clone(),
                _ => continue,
            };
            for flag in flags_among(&words) {
                assert!(known.contains(flag), "{}: `{span}`: there is no --{flag}", page.display());
            }
        }
    }
}

#[test]
fn every_flag_is_documented() {
    let mut documented = BTreeSet::new();
    for page in pages_in("docs") {
        let text = read(&page);
        let (prose, shell) = prose_and_shell(&text);
        for code in prose.into_iter().flat_map(code_spans).chain(shell) {
            let words: Vec<&str> = code.split_whitespace().collect();
            documented.extend(flags_among(&words).into_iter().map(str::to_owned));
        }
    }
    for command in commands().get_subcommands() {
        let flags =
            command.get_arguments().filter(|flag| !flag.is_hide_set()).filter_map(clap::Arg::get_long);
        for flag in flags.filter(|flag| !FLAGS_OF_CLAP.contains(flag)) {
            let name = command.get_name();
            assert!(documented.contains(flag), "`mixbit {name} --{flag}` is in no page of docs/");
        }
    }
}

/// A heading as GitHub turns it into an anchor.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn relative_links_lead_somewhere() {
    let top = ["CHANGELOG.md", "CONTRIBUTING.md", "fixtures/README.md"].map(|name| root().join(name));
    let mut links = 0;
    for page in [manual(), pages_in("docs/images"), pages_in("benches"), top.to_vec()].concat() {
        let text = read(&page);
        let targets = prose_and_shell(&text).0.into_iter().flat_map(|line| line.split("](").skip(1));
        for target in targets.filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (file, section) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(path.exists(), "{}: {target} is not there", page.display());
            if !section.is_empty() {
                let text = read(&path);
                let mut headings = prose_and_shell(&text).0.into_iter().filter(|line| line.starts_with('#'));
                let found = headings.any(|line| anchor(line.trim_start_matches('#')) == section);
                assert!(found, "{}: {target}: no such heading", page.display());
            }
        }
    }
    assert!(links >= 30, "only {links} links were found");
}

/// Numbers of a text that say something: with a decimal point, or of three digits or more.
fn figures(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | ',' | '_' | '-')));
    let words = words.map(|word| word.trim_matches(['.', ',']));
    words
        .filter(|word| word.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | ',')))
        .filter(|word| word.contains('.') || word.len() >= 3)
        .collect()
}

#[test]
fn figures_of_the_readme_were_measured() {
    let (readme, results) = (read(&root().join("README.md")), read(&root().join("benches/RESULTS.md")));
    let (_, rest) = readme.split_once("\n## Beside mlx-lm").unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let (shown, measured) = (figures(section), figures(&results));
    assert!(shown.len() >= 60, "only {} figures were found", shown.len());
    for figure in shown {
        assert!(measured.contains(figure), "README.md: {figure} is not in benches/RESULTS.md");
    }
}

#[test]
fn readme_shows_what_convert_prints() {
    let home = tempfile::tempdir().unwrap();
    let readme = read(&root().join("README.md"));
    let shell = prose_and_shell(&readme).1;
    let line = shell.into_iter().find(|line| line.starts_with("mixbit convert")).unwrap();
    std::os::unix::fs::symlink(root().join("fixtures"), home.path().join("fixtures")).unwrap();
    let words = shell_words(line);
    let output = Process::new(env!("CARGO_BIN_EXE_mixbit"))
        .args(&words[1..])
        .current_dir(home.path())
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{printed}");
    let done = printed.lines().last().unwrap();
    assert!(readme.contains(&format!("\n{done}\n")), "README.md does not show: {done}");
}
