//! Tensors of a model as its folder holds them: the decoder's under the wrapper's prefix, with those of towers beside them.

use super::apart::Apart;
use super::damage::Warnings;
use super::output::TowerFate;
use super::producers::CopyTensor;
use crate::error::Result;
use crate::formats::writer::{OutputTensor, Produce, Sink};
use crate::models::source::SourceModel;

/// Returns the `producers` of the decoder's tensors of `source` under the names that they have in its folder, and those of
/// its towers where they are written.
pub fn with_wrapper<'a>(
    source: &'a SourceModel,
    producers: Vec<Box<dyn Produce + 'a>>,
    towers: TowerFate,
    warnings: &'a Warnings,
) -> Vec<Box<dyn Produce + 'a>> {
    let prefix = source.prefix();
    let apart = |inner| Apart::of(inner, |name| source.spec().names_apart(name));
    let named = producers.into_iter().map(apart).map(|inner| match prefix {
        "" => inner,
        _ => Box::new(Prefixed { inner, prefix }) as Box<dyn Produce + 'a>,
    });
    named.chain(tower_producers(source, towers, warnings)).collect()
}

/// Returns producers of the tensors of the towers of `source` where they are written.
pub fn tower_producers<'a>(
    source: &'a SourceModel,
    fate: TowerFate,
    warnings: &'a Warnings,
) -> impl Iterator<Item = Box<dyn Produce + 'a>> {
    let tensors = source.tower_tensors().filter(move |_| fate == TowerFate::Written);
    tensors.map(|tensor| Box::new(CopyTensor::new(tensor, warnings)) as Box<dyn Produce>)
}

/// A producer whose tensors' names begin with a prefix.
struct Prefixed<'a> {
    inner: Box<dyn Produce + 'a>,
    prefix: &'static str,
}

impl Produce for Prefixed<'_> {
    fn outputs(&self) -> Vec<OutputTensor> {
        let outputs = self.inner.outputs().into_iter();
        outputs
            .map(|output| OutputTensor { name: format!("{}{}", self.prefix, output.name), ..output })
            .collect()
    }

    fn chunks(&self) -> usize {
        self.inner.chunks()
    }

    fn produce(&self, index: usize, sink: &mut Sink<'_>) -> Result<()> {
        self.inner.produce(index, sink)
    }
}
