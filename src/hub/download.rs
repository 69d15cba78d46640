//! Downloading what a model needs, and nothing else, into the Hub's cache.
//!
//! The hf-hub crate keeps the cache as Python's huggingface_hub does: contents in `blobs/` by their hash, links to them in
//! `snapshots/COMMIT/`, commits of branches in `refs/`. All files are asked for by commit, so that they belong together.
//! A download that breaks off is continued where it was; weights are compared with their SHA-256, which is their name.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::api::{Progress, RepoInfo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use super::client::{Failure, accepted};
use super::{Repository, Settings};
use crate::checkpoint::{INDEX, choose_weights, index_files};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model_files::{Mapped, ModelFiles, is_of_a_model, safe_name};
use crate::report::Console;

/// Times that a file is asked for anew without any progress.
const ATTEMPTS: u32 = 5;

/// The folder of the cache that holds the model. In offline mode, and where the Hub does not answer, what the cache has.
pub(super) fn fetch(settings: &Settings, repository: &Repository, console: &Console) -> Result<PathBuf> {
    let cached = cached(settings, repository);
    if settings.offline {
        return cached.ok_or_else(|| {
            Error::file(repository.place(settings), "is not in the cache, and HF_HUB_OFFLINE is set")
                .hint(format!("unset it to download the model to {}", settings.cache.display()))
        });
    }
    let download = Download::new(settings, repository, console)?;
    let info = match download.info()? {
        Ok(info) => info,
        Err(failure) => {
            let passing = failure.is_passing();
            let Some(folder) = cached.filter(|_| passing) else {
                return Err(failure.explain(settings, repository));
            };
            console.notes(&["the Hub does not answer: using what the cache has".to_owned()]);
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
    (safe_name(&commit) && folder.join("config.json").is_file()).then_some(folder)
}

struct Download<'a> {
    settings: &'a Settings,
    repository: &'a Repository,
    console: &'a Console,
    api: Api,
}

impl<'a> Download<'a> {
    fn new(settings: &'a Settings, repository: &'a Repository, console: &'a Console) -> Result<Self> {
        let api = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.as_ref().map(|token| token.value.clone()))
            .with_user_agent("mixbit", env!("CARGO_PKG_VERSION"))
            .with_progress(false)
            .build()
            .map_err(|e| Error::file(repository.place(settings), e.to_string()))?;
        Ok(Self { settings, repository, console, api })
    }

    fn at(&self, revision: &str) -> ApiRepo {
        let id = self.repository.id.clone();
        self.api.repo(Repo::with_revision(id, RepoType::Model, revision.to_owned()))
    }

    /// Commit and files of the revision.
    fn info(&self) -> Result<Result<RepoInfo, Failure>> {
        let repo = self.at(&self.repository.revision);
        interrupt::run(move || {
            let request = repo.info_request().config().http_status_as_error(false).build();
            Ok(accepted(request.call()?)?.body_mut().read_json()?)
        })
    }

    /// Everything that is needed.
    fn all(&self, info: &RepoInfo) -> Result<PathBuf> {
        let place = self.repository.place(self.settings);
        if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(Error::file(place, format!("the Hub names a commit `{}`", info.sha)));
        }
        let names: Vec<String> = info.siblings.iter().map(|file| file.rfilename.clone()).collect();
        let is_weights = |name: &String| name.ends_with(".safetensors") || name.ends_with(".npz");
        let wanted = |name: &&String| {
            safe_name(name) && is_of_a_model(name) && !name.starts_with('.') && !is_weights(name)
        };
        for name in names.iter().filter(wanted) {
            self.file(&info.sha, name)?;
        }
        let folder = cache(self.settings, self.repository, &info.sha).pointer_path(&info.sha);
        for name in self.weights(&folder, &names)? {
            self.file(&info.sha, &name)?;
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

    /// One file, unless it is there.
    fn file(&self, commit: &str, name: &str) -> Result<()> {
        let folder = cache(self.settings, self.repository, commit).pointer_path(commit);
        if folder.join(name).is_file() {
            return Ok(());
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
                let error = failure.explain(self.settings, self.repository);
                return Err(Error::file(
                    self.repository.place(self.settings),
                    format!("`{name}`: {}", short(&error)),
                )
                .hint(error.hint_text().unwrap_or_default()));
            }
            self.console.line(&format!("{name}: the connection broke, continuing at {bytes} bytes"));
            pause(Duration::from_millis(100) * 2u32.pow(ATTEMPTS - left))?;
        }
    }

    /// Asks for a file once, from where an earlier attempt broke off. A failure comes with the bytes that are there.
    fn attempt(&self, commit: &str, name: &str) -> Result<Result<(), (Failure, u64)>> {
        let bar = self.console.bytes_bar(&format!("downloading {name}"), 0);
        let (api, repo, cache) =
            (self.api.clone(), self.at(commit), cache(self.settings, self.repository, commit));
        let (commit, name, shown) = (commit.to_owned(), name.to_owned(), Bar(bar.clone()));
        let done = interrupt::run(move || {
            let metadata = api.metadata(&repo.url(&name)).map_err(|e| (failure(e), 0))?;
            let (etag, size) = (metadata.etag(), metadata.size() as u64);
            let io = |e: std::io::Error| (Failure::Broken(e.to_string()), 0);
            if !safe_name(etag) || etag.contains('/') {
                return Err((Failure::Broken(format!("`{etag}` is no name of a file's contents")), 0));
            }
            let (blob, part) = (cache.blob_path(etag), cache.blob_path(etag).with_extension("part"));
            let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
            if length(&blob) == size && size > 0 {
                return link(&blob, &cache.pointer_path(&commit).join(&name)).map_err(io);
            }
            if length(&part) >= size {
                let _ = fs::remove_file(&part);
            }
            repo.download_with_progress(&name, shown).map_err(|e| (failure(e), length(&part)))?;
            if let Err(what) = check_contents(&blob, etag, size) {
                let _ = fs::remove_file(cache.pointer_path(&commit).join(&name));
                let _ = fs::remove_file(&blob);
                return Err((Failure::Damaged(what), 0));
            }
            Ok(())
        });
        bar.finish_and_clear();
        done
    }
}

