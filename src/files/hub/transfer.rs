//! Transfer of one file into the cache: to `blobs/HASH.part`, resumed where that ends, and renamed when it is whole.

use crate::progress::Bar;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::client::Failure;
use super::reader::{Metadata, Reader};
use crate::error::{Error, Result};
use crate::files::mapped::Mapped;

/// File that is to be fetched.
pub(crate) struct Transfer {
    pub(crate) reader: Reader,
    pub(crate) url: String,
    pub(crate) metadata: Metadata,
    /// File that the contents go to.
    pub(crate) blob: PathBuf,
    pub(crate) bar: Arc<dyn Bar>,
}

impl Transfer {
    /// Fetches the missing part. A failure comes with the bytes that are there; an error is a fault on this side.
    pub(crate) fn run(&self) -> Result<Result<(), (Failure, u64)>> {
        let part = self.blob.with_extension("part");
        let length = || fs::metadata(&part).map_or(0, |metadata| metadata.len());
        if self.metadata.size.is_some_and(|size| length() >= size) {
            let _ = fs::remove_file(&part);
        }
        let size = match self.append(&part, length())? {
            Ok(size) => size,
            Err(failure) => {
                // The server has nothing after these bytes: they cannot be the file's beginning.
                if failure.is_status(416) {
                    let _ = fs::remove_file(&part);
                    return Ok(Err((Failure::Broken("what was there is not of this file".to_owned()), 0)));
                }
                return Ok(Err((failure, length())));
            }
        };
        if let Err(what) = check_contents(&part, &self.metadata.etag, size.unwrap_or_else(length)) {
            let _ = fs::remove_file(&part);
            return Ok(Err((Failure::Damaged(what), 0)));
        }
        fs::rename(&part, &self.blob).map_err(|e| Error::io(&self.blob, e))?;
        Ok(Ok(()))
    }

    /// Appends to `part`, which has `length` bytes. Returns the bytes of the whole file, where they are known.
    fn append(&self, part: &Path, length: u64) -> Result<Result<Option<u64>, Failure>> {
        let io = |e| Error::io(part, e);
        let mut contents = match self.reader.contents(&self.url, length) {
            Ok(contents) => contents,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(io)?;
        file.set_len(contents.start).map_err(io)?;
        let size = self.metadata.size.or(contents.size);
        self.bar.set(contents.start, size.unwrap_or_default());
        let mut buffer = vec![0; 1 << 16];
        loop {
            match contents.read(&mut buffer) {
                Ok(0) => return Ok(Ok(size)),
                Ok(count) => {
                    file.write_all(buffer.get(..count).unwrap_or_default()).map_err(io)?;
                    self.bar.inc(count as u64);
                }
                Err(failure) => return Ok(Err(failure)),
            }
        }
    }
}

/// Fails unless the contents have the right length, and the SHA-256 that large files are named by (small ones have
/// another hash).
fn check_contents(path: &Path, etag: &str, size: u64) -> std::result::Result<(), String> {
    let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
    if length != size {
        return Err(format!("{length} bytes came, {size} were announced"));
    }
    if etag.len() != 64 || size == 0 {
        return Ok(());
    }
    let sha256 = Mapped::open(path).and_then(|map| map.sha256()).map_err(|e| e.to_string())?;
    if sha256 == etag { Ok(()) } else { Err(format!("its SHA-256 is {sha256}, the Hub says {etag}")) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;

    use super::super::settings::Settings;
    use super::*;

    /// Bar that records its last position and length.
    #[derive(Default)]
    struct Shown {
        done: AtomicU64,
        total: AtomicU64,
    }

    impl Bar for Shown {
        fn inc(&self, steps: u64) {
            self.done.fetch_add(steps, Relaxed);
        }

        fn set(&self, done: u64, total: u64) {
            self.done.store(done, Relaxed);
            self.total.store(total, Relaxed);
        }

        fn describe(&self, _: String) {}

        fn finish(&self) {}
    }

    /// The bar is set from the answer's length where nobody said before how long the file is.
    #[test]
    fn the_bar_knows_the_length() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let contents = [b'x'; 1234];
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n").unwrap();
            stream.write_all(&contents).unwrap();
        });
        let home = tempfile::tempdir().unwrap();
        let settings = Settings::from_environment().unwrap();
        let shown = Arc::new(Shown::default());
        let transfer = Transfer {
            reader: Reader::new(&settings, settings.downloading),
            url,
            metadata: Metadata { etag: "small".to_owned(), size: None },
            blob: home.path().join("small"),
            bar: Arc::clone(&shown) as Arc<dyn Bar>,
        };
        assert!(transfer.run().unwrap().is_ok());
        assert_eq!((shown.done.load(Relaxed), shown.total.load(Relaxed)), (1234, 1234));
        assert_eq!(fs::read(&transfer.blob).unwrap(), [b'x'; 1234]);
    }
}
