//! Tensors whose values are made of those of a stored one: other order, a part, other numbers. Nothing is computed before it is
//! read, and what lies in its file as it is wanted stays there.

use std::fmt::Write as _;
use std::ops::Range;

use crate::formats::entry::{Entry, Piece};
use crate::formats::gather::Gather;

/// Tensor that is made of a stored one.
#[derive(Debug, Clone, PartialEq)]
pub struct Derived {
    /// mlx-lm's name.
    pub name: String,
    /// Steps from the stored tensor to this one.
    pub steps: Vec<Step>,
}

/// Step from a stored tensor to the one that mlx-lm has. Rows are those of each matrix, where several lie one after the other;
/// the values of a vector are rows.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Rows become columns, in each matrix.
    Transposed,
    /// A range of rows.
    Rows(Range<usize>),
    /// The rows of one of several matrices of one shape that lie one above the other.
    Share {
        /// Number of the matrix.
        index: usize,
        /// Number of matrices.
        of: usize,
    },
    /// Every so many rows, one is taken.
    Every {
        /// Distance of the rows.
        step: usize,
        /// The first of them.
        first: usize,
    },
    /// Matrices of one shape that lie one above the other become a stack of as many as the tensor of this name has rows.
    StackedAs(String),
    /// The values in row-major order get this shape.
    Reshaped(Vec<usize>),
    /// Axes of size 1 are left out of the shape.
    Squeezed,
    /// Values are multiplied by this.
    Times(f32),
    /// This is added to the values.
    Plus(f32),
}

impl Derived {
    /// Makes the tensor `name` by `steps`.
    pub fn new(name: String, steps: impl Into<Vec<Step>>) -> Self {
        Self { name, steps: steps.into() }
    }

    /// Returns the place of this tensor in that of the stored one, which is called `stored`. `rows_of` counts the rows of
    /// another stored tensor.
    ///
    /// # Errors
    ///
    /// A text where the stored tensor does not have the shape or the type for a step.
    pub(crate) fn entry(
        &self,
        stored: &str,
        entry: &Entry,
        rows_of: impl Fn(&str) -> Option<usize>,
    ) -> Result<Entry, String> {
        let [piece] = entry.pieces[..] else { return Err("is made of several tensors".to_owned()) };
        let mut view = View::new(entry);
        self.steps.iter().try_for_each(|step| match step {
            Step::StackedAs(other) => {
                let count = rows_of(other).ok_or_else(|| format!("cannot be split: `{other}` is missing"))?;
                view.stack(count)
            }
            step => view.apply(step),
        })?;
        if view.shape.contains(&0) {
            return Err(format!("shape {:?} has no values", entry.shape));
        }
        Ok(view.entry(stored, entry, piece))
    }
}

/// Elements of a stored tensor by their indices.
struct View {
    is_float: bool,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
    change: Option<[f32; 2]>,
    is_transposed: bool,
    /// First row and distance of rows, where a part of them is taken.
    part: Option<[usize; 2]>,
}

impl View {
    fn new(entry: &Entry) -> Self {
        Self {
            is_float: entry.dtype.is_float(),
            offset: 0,
            strides: strides(&entry.shape),
            shape: entry.shape.clone(),
            change: None,
            is_transposed: false,
            part: None,
        }
    }

