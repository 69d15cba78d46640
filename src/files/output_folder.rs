//! Output folders, which appear whole or not at all and never lose what was there before.

use super::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use super::model_files::{ModelFiles, TEMPLATES, is_file_manager_entry};
use super::names::{is_model_file, is_tokenizer_file, is_weight_file};
use super::output_file::{Claim, Existing, NewFolders};
use super::output_file::{already_exists, behind_link, existing_folder, in_new_folders, not_made};
use super::weight_files::NPZ;
use crate::error::{Error, Result};

/// Folder being written beside its destination; dropped without [`OutputFolder::publish`], it leaves nothing.
#[derive(Debug)]
pub struct OutputFolder {
    work: TempDir,
    destination: PathBuf,
    existing: Existing,
    /// The destination as the user named it, for messages.
    name: PathBuf,
    /// Removed after the folder in them.
    folders: NewFolders,
}

/// Fails if `destination` is there and must not be replaced, or lies in, holds or is the folder `source`.
pub fn check_destination(source: &Path, destination: &Path, existing: Existing) -> Result<()> {
    let real = |path: &Path| fs::canonicalize(path).map_err(|e| Error::io(path, e));
    let source = real(source)?;
    let (parent, name) = split(destination)?;
    let above = existing_folder(destination);
    let below = parent.strip_prefix(above).unwrap_or(Path::new(""));
    let mut target = real(above)?.join(below).join(name);
    if destination.exists() {
        target = real(destination)?;
    }
    if target == source {
        return Err(Error::usage(format!("the output {} is the input", destination.display()))
            .hint("choose another folder for setting `mlx_path`"));
    }
    if target.starts_with(&source) || source.starts_with(&target) {
        let (inner, outer) =
            if target.starts_with(&source) { ("output", "input") } else { ("input", "output") };
        return Err(Error::usage(format!(
            "the {inner} lies inside the {outer} folder: {}",
            target.display()
        ))
        .hint("choose a folder beside the input for setting `mlx_path`"));
    }
    if fs::symlink_metadata(destination).is_err() {
        return Ok(());
    }
    check_replaceable(destination)?;
    if existing == Existing::Refused && !is_empty(destination) {
        return Err(already_exists(destination));
    }
    Ok(())
}

/// Fails unless folders can be made at the place of `destination`. Tried before the work; nothing remains of the try.
pub fn check_writable(destination: &Path) -> Result<()> {
    let destination = behind_link(destination);
    split(&destination)?;
    try_folder(&destination).map(drop)
}

/// Creates a folder where `destination` is to be made. No other run takes its name for what a killed run has left.
fn try_folder(destination: &Path) -> Result<TempDir> {
    let parent = existing_folder(destination);
    let folder = tempfile::Builder::new().prefix(".try.").tempdir_in(parent);
    folder.map_err(|e| not_made(destination, parent, e))
}

/// Creates in `parent` the temporary folder that is to become `destination`, which is called `name`.
fn create_partial(parent: &Path, name: &std::ffi::OsStr, destination: &Path) -> Result<TempDir> {
    let prefix = format!(".{}.", name.to_string_lossy());
    let folder = tempfile::Builder::new().prefix(&prefix).suffix(".partial").tempdir_in(parent);
    folder.map_err(|e| not_made(destination, parent, e))
}

/// Claims `destination`. Returns the claim, and a note for each temporary folder of a run that was killed while it made it.
/// They stay: on a disk that several machines share, or after its lock was removed, one may be of a run that still works.
///
/// # Errors
/// As [`Claim::new`].
pub fn claim_folder(destination: &Path) -> Result<(Claim, Vec<String>)> {
    let destination = behind_link(destination);
    let claim = Claim::new(&destination)?;
    let note = |folder: PathBuf| {
        format!(
            "{} is what a killed run has left: remove it, unless another run is at work",
            folder.display()
        )
    };
    let notes = leftovers(&destination).into_iter().map(note).collect();
    Ok((claim, notes))
}

/// Returns the temporary folders that were to become `destination`.
fn leftovers(destination: &Path) -> Vec<PathBuf> {
    let Ok((parent, name)) = split(destination) else { return Vec::new() };
    let prefix = format!(".{}.", name.to_string_lossy());
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let is_one = |name: &str| {
        let random = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".partial"));
        random.is_some_and(|random| {
            random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
    };
    let partial = entries.filter(|entry| is_one(&entry.file_name().to_string_lossy()));
    let is_folder = |path: &PathBuf| path.is_dir() && !path.is_symlink();
    let mut folders: Vec<PathBuf> = partial.map(|entry| entry.path()).filter(is_folder).collect();
    folders.sort();
    folders
}

/// True if nothing is in `folder` but what a file manager has put there.
fn is_empty(folder: &Path) -> bool {
    entries(folder).is_ok_and(|entries| entries.is_empty())
}

