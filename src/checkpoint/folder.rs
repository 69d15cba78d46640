//! The output folder: it appears whole or not at all, and what was there before is not lost on the way.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Error, Result};

/// A folder being written beside its destination; dropped without [`OutputFolder::publish`], it leaves nothing.
#[derive(Debug)]
pub struct OutputFolder {
    work: TempDir,
    destination: PathBuf,
    overwrite: bool,
}

/// Fails if `destination` exists and `overwrite` is off, or lies in, holds or is the folder `source`.
pub fn check_destination(source: &Path, destination: &Path, overwrite: bool) -> Result<()> {
    let real = |path: &Path| fs::canonicalize(path).map_err(|e| Error::io(path, e));
    let source = real(source)?;
    let (parent, name) = split(destination)?;
    let mut existing = parent.as_path();
    while !existing.exists() {
        existing = match existing.parent() {
            Some(up) if !up.as_os_str().is_empty() => up,
            _ => Path::new("."),
        };
    }
    let below = parent.strip_prefix(existing).unwrap_or(Path::new(""));
    let mut target = real(existing)?.join(below).join(name);
    if destination.exists() {
        target = real(destination)?;
    }
    if target == source {
        return Err(Error::usage(format!("the output {} is the input", destination.display()))
            .hint("choose another folder for --mlx-path"));
    }
    if target.starts_with(&source) || source.starts_with(&target) {
        return Err(Error::usage(format!(
            "the output {} and the input {} lie inside each other",
            target.display(),
            source.display()
        ))
        .hint("choose a folder beside the input for --mlx-path"));
    }
    if fs::symlink_metadata(destination).is_err() {
        return Ok(());
    }
    if !overwrite {
        return Err(Error::file(destination, "already exists").hint("--overwrite replaces it"));
    }
    check_replaceable(destination)
}

/// `--overwrite` replaces model folders and empty ones, nothing else.
fn check_replaceable(destination: &Path) -> Result<()> {
    let listing = fs::read_dir(destination).map_err(|e| {
        Error::io(destination, e).hint("--overwrite replaces folders only; remove the file by hand")
    })?;
    if listing.count() > 0 && !destination.join("config.json").is_file() {
        return Err(Error::file(destination, "is a folder without config.json, so not a model")
            .hint("--overwrite replaces models only; remove the folder by hand if it is not needed"));
    }
    Ok(())
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
    pub fn create(destination: &Path, overwrite: bool) -> Result<Self> {
        let (parent, name) = split(destination)?;
        fs::create_dir_all(&parent).map_err(|e| Error::io(&parent, e))?;
        let prefix = format!(".{}.", name.to_string_lossy());
        let work = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".partial")
            .tempdir_in(&parent)
            .map_err(|e| Error::io(&parent, e).hint("the output's parent folder must be writable"))?;
        Ok(Self { work, destination: destination.to_owned(), overwrite })
    }

    /// Where to write meanwhile.
    pub fn path(&self) -> &Path {
        self.work.path()
    }

    /// Writes a small file.
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<()> {
        let path = self.path().join(name);
        fs::write(&path, contents).map_err(|e| self.describe(e, &path))
    }

    /// Copies the file or folder `name` of the folder `from`.
    pub fn copy(&self, from: &Path, name: &Path) -> Result<()> {
        let to = self.path().join(name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|e| self.describe(e, parent))?;
        }
        copy_all(&from.join(name), &to).map_err(|e| self.describe(e, &to))
    }

    /// An I/O error under the name that the user knows.
    fn describe(&self, error: std::io::Error, path: &Path) -> Error {
        let name = path.strip_prefix(self.path()).unwrap_or(path);
        Error::io(self.destination.join(name), error)
    }

    /// Moves the folder to its destination. An existing one is moved aside first and put back if that fails.
    pub fn publish(self) -> Result<()> {
        let Self { work, destination, overwrite } = self;
        let fail = |e: std::io::Error| Error::io(&destination, e);
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
            if !overwrite {
                return Err(Error::file(&destination, "appeared meanwhile").hint("--overwrite replaces it"));
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

/// Temporary folders are private; a model folder has the rights that any new folder has.
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

/// Makes a rename durable where the platform can; where it cannot there is nothing to be done about it.
fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(path) {
        let _ = folder.sync_all();
    }
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    if !from.is_dir() {
        // Contents only: the source may be read-only, the copy is the user's own.
        fs::write(to, fs::read(from)?)?;
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy_all(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_leaves_nothing_and_published_is_whole() {
        let home = tempfile::tempdir().unwrap();
        let destination = home.path().join("a/model");
        let folder = OutputFolder::create(&destination, false).unwrap();
        folder.write("config.json", b"{}").unwrap();
        drop(folder);
        assert_eq!(fs::read_dir(home.path().join("a")).unwrap().count(), 0);
        let folder = OutputFolder::create(&destination, false).unwrap();
        folder.write("config.json", b"{}").unwrap();
        folder.publish().unwrap();
        assert_eq!(fs::read_dir(home.path().join("a")).unwrap().count(), 1);
        assert!(destination.join("config.json").is_file());
    }

    #[test]
    fn overwrite_replaces_models_only() {
        let home = tempfile::tempdir().unwrap();
        let source = home.path().join("in");
        fs::create_dir(&source).unwrap();
        let out = home.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("precious.txt"), "x").unwrap();
        assert!(check_destination(&source, &out, false).is_err());
        assert!(check_destination(&source, &out, true).unwrap_err().to_string().contains("not a model"));
        fs::write(out.join("config.json"), "{}").unwrap();
        check_destination(&source, &out, true).unwrap();
        let folder = OutputFolder::create(&out, true).unwrap();
        folder.write("config.json", b"{\"a\":1}").unwrap();
        folder.publish().unwrap();
        assert!(!out.join("precious.txt").exists());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
    }

    #[test]
    fn input_and_output_must_be_apart() {
        let home = tempfile::tempdir().unwrap();
        let source = home.path().join("in");
        fs::create_dir(&source).unwrap();
        for bad in [source.clone(), source.join("out"), source.join("x/y"), home.path().to_owned()] {
            assert!(check_destination(&source, &bad, true).is_err(), "{}", bad.display());
        }
        check_destination(&source, &home.path().join("new/out"), false).unwrap();
    }
}
