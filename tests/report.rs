//! `mixbit report`, `inspect --html` and `curve --svg`: documents are parsed and compared with their sources.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{bundled, copy_folder, fixtures, json_file, make, mixbit, stderr, succeeded};
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

use mixbit::choose::correction::Correction;
use mixbit::models::inventory::{ClassBytes, Inventory, LayerEntry};
use mixbit::models::spec::Role;
use mixbit::report::html;
use mixbit::report::html::{Answer, Page, Sample};

/// Addresses that a page may contain: names, not places.
const NAMESPACE: &str = "http://www.w3.org/2000/svg";

/// Returns the bundled model at 4 bits per weight, with a record; made once.
fn quantized() -> PathBuf {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let home = MADE.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let settings = ["--target-bpw", "4", "--samples", "4", "--sequence-length", "64"];
        succeeded(&make("quantize", &bundled(), &home.path().join("small"), &settings));
        home
    });
    home.path().join("small")
}

/// Copies the quantized model and changes its record.
fn with_record(home: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let model = home.join("model");
    copy_folder(&quantized(), &model);
    let path = model.join("mixbit-report.json");
    let mut record = json_file(&path);
    change(&mut record);
    fs::write(&path, record.to_string()).unwrap();
    model
}

fn report(model: &Path, out: &Path, more: &[&str]) -> String {
    let output =
        mixbit([&["report", model.to_str().unwrap(), "--out", out.to_str().unwrap()], more].concat());
    succeeded(&output);
    fs::read_to_string(out).unwrap()
}

/// Parses a document and checks the rules that hold for all.
fn parsed(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).unwrap_or_else(|e| panic!("{e}"));
    let mut ids = BTreeSet::new();
    for node in document.descendants().filter(Node::is_element) {
        for attribute in node.attributes() {
            let (name, value) = (attribute.name(), attribute.value());
            assert!(
                !matches!(name, "src" | "href" | "srcset" | "action") && !name.starts_with("on"),
                "{name}={value}"
            );
            assert!(!["NaN", "inf", "undefined"].contains(&value), "{name}={value}");
            if name == "d" {
                assert!(
                    value.starts_with('M') && !value.contains("NaN") && !value.contains("inf"),
                    "{value}"
                );
            }
            if name == "id" {
                assert!(ids.insert(value.to_owned()), "{value} twice");
            }
        }
        let name = node.tag_name().name();
        assert!(!["script", "link", "img", "iframe", "object", "image", "use"].contains(&name), "{name}");
    }
    for labels in document.descendants().filter_map(|node| node.attribute("aria-labelledby")) {
        assert!(labels.split(' ').all(|id| ids.contains(id)), "{labels}");
    }
    for svg in
        document.descendants().filter(|node| node.has_tag_name("svg") || node.tag_name().name() == "svg")
    {
        let child = |name: &str| svg.children().find(|node| node.tag_name().name() == name).unwrap();
        assert_eq!(svg.attribute("role"), Some("img"));
        for name in ["title", "desc"] {
            assert!(!child(name).text().unwrap().trim().is_empty());
        }
    }
    for style in document.descendants().filter(|node| node.tag_name().name() == "style") {
        let style = text_of(style);
        assert!(!style.contains("url(") && !style.contains("@import"), "{style}");
    }
    document
}

fn text_of(node: Node<'_, '_>) -> String {
    node.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect()
}

fn section<'a, 'input>(document: &'a Document<'input>, id: &str) -> Node<'a, 'input> {
    let found = document.descendants().find(|node| node.attribute("id") == Some(id));
    found.unwrap_or_else(|| panic!("no section {id}"))
}

/// Returns the rows of the table in the section's `details`, cell by cell.
fn alternative(document: &Document<'_>, id: &str) -> Vec<Vec<String>> {
    let section = section(document, id);
    let details = section.descendants().find(|node| node.has_tag_name("details")).unwrap();
    let body = details.descendants().find(|node| node.has_tag_name("tbody")).unwrap();
    let rows = body.children().filter(|node| node.has_tag_name("tr"));
    rows.map(|row| row.children().filter(Node::is_element).map(text_of).collect()).collect()
}

#[track_caller]
fn close(written: &str, value: f64) {
    let found: f64 = written.parse().unwrap_or_else(|_| panic!("{written}"));
    assert!((found - value).abs() <= 0.006 * value.abs(), "{written} for {value}");
}

