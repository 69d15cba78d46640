//! Reads from the Hub and from the stores that it redirects to. The token goes to the Hub alone, and every wait ends.
//!
//! Redirects are followed here, one request at a time: the hf-hub crate (0.5) gives its token to the first address that
//! the Hub redirects to, and ureq compares hosts only, where two ports are two servers.

use std::io::Read;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use super::client::{Failure, accepted};
use super::settings::{Settings, Timeout};

const REDIRECTS: usize = 10;

/// The Hub's description of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Hash that the contents are named by.
    pub(crate) etag: String,
    /// Bytes, where the server says them.
    pub(crate) size: Option<u64>,
}

/// Client that reads.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    hub: Option<String>,
    token: Option<String>,
    timeout: Timeout,
    agent: Agent,
}

/// Contents that are being received.
pub(crate) struct Contents {
    reader: Reader,
    /// Address that they come from.
    address: String,
    body: Box<dyn Read>,
    /// Number of their first byte.
    pub(crate) start: u64,
    /// Bytes of the whole file, where the server says them.
    pub(crate) size: Option<u64>,
}

impl Reader {
    pub(crate) fn new(settings: &Settings, timeout: Timeout) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_resolve(Some(timeout.time))
            .timeout_connect(Some(timeout.time))
            .timeout_per_write(Some(timeout.time))
            .timeout_recv_response(Some(timeout.time))
            .timeout_per_read(Some(timeout.time))
            .user_agent(concat!("mixbit/", env!("CARGO_PKG_VERSION")));
        // Tests talk with this machine.
        #[cfg(test)]
        let config = config.proxy(None);
        let config = config.build();
        Self {
            hub: origin(&settings.endpoint),
            token: settings.token.as_ref().map(|token| token.value.clone()),
            timeout,
            agent: config.into(),
        }
    }

    /// Reads the text at `url`.
    pub(crate) fn text(&self, url: &str) -> Result<String, Failure> {
        let (address, response) = self.get(url, None)?;
        let text = accepted(response)?.body_mut().read_to_string();
        text.map_err(|error| self.failure(&address, error))
    }

    /// Asks the Hub for its description of the file at `url`: its own answer, not that of the store which has large
    /// files.
    pub(crate) fn metadata(&self, url: &str) -> Result<Metadata, Failure> {
        let mut address = url.to_owned();
        for _ in 0..REDIRECTS {
            // Lengths are those of the files only if nothing is compressed.
            let request = self.agent.head(&address).header("Accept-Encoding", "identity");
            let response = self.allow(request, &address).call().map_err(|e| self.failure(&address, e))?;
            if let Some(etag) = header(response.headers(), "x-linked-etag") {
                return Ok(described(&etag, header(response.headers(), "x-linked-size")));
            }
            if let Some(next) = redirected(&address, &response)?.filter(|next| self.is_hub(next)) {
                address = next;
                continue;
            }
            let status = response.status();
            let response = if status.is_redirection() { response } else { accepted(response)? };
            let etag = header(response.headers(), "etag")
                .ok_or_else(|| Failure::Unusable("it does not say which file it has (no ETag)".to_owned()))?;
            let length = header(response.headers(), "content-length").filter(|_| status.is_success());
            return Ok(described(&etag, length));
        }
        Err(too_many())
    }

    /// Requests the contents at `url` from the byte `start` on. They may begin earlier.
    pub(crate) fn contents(&self, url: &str, start: u64) -> Result<Contents, Failure> {
        let range = format!("bytes={start}-");
        self.range(url, start, (start > 0).then_some(range.as_str()))
    }

    /// Requests the contents at `url` from the byte `start` up to `end`, which is excluded. They may begin earlier and
    /// end later: not every server knows ranges.
    pub(crate) fn part(&self, url: &str, start: u64, end: u64) -> Result<Contents, Failure> {
        self.range(url, start, Some(&format!("bytes={start}-{}", end.saturating_sub(1))))
    }

    fn range(&self, url: &str, start: u64, range: Option<&str>) -> Result<Contents, Failure> {
        let (address, response) = self.get(url, range)?;
        let response = accepted(response)?;
        let number = |name| header(response.headers(), name)?.parse().ok();
        // `bytes 100-199/200`
        let range = header(response.headers(), "content-range");
        let range = range.as_deref().and_then(|range| range.strip_prefix("bytes ")?.split_once('/'));
        let (from, size) = match range {
            Some((part, all)) => {
                (part.split('-').next().and_then(|from| from.parse().ok()), all.parse().ok())
            }
            None => (Some(0), number("content-length")),
        };
        let Some(from) = from.filter(|&from| from <= start) else {
            return Err(Failure::Broken(format!("bytes from {start} on were asked for, others came")));
        };
        let body = Box::new(response.into_body().into_reader());
        Ok(Contents { reader: self.clone(), address, body, start: from, size })
    }

    /// Returns the last response, after all redirects, and its address.
    fn get(&self, url: &str, range: Option<&str>) -> Result<(String, Response<Body>), Failure> {
        let mut address = url.to_owned();
        for _ in 0..REDIRECTS {
            let mut request = self.agent.get(&address).header("Accept-Encoding", "identity");
            if let Some(range) = range {
                request = request.header("Range", range);
            }
            let response = self.allow(request, &address).call().map_err(|e| self.failure(&address, e))?;
            match redirected(&address, &response)? {
                Some(next) => address = next,
                None => return Ok((address, response)),
            }
        }
        Err(too_many())
    }

    fn allow<T>(&self, request: ureq::RequestBuilder<T>, address: &str) -> ureq::RequestBuilder<T> {
        match self.token.as_ref().filter(|_| self.is_hub(address)) {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// True if `address` is on the Hub itself: its protocol, host and port.
    fn is_hub(&self, address: &str) -> bool {
        self.hub.is_some() && origin(address) == self.hub
    }

    fn failure(&self, address: &str, error: ureq::Error) -> Failure {
        match error {
            // What follows the `?` may be a key.
            ureq::Error::Timeout(_) => {
                let shown = address.split('?').next().unwrap_or_default();
                Failure::Silent(shown.to_owned(), self.timeout)
            }
            other => other.into(),
        }
    }
}

impl Contents {
    /// Reads some more bytes; 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        self.body.read(buffer).map_err(|error| self.reader.failure(&self.address, error.into()))
    }
}

