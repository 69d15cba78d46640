//! Hidden states between blocks: in memory up to a limit, past it in a temporary file.

use mlx_rs::Array;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use crate::engine::array::{as_slice, from_vec, mlx_dtype};
use crate::error::{Error, Result};
use crate::numerics::dtype::Dtype;

/// Store of hidden states, in float32 on the disk and as computed in memory.
#[derive(Debug)]
pub(crate) struct HiddenStates {
    dtype: Dtype,
    limit: usize,
    held: Cell<usize>,
    spilled: RefCell<Option<Spilled>>,
}

#[derive(Debug)]
struct Spilled {
    file: File,
    length: u64,
    /// Offsets and lengths of free slots.
    free: Vec<(u64, u64)>,
}

impl Spilled {
    /// Returns the offset of a slot of `length` bytes.
    fn allocate(&mut self, length: u64) -> u64 {
        if let Some(index) = self.free.iter().position(|slot| slot.1 == length) {
            return self.free.swap_remove(index).0;
        }
        self.length += length;
        self.length - length
    }
}

/// Array in the store.
#[derive(Debug)]
pub(crate) enum StoredState {
    Memory(Array),
    Disk { offset: u64, sizes: Vec<usize> },
}

impl HiddenStates {
    /// Makes a store for arrays of `dtype`; past `limit` bytes in memory they go to the system's folder of temporary
    /// files.
    pub(crate) fn new(dtype: Dtype, limit: u64) -> Self {
        Self {
            dtype,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            held: Cell::new(0),
            spilled: RefCell::new(None),
        }
    }

    /// Stores an evaluated array.
    pub(crate) fn put(&self, array: Array) -> Result<StoredState> {
        let bytes = array.nbytes();
        if self.held.get() + bytes <= self.limit {
            self.held.set(self.held.get() + bytes);
            return Ok(StoredState::Memory(array));
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
        let offset = spilled.allocate(values.len() as u64);
        spilled.file.seek(SeekFrom::Start(offset)).map_err(no_room)?;
        spilled.file.write_all(values).map_err(no_room)?;
        Ok(StoredState::Disk { offset, sizes })
    }

    /// Returns a copy of a stored array.
    pub(crate) fn get(&self, state: &StoredState) -> Result<Array> {
        match state {
            StoredState::Memory(array) => Ok(array.clone()),
            StoredState::Disk { offset, sizes } => {
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

    /// Returns a stored array and frees its room.
    pub(crate) fn take(&self, state: StoredState) -> Result<Array> {
        let array = self.get(&state)?;
        self.discard(state);
        Ok(array)
    }

    /// Frees the room of a stored array.
    pub(crate) fn discard(&self, state: StoredState) {
        match state {
            StoredState::Memory(array) => self.held.set(self.held.get().saturating_sub(array.nbytes())),
            StoredState::Disk { offset, sizes } => {
                let bytes = sizes.iter().product::<usize>() * size_of::<f32>();
                if let Some(spilled) = &mut *self.spilled.borrow_mut() {
                    spilled.free.push((offset, bytes as u64));
                }
            }
        }
    }
}

fn no_room(error: std::io::Error) -> Error {
    let what_to_do = match error.kind() {
        std::io::ErrorKind::FileTooLarge => "raise the limit on a file's size (`ulimit -f`)",
        _ => "make room, set TMPDIR to another disk",
    };
    Error::io(std::env::temp_dir(), error).hint(format!(
        "hidden states past setting `activation_memory` go there: {what_to_do}, or allow more memory"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::runtime::Engine;

    #[test]
    fn states_come_back_from_memory_and_disk() {
        Engine::start().unwrap();
        let store = HiddenStates::new(Dtype::F32, 16);
        let array = |first: u8| from_vec((0..4).map(|i| f32::from(first + i)).collect(), &[1, 2, 2]);
        let states: Vec<StoredState> = (0..3).map(|i| store.put(array(10 * i)).unwrap()).collect();
        assert!(matches!(states[0], StoredState::Memory(_)));
        assert!(matches!(states[1], StoredState::Disk { .. }));
        for (first, state) in states.into_iter().enumerate() {
            let back = store.take(state).unwrap();
            assert_eq!(as_slice(&back).unwrap(), as_slice(&array(10 * first as u8)).unwrap());
        }
        store.put(array(1)).unwrap();
        assert!(matches!(store.put(array(2)).unwrap(), StoredState::Disk { offset: 0 | 16, .. }));
        assert_eq!(store.spilled.borrow().as_ref().unwrap().length, 32, "given back room is used again");
    }
}
