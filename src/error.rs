//! The error type: what is wrong, where (file, tensor, key), and what to do about it.
//!
//! The message is one lower-case sentence without a full stop; the hint, when there is one, is printed on a line of its
//! own. The kind decides the exit code.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `Result` with mixbit's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Kind of an error, with its place and message.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Reading or writing a file failed.
    #[error("{}: {}", path.display(), without_code(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: Arc<std::io::Error>,
    },
    /// An output is there already and must not be replaced.
    #[error("{}: already exists", path.display())]
    AlreadyExists {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file is not what its name says (truncated, malformed, wrong type).
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Fault: what was found and what was expected.
        message: String,
    },
    /// A tensor is missing, superfluous, misshapen or has values that cannot be used.
    #[error("{}: tensor `{tensor}`: {message}", path.display())]
    Tensor {
        /// The checkpoint file or folder.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// Fault: what was found and what was expected.
        message: String,
    },
    /// A config key is missing or has a value that cannot be honoured.
    #[error("{}: key `{key}`: {message}", path.display())]
    Key {
        /// The JSON or TOML file.
        path: PathBuf,
        /// The key, dotted where nested.
        key: String,
        /// Fault: what was found and what was expected.
        message: String,
    },
    /// A chat template does not compile, or fails whatever it is to write out.
    #[error("{}: {}: {message}", path.display(), in_template(*line))]
    Template {
        /// The file that holds the template.
        path: PathBuf,
        /// The template's line, from 1, where it is known.
        line: Option<usize>,
        /// Fault: what was found and what was expected.
        message: String,
    },
    /// The arguments, taken together or for this model, ask for something that cannot be done.
    #[error("{0}")]
    Usage(String),
    /// The arguments could be obeyed, but not with this input.
    #[error("{0}")]
    Input(String),
    /// The MLX engine could not be loaded or failed.
    #[error("engine: {0}")]
    Engine(String),
    /// All went well, but what was asked for is not in the answer.
    #[error("{0}")]
    NoAnswer(String),
    /// The user pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Whoever read the output has closed it.
    #[error("stdout was closed")]
    ClosedPipe,
}

/// An [`ErrorKind`] with an optional hint.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Box<ErrorKind>,
    hint: Option<String>,
    /// True if the hint says how to resume the work.
    is_resumable: bool,
}

