//! Tensors of all experts written as those of each.

use crate::error::Result;
use crate::formats::writer::{OutputTensor, Produce, Sink};

/// Producer whose tensors may be written as several: the parts of a tensor along its first axis.
pub struct Apart<'a> {
    inner: Box<dyn Produce + 'a>,
    /// Tensors of `inner`, each with the number of its first part among the parts of all, and the bytes of a part.
    tensors: Vec<(usize, u64)>,
    parts: Vec<OutputTensor>,
}

impl<'a> Apart<'a> {
    /// Wraps `inner` if `names` gives names of parts to one of its tensors.
    pub fn of(
        inner: Box<dyn Produce + 'a>,
        names: impl Fn(&str) -> Option<Vec<String>>,
    ) -> Box<dyn Produce + 'a> {
        let outputs = inner.outputs();
        if outputs.iter().all(|output| names(&output.name).is_none()) {
            return inner;
        }
        let (mut tensors, mut parts) = (Vec::new(), Vec::new());
        for output in outputs {
            let first = parts.len();
            match names(&output.name) {
                Some(names) => parts.extend(names.into_iter().map(|name| {
                    let shape = output.shape.get(1..).unwrap_or_default().to_vec();
                    OutputTensor { name, shape, ..output }
                })),
                None => parts.push(output),
            }
            tensors.push((first, parts.get(first).map_or(1, OutputTensor::bytes).max(1)));
        }
        Box::new(Self { inner, tensors, parts })
    }
}

impl Produce for Apart<'_> {
    fn outputs(&self) -> Vec<OutputTensor> {
        self.parts.clone()
    }

    fn chunks(&self) -> usize {
        self.inner.chunks()
    }

    fn produce(&self, index: usize, sink: &mut Sink<'_>) -> Result<()> {
        self.inner.produce(index, &mut |output, offset, bytes| {
            let (first, each) = self.tensors[output];
            let (mut offset, mut bytes) = (offset, bytes);
            while !bytes.is_empty() {
                let (part, within) = ((offset / each) as usize, offset % each);
                let count = bytes.len().min((each - within) as usize);
                let (now, rest) = bytes.split_at(count);
                sink(first + part, within, now)?;
                (offset, bytes) = (offset + count as u64, rest);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::numerics::dtype::Dtype;

    /// Writes 24 bytes from 0 on, `STEP` at a time, as a tensor of three parts, and the same as a whole.
    struct Bytes;

    const STEP: usize = 5;

    impl Produce for Bytes {
        fn outputs(&self) -> Vec<OutputTensor> {
            let output =
                |name: &str| OutputTensor { name: name.to_owned(), dtype: Dtype::U8, shape: vec![3, 2, 4] };
            vec![output("whole"), output("split")]
        }

        fn chunks(&self) -> usize {
            24_usize.div_ceil(STEP)
        }

        fn produce(&self, index: usize, sink: &mut Sink<'_>) -> Result<()> {
            let (start, end) = (index * STEP, ((index + 1) * STEP).min(24));
            let bytes: Vec<u8> = (start as u8..end as u8).collect();
            sink(0, start as u64, &bytes)?;
            sink(1, start as u64, &bytes)
        }
    }

    #[test]
    fn parts_get_their_bytes_whatever_the_chunks() {
        let names = |name: &str| (name == "split").then(|| (0..3).map(|part| format!("{part}")).collect());
        let producer = Apart::of(Box::new(Bytes), names);
        let shapes: Vec<_> =
            producer.outputs().into_iter().map(|output| (output.name, output.shape)).collect();
        let part = |name: &str| (name.to_owned(), vec![2, 4]);
        assert_eq!(shapes, [("whole".to_owned(), vec![3, 2, 4]), part("0"), part("1"), part("2")]);
        let mut written = [vec![0; 24], vec![0; 8], vec![0; 8], vec![0; 8]];
        for index in 0..producer.chunks() {
            let mut write = |output: usize, offset: u64, bytes: &[u8]| {
                written[output][offset as usize..][..bytes.len()].copy_from_slice(bytes);
                Ok(())
            };
            producer.produce(index, &mut write).unwrap();
        }
        assert!(written[0].iter().copied().eq(0..24));
        assert!(written[1..].concat().into_iter().eq(0..24));
    }
}
