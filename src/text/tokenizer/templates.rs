//! Finding a model's chat templates and choosing one of them, by the rules of transformers 5.23. Every decision beyond
//! those rules leaves a note.

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

use super::chat::{ChatTemplate, Origin};
use super::template_entries::{DEFAULT, Entry, entries};
use super::tokenizer::read_object;
use crate::error::{Error, Result};
use crate::files::model_files::{ModelFiles, TEMPLATES};

/// The template that transformers reads first.
pub(crate) const FILE: &str = "chat_template.jinja";

/// A file of processors of earlier versions of transformers, which its tokenizers do not read.
pub(crate) const LEGACY_FILE: &str = "chat_template.json";

/// The template that is used when there are tools.
const TOOL_USE: &str = "tool_use";

/// The template that the user chose, used in place of the one that would be picked from the model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChosenTemplate {
    /// The model's template of this name.
    Named(String),
    /// A template that is not one of the model's own.
    Source {
        /// The file that the template came from.
        path: PathBuf,
        /// The template's text, in Jinja.
        source: String,
    },
}

/// The chat templates of a model, by name.
#[derive(Default)]
pub(crate) struct Templates {
    named: Vec<(String, ChatTemplate)>,
    /// The name of the only one to use.
    chosen: Option<String>,
    /// Templates that cannot be read.
    broken: Vec<BrokenTemplate>,
    /// Note on a `chat_template.json` that is left out.
    left_out: Option<String>,
    /// Notes for the user, one line for each decision beyond transformers' rules.
    notes: Vec<String>,
}

/// Template that cannot be read. That matters where it is the one to be used.
struct BrokenTemplate {
    name: String,
    fault: Error,
}

impl Templates {
    /// Reads the templates of a model's files: `chat_template.jinja` is called `default`, each
    /// `additional_chat_templates/NAME.jinja` by its name. If there are no such files, `chat_template` of `config`
    /// (`tokenizer_config.json`) is read, which is a string, a list of `{name, template}` or an object from names to
    /// templates.
    ///
    /// transformers reads no more than that. If that leaves no template for a conversation, `chat_template` beside
    /// further files, or `chat_template.json`, is taken with a note, and a broken `chat_template.json` is left out with one.
    /// Another template that cannot be read is an error once it is to be used, and no reason to leave out the others.
    ///
    /// # Errors
    /// Fails if the folder cannot be listed.
    pub(crate) fn read(files: &ModelFiles, config_path: &Path, config: &Map<String, Value>) -> Result<Self> {
        let mut templates = Self::default();
        templates.read_jinja_files(files)?;
        if templates.get(DEFAULT).is_some() || templates.fault(DEFAULT).is_some() {
            return Ok(templates);
        }
        let has_files = templates.has_any();
        for Entry { name, source } in entries(config_path, config.get("chat_template")) {
            if has_files && name != DEFAULT {
                continue;
            }
            let source = match source {
                Ok(source) => source,
                Err(fault) => {
                    templates.set_broken(name, fault);
                    continue;
                }
            };
            if has_files {
                templates.notes.push(format!(
                    "chat template: {TEMPLATES} has no `{DEFAULT}`; that of {} is used, which transformers would not read",
                    file_name(config_path)
                ));
            }
            templates.add(name, config_path.to_owned(), source, Origin::Model);
        }
        // transformers' tokenizers do not read it, so that a broken one is no reason to stop.
        if !templates.has_any()
            && files.has(LEGACY_FILE)
            && let Err(error) = templates.read_legacy_file(files)
        {
            templates.left_out = Some(format!("chat template: {LEGACY_FILE} is left out: {error}"));
        }
        Ok(templates)
    }