impl Error {
    /// Makes an error for an I/O failure at `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        ErrorKind::Io { path: path.as_ref().to_owned(), source: Arc::new(without_temporary_path(source)) }
            .into()
    }

    /// Makes an error for a file that is not what it should be.
    pub fn file(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        ErrorKind::File { path: path.as_ref().to_owned(), message: cut(message.into()) }.into()
    }

    /// Makes an error for a `tensor` of `path` that is not what it should be.
    pub fn tensor(path: impl AsRef<Path>, tensor: impl Into<String>, message: impl Into<String>) -> Self {
        let (tensor, message) = (cut(tensor.into()), cut(message.into()));
        ErrorKind::Tensor { path: path.as_ref().to_owned(), tensor, message }.into()
    }

    /// Makes an error for a `key` in `path` that is missing or cannot be honoured.
    pub fn key(path: impl AsRef<Path>, key: impl Into<String>, message: impl Into<String>) -> Self {
        let (key, message) = (cut(key.into()), cut(message.into()));
        ErrorKind::Key { path: path.as_ref().to_owned(), key, message }.into()
    }

    /// Makes an error for a chat template in `path` that fails in `line`.
    pub(crate) fn template(path: impl AsRef<Path>, line: Option<usize>, message: impl Into<String>) -> Self {
        ErrorKind::Template { path: path.as_ref().to_owned(), line, message: cut(message.into()) }.into()
    }

    /// Makes an error for arguments that contradict each other or the input.
    pub fn usage(message: impl Into<String>) -> Self {
        ErrorKind::Usage(message.into()).into()
    }

    /// Makes an error for an input, not one file alone, that cannot be used.
    pub fn input(message: impl Into<String>) -> Self {
        ErrorKind::Input(cut(message.into())).into()
    }

    /// Makes an error for a failure of the engine.
    pub fn engine(message: impl Into<String>) -> Self {
        ErrorKind::Engine(message.into()).into()
    }

    /// Makes an error for a model's answer without what was asked for.
    pub fn no_answer(message: impl Into<String>) -> Self {
        ErrorKind::NoAnswer(message.into()).into()
    }

    /// Makes the error for Ctrl-C.
    pub fn interrupted() -> Self {
        ErrorKind::Interrupted.into()
    }

    /// Makes the error for output that nobody reads any more.
    pub fn closed_pipe() -> Self {
        ErrorKind::ClosedPipe.into()
    }

    /// Adds what the user can do next; replaces an earlier hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(one_line(&cut(hint.into())));
        self.is_resumable = false;
        self
    }

    /// Adds how to resume the work; replaces an earlier hint.
    #[must_use]
    pub(crate) fn resume_hint(self, hint: impl Into<String>) -> Self {
        Self { is_resumable: true, ..self.hint(hint) }
    }

    /// True if the hint says how to resume the work.
    pub(crate) fn is_resumable(&self) -> bool {
        self.is_resumable
    }

    /// Adds what the user can do next, unless the error says it already.
    #[must_use]
    pub(crate) fn hint_if_none(self, hint: &str) -> Self {
        if self.hint.is_some() { self } else { self.hint(hint) }
    }

    /// Rewrites message and hint by `rewrite`; paths, tensors and keys stay.
    #[must_use]
    pub fn reworded(mut self, rewrite: impl Fn(&str) -> String) -> Self {
        if let Some(message) = self.message_mut() {
            *message = rewrite(message);
        }
        self.hint = self.hint.as_deref().map(rewrite);
        self
    }

    /// Says first which setting the message is about.
    #[must_use]
    pub(crate) fn at_setting(mut self, setting: &str) -> Self {
        if let Some(message) = self.message_mut() {
            *message = format!("{setting}: {message}");
        }
        self
    }

    /// Adds `context` at the end of the message.
    #[must_use]
    pub(crate) fn with_context(mut self, context: &str) -> Self {
        if let Some(message) = self.message_mut() {
            message.push_str(context);
        }
        self
    }

    fn message_mut(&mut self) -> Option<&mut String> {
        match &mut *self.kind {
            ErrorKind::File { message, .. }
            | ErrorKind::Tensor { message, .. }
            | ErrorKind::Key { message, .. }
            | ErrorKind::Template { message, .. }
            | ErrorKind::Usage(message)
            | ErrorKind::Input(message)
            | ErrorKind::Engine(message)
            | ErrorKind::NoAnswer(message) => Some(message),
            ErrorKind::Io { .. }
            | ErrorKind::AlreadyExists { .. }
            | ErrorKind::Interrupted
            | ErrorKind::ClosedPipe => None,
        }
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Returns the system's kind of error, where reading or writing failed.
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        match &*self.kind {
            ErrorKind::Io { source, .. } => Some(source.kind()),
            _ => None,
        }
    }

    /// Returns what the user can do next: the hint that was added to the error, or the one for its kind.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref().or_else(|| match &*self.kind {
            ErrorKind::Io { source, .. } => io_hint(source.kind()),
            ErrorKind::Key { .. } => {
                Some("mend this key, or take the file from the model's repository again")
            }
            ErrorKind::File { .. } => {
                Some("take the file from the model's repository again, or mend it by hand")
            }
            ErrorKind::Template { .. } => Some("mend the template, or use another"),
            ErrorKind::Tensor { .. } => {
                Some("config.json and weights must come from the same model, unchanged")
            }
            ErrorKind::Usage(_) => Some("`mixbit help COMMAND` lists what is accepted"),
            ErrorKind::AlreadyExists { .. }
            | ErrorKind::Input(_)
            | ErrorKind::Engine(_)
            | ErrorKind::NoAnswer(_)
            | ErrorKind::Interrupted
            | ErrorKind::ClosedPipe => None,
        })
    }

    /// Speaks of the folder `to` where an error speaks of `from`.
    #[must_use]
    pub fn relocated(mut self, from: &Path, to: &Path) -> Self {
        if let ErrorKind::Io { path, .. }
        | ErrorKind::AlreadyExists { path }
        | ErrorKind::File { path, .. }
        | ErrorKind::Tensor { path, .. }
        | ErrorKind::Key { path, .. }
        | ErrorKind::Template { path, .. } = &mut *self.kind
            && let Ok(rest) = path.strip_prefix(from)
        {
            // Joined with nothing a path gets a slash at its end.
            *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
        }
        self
    }

    /// Returns the exit code: 1 for input that cannot be used, 2 for wrong flags (as clap has it), 3 where an answer
    /// lacks what was asked for, 70 for the engine (a fault of mixbit or of the installation), 130 after Ctrl-C; 0
    /// where nobody reads the output any more. `--help` lists them.
    pub fn exit_code(&self) -> u8 {
        match *self.kind {
            ErrorKind::Usage(_) => 2,
            ErrorKind::NoAnswer(_) => 3,
            ErrorKind::Engine(_) => 70,
            ErrorKind::Interrupted => 130,
            ErrorKind::ClosedPipe => 0,
            _ => 1,
        }
    }
}

