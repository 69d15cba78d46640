//! The filters by name.

use minijinja::State;

use super::sequences::Selected;
use super::{markup, numbers, order, sequences, text, urlize, wrap};
use crate::text::tokenizer::jinja::arguments::Arguments;
use crate::text::tokenizer::jinja::json;
use crate::text::tokenizer::jinja::values::Outcome;

/// The function of a filter; the first argument is the value that is filtered.
pub(crate) type Filter = fn(&mut State, Arguments) -> Outcome;

/// All filters of Jinja2 but `random`, by name.
pub(crate) const ALL: [(&str, Filter); 53] = [
    ("abs", |_, a| numbers::abs(a)),
    ("attr", |_, a| sequences::attr(a)),
    ("batch", |_, a| sequences::batch(a)),
    ("capitalize", |_, a| text::capitalize(a)),
    ("center", |_, a| text::center(a)),
    ("count", |_, a| sequences::length(a)),
    ("d", |_, a| sequences::default(a)),
    ("default", |_, a| sequences::default(a)),
    ("dictsort", |_, a| order::dictsort(a)),
    ("e", |_, a| markup::escape(a)),
    ("escape", |_, a| markup::escape(a)),
    ("filesizeformat", |_, a| numbers::filesizeformat(a)),
    ("first", |_, a| sequences::first(a)),
    ("float", |_, a| numbers::float(a)),
    ("forceescape", |_, a| markup::forceescape(a)),
    ("format", |_, a| text::format(a)),
    ("groupby", |_, a| order::groupby(a)),
    ("indent", |_, a| text::indent(a)),
    ("int", |_, a| numbers::int(a)),
    ("items", |_, a| sequences::items(a)),
    ("join", |_, a| sequences::join(a)),
    ("last", |_, a| sequences::last(a)),
    ("length", |_, a| sequences::length(a)),
    ("list", |_, a| sequences::list(a)),
    ("lower", |_, a| text::lower(a)),
    ("map", sequences::map),
    ("max", |_, a| order::extreme(a, std::cmp::Ordering::Greater)),
    ("min", |_, a| order::extreme(a, std::cmp::Ordering::Less)),
    ("reject", |state, a| sequences::select(state, a, Selected::Failing)),
    ("rejectattr", |state, a| sequences::selectattr(state, a, Selected::Failing)),
    ("replace", |_, a| text::replace(a)),
    ("reverse", |_, a| sequences::reverse(a)),
    ("round", |_, a| numbers::round(a)),
    ("safe", |_, a| markup::safe(a)),
    ("select", |state, a| sequences::select(state, a, Selected::Passing)),
    ("selectattr", |state, a| sequences::selectattr(state, a, Selected::Passing)),
    ("slice", |_, a| sequences::slice(a)),
    ("sort", |_, a| order::sort(a)),
    ("string", |_, a| text::string(a)),
    ("striptags", |_, a| markup::striptags(a)),
    ("sum", |_, a| sequences::sum(a)),
    ("title", |_, a| text::title(a)),
    ("tojson", |_, a| json::filter(a)),
    ("trim", |_, a| text::trim(a)),
    ("truncate", |_, a| text::truncate(a)),
    ("unique", |_, a| order::unique(a)),
    ("upper", |_, a| text::upper(a)),
    ("urlize", |_, a| urlize::urlize(a)),
    ("urlencode", |_, a| markup::urlencode(a)),
    ("wordcount", |_, a| text::wordcount(a)),
    ("wordwrap", |_, a| wrap::wordwrap(a)),
    ("xmlattr", |_, a| markup::xmlattr(a)),
    ("pprint", |_, a| wrap::pprint(a)),
];

/// The filter `name`.
pub(crate) fn find(name: &str) -> Option<Filter> {
    ALL.iter().find(|(known, _)| *known == name).map(|&(_, filter)| filter)
}
