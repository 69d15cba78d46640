//! A model folder or a pack, read through one interface.

use super::called::Called;
use super::mapped::Mapped;
use super::pack::Pack;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lfs_pointer;
use crate::error::{Error, Result};
use crate::files::hub_cache;

/// The folder of the Hub's repositories that further chat templates lie in, the only one that a model has.
pub const TEMPLATES: &str = "additional_chat_templates";

/// A model folder or a pack.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    path: PathBuf,
    pack: Option<Arc<Pack>>,
}

impl ModelFiles {
    /// The files in the folder or pack `path`. A pack's structure is checked; of a folder nothing is, not even that it
    /// exists.
    pub fn open(path: &Path) -> Result<Self> {
        let pack = if path.is_file() { Some(Arc::new(Pack::open(path)?)) } else { None };
        Ok(Self { path: path.to_owned(), pack })
    }

    /// The folder or the pack.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pack, if it is one.
    pub fn pack(&self) -> Option<&Pack> {
        self.pack.as_deref()
    }

    /// What messages call the file `name`: in a pack, as if that were a folder.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder's own name whatever the path to it, the pack's without its extension, or that on the Hub of what is in
    /// its cache.
    pub fn title(&self) -> String {
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        if let Some(name) = hub_cache::name_in_cache(&path) {
            return name;
        }
        let name = if self.pack.is_some() { path.file_stem() } else { path.file_name() };
        name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// Names of the files, sorted; those of further chat templates begin with their folder's. Hidden files and other
    /// folders are not among them.
    pub fn names(&self) -> Result<Vec<String>> {
        if let Some(pack) = &self.pack {
            return Ok(pack.files().iter().map(|file| file.name.clone()).collect());
        }
        let error = |e| Error::io(&self.path, e).hint("expected a model folder");
        let mut names = files_in(&self.path).map_err(error)?;
        let templates = files_in(&self.path.join(TEMPLATES)).unwrap_or_default();
        names.extend(templates.into_iter().map(|name| format!("{TEMPLATES}/{name}")));
        names.sort();
        Ok(names)
    }

    /// Whether there is a file called `name`.
    pub fn has(&self, name: &str) -> bool {
        match &self.pack {
            Some(pack) => pack.get(name).is_some(),
            None => self.path_of(name).is_file(),
        }
    }

    /// True if a folder lies where the file `name` could be.
    pub fn has_folder(&self, name: &str) -> bool {
        self.pack.is_none() && self.path_of(name).is_dir()
    }

    /// The contents of the file `name`, which must be there.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path_of(name);
        let Some(pack) = &self.pack else {
            only_files(&path)?;
            let bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
            lfs_pointer::refuse(&path, &bytes)?;
            return Ok(bytes);
        };
        match pack.get(name) {
            Some(file) => pack.read(file),
            None => Err(Error::io(&path, io::Error::new(io::ErrorKind::NotFound, "not in the pack"))),
        }
    }

    /// The contents of the file `name` as text.
    pub fn read_text(&self, name: &str) -> Result<String> {
        let text = String::from_utf8(self.read(name)?);
        text.map_err(|e| Error::io(self.path_of(name), io::Error::new(io::ErrorKind::InvalidData, e)))
    }

    /// Fails unless the files of a pack are those that were packed, and those of a folder in the Hub's cache, as far as they
    /// are called by their SHA-256, those that were downloaded; other folders record nothing to compare with.
    pub fn verify(&self) -> Result<()> {
        self.pack.as_ref().map_or_else(|| super::called::verify(self), |pack| pack.verify())
    }

    /// The files of a folder that are called by their SHA-256.
    pub fn called(&self) -> Vec<Called> {
        super::called::called(self)
    }

    /// The file `name`, mapped.
    pub fn map(&self, name: &str) -> Result<Mapped> {
        let path = self.path_of(name);
        let Some(pack) = &self.pack else {
            only_files(&path)?;
            return Mapped::open(&path);
        };
        match pack.get(name) {
            Some(file) => Ok(file.data.clone()),
            None => Err(Error::file(&path, "is not in the pack")),
        }
    }
}

/// Whether `path` is a file that begins as packs do, as every ZIP does.
pub fn is_pack(path: &Path) -> bool {
    let mut start = [0; 4];
    let mut read = || File::open(path).and_then(|mut file| file.read_exact(&mut start));
    path.is_file() && read().is_ok() && start == super::pack::MAGIC
}

/// Fails where `path`, in a model folder, is something that reading could wait on for ever: a FIFO, a device, a socket.
pub fn only_files(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() && !found.is_dir() => Err(Error::file(path, "is no regular file")
            .hint("a model is made of files and links to files: move this elsewhere")),
        _ => Ok(()),
    }
}

/// True for files that macOS (Finder, AppleDouble) or Windows (Explorer) puts into folders by itself: no part of a model,
/// and nobody's work.
pub fn is_of_a_file_manager(name: &str) -> bool {
    const NAMES: [&str; 3] = [".DS_Store", "desktop.ini", "Thumbs.db"];
    name.starts_with("._") || NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Names of the files in a folder that are not hidden. Snapshots in the Hub's cache hold links to files.
fn files_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_file() {
            names.push(name);
        }
    }
    Ok(names)
}