/// Returns the entries of `folder` but for the files that file managers put there, which go with it when it is
/// replaced.
fn entries(folder: &Path) -> std::io::Result<Vec<fs::DirEntry>> {
    let counts = |entry: &std::io::Result<fs::DirEntry>| {
        !entry.as_ref().is_ok_and(|entry| is_file_manager_entry(&entry.path()))
    };
    fs::read_dir(folder)?.filter(counts).collect()
}

/// Fails unless `destination` is a model folder or empty: anything else may be somebody's work.
fn check_replaceable(destination: &Path) -> Result<()> {
    let keep = |what: &str| {
        Error::file(destination, format!("already exists and {what}"))
            .hint("only a folder that holds a model and nothing else is replaced; choose another, or remove it by hand")
    };
    fs::read_dir(destination).map_err(|_| keep("is no folder"))?;
    let entries = entries(destination).map_err(|e| Error::io(destination, e))?;
    if entries.is_empty() {
        return Ok(());
    }
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.path().is_dir() {
            false => files.push(name),
            true if name == TEMPLATES => check_templates(&entry.path()).map_err(|what| keep(&what))?,
            true => return Err(keep(&format!("holds the folder `{name}`"))),
        }
    }
    let weights: Vec<&String> = files.iter().filter(|name| is_weight_file(name)).collect();
    // A model has its weights in one format: the other file is somebody's.
    let is_stray = |name: &str| !is_model_file(name) || (name == NPZ && weights.len() > 1);
    if let Some(name) = files.iter().find(|name| is_stray(name)) {
        return Err(keep(&no_part(name)));
    }
    if weights.is_empty() {
        return Err(keep("holds no weights"));
    }
    if names_an_architecture(destination) { Ok(()) } else { Err(keep("has no config.json of a model")) }
}

/// Fails, with what the destination holds, unless the folder of further chat templates holds nothing else.
fn check_templates(folder: &Path) -> std::result::Result<(), String> {
    let entries = entries(folder).map_err(|error| format!("holds `{TEMPLATES}`: {error}"))?;
    for entry in entries {
        let name = format!("{TEMPLATES}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() || !is_tokenizer_file(&name) {
            return Err(no_part(&name));
        }
    }
    Ok(())
}

fn no_part(name: &str) -> String {
    format!("holds `{name}`, which is no part of a model")
}

/// True if the folder's config.json names an architecture.
fn names_an_architecture(folder: &Path) -> bool {
    let path = folder.join("config.json");
    let keys = fs::read(&path).ok().and_then(|bytes| json::parse_object(&path, &bytes).ok());
    keys.is_some_and(|keys| {
        keys.get("model_type").is_some_and(|name| name.as_str().is_some_and(|s| !s.is_empty()))
    })
}

fn split(destination: &Path) -> Result<(PathBuf, &std::ffi::OsStr)> {
    let name = destination.file_name().ok_or_else(|| {
        Error::usage(format!("`{}` is no name for an output folder", destination.display()))
    })?;
    let parent = match destination.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((parent, name))
}

impl OutputFolder {
    /// Starts a folder beside `destination`, making the folders above it.
    pub fn create(destination: &Path, existing: Existing) -> Result<Self> {
        // Resolved once: the current folder may be the one that is replaced, and a link is written through.
        let named = destination.to_owned();
        let destination = behind_link(destination);
        let (parent, name) = split(&destination)?;
        let (folders, (parent, work)) = in_new_folders(&destination, || {
            let parent = fs::canonicalize(&parent).map_err(|e| Error::io(&parent, e))?;
            let work = create_partial(&parent, name, &destination)?;
            Ok((parent, work))
        })?;
        Ok(Self { work, destination: parent.join(name), name: named, existing, folders })
    }

    /// Returns the folder to write to until it is published.
    pub fn path(&self) -> &Path {
        self.work.path()
    }

    /// Writes a small file.
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<()> {
        let path = self.path().join(name);
        fs::write(&path, contents).map_err(|e| self.describe(e, &path))
    }

    /// Copies the file `name` of `from`.
    pub fn copy(&self, from: &ModelFiles, name: &str) -> Result<()> {
        if let Some(folder) = self.path().join(name).parent() {
            fs::create_dir_all(folder).map_err(|e| self.describe(e, folder))?;
        }
        self.write(name, &from.read(name)?)
    }

    /// Returns an I/O error with the path that the user knows.
    fn describe(&self, error: std::io::Error, path: &Path) -> Error {
        self.relocate(Error::io(path, error))
    }

    /// Replaces the folder's temporary path in an error by its destination.
    pub fn relocate(&self, error: Error) -> Error {
        error.relocated(self.path(), &self.name)
    }

