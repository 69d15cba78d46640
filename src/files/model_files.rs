//! Files of a model, read through one interface from a folder, a pack or a GGUF.

use super::gguf;
use super::gguf::Gguf;
use super::hashed::HashedFile;
use super::mapped::Mapped;
use super::pack::Pack;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lfs_pointer;
use crate::error::{Error, Result};
use crate::files::hub_cache;

/// Folder of further chat templates in the Hub's repositories, the only folder that a model has.
pub const TEMPLATES: &str = "additional_chat_templates";

/// Files of a model folder, a pack or a GGUF.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    path: PathBuf,
    place: Place,
}

/// Place of a model's files.
#[derive(Debug, Clone)]
enum Place {
    Folder,
    Pack(Arc<Pack>),
    /// All files but weights are made of its metadata.
    Gguf(Arc<Gguf>),
}

impl ModelFiles {
    /// Opens the folder, pack or GGUF `path`. A folder may hold a GGUF and no other weights. The structure of packs and GGUF files is
    /// checked; of a folder nothing is, not even that it exists.
    pub fn open(path: &Path) -> Result<Self> {
        let gguf = if gguf::is_gguf(path) { Some(path.to_owned()) } else { gguf::in_folder(path)? };
        let place = match gguf {
            Some(file) => Place::Gguf(Arc::new(Gguf::open(&file)?)),
            None if path.is_file() => Place::Pack(Arc::new(Pack::open(path)?)),
            None => Place::Folder,
        };
        Ok(Self { path: path.to_owned(), place })
    }

    /// Returns the files of a folder by themselves, whether a GGUF is among them or not.
    pub(crate) fn of_folder(path: &Path) -> Self {
        Self { path: path.to_owned(), place: Place::Folder }
    }

    /// Returns the path of the folder, the pack or the GGUF.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the pack, if this is one.
    pub fn pack(&self) -> Option<&Pack> {
        match &self.place {
            Place::Pack(pack) => Some(pack),
            _ => None,
        }
    }

