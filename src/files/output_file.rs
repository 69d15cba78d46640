//! Single files that commands write: known early to be writable, whole or not there, and replacing another file only
//! with `--overwrite`. Every command checks its outputs before it does anything that takes time.

use same_file::Handle;
use std::borrow::Cow;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::NamedTempFile;

use crate::error::{Error, ErrorKind, Result};

/// Fails where `path` is something that a file must not replace: a device, a FIFO, a folder.
pub fn only_files(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            Err(Error::file(path, "is a directory").hint("give the name of a file"))
        }
        Ok(metadata) if !metadata.is_file() => Err(Error::file(path, "is there and is no regular file")
            .hint("give the name of a file; what is there is not replaced")),
        _ => Ok(()),
    }
}

/// Returns the error for an output that is there and must not be replaced.
pub fn already_exists(path: &Path) -> Error {
    let error = Error::from(ErrorKind::AlreadyExists { path: path.to_owned() });
    error.hint("setting `overwrite` replaces it")
}

/// Adds to an [`already_exists`] error of a run that resumes that both settings go together.
pub fn explain_resuming(error: Error) -> Error {
    match error.kind() {
        ErrorKind::AlreadyExists { .. } => error.hint(
            "setting `overwrite` beside setting `resume` continues the unfinished work and replaces it then",
        ),
        _ => error,
    }
}

/// Treatment of an output that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and is an error.
    Refused,
    /// The new one takes its place.
    Replaced,
}

impl Existing {
    /// Returns `Replaced` if `overwrite` is set.
    pub const fn replaced_if(overwrite: bool) -> Self {
        if overwrite { Self::Replaced } else { Self::Refused }
    }
}

/// Folders above an output that were made for it. Those that are still empty when this is dropped are removed: the work
/// has failed.
#[derive(Debug)]
pub struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    /// Makes the folders above the file or folder `output` that are missing.
    pub fn above(output: &Path) -> Result<Self> {
        if folder_of(output).is_dir() {
            return Ok(Self(Vec::new()));
        }
        let folder = std::path::absolute(folder_of(output)).map_err(|e| Error::io(output, e))?;
        let missing = folder.ancestors().take_while(|folder| fs::symlink_metadata(folder).is_err());
        let mut folders = Self(missing.map(Path::to_owned).collect());
        folders.0.reverse();
        fs::create_dir_all(&folder).map_err(|e| Error::io(output, e))?;
        Ok(folders)
    }
}

