//! Hidden states that wait for their turn: in memory up to a limit, past it in a temporary file.

use mlx_rs::Array;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use crate::engine::array::{as_slice, from_vec, mlx_dtype};
use crate::error::{Error, Result};
use crate::numerics::dtype::Dtype;

/// Puts hidden states away and gives them back, in float32 on the disk and as they are in memory.
#[derive(Debug)]
pub(crate) struct Store {
    dtype: Dtype,
    limit: usize,
    held: Cell<usize>,
    spilled: RefCell<Option<Spilled>>,
}

#[derive(Debug)]
struct Spilled {
    file: File,
    length: u64,
    /// Offsets that were given back, with their lengths.
    free: Vec<(u64, u64)>,
}

impl Spilled {
    /// Where `length` bytes can be written.
    fn room(&mut self, length: u64) -> u64 {
        if let Some(index) = self.free.iter().position(|slot| slot.1 == length) {
            return self.free.swap_remove(index).0;
        }
        self.length += length;
        self.length - length
    }
}

/// One array that was put away.
#[derive(Debug)]
pub(crate) enum Kept {
    Memory(Array),
    Disk { offset: u64, sizes: Vec<usize> },
}

impl Store {
    /// For arrays of `dtype`; past `limit` bytes in memory they go to the system's folder of temporary files.
    pub(crate) fn new(dtype: Dtype, limit: u64) -> Self {
        Self {
            dtype,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            held: Cell::new(0),
            spilled: RefCell::new(None),
        }
    }

    /// Puts an evaluated array away.
    pub(crate) fn put(&self, array: Array) -> Result<Kept> {
        let bytes = array.nbytes();
        if self.held.get() + bytes <= self.limit {
            self.held.set(self.held.get() + bytes);
            return Ok(Kept::Memory(array));
        }
        let sizes = array.shape().iter().map(|&n| n as usize).collect();
        let array = array.as_dtype(mlx_rs::Dtype::Float32)?.contiguous()?;
        let values: &[u8] = bytemuck::cast_slice(as_slice(&array)?);
        let mut spilled = self.spilled.borrow_mut();
        let spilled = match &mut *spilled {
            Some(spilled) => spilled,
            none => none.insert(Spilled {
                file: tempfile::tempfile().map_err(no_room)?,
                length: 0,
                free: Vec::new(),
            }),
        };
        let offset = spilled.room(values.len() as u64);
        spilled.file.seek(SeekFrom::Start(offset)).map_err(no_room)?;
        spilled.file.write_all(values).map_err(no_room)?;
        Ok(Kept::Disk { offset, sizes })
    }

    /// A copy of what was put away.
    pub(crate) fn get(&self, kept: &Kept) -> Result<Array> {
        match kept {
            Kept::Memory(array) => Ok(array.clone()),
            Kept::Disk { offset, sizes } => {
                let mut values = vec![0.0f32; sizes.iter().product()];
                let mut spilled = self.spilled.borrow_mut();
                if let Some(Spilled { file, .. }) = &mut *spilled {
                    file.seek(SeekFrom::Start(*offset)).map_err(no_room)?;
                    file.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(no_room)?;
                }
                Ok(from_vec(values, sizes).as_dtype(mlx_dtype(self.dtype))?)
            }
        }
    }

    /// Gives back what was put away, for good.
    pub(crate) fn take(&self, kept: Kept) -> Result<Array> {
        let array = self.get(&kept)?;
        self.discard(kept);
        Ok(array)
    }

    /// Makes room: `kept` is not wanted any more.
    pub(crate) fn discard(&self, kept: Kept) {
        match kept {
            Kept::Memory(array) => self.held.set(self.held.get().saturating_sub(array.nbytes())),
            Kept::Disk { offset, sizes } => {
                let bytes = sizes.iter().product::<usize>() * size_of::<f32>();
                if let Some(spilled) = &mut *self.spilled.borrow_mut() {
                    spilled.free.push((offset, bytes as u64));
                }
            }
        }
    }
}

fn no_room(error: std::io::Error) -> Error {
    Error::io(std::env::temp_dir(), error)
        .hint("hidden states past --activation-memory go there: make room, set TMPDIR to another disk, or allow more memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::runtime::Engine;

    #[test]
    fn what_is_put_away_comes_back_from_memory_and_disk() {
        Engine::start().unwrap();
        let store = Store::new(Dtype::F32, 16);
        let array = |first: u8| from_vec((0..4).map(|i| f32::from(first + i)).collect(), &[1, 2, 2]);
        let kept: Vec<Kept> = (0..3).map(|i| store.put(array(10 * i)).unwrap()).collect();
        assert!(matches!(kept[0], Kept::Memory(_)) && matches!(kept[1], Kept::Disk { .. }));
        for (first, kept) in kept.into_iter().enumerate() {
            let back = store.take(kept).unwrap();
            assert_eq!(as_slice(&back).unwrap(), as_slice(&array(10 * first as u8)).unwrap());
        }
        store.put(array(1)).unwrap();
        assert!(matches!(store.put(array(2)).unwrap(), Kept::Disk { offset: 0 | 16, .. }));
        assert_eq!(store.spilled.borrow().as_ref().unwrap().length, 32, "given back room is used again");
    }
}
