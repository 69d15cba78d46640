//! Uploads of models: small files in the commit itself, large ones through git-LFS before it.

use crate::progress::Progress;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::sync::Arc;

use super::client::{Client, Failure};
use super::lfs;
use super::lfs::Object;
use super::name::{MAIN, Repository};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::files::model_files::ModelFiles;
use crate::interrupt;
use crate::words::count;

/// Bytes from a file's beginning by which the Hub decides how it is stored.
const SAMPLE_BYTES: usize = 512;

const JSON: &str = "application/json";

/// Result of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Address of the commit.
    pub url: String,
    /// Number of files in the commit.
    pub files: usize,
    /// Number of large files that the Hub did not have yet.
    pub sent: usize,
}

/// Puts the files `names` of `files` into one commit on the branch `repository.revision`. Model and branch are created
/// if they do not exist; an existing model keeps its other files, and its visibility.
pub fn upload(
    settings: &Settings,
    repository: &Repository,
    private: bool,
    files: &ModelFiles,
    names: &[String],
    console: &dyn Progress,
) -> Result<Upload> {
    let place = repository.place(settings);
    if settings.offline {
        return Err(Error::file(place, "cannot be uploaded to: HF_HUB_OFFLINE is set").hint("unset it"));
    }
    if settings.token.is_none() {
        return Err(Error::file(place, "uploading needs a token that may write, and none was found")
            .hint(settings.token_hint()));
    }
    let uploader = Uploader { settings, repository };
    uploader.create(private)?;
    let (large, mut lines) = uploader.sort(files, names)?;
    let total = large.iter().map(|object| object.data.len() as u64).sum();
    let bar = console.bytes_bar("uploading", total);
    let shown = bar.clone();
    let sent =
        lfs::upload(settings, repository, &large, &(Arc::new(move |n| shown.inc(n)) as lfs::Progress))?;
    bar.finish();
    let header =
        json!({"summary": format!("Upload {} with mixbit", count(names.len(), "file")), "description": ""});
    lines.insert(0, json!({"key": "header", "value": header}));
    lines.extend(large.iter().map(|object| {
        let value =
            json!({"path": object.name, "algo": "sha256", "oid": object.oid, "size": object.data.len()});
        json!({"key": "lfsFile", "value": value})
    }));
    let url = uploader.commit(&lines)?.unwrap_or(place);
    Ok(Upload { url, files: names.len(), sent })
}

struct Uploader<'a> {
    settings: &'a Settings,
    repository: &'a Repository,
}

impl Uploader<'_> {
    /// Posts to `path` of the Hub.
    fn post(&self, path: String, kind: &'static str, text: String) -> Result<Result<Value, Failure>> {
        let settings = self.settings.clone();
        interrupt::run(move || Client::new(&settings).post(&path, kind, &text))
    }

    fn explain(&self, failure: &Failure, step: &str) -> Error {
        failure.explain_step(self.settings, self.repository, step)
    }

    /// Creates something that may exist already.
    fn make(&self, path: String, value: &Value, step: &str) -> Result<()> {
        match self.post(path, JSON, value.to_string())? {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_status(409) => Ok(()),
            Err(failure) => Err(self.explain(&failure, step)),
        }
    }

    /// Creates the model and the branch.
    fn create(&self, private: bool) -> Result<()> {
        let (organisation, name) = self.repository.id.split_once('/').unwrap_or_default();
        let model = json!({"name": name, "organization": organisation, "type": "model", "private": private});
        self.make("api/repos/create".to_owned(), &model, "making the model's page")?;
        if self.repository.revision != MAIN {
            let path = format!("api/models/{}/branch/{}", self.repository.id, self.repository.url_revision());
            self.make(path, &json!({}), "making the branch")?;
        }
        Ok(())
    }

    /// Returns the large files, and the commit's lines for the small ones: the Hub decides which is which.
    fn sort(&self, files: &ModelFiles, names: &[String]) -> Result<(Vec<Object>, Vec<Value>)> {
        let mut described = Vec::new();
        for name in names {
            let data = files.map(name)?;
            let sample = BASE64_STANDARD.encode(data.get(..SAMPLE_BYTES.min(data.len())).unwrap_or_default());
            described.push(json!({"path": name, "size": data.len(), "sample": sample}));
        }
        let path = format!("api/models/{}/preupload/{}", self.repository.id, self.repository.url_revision());
        let answer = self.post(path, JSON, json!({"files": described}).to_string())?;
        let answer = answer.map_err(|failure| self.explain(&failure, "asking how to upload the files"))?;
        let modes = answer.get("files").and_then(Value::as_array).cloned().unwrap_or_default();
        let (mut large, mut lines) = (Vec::new(), Vec::new());
        for name in names {
            let mode = modes.iter().find(|file| file.get("path").and_then(Value::as_str) == Some(name));
            match mode.and_then(|file| file.get("uploadMode")?.as_str()) {
                Some("lfs") => large.push(object(files, name)?),
                Some("regular") => {
                    let content = BASE64_STANDARD.encode(files.read(name)?);
                    let value = json!({"path": name, "encoding": "base64", "content": content});
                    lines.push(json!({"key": "file", "value": value}));
                }
                _ => {
                    let place = self.repository.place(self.settings);
                    return Err(Error::file(place, format!("the Hub does not say how to upload `{name}`"))
                        .hint("try again later"));
                }
            }
        }
        Ok((large, lines))
    }

    /// Commits and returns the commit's address, if the Hub tells it.
    fn commit(&self, lines: &[Value]) -> Result<Option<String>> {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect::<Vec<_>>().concat();
        let path = format!("api/models/{}/commit/{}", self.repository.id, self.repository.url_revision());
        let answer = self
            .post(path, "application/x-ndjson", text)?
            .map_err(|failure| self.explain(&failure, "committing the files"))?;
        Ok(answer.get("commitUrl").and_then(Value::as_str).map(str::to_owned))
    }
}

fn object(files: &ModelFiles, name: &str) -> Result<Object> {
    let data = files.map(name)?;
    let oid = data.sha256()?;
    Ok(Object { name: name.to_owned(), data, oid })
}
