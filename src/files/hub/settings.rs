//! Settings of the Hub from the environment, by the names that Python's huggingface_hub reads.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::Uri;

use crate::error::{Error, Result};

const ENDPOINT: &str = "https://huggingface.co";
/// Timeout in seconds, as in huggingface_hub.
const TIMEOUT_SECONDS: f64 = 10.0;

/// Longest silence of the other side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timeout {
    /// Time from one byte to the next.
    pub time: Duration,
    /// Environment variable that sets it.
    pub variable: &'static str,
}

/// Token and its source.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token, which is never printed.
    pub(crate) value: String,
    /// Variable or file that holds it, for messages.
    pub(crate) from: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a token from {}", self.from)
    }
}

/// Address of the Hub, place of its files, and token.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `HF_ENDPOINT`, or the Hub itself.
    pub endpoint: String,
    /// `HF_HUB_CACHE`, or `hub` in `HF_HOME`, which is `huggingface` in `XDG_CACHE_HOME` or in `~/.cache`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, or what `HF_TOKEN_PATH`, by default `token` in `HF_HOME`, holds.
    pub token: Option<Token>,
    /// File that a token is looked for in.
    pub token_file: PathBuf,
    /// `HF_HUB_OFFLINE`: nothing is requested from the Hub.
    pub offline: bool,
    /// `HF_HUB_ETAG_TIMEOUT`: for requests about models and files.
    pub asking: Timeout,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`: for contents of files.
    pub downloading: Timeout,
}

impl Settings {
    /// Reads the settings of this process. Fails where a variable has a value that cannot be used.
    pub fn from_environment() -> Result<Self> {
        Self::from_variables(&|name| match std::env::var(name) {
            // A value that is no text is kept here, so that it is refused as a token and not ignored.
            Err(std::env::VarError::NotUnicode(value)) if name.ends_with("TOKEN") => {
                Some(value.to_string_lossy().into_owned())
            }
            value => value.ok(),
        })
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|v| !v.is_empty());
        let path = |name: &str| get(name).map(PathBuf::from);
        let caches = || {
            path("XDG_CACHE_HOME").unwrap_or_else(|| std::env::home_dir().unwrap_or_default().join(".cache"))
        };
        let home = path("HF_HOME").unwrap_or_else(|| caches().join("huggingface"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let in_variable = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
            .into_iter()
            .find_map(|name| Some(Token { value: get(name)?, from: name.to_owned() }));
        let in_file = || {
            let value = fs::read_to_string(&token_file).ok()?.trim().to_owned();
            (!value.is_empty()).then(|| Token { value, from: token_file.display().to_string() })
        };
        Ok(Self {
            endpoint: get("HF_ENDPOINT").map_or_else(|| Ok(ENDPOINT.to_owned()), |text| endpoint(&text))?,
            asking: timeout("HF_HUB_ETAG_TIMEOUT", &get)?,
            downloading: timeout("HF_HUB_DOWNLOAD_TIMEOUT", &get)?,
            cache: path("HF_HUB_CACHE")
                .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| home.join("hub")),
            token: in_variable.or_else(in_file).map(check_token).transpose()?,
            offline: get("HF_HUB_OFFLINE").is_some_and(|value| {
                ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
            }),
            token_file,
        })
    }

    /// Returns a hint on how to give a token.
    pub(crate) fn token_hint(&self) -> String {
        format!(
            "make a token at {}/settings/tokens and give it as HF_TOKEN, or in the file {} (`hf auth login` writes it)",
            self.endpoint,
            self.token_file.display()
        )
    }
}

/// Fails for a token that cannot be sent.
fn check_token(token: Token) -> Result<Token> {
    if token.value.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(token);
    }
    let message = "the token holds spaces, line ends or other characters that no token has";
    Err(Error::usage(format!("{}: {message}", token.from))
        .hint("copy the token again: it is of letters, digits and `_`"))
}

/// Checks the address of a Hub and removes a slash at its end.
fn endpoint(text: &str) -> Result<String> {
    let address = text.parse::<Uri>().ok().filter(|address| {
        matches!(address.scheme_str(), Some("http" | "https"))
            && address.host().is_some_and(|h| !h.is_empty())
    });
    match address {
        Some(address) if address.query().is_none() => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err(Error::usage(format!("HF_ENDPOINT is `{text}`, not the address of a Hub")).hint(format!(
            "expected http:// or https:// and a host, such as {ENDPOINT}; without it that is asked"
        ))),
    }
}

fn timeout(variable: &'static str, get: &dyn Fn(&str) -> Option<String>) -> Result<Timeout> {
    let Some(text) = get(variable) else {
        return Ok(Timeout { time: Duration::from_secs_f64(TIMEOUT_SECONDS), variable });
    };
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.001..=1e6).contains(seconds));
    let time = seconds.map(Duration::from_secs_f64).ok_or_else(|| {
        Error::usage(format!("{variable} is `{text}`, not a number of seconds"))
            .hint(format!("expected a number above 0; without it {TIMEOUT_SECONDS} seconds are waited"))
    })?;
    Ok(Timeout { time, variable })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::from_variables(&|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
        .unwrap()
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let with = |name: &str, value: &str| {
            Settings::from_variables(&|n| (n == name).then(|| value.to_owned())).map_err(|e| e.to_string())
        };
        for bad in ["notaurl", "ftp://x", "http://", "localhost:80", "/x", "https://a b", "https://x?y=z"] {
            let error = with("HF_ENDPOINT", bad).unwrap_err();
            assert!(error.contains("HF_ENDPOINT") && error.contains(bad), "{error}");
        }
        for good in ["http://x", "https://x.org:8443/hub/", "http://127.0.0.1:1"] {
            assert_eq!(with("HF_ENDPOINT", good).unwrap().endpoint, good.trim_end_matches('/'));
        }
        for bad in ["0", "-1", "soon", "inf", "NaN"] {
            let error = with("HF_HUB_DOWNLOAD_TIMEOUT", bad).unwrap_err();
            assert!(error.contains("HF_HUB_DOWNLOAD_TIMEOUT"), "{error}");
        }
        let settings = with("HF_HUB_ETAG_TIMEOUT", "2.5").unwrap();
        assert_eq!(settings.asking.time, Duration::from_millis(2500));
        assert_eq!(settings.downloading.time, Duration::from_secs(10));
        for bad in ["hf_a\nb", "hf_ä", "hf a"] {
            let error = with("HF_TOKEN", bad).unwrap_err();
            assert!(error.contains("HF_TOKEN") && !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn variables_are_those_of_huggingface_hub() {
        let read = settings(&[("XDG_CACHE_HOME", "/x")]);
        assert_eq!(read.endpoint, "https://huggingface.co");
        assert_eq!(read.cache, PathBuf::from("/x/huggingface/hub"));
        assert_eq!(read.token_file, PathBuf::from("/x/huggingface/token"));
        assert!(!read.offline && read.token.is_none());
        let read =
            settings(&[("HF_HOME", "/h"), ("HF_ENDPOINT", "http://127.0.0.1:1/"), ("HF_HUB_OFFLINE", "1")]);
        assert_eq!((read.endpoint.as_str(), read.offline), ("http://127.0.0.1:1", true));
        assert_eq!(read.cache, PathBuf::from("/h/hub"));
        let read = settings(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c"), ("HF_HUB_OFFLINE", "0")]);
        assert!(read.cache.ends_with("c") && !read.offline);
    }

    #[test]
    fn tokens_are_found_and_never_shown() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let folder = home.path().to_str().unwrap();
        let read = settings(&[("HF_HOME", folder)]).token.unwrap();
        assert!(read.value == "hf_file" && read.from.ends_with("token"));
        let read = settings(&[("HF_HOME", folder), ("HF_TOKEN", " hf_variable ")]);
        assert_eq!(read.token.as_ref().unwrap().value, "hf_variable");
        assert!(!format!("{read:?}").contains("hf_variable"));
        let read = settings(&[("HF_HOME", folder), ("HF_TOKEN", "")]);
        assert_eq!(read.token.unwrap().value, "hf_file");
    }
}
