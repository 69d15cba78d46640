//! README.md and docs/ against mixbit: commands and flags exist, figures were measured, links lead somewhere.
#![allow(missing_docs, clippy::unwrap_used)]

use clap::{Command, CommandFactory, Parser};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use mixbit::cli::args::Cli;
use mixbit::report;

/// Most words of README.md: five minutes of reading.
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

/// Returns the pages that tell users how to call mixbit.
fn manual() -> Vec<PathBuf> {
    let pages = [vec![root().join("README.md"), root().join("quant-recipes/README.md")], pages_in("docs")];
    pages.concat()
}

/// Returns the lines outside of fences, and the lines of fences that are marked `sh`.
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

/// Returns the contents of `code spans` in a line.
fn code_spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// Splits a command as a shell does: quotes hold words together, ` # ` begins a comment.
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

/// Returns the long flags among `words`, without their values after an equals sign.
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
fn tables_of_models_are_current() {
    for (page, table) in
        [("README.md", report::family_markdown()), ("docs/models.md", report::model_type_markdown())]
    {
        let text = read(&root().join(page));
        assert!(text.contains(&format!("\n\n{table}\n")), "{page} must have this table:\n{table}");
    }
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

/// Returns the anchor that GitHub makes of a heading.
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

/// Returns the part of a page under the heading `title`, to the next one of its level.
fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let start = text.find(&format!("\n{title}\n")).unwrap_or_else(|| panic!("there is no {title}"));
    let level = title.split(' ').next().unwrap();
    let rest = &text[start + title.len() + 2..];
    rest.split(&format!("\n{level} ")).next().unwrap()
}

/// Returns the cells of the rows of all tables in a text.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    lines.map(|line| line.split('|').map(str::trim).collect()).collect()
}

