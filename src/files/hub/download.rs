//! Downloads of the files that a model needs, and no others, into the Hub's cache.
//!
//! The hf-hub crate keeps the cache as Python's huggingface_hub does: contents in `blobs/` by their hash, links to them
//! in `snapshots/COMMIT/`, commits of branches in `refs/`. All files are asked for by commit, so that they belong
//! together. A download that breaks off, or stalls, is resumed where it was; weights are compared with their SHA-256,
//! which is their name.

use crate::files::names::RECORD;
use crate::progress::Progress;
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::Failure;
use super::gguf::{Sizes, chosen_files};
use super::headers::{Beginning, Headers};
use super::name::{Located, ModelName, Need, Repository};
use super::reader::Reader;
use super::settings::Settings;
use super::transfer::Transfer;
use crate::error::{Error, Result};
use crate::files::hub_cache::files_in_snapshot;
use crate::files::model_files::ModelFiles;
use crate::files::names::is_model_file;
use crate::files::pack::safe_name;
use crate::files::weight_files::{INCOMPLETE, INDEX, weight_files};
use crate::interrupt;
use crate::words::count;

/// Times that a file is requested in a row without any progress.
const ATTEMPTS: u32 = 5;

/// The Hub's description of a revision.
#[derive(Debug, Deserialize)]
struct Info {
    /// Commit of the revision.
    sha: String,
    siblings: Vec<Sibling>,
}

/// File of a revision.
#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    /// Bytes, where the Hub says them.
    #[serde(default)]
    size: Option<u64>,
}

impl Info {
    /// Returns the names of the files that can lie in a folder.
    fn names(&self) -> Vec<String> {
        let names = self.siblings.iter().map(|file| &file.rfilename);
        names.filter(|name| safe_name(name)).cloned().collect()
    }

    /// Returns the files that can lie in a folder, with their bytes where the Hub says them.
    fn sizes(&self) -> Sizes {
        let files = self.siblings.iter().filter(|file| safe_name(&file.rfilename));
        files.map(|file| (file.rfilename.clone(), file.size)).collect()
    }

    /// Returns the bytes of the file `name`, where the Hub says them.
    fn size(&self, name: &str) -> Option<u64> {
        self.siblings.iter().find(|file| file.rfilename == name)?.size
    }
}

/// Fetches the part of a model that `need` names. The cache is used as it is in offline mode, and where the Hub does
/// not answer but the cache has the whole model.
pub(crate) fn fetch(
    settings: &Settings,
    name: &ModelName,
    need: Need,
    console: &dyn Progress,
) -> Result<Located> {
    let cached = cached(settings, name);
    if settings.offline {
        return cached.map(Located::There);
    }
    let repository = &name.repository;
    let download = Download::new(settings, repository, console);
    let retries = if cached.is_err() { Retries::WhenAsked } else { Retries::Never };
    let info = match download.info(retries)? {
        Ok(info) => info,
        Err(failure) => {
            let may_use_cache = failure.is_passing() || matches!(failure, Failure::Unusable(_));
            let Some(path) = cached.ok().filter(|_| may_use_cache) else {
                return Err(failure.explain(settings, repository));
            };
            let what = match &failure {
                Failure::Refused(_) => failure.brief(),
                Failure::Unusable(what) => format!("the Hub's answer cannot be used ({what})"),
                _ => "the Hub does not answer".to_owned(),
            };
            console.notes(&[format!("{what}: using what the cache has")]);
            return Ok(Located::There(path));
        }
    };
    download.check(&info)?;
    if let Some(files) = chosen_files(name, &info.sizes(), &repository.tree(settings))? {
        return download.gguf(&info, &files).map(Located::There);
    }
    if need == Need::Headers
        && missing(&download.snapshot(&info.sha)).is_some()
        && let Some(headers) = download.headers(&info)?
    {
        return Ok(Located::Headers(headers));
    }
    download.all(&info).map(Located::There)
}

fn cache(settings: &Settings, repository: &Repository, revision: &str) -> CacheRepo {
    let repo = Repo::with_revision(repository.id.clone(), RepoType::Model, revision.to_owned());
    Cache::new(settings.cache.clone()).repo(repo)
}

