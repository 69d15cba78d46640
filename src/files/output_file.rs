//! Single files that commands write: known early to be writable, whole or not there, and in the place of another file only
//! with `--overwrite`. Every command checks its outputs before it does anything that takes time.

use same_file::Handle;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// Fails where `path` is something that a file must not take the place of: a device, a FIFO, a folder.
pub fn only_files(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            Err(Error::file(path, "is a directory").hint("give the name of a file"))
        }
        Ok(found) if !found.is_file() => Err(Error::file(path, "is there and is no regular file")
            .hint("give the name of a file; what is there is not replaced")),
        _ => Ok(()),
    }
}

/// Appends nothing, but fails early when `path` cannot be written to, or exists and `overwrite` is off.
pub fn check(path: &Path, overwrite: bool) -> Result<()> {
    if path == Path::new("-") {
        return Err(Error::usage("`-` is no name for this output: it is a file")
            .hint("give a name, or ./- if that is what the file is to be called"));
    }
    only_files(path)?;
    let folder = folder_of(path);
    if !folder.exists() {
        let message = format!("there is no folder {}", folder.display());
        return Err(Error::file(path, message).hint("make it first, or choose another path"));
    }
    if path.exists() && !overwrite {
        return Err(Error::file(path, "already exists").hint("--overwrite replaces it"));
    }
    let existed = path.exists();
    OpenOptions::new().append(true).create(true).open(path).map_err(|e| Error::io(path, e))?;
    if !existed {
        fs::remove_file(path).map_err(|e| Error::io(path, e))?;
    }
    Ok(())
}

/// Fails where `path` is one of the `inputs`, or a file in a model folder that is one: `--overwrite` is not meant for what
/// the work is done from. Pages and pictures are no part of a model.
pub fn apart(path: &Path, inputs: &[&Path]) -> Result<()> {
    let Ok(found) = path.canonicalize() else { return Ok(()) };
    let drawn = found.extension().is_some_and(|extension| extension == "html" || extension == "svg");
    for input in inputs {
        let Ok(whole) = input.canonicalize() else { continue };
        if found == whole || (found.starts_with(&whole) && !drawn) {
            let message = format!("would take the place of what is read: {}", input.display());
            return Err(Error::file(path, message).hint("choose another path for the output"));
        }
    }
    Ok(())
}

/// Writes `path`, replacing what was there in one step.
pub fn write(path: &Path, contents: &[u8]) -> Result<()> {
    write_with(path, |mut file| file.write_all(contents).map_err(|e| Error::io(path, e)))
}

/// The same with contents that `fill` writes. The file has no other name until it returns.
pub fn write_with(path: &Path, fill: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    only_files(path)?;
    let file = new_beside(path)?;
    fill(file.as_file())?;
    file.as_file().sync_all().map_err(|e| Error::io(path, e))?;
    file.persist(path).map_err(|e| Error::io(path, e.error))?;
    Ok(())
}

/// Keeps other runs from making one output at the same time: a file beside it, locked, which goes when this goes.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _file: File,
}

impl Claim {
    /// Claims the file or folder `output`. There is nothing to claim where the folder that it is to be in is not there yet.
    ///
    /// # Errors
    /// Where another run has claimed it.
    pub fn new(output: &Path) -> Result<Option<Self>> {
        let name = output.file_name().unwrap_or(output.as_os_str()).to_string_lossy();
        let path = output.with_file_name(format!(".{name}.lock"));
        if !folder_of(&path).is_dir() {
            return Ok(None);
        }
        loop {
            let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let message = format!("another run is making it, and holds {}", path.display());
                    return Err(Error::file(output, message)
                        .hint("wait until that is done, or choose another output"));
                }
                // Some file systems have no locks. One that a run removed on its way out holds nobody off, and there may be
                // another of its name by now.
                _ if is_at(&file, &path) => return Ok(Some(Self { path, _file: file })),
                _ => {}
            }
        }
    }
}

/// Whether `file`, which is open, is the one that is called `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let handle = file.try_clone().and_then(Handle::from_file);
    handle.and_then(|handle| Ok(handle == Handle::from_path(path)?)).unwrap_or(false)
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Left behind it is in nobody's way.
        let _ = fs::remove_file(&self.path);
    }
}

/// What lies beside the file or folder `output` while that is being made, with `suffix` after its name.
pub fn beside(output: &Path, suffix: &str) -> PathBuf {
    let mut name = output.file_name().unwrap_or(output.as_os_str()).to_owned();
    name.push(suffix);
    output.with_file_name(name)
}

/// A file that is to take the place of `path`, beside it, and readable by whom the umask allows.
pub fn new_beside(path: &Path) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder_of(path)).map_err(|e| Error::io(path, e))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_not_outputs() {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            write(&home.path().join(name), b"one").unwrap();
            home.path().join(name)
        };
        let (text, config, page) = (file("text"), file("config.json"), file("page.html"));
        assert!(apart(&text, &[&text]).is_err());
        assert!(apart(&home.path().join(".").join("text"), &[Path::new("nowhere"), &text]).is_err());
        assert!(apart(&config, &[home.path()]).is_err() && apart(&page, &[home.path()]).is_ok());
        assert!(apart(&config, &[&text]).is_ok() && apart(&home.path().join("new"), &[home.path()]).is_ok());
        assert!(check(Path::new("-"), true).is_err());
    }

    #[test]
    fn an_output_is_made_by_one_run_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let first = Claim::new(&out).unwrap();
        assert!(first.is_some() && Claim::new(&home.path().join("other")).unwrap().is_some());
        let error = Claim::new(&home.path().join("out/")).unwrap_err().to_string();
        let lock = home.path().join(".out.lock");
        assert!(
            error.ends_with(&format!("another run is making it, and holds {}", lock.display())),
            "{error}"
        );
        drop(first);
        assert!(Claim::new(&out).unwrap().is_some());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
        assert!(Claim::new(&home.path().join("no/out")).unwrap().is_none());
    }

    #[test]
    fn a_removed_lock_is_not_its_successor() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let first = File::create(&path).unwrap();
        assert!(is_at(&first, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&first, &path));
        let second = File::create(&path).unwrap();
        assert!(!is_at(&first, &path) && is_at(&second, &path));
    }

    #[test]
    fn a_claim_excludes_all_others_in_a_crowd() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let home = tempfile::tempdir().unwrap();
        let (out, inside) = (home.path().join("out"), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let Ok(Some(claim)) = Claim::new(&out) else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(claim);
                    }
                });
            }
        });
    }

    #[test]
    fn a_file_is_replaced_only_when_asked_to() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        check(&path, false).unwrap();
        assert!(!path.exists());
        assert!(write(home.path(), b"one").is_err() && home.path().is_dir());
        write(&path, b"one").unwrap();
        assert!(check(&path, false).is_err() && check(&path, true).is_ok());
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        assert!(write(&home.path().join("no/such"), b"").is_err());
        assert!(check(home.path(), true).is_err(), "a folder is no file");
        let nowhere = home.path().join("no/such");
        let expected =
            format!("{}: there is no folder {}", nowhere.display(), home.path().join("no").display());
        assert_eq!(check(&nowhere, true).unwrap_err().to_string(), expected);
    }
}