/// Returns what `create` makes in the folder above `output`, and the folders that were made for it. Another run may remove
/// a folder that it has made itself as long as nothing is in it: then all is tried again.
pub fn in_new_folders<T>(output: &Path, mut create: impl FnMut() -> Result<T>) -> Result<(NewFolders, T)> {
    const TRIES: u32 = 200;
    const PAUSE: Duration = Duration::from_millis(1);
    let is_race = |error: &Error| {
        matches!(error.io_kind(), Some(io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists))
    };
    let mut attempt = || {
        let folders = NewFolders::above(output)?;
        let value = create()?;
        Ok((folders, value))
    };
    for _ in 1..TRIES {
        match attempt() {
            Err(error) if is_race(&error) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    attempt()
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // One with something in it stays.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Returns the folder that `output` is to be in, or the lowest one above it that exists. A link to nothing exists: no
/// folder can be made in its place.
pub fn existing_folder(output: &Path) -> &Path {
    let is_there = |folder: &&Path| !folder.as_os_str().is_empty() && fs::symlink_metadata(folder).is_ok();
    folder_of(output).ancestors().find(is_there).unwrap_or(Path::new("."))
}

/// Fails early, and writes nothing, where `path` cannot be written to, or is there and must not be replaced. Folders above
/// it may be missing: writing makes them.
pub fn check(path: &Path, existing: Existing) -> Result<()> {
    if path == Path::new("-") {
        return Err(Error::usage("`-` is no name for this output: it is a file")
            .hint("give a name, or ./- if that is what the file is to be called"));
    }
    only_files(path)?;
    let folder = existing_folder(path);
    if !folder_of(path).exists() {
        return tempfile::tempfile_in(folder).map(drop).map_err(|e| not_made(path, folder, e));
    }
    if path.exists() && existing == Existing::Refused {
        return Err(already_exists(path));
    }
    let existed = path.exists();
    OpenOptions::new().append(true).create(true).open(path).map_err(|e| not_made(path, folder, e))?;
    if !existed {
        fs::remove_file(path).map_err(|e| Error::io(path, e))?;
    }
    Ok(())
}

/// Returns the error for an `output` that cannot be made in `folder`, which is there.
pub fn not_made(output: &Path, folder: &Path, error: io::Error) -> Error {
    use io::ErrorKind::{AlreadyExists, NotADirectory, QuotaExceeded, StorageFull};
    let says_why = matches!(error.kind(), StorageFull | QuotaExceeded | NotADirectory | AlreadyExists);
    let error = Error::io(output, error);
    if says_why {
        return error;
    }
    let folder = folder.display();
    error.hint(format!("nothing can be made in {folder}: make it writable, or choose another output"))
}

/// Fails where `path` is one of the `inputs`, or a file in an input folder: `--overwrite` must not replace what the
/// work reads. Pages and pictures are no part of a model and may be in its folder.
pub fn refuse_inputs(path: &Path, inputs: &[&Path]) -> Result<()> {
    let Ok(output) = path.canonicalize() else { return Ok(()) };
    let is_report = output.extension().is_some_and(|extension| extension == "html" || extension == "svg");
    for input in inputs {
        let Ok(input_path) = input.canonicalize() else { continue };
        if output == input_path || (output.starts_with(&input_path) && !is_report) {
            let message = format!("would take the place of what is read: {}", input.display());
            return Err(Error::file(path, message).hint("choose another path for the output"));
        }
    }
    Ok(())
}

/// Writes `path`, replacing an earlier file in one step.
pub fn write(path: &Path, contents: &[u8]) -> Result<()> {
    write_with(path, |mut file| file.write_all(contents).map_err(|e| Error::io(path, e)))
}

/// Writes `path` with contents that `fill` writes, replacing an earlier file in one step at the end.
pub fn write_with(path: &Path, fill: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    only_files(path)?;
    let (_folders, file) = in_new_folders(path, || new_beside(path))?;
    fill(file.as_file())?;
    file.as_file().sync_all().map_err(|e| Error::io(path, e))?;
    file.persist(path).map_err(|e| Error::io(path, e.error))?;
    Ok(())
}

/// Claim on an output, so that no other run makes it at the same time: a locked file beside it, removed when this is
/// dropped.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _file: File,
    /// Removed after the file in them.
    _folders: NewFolders,
}

impl Claim {
    /// Claims the file or folder `output`, making the folders above it.
    ///
    /// # Errors
    /// Where another run has claimed it, or the folders cannot be made.
    pub fn new(output: &Path) -> Result<Self> {
        let name = output.file_name().unwrap_or(output.as_os_str()).to_string_lossy();
        let path = output.with_file_name(format!(".{name}.lock"));
        loop {
            let create = || File::create(&path).map_err(|e| Error::io(output, e));
            let (folders, file) = in_new_folders(output, create)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let message = format!("another run is making it, and holds {}", path.display());
                    return Err(Error::file(output, message)
                        .hint("wait until that is done, or choose another output"));
                }
                // Some file systems have no locks. One that a run removed on its way out holds nobody off, and there may be
                // another of its name by now.
                _ if is_at(&file, &path) => {
                    // The folder that the process stands in may be the one that is replaced.
                    let path = std::path::absolute(&path).unwrap_or(path);
                    return Ok(Self { path, _file: file, _folders: folders });
                }
                _ => {}
            }
        }
    }
}