/// Returns the cache's folder of the revision as of the last download, or the GGUF in it that is meant. Errors are those of
/// offline mode.
fn cached(settings: &Settings, name: &ModelName) -> Result<PathBuf> {
    let repository = &name.repository;
    let cache = cache(settings, repository, &repository.revision);
    let folder = settings.cache.join(Repo::model(repository.id.clone()).folder_name());
    let reference = fs::read_to_string(folder.join("refs").join(&repository.revision));
    let commit = reference.map_or_else(|_| repository.revision.clone(), |text| text.trim().to_owned());
    let folder = cache.pointer_path(&commit);
    let absent = |what: &str| {
        let message = format!("{what} not in the cache, and HF_HUB_OFFLINE is set");
        let hint = format!("unset it to download the model to {}", settings.cache.display());
        Error::file(repository.place(settings), message).hint(hint)
    };
    if !safe_name(&commit) || !folder.is_dir() {
        return Err(absent("the model is"));
    }
    let sizes = files_in_snapshot(&folder).map_err(|e| Error::io(&folder, e))?;
    if let Some(files) = chosen_files(name, &sizes, &folder).map_err(of_cache)? {
        let lost = files.iter().find(|file| !sizes.contains_key(*file));
        return lost.map_or_else(|| Ok(folder.join(&files[0])), |file| Err(absent(&format!("`{file}` is"))));
    }
    missing(&folder).map_or(Ok(folder), |what| Err(absent(&what)))
}

/// Adds to an `error` about the cache's files that there may be more on the Hub.
fn of_cache(error: Error) -> Error {
    let hint = error.hint_text().map(|hint| format!("{hint}; ")).unwrap_or_default();
    error.hint(format!("{hint}HF_HUB_OFFLINE is set, and only the cache was looked at"))
}

/// Returns what a snapshot lacks of config.json and weights, with the verb: another process may be filling it.
fn missing(folder: &Path) -> Option<String> {
    if !folder.join("config.json").is_file() {
        return Some("config.json is".to_owned());
    }
    let weights = || {
        let files = ModelFiles::of_folder(folder);
        weight_files(folder, &files, &files.names()?)
    };
    weights().is_err().then(|| "the weights are".to_owned())
}

/// Repetition of a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retries {
    Never,
    /// After the time that the Hub names, where it names one.
    WhenAsked,
}

struct Download<'a> {
    settings: &'a Settings,
    repository: &'a Repository,
    console: &'a dyn Progress,
    asking: Reader,
    downloading: Reader,
}