fn too_many() -> Failure {
    Failure::Unusable(format!("more than {REDIRECTS} redirects"))
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_owned())
}

fn described(etag: &str, size: Option<String>) -> Metadata {
    let etag = etag.trim_start_matches("W/").replace('"', "");
    Metadata { etag, size: size.and_then(|size| size.parse().ok()) }
}

/// Returns protocol, host and port, in lower case.
fn origin(address: &str) -> Option<String> {
    let uri: Uri = address.parse().ok()?;
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?).to_ascii_lowercase())
}

/// Returns the address that a response to a request to `address` redirects to.
fn redirected(address: &str, response: &Response<Body>) -> Result<Option<String>, Failure> {
    let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let Some(location) = header(response.headers(), "location").filter(|_| moved) else { return Ok(None) };
    let next = resolve(address, &location);
    // What follows the `?` may be a key.
    let shown = location.split('?').next().unwrap_or_default();
    match next.as_deref().and_then(|next| next.parse::<Uri>().ok()).as_ref().and_then(Uri::scheme_str) {
        Some("http" | "https") => Ok(next),
        _ => {
            Err(Failure::Unusable(format!("it redirects to `{shown}`, which is no address of http or https")))
        }
    }
}

/// Resolves `location` relative to `address`.
fn resolve(address: &str, location: &str) -> Option<String> {
    let location = location.split('#').next().unwrap_or_default();
    if location.contains("://") && !location.starts_with('/') {
        return Some(location.to_owned());
    }
    let uri: Uri = address.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    Some(match location.strip_prefix("//") {
        Some(rest) => format!("{scheme}://{rest}"),
        None if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        None => {
            let folder = uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{location}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_seen_from_where_they_are() {
        let from = |location: &str| resolve("https://hub.org/a/b?c=d", location).unwrap_or_default();
        assert_eq!(from("https://cdn.org/x?y=http://z"), "https://cdn.org/x?y=http://z");
        assert_eq!(from("//cdn.org/x"), "https://cdn.org/x");
        assert_eq!(from("/x?y#z"), "https://hub.org/x?y");
        assert_eq!(from("x"), "https://hub.org/a/x");
        assert_eq!(from("/x?y=http://z"), "https://hub.org/x?y=http://z");
    }

    #[test]
    fn another_port_or_protocol_is_another_server() {
        assert_eq!(origin("https://Hub.org/x"), origin("https://hub.org"));
        for other in ["http://hub.org", "https://hub.org:8443", "https://hub.org.evil", "https://a@hub.org"] {
            assert_ne!(origin(other), origin("https://hub.org"), "{other}");
        }
    }
}
