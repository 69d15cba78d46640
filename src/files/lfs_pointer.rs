//! What git has in the place of a large file that was not fetched: a pointer of Git LFS.

use std::path::Path;

use crate::error::{Error, Result};

const START: &[u8] = b"version https://git-lfs.github.com/spec/";
/// By its specification a pointer is shorter.
const MOST: usize = 1024;

/// Fails where the `bytes` of the file `path` are a pointer and not the file.
pub fn refuse(path: &Path, bytes: &[u8]) -> Result<()> {
    if bytes.len() >= MOST || !bytes.starts_with(START) {
        return Ok(());
    }
    Err(Error::file(path, "is a Git LFS pointer, not the file")
        .hint("run `git lfs pull` in its folder: that fetches what the pointer stands for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_short() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n";
        let error = refuse(Path::new("a/b"), pointer).unwrap_err();
        assert_eq!(error.to_string(), "a/b: is a Git LFS pointer, not the file");
        let text = [pointer.as_slice(), &[b'x'; 1000]].concat();
        for file in [b"".as_slice(), b"{}", b" version https://git-lfs.github.com/spec/v1", &text] {
            assert!(refuse(Path::new("a"), file).is_ok());
        }
    }
}