/// The message without the place that it begins with.
fn short(error: &Error) -> String {
    let text = error.to_string();
    text.split_once(": ").map_or_else(|| text.clone(), |(_, rest)| rest.to_owned())
}

fn failure(error: ApiError) -> Failure {
    match error {
        ApiError::RequestError(error) => (*error).into(),
        other => Failure::Broken(other.to_string()),
    }
}

/// Contents of the right length, and of the SHA-256 that large files are called by (small ones have another hash).
fn check_contents(blob: &Path, etag: &str, size: u64) -> std::result::Result<(), String> {
    let found = fs::metadata(blob).map_or(0, |metadata| metadata.len());
    if found != size {
        return Err(format!("{found} bytes came, {size} were announced"));
    }
    if etag.len() != 64 || size == 0 {
        return Ok(());
    }
    let mut hash = Sha256::new();
    let read = Mapped::open(blob).and_then(|map| {
        map.chunks(|chunk| {
            hash.update(chunk);
            Ok(())
        })
    });
    read.map_err(|e| e.to_string())?;
    let found = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    if found == etag { Ok(()) } else { Err(format!("its SHA-256 is {found}, the Hub says {etag}")) }
}

/// Links contents that another revision has, too.
fn link(blob: &Path, pointer: &Path) -> std::io::Result<()> {
    if let Some(folder) = pointer.parent() {
        fs::create_dir_all(folder)?;
    }
    #[cfg(unix)]
    return std::os::unix::fs::symlink(fs::canonicalize(blob)?, pointer);
    #[cfg(not(unix))]
    return fs::copy(blob, pointer).map(|_| ());
}

fn pause(time: Duration) -> Result<()> {
    interrupt::run(move || std::thread::sleep(time))
}

/// A progress bar as hf-hub wants one.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn init(&mut self, size: usize, _: &str) {
        self.0.set_length(size as u64);
        self.0.set_position(0);
    }

    fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }

    fn finish(&mut self) {}
}