    fn read_jinja_files(&mut self, files: &ModelFiles) -> Result<()> {
        if files.has_folder(FILE) {
            let message = "is a folder, expected a file with the chat template";
            self.set_broken(DEFAULT.to_owned(), Error::file(files.path_of(FILE), message));
        }
        // transformers reads this one first, so that a further file of the same name wins.
        let mut of_files = vec![(DEFAULT.to_owned(), FILE.to_owned())];
        for path in files.names()? {
            let name = path.strip_prefix(TEMPLATES).and_then(|rest| rest.strip_prefix('/'));
            if let Some(name) = name.and_then(|name| name.strip_suffix(".jinja")) {
                of_files.push((name.to_owned(), path.clone()));
            }
        }
        for (name, path) in of_files {
            if !files.has(&path) {
                continue;
            }
            match files.read_text(&path) {
                Ok(source) => self.add(name, files.path_of(&path), source, Origin::Model),
                Err(fault) => self.set_broken(name, fault),
            }
        }
        Ok(())
    }

    /// Adds a template that cannot be read, in place of one of the same name.
    fn set_broken(&mut self, name: String, fault: Error) {
        let hint = "take the file from the model's repository again, or give another template with setting `chat_template`";
        self.remove(&name);
        self.broken.push(BrokenTemplate { name, fault: fault.hint_if_none(hint) });
    }

    /// Removes the template of this name.
    fn remove(&mut self, name: &str) {
        self.named.retain(|(other, _)| other != name);
        self.broken.retain(|other| other.name != name);
    }

    /// Returns the fault of the template of this name.
    pub(crate) fn fault(&self, name: &str) -> Option<&Error> {
        self.broken.iter().find(|other| other.name == name).map(|other| &other.fault)
    }

    /// Returns the fault of the template that a conversation needs: the preferred one, or the first where none can be read.
    pub(crate) fn fault_in_use(&self, has_tools: bool) -> Option<&Error> {
        if self.chosen.is_some() {
            return None;
        }
        let preferred = preferred(has_tools).find(|name| self.names().contains(name));
        match preferred {
            Some(name) => self.fault(name),
            None if self.named.is_empty() => self.broken.first().map(|template| &template.fault),
            None => None,
        }
    }

    /// Returns a note on each template that cannot be read; such a one is copied as it is, and not used.
    pub(crate) fn broken_notes(&self) -> impl Iterator<Item = String> {
        let note =
            |BrokenTemplate { fault, .. }: &BrokenTemplate| format!("chat template: {fault}; it is not used");
        self.broken.iter().map(note).chain(self.left_out.clone())
    }

    /// True if there is a template, be it one that cannot be read.
    pub(crate) fn has_any(&self) -> bool {
        !self.named.is_empty() || !self.broken.is_empty()
    }

    fn read_legacy_file(&mut self, files: &ModelFiles) -> Result<()> {
        let path = files.path_of(LEGACY_FILE);
        let object = read_object(files, LEGACY_FILE)?.unwrap_or_default();
        let mut templates = Vec::new();
        for Entry { name, source } in entries(&path, object.get("chat_template")) {
            templates.push((name, source?));
        }
        for (name, source) in templates {
            self.add(name, path.clone(), source, Origin::Model);
        }
        if !self.named.is_empty() {
            let note = "it is the only file with one; transformers' tokenizers do not read it";
            self.notes.push(format!("chat template: {LEGACY_FILE} is used: {note}"));
        }
        Ok(())
    }

    /// Adds a template, in place of one of the same name. A byte-order mark is no part of it. One of the model's that does
    /// not compile is one that cannot be read.
    fn add(&mut self, name: String, path: PathBuf, source: String, origin: Origin) {
        let without_mark = source.strip_prefix('\u{feff}').map(str::to_owned);
        if without_mark.is_some() {
            self.notes.push(format!(
                "chat template: the byte-order mark of {} is left out; transformers would write it before every prompt",
                file_name(&path)
            ));
        }
        let template = ChatTemplate::new(path, without_mark.unwrap_or(source), origin);
        // The user's own template is to be used, and its fault shows then.
        if origin == Origin::Model
            && let Err(fault) = template.check_syntax()
        {
            return self.set_broken(name, fault);
        }
        self.remove(&name);
        self.named.push((name, template));
    }

