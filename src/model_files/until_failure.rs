//! Output that fails once. A `ZipWriter` that is dropped before its end writes the end, and prints that it cannot: what is
//! to be said of a full disk has been said by then.

use std::io::{self, Seek, SeekFrom, Write};

/// The output of a `ZipWriter`: once writing has failed, it takes everything and writes nothing.
#[derive(Debug)]
pub(crate) struct UntilFailure<W> {
    inner: W,
    failed: bool,
}

impl<W> UntilFailure<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, failed: false }
    }

    pub(crate) fn into_inner(self) -> W {
        self.inner
    }

    fn attempt<T>(&mut self, otherwise: T, act: impl FnOnce(&mut W) -> io::Result<T>) -> io::Result<T> {
        if self.failed {
            return Ok(otherwise);
        }
        let result = act(&mut self.inner);
        self.failed = result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        result
    }
}

impl<W: Write> Write for UntilFailure<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(bytes.len(), |inner| inner.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt((), Write::flush)
    }
}

impl<W: Seek> Seek for UntilFailure<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.attempt(0, |inner| inner.seek(to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for two bytes.
    struct Small(Vec<u8>);

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.len() + bytes.len() > 2 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn it_fails_once_and_writes_no_more() {
        let mut output = UntilFailure::new(Small(Vec::new()));
        output.write_all(b"a").unwrap();
        assert_eq!(output.write_all(b"bc").unwrap_err().kind(), io::ErrorKind::StorageFull);
        output.write_all(b"d").unwrap();
        output.write_all(b"efg").unwrap();
        output.flush().unwrap();
        assert_eq!(output.into_inner().0, b"a");
    }
}
