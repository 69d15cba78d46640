//! Steps of a fine-tuning, with looks between them.

use super::adam::Adam;
use super::progress::{LOOK_EVERY, Look, TuningRun};
use super::values::{Forms, State, Stored};
use crate::engine::decoder::load::{Tuned, Values};
use crate::error::Result;

/// Number of sequences per step.
const SEQUENCES_IN_BATCH: usize = 4;

/// Loss that a fine-tuning brings down, with its gradients.
pub trait Loss {
    /// Returns the number of sequences to learn from.
    fn sequences(&self) -> usize;

    /// Hands the gradients on the sequences `batch` to `observe`, in parts.
    fn gradients(&self, values: Tuned<'_>, batch: &[usize], observe: &mut dyn FnMut(&Values)) -> Result<()>;

    /// Measures the loss on text that is not learned from, with floats that are stored ones and the codes nearest to
    /// the latents.
    fn measure(&self, values: Tuned<'_>) -> Result<f64>;
}

/// Observer of a fine-tuning's steps, who tells of them and keeps them.
pub trait Watch {
    /// Is called after each step.
    fn stepped(&self);

    /// Is called after each look but the first, from which on a run can be resumed.
    fn looked(&self, run: &TuningRun, adam: &Adam) -> Result<()>;
}

impl TuningRun {
    /// Takes the steps that remain, and begins with a look where there was none.
    pub fn descend(
        &mut self,
        loss: &dyn Loss,
        forms: &Forms,
        adam: &mut Adam,
        watch: &dyn Watch,
    ) -> Result<()> {
        let stored = |state: &State| forms.stored(state);
        if self.looks.is_empty() {
            let value = loss.measure(self.state.tuned())?;
            self.look(Look { step: 0, loss: value }, stored);
        }
        while !self.is_over() {
            let to = (self.step() + LOOK_EVERY).min(self.settings().steps);
            let value = self.steps_to(to, loss, forms, adam, watch)?;
            self.look(Look { step: to, loss: value }, stored);
            watch.looked(self, adam)?;
        }
        Ok(())
    }

    /// Takes the steps up to `to`, and measures after them.
    fn steps_to(
        &mut self,
        to: usize,
        loss: &dyn Loss,
        forms: &Forms,
        adam: &mut Adam,
        watch: &dyn Watch,
    ) -> Result<f64> {
        for step in self.step()..to {
            crate::interrupt::check()?;
            let batch = self.settings().batch(step, SEQUENCES_IN_BATCH, loss.sequences());
            let observe = &mut |gradients: &Values| adam.observe(gradients);
            loss.gradients(self.state.tuned(), &batch, observe)?;
            adam.apply(step + 1, self.settings().rates_of(step), &mut self.state);
            watch.stepped();
        }
        let floats = forms.stored_floats(&self.state.floats);
        loss.measure(Tuned { floats: &floats, latents: &self.state.latents })
    }
}

impl State {
    /// Returns the values as a model takes them.
    pub fn tuned(&self) -> Tuned<'_> {
        Tuned { floats: &self.floats, latents: &self.latents }
    }
}

impl Forms {
    /// Returns the values of a `state` as they are stored.
    pub fn stored(&self, state: &State) -> Stored {
        Stored { floats: self.stored_floats(&state.floats), codes: self.stored_codes(&state.latents) }
    }
}