impl<'a> Download<'a> {
    fn new(settings: &'a Settings, repository: &'a Repository, console: &'a dyn Progress) -> Self {
        let asking = Reader::new(settings, settings.asking);
        let downloading = Reader::new(settings, settings.downloading);
        Self { settings, repository, console, asking, downloading }
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repository.id.clone(), RepoType::Model, revision.to_owned())
    }

    /// Returns the address of the file `name`.
    fn url(&self, commit: &str, name: &str) -> String {
        let repo = self.at(commit);
        format!("{}/{}/resolve/{}/{}", self.settings.endpoint, repo.url(), repo.url_revision(), encoded(name))
    }

    /// Asks for commit and files of the revision, with their sizes.
    fn info(&self, retries: Retries) -> Result<Result<Info, Failure>> {
        let path = self.at(&self.repository.revision).api_url();
        let url = format!("{}/api/{path}?blobs=true", self.settings.endpoint);
        let mut attempts = if retries == Retries::WhenAsked { ATTEMPTS } else { 1 };
        loop {
            let (reader, url) = (self.asking.clone(), url.clone());
            let result = interrupt::run(move || {
                serde_json::from_str(&reader.text(&url)?)
                    .map_err(|e| Failure::Unusable(format!("it is no description of a model: {e}")))
            })?;
            attempts -= 1;
            match &result {
                Err(failure) if attempts > 0 && failure.is_passing() => {
                    let Some(wait) = failure.after() else { return Ok(result) };
                    self.console.line(&format!("{}, waiting {} s", failure.brief(), wait.as_secs()));
                    pause(wait)?;
                }
                _ => return Ok(result),
            }
        }
    }

    /// Fails where the Hub's answer names no commit.
    fn check(&self, info: &Info) -> Result<()> {
        if !info.sha.is_empty() && info.sha.chars().all(|c| c.is_ascii_hexdigit()) {
            return Ok(());
        }
        let place = self.repository.place(self.settings);
        Err(Error::file(place, format!("the Hub names a commit `{}`", info.sha)))
    }

    /// Returns the cache's folder for `commit`.
    fn snapshot(&self, commit: &str) -> PathBuf {
        cache(self.settings, self.repository, commit).pointer_path(commit)
    }

    /// Fetches all files of the model and returns their folder.
    fn all(&self, info: &Info) -> Result<PathBuf> {
        let is_weights = |name: &str| name.ends_with(".safetensors") || name.ends_with(".npz");
        let wanted = |name: &str| is_model_file(name) && !name.starts_with('.') && !is_weights(name);
        let folder = self.small(info, wanted)?;
        self.each_weight(info, &folder, |name| self.file(&info.sha, name, info.size(name)))?;
        self.create_ref(info)?;
        Ok(folder)
    }

    /// Fetches the `files` of a GGUF model, and returns the path of the first.
    fn gguf(&self, info: &Info, files: &[String]) -> Result<PathBuf> {
        let names = info.names();
        if let Some(lost) = files.iter().find(|file| !names.contains(file)) {
            let message = format!("`{lost}` is not there, one of {} of a model", count(files.len(), "file"));
            return Err(Error::file(self.repository.tree(self.settings), message).hint(INCOMPLETE));
        }
        for name in files {
            self.file(&info.sha, name, info.size(name))?;
        }
        self.create_ref(info)?;
        Ok(self.snapshot(&info.sha).join(&files[0]))
    }

    /// Notes in the cache that the revision is the commit of `info`.
    fn create_ref(&self, info: &Info) -> Result<()> {
        let branch = cache(self.settings, self.repository, &self.repository.revision);
        branch.create_ref(&info.sha).map_err(|e| Error::io(&self.settings.cache, e))
    }

    /// Fetches the files that describe the weights, and the weights' headers. `None` where headers cannot be had
    /// without the weights.
    fn headers(&self, info: &Info) -> Result<Option<Headers>> {
        const BESIDE: [&str; 3] = ["config.json", INDEX, RECORD];
        let cached = self.small(info, |name| BESIDE.contains(&name))?;
        if self.weights(&cached, info)?.iter().any(|name| !name.ends_with(".safetensors")) {
            return Ok(None);
        }
        let headers = Headers::new(self.settings, self.repository, &info.sha)?;
        for name in info.names().iter().filter(|name| BESIDE.contains(&name.as_str())) {
            headers.copy(&cached.join(name), name)?;
        }
        let bar = self.console.steps_bar("reading headers", self.weights(&cached, info)?.len() as u64);
        let mut sizes_are_known = true;
        self.each_weight(info, headers.folder(), |name| {
            if sizes_are_known {
                match self.beginning(&info.sha, name)?.into_parts() {
                    Some((bytes, size)) => headers.write(name, &bytes, size)?,
                    None => sizes_are_known = false,
                }
            }
            bar.inc(1);
            Ok(())
        })?;
        bar.finish();
        Ok(sizes_are_known.then_some(headers))
    }

    /// Calls `get` for each weight file, which puts it, or its header, into `folder`, which has the index: first for
    /// those that the index names, then for the others where these headers show that the index belongs to other
    /// weights.
    fn each_weight(&self, info: &Info, folder: &Path, mut get: impl FnMut(&str) -> Result<()>) -> Result<()> {
        let mut fetched = BTreeSet::new();
        loop {
            let mut wanted = self.weights(folder, info)?;
            wanted.retain(|name| !fetched.contains(name));
            if wanted.is_empty() {
                return Ok(());
            }
            for name in wanted {
                get(&name)?;
                fetched.insert(name);
            }
        }
    }

    /// Fetches the weight file `name` to the end of its header.
    fn beginning(&self, commit: &str, name: &str) -> Result<Beginning> {
        let mut beginning = Beginning::default();
        self.persist(name, || {
            let (reader, url) = (self.downloading.clone(), self.url(commit, name));
            let mut fetched = std::mem::take(&mut beginning);
            let (result, fetched) = interrupt::run(move || (fetched.read(&reader, &url), fetched))?;
            Ok(match result {
                Ok(()) => Ok(fetched),
                Err(failure) => {
                    beginning = fetched;
                    Err((failure, beginning.len()))
                }
            })
        })
    }

    /// Fetches the files that are `wanted`, which are not weights. Returns their folder.
    fn small(&self, info: &Info, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
        for name in info.names().iter().filter(|name| wanted(name)) {
            self.file(&info.sha, name, info.size(name))?;
        }
        Ok(self.snapshot(&info.sha))
    }

    /// Returns the names of the repository's weight files; its index is in `folder`.
    fn weights(&self, folder: &Path, info: &Info) -> Result<Vec<String>> {
        let place = self.repository.place(self.settings);
        weight_files(Path::new(&place), &ModelFiles::of_folder(folder), &info.names())
    }

    /// Fetches one file, unless it is there with all of its `size` bytes.
    fn file(&self, commit: &str, name: &str, size: Option<u64>) -> Result<()> {
        let folder = self.snapshot(commit);
        if let Some(metadata) = fs::metadata(folder.join(name)).ok().filter(fs::Metadata::is_file) {
            let cached = metadata.len();
            let Some(size) = size.filter(|&size| size != cached) else { return Ok(()) };
            self.console
                .line(&format!("{name}: the cache has {cached} bytes, the Hub {size}: fetching it again"));
        }
        self.persist(name, || self.attempt(commit, name))
    }

    /// Repeats `attempt` for the file `name` until it succeeds or cannot succeed any more. A failure comes with the
    /// bytes that are there.
    fn persist<T>(
        &self,
        name: &str,
        mut attempt: impl FnMut() -> Result<Result<T, (Failure, u64)>>,
    ) -> Result<T> {
        let mut attempts = ATTEMPTS;
        let mut previous_bytes = 0;
        loop {
            let (failure, bytes) = match attempt()? {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            attempts = if bytes > previous_bytes { ATTEMPTS } else { attempts - 1 };
            previous_bytes = bytes;
            if attempts == 0 || !failure.is_passing() {
                return Err(failure.explain_step(self.settings, self.repository, &format!("`{name}`")));
            }
            let wait = (Duration::from_millis(100) * 2u32.pow(ATTEMPTS - attempts))
                .max(failure.after().unwrap_or_default());
            let when = match wait.as_secs() {
                0 => String::new(),
                seconds => format!(" in {seconds} s"),
            };
            self.console.line(&format!("{name}: {}, continuing at {bytes} bytes{when}", failure.brief()));
            pause(wait)?;
        }
    }

    /// Requests a file once, from where an earlier attempt broke off. A failure comes with the bytes that are there.
    fn attempt(&self, commit: &str, name: &str) -> Result<Result<(), (Failure, u64)>> {
        let url = self.url(commit, name);
        let (reader, asked) = (self.asking.clone(), url.clone());
        let metadata = match interrupt::run(move || reader.metadata(&asked))? {
            Ok(metadata) => metadata,
            Err(failure) => return Ok(Err((failure, 0))),
        };
        let etag = &metadata.etag;
        if !safe_name(etag) || etag.contains('/') {
            return Ok(Err((Failure::Unusable(format!("`{etag}` is no name of a file's contents")), 0)));
        }
        let cache = cache(self.settings, self.repository, commit);
        let (blob, pointer) = (cache.blob_path(etag), cache.pointer_path(commit).join(name));
        let lock = self.lock(&blob, name)?;
        let length = fs::metadata(&blob).map_or(0, |metadata| metadata.len());
        if length > 0 && metadata.size.is_none_or(|size| size == length) {
            link(&blob, &pointer, name)?;
            return Ok(Ok(()));
        }
        let bar = self.console.bytes_bar(&format!("downloading {name}"), 0);
        let transfer = Transfer { reader: self.downloading.clone(), url, metadata, blob, bar };
        let (result, transfer) = interrupt::run(move || (transfer.run(), transfer))?;
        transfer.bar.finish();
        let outcome = result?;
        if outcome.is_ok() {
            link(&transfer.blob, &pointer, name)?;
        }
        drop(lock);
        Ok(outcome)
    }

    /// Locks the contents `blob` against other processes, once they are done with them.
    fn lock(&self, blob: &Path, name: &str) -> Result<File> {
        if let Some(folder) = blob.parent() {
            fs::create_dir_all(folder).map_err(|e| no_cache(folder, e))?;
        }
        let path = blob.with_extension("lock");
        let file = File::create(&path).map_err(|e| no_cache(&path, e))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(Error::io(&path, error)),
            Err(TryLockError::WouldBlock) => {}
        }
        self.console.line(&format!("{name}: another process downloads it, waiting"));
        interrupt::run(move || file.lock().map(|()| file))?.map_err(|e| Error::io(&path, e))
    }
}