    fn apply(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Rows(ref rows) => self.take(rows.start, 1, rows.len()),
            Step::Share { index, of } => {
                let rows = self.rows()?;
                if !rows.is_multiple_of(of) {
                    return Err(format!("{rows} rows hold no {of} matrices of one shape"));
                }
                self.take(index * (rows / of), 1, rows / of)
            }
            Step::Every { step, first } => {
                let rows = self.rows()?;
                self.take(first, step, rows.saturating_sub(first).div_ceil(step))
            }
            Step::Transposed => self.transpose(),
            Step::Squeezed => {
                let sizes = self.shape.iter().zip(&self.strides).filter(|(size, _)| **size != 1);
                (self.shape, self.strides) = sizes.map(|(&size, &stride)| (size, stride)).unzip();
                Ok(())
            }
            Step::StackedAs(ref other) => Err(format!("cannot be split: `{other}` is not known")),
            Step::Reshaped(ref shape) => {
                if !is_contiguous(&self.shape, &self.strides)
                    || shape.iter().product::<usize>() != self.shape.iter().product::<usize>()
                {
                    return Err(format!("shape {:?} cannot become {shape:?}", self.shape));
                }
                (self.shape, self.strides) = (shape.clone(), strides(shape));
                Ok(())
            }
            Step::Times(factor) => self.change(|[times, plus]| [times * factor, plus * factor]),
            Step::Plus(shift) => self.change(|[times, plus]| [times, plus + shift]),
        }
    }

    /// Makes a stack of `count` matrices of the rows.
    fn stack(&mut self, count: usize) -> Result<(), String> {
        let [rows, columns] = self.shape[..] else {
            return Err(format!("shape {:?} is no matrix", self.shape));
        };
        if count == 0 || !rows.is_multiple_of(count) {
            return Err(format!("{rows} rows hold no {count} matrices of one shape"));
        }
        self.apply(&Step::Reshaped(vec![count, rows / count, columns]))
    }

    fn row_axis(&self) -> Result<usize, String> {
        let axes = self.shape.len();
        if axes == 0 { Err("is a single number, and has no rows".to_owned()) } else { Ok(axes.max(2) - 2) }
    }

    fn rows(&self) -> Result<usize, String> {
        Ok(self.shape[self.row_axis()?])
    }

    /// Takes `count` rows, every `step`-th from `first` on.
    fn take(&mut self, first: usize, step: usize, count: usize) -> Result<(), String> {
        let axis = self.row_axis()?;
        let rows = self.shape[axis];
        if count > 0 && first + (count - 1) * step >= rows {
            return Err(format!("has {rows} rows, expected {}", first + (count - 1) * step + 1));
        }
        let [before, distance] = self.part.unwrap_or([0, 1]);
        self.part = Some([before + first * distance, distance * step]);
        self.offset += first * self.strides[axis];
        self.shape[axis] = count;
        self.strides[axis] *= step;
        Ok(())
    }

    fn transpose(&mut self) -> Result<(), String> {
        let axes = self.shape.len();
        if axes < 2 {
            return Err(format!("shape {:?} is no matrix", self.shape));
        }
        if !self.is_float {
            return Err("holds packed integers, which cannot be transposed".to_owned());
        }
        self.shape.swap(axes - 2, axes - 1);
        self.strides.swap(axes - 2, axes - 1);
        self.is_transposed = true;
        Ok(())
    }

    fn change(&mut self, change: impl Fn([f32; 2]) -> [f32; 2]) -> Result<(), String> {
        if !self.is_float {
            return Err("holds packed integers, which cannot be changed".to_owned());
        }
        self.change = Some(change(self.change.unwrap_or([1.0, 0.0])));
        Ok(())
    }

    /// Makes the entry: one piece where the values lie one after the other, else one per matrix.
    fn entry(self, stored: &str, entry: &Entry, piece: Piece) -> Entry {
        let size = entry.dtype.size();
        let label = self.label(stored);
        let at = |offset: usize| Piece { start: piece.start + (self.offset + offset) * size, ..piece };
        let count = self.shape.iter().product::<usize>();
        if self.change.is_none() && is_contiguous(&self.shape, &self.strides) {
            return Entry {
                dtype: entry.dtype,
                pieces: vec![at(0)],
                each: count * size,
                parts: vec![label(&[])],
                shape: self.shape,
                gather: None,
                incoming: entry.incoming,
            };
        }
        let outer = self.shape.len().saturating_sub(2);
        let (rows, inner) = (&self.shape[outer..], &self.strides[outer..]);
        let gather = Gather {
            stored: entry.dtype,
            columns: rows.last().copied().unwrap_or(1),
            strides: match *inner {
                [row, column] => [row, column],
                [value] => [0, value],
                _ => [0, 0],
            },
            change: self.change,
        };
        let is_plain = self.change.is_none() && is_contiguous(rows, inner);
        let indices = indices(&self.shape[..outer]);
        let offset = |index: &Vec<usize>| index.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum();
        Entry {
            dtype: gather.dtype(),
            pieces: indices.iter().map(|index| at(offset(index))).collect(),
            each: rows.iter().product::<usize>() * gather.dtype().size(),
            parts: indices.iter().map(|index| label(index)).collect(),
            gather: (!is_plain).then_some(gather),
            shape: self.shape,
            incoming: entry.incoming,
        }
    }

    /// Returns the names of matrices as NumPy would call them, by their indices.
    fn label(&self, stored: &str) -> impl Fn(&[usize]) -> String + use<> {
        let whole = format!("{stored}{}", if self.is_transposed { ".T" } else { "" });
        let rows = self.part.map(|[first, step]| {
            let rows = self.rows().unwrap_or(0);
            let end = first + rows.saturating_sub(1) * step + 1;
            if step == 1 { format!("{first}:{end}") } else { format!("{first}:{end}:{step}") }
        });
        move |index| {
            let numbers = index.iter().map(ToString::to_string).chain(rows.clone());
            let numbers: Vec<String> = numbers.collect();
            let mut name = whole.clone();
            if !numbers.is_empty() {
                // Writing to a string does not fail.
                let _ = write!(name, "[{}]", numbers.join(", "));
            }
            name
        }
    }
}

