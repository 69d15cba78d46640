//! Downloading what a model needs, and nothing else, into the Hub's cache.
//!
//! The hf-hub crate keeps the cache as Python's huggingface_hub does: contents in `blobs/` by their hash, links to them in
//! `snapshots/COMMIT/`, commits of branches in `refs/`. All files are asked for by commit, so that they belong together.
//! A download that breaks off, or from which nothing comes any more, is continued where it was; weights are compared with their SHA-256, which is their name.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde::Deserialize;

use super::client::Failure;
use super::reader::Reader;
use super::transfer::Transfer;
use super::{Repository, Settings};
use crate::checkpoint::{INDEX, choose_weights, index_files};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model_files::{ModelFiles, is_of_a_model, safe_name};
use crate::report::Console;

/// Times that a file is asked for anew without any progress.
const ATTEMPTS: u32 = 5;

/// What the Hub says about a revision.
#[derive(Debug, Deserialize)]
struct Info {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

/// A file of it.
#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    /// Bytes, where they are said.
    #[serde(default)]
    size: Option<u64>,
}

/// The folder of the cache that holds the model. In offline mode, and where the Hub does not answer, what the cache has.
pub(super) fn fetch(settings: &Settings, repository: &Repository, console: &Console) -> Result<PathBuf> {
    let cached = cached(settings, repository);
    if settings.offline {
        return cached.ok_or_else(|| {
            Error::file(repository.place(settings), "is not in the cache, and HF_HUB_OFFLINE is set")
                .hint(format!("unset it to download the model to {}", settings.cache.display()))
        });
    }
    let download = Download::new(settings, repository, console);
    let info = match download.info(cached.is_none())? {
        Ok(info) => info,
        Err(failure) => {
            let instead = failure.is_passing() || matches!(failure, Failure::Unusable(_));
            let Some(folder) = cached.filter(|_| instead) else {
                return Err(failure.explain(settings, repository));
            };
            let what = match &failure {
                Failure::Refused(_) => failure.brief(),
                Failure::Unusable(what) => format!("the Hub's answer cannot be used ({what})"),
                _ => "the Hub does not answer".to_owned(),
            };
            console.notes(&[format!("{what}: using what the cache has")]);
            return Ok(folder);
        }
    };
    download.all(&info)
}

fn cache(settings: &Settings, repository: &Repository, revision: &str) -> CacheRepo {
    let repo = Repo::with_revision(repository.id.clone(), RepoType::Model, revision.to_owned());
    Cache::new(settings.cache.clone()).repo(repo)
}

/// The folder of the revision as of the last download.
fn cached(settings: &Settings, repository: &Repository) -> Option<PathBuf> {
    let cache = cache(settings, repository, &repository.revision);
    let folder = settings.cache.join(Repo::model(repository.id.clone()).folder_name());
    let reference = fs::read_to_string(folder.join("refs").join(&repository.revision));
    let commit = reference.map_or_else(|_| repository.revision.clone(), |text| text.trim().to_owned());
    let folder = cache.pointer_path(&commit);
    (safe_name(&commit) && is_whole(&folder)).then_some(folder)
}

/// Whether a snapshot has config.json and all weights: another process may be filling it.
fn is_whole(folder: &Path) -> bool {
    let weights = || {
        let files = ModelFiles::open(folder)?;
        let names =
            if files.has(INDEX) { index_files(&files)? } else { choose_weights(folder, &files.names()?)? };
        Ok::<_, Error>(names.iter().all(|name| files.has(name)))
    };
    folder.join("config.json").is_file() && weights().unwrap_or_default()
}

struct Download<'a> {
    settings: &'a Settings,
    repository: &'a Repository,
    console: &'a Console,
    asking: Reader,
    downloading: Reader,
}

