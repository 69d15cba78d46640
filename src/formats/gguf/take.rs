//! Tensors of a GGUF as those of a checkpoint.

use std::sync::Arc;

use super::codes::Blocks;
use super::rows::Rows;
use crate::error::{Error, Result};
use crate::files::gguf::architecture::{Architecture, Change};
use crate::files::gguf::kind::Kind;
use crate::files::gguf::{Fate, Gguf, Place, Shard};
use crate::formats::backing::{Backing, Made, WeightFile};
use crate::formats::checkpoint::Checkpoint;
use crate::formats::entry::Entry;
use crate::formats::forms;
use crate::formats::forms::Origin;
use crate::formats::gather::Gather;
use crate::formats::stored::Stored;
use crate::numerics::dtype::Dtype;

/// Matrices that are no linear layers, or that stay float in all models of MLX.
const FLOATS: [&str; 3] = ["position_embd.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight"];

/// Adds the tensors of `gguf` to `checkpoint`, under mlx-lm's names.
///
/// # Errors
/// Fails if the architecture or one of its tensors is not known, or a tensor cannot be what its name says.
pub(crate) fn take(checkpoint: &mut Checkpoint, gguf: &Gguf) -> Result<()> {
    let architecture = Architecture::of(gguf)?;
    let mut bytes = 0;
    for shard in gguf.shards() {
        let file = WeightFile {
            path: shard.path.clone(),
            bytes: Backing::Mapped(shard.map.clone()),
            checksums: Vec::new(),
        };
        let source = Source { shard, file: Arc::new(file), number: checkpoint.files.len() };
        checkpoint.files.push(Arc::clone(&source.file));
        for place in &shard.tensors {
            bytes += (place.end - place.start) as u64;
            match architecture.fate(&place.name) {
                Fate::Named(name) => {
                    source.add(checkpoint, place, name, architecture.change(gguf, &place.name)?)?;
                }
                Fate::Dropped => {}
                Fate::Unknown => {
                    return Err(source.error(place, "is not known in this architecture").hint(
                        "leaving it out would change the model; adapters and added heads are not read",
                    ));
                }
            }
        }
    }
    checkpoint.stored_bytes = Some(bytes);
    checkpoint.notes.extend(architecture.assumptions(gguf)?);
    Ok(())
}

/// File whose tensors are added.
struct Source<'a> {
    shard: &'a Shard,
    file: Arc<WeightFile>,
    /// Number of the file in the checkpoint.
    number: usize,
}

impl Source<'_> {
    fn error(&self, place: &Place, message: impl Into<String>) -> Error {
        Error::tensor(&self.shard.path, &place.name, message)
    }

    /// Adds the tensor at `place` under `name`, without the `change` that was made to it.
    fn add(&self, checkpoint: &mut Checkpoint, place: &Place, name: String, change: Change) -> Result<()> {
        let interleaved = match change {
            Change::Interleaved(heads) => Some(self.rows_of_head(place, heads)?),
            _ => None,
        };
        let Some(dtype) = float(place.kind) else {
            return self.add_blocks(checkpoint, place, &name, interleaved);
        };
        // llama.cpp stores the single row of a gate as a vector.
        let shape = match place.shape[..] {
            [width] if name.ends_with(".shared_expert_gate.weight") => vec![1, width],
            _ => place.shape.clone(),
        };
        let mut entry = Entry::new(self.number, dtype, shape, [place.start, place.end]);
        if let Change::Added(shift) = change {
            self.subtract(place, &mut entry, shift)?;
        }
        if interleaved.is_some() {
            let size = dtype.size();
            // The values of a vector are rows.
            let bytes = if place.shape.len() == 1 { size } else { place.row_bytes() };
            let rows =
                Rows { stored: Stored::new(&place.name, entry.clone(), &self.file), bytes, interleaved };
            let file = checkpoint.add_made(&self.shard.path, Made { row_bytes: bytes, rows: Box::new(rows) });
            entry = Entry::new(file, dtype, entry.shape, [0, entry.each]);
        }
        entry.parts.push(place.name.clone());
        checkpoint.insert(name, entry)
    }

    fn rows_of_head(&self, place: &Place, heads: usize) -> Result<usize> {
        let rows = if place.shape.len() == 1 { place.shape[0] } else { place.shape[place.shape.len() - 2] };
        if place.shape.len() > 2 || !rows.is_multiple_of(2 * heads) {
            return Err(self
                .error(place, format!("shape {:?} holds no {heads} heads of an even size", place.shape))
                .hint("the file's metadata and tensors do not belong together"));
        }
        Ok(rows / heads)
    }

    /// Makes the values of a norm those without `shift`.
    fn subtract(&self, place: &Place, entry: &mut Entry, shift: f32) -> Result<()> {
        let &[columns] = &entry.shape[..] else {
            return Err(self.error(place, format!("shape {:?}, expected a vector", place.shape)));
        };
        let stored = entry.dtype;
        let gather = Gather { stored, columns, strides: [0, 1], change: Some([1.0, -shift]) };
        *entry = Entry {
            dtype: gather.dtype(),
            each: columns * gather.dtype().size(),
            gather: Some(gather),
            ..entry.clone()
        };
        Ok(())
    }

    fn add_blocks(
        &self,
        checkpoint: &mut Checkpoint,
        place: &Place,
        name: &str,
        interleaved: Option<usize>,
    ) -> Result<()> {
        let bytes = place.row_bytes();
        let (columns, leading) =
            place.shape.split_last().map_or((1, &[][..]), |(last, leading)| (*last, leading));
        let Some(weight) = name.strip_suffix(".weight") else {
            return Err(self.error(place, format!("is of type {}, expected floats", place.kind.name())));
        };
        let stored = [leading, &[bytes]].concat();
        let entry = Entry::new(self.number, Dtype::U8, stored, [place.start, place.end]);
        let rows = Rows { stored: Stored::new(&place.name, entry, &self.file), bytes, interleaved };
        let stays = !leading.is_empty() && !FLOATS.iter().any(|end| place.name.ends_with(end));
        let layer = Blocks { rows, kind: place.kind, columns }.layer(place.shape.clone(), stays);
        let origin = Origin { name: place.name.clone(), path: self.shard.path.clone() };
        let names = forms::Place::of(weight, false);
        let parts = checkpoint.parts_of_layer(&names, &origin, place.end - place.start, layer);
        parts.into_iter().try_for_each(|(name, entry)| checkpoint.insert(name, entry))
    }
}

/// Returns the type of floats that stand for themselves.
fn float(kind: Kind) -> Option<Dtype> {
    match kind {
        Kind::F32 => Some(Dtype::F32),
        Kind::F16 => Some(Dtype::F16),
        Kind::BF16 => Some(Dtype::BF16),
        _ => None,
    }
}
