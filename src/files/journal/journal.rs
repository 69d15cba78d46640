//! Unfinished work in a file beside the output, so that an interrupted run can be resumed.
//!
//! The first line is a [`Header`]. Entries follow: a line of JSON with the payload's length and the SHA-256 of entry and
//! payload, then the payload. A last entry that is not whole, as a kill leaves one, is dropped, and its work is done again.
//! Where an entry before the last is damaged, the entries before it stay. Where only the newest state counts, the journal
//! has one entry, which is replaced in one step.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::contents::{Contents, Entry, damaged, entry_line, json_line};
use super::header::Header;
use super::messages::{resume_after, with_kept_work};
use crate::error::{Error, ErrorKind, Result};
use crate::files::output_file;
use crate::words::count;

/// Beginning of a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From nothing: an earlier journal is discarded.
    Anew,
    /// After the entries of an earlier journal, where there is one.
    Resumed,
}

impl Start {
    /// Returns `Resumed` if `resume` is set.
    pub fn resumed_if(resume: bool) -> Self {
        if resume { Self::Resumed } else { Self::Anew }
    }
}

/// A journal that takes entries. No other run can open it meanwhile.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    length: usize,
    entries: usize,
    lost_entries: bool,
}

impl Journal {
    /// Reads the header of the journal at `path`, where there is one.
    pub fn peek(path: &Path) -> Option<Header> {
        let mut reader = BufReader::new(File::open(path).ok()?);
        Header::read(path, &mut reader, "").ok()?.map(|(header, _)| header)
    }

    /// True if an unfinished run has left entries at `path`, or a file that is no journal.
    ///
    /// # Errors
    /// When another run writes it, or, with the header `now`, when it was begun with other settings or its first entry is
    /// damaged.
    pub fn has_unfinished(path: &Path, now: Option<&Header>) -> Result<bool> {
        output_file::only_files(path)?;
        let Some(file) = existing(path, OpenOptions::new().read(true))? else { return Ok(false) };
        let Some(now) = now else {
            let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
            let header = Header::read(path, &mut BufReader::new(file), "");
            return Ok(header.map_or(true, |header| header.is_some_and(|(_, length)| size > length as u64)));
        };
        let contents = Contents::<Value>::read(path, &file, now)?;
        contents.check(path)?;
        Ok(!contents.entries.is_empty())
    }

    /// Opens the journal at `path` and returns it with the entries of an earlier run.
    ///
    /// # Errors
    /// When another run writes it, it was begun with other settings, or is damaged. The file stays as it is then.
    pub fn open<E: DeserializeOwned>(
        path: &Path,
        header: &Header,
        start: Start,
    ) -> Result<(Self, Vec<Entry<E>>)> {
        output_file::only_files(path)?;
        let failed = |e| Error::io(path, e);
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let earlier = existing(path, &options)?;
        let mut contents = Contents::default();
        let mut file = match earlier {
            Some(file) if start == Start::Resumed => {
                contents = Contents::read(path, &file, header)?;
                contents.check_header(path, header)?;
                contents.check(path)?;
                file.set_len(contents.end as u64).map_err(failed)?;
                file
            }
            earlier => {
                if earlier.is_some() {
                    fs::remove_file(path).map_err(failed)?;
                }
                let file = options.create_new(true).open(path).map_err(failed)?;
                lock(path, &file)?;
                file
            }
        };
        let Contents { entries, end: length, is_damaged, .. } = contents;
        file.seek(SeekFrom::Start(length as u64)).map_err(failed)?;
        let file = BufWriter::with_capacity(1 << 20, file);
        let mut journal =
            Self { path: path.to_owned(), file, length, entries: entries.len(), lost_entries: is_damaged };
        if length == 0 {
            let line = json_line(path, header)?;
            journal.file.write_all(&line).map_err(failed)?;
            journal.length = line.len();
            journal.flush().inspect_err(|_| remove(path))?;
        }
        Ok((journal, entries))
    }

    /// Returns what to tell where entries of an earlier run were damaged: they and those after them are done again.
    pub fn damage_note(&self) -> Option<String> {
        let name = self.path.display();
        self.lost_entries
            .then(|| format!("{name} is damaged: what follows the entries that are whole is done again"))
    }

    /// Appends an entry and its payload, part after part. Returns the payload's offset in the file.
    pub fn append(&mut self, entry: &impl Serialize, payload: &[&[u8]]) -> Result<usize> {
        let line = entry_line(&self.path, entry, payload)?;
        for part in [&line[..]].iter().chain(payload) {
            self.file.write_all(part).map_err(|e| self.write_error(e))?;
        }
        let start = self.length + line.len();
        self.length = start + payload.iter().map(|part| part.len()).sum::<usize>();
        self.entries += 1;
        Ok(start)
    }