#[test]
fn every_section_is_there_and_holds_the_records_numbers() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("report.html");
    let text =
        report(&quantized(), &out, &["--reference", bundled().to_str().unwrap(), "--max-tokens", "24"]);
    assert!(!text.replace(NAMESPACE, "").contains("://"), "an address");
    assert!(!text.contains(home.path().to_str().unwrap()), "a path of this machine");
    let document = parsed(&text);
    for id in ["bytes", "bits", "curve", "sensitivity", "distance", "sample", "made"] {
        let section = section(&document, id);
        assert!(!text_of(section).contains("Left out"), "{id}");
        assert!(
            ["sample", "made", "bits"].contains(&id) || section.descendants().any(|n| n.has_tag_name("svg")),
            "{id}"
        );
    }
    let record = json_file(&quantized().join("mixbit-report.json"));
    bits_are_those_of_the_model(&document);
    sensitivities_are_those_of_the_record(&document, &record);
    curve_is_that_of_the_record(&document, &record);
    let bins = alternative(&document, "distance");
    let tokens: u64 = bins.iter().map(|row| row[2].parse::<u64>().unwrap()).sum();
    assert_eq!(json!(tokens), record["evaluation"]["tokens"]);
    let made = text_of(section(&document, "made"));
    let mlx = format!("and MLX {}", record["mlx"].as_str().unwrap());
    assert!(text.contains("answers by MLX 0."), "the engine of the answers");
    for expected in
        ["mixbit 0", &mlx, "mobilellm-docs-1m", "fisher-diagonal, seed 0", "4 sequences of 64 tokens"]
    {
        assert!(made.contains(expected), "{expected}: {made}");
    }
    let articles =
        section(&document, "sample").descendants().filter(|node| node.has_tag_name("article")).count();
    assert_eq!(articles, 2);
}

fn bits_are_those_of_the_model(document: &Document<'_>) {
    let output = mixbit(["inspect", "--json", quantized().to_str().unwrap()]);
    let inspected: Value = serde_json::from_slice(&output.stdout).unwrap();
    let layers = inspected["layers"].as_array().unwrap();
    let rows = alternative(document, "bits");
    assert_eq!(rows.len(), layers.len());
    let cells: Vec<_> = section(document, "bits").descendants().filter(|n| n.has_tag_name("td")).collect();
    for (row, layer) in rows.iter().zip(layers) {
        let path = layer["path"].as_str().unwrap();
        assert_eq!((row[0].as_str(), row[3].as_str()), (path, layer["bytes"].to_string().as_str()));
        let Some(bits) = layer["bits"].as_u64() else { continue };
        assert!(row[2].starts_with(&format!("{bits} bits, groups of {}", layer["group_size"])), "{row:?}");
        let titled = |cell: &&Node<'_, '_>| {
            cell.attribute("title").is_some_and(|t| t.starts_with(&format!("{path}:")))
        };
        let cell = cells.iter().find(titled).unwrap();
        assert!(text_of(*cell).starts_with(&bits.to_string()), "{path}");
        assert_eq!(cell.attribute("class"), Some(format!("b{bits}").as_str()));
        let title = cell.attribute("title").unwrap();
        assert!(title.contains("predicted KL") && title.contains("B;"), "{title}");
    }
}

fn sensitivities_are_those_of_the_record(document: &Document<'_>, record: &Value) {
    let rows: BTreeMap<String, Vec<String>> =
        alternative(document, "sensitivity").into_iter().map(|row| (row[0].clone(), row)).collect();
    let layers = record["sensitivities"].as_array().unwrap();
    assert_eq!(rows.len(), layers.len());
    for layer in layers {
        let row = &rows[layer["path"].as_str().unwrap()];
        for (written, bits) in row[1..].iter().zip([2, 3, 4, 8]) {
            let mut scores = layer["scores"].as_array().unwrap().iter();
            let score = scores.find(|s| s["bits"] == bits && s["group_size"] == 64).unwrap();
            close(written, score["kl"].as_f64().unwrap());
        }
    }
    let panels =
        section(document, "sensitivity").descendants().filter(|node| node.has_tag_name("svg")).count();
    let roles: BTreeSet<_> =
        layers.iter().map(|layer| layer["path"].as_str().unwrap().rsplit('.').next()).collect();
    assert_eq!(panels, roles.len());
}

