//! Output that fails once. A `ZipWriter` that is dropped before its end writes the end, and prints that it cannot; a
//! full disk has been reported by then.

use std::io::{self, Seek, SeekFrom, Write};

/// Output of a `ZipWriter`: once writing has failed, it accepts everything, reports the positions where that would be,
/// and writes nothing.
#[derive(Debug)]
pub(crate) struct UntilFailure<W> {
    inner: W,
    failed: bool,
    /// Position of the next byte, written or not.
    position: u64,
}

impl<W> UntilFailure<W> {
    /// Makes output to `inner`, which is at its beginning.
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, failed: false, position: 0 }
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
        let written = self.attempt(bytes.len(), |inner| inner.write(bytes))?;
        self.position += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt((), Write::flush)
    }
}

impl<W: Seek> Seek for UntilFailure<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let otherwise = match to {
            SeekFrom::Start(position) => position,
            SeekFrom::Current(distance) => self.position.saturating_add_signed(distance),
            SeekFrom::End(_) => self.position,
        };
        self.position = self.attempt(otherwise, |inner| inner.seek(to))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Disk with room for two bytes.
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

    impl Seek for Small {
        fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
            Ok(self.0.len() as u64)
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
        assert_eq!(output.stream_position().unwrap(), 5);
        assert_eq!(output.seek(SeekFrom::Start(3)).unwrap(), 3);
        assert_eq!(output.seek(SeekFrom::Current(-1)).unwrap(), 2);
        assert_eq!(output.into_inner().0, b"a");
    }
}
