//! Uploads of large files: git-LFS's batch API, with its plain transfer and the Hub's in several parts.

use serde_json::{Value, json};
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use ureq::SendBody;
use ureq::http::Response;

use super::client::{Client, Failure, accepted};
use super::name::Repository;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::files::mapped::Mapped;
use crate::interrupt;

const KIND: &str = "application/vnd.git-lfs+json";
/// Times that a part is sent.
const ATTEMPTS: u32 = 5;

/// File with the hash of its contents.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) name: String,
    pub(crate) data: Mapped,
    /// SHA-256 in hexadecimal, lower case.
    pub(crate) oid: String,
}

impl Object {
    fn describe(&self) -> Value {
        json!({"oid": self.oid, "size": self.data.len()})
    }
}

/// Callback with the number of bytes sent.
pub(crate) type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// Uploads the contents of `objects` that the Hub does not have yet. Returns their number.
pub(crate) fn upload(
    settings: &Settings,
    repository: &Repository,
    objects: &[Object],
    progress: &Progress,
) -> Result<usize> {
    let mut sent = 0;
    for object in objects {
        let explain = |failure: Failure| {
            failure.explain_step(settings, repository, &format!("uploading `{}`", object.name))
        };
        let request = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [object.describe()],
            "hash_algo": "sha256",
            "ref": {"name": repository.revision},
        });
        let path = format!("{}.git/info/lfs/objects/batch", repository.id);
        let answer = post(settings, path, request)?.map_err(explain)?;
        let answer = answer.get("objects").and_then(|objects| objects.get(0)).cloned().unwrap_or(Value::Null);
        if let Some(error) = answer.get("error") {
            let message = error.get("message").and_then(Value::as_str).unwrap_or("no reason given");
            return Err(Error::file(
                repository.place(settings),
                format!("`{}` is refused: {message}", object.name),
            )
            .hint("the limits of the account or the repository may be reached"));
        }
        let Some(action) = answer.get("actions").and_then(|actions| actions.get("upload")) else {
            progress(object.data.len() as u64);
            continue;
        };
        send(settings, repository, object, action, progress)?;
        if let Some(verify) = answer.get("actions").and_then(|actions| actions.get("verify")) {
            confirm(settings, object, verify)?.map_err(explain)?;
        }
        sent += 1;
    }
    Ok(sent)
}

fn post(settings: &Settings, path: String, value: Value) -> Result<Result<Value, Failure>> {
    let settings = settings.clone();
    interrupt::run(move || {
        let text = value.to_string();
        Client::new(&settings).post(&path, KIND, &text)
    })
}

/// Sends the contents to the address in `action`: in one piece, or in the parts that its header lists by number.
fn send(
    settings: &Settings,
    repository: &Repository,
    object: &Object,
    action: &Value,
    progress: &Progress,
) -> Result<()> {
    let malformed = || {
        Error::file(
            repository.place(settings),
            format!("`{}`: the Hub does not say where to send it", object.name),
        )
        .hint("try again later")
    };
    let href = action.get("href").and_then(Value::as_str).ok_or_else(malformed)?;
    let header = action.get("header").and_then(Value::as_object).cloned().unwrap_or_default();
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let length = object.data.len();
    let explain = |failure: Failure| {
        failure.explain_step(settings, repository, &format!("uploading `{}`", object.name))
    };
    let Some(chunk) = header.get("chunk_size").and_then(number).filter(|&chunk| chunk > 0) else {
        let headers: Vec<_> =
            header.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect();
        put(settings, href, &headers, &object.data, progress)?.map_err(explain)?;
        return Ok(());
    };
    let mut parts = Vec::new();
    for (index, start) in (0..length).step_by(chunk as usize).enumerate() {
        let number = index + 1;
        // Keys are padded with zeros to any width.
        let at = header.iter().find(|(key, _)| key.parse() == Ok(number)).and_then(|(_, href)| href.as_str());
        let data = object.data.part(start, (start + chunk as usize).min(length)).ok_or_else(malformed)?;
        let response = put(settings, at.ok_or_else(malformed)?, &[], &data, progress)?.map_err(explain)?;
        let etag =
            response.headers().get("etag").and_then(|etag| etag.to_str().ok()).ok_or_else(malformed)?;
        parts.push(json!({"partNumber": number, "etag": etag}));
    }
    let (settings, href) = (settings.clone(), href.to_owned());
    let finish = json!({"oid": object.oid, "parts": parts}).to_string();
    let result = interrupt::run(move || {
        let request = Client::new(&settings).agent().post(href).header("Accept", KIND);
        accepted(request.header("Content-Type", KIND).send(finish.as_bytes())?).map(|_| ())
    })?;
    result.map_err(explain)
}

/// Sends bytes to an address that needs no token; again where that may help.
fn put(
    settings: &Settings,
    href: &str,
    headers: &[(String, String)],
    data: &Mapped,
    progress: &Progress,
) -> Result<Result<Response<ureq::Body>, Failure>> {
    let mut attempt = 1;
    loop {
        let sent = Arc::new(Mutex::new(0));
        let (settings, href, headers) = (settings.clone(), href.to_owned(), headers.to_vec());
        let (data, progress) = (data.clone(), Arc::clone(progress));
        let counted = Arc::clone(&sent);
        let result = interrupt::run(move || {
            let mut request = Client::new(&settings).agent().put(href);
            for (name, value) in &headers {
                request = request.header(name, value);
            }
            let mut reader = Reader { data: &data, at: 0, progress: &*progress, counted: &counted };
            let request = request.header("Content-Length", data.len().to_string());
            accepted(request.send(SendBody::from_reader(&mut reader))?)
        })?;
        match result {
            Err(failure) if failure.is_passing() && attempt < ATTEMPTS => {
                let wait =
                    (Duration::from_millis(100) * 2u32.pow(attempt)).max(failure.after().unwrap_or_default());
                interrupt::run(move || std::thread::sleep(wait))?;
                attempt += 1;
            }
            other => return Ok(other),
        }
    }
}

/// Reader of mapped bytes, which are not kept in memory once sent.
struct Reader<'a> {
    data: &'a Mapped,
    at: usize,
    progress: &'a dyn Fn(u64),
    /// Most bytes that were reported: bytes that are sent again are not counted again.
    counted: &'a Mutex<usize>,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut rest = self.data.get(self.at..).unwrap_or_default();
        let length = rest.read(buffer)?;
        let before = self.at;
        self.at += length;
        self.data.release(before, self.at);
        if let Ok(mut counted) = self.counted.lock()
            && self.at > *counted
        {
            (self.progress)((self.at - *counted) as u64);
            *counted = self.at;
        }
        Ok(length)
    }
}

fn confirm(settings: &Settings, object: &Object, action: &Value) -> Result<Result<(), Failure>> {
    let Some(href) = action.get("href").and_then(Value::as_str) else { return Ok(Ok(())) };
    let (settings, href, text) = (settings.clone(), href.to_owned(), object.describe().to_string());
    interrupt::run(move || {
        let client = Client::new(&settings);
        let mut request = client.agent().post(&href).header("Accept", KIND).header("Content-Type", KIND);
        // The token is for the Hub only.
        if let Some(token) =
            settings.token.as_ref().filter(|_| href.starts_with(&format!("{}/", settings.endpoint)))
        {
            request = request.header("Authorization", format!("Bearer {}", token.value));
        }
        accepted(request.send(text.as_bytes())?).map(|_| ())
    })
}
