//! Templates that would take forever, or all memory, or the stack.

use minijinja::{Value, context};
use proptest::prelude::*;
use std::path::Path;
use std::time::Instant;

use super::render::render;

fn fails(template: &str) -> String {
    let begin = Instant::now();
    let variables = context! { deep => Value::from_pairs([("a", vec![1, 2])]) };
    let error = render(Path::new("t"), template, variables).map(|text| text.len()).unwrap_err().to_string();
    assert!(begin.elapsed().as_secs() < 60, "{template:.80} took {:?}", begin.elapsed());
    error
}

#[test]
fn memory_is_bounded() {
    let doubling = |begin: &str, step: &str| {
        let step = step.replace('X', "ns.x");
        format!(
            "{{% set ns = namespace(x={begin}) %}}{{% for i in range(64) %}}{{% set ns.x = {step} %}}{{% endfor %}}"
        )
    };
    for template in [
        doubling("'a'", "X + X"),
        doubling("'a'", "X ~ X"),
        doubling("'a'", "X * 2"),
        doubling("'ab'", "X.replace('a', 'aa').replace('b', 'bb')"),
        doubling("'ab'", "X|replace('b', X)"),
        doubling("'a'", "X.join([X, X, X])"),
        doubling("'a'", "[X, X]|join"),
        doubling("'a'", "'%s%s' % (X, X)"),
        doubling("'a'", "'{0}{0}'.format(X)"),
        doubling("'a'", "[X, X]|string"),
        doubling("'a'", "[X, X]|tojson"),
        doubling("'a&'", "(X ~ X)|escape"),
        doubling("'a '", "(X ~ X)|urlencode"),
        doubling("'a'", "(X ~ X)|upper"),
        doubling("[1]", "X + X"),
        doubling("[1]", "X * 2"),
        doubling("[1]", "[X, X]|sum(start=[])"),
        doubling("'ab'", "X.translate({97: X, 98: X})"),
        "{{ 'a' * 99999999999 }}".to_owned(),
        "{{ ['a'] * 99999999999 }}".to_owned(),
        "{{ 'a'.ljust(99999999999) }}".to_owned(),
        "{{ 'a'.zfill(99999999999) }}".to_owned(),
        "{{ 'a'|center(99999999999) }}".to_owned(),
        "{{ 'a\nb'|indent(99999999999) }}".to_owned(),
        "{{ '%99999999999d' % 1 }}".to_owned(),
        "{{ '%.99999999999d' % 1 }}".to_owned(),
        "{{ '%*d' % (99999999999, 1) }}".to_owned(),
        "{{ '{:99999999999}'.format(1) }}".to_owned(),
        "{{ 'a\t'.expandtabs(99999999999) }}".to_owned(),
        "{{ [1]|tojson(indent=99999999999) }}".to_owned(),
        "{{ [1]|batch(99999999999, 0)|list }}".to_owned(),
        "{{ [1]|slice(99999999999, 0)|list }}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = ns.x + range(999)|list %}{% endfor %}".to_owned(),
    ] {
        let error = fails(&template);
        assert!(error.contains("bytes of values altogether"), "{template}: {error}");
    }
}

#[test]
fn what_is_written_is_bounded() {
    for template in [
        "{% for i in range(99999) %}{{ 'long' * 9999 }}{% endfor %}".to_owned(),
        "{% set x %}{% for i in range(99999) %}{{ 'long' * 9999 }}{% endfor %}{% endset %}".to_owned(),
        format!(
            "{{% set x %}}{{% for i in range(99999) %}}{}{{% endfor %}}{{% endset %}}",
            "long".repeat(9999)
        ),
        format!(
            "{{% macro f() %}}{{% for i in range(99999) %}}{}{{% endfor %}}{{% endmacro %}}{{{{ f() }}}}",
            "long".repeat(9999)
        ),
    ] {
        let error = fails(&template);
        assert!(error.contains("writes more than"), "{template:.80}: {error}");
    }
}

