//! Git LFS pointers: small files that git has in the place of large ones that were not fetched.

use std::path::Path;

use crate::error::{Error, Result};

const START: &[u8] = b"version https://git-lfs.github.com/spec/";
/// Bytes that a pointer has fewer than, by its specification.
pub(super) const MAX_BYTES: usize = 1024;

/// Fails where the `bytes` of the file `path` are a Git LFS pointer.
pub fn refuse(path: &Path, bytes: &[u8]) -> Result<()> {
    if bytes.len() >= MAX_BYTES || !bytes.starts_with(START) {
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
