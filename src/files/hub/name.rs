//! Names of models on the Hub, and the part of a model that a command needs.

use super::gguf::Choice;
use super::headers::Headers;
use super::settings::Settings;
use crate::progress::Progress;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Branch of a name that names none.
pub(crate) const MAIN: &str = "main";

/// Model on the Hub, at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// `organisation/name`.
    pub id: String,
    /// Branch, tag or commit.
    pub revision: String,
}

impl Repository {
    /// Parses `organisation/name` or `organisation/name@revision`; `None` for text that cannot be a name on the Hub.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (organisation, name) = id.split_once('/')?;
        let named = |part: &str| {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let has_bad_end = part.starts_with(['-', '.']) || part.ends_with(['-', '.']);
            !part.is_empty()
                && part.chars().all(is_allowed)
                && !has_bad_end
                && !part.contains("..")
                && !part.contains("--")
        };
        let sound = named(organisation) && named(name) && id.len() <= 96 && is_revision(revision);
        sound.then(|| Self { id: id.to_owned(), revision: revision.to_owned() })
    }

    /// Returns the model's address, for messages.
    pub(crate) fn place(&self, settings: &Settings) -> String {
        format!("{}/{}", settings.endpoint, self.id)
    }

    /// Returns the address of the model's list of files, for messages.
    pub(crate) fn tree(&self, settings: &Settings) -> PathBuf {
        format!("{}/tree/{}", self.place(settings), self.url_revision()).into()
    }

    /// Encodes the revision for addresses.
    pub(crate) fn url_revision(&self) -> String {
        self.revision.replace('/', "%2F")
    }
}

/// Name that a user gives to a model on the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelName {
    pub(crate) repository: Repository,
    /// GGUF model in it, where one is chosen.
    pub(crate) choice: Option<Choice>,
}

impl ModelName {
    /// Parses `organisation/name`, `organisation/name:QUANTIZATION` or `organisation/name/path/file.gguf`, all with `@revision`
    /// at their end or without; `None` for text that cannot be a name on the Hub.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (model, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (id, choice) = Choice::split(model)?;
        let repository = Repository::parse(&format!("{id}@{revision}"))?;
        Some(Self { repository, choice })
    }
}

/// Part of a model that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The whole model.
    Whole,
    /// config.json, names, types and shapes.
    Headers,
}

/// Place of a model.
#[derive(Debug)]
pub enum Located {
    /// A folder or file with the whole model.
    There(PathBuf),
    /// A temporary folder with the headers that [`Need::Headers`] asks for.
    Headers(Headers),
}

/// True for a name of a revision. Branches may have slashes, as `refs/pr/1`.
fn is_revision(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+');
    crate::files::pack::safe_name(text) && text.chars().all(is_allowed) && !text.starts_with('-')
}

/// Finds the model that the user calls `path`: a folder or file of that name; otherwise, where it is a name on the Hub,
/// its folder or GGUF in the cache, to which missing parts that are needed are downloaded. `revision` is for the latter only.
///
/// # Errors
/// Where there is nothing of that name, neither here nor, if it may be a name there, on the Hub.
pub fn locate(path: &Path, revision: Option<&str>, need: Need, console: &dyn Progress) -> Result<Located> {
    let local = path.exists();
    let name = path.to_str().filter(|_| !local).and_then(ModelName::parse);
    let Some(mut name) = name else {
        return match revision {
            None if local => Ok(Located::There(path.to_owned())),
            None => Err(no_model_at(path)),
            Some(_) if local => {
                Err(Error::usage(format!("setting `revision`, but {} is a local model", path.display()))
                    .hint("leave it out, or give the name of a model on the Hub"))
            }
            Some(_) => {
                Err(Error::usage(format!("setting `revision`, but {} is no name on the Hub", path.display()))
                    .hint("models on the Hub are called organisation/name"))
            }
        };
    };
    if let Some(revision) = revision {
        if path.to_str().is_some_and(|text| text.contains('@')) {
            return Err(Error::usage("both setting `revision` and @ name a revision").hint("leave one out"));
        }
        if !is_revision(revision) {
            return Err(Error::usage(format!("`{revision}` is no name of a revision"))
                .hint("give a branch, a tag or a commit"));
        }
        revision.clone_into(&mut name.repository.revision);
    }
    let settings = Settings::from_environment()?;
    super::download::fetch(&settings, &name, need, console)
        .map_err(|e| neither(path, &name.repository.place(&settings), e))
}