    /// Uses this template and no other.
    ///
    /// # Errors
    /// Fails when no template has that name, or it cannot be read.
    pub(crate) fn choose(&mut self, chosen: ChosenTemplate) -> Result<()> {
        match chosen {
            ChosenTemplate::Named(name) => {
                if let Some(fault) = self.fault(&name) {
                    return Err(fault.clone());
                }
                if self.get(&name).is_none() {
                    return Err(Error::input(format!("there is no chat template named `{name}`"))
                        .hint(format!("the model has {}", self.list())));
                }
                self.notes.clear();
                self.chosen = Some(name);
            }
            ChosenTemplate::Source { path, source } => {
                *self = Self::default();
                self.add(DEFAULT.to_owned(), path, source, Origin::User);
            }
        }
        Ok(())
    }

    /// The template for a conversation, as transformers picks it: `tool_use` where there are tools (be it an empty
    /// list) and a template of that name, else `default`. One that is alone is used whatever its name; that is a note.
    ///
    /// # Errors
    /// Fails when that one, or each, cannot be read, and when there are several and none is called `default`.
    pub(crate) fn pick(&self, has_tools: bool) -> Result<Option<(&str, &ChatTemplate)>> {
        let named = |name: &str| {
            let entry = self.named.iter().find(|(other, _)| other == name);
            entry.map(|(name, template)| (name.as_str(), template))
        };
        if let Some(name) = &self.chosen {
            return Ok(named(name));
        }
        if let Some(fault) = self.fault_in_use(has_tools) {
            return Err(fault.clone());
        }
        if let Some(template) = preferred(has_tools).find_map(named) {
            return Ok(Some(template));
        }
        match (&self.named[..], &self.broken[..]) {
            ([], _) => Ok(None),
            ([(name, template)], []) => Ok(Some((name, template))),
            ([(_, first), ..], _) => Err(Error::template(
                first.path(),
                None,
                format!("none is named `{DEFAULT}`, only {}", self.list()),
            )
            .hint(format!("name one of them `{DEFAULT}`, or choose one with setting `chat_template`"))),
        }
    }

    /// Returns notes for the user on the choice of templates, one line for each decision beyond transformers' rules.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.notes.iter().chain(&self.left_out).cloned().collect();
        if let ([(name, _)], [], None) = (&self.named[..], &self.broken[..], &self.chosen)
            && name != DEFAULT
        {
            notes.push(format!(
                "chat template: `{name}` is used, the only one; transformers would want one named `{DEFAULT}`"
            ));
        }
        notes
    }

    /// All names, those of templates that cannot be read too, sorted.
    pub(crate) fn names(&self) -> Vec<&str> {
        let broken = self.broken.iter().map(|template| template.name.as_str());
        let mut names: Vec<&str> = self.named.iter().map(|(name, _)| name.as_str()).chain(broken).collect();
        names.sort_unstable();
        names
    }

    /// The template of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&ChatTemplate> {
        self.named.iter().find_map(|(other, template)| (other == name).then_some(template))
    }

    fn list(&self) -> String {
        match &self.names()[..] {
            [] => "none".to_owned(),
            names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        }
    }
}