    /// Returns the GGUF, if this is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.place {
            Place::Gguf(gguf) => Some(gguf),
            _ => None,
        }
    }

    /// True if the files lie in a folder by themselves.
    fn is_folder(&self) -> bool {
        matches!(self.place, Place::Folder)
    }

    /// Returns the path of the file `name` for messages: in a pack or a GGUF, as if that were a folder.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Returns the model's name: that on the Hub for a folder in its cache, otherwise the folder's own name whatever
    /// the path to it, or the file's without its extension.
    pub fn title(&self) -> String {
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        if let Some(name) = hub_cache::name_in_cache(&path) {
            return name;
        }
        let name = if path.is_file() { path.file_stem() } else { path.file_name() };
        name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// Returns the names of the files, sorted; those of further chat templates begin with their folder's. Hidden files
    /// and other folders are not among them.
    pub fn names(&self) -> Result<Vec<String>> {
        match &self.place {
            Place::Folder => {}
            Place::Pack(pack) => return Ok(pack.files().iter().map(|file| file.name.clone()).collect()),
            Place::Gguf(_) => return Ok(gguf::NAMES.map(str::to_owned).to_vec()),
        }
        let error = |e| Error::io(&self.path, e).hint("expected a model folder");
        let mut names = files_in(&self.path).map_err(error)?;
        let templates = files_in(&self.path.join(TEMPLATES)).unwrap_or_default();
        names.extend(templates.into_iter().map(|name| format!("{TEMPLATES}/{name}")));
        names.sort();
        Ok(names)
    }

    /// True if there is a file called `name`.
    pub fn has(&self, name: &str) -> bool {
        match &self.place {
            Place::Folder => self.path_of(name).is_file(),
            Place::Pack(pack) => pack.get(name).is_some(),
            Place::Gguf(_) => gguf::NAMES.contains(&name),
        }
    }

    /// True if a folder lies where the file `name` could be.
    pub fn has_folder(&self, name: &str) -> bool {
        self.is_folder() && self.path_of(name).is_dir()
    }

    /// Returns the target of the link `name` if nothing is there, as in a cache that lost a file.
    pub fn dangling_link(&self, name: &str) -> Option<PathBuf> {
        let path = self.path_of(name);
        fs::read_link(&path).ok().filter(|_| self.is_folder() && !path.exists())
    }

    /// Reads the file `name`, which must exist.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path_of(name);
        let absent = |place: &str| Err(Error::io(&path, io::Error::new(io::ErrorKind::NotFound, place)));
        match &self.place {
            Place::Folder => {
                refuse_special_file(&path)?;
                let bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
                lfs_pointer::refuse(&path, &bytes)?;
                Ok(bytes)
            }
            Place::Pack(pack) => {
                pack.get(name).map_or_else(|| absent("not in the pack"), |file| pack.read(file))
            }
            Place::Gguf(gguf) => gguf.file(name).unwrap_or_else(|| absent("not made of a GGUF")),
        }
    }

    /// Fails if the file `name` of a folder is a Git LFS pointer. Packs have none, nor have files that are made.
    pub fn refuse_pointer(&self, name: &str) -> Result<()> {
        let path = self.path_of(name);
        let is_short = |metadata: fs::Metadata| metadata.len() < lfs_pointer::MAX_BYTES as u64;
        if !self.is_folder() || !fs::metadata(&path).is_ok_and(is_short) {
            return Ok(());
        }
        self.read(name).map(drop)
    }

    /// Reads the file `name` as text.
    pub fn read_text(&self, name: &str) -> Result<String> {
        let text = String::from_utf8(self.read(name)?);
        text.map_err(|e| Error::io(self.path_of(name), io::Error::new(io::ErrorKind::InvalidData, e)))
    }

    /// Fails unless a pack's files are those that were packed. In a folder of the Hub's cache, files named by their
    /// SHA-256 must be those that were downloaded; other folders record nothing to compare with.
    pub fn verify(&self) -> Result<()> {
        self.pack().map_or_else(|| super::hashed::verify(self), Pack::verify)
    }

    /// Returns the files of a folder that are named by their SHA-256.
    pub fn hashed_files(&self) -> Vec<HashedFile> {
        super::hashed::hashed_files(self)
    }

    /// Maps the file `name`.
    pub fn map(&self, name: &str) -> Result<Mapped> {
        let path = self.path_of(name);
        match &self.place {
            Place::Folder => {
                refuse_special_file(&path)?;
                Mapped::open(&path)
            }
            Place::Pack(pack) => match pack.get(name) {
                Some(file) => Ok(file.data.clone()),
                None => Err(Error::file(&path, "is not in the pack")),
            },
            Place::Gguf(_) => Err(Error::file(&path, "is made of a GGUF, and in no file")),
        }
    }
}

/// True if `path` is a file that begins as packs do, as every ZIP does.
pub fn is_pack(path: &Path) -> bool {
    let mut start = [0; 4];
    let mut read = || File::open(path).and_then(|mut file| file.read_exact(&mut start));
    path.is_file() && read().is_ok() && start == super::pack::MAGIC
}

/// Fails where `path`, in a model folder, is something that reading could wait on for ever: a FIFO, a device, a socket.
pub fn refuse_special_file(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => {
            Err(Error::file(path, "is no regular file")
                .hint("a model is made of files and links to files: move this elsewhere"))
        }
        _ => Ok(()),
    }
}

/// True for what macOS (Finder, AppleDouble, Spotlight) or Windows (Explorer) puts into folders by itself: no part of a
/// model, and nobody's work. A folder counts where only the system writes into it, or where it is empty: there may be
/// somebody's work in a bin.
pub fn is_file_manager_entry(path: &Path) -> bool {
    const FILES: [&str; 5] = [".DS_Store", ".localized", "Icon\r", "desktop.ini", "Thumbs.db"];
    const INDICES: [&str; 2] = [".Spotlight-V100", ".fseventsd"];
    const EMPTY_FOLDERS: [&str; 2] = [".Trashes", ".DS_Store"];
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let is_one_of = |names: &[&str]| names.iter().any(|litter| name.eq_ignore_ascii_case(litter));
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => name.starts_with("._") || is_one_of(&FILES),
        Ok(metadata) if metadata.is_dir() => {
            let is_empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
            is_one_of(&INDICES) || (is_one_of(&EMPTY_FOLDERS) && is_empty())
        }
        _ => false,
    }
}

/// Returns the names of the files in a folder that are not hidden. Snapshots in the Hub's cache hold links to files.
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