/// True for a folder that holds no model and is called as models on the Hub are.
pub fn hides_a_name(path: &Path) -> bool {
    let is_name = path.to_str().is_some_and(|text| Repository::parse(text).is_some());
    is_name && path.is_dir() && !path.join("config.json").exists()
}

/// Returns the error for a `path` that is neither a name on the Hub nor a file.
fn no_model_at(path: &Path) -> Error {
    let error = Error::file(path, "the model folder does not exist");
    let text = path.to_string_lossy();
    if text.starts_with('~') {
        return error
            .hint("`~` stands for the home folder only where the shell sees it: leave out the quotes");
    }
    let why = if text.starts_with(['.', '/']) || text.ends_with('/') || text.matches('/').count() > 1 {
        "this is a path, and no name on the Hub: those are organisation/name"
    } else {
        "models on the Hub are called organisation/name"
    };
    error.hint(format!("check the path; {why}"))
}

/// Adds to the Hub's `error`, where it has no model at `place`, that there is nothing at `path` either: that may
/// have been meant.
fn neither(path: &Path, place: &str, error: Error) -> Error {
    let ErrorKind::File { path: at, .. } = error.kind() else { return error };
    if at != Path::new(place) {
        return error;
    }
    let nothing = format!("no file or folder `{}` is here", path.display());
    let Some(hint) = error.hint_text().map(str::to_owned) else { return error.hint(nothing) };
    if hint.contains("no file or folder of this name is here") {
        return error;
    }
    error.hint(format!("{hint}; {nothing}, if one was meant"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::hub_cache::name_in_cache;
    use crate::progress::Quiet;

    #[test]
    fn names_on_the_hub() {
        let parsed =
            |text: &str| Repository::parse(text).map(|repository| (repository.id, repository.revision));
        let pair = |id: &str, revision: &str| Some((id.to_owned(), revision.to_owned()));
        assert_eq!(parsed("facebook/MobileLLM-R1-140M"), pair("facebook/MobileLLM-R1-140M", "main"));
        assert_eq!(parsed("a/b.c_d@refs/pr/1"), pair("a/b.c_d", "refs/pr/1"));
        assert_eq!(parsed("a/b@v1.0"), pair("a/b", "v1.0"));
        for bad in [
            "gpt2", "a/b/c", "./model", "../model", "/tmp/x", "a/", "/b", "", "a/b@", "a/b@../x", "a/b@/x",
            "a/..", "a b/c", "a/b--c", "~/model", "a/b@x y", "a/b@-x", "a\\b/c",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn revisions_end_a_name() {
        let revision =
            |text: &str| ModelName::parse(text).map(|name| (name.choice.is_some(), name.repository.revision));
        assert_eq!(revision("a/b:Q4_0"), Some((true, MAIN.to_owned())));
        assert_eq!(revision("a/b:Q4_0@v1"), Some((true, "v1".to_owned())));
        assert_eq!(revision("a/b/c/d.gguf@refs/pr/1"), Some((true, "refs/pr/1".to_owned())));
        assert_eq!(revision("a/b@refs/pr/1"), Some((false, "refs/pr/1".to_owned())));
        for bad in ["a/b@v1:Q4_0", "./a/b.gguf", "/a/b/c.gguf", "a/b/c", "a/b:Q4_0@", "~/a/b.gguf"] {
            assert_eq!(revision(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_a_path_is_not_looked_up() {
        let console = Quiet;
        for path in ["./q45x", "../q45x", "/no/such/q45x", "models/q45x/", "a/b/c", "q45x", "~/q45x"] {
            let error = locate(Path::new(path), None, Need::Whole, &console).unwrap_err();
            assert_eq!(error.to_string(), format!("{path}: the model folder does not exist"));
            assert!(error.hint_text().is_some());
        }
        let failed = Error::file("http://hub/a/b", "not found").hint("log in");
        let error = neither(Path::new("a/b"), "http://hub/a/b", failed);
        assert_eq!(error.hint_text(), Some("log in; no file or folder `a/b` is here, if one was meant"));
        let failed = Error::file("http://hub/a/b/config.json", "damaged").hint("again");
        assert_eq!(neither(Path::new("a/b"), "http://hub/a/b", failed).hint_text(), Some("again"));
    }

    #[test]
    fn folders_of_the_cache_have_names() {
        let name = |path: &str| name_in_cache(Path::new(path));
        assert_eq!(name("/x/hub/models--a--b-c/snapshots/123").as_deref(), Some("a/b-c"));
        assert_eq!(name("/x/models/a"), None);
    }
}
