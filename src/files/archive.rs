//! ZIP archives whose entries are used where they lie, and the archives that every reader must refuse.

use std::collections::BTreeSet;
use std::io::{Cursor, ErrorKind};
use std::path::Path;
use zip::ZipArchive;
use zip::result::ZipError;

use crate::error::{Error, Result};

/// Reads the directory of the ZIP in `bytes`, the contents of the file `path`; messages call it a `kind` file. Names
/// that are in it twice and entries that lie over one another are refused: another reader might take the other one.
pub fn open_archive<'a>(path: &Path, kind: &str, bytes: &'a [u8]) -> Result<ZipArchive<Cursor<&'a [u8]>>> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| {
        if has_end(bytes) { broken(path, kind, &error) } else { damaged(path, kind, WITHOUT_END) }
    })?;
    if archive.has_duplicate_names() {
        let start = usize::try_from(archive.central_directory_start()).unwrap_or(usize::MAX);
        let name = twice_in_directory(bytes, start).unwrap_or_else(|| "a name".to_owned());
        return Err(Error::file(path, format!("`{name}` is in it twice"))
            .hint("whatever wrote this file is broken: save it again with another tool"));
    }
    if archive.has_overlapping_entries().map_err(|e| broken(path, kind, &e))? {
        return Err(Error::file(path, "has entries that lie over one another")
            .hint("the file is damaged, or made to deceive: take it from where it was made"));
    }
    Ok(archive)
}

/// Fault of an archive that was cut off.
const WITHOUT_END: &str = "the directory at its end is missing";

/// True if `bytes` end like a ZIP: with a record that says where its directory is, and a comment of up to 64 KiB.
fn has_end(bytes: &[u8]) -> bool {
    const RECORD_BYTES: usize = 22;
    const LONGEST_COMMENT_BYTES: usize = 0xffff;
    let end = bytes.get(bytes.len().saturating_sub(RECORD_BYTES + LONGEST_COMMENT_BYTES)..).unwrap_or(bytes);
    end.windows(RECORD_BYTES).any(|record| record.starts_with(b"PK\x05\x06"))
}

/// Returns the error for an archive that is not whole: its `fault`.
pub fn damaged(path: &Path, kind: &str, fault: &str) -> Error {
    Error::file(path, format!("not a whole {kind} file: {fault}"))
        .hint("the file is truncated or damaged: copy or download it again")
}

/// Returns the error for an archive that the zip crate fails on.
pub fn broken(path: &Path, kind: &str, error: &ZipError) -> Error {
    let fault = match error {
        ZipError::InvalidArchive(_) => "its directory and its entries contradict each other".to_owned(),
        ZipError::CompressionMethodNotSupported(method) => {
            format!("an entry is compressed by method {method}, which is not read")
        }
        ZipError::UnsupportedArchive(_) => "an entry is encrypted, or of a later version of ZIP".to_owned(),
        ZipError::Io(error) if error.kind() == ErrorKind::UnexpectedEof => "an entry ends early".to_owned(),
        ZipError::Io(error) => format!("an entry cannot be read: {error}"),
        other => other.to_string(),
    };
    damaged(path, kind, &fault)
}

/// Returns the first name that the central directory, which begins at `start`, has twice. (The zip crate tells only
/// that there is one.)
fn twice_in_directory(bytes: &[u8], start: usize) -> Option<String> {
    const FIXED: usize = 46;
    let mut rest = bytes.get(start..)?;
    let mut seen = BTreeSet::new();
    while rest.starts_with(b"PK\x01\x02") {
        let length = |at: usize| rest.get(at..at + 2).map(|b| usize::from(b[0]) | usize::from(b[1]) << 8);
        let (name, extra, comment) = (length(28)?, length(30)?, length(32)?);
        let text = rest.get(FIXED..FIXED + name)?;
        if !seen.insert(text) {
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(FIXED + name + extra + comment..)?;
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_cut_archive_lacks_its_directory() {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        writer.start_file("EOCD", zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(b"end of central directory").unwrap();
        writer.set_comment("of two lines\nEOCD").unwrap();
        let whole = writer.finish().unwrap().into_inner();
        let open = |bytes: &[u8]| open_archive(Path::new("a.zip"), "ZIP", bytes).map(drop);
        open(&whole).unwrap();
        let comment = "of two lines\nEOCD".len();
        for length in 0..whole.len() - comment {
            let error = open(&whole[..length]).unwrap_err().to_string();
            assert!(error.ends_with(WITHOUT_END), "{length}: {error}");
        }
        // With a directory that is not where its end says, the end is there all the same.
        let mut damaged = whole;
        let start = damaged.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
        damaged[start] = 0;
        assert!(!open(&damaged).unwrap_err().to_string().contains(WITHOUT_END));
    }
}