/// Returns the elements from an index to the next of each axis, where the last axis is innermost.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// True if the values of `shape` lie one after the other.
fn is_contiguous(shape: &[usize], actual: &[usize]) -> bool {
    let expected = strides(shape);
    shape
        .iter()
        .zip(actual.iter().zip(&expected))
        .all(|(&size, (actual, expected))| size == 1 || actual == expected)
}

/// Returns all indices of `shape`, the last axis innermost.
fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let longer = |index: &Vec<usize>, size: usize| -> Vec<Vec<usize>> {
        (0..size).map(|next| [&index[..], &[next]].concat()).collect()
    };
    let begin = vec![Vec::new()];
    shape.iter().fold(begin, |indices, &size| indices.iter().flat_map(|index| longer(index, size)).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::formats::checkpoint::Checkpoint;
    use crate::numerics::dtype::{Dtype, extend_f32};

    /// Opens a safetensors file with a tensor `x` of the numbers from 0 on.
    fn numbers(dtype: Dtype, shape: &[usize]) -> (tempfile::TempDir, Checkpoint) {
        let count = shape.iter().product::<usize>();
        let mut data = Vec::new();
        match dtype {
            Dtype::U32 => data.extend((0..count as u32).flat_map(u32::to_le_bytes)),
            _ => crate::numerics::dtype::push_f32(
                &(0..count).map(|i| i as f32).collect::<Vec<_>>(),
                dtype,
                &mut data,
            ),
        }
        let header = serde_json::json!({"x": {"dtype": dtype.safetensors(), "shape": shape,
            "data_offsets": [0, data.len()]}})
        .to_string();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.write_all(&data).unwrap();
        drop(file);
        let checkpoint = Checkpoint::open(&path).unwrap();
        (folder, checkpoint)
    }

    /// Shape, values and parts of a tensor.
    type Found = (Vec<usize>, Vec<f32>, Vec<String>);

    /// Derives `y` from a tensor of `shape`, and reads it in pieces of several sizes.
    fn derive(dtype: Dtype, shape: &[usize], steps: &[Step]) -> Result<Found, String> {
        let (_folder, mut checkpoint) = numbers(dtype, shape);
        let entry = Derived::new("y".to_owned(), steps).entry("x", &checkpoint.entries["x"], rows_of)?;
        let parts = entry.parts.clone();
        checkpoint.entries.insert("y".to_owned(), entry);
        let tensor = checkpoint.get("y").unwrap();
        let whole = tensor.bytes();
        assert_eq!(whole.len(), tensor.byte_len());
        for chunk in [1, 3, 8, 12] {
            let starts = (0..whole.len()).step_by(chunk);
            let pieces = starts.map(|start| tensor.slice(start, (start + chunk).min(whole.len())));
            assert_eq!(pieces.collect::<Vec<_>>().concat(), &whole[..], "{chunk}");
        }
        let mut values = Vec::new();
        extend_f32(tensor.dtype, &whole, &mut values);
        Ok((tensor.shape.to_vec(), values, parts))
    }

    /// Rows of other tensors: there is one of two.
    fn rows_of(other: &str) -> Option<usize> {
        (other == "two").then_some(2)
    }

    #[test]
    fn rows_become_as_many_matrices_as_another_has() {
        let two = || Step::StackedAs("two".to_owned());
        let (shape, values, parts) = derive(Dtype::F32, &[4, 2], &[two(), Step::Transposed]).unwrap();
        assert_eq!((shape, values), (vec![2, 2, 2], vec![0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]));
        assert_eq!(parts, ["x.T[0]", "x.T[1]"]);
        let message = derive(Dtype::F32, &[3, 2], &[two()]).unwrap_err();
        assert!(message.contains("3 rows hold no 2 matrices"), "{message}");
        let message = derive(Dtype::F32, &[4, 2], &[Step::StackedAs("none".to_owned())]).unwrap_err();
        assert!(message.contains("`none` is missing"), "{message}");
    }

    #[test]
    fn matrices_are_transposed() {
        for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
            let (shape, values, parts) = derive(dtype, &[2, 3], &[Step::Transposed]).unwrap();
            assert_eq!((shape, values), (vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
            assert_eq!(parts, ["x.T"]);
        }
        let (shape, values, parts) = derive(Dtype::F32, &[2, 2, 2], &[Step::Transposed]).unwrap();
        assert_eq!((shape, values), (vec![2, 2, 2], vec![0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]));
        assert_eq!(parts, ["x.T[0]", "x.T[1]"]);
    }

    #[test]
    fn wide_matrices_are_read_in_bands() {
        let (rows, columns) = (300, 4000);
        let values = derive_whole(&[rows, columns], Step::Transposed);
        let expected = (0..columns).flat_map(|c| (0..rows).map(move |r| (r * columns + c) as f32));
        assert!(values.into_iter().eq(expected));
    }

    #[test]
    fn long_vectors_are_read_in_parts() {
        let count = 700_001;
        let values = derive_whole(&[count], Step::Plus(1.0));
        assert!(values.into_iter().eq((0..count).map(|i| i as f32 + 1.0)));
    }

    /// Derives a tensor by `step`, and reads it in small pieces.
    fn derive_whole(shape: &[usize], step: Step) -> Vec<f32> {
        let (_folder, mut checkpoint) = numbers(Dtype::F32, shape);
        let entry =
            Derived::new("y".to_owned(), [step]).entry("x", &checkpoint.entries["x"], |_| None).unwrap();
        checkpoint.entries.insert("y".to_owned(), entry);
        let tensor = checkpoint.get("y").unwrap();
        let mut values = Vec::new();
        let step = 4 * 1000;
        for start in (0..tensor.byte_len()).step_by(step) {
            extend_f32(Dtype::F32, &tensor.slice(start, (start + step).min(tensor.byte_len())), &mut values);
        }
        values
    }

    #[test]
    fn rows_are_taken() {
        let of = |steps: &[Step]| derive(Dtype::BF16, &[4, 2], steps).unwrap();
        let (shape, values, parts) = of(&[Step::Rows(1..3)]);
        assert_eq!((shape, values), (vec![2, 2], vec![2.0, 3.0, 4.0, 5.0]));
        assert_eq!(parts, ["x[1:3]"]);
        assert_eq!(of(&[Step::Share { index: 1, of: 2 }]).1, [4.0, 5.0, 6.0, 7.0]);
        let (shape, values, parts) = of(&[Step::Every { step: 2, first: 1 }]);
        assert_eq!((shape, values), (vec![2, 2], vec![2.0, 3.0, 6.0, 7.0]));
        assert_eq!(parts, ["x[1:4:2]"]);
        let steps = [Step::Transposed, Step::Share { index: 1, of: 2 }];
        let (shape, values, parts) = derive(Dtype::F32, &[2, 2, 4], &steps).unwrap();
        assert_eq!((shape, values), (vec![2, 2, 2], vec![2.0, 6.0, 3.0, 7.0, 10.0, 14.0, 11.0, 15.0]));
        assert_eq!(parts, ["x.T[0, 2:4]", "x.T[1, 2:4]"]);
        assert_eq!(derive(Dtype::F16, &[6], &[Step::Every { step: 3, first: 0 }]).unwrap().1, [0.0, 3.0]);
        assert_eq!(
            derive(Dtype::U32, &[4, 2], &[Step::Rows(0..1)]).unwrap().1,
            [0.0, 1.0],
            "codes have rows"
        );
    }

    #[test]
    fn what_lies_in_order_stays_mapped() {
        let (_folder, checkpoint) = numbers(Dtype::F32, &[2, 4, 2]);
        let entry = |steps: &[Step]| {
            Derived::new("y".to_owned(), steps).entry("x", &checkpoint.entries["x"], |_| None).unwrap()
        };
        for steps in [
            &[Step::Share { index: 1, of: 2 }][..],
            &[Step::Squeezed],
            &[Step::Reshaped(vec![4, 1, 4]), Step::Squeezed],
        ] {
            assert_eq!(entry(steps).gather, None, "{steps:?}");
        }
        assert_eq!(entry(&[Step::Share { index: 1, of: 2 }]).pieces.len(), 2);
        assert!(entry(&[Step::Every { step: 2, first: 0 }]).gather.is_some());
    }

    #[test]
    fn values_are_changed_in_float32() {
        let steps = [Step::Times(0.5), Step::Plus(1.0)];
        let (shape, values, _) = derive(Dtype::BF16, &[3], &steps).unwrap();
        assert_eq!((shape, values), (vec![3], vec![1.0, 1.5, 2.0]));
        let (shape, values, _) = derive(Dtype::F32, &[2, 2], &[Step::Transposed, Step::Plus(1.0)]).unwrap();
        assert_eq!((shape, values), (vec![2, 2], vec![1.0, 3.0, 2.0, 4.0]));
        let (shape, values, _) = derive(Dtype::F32, &[1], &[Step::Squeezed]).unwrap();
        assert_eq!((shape, values), (Vec::new(), vec![0.0]));
    }

    #[test]
    fn steps_that_do_not_fit_are_errors() {
        for (dtype, shape, step, expected) in [
            (Dtype::U32, &[2, 2][..], Step::Transposed, "cannot be transposed"),
            (Dtype::U32, &[2, 2], Step::Plus(1.0), "cannot be changed"),
            (Dtype::F32, &[2], Step::Transposed, "is no matrix"),
            (Dtype::F32, &[], Step::Rows(0..1), "has no rows"),
            (Dtype::F32, &[3, 2], Step::Share { index: 0, of: 2 }, "hold no 2 matrices"),
            (Dtype::F32, &[3, 2], Step::Rows(1..4), "has 3 rows, expected 4"),
            (Dtype::F32, &[0, 2], Step::Transposed, "has no values"),
            (Dtype::F32, &[3, 2], Step::Reshaped(vec![4]), "cannot become [4]"),
        ] {
            let message = derive(dtype, shape, &[step]).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
