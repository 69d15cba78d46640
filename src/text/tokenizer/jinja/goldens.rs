//! Renderings held against those of Jinja2 as transformers sets it up.

use minijinja::Value;
use minijinja::value::Serde;
use std::path::{Path, PathBuf};

use super::render::render;

fn rendered(template: &str, variables: &serde_json::Value) -> Result<String, String> {
    let variables = Value::from(Serde(variables));
    render(Path::new("chat_template.jinja"), template, variables).map_err(|e| e.to_string())
}

/// Every `[template, text]` of the files, where the text is null if Jinja2 refuses, that renders otherwise here.
fn differing(files: &[PathBuf]) -> (usize, Vec<String>) {
    let (mut count, mut wrong) = (0, Vec::new());
    for file in files {
        let golden: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let template = case[0].as_str().unwrap();
            let variables = case.get(2).unwrap_or(&golden["variables"]);
            let rendered = rendered(template, variables);
            count += 1;
            if rendered.as_deref().ok() != case[1].as_str() {
                wrong
                    .push(format!("{template:?}\n    expected {:?}\n    got {rendered:?}", case[1].as_str()));
            }
        }
    }
    (count, wrong)
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn templates_render_as_in_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden/templates");
    let (count, wrong) = differing(&files_in(&folder));
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 1000, "{count}");
}

/// Jinja2 renders each of these; docs/texts.md lists what is not there.
#[test]
fn gaps_are_errors() {
    for template in [
        "{{ [1]|random }}",
        "{{ lipsum() }}",
        r"{{ '\N{BULLET}' }}",
        "{% block a %}x{% endblock %}{{ self.a() }}",
        "{% autoescape true %}x{% endautoescape %}",
        "{% macro f() %}{{ caller(1) }}{% endmacro %}{% call f() %}{{ varargs }}{% endcall %}",
        "{% macro f() %}{{ caller(a=1) }}{% endmacro %}{% call f() %}{{ kwargs }}{% endcall %}",
        "{% for i in [1] %}{% with %}{% break %}{% endwith %}{% endfor %}x",
        "{% for i in [1] %}{% set x %}{% continue %}{% endset %}{% endfor %}x",
        "{% for i in [1] %}{% filter upper %}{% break %}{% endfilter %}{% endfor %}x",
        "{{ 170141183460469231731687303715884105728 }}",
        "{{ 2 ** 127 }}",
        "{{ 9999999999999999999999999 * 9999999999999999999999999 }}",
        "{{ '170141183460469231731687303715884105728'|int }}",
        "{{ (1).bit_length }}",
        "{{ (1).bit_length() }}",
        "{{ true.conjugate }}",
        "{{ (1.5).is_integer() }}",
        "{{ 'a'|attr('upper') }}",
        "{{ [{}.items] }}",
    ] {
        assert!(rendered(template, &serde_json::Value::Null).is_err(), "{template}");
    }
}

#[test]
fn numbers_have_parts_and_digits_of_any_script() {
    for (template, expected) in [
        ("{{ (7).real }} {{ (7).imag }} {{ (7).numerator }} {{ (7).denominator }}", "7 0 7 1"),
        ("{{ true.real }} {{ true.imag }} {{ false.numerator }} {{ true.denominator }}", "1 0 0 1"),
        ("{{ (1.5).real }} {{ (1.5).imag }} [{{ (1.5).numerator }}] [{{ (1).nothing }}]", "1.5 0.0 [] []"),
        (
            "{{ '\u{661}\u{662}'|int }} {{ '-\u{ff11}_\u{966}'|int }} {{ '\u{661}.\u{665}'|float }}",
            "12 -10 1.5",
        ),
        ("{{ '\u{1d7d9}\u{1d7ff}'|int }} {{ '\u{b2}'|int }}", "19 0"),
    ] {
        assert_eq!(rendered(template, &serde_json::Value::Null).as_deref(), Ok(expected), "{template}");
    }
}

/// Templates of models cannot be kept here; `fixtures/render_templates.py` writes such files for a folder of them.
#[test]
#[ignore = "needs MIXBIT_TEMPLATES, a folder of golden files"]
fn templates_of_models() {
    let folder =
        std::env::var_os("MIXBIT_TEMPLATES").expect("MIXBIT_TEMPLATES is the folder of golden files");
    let (count, wrong) = differing(&files_in(Path::new(&folder)));
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}