/// True if `file`, which is open, is the one that is called `path`.
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

/// Returns the folder that is written where `output` is named: what it leads to where it is a link.
pub fn behind_link(output: &Path) -> Cow<'_, Path> {
    // With a slash at its end a path leads to what is behind the link: without it, it names the link.
    let named: PathBuf = output.components().collect();
    match fs::canonicalize(output) {
        Ok(target) if named.is_symlink() => Cow::Owned(target),
        _ => Cow::Borrowed(output),
    }
}

/// Returns the path of what lies beside the file or folder `output` while that is being made, with `suffix` after its
/// name.
pub fn beside(output: &Path, suffix: &str) -> PathBuf {
    let mut name = output.file_name().unwrap_or(output.as_os_str()).to_owned();
    name.push(suffix);
    output.with_file_name(name)
}

/// Returns the path of the output that the file or folder `path`, made by [`beside`], lies beside.
pub fn output_beside(path: &Path) -> PathBuf {
    path.with_extension("")
}

/// Creates a file beside `path` that is to replace it, readable as the umask allows.
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
        assert!(refuse_inputs(&text, &[&text]).is_err());
        assert!(refuse_inputs(&home.path().join(".").join("text"), &[Path::new("nowhere"), &text]).is_err());
        assert!(
            refuse_inputs(&config, &[home.path()]).is_err() && refuse_inputs(&page, &[home.path()]).is_ok()
        );
        assert!(
            refuse_inputs(&config, &[&text]).is_ok()
                && refuse_inputs(&home.path().join("new"), &[home.path()]).is_ok()
        );
        assert!(check(Path::new("-"), Existing::Replaced).is_err());
    }

    #[test]
    fn an_output_is_made_by_one_run_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let first = Claim::new(&out).unwrap();
        Claim::new(&home.path().join("other")).unwrap();
        let error = Claim::new(&home.path().join("out/")).unwrap_err().to_string();
        let lock = home.path().join(".out.lock");
        assert!(
            error.ends_with(&format!("another run is making it, and holds {}", lock.display())),
            "{error}"
        );
        drop(first);
        Claim::new(&out).unwrap();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn folders_are_made_and_removed_if_empty() {
        let home = tempfile::tempdir().unwrap();
        let is_there = |name: &str| home.path().join(name).exists();
        let out = home.path().join("a/b/out");
        let claim = Claim::new(&out).unwrap();
        assert!(is_there("a/b/.out.lock"));
        drop(claim);
        assert!(!is_there("a"));
        check(&out, Existing::Refused).unwrap();
        assert!(!is_there("a"), "a check makes nothing");
        assert!(write_with(&out, |_| Err(Error::interrupted())).is_err() && !is_there("a"));
        let claim = Claim::new(&out).unwrap();
        write(&home.path().join("a/other"), b"one").unwrap();
        drop(claim);
        assert!(is_there("a/other") && !is_there("a/b"), "only empty ones are removed");
        write(&out, b"one").unwrap();
        assert!(is_there("a/b/out"));
        let error = check(&home.path().join("a/other/x/y"), Existing::Refused).unwrap_err();
        assert!(error.hint_text().is_some_and(|hint| hint.contains("a file is where a folder")), "{error:?}");
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
        let (out, inside) = (home.path().join("a/b/out"), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let claim = match Claim::new(&out) {
                            Ok(claim) => claim,
                            Err(error) => {
                                assert!(error.to_string().contains("another run is making it"), "{error}");
                                continue;
                            }
                        };
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
        check(&path, Existing::Refused).unwrap();
        assert!(!path.exists());
        assert!(write(home.path(), b"one").is_err() && home.path().is_dir());
        write(&path, b"one").unwrap();
        assert!(check(&path, Existing::Refused).is_err() && check(&path, Existing::Replaced).is_ok());
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        assert!(check(home.path(), Existing::Replaced).is_err(), "a folder is no file");
    }
}