fn curve_is_that_of_the_record(document: &Document<'_>, record: &Value) {
    let rows = alternative(document, "curve");
    let of = |what: &str| rows.iter().find(|row| row[0] == what).unwrap().clone();
    let predicted = of("this model, predicted");
    close(&predicted[3], record["predicted_kl"].as_f64().unwrap());
    close(&predicted[1], record["bpw_quantized"].as_f64().unwrap());
    close(&of("this model, measured")[3], record["evaluation"]["kl_mean"].as_f64().unwrap());
    let correction: Correction = serde_json::from_value(record["correction"].clone()).unwrap();
    assert!(!correction.measured.is_empty());
    for bits in [3, 4, 5, 6, 8] {
        let sum: f64 = record["sensitivities"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|layer| layer["scores"].as_array().unwrap())
            .filter(|score| score["bits"] == bits && score["group_size"] == 64)
            .map(|score| score["kl"].as_f64().unwrap())
            .sum();
        let row = of(&format!("uniform {bits}-bit, predicted"));
        close(&row[3], correction.whole(sum));
        close(&row[1], f64::from(bits) + 0.5);
    }
    let mixed: Vec<_> = rows.iter().filter(|row| row[0].starts_with("mixed")).collect();
    let curve = record["curve"].as_array().unwrap();
    assert!(mixed.len() > 20 && mixed.len() <= curve.len());
    for (row, point) in mixed.iter().zip(curve) {
        assert_eq!(row[2], point["bytes"].to_string());
        close(&row[3], point["kl"].as_f64().unwrap());
    }
}

#[test]
fn the_same_input_gives_the_same_page() {
    let home = tempfile::tempdir().unwrap();
    let first = report(&quantized(), &home.path().join("a.html"), &[]);
    assert_eq!(first, report(&quantized(), &home.path().join("b.html"), &[]));
    assert!(first.contains("asks for one"), "nothing was asked");
    assert!(!first.contains("<article>"));
}

#[test]
fn names_and_texts_from_files_stay_text() {
    let home = tempfile::tempdir().unwrap();
    let hostile = "</style><script>alert(\"1\")</script>&amp;'\u{1}";
    let out = home.path().join("report.html");
    let model = with_record(home.path(), |record| {
        record["base_model"] = json!(hostile);
        record["recipe"] = json!(hostile);
        record["evaluation"]["text"] = json!(hostile);
    });
    let renamed = home.path().join("<img src=x onerror=alert(1)>");
    fs::rename(&model, &renamed).unwrap();
    let text = report(&renamed, &out, &["--prompt", "<script>& \"what\"", "--max-tokens", "4"]);
    let document = parsed(&text);
    let heading = document.descendants().find(|node| node.has_tag_name("h1")).unwrap();
    assert_eq!(text_of(heading), "<img src=x onerror=alert(1)>");
    assert_eq!(document.descendants().filter(|node| node.has_tag_name("style")).count(), 1);
    let clean = hostile.replace('\u{1}', "\u{fffd}");
    assert!(text_of(section(&document, "made")).contains(&clean));
    assert!(text_of(section(&document, "distance")).contains(&clean));
    assert!(text_of(section(&document, "sample")).contains("<script>& \"what\""));
}

#[test]
fn hostile_layers_and_answers_stay_text() {
    let path = "model.\"><script>x</script>.layers";
    let layer = |block, role| LayerEntry {
        path: path.to_owned(),
        shape: vec![64, 64],
        bits: Some(4),
        group_size: Some(32),
        mode: Some("affine"),
        form: None,
        bytes: 10,
        block,
        role,
    };
    let inventory = Inventory {
        layers: vec![layer(Some(0), Role::Q), layer(None, Role::Head)],
        bytes: ClassBytes { total: 20, codes: 20, ..ClassBytes::default() },
        parameters: 8192,
    };
    let answer = |text: &str| Answer { by: "<b>".to_owned(), text: text.to_owned(), tokens: 2, ended: true };
    let answers = vec![answer("a <mark>\u{0}"), answer("a </pre>")];
    let sample = Sample { prompt: "<p>".to_owned(), answers };
    let page = Page {
        name: "<!--",
        architecture: "]]>",
        inventory: &inventory,
        notes: &["<note>".to_owned()],
        before: None,
        record: None,
        measured: None,
        sample: Some(&sample),
        mlx: Some("<i>"),
    };
    let text = html::page(&page).unwrap();
    let document = parsed(&text);
    assert_eq!(alternative(&document, "bits")[0][0], path);
    let answers: Vec<_> =
        document.descendants().filter(|node| node.has_tag_name("pre")).map(text_of).collect();
    assert_eq!(answers, ["a <mark>\u{fffd}", "a </pre>"]);
}