    /// Hands what was appended to the system, so that a kill does not lose it.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| self.write_error(e))
    }

    /// Returns an error of writing, which names the output that the journal lies beside.
    fn write_error(&self, error: io::Error) -> Error {
        Error::io(output_file::output_beside(&self.path), error)
    }

    /// Adds to an interruption, or to a failure of the disk, a hint how to resume after the entries, each of which is a
    /// `noun`.
    pub fn with_resume_hint(&self, error: Error, noun: &str) -> Error {
        match (error.kind(), self.entries) {
            (ErrorKind::Interrupted, 1..) => resume_after(error, &count(self.entries, noun)),
            (ErrorKind::Io { .. }, 1..) => with_kept_work(error, &[&self.path]),
            _ => error,
        }
    }

    /// Removes a journal without entries: there is nothing to resume.
    pub fn remove_if_empty(&self) {
        if self.entries == 0 {
            remove(&self.path);
        }
    }

    /// Ends appending and returns the file, which keeps its lock.
    pub fn into_file(self) -> Result<File> {
        let output = output_file::output_beside(&self.path);
        self.file.into_inner().map_err(|e| Error::io(output, e.into_error()))
    }

    /// Removes the journal: the work is done.
    pub fn finish(self) {
        remove(&self.path);
    }

    /// Writes a journal of one entry to `path`, replacing an earlier one in one step.
    pub fn replace(path: &Path, header: &Header, entry: &impl Serialize, payload: &[&[u8]]) -> Result<()> {
        let (header, line) = (json_line(path, header)?, entry_line(path, entry, payload)?);
        output_file::write_with(path, |mut file| {
            let mut parts = [&header[..], &line].into_iter().chain(payload.iter().copied());
            parts.try_for_each(|part| file.write_all(part)).map_err(|e| Error::io(path, e))
        })
        .map_err(|error| error.relocated(path, &output_file::output_beside(path)))
    }

    /// Reads the entry and the payload that [`replace`](Self::replace) wrote, where there is such a journal.
    ///
    /// # Errors
    /// When another run writes it, it was begun with other settings, or is damaged.
    pub fn read<E: DeserializeOwned>(path: &Path, header: &Header) -> Result<Option<(E, Vec<u8>)>> {
        output_file::only_files(path)?;
        let Some(mut file) = existing(path, OpenOptions::new().read(true))? else { return Ok(None) };
        let contents = Contents::read(path, &file, header)?;
        contents.check_header(path, header)?;
        let Contents { entries, end, .. } = contents;
        let failed = |e| Error::io(path, e);
        let size = file.metadata().map_err(failed)?.len();
        let mut payload = Vec::new();
        match <[Entry<E>; 1]>::try_from(entries) {
            Ok([entry]) if end as u64 == size => {
                file.seek(SeekFrom::Start(entry.start as u64)).map_err(failed)?;
                file.read_to_end(&mut payload).map_err(failed)?;
                Ok(Some((entry.value, payload)))
            }
            _ => Err(damaged(path)),
        }
    }
}

/// Removes the journal at `path`, if it is there.
pub fn remove(path: &Path) {
    // A journal that stays is in nobody's way: the next run starts it anew.
    let _ = fs::remove_file(path);
}

/// Removes the file at `path`, and returns true if an unfinished run had left entries in it, or it was no journal.
///
/// # Errors
/// When another run writes it, or it cannot be removed.
pub fn discard(path: &Path) -> Result<bool> {
    let held_work = Journal::has_unfinished(path, None)?;
    let Some(_locked) = existing(path, OpenOptions::new().read(true))? else { return Ok(false) };
    fs::remove_file(path).map_err(|e| Error::io(path, e))?;
    Ok(held_work)
}

/// Opens and locks the file at `path`, if it is there.
fn existing(path: &Path, options: &OpenOptions) -> Result<Option<File>> {
    match options.open(path) {
        Ok(file) => lock(path, &file).map(|()| Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, e)),
    }
}