/// Returns the row that begins with `label`, of one cell or two, and ends with figures.
fn row<'a>(rows: &'a [Vec<&'a str>], label: &[&str]) -> &'a [&'a str] {
    let is_it = |row: &&Vec<&str>| row.starts_with(label) && !row.last().unwrap().ends_with('x');
    rows.iter().find(is_it).unwrap_or_else(|| panic!("benches/RESULTS.md has no row {label:?}"))
}

/// Returns the numbers in a cell, without those in brackets and in names.
fn numbers(cell: &str) -> Vec<f64> {
    let outside = cell.split(" (").next().unwrap();
    outside.split(' ').filter_map(|word| word.trim_matches(['*', ',']).parse().ok()).collect()
}

/// README.md's table of divergences: every figure is of the row of its name and size, and a peer's is its best.
#[test]
fn divergences_of_the_readme_were_measured() {
    let (readme, results) = (read(&root().join("README.md")), read(&root().join("benches/RESULTS.md")));
    let readme = section(&readme, "## Beside mlx-lm and llama.cpp");
    let measured = rows(section(&results, "### mobilellm-docs-6m"));
    let learned = rows(section(&results, "## Learned codes"));
    let kl = |rows: &[Vec<&str>], label: &str| row(rows, &[label])[2].to_owned();
    let mut figures = 0;
    for shown in
        rows(readme).into_iter().filter(|row| row.len() == 6).filter(|row| row[0].parse::<f64>().is_ok())
    {
        let bpw = shown[0];
        for (column, peer) in [(1, "mlx-lm"), (2, "llama.cpp")] {
            let fits = |row: &&Vec<&str>| {
                let size = row.get(1).and_then(|cell| cell.parse::<f64>().ok());
                row[0].starts_with(peer)
                    && size.is_some_and(|size| size <= bpw.parse::<f64>().unwrap() * 1.02)
            };
            let best = measured
                .iter()
                .filter(fits)
                .min_by(|a, b| a[2].parse::<f64>().unwrap().total_cmp(&b[2].parse().unwrap()));
            let Some(best) = best else {
                assert_eq!(shown[column], "none this small");
                continue;
            };
            let (figure, name) = shown[column].trim_end_matches(')').split_once(" (").unwrap();
            let (name, size) = name.split_once(", ").unwrap_or((name, bpw));
            let method = name.to_lowercase().replace("_quant", "");
            let is_named = best[0].to_lowercase().starts_with(&format!("{} {method}", peer.to_lowercase()));
            assert!(best[2] == figure && is_named, "README.md: {shown:?}, benches/RESULTS.md: {best:?}");
            assert!(
                (size.parse::<f64>().unwrap() - best[1].parse::<f64>().unwrap()).abs() < 1e-9,
                "{shown:?}"
            );
            figures += 1;
        }
        for (column, how) in [(3, "gptq"), (4, "distilled")] {
            assert_eq!(shown[column], kl(&measured, &format!("{how}, --target-bpw {bpw}")), "{how} at {bpw}");
            figures += 1;
        }
        let learned_row = |row: &&Vec<&str>| row.len() == 6 && row[0] == bpw && row[1] == shown[3];
        if let Some(row) = learned.iter().find(learned_row) {
            assert_eq!(shown[5], row[3], "codes learned at {bpw}");
            figures += 1;
        } else {
            assert_eq!(shown[5], "", "codes learned at {bpw}");
        }
    }
    assert_eq!(figures, 27);
    let bundled = rows(section(&results, "### mobilellm-docs-1m"));
    let [rtn, peer, gptq] = ["rtn, --target-bpw 4.5", "llama.cpp IQ4_XS", "gptq, --target-bpw 4.5"]
        .map(|label| kl(&bundled, label));
    let line = format!("then has {rtn}, and\nllama.cpp's IQ4_XS {peer} (GPTQ: {gptq})");
    assert!(readme.contains(&line), "README.md does not say: {line}");
}

/// Rows of README.md's table of times: the section of benches/RESULTS.md that they are of, the rows of mlx-lm, of mlx-lm with
/// the same BLAS and of mixbit there, and the column of the first figure.
const TIMES: [(&str, &str, [&[&str]; 3], usize); 8] = {
    const RAM_DISK: [&[&str]; 3] =
        [&["RAM disk", "mlx-lm"], &["RAM disk", "mlx-lm, same BLAS"], &["RAM disk", "mixbit"]];
    const LONG: &str = "smollm2-135m, 48 x 256 tokens";
    const SHORT: &str = "smollm2-135m, 2 x 256 tokens";
    const EVAL: &str = "smollm2-135m, 2 windows";
    const RUN: [&[&str]; 3] = [&["mlx-lm"], &["the same, same BLAS"], &["mixbit"]];
    [
        ("convert 950 M parameters to float16", "## convert", RAM_DISK, 2),
        ("quantize them to 4 bits", "## quantize", RAM_DISK, 2),
        (
            "measure and quantize 135 M to 5 bits, 12,288 tokens",
            "## target",
            [&[], &[LONG, "dynamic_quant, same BLAS"], &[LONG, "mixbit"]],
            2,
        ),
        (
            "the same with 512 tokens",
            "## target",
            [&[SHORT, "dynamic_quant"], &[SHORT, "dynamic_quant, same BLAS"], &[SHORT, "mixbit"]],
            2,
        ),
        (
            "perplexity, 135 M",
            "## eval",
            [&[EVAL, "mlx-lm"], &[EVAL, "mlx-lm, same BLAS"], &[EVAL, "mixbit"]],
            2,
        ),
        ("load 135 M in float16", "## run", RUN, 1),
        ("read a prompt", "## run", RUN, 2),
        ("generate", "## run", RUN, 3),
    ]
};

#[test]
fn times_of_the_readme_were_measured() {
    let (readme, results) = (read(&root().join("README.md")), read(&root().join("benches/RESULTS.md")));
    let readme = section(&readme, "## Beside mlx-lm and llama.cpp");
    let shown: Vec<Vec<&str>> =
        rows(readme).into_iter().filter(|row| row.len() == 5 && row[4].starts_with("`bench ")).collect();
    let labels: Vec<&str> = shown.iter().map(|row| row[0]).collect();
    assert_eq!(labels, TIMES.map(|(label, ..)| label), "the rows of README.md, and those that are compared");
    for (shown, (label, title, sources, first)) in shown.iter().zip(TIMES) {
        let measured = rows(section(&results, title));
        for (cell, source) in shown[1..4].iter().zip(sources) {
            if source.is_empty() {
                assert_eq!(*cell, "not run");
                continue;
            }
            let figures = numbers(cell);
            let medians = row(&measured, source)[first..].iter().map(|cell| numbers(cell)[0]);
            assert!(!figures.is_empty(), "README.md: {label}: {cell}");
            assert_eq!(
                figures,
                medians.take(figures.len()).collect::<Vec<_>>(),
                "README.md: {label}: {source:?}"
            );
        }
    }
    assert!(
        readme.contains("mixbit now takes 62 s") && section(&results, "## target").contains("now take 62 s,")
    );
}

/// Paths that a set-up makes, and the file that a reader makes.
const NOT_COMMITTED: [&str; 3] = [".engine/", ".engine/cargo.toml", "src/models/architectures/newllama.rs"];

#[test]
fn paths_for_contributors_exist() {
    let text = read(&root().join("CONTRIBUTING.md"));
    let is_path = |span: &&str| {
        let ends =
            [".rs", ".py", ".md", ".json", ".toml", ".cpp", ".svg"].iter().any(|end| span.ends_with(end));
        (ends || span.contains('/')) && !span.contains([' ', '(', ':', '"'])
    };
    let mut paths: Vec<&str> =
        prose_and_shell(&text).0.into_iter().flat_map(code_spans).filter(is_path).collect();
    // Links are checked as such, and their text is a file's name alone.
    paths.retain(|path| !text.contains(&format!("[`{path}`](")) && !NOT_COMMITTED.contains(path));
    assert!(paths.len() >= 10, "only {paths:?} were found");
    for path in paths {
        assert!(root().join(path).exists(), "CONTRIBUTING.md: {path} is not there");
    }
    let picture = text.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    let folders: BTreeSet<&str> =
        picture.split([' ', '\n', ',']).filter_map(|word| word.strip_suffix('/')).collect();
    for folder in &folders {
        let there = root().join(folder).is_dir() || root().join("src").join(folder).is_dir();
        assert!(there, "CONTRIBUTING.md: the picture has {folder}/, which is not there");
    }
    for entry in fs::read_dir(root().join("src")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        assert!(!entry.path().is_dir() || folders.contains(name.as_str()), "the picture lacks src/{name}/");
    }
}

#[test]
fn the_walk_through_an_architecture_is_its_code() {
    let text = read(&root().join("CONTRIBUTING.md"));
    let walk = section(&text, "## Add an architecture");
    let architectures = root().join("src/models/architectures");
    let (example, registry) =
        (read(&architectures.join("qwen3.rs")), read(&architectures.join("registry.rs")));
    let shown = walk.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    for line in shown.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        assert!(example.lines().any(|other| other.trim() == line), "qwen3.rs has no line `{line}`");
    }
    let row = walk.split('`').find(|span| span.starts_with("row(")).unwrap().replace("newllama", "qwen3");
    assert!(registry.contains(&row), "registry.rs has no {row}");
    let sources = [registry, read(&root().join("tests/goldens.rs"))].concat();
    for test in [
        "defaults_are_those_of_transformers",
        "no_default_is_left_out",
        "every_architecture_has_two_golden_cases",
    ] {
        assert!(walk.contains(test) && sources.contains(&format!("fn {test}()")), "{test}");
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