#[test]
fn a_float_model_says_so_and_leaves_out_what_is_not_known() {
    let home = tempfile::tempdir().unwrap();
    let text = report(&bundled(), &home.path().join("report.html"), &[]);
    let document = parsed(&text);
    let lead = document.descendants().find(|node| node.attribute("class") == Some("lead")).unwrap();
    assert!(text_of(lead).starts_with("A float model"), "{}", text_of(lead));
    for id in ["curve", "sensitivity", "distance", "made"] {
        assert!(text_of(section(&document, id)).contains("Left out"), "{id}");
    }
    assert!(alternative(&document, "bits").iter().all(|row| row[2] == "float"));
}

#[test]
fn without_sensitivities_their_sections_are_left_out() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("report.html");
    let model = home.path().join("fixed");
    succeeded(&make("quantize", &bundled(), &model, &["--bits", "4"]));
    let text = report(&model, &out, &[]);
    let document = parsed(&text);
    for (id, there) in [("curve", false), ("sensitivity", false), ("distance", false), ("made", true)] {
        assert_eq!(text_of(section(&document, id)).contains("Left out"), !there, "{id}");
    }
}

#[test]
fn a_record_without_sensitivities_leaves_their_sections_out() {
    let missing = |record: &mut Value| drop(record.as_object_mut().unwrap().remove("sensitivities"));
    let null = |record: &mut Value| record["sensitivities"] = Value::Null;
    for change in [missing as fn(&mut Value), null] {
        let home = tempfile::tempdir().unwrap();
        let model = with_record(home.path(), change);
        let text = report(&model, &home.path().join("report.html"), &[]);
        let document = parsed(&text);
        assert!(text_of(section(&document, "sensitivity")).contains("Left out"));
        assert!(!text_of(section(&document, "distance")).contains("Left out"));
    }
}

#[test]
fn odd_numbers_in_a_record_draw_nothing_odd() {
    let home = tempfile::tempdir().unwrap();
    let model = with_record(home.path(), |record| {
        record["curve"] = json!([{"bpw": 0.0, "bytes": 0, "kl": 0.0}, {"bpw": 3.0, "bytes": 1, "kl": -1.0}]);
        record["evaluation"]["kl_histogram"]["per_decade"] = json!(0.0);
        record["evaluation"]["kl_mean"] = json!(0.0);
        record["predicted_kl"] = json!(-1e-3);
        record["bytes_after"]["total"] = json!(1);
        record["sensitivities"].as_array_mut().unwrap().truncate(1);
        record["sensitivities"][0]["scores"][0]["kl"] = json!(-1.0);
    });
    let text = report(&model, &home.path().join("report.html"), &[]);
    let document = parsed(&text);
    assert!(text_of(section(&document, "curve")).contains("Left out"));
    assert!(text.contains("speaks of other weights"));
}