fn lock(path: &Path, file: &File) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::file(path, "another run is writing it")
            .hint("wait until that is done, or choose another output")),
        // Some file systems have no locks.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::{ANEW, MODEL};
    use super::*;

    const ENTRIES: [(f64, &[u8]); 3] = [(0.1 + 0.2, b"one\n{}\n"), (-0.0, b""), (1e-300, b"\0\xff")];

    fn header(samples: usize) -> Header {
        Header::new("rounding").with("samples", samples).with("the text", "t").with("bits", "")
    }

    fn open(path: &Path, start: Start) -> Result<(Journal, Vec<Entry<f64>>)> {
        Journal::open(path, &header(4), start)
    }

    /// Writes a journal of [`ENTRIES`] and returns its bytes and its length after each.
    fn written(path: &Path) -> (Vec<u8>, Vec<usize>) {
        let (mut journal, entries) = open(path, Start::Anew).unwrap();
        assert!(entries.is_empty());
        let ends = ENTRIES.map(|(value, payload)| {
            let (first, second) = payload.split_at(payload.len() / 2);
            journal.append(&value, &[first, second]).unwrap() + payload.len()
        });
        journal.flush().unwrap();
        (fs::read(path).unwrap(), ends.to_vec())
    }

    fn values(entries: &[Entry<f64>]) -> Vec<u64> {
        entries.iter().map(|entry| entry.value.to_bits()).collect()
    }

    fn expected(entries: usize) -> Vec<u64> {
        ENTRIES[..entries].iter().map(|(value, _)| value.to_bits()).collect()
    }

    #[test]
    fn discarding_tells_whether_work_was_lost() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.rounding");
        assert!(!discard(&path).unwrap(), "there is nothing");
        written(&path);
        assert!(discard(&path).unwrap() && !path.exists());
        let (empty, _) = open(&path, Start::Anew).unwrap();
        let message = discard(&path).unwrap_err().to_string();
        assert!(message.contains("another run is writing it") && path.exists(), "{message}");
        drop(empty);
        assert!(!discard(&path).unwrap() && !path.exists(), "a header alone is no work");
        fs::write(&path, "a letter").unwrap();
        assert!(discard(&path).unwrap() && !path.exists());
    }

    #[test]
    fn resume_after_a_cut_at_every_byte() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.rounding");
        let (whole, ends) = written(&path);
        for length in (0..=whole.len()).rev() {
            fs::write(&path, &whole[..length]).unwrap();
            let done = ends.iter().filter(|end| **end <= length).count();
            let (mut journal, entries) = open(&path, Start::Resumed).unwrap();
            assert_eq!(values(&entries), expected(done), "{length}");
            for (entry, (_, payload)) in entries.iter().zip(ENTRIES) {
                assert_eq!(&whole[entry.start..entry.start + payload.len()], payload);
            }
            for (value, payload) in &ENTRIES[done..] {
                journal.append(value, &[payload]).unwrap();
            }
            journal.flush().unwrap();
            assert!(fs::read(&path).unwrap() == whole, "{length}");
        }
    }

    #[test]
    fn a_flipped_byte_is_never_taken_for_an_entry() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.rounding");
        let (whole, ends) = written(&path);
        for (index, bit) in (0..whole.len()).flat_map(|index| [(index, 1), (index, 4), (index, 0x80)]) {
            let mut damaged = whole.clone();
            damaged[index] ^= bit;
            fs::write(&path, &damaged).unwrap();
            let before = ends.iter().filter(|end| **end <= index).count();
            match open(&path, Start::Resumed) {
                // Digits past the last that count may differ.
                Ok((_, entries)) => {
                    assert!(entries.len() >= before, "{index}");
                    assert_eq!(values(&entries), expected(entries.len()), "{index}");
                }
                Err(error) => {
                    assert!(error.hint_text().unwrap().contains("`overwrite`"), "{error}");
                    assert!(fs::read(&path).unwrap() == damaged);
                }
            }
        }
        let flip = |index: usize| {
            let mut damaged = whole.clone();
            damaged[index] ^= 1;
            fs::write(&path, damaged).unwrap();
        };
        flip(ends[0] - 1);
        for error in [
            open(&path, Start::Resumed).unwrap_err(),
            Journal::has_unfinished(&path, Some(&header(4))).unwrap_err(),
        ] {
            assert!(
                error.to_string().contains("out.rounding: damaged: its SHA-256 is not the one"),
                "{error}"
            );
        }
        flip(ends[0] + 3);
        assert!(Journal::has_unfinished(&path, Some(&header(4))).unwrap());
        let (journal, entries) = open(&path, Start::Resumed).unwrap();
        assert_eq!(values(&entries), expected(1));
        assert!(journal.damage_note().unwrap().contains("out.rounding is damaged"));
        drop(journal);
        assert!(fs::read(&path).unwrap() == whole[..ends[0]], "what is damaged is cut off");
        assert!(open(&path, Start::Resumed).unwrap().0.damage_note().is_none());
    }

    #[test]
    fn other_settings_are_named_with_both_values() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.rounding");
        let (whole, _) = written(&path);
        let now = header(5).with("the text", "0123456789abcdef".repeat(4));
        let error = Journal::open::<f64>(&path, &now, Start::Resumed).unwrap_err();
        let expected = "with other settings: setting `samples` was 4, now it is 5; the text was t, now it is 0123456789ab";
        assert!(error.to_string().ends_with(expected), "{error}");
        assert_eq!(error.hint_text(), Some(&*format!("repeat the command as it was; {ANEW}")));
        assert!(Journal::has_unfinished(&path, Some(&now)).is_err());
        assert!(fs::read(&path).unwrap() == whole);
        assert!(open(&path, Start::Anew).unwrap().1.is_empty());
    }

    #[test]
    fn another_model_is_named_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.rounding");
        let of_model = |samples, model| header(samples).with(MODEL, model);
        Journal::open::<f64>(&path, &of_model(4, "a"), Start::Anew).unwrap();
        let error = Journal::open::<f64>(&path, &of_model(5, "b"), Start::Resumed).unwrap_err();
        let expected = "was begun with another model: the model was a, now it is b";
        assert!(error.to_string().ends_with(expected), "{error}");
        assert!(error.hint_text().unwrap().starts_with("give that model, or"), "{error:?}");
    }

    #[test]
    fn other_kinds_and_other_files_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.partial");
        written(&path);
        let other = Header::new("measurement");
        let error = Journal::open::<f64>(&path, &other, Start::Resumed).unwrap_err().to_string();
        assert!(error.ends_with("holds an unfinished rounding, not a measurement"), "{error}");
        for text in ["something else\n", "none", "{\"mixbit\":\"0.1\"}\n{}\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(Journal::peek(&path), None);
            assert!(Journal::has_unfinished(&path, None).unwrap());
            assert!(Journal::has_unfinished(&path, Some(&header(4))).is_err());
            let error = open(&path, Start::Resumed).unwrap_err();
            assert!(error.to_string().ends_with("does not begin like an unfinished rounding"), "{error}");
            assert_eq!((error.hint_text(), &*fs::read_to_string(&path).unwrap()), (Some(ANEW), text));
        }
        assert!(open(&path, Start::Anew).unwrap().1.is_empty());
        assert!(Journal::open::<f64>(home.path(), &header(4), Start::Anew).is_err());
    }

    #[test]
    fn a_journal_is_written_by_one_run_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.rounding");
        let (journal, _) = open(&path, Start::Anew).unwrap();
        let errors = [
            open(&path, Start::Anew).unwrap_err(),
            open(&path, Start::Resumed).unwrap_err(),
            Journal::has_unfinished(&path, None).unwrap_err(),
            Journal::read::<f64>(&path, &header(4)).unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().ends_with("another run is writing it"), "{error}");
        }
        journal.finish();
        assert!(!path.exists());
    }

    #[test]
    fn only_entries_are_unfinished_work() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.rounding");
        assert!(!Journal::has_unfinished(&path, Some(&header(4))).unwrap());
        let (mut journal, _) = open(&path, Start::Resumed).unwrap();
        let error = journal.with_resume_hint(Error::interrupted(), "layer");
        journal.remove_if_empty();
        assert!(error.hint_text().is_none() && !path.exists());
        drop(journal);
        (journal, _) = open(&path, Start::Anew).unwrap();
        drop(journal);
        assert!(!Journal::has_unfinished(&path, None).unwrap());
        (journal, _) = open(&path, Start::Resumed).unwrap();
        journal.append(&1.0, &[]).unwrap();
        journal.flush().unwrap();
        let error = journal.with_resume_hint(Error::interrupted(), "layer");
        assert!(error.hint_text().unwrap().ends_with("resumes after 1 layer"));
        drop(journal);
        let complete = header(4).with("bits", "b");
        assert!(Journal::has_unfinished(&path, Some(&header(4))).unwrap());
        assert!(Journal::has_unfinished(&path, Some(&complete)).is_err());
        assert_eq!(Journal::peek(&path), Some(header(4)));
    }

    #[test]
    fn a_replaced_entry_comes_back_whole_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.partial");
        assert!(Journal::read::<f64>(&path, &header(4)).unwrap().is_none());
        for value in 0..9 {
            Journal::replace(&path, &header(4), &f64::from(value), &[b"a", b"bc"]).unwrap();
        }
        assert_eq!(Journal::read(&path, &header(4)).unwrap(), Some((8.0, b"abc".to_vec())));
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        assert!(Journal::read::<f64>(&path, &header(5)).is_err());
        let whole = fs::read(&path).unwrap();
        for index in 0..whole.len() {
            fs::write(&path, &whole[..index]).unwrap();
            assert!(Journal::read::<f64>(&path, &header(4)).is_err(), "{index}");
            let mut damaged = whole.clone();
            damaged[index] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert!(Journal::read::<f64>(&path, &header(4)).is_err(), "{index}");
        }
    }
}