/// Returns the names of the templates for a conversation, the best first.
fn preferred(has_tools: bool) -> impl Iterator<Item = &'static str> {
    has_tools.then_some(TOOL_USE).into_iter().chain([DEFAULT])
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::super::message::Message;
    use super::super::template_settings::TemplateSettings;
    use super::super::testing::{folder, sentencepiece};
    use super::super::tokenizer::Tokenizer;
    use super::*;

    fn open(files: &[(&str, &str)]) -> Result<Tokenizer> {
        let json = sentencepiece(true).to_string();
        let mut all = vec![("tokenizer.json", json.as_str())];
        all.extend(files);
        Tokenizer::from_dir(folder(&all).path())
    }

    fn rendered(tokenizer: &Tokenizer) -> Result<Option<String>> {
        tokenizer.apply_chat_template(&[Message::new("user", "Hi")], true)
    }

    fn with_tools(files: &[(&str, &str)]) -> Tokenizer {
        let settings = TemplateSettings { tools: Some(Vec::new()), ..TemplateSettings::default() };
        open(files).unwrap().with_template(settings).unwrap()
    }

    const CONFIG: &str = "tokenizer_config.json";
    const TOOL_USE_FILE: &str = "additional_chat_templates/tool_use.jinja";

    #[test]
    fn templates_lie_in_many_places() {
        let list = json!({"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"},
            {"name": "tool_use", "template": "T"}]});
        let object = json!({"chat_template": {"tool_use": "T", "default": "D"}}).to_string();
        let (list, string) = (list.to_string(), r#"{"chat_template": "S"}"#);
        for (files, expected, expected_with_tools) in [
            (&[][..], None, None),
            (&[(CONFIG, r#"{"chat_template": null}"#)], None, None),
            (&[(CONFIG, r#"{"chat_template": []}"#)], None, None),
            (&[(CONFIG, string)], Some("S"), Some("S")),
            (&[(CONFIG, &list)], Some("D"), Some("T")),
            (&[(CONFIG, &object)], Some("D"), Some("T")),
            (&[(CONFIG, string), (FILE, "J\n")], Some("J"), Some("J")),
            // Files take the place of all that the config has.
            (&[(CONFIG, &object), (FILE, "J")], Some("J"), Some("J")),
            (&[(FILE, "J"), (TOOL_USE_FILE, "F")], Some("J"), Some("F")),
            (&[(FILE, "J"), ("additional_chat_templates/default.jinja", "F")], Some("F"), Some("F")),
        ] {
            let tokenizer = open(files).unwrap();
            assert_eq!(rendered(&tokenizer).unwrap().as_deref(), expected, "{files:?}");
            assert_eq!(rendered(&with_tools(files)).unwrap().as_deref(), expected_with_tools, "{files:?}");
            assert_eq!(tokenizer.template_notes(), Vec::<String>::new(), "{files:?}");
        }
    }

    #[test]
    fn decisions_are_noted() {
        let only = r#"{"chat_template": [{"name": "rag", "template": "R"}]}"#;
        for (files, expected, note) in [
            (&[(CONFIG, only)][..], "R", "`rag` is used, the only one"),
            (&[("chat_template.json", r#"{"chat_template": "L"}"#)], "L", "chat_template.json is used"),
            (&[(FILE, "\u{feff}J")], "J", "the byte-order mark of chat_template.jinja is left out"),
            (
                &[(CONFIG, r#"{"chat_template": "S"}"#), (TOOL_USE_FILE, "F")],
                "S",
                "has no `default`; that of tokenizer_config.json is used",
            ),
        ] {
            let tokenizer = open(files).unwrap();
            assert_eq!(rendered(&tokenizer).unwrap().as_deref(), Some(expected));
            let notes = tokenizer.template_notes();
            assert!(matches!(&notes[..], [only] if only.contains(note)), "{notes:?}");
        }
    }

    #[test]
    fn a_broken_legacy_file_is_left_out() {
        for broken in ["{", r#"{"chat_template": 1}"#, r#"{"chat_template": {"default": "D", "rag": 1}}"#] {
            let tokenizer = open(&[(LEGACY_FILE, broken)]).unwrap();
            assert_eq!(rendered(&tokenizer).unwrap(), None, "{broken}");
            let notes = tokenizer.template_notes();
            assert!(
                matches!(&notes[..], [only] if only.contains("chat_template.json is left out")),
                "{notes:?}"
            );
            assert_eq!(tokenizer.notes(), notes, "{broken}");
        }
    }

    #[test]
    fn a_list_without_default_is_refused_by_name() {
        let list = json!({"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "rag", "template": "R"}]});
        let files = [(CONFIG, &*list.to_string())];
        let tokenizer = open(&files).unwrap();
        let error = rendered(&tokenizer).unwrap_err();
        assert!(error.to_string().ends_with("none is named `default`, only `rag`, `tool_use`"), "{error}");
        assert!(error.hint_text().is_some());
        assert_eq!(rendered(&with_tools(&files)).unwrap().as_deref(), Some("T"));
        let chosen = |name: &str| {
            let template = Some(ChosenTemplate::Named(name.to_owned()));
            let settings = TemplateSettings { template, ..TemplateSettings::default() };
            open(&files).unwrap().with_template(settings)
        };
        assert_eq!(rendered(&chosen("rag").unwrap()).unwrap().as_deref(), Some("R"));
        let error = chosen("no").err().unwrap();
        assert!(error.hint_text().unwrap().contains("`rag`, `tool_use`"), "{error}");
    }

    #[test]
    fn what_is_no_template_is_named() {
        for (value, expected) in [
            (json!(1), "key `chat_template`: expected a string, an object or a list"),
            (json!({"default": 1}), "key `chat_template.default`: expected a string, found a number"),
            (json!([{"template": "x"}]), "key `chat_template[0].name`: expected a string, found nothing"),
            (json!(["x"]), "key `chat_template[0].name`"),
        ] {
            let config = json!({"chat_template": value}).to_string();
            let tokenizer = open(&[(CONFIG, &config)]).unwrap();
            assert!(tokenizer.has_chat_template() && tokenizer.notes().concat().contains(expected));
            let error = rendered(&tokenizer).unwrap_err();
            assert!(error.to_string().contains(expected) && error.hint_text().is_some(), "{error}");
            let template = Some(ChosenTemplate::Source { path: "mine.jinja".into(), source: "M".into() });
            let settings = TemplateSettings { template, ..TemplateSettings::default() };
            let tokenizer = tokenizer.with_template(settings).unwrap();
            assert_eq!(rendered(&tokenizer).unwrap().as_deref(), Some("M"));
        }
    }

    #[test]
    fn a_broken_template_leaves_the_others() {
        const RAG_FILE: &str = "additional_chat_templates/rag.jinja";
        let dir = |files: &[(&str, &str)], broken: &str| {
            let json = sentencepiece(true).to_string();
            let dir = folder(&[&[("tokenizer.json", json.as_str())], files].concat());
            let path = dir.path().join(broken);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"\xff").unwrap();
            Tokenizer::from_dir(dir.path()).unwrap()
        };
        let config = r#"{"chat_template": "S"}"#;
        for (files, expected) in [(&[(FILE, "J")][..], "J"), (&[(CONFIG, config)], "S")] {
            let tokenizer = dir(files, RAG_FILE);
            assert_eq!(rendered(&tokenizer).unwrap().as_deref(), Some(expected));
            assert!(tokenizer.notes().concat().contains("rag.jinja"), "{:?}", tokenizer.notes());
            let template = Some(ChosenTemplate::Named("rag".to_owned()));
            let settings = TemplateSettings { template, ..TemplateSettings::default() };
            let error = tokenizer.with_template(settings).err().unwrap();
            assert!(error.to_string().contains("rag.jinja"), "{error}");
        }
        // A broken default is no reason to take another.
        for (files, broken) in
            [(&[(CONFIG, config)][..], FILE), (&[(TOOL_USE_FILE, "F")], FILE), (&[], RAG_FILE)]
        {
            let error = rendered(&dir(files, broken)).unwrap_err().to_string();
            assert!(error.contains(broken), "{error}");
        }
        let error = rendered(&dir(&[(TOOL_USE_FILE, "F")], RAG_FILE)).unwrap_err().to_string();
        assert!(error.ends_with("none is named `default`, only `rag`, `tool_use`"), "{error}");
        // The one for tools only matters where there are tools.
        let files = json!({"chat_template": {"default": "D", "tool_use": 1}}).to_string();
        assert_eq!(rendered(&open(&[(CONFIG, &files)]).unwrap()).unwrap().as_deref(), Some("D"));
        let error = rendered(&with_tools(&[(CONFIG, &files)])).unwrap_err().to_string();
        assert!(error.contains("key `chat_template.tool_use`"), "{error}");
    }

    #[test]
    fn another_source_takes_the_place_of_all() {
        let source = ChosenTemplate::Source { path: "mine.jinja".into(), source: "\u{feff}M{{ 1 +".into() };
        let settings = TemplateSettings { template: Some(source), ..TemplateSettings::default() };
        let tokenizer = open(&[(FILE, "J"), (TOOL_USE_FILE, "F")]).unwrap().with_template(settings).unwrap();
        assert_eq!(tokenizer.template_names(), ["default"]);
        let error = rendered(&tokenizer).unwrap_err();
        assert!(error.to_string().contains("mine.jinja: chat template line 1"), "{error}");
        assert_eq!(tokenizer.template_notes().len(), 1, "the mark");
    }
}