impl<'a> Download<'a> {
    fn new(settings: &'a Settings, repository: &'a Repository, console: &'a Console) -> Self {
        let asking = Reader::new(settings, settings.asking);
        let downloading = Reader::new(settings, settings.downloading);
        Self { settings, repository, console, asking, downloading }
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repository.id.clone(), RepoType::Model, revision.to_owned())
    }

    /// Commit and files of the revision, with their sizes. With `patient` asked for again after the time that the Hub names.
    fn info(&self, patient: bool) -> Result<Result<Info, Failure>> {
        let path = self.at(&self.repository.revision).api_url();
        let url = format!("{}/api/{path}?blobs=true", self.settings.endpoint);
        let mut left = ATTEMPTS;
        loop {
            let (reader, url) = (self.asking.clone(), url.clone());
            let result = interrupt::run(move || {
                serde_json::from_str(&reader.text(&url)?)
                    .map_err(|e| Failure::Unusable(format!("it is no description of a model: {e}")))
            })?;
            left -= 1;
            match &result {
                Err(failure) if patient && left > 0 && failure.is_passing() => {
                    let Some(wait) = failure.after() else { return Ok(result) };
                    self.console.line(&format!("{}, waiting {} s", failure.brief(), wait.as_secs()));
                    pause(wait)?;
                }
                _ => return Ok(result),
            }
        }
    }

    /// Everything that is needed.
    fn all(&self, info: &Info) -> Result<PathBuf> {
        let place = self.repository.place(self.settings);
        if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(Error::file(place, format!("the Hub names a commit `{}`", info.sha)));
        }
        let names: Vec<String> = info.siblings.iter().map(|file| file.rfilename.clone()).collect();
        let is_weights = |name: &String| name.ends_with(".safetensors") || name.ends_with(".npz");
        let wanted = |name: &&String| {
            safe_name(name) && is_of_a_model(name) && !name.starts_with('.') && !is_weights(name)
        };
        let sized = |name: &str| info.siblings.iter().find(|file| file.rfilename == name)?.size;
        for name in names.iter().filter(wanted) {
            self.file(&info.sha, name, sized(name))?;
        }
        let folder = cache(self.settings, self.repository, &info.sha).pointer_path(&info.sha);
        for name in self.weights(&folder, &names)? {
            self.file(&info.sha, &name, sized(&name))?;
        }
        let branch = cache(self.settings, self.repository, &self.repository.revision);
        branch.create_ref(&info.sha).map_err(|e| Error::io(&self.settings.cache, e))?;
        Ok(folder)
    }

    /// Names of the weight files: those of the index where there is one.
    fn weights(&self, folder: &Path, names: &[String]) -> Result<Vec<String>> {
        let place = self.repository.place(self.settings);
        if names.iter().any(|name| name == INDEX) {
            let shards = index_files(&ModelFiles::open(folder)?)?;
            return match shards.iter().find(|shard| !names.contains(shard)) {
                Some(shard) => {
                    Err(Error::file(place, format!("its index names `{shard}`, which is not there"))
                        .hint("the model is incomplete on the Hub: tell its author"))
                }
                None => Ok(shards),
            };
        }
        let top: Vec<String> = names.iter().filter(|name| !name.contains('/')).cloned().collect();
        choose_weights(Path::new(&place), &top)
    }

    /// One file, unless it is there, with all of its `size` bytes.
    fn file(&self, commit: &str, name: &str, size: Option<u64>) -> Result<()> {
        let folder = cache(self.settings, self.repository, commit).pointer_path(commit);
        if let Some(there) = fs::metadata(folder.join(name)).ok().filter(fs::Metadata::is_file) {
            let there = there.len();
            match size {
                Some(size) if size != there => self
                    .console
                    .line(&format!("{name}: the cache has {there} bytes, the Hub {size}: fetching it again")),
                _ => return Ok(()),
            }
        }
        let mut left = ATTEMPTS;
        let mut before = 0;
        loop {
            let (failure, bytes) = match self.attempt(commit, name)? {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            left = if bytes > before { ATTEMPTS } else { left - 1 };
            before = bytes;
            if left == 0 || !failure.is_passing() {
                return Err(failure.explain_step(self.settings, self.repository, &format!("`{name}`")));
            }
            let wait = (Duration::from_millis(100) * 2u32.pow(ATTEMPTS - left))
                .max(failure.after().unwrap_or_default());
            let when = match wait.as_secs() {
                0 => String::new(),
                seconds => format!(" in {seconds} s"),
            };
            self.console.line(&format!("{name}: {}, continuing at {bytes} bytes{when}", failure.brief()));
            pause(wait)?;
        }
    }

    /// Asks for a file once, from where an earlier attempt broke off. A failure comes with the bytes that are there.
    fn attempt(&self, commit: &str, name: &str) -> Result<Result<(), (Failure, u64)>> {
        let repo = self.at(commit);
        let (id, revision) = (repo.url(), repo.url_revision());
        let url = format!("{}/{id}/resolve/{revision}/{}", self.settings.endpoint, encoded(name));
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
        let (done, transfer) = interrupt::run(move || (transfer.run(), transfer))?;
        transfer.bar.finish_and_clear();
        let done = done?;
        if done.is_ok() {
            link(&transfer.blob, &pointer, name)?;
        }
        drop(lock);
        Ok(done)
    }

    /// Keeps other processes from the contents `blob`, once they are done with them.
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

/// The cache cannot be written to.
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
        fs::canonicalize(blob).is_ok_and(|blob| fs::canonicalize(pointer).is_ok_and(|there| there == blob));
    if same && pointer.is_symlink() {
        return Ok(());
    }
    // In one step: another process may be reading what is there.
    let hidden =
        format!(".{}.{}", pointer.file_name().unwrap_or_default().to_string_lossy(), std::process::id());
    let made = pointer.with_file_name(hidden);
    let _ = fs::remove_file(&made);
    #[cfg(unix)]
    {
        // From `snapshots/COMMIT/`, so that the cache can be moved.
        let up = "../".repeat(2 + name.matches('/').count());
        let target = Path::new(&up).join("blobs").join(blob.file_name().unwrap_or_default());
        std::os::unix::fs::symlink(target, &made).map_err(io)?;
    }
    #[cfg(not(unix))]
    {
        let _ = name;
        fs::copy(blob, &made).map_err(io)?;
    }
    fs::rename(&made, pointer).map_err(io)
}

/// A file's name as it goes into addresses.
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn pause(time: Duration) -> Result<()> {
    interrupt::run(move || std::thread::sleep(time))
}
