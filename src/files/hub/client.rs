//! Requests to the Hub, and explanations of its refusals.

use serde_json::Value;
use std::time::{Duration, SystemTime};
use ureq::http::Response;
use ureq::{Agent, Body, ResponseExt};

use super::name::Repository;
use super::settings::{Settings, Timeout};
use crate::error::Error;

/// Reason why a request has no usable answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The Hub, or a store that it redirects to, refused.
    Refused(Refusal),
    /// There was no answer, or it broke off.
    Broken(String),
    /// The answer cannot be used, and will not be next time either.
    Unusable(String),
    /// Nothing came from this address before the time ran out.
    Silent(String, Timeout),
    /// The answer is not what was asked for.
    Damaged(String),
}

/// Answer with another status than success.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    /// Status of HTTP.
    pub(crate) status: u16,
    /// Error code of the Hub.
    code: Option<String>,
    message: String,
    /// Time after which to ask again.
    pub(crate) after: Option<Duration>,
    /// Host and port that answered, where they are known.
    host: String,
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::StatusCode(status) => Self::Refused(Refusal { status, ..Refusal::default() }),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Self::Unusable(error.to_string()),
            ureq::Error::Timeout(_) => Self::Broken("nothing came for too long".to_owned()),
            other => Self::Broken(other.to_string()),
        }
    }
}

impl Failure {
    /// True if asking again may help.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Refused(refusal) => matches!(refusal.status, 408 | 429 | 500..),
            Self::Broken(_) | Self::Silent(..) => true,
            Self::Unusable(_) | Self::Damaged(_) => false,
        }
    }

    /// Describes the failure in a few words.
    pub(crate) fn brief(&self) -> String {
        match self {
            Self::Refused(Refusal { status, host, .. }) if host.is_empty() => format!("HTTP {status}"),
            Self::Refused(Refusal { status, host, .. }) => format!("HTTP {status} from {host}"),
            Self::Silent(..) => "nothing comes".to_owned(),
            _ => "the connection broke".to_owned(),
        }
    }

    /// Returns how long to wait before asking again, where the other side says it; at most a minute.
    pub(crate) fn after(&self) -> Option<Duration> {
        const MOST: Duration = Duration::from_mins(1);
        match self {
            Self::Refused(refusal) => refusal.after.map(|after| after.min(MOST)),
            _ => None,
        }
    }

    /// True if this is the HTTP status `status`.
    pub(crate) fn is_status(&self, status: u16) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.status == status)
    }

    /// Explains the failure to the user, with the step that failed.
    pub(crate) fn explain_step(&self, settings: &Settings, repository: &Repository, step: &str) -> Error {
        let place = repository.place(settings);
        let error = self.explain(settings, repository);
        let text = error.to_string();
        let rest = text.strip_prefix(&format!("{place}: ")).unwrap_or(&text);
        Error::file(&place, format!("{step}: {rest}")).hint(error.hint_text().unwrap_or_default())
    }

    /// Explains the failure to the user.
    pub(crate) fn explain(&self, settings: &Settings, repository: &Repository) -> Error {
        let place = repository.place(settings);
        let refusal = match self {
            Self::Refused(refusal) => refusal,
            Self::Broken(what) if what.contains("certificate") => {
                return Error::file(place, format!("no answer from the Hub: {what}")).hint(format!(
                    "only Mozilla's authorities are known, and a proxy that replaces certificates is not trusted: \
                     download with `hf download {}` and give the folder",
                    repository.id
                ));
            }
            Self::Broken(what) => {
                return Error::file(place, format!("no answer from the Hub: {what}"))
                    .hint("check the connection, and HF_ENDPOINT if it is set; what was downloaded so far is kept. With HF_HUB_OFFLINE=1 only the cache is used");
            }
            Self::Unusable(what) => {
                return Error::file(place, format!("the Hub's answer cannot be used: {what}"))
                    .hint("check HF_ENDPOINT if it is set, and whether something between here and the Hub answers in its place. With HF_HUB_OFFLINE=1 only the cache is used");
            }
            Self::Silent(address, Timeout { time, variable }) => {
                let message = format!("nothing came from {address} for {} s", time.as_secs_f64());
                return Error::file(place, message).hint(format!(
                    "check the connection; what was downloaded so far is kept. {variable} sets how many seconds to wait, \
                     HF_ENDPOINT another address of the Hub; with HF_HUB_OFFLINE=1 only the cache is used"
                ));
            }
            Self::Damaged(what) => {
                return Error::file(place, format!("what came is damaged: {what}"))
                    .hint("it was thrown away: try again, and if it stays so, something between here and the Hub changes it");
            }
        };
        refusal.explain(settings, repository)
    }
}

impl Refusal {
    /// True if a store refused that the Hub redirects to, not the Hub.
    fn is_of_a_store(&self, settings: &Settings) -> bool {
        let hub = settings.endpoint.split_once("://").map_or("", |(_, rest)| rest);
        !self.host.is_empty() && hub.split('/').next() != Some(self.host.as_str())
    }