#[test]
fn bad_records_and_outputs_are_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("report.html");
    let refused = |arguments: &[&str], expected: &str| {
        let output = mixbit(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{expected}: {}", stderr(&output));
    };
    let model = with_record(home.path(), |record| record["version"] = json!(7));
    let (model_path, out_path) = (model.to_str().unwrap(), out.to_str().unwrap());
    let arguments = ["report", model_path, "--out", out_path];
    refused(
        &arguments,
        "mixbit-report.json: not a report of this version of mixbit: its format is version 7",
    );
    for bad in ["{}", "{\"version\": 1,", "[]", ""] {
        fs::write(model.join("mixbit-report.json"), bad).unwrap();
        refused(&arguments, "mixbit-report.json: not a report of this version of mixbit");
    }
    assert!(!out.exists());
    let good = quantized();
    let good = good.to_str().unwrap();
    let nowhere = home.path().join("report.html/such/report.html");
    fs::write(&out, "a file").unwrap();
    refused(&["report", good, "--out", nowhere.to_str().unwrap()], "report.html/such/report.html");
    refused(&["report", good, "--out", home.path().to_str().unwrap(), "--overwrite"], "directory");
    fs::write(&out, "mine").unwrap();
    refused(&["report", good, "--out", out_path], "already exists");
    let other = fixtures().join("golden/llama4-text-tied");
    refused(
        &["report", good, "--out", out_path, "--overwrite", "--reference", other.to_str().unwrap()],
        "vocabulary",
    );
    let output = mixbit(["report", good, "--out", out_path, "--overwrite", "--prompt", ""]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("prompt is empty"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(&out).unwrap(), "mine");
    succeeded(&mixbit(["report", good, "--out", out_path, "--overwrite"]));
    assert!(fs::read_to_string(&out).unwrap().starts_with("<!DOCTYPE html>"));
}

#[test]
fn inspect_draws_what_a_report_without_a_sample_has() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("model.html");
    let model = quantized();
    let output = mixbit(["inspect", model.to_str().unwrap(), "--html", out.to_str().unwrap()]);
    succeeded(&output);
    assert!(output.stdout.is_empty());
    let text = fs::read_to_string(&out).unwrap();
    let document = parsed(&text);
    assert_eq!(alternative(&document, "bits").len(), 29);
    assert_eq!(text, report(&model, &home.path().join("report.html"), &[]));
    let without = home.path().join("without");
    copy_folder(&model, &without);
    fs::remove_file(without.join("mixbit-report.json")).unwrap();
    let bare = home.path().join("bare.html");
    succeeded(&mixbit(["inspect", without.to_str().unwrap(), "--html", bare.to_str().unwrap()]));
    let bare = fs::read_to_string(bare).unwrap();
    let bare = parsed(&bare);
    for id in ["curve", "sensitivity", "distance", "made"] {
        assert!(text_of(section(&bare, id)).contains("Left out"), "{id}");
    }
    let again = ["inspect", model.to_str().unwrap(), "--html", out.to_str().unwrap()];
    let output = mixbit(again);
    assert!(stderr(&output).contains("already exists\nhint: --overwrite"), "{}", stderr(&output));
    succeeded(&mixbit([&again[..], &["--overwrite"]].concat()));
    let file = model.join("model.safetensors");
    fs::remove_file(&out).unwrap();
    let output = mixbit(["inspect", file.to_str().unwrap(), "--html", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("model folder"), "{}", stderr(&output));
}

#[test]
fn a_table_alone_draws_its_curve() {
    let home = tempfile::tempdir().unwrap();
    let (table, out) = (home.path().join("table.json"), home.path().join("curve.svg"));
    let record = json_file(&quantized().join("mixbit-report.json"));
    let value = json!({"measurement": record["measurement"], "layers": record["sensitivities"]});
    fs::write(&table, value.to_string()).unwrap();
    succeeded(&mixbit(["curve", table.to_str().unwrap(), "--svg", out.to_str().unwrap()]));
    let text = fs::read_to_string(&out).unwrap();
    let document = parsed(&text);
    assert_eq!(document.root_element().tag_name().namespace(), Some(NAMESPACE));
    let class =
        |class: &str| document.descendants().filter(|node| node.attribute("class") == Some(class)).count();
    assert_eq!(class("uniform"), 5 + 1, "points and the legend");
    assert_eq!((class("curve"), class("predicted"), class("measured")), (2, 0, 0));
    let again = ["curve", table.to_str().unwrap(), "--svg", out.to_str().unwrap()];
    let output = mixbit(again);
    assert!(stderr(&output).contains("already exists\nhint: --overwrite"), "{}", stderr(&output));
    succeeded(&mixbit([&again[..], &["--overwrite"]].concat()));
    let nowhere = home.path().join("curve.svg/curve.svg");
    let output = mixbit(["curve", table.to_str().unwrap(), "--svg", nowhere.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn without_a_tokenizer_there_are_no_answers() {
    let home = tempfile::tempdir().unwrap();
    let (float, out) = (home.path().join("float"), home.path().join("page.html"));
    copy_folder(&bundled(), &float);
    fs::remove_file(float.join("tokenizer.json")).unwrap();
    let (model, float) = (quantized(), float.to_str().unwrap().to_owned());
    let arguments =
        ["report", model.to_str().unwrap(), "--reference", &float, "--out", out.to_str().unwrap()];
    let output = mixbit(arguments);
    succeeded(&output);
    assert!(stderr(&output).contains("the answers are left out") && out.exists(), "{}", stderr(&output));
}
