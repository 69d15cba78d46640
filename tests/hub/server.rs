//! A small Hub on loopback: the endpoints that mixbit uses, and the ways in which they fail.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A repository and what happens to requests.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools)]
pub struct State {
    /// Contents of files, by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Branches beside `main`.
    pub branches: Vec<String>,
    /// Token that every request needs.
    pub token: Option<String>,
    /// Status and error code of every answer.
    pub refusal: Option<(u16, &'static str)>,
    /// A part of paths, and the answer that such a request gets once; it may be repeated after a second.
    pub passing: Vec<(&'static str, u16)>,
    /// True if files are on another server.
    pub redirect: Option<String>,
    /// True if files have no hash.
    pub nameless: bool,
    /// True if nobody is told how large files are before they come.
    pub sizeless: bool,
    /// True if files come from their beginning to their end, whatever range is requested.
    pub rangeless: bool,
    /// Dates sent with requests that may be repeated: when to do so, and the time now.
    pub after: Option<(String, String)>,
    /// Number of times that the contents of a file break off in the middle.
    pub breaks: BTreeMap<String, usize>,
    /// True if the connection stays open after a break, and nothing comes.
    pub stall: bool,
    /// Number of times that requests whose path contains this are not answered.
    pub silent: BTreeMap<&'static str, usize>,
    /// Address of large contents, if they are on another server.
    pub store: Option<String>,
    /// Paths of requests that came with a token.
    pub with_token: Vec<String>,
    /// True if contents of weights are sent with one bit changed.
    pub damage: bool,
    /// Number of times that a part of an upload fails.
    pub put_failures: usize,
    /// Bytes of a part, where uploads come in several.
    pub chunk: Option<usize>,
    /// Uploaded large contents by SHA-256, as one or several parts.
    pub stored: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<usize, Vec<u8>>,
    /// Every request as `METHOD path range`.
    pub log: Vec<String>,
    /// Posted JSON, by path.
    pub posted: Vec<(String, Value)>,
}

pub struct Hub {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Status, headers, contents, and the number of bytes of these that are sent.
type Response = (u16, Vec<(String, String)>, Vec<u8>, Option<usize>);

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

impl Hub {
    pub fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let (shared, address) = (Arc::clone(&state), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared, address) = (stream.unwrap(), Arc::clone(&shared), address.clone());
                // Clients may hang up.
                std::thread::spawn(move || serve(stream, &shared, &address).unwrap_or_default());
            }
        });
        Self { endpoint, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Returns the requests so far that contain `part`.
    pub fn requests(&self, part: &str) -> Vec<String> {
        self.state().log.iter().filter(|line| line.contains(part)).cloned().collect()
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, endpoint: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = Request { method, path, headers, body };
    if is_silent(&mut state.lock().unwrap(), &request) {
        // Until the client hangs up.
        return reader.read_to_end(&mut Vec::new()).map(|_| ());
    }
    let (status, headers, contents, sent) = answer(&mut state.lock().unwrap(), &request, endpoint);
    let stall = sent.is_some() && state.lock().unwrap().stall;
    let head = format!("HTTP/1.1 {status} -\r\nContent-Length: {}\r\nConnection: close\r\n", contents.len());
    let fields: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    stream.write_all(format!("{head}{}\r\n", fields.concat()).as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    stream.write_all(&contents[..sent.unwrap_or(contents.len())])?;
    if stall { reader.read_to_end(&mut Vec::new()).map(|_| ()) } else { Ok(()) }
}

fn is_silent(state: &mut State, request: &Request) -> bool {
    let left = state.silent.iter_mut().find(|(part, left)| **left > 0 && request.path.contains(*part));
    left.map(|(_, left)| *left -= 1).is_some()
}

fn plain(status: u16, value: &Value) -> Response {
    (status, vec![("Content-Type".into(), "application/json".into())], value.to_string().into_bytes(), None)
}

fn refused(status: u16, code: &str) -> Response {
    (status, vec![("X-Error-Code".into(), code.into())], Vec::new(), None)
}

fn answer(state: &mut State, request: &Request, endpoint: &str) -> Response {
    let range = request.headers.get("range").cloned();
    state.log.push(format!("{} {} {}", request.method, request.path, range.as_deref().unwrap_or("-")));
    if request.headers.contains_key("authorization") {
        state.with_token.push(format!("{} {}", request.method, request.path));
    }
    let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
    let outside = parts[0] == "cdn" || parts[0] == "put" || parts[0] == "finish";
    let allowed = |token: &String| request.headers.get("authorization") == Some(&format!("Bearer {token}"));
    if !outside && !state.token.as_ref().is_none_or(allowed) {
        return refused(401, "RepoNotFound");
    }
    if let Some((status, code)) = state.refusal {
        return refused(status, code);
    }
    if let Some(at) = state.passing.iter().position(|(part, _)| request.path.contains(part)) {
        let (_, status) = state.passing.remove(at);
        let headers = match &state.after {
            Some((after, now)) => vec![("Retry-After".into(), after.clone()), ("Date".into(), now.clone())],
            None => vec![("Retry-After".into(), "1".into())],
        };
        return (status, headers, Vec::new(), None);
    }
    if request.method == "POST"
        && let Ok(value) = serde_json::from_slice(&request.body)
    {
        state.posted.push((request.path.clone(), value));
    }
    match (request.method.as_str(), &parts[..]) {
        ("GET", ["api", "models", _, "tiny", "revision", revision]) => {
            info(state, revision.trim_end_matches("?blobs=true"))
        }
        ("GET" | "HEAD", ["org", "tiny", "resolve", _, name @ ..]) => {
            resolve(state, &name.join("/"), range.as_deref(), endpoint)
        }
        ("GET" | "HEAD", ["cdn", name @ ..]) => {
            contents(state, &name.join("/"), range.as_deref(), Vec::new())
        }
        ("POST", ["api", "repos", "create"]) => plain(200, &json!({"url": "x"})),
        ("POST", ["api", "models", _, _, "branch", _]) => plain(409, &json!({"error": "it exists"})),
        ("POST", ["api", "models", _, _, "preupload", _]) => preupload(request),
        ("POST", [_, _, "info", "lfs", "objects", "batch"]) => batch(state, request, endpoint),
        ("PUT", ["put", oid, number]) => put(state, request, oid, number.parse().unwrap()),
        ("POST", ["finish", oid]) => finish(state, request, oid),
        ("POST", ["verify"]) => plain(200, &json!({})),
        ("POST", ["api", "models", organisation, name, "commit", _]) => {
            let url = format!("{endpoint}/{organisation}/{name}/commit/1");
            commit(state, request, &url)
        }
        _ => refused(404, "RepoNotFound"),
    }
}

fn info(state: &State, revision: &str) -> Response {
    if revision != "main" && revision != COMMIT && !state.branches.iter().any(|branch| branch == revision) {
        return refused(404, "RevisionNotFound");
    }
    let sized = |(name, bytes): (&String, &Vec<u8>)| {
        let size = (!state.sizeless).then_some(bytes.len());
        json!({"rfilename": name, "size": size})
    };
    let siblings: Vec<Value> = state.files.iter().map(sized).collect();
    plain(200, &json!({"sha": COMMIT, "siblings": siblings}))
}

/// True if a file is named by its SHA-256, and comes from a store.
fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

fn resolve(state: &mut State, name: &str, range: Option<&str>, endpoint: &str) -> Response {
    let Some(bytes) = state.files.get(name) else { return refused(404, "EntryNotFound") };
    let mut headers: Vec<(String, String)> = vec![("X-Repo-Commit".into(), COMMIT.into())];
    if let Some(redirect) = &state.redirect {
        return (302, vec![("Location".into(), redirect.clone())], Vec::new(), None);
    }
    if state.nameless {
        return (200, headers, bytes.clone(), None);
    }
    if !is_large(name) {
        headers.push(("ETag".into(), format!("\"{}\"", &sha256(bytes)[..40])));
        return contents(state, name, range, headers);
    }
    headers.push(("X-Linked-Etag".into(), format!("\"{}\"", sha256(bytes))));
    if !state.sizeless {
        headers.push(("X-Linked-Size".into(), bytes.len().to_string()));
    }
    let store = state.store.as_deref().unwrap_or(endpoint);
    headers.push(("Location".into(), format!("{store}/cdn/{name}")));
    (302, headers, Vec::new(), None)
}

fn contents(
    state: &mut State,
    name: &str,
    range: Option<&str>,
    mut headers: Vec<(String, String)>,
) -> Response {
    let mut bytes = state.files[name].clone();
    if state.damage && is_large(name) {
        bytes[1000] ^= 1;
    }
    let range = range.filter(|_| !state.rangeless);
    let Some((from, to)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
        let sent = broken(state, name, bytes.len());
        return (200, headers, bytes, sent);
    };
    let start = from.parse::<usize>().unwrap();
    let end = to.parse().map_or(bytes.len(), |end: usize| bytes.len().min(end + 1));
    if start >= bytes.len() {
        return (416, headers, Vec::new(), None);
    }
    headers.push(("Content-Range".into(), format!("bytes {start}-{}/{}", end - 1, bytes.len())));
    let part = bytes[start..end].to_vec();
    let sent = broken(state, name, part.len());
    (206, headers, part, sent)
}

/// Returns half of `length`, if the contents of `name` are to break off.
fn broken(state: &mut State, name: &str, length: usize) -> Option<usize> {
    let left = state.breaks.get_mut(name).filter(|left| **left > 0)?;
    *left -= 1;
    Some(length / 2)
}

fn preupload(request: &Request) -> Response {
    let value: Value = serde_json::from_slice(&request.body).unwrap();
    let files = value["files"].as_array().unwrap().iter().map(|file| {
        assert!(!BASE64_STANDARD.decode(file["sample"].as_str().unwrap()).unwrap().is_empty());
        let name = file["path"].as_str().unwrap();
        let mode = if is_large(name) { "lfs" } else { "regular" };
        json!({"path": name, "uploadMode": mode})
    });
    plain(200, &json!({"files": files.collect::<Vec<_>>()}))
}

fn batch(state: &State, request: &Request, endpoint: &str) -> Response {
    assert_eq!(request.headers["content-type"], "application/vnd.git-lfs+json");
    let value: Value = serde_json::from_slice(&request.body).unwrap();
    let object = &value["objects"][0];
    let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap() as usize);
    let mut answer = json!({"oid": oid, "size": size});
    if !state.stored.contains_key(oid) {
        let endpoint = state.store.as_deref().unwrap_or(endpoint);
        let upload = match state.chunk {
            None => json!({"href": format!("{endpoint}/put/{oid}/0"), "header": {"X-Signed": "yes"}}),
            Some(chunk) => {
                let mut header = json!({"chunk_size": chunk.to_string()});
                for number in 1..=size.div_ceil(chunk) {
                    header[format!("{number:05}")] = json!(format!("{endpoint}/put/{oid}/{number}"));
                }
                json!({"href": format!("{endpoint}/finish/{oid}"), "header": header})
            }
        };
        answer["actions"] = json!({"upload": upload, "verify": {"href": format!("{endpoint}/verify")}});
    }
    plain(200, &json!({"objects": [answer]}))
}

fn put(state: &mut State, request: &Request, oid: &str, number: usize) -> Response {
    // Signed addresses know who asks; a token is for the Hub alone.
    assert!(!request.headers.contains_key("authorization"));
    if state.put_failures > 0 {
        state.put_failures -= 1;
        return refused(503, "");
    }
    if number == 0 {
        assert_eq!(request.headers["x-signed"], "yes");
        assert_eq!(sha256(&request.body), oid);
        state.stored.insert(oid.to_owned(), request.body.clone());
    } else {
        state.parts.insert(number, request.body.clone());
    }
    (200, vec![("ETag".into(), format!("\"part{number}\""))], Vec::new(), None)
}

fn finish(state: &mut State, request: &Request, oid: &str) -> Response {
    let value: Value = serde_json::from_slice(&request.body).unwrap();
    let parts = value["parts"].as_array().unwrap();
    let expected: Vec<Value> = (1..=state.parts.len())
        .map(|number| json!({"partNumber": number, "etag": format!("\"part{number}\"")}))
        .collect();
    assert_eq!((parts, value["oid"].as_str().unwrap()), (&expected, oid));
    let whole: Vec<u8> = std::mem::take(&mut state.parts).into_values().flatten().collect();
    assert_eq!(sha256(&whole), oid);
    state.stored.insert(oid.to_owned(), whole);
    plain(200, &json!({}))
}

/// Replaces all files by the committed ones.
fn commit(state: &mut State, request: &Request, url: &str) -> Response {
    assert_eq!(request.headers["content-type"], "application/x-ndjson");
    let text = String::from_utf8(request.body.clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["key"], "header");
    state.files.clear();
    for line in &lines[1..] {
        let value = &line["value"];
        let bytes = match line["key"].as_str().unwrap() {
            "file" => BASE64_STANDARD.decode(value["content"].as_str().unwrap()).unwrap(),
            "lfsFile" => state.stored[value["oid"].as_str().unwrap()].clone(),
            other => panic!("{other}"),
        };
        state.files.insert(value["path"].as_str().unwrap().to_owned(), bytes);
    }
    state.posted.push((request.path.clone(), lines[0]["value"].clone()));
    plain(200, &json!({"success": true, "commitUrl": url}))
}