    fn explain(&self, settings: &Settings, repository: &Repository) -> Error {
        let place = repository.place(settings);
        let Self { status, code, message, .. } = self;
        let (status, code) = (*status, code.as_deref());
        let detail = if message.is_empty() { String::new() } else { format!(": {message}") };
        let refused = |what: &str| Error::file(&place, format!("{what} (HTTP {status}{detail})"));
        if self.is_of_a_store(settings) {
            return refused(&format!("the store {}, where the Hub keeps large files, refused", self.host)).hint(
                "this has nothing to do with the token: the address that the Hub gave may have expired, so try again",
            );
        }
        match (status, code, &settings.token) {
            (_, Some("GatedRepo"), Some(_)) => refused("is gated, and this token's owner has no access yet")
                .hint(format!("ask for access at {place}")),
            (_, Some("GatedRepo"), None) => refused("is gated: the Hub wants to know who asks")
                .hint(format!("ask for access at {place}, then {}", settings.token_hint())),
            (401, _, None) => {
                refused("the Hub wants a token: the model is private, or there is none of this name")
                    .hint(format!("check the name; if it is right, {}", settings.token_hint()))
            }
            (401, _, Some(token)) => refused(&format!(
                "the Hub does not take the token from {}, or there is no model of this name",
                token.from
            ))
            .hint(format!("check the name; if it is right, {}", settings.token_hint())),
            (403, _, _) => refused("the token does not allow this").hint(format!(
                "{}; it must be allowed to do this with {}",
                settings.token_hint(),
                repository.id
            )),
            (404, Some("RevisionNotFound"), _) => {
                refused(&format!("has no revision `{}`", repository.revision))
                    .hint(format!("{place}/tree/{MAIN} lists branches and tags", MAIN = super::name::MAIN))
            }
            (404, _, _) => {
                refused("is not there").hint("check the name; no file or folder of this name is here, either")
            }
            (429, _, _) => {
                refused("the Hub has had too many requests").hint("wait a few minutes and try again")
            }
            _ => refused("the Hub refused").hint("try again later, or see status.huggingface.co"),
        }
    }
}

/// Time that the Hub may take for what was sent to it.
const UPLOAD_TIMEOUT: Duration = Duration::from_mins(5);

/// Client that sends to the Hub.
pub(crate) struct Client<'a> {
    pub(crate) settings: &'a Settings,
    agent: Agent,
}

impl<'a> Client<'a> {
    pub(crate) fn new(settings: &'a Settings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_per_write(Some(UPLOAD_TIMEOUT))
            .timeout_recv_response(Some(UPLOAD_TIMEOUT))
            .timeout_per_read(Some(UPLOAD_TIMEOUT))
            .user_agent(concat!("mixbit/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { settings, agent: config.into() }
    }

    /// Returns the HTTP client, which does not send the token.
    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Posts `text`, which is of the content type `kind`, to `path` of the Hub, with the token.
    pub(crate) fn post(&self, path: &str, kind: &str, text: &str) -> Result<Value, Failure> {
        let mut request = self.agent.post(format!("{}/{path}", self.settings.endpoint));
        if let Some(token) = &self.settings.token {
            request = request.header("Authorization", format!("Bearer {}", token.value));
        }
        let response = request.header("Accept", kind).header("Content-Type", kind).send(text)?;
        // Some answers have no contents.
        Ok(accepted(response)?.body_mut().read_json().unwrap_or(Value::Null))
    }
}

/// Returns a response of success; any other is a refusal.
pub(crate) fn accepted(mut response: Response<Body>) -> Result<Response<Body>, Failure> {
    if response.status().is_success() {
        return Ok(response);
    }
    let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
    let (code, message) = (header("X-Error-Code"), header("X-Error-Message"));
    // The other side's clock says how long it is to a date of its own.
    let now = header("Date").and_then(|date| httpdate::parse_http_date(&date).ok());
    let now = now.unwrap_or_else(SystemTime::now);
    let after = header("Retry-After").and_then(|text| retry_after(text.trim(), now));
    let status = response.status().as_u16();
    let message = message.or_else(|| {
        let value: Value = response.body_mut().read_json().ok()?;
        Some(value.get("error")?.as_str()?.to_owned())
    });
    let host = response.get_uri().authority().map(ToString::to_string).unwrap_or_default();
    Err(Failure::Refused(Refusal { status, code, message: message.unwrap_or_default(), after, host }))
}

/// Returns the time that a `Retry-After` stands for: seconds, or the time from `now` to a date.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates() {
        let now = httpdate::parse_http_date("Fri, 31 Dec 1999 23:59:30 GMT").unwrap();
        let after = |text| retry_after(text, now).map(|after| after.as_secs());
        assert_eq!((after("7"), after("0")), (Some(7), Some(0)));
        assert_eq!(after("Sat, 01 Jan 2000 00:00:15 GMT"), Some(45));
        assert_eq!(after("Friday, 31-Dec-99 23:59:31 GMT"), Some(1));
        assert_eq!(after("Fri, 31 Dec 1999 23:00:00 GMT"), Some(0), "that is over");
        for bad in ["", "-1", "soon", "Sat, 32 Jan 2000 00:00:15 GMT"] {
            assert_eq!(after(bad), None, "{bad}");
        }
        let far = retry_after("Sat, 01 Jan 2050 00:00:00 GMT", now);
        let refusal = Refusal { after: far, ..Refusal::default() };
        assert_eq!(Failure::Refused(refusal).after(), Some(Duration::from_mins(1)));
    }
}