/// Returns the words for a place in a chat template.
pub(crate) fn in_template(line: Option<usize>) -> String {
    line.map_or_else(|| "chat template".to_owned(), |line| format!("chat template line {line}"))
}

/// Returns the system's words for `error`, without the number that Rust adds.
fn without_code(error: &std::io::Error) -> String {
    let text = error.to_string();
    match (error.raw_os_error(), text.rsplit_once(" (os error ")) {
        (Some(_), Some((words, _))) => words.to_owned(),
        _ => text,
    }
}

/// Returns an error of the tempfile crate without the path in it, a file that the user does not know, and without the number.
fn without_temporary_path(error: std::io::Error) -> std::io::Error {
    match error.to_string().split_once(" at path ") {
        Some((message, _)) if error.raw_os_error().is_none() => {
            let words = message.rsplit_once(" (os error ").map_or(message, |(words, _)| words);
            std::io::Error::new(error.kind(), words.to_owned())
        }
        _ => error,
    }
}

fn io_hint(kind: std::io::ErrorKind) -> Option<&'static str> {
    use std::io::ErrorKind as Io;
    Some(match kind {
        Io::NotFound => "check the path: nothing is there",
        Io::PermissionDenied => "check the permissions of the file and of the folder it is in",
        Io::StorageFull | Io::QuotaExceeded => "make room, or choose another disk for the output",
        Io::FileTooLarge => {
            "a limit keeps files from becoming so large: raise it (`ulimit -f`), or choose another disk for the output"
        }
        Io::ReadOnlyFilesystem => "choose a place that can be written to",
        Io::IsADirectory => "a folder is where a file is needed: choose another path",
        Io::NotADirectory | Io::AlreadyExists => "a file is where a folder is needed: choose another path",
        Io::InvalidData => "expected UTF-8 text",
        _ => return None,
    })
}

/// Shortens `text` to a thousand characters, its begin and its end: a quotation of a file may be as long as the file.
pub(crate) fn cut(text: String) -> String {
    const MAX_CHARACTERS: usize = 1000;
    const END_CHARACTERS: usize = 200;
    let count = text.chars().count();
    if count <= MAX_CHARACTERS {
        return text;
    }
    let begin: String = text.chars().take(MAX_CHARACTERS - END_CHARACTERS).collect();
    let end: String = text.chars().skip(count - END_CHARACTERS).collect();
    format!("{begin} ... {end}")
}

/// Puts `text` on one line, with control characters escaped: a quotation of a file must not control the terminal.
pub(crate) fn one_line(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut line = String::new();
    for character in lines.join(" ").chars() {
        match character {
            '\t' => line.push(' '),
            control if control.is_control() => line.extend(control.escape_debug()),
            other => line.push(other),
        }
    }
    line
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self { kind: Box::new(kind), hint: None, is_resumable: false }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&one_line(&self.kind.to_string()))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_quotations_are_cut() {
        let value = "é".repeat(100_000);
        let error = Error::key("config.json", &value, format!("expected a string, found {value}, at line 3"));
        let text = error.hint(&value).to_string();
        assert!(text.starts_with("config.json: key `éé") && text.ends_with("éé, at line 3"), "{text}");
        assert!(text.chars().count() < 2100);
        assert!(
            Error::file("x", &value).hint(value).hint_text().is_some_and(|hint| hint.chars().count() < 1100)
        );
        assert_eq!(cut("x".repeat(1000)), "x".repeat(1000));
    }

    #[test]
    fn temporary_files_are_not_named() {
        let nowhere = Path::new("nowhere/at/all");
        let error = tempfile::NamedTempFile::new_in(nowhere).err().map(|error| Error::io("out", error));
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(text, "out: No such file or directory");
    }

    #[test]
    fn errors_of_the_system_have_no_number() {
        let error = std::fs::read("nowhere/at/all").map_err(|error| Error::io("a", error)).err();
        assert_eq!(error.map(|error| error.to_string()), Some("a: No such file or directory".to_owned()));
    }

    #[test]
    fn errors_are_one_line_without_controls() {
        let error = Error::file("a.json", "\u{1b}[31m`x\0`\n\n  not\tread\n").hint("a\nb");
        assert_eq!(error.to_string(), "a.json: \\u{1b}[31m`x\\0` not read");
        assert_eq!(error.hint_text(), Some("a b"));
    }
}
