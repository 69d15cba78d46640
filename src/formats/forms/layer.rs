//! A layer as a form gives it.

use std::sync::Arc;

use super::condition::Condition;
use crate::formats::backing::Make;
use crate::formats::stored::Stored;
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::Quant;

/// Layer that was read from another tool's tensors.
pub(crate) struct Layer {
    /// Name of the form.
    pub(crate) form: &'static str,
    /// Sizes of the float weight.
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Values,
    pub(crate) conditions: Vec<Condition>,
}

/// Values of a layer.
pub(crate) enum Values {
    /// Rows of float32.
    Floats(Box<dyn Make>),
    /// A quantized layer of MLX with the same numbers: codes of 32 bits, scales, and biases in affine mode.
    Mlx { quant: Quant, codes: Part, scales: Part, biases: Option<Part> },
}

/// Tensor of a quantized layer.
pub(crate) enum Part {
    /// Bytes of a stored tensor, as they lie.
    Same(Box<Stored>),
    /// Rows that are made, of elements of this type.
    Made(Dtype, Box<dyn Make>),
}

/// Returns the widest group of MLX's affine mode that divides all `sizes`, where there is one.
pub(crate) fn affine_group(sizes: &[usize]) -> Option<u32> {
    let divides = |group: &u32| sizes.iter().all(|size| size.is_multiple_of(*group as usize));
    [128u32, 64, 32].into_iter().find(divides)
}

/// Shares what several parts of a layer are made of.
pub(crate) fn shared<T, M: Make + 'static>(of: &Arc<T>, make: impl Fn(Arc<T>) -> M) -> Box<dyn Make> {
    Box::new(make(Arc::clone(of)))
}