/// Returns the error for a cache that cannot be written to.
fn no_cache(path: &Path, error: std::io::Error) -> Error {
    Error::io(path, error).hint(
        "this is the Hub's cache: HF_HUB_CACHE, or HF_HOME, names a folder for it that can be written to",
    )
}

/// Makes the file `name` of a snapshot, at `pointer`, a link to its contents.
fn link(blob: &Path, pointer: &Path, name: &str) -> Result<()> {
    let io = |e| Error::io(pointer, e);
    if let Some(folder) = pointer.parent() {
        fs::create_dir_all(folder).map_err(io)?;
    }
    let same =
        fs::canonicalize(blob).is_ok_and(|blob| fs::canonicalize(pointer).is_ok_and(|target| target == blob));
    if same && pointer.is_symlink() {
        return Ok(());
    }
    // In one step: another process may be reading what is there.
    let hidden =
        format!(".{}.{}", pointer.file_name().unwrap_or_default().to_string_lossy(), std::process::id());
    let temporary = pointer.with_file_name(hidden);
    let _ = fs::remove_file(&temporary);
    #[cfg(unix)]
    {
        // From `snapshots/COMMIT/`, so that the cache can be moved.
        let up = "../".repeat(2 + name.matches('/').count());
        let target = Path::new(&up).join("blobs").join(blob.file_name().unwrap_or_default());
        std::os::unix::fs::symlink(target, &temporary).map_err(io)?;
    }
    #[cfg(not(unix))]
    {
        let _ = name;
        fs::copy(blob, &temporary).map_err(io)?;
    }
    fs::rename(&temporary, pointer).map_err(io)
}

/// Encodes a file's name for addresses.
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn pause(time: Duration) -> Result<()> {
    interrupt::run(move || std::thread::sleep(time))
}