    /// Moves the folder to its destination. An existing one is moved aside first and put back if that fails.
    pub fn publish(self) -> Result<()> {
        // Bindings are dropped in reverse order: the folders above after the one in them.
        let Self { folders: _folders, work, destination, name, existing } = self;
        let fail = |e: std::io::Error| Error::io(&name, e);
        make_readable(work.path()).map_err(fail)?;
        for entry in fs::read_dir(work.path()).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.is_file() {
                File::open(&path).and_then(|file| file.sync_all()).map_err(fail)?;
            }
        }
        sync_folder(work.path());
        if fs::symlink_metadata(&destination).is_err() {
            fs::rename(work.keep(), &destination).map_err(fail)?;
        } else {
            if existing == Existing::Refused && !is_empty(&destination) {
                return Err(Error::file(&name, "appeared meanwhile").hint("setting `overwrite` replaces it"));
            }
            check_replaceable(&destination)?;
            let (parent, _) = split(&destination)?;
            let aside = tempfile::Builder::new().prefix(".replaced.").tempdir_in(&parent).map_err(fail)?;
            let old = aside.path().join("old");
            fs::rename(&destination, &old).map_err(fail)?;
            if let Err(e) = fs::rename(work.path(), &destination) {
                fs::rename(&old, &destination).map_err(fail)?;
                return Err(fail(e));
            }
            let _ = work.keep();
        }
        if let Ok((parent, _)) = split(&destination) {
            sync_folder(&parent);
        }
        Ok(())
    }
}