#[test]
fn time_is_bounded() {
    for template in [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}{{ 'a' in 'b' }}{% endfor %}{% endfor %}",
        "{% set x = 'a' * 9999999 %}{% for i in range(99999) %}{% set y = 'b' in x %}{% endfor %}",
        "{% set x = 'a' * 9999999 %}{% for i in range(99999) %}{% set y = x|length %}{% endfor %}",
        "{% set x = 'a' * 9999999 %}{% for i in range(99999) %}{% set y = x.find('b') %}{% endfor %}",
        "{% set x = range(99999)|list %}{% for i in range(99999) %}{% set y = -1 in x %}{% endfor %}",
        "{% set x = range(99999)|list %}{% for i in range(99999) %}{% set y = x.index(-1) %}{% endfor %}",
        "{% set x = range(99999)|list %}{% for i in range(99999) %}{% set y = x|unique|list %}{% endfor %}",
        "{% set x = range(99999)|list %}{% for i in range(99999) %}{% set y = x == x + [] %}{% endfor %}",
        "{% set x = range(99999)|list %}{% for i in range(99999) %}{% set y = x|sort %}{% endfor %}",
    ] {
        fails(template);
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = |open: &str, close: &str| format!("{{{{ {}1{} }}}}", open.repeat(5000), close.repeat(5000));
    let growing = |step: &str| {
        let step = step.replace('X', "ns.x");
        format!(
            "{{% set ns = namespace(x=1) %}}{{% for i in range(99999) %}}{{% set ns.x = {step} %}}{{% endfor %}}"
        )
    };
    for template in [
        deep("(", ")"),
        deep("[", "]"),
        deep("{1:", "}"),
        deep("-", ""),
        deep("not ", ""),
        deep("f(", ")"),
        deep("a[", "]"),
        deep("1 + ", ""),
        deep("1 if 1 else ", ""),
        deep("1 and ", ""),
        deep("a.", ""),
        deep("", "|upper"),
        deep("", " is defined"),
        deep("a ** ", ""),
        "{% if 1 %}".repeat(5000),
        format!("{{% if 1 %}}{}", "{% elif 1 %}".repeat(5000)),
        format!("{{% set {}a{} = 1 %}}", "(".repeat(5000), ")".repeat(5000)),
        growing("[X]"),
        growing("(X,)"),
        growing("{'a': X}"),
        growing("namespace(x=X)"),
        growing("dict(x=X)"),
        growing("[X]|batch(1)"),
        growing("[X]|map('list')"),
        growing("cycler(X)"),
        growing("[X]|groupby(0, 0)"),
        growing("[X].copy"),
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x == [ns] }}{{ ns.x|tojson }}".to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% macro f(x) %}{{ f([x]) }}{% endmacro %}{{ f(1) }}".to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        format!(
            "{{% set ns = namespace(x=[1]) %}}{}{{{{ ns.x }}}}",
            "{% set ns.x = [ns.x, ns.x] %}".repeat(64)
        ),
        format!(
            "{{% set ns = namespace(x=[1]) %}}{}{{{{ ns.x == ns.x + [] }}}}",
            "{% set ns.x = [ns.x, ns.x] %}".repeat(64)
        ),
    ] {
        fails(&template);
    }
    // What is long and not deep.
    let long = format!("{{{{ {} }}}}", vec!["'a'"; 5000].join(" ~ "));
    assert_eq!(render(Path::new("t"), &long, context! {}).unwrap().len(), 5000);
}

proptest! {
    #[test]
    fn no_template_is_too_strange(source in "([{}%#'\"\\\\() a.|~é\r\n\\[\\]:,-]|\\{\\{|\\}\\}|\\{%|%\\}|if |for |in |set |end|raw|[0-9]){0,40}") {
        let _ = render(Path::new("t"), &source, context! {});
    }

    #[test]
    fn no_call_is_too_strange(
        value in prop::sample::select(vec!["'a'", "''", "[1]", "[]", "()", "{}", "none", "nope", "-1", "1.5", "1e999", "true",
            "range(3)", "{'a': 1}", "'é b'", "[[1], 'a']", "'%s{}'"]),
        name in prop::sample::select(
            crate::text::tokenizer::jinja::filters::table::ALL.iter().map(|(name, _)| *name).chain(super::strings::METHODS).collect::<Vec<_>>()),
        args in prop::collection::vec(prop::sample::select(vec!["'a'", "''", "none", "nope", "-1", "0", "1", "99", "1e999", "true",
            "[1]", "{}", "'%'", "'{}'", "-9999999999999999999999", "('a',)", "2 ** 100"]), 0..4),
    ) {
        let args = args.join(", ");
        for template in [format!("{{{{ {value}|{name}({args}) }}}}"), format!("{{{{ ({value}).{name}({args}) }}}}"),
            format!("{{{{ {value}|map('{name}', {args})|list }}}}"), format!("{{{{ {value} % ({args},) }}}}")] {
            let _ = render(Path::new("t"), &template, context! {});
        }
    }
}