/// Gives the folder the permissions of any new folder: temporary ones are private.
fn make_readable(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let probe = path.join(".mode");
        fs::create_dir(&probe)?;
        let mode = fs::metadata(&probe)?.permissions().mode();
        fs::remove_dir(&probe)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Makes a rename durable where the platform can.
fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(path) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_leaves_nothing_and_published_is_whole() {
        let home = tempfile::tempdir().unwrap();
        let destination = home.path().join("a/model");
        let folder = OutputFolder::create(&destination, Existing::Refused).unwrap();
        folder.write("config.json", b"{}").unwrap();
        drop(folder);
        assert!(!home.path().join("a").exists());
        let folder = OutputFolder::create(&destination, Existing::Refused).unwrap();
        folder.write("config.json", b"{}").unwrap();
        folder.publish().unwrap();
        assert_eq!(fs::read_dir(home.path().join("a")).unwrap().count(), 1);
        assert!(destination.join("config.json").is_file());
    }

    #[test]
    fn a_failing_publish_leaves_no_folder() {
        let home = tempfile::tempdir().unwrap();
        let destination = home.path().join("a/b/model");
        let folder = OutputFolder::create(&destination, Existing::Refused).unwrap();
        folder.write("config.json", b"{}").unwrap();
        // Publishing makes a folder of this name to look at its mode.
        fs::create_dir(folder.path().join(".mode")).unwrap();
        assert!(folder.publish().is_err());
        assert!(!home.path().join("a").exists());
    }

    #[test]
    fn what_a_killed_run_left_is_named() {
        let home = tempfile::tempdir().unwrap();
        let destination = home.path().join("model");
        let others = [".model.partial", ".models.aB3dE6.partial", "model.partial", ".model.old.partial"];
        for name in others.into_iter().chain([".model.aB3dE6.partial"]) {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        let (claim, notes) = claim_folder(&destination).unwrap();
        let [note] = &notes[..] else { panic!("{notes:?}") };
        assert!(note.contains(".model.aB3dE6.partial is what a killed run has left"), "{note}");
        assert!(home.path().join(".model.aB3dE6.partial").is_dir());
        assert!(others.iter().all(|name| home.path().join(name).is_dir()));
        assert!(claim_folder(&destination).is_err(), "claimed");
        drop(claim);
        let _try = try_folder(&destination).unwrap();
        assert_eq!(claim_folder(&destination).unwrap().1.len(), 1);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_and_its_target_are_one_output() {
        let home = tempfile::tempdir().unwrap();
        let [target, link] = ["target", "link"].map(|name| home.path().join(name));
        fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let names = [target, link.clone(), link.join(""), link.join("."), link.join("./")];
        for name in &names {
            let _claim = claim_folder(name).unwrap();
            for other in &names {
                assert!(claim_folder(other).is_err(), "{} and {}", name.display(), other.display());
            }
        }
        let folder = OutputFolder::create(&link.join(""), Existing::Replaced).unwrap();
        folder.write("config.json", b"{}").unwrap();
        folder.publish().unwrap();
        assert!(link.is_symlink() && home.path().join("target/config.json").is_file());
    }

    #[test]
    fn overwrite_replaces_models_only() {
        let home = tempfile::tempdir().unwrap();
        let source = home.path().join("in");
        fs::create_dir(&source).unwrap();
        let out = home.path().join("out");
        fs::create_dir(&out).unwrap();
        check_destination(&source, &out, Existing::Refused).unwrap();
        let refused = |expected: &str| {
            let message = check_destination(&source, &out, Existing::Replaced).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        fs::write(out.join("precious.txt"), "x").unwrap();
        refused("precious.txt");
        fs::remove_file(out.join("precious.txt")).unwrap();
        fs::write(out.join("README.md"), "x").unwrap();
        refused("holds no weights");
        fs::write(out.join("model.safetensors"), "x").unwrap();
        refused("config.json");
        fs::write(out.join("config.json"), r#"{"name": "web"}"#).unwrap();
        refused("config.json");
        fs::write(out.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
        assert!(check_destination(&source, &out, Existing::Refused).is_err());
        check_destination(&source, &out, Existing::Replaced).unwrap();
        fs::create_dir(out.join(".git")).unwrap();
        refused(".git");
        fs::remove_dir(out.join(".git")).unwrap();
        let folder = OutputFolder::create(&out, Existing::Replaced).unwrap();
        folder.write("config.json", b"{\"a\":1}").unwrap();
        folder.publish().unwrap();
        assert!(!out.join("README.md").exists());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_only_looks_like_a_model_file_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let (source, out) = (home.path().join("in"), home.path().join("out"));
        fs::create_dir(&source).unwrap();
        fs::create_dir_all(out.join(TEMPLATES)).unwrap();
        fs::write(out.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
        for name in ["model.safetensors", "LICENSE", ".gitattributes", "additional_chat_templates/rag.jinja"]
        {
            fs::write(out.join(name), "x").unwrap();
        }
        check_destination(&source, &out, Existing::Replaced).unwrap();
        for name in [
            "model-old.safetensors",
            "model_backup.safetensors",
            "weights.npz",
            "additional_chat_templates/notes.txt",
        ] {
            fs::write(out.join(name), "x").unwrap();
            let message = check_destination(&source, &out, Existing::Replaced).unwrap_err().to_string();
            assert!(message.contains(&format!("holds `{name}`, which is no part of a model")), "{message}");
            fs::remove_file(out.join(name)).unwrap();
        }
        fs::rename(out.join("model.safetensors"), out.join("weights.npz")).unwrap();
        check_destination(&source, &out, Existing::Replaced).unwrap();
    }

    #[test]
    fn what_file_managers_leave_is_replaced_too() {
        let home = tempfile::tempdir().unwrap();
        let (source, out) = (home.path().join("in"), home.path().join("out"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&out).unwrap();
        let files = [".DS_Store", "._config.json", "._model.safetensors", "Desktop.ini", "Thumbs.db"];
        for name in files.into_iter().chain([".localized", "Icon\r"]) {
            fs::write(out.join(name), "x").unwrap();
        }
        for name in [".Trashes", ".fseventsd", ".Spotlight-V100/Store-V2"] {
            fs::create_dir_all(out.join(name)).unwrap();
        }
        // Nothing else: as good as empty.
        check_destination(&source, &out, Existing::Refused).unwrap();
        fs::write(out.join("model.safetensors"), "x").unwrap();
        fs::write(out.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
        assert!(check_destination(&source, &out, Existing::Refused).is_err());
        check_destination(&source, &out, Existing::Replaced).unwrap();
        let folder = OutputFolder::create(&out, Existing::Replaced).unwrap();
        folder.write("config.json", b"{}").unwrap();
        folder.publish().unwrap();
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
        // A folder of such a name may hold anything, and a mere beginning is no name of theirs.
        fs::write(out.join("model.safetensors"), "x").unwrap();
        fs::write(out.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
        for name in ["._work/", ".DS_Store.txt", ".Trashes/501/", ".DS_Store/x", ".localized/"] {
            let first = out.join(name.split('/').next().unwrap());
            if name.ends_with('/') {
                fs::create_dir_all(out.join(name)).unwrap();
            } else {
                fs::create_dir_all(out.join(name).parent().unwrap()).unwrap();
                fs::write(out.join(name), "x").unwrap();
            }
            assert!(check_destination(&source, &out, Existing::Replaced).is_err(), "{name}");
            if first.is_dir() { fs::remove_dir_all(first).unwrap() } else { fs::remove_file(first).unwrap() }
        }
        check_destination(&source, &out, Existing::Replaced).unwrap();
    }

    #[test]
    fn input_and_output_must_be_separate() {
        let home = tempfile::tempdir().unwrap();
        let source = home.path().join("in");
        fs::create_dir(&source).unwrap();
        for bad in [source.clone(), source.join("out"), source.join("x/y"), home.path().to_owned()] {
            assert!(check_destination(&source, &bad, Existing::Replaced).is_err(), "{}", bad.display());
        }
        check_destination(&source, &home.path().join("new/out"), Existing::Refused).unwrap();
    }
}
