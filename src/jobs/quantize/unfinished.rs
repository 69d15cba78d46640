//! What an interrupted run has left beside the output: gone on with or in the way, known before any work and before
//! anything of it is touched; and what a run leaves that fails.

use crate::progress::{Progress, Quiet};
use std::path::{Path, PathBuf};

use super::job::Job;
use super::kept_layers;
use super::kept_layers::KeptLayers;
use super::kept_rounds::Rounds;
use super::settings::EvaluationText;
use crate::error::{Error, ErrorKind, Result};
use crate::files::output_file;
use crate::jobs::measure::digest;
use crate::jobs::quantize::tuning::TuningRun;
use crate::jobs::texts::{FEW_VALIDATION_WINDOWS, Texts, Uses};
use crate::numerics::rounding::Technique;

/// All files in which a run keeps what it has done while it makes `output`.
pub(crate) fn files(output: &Path) -> [PathBuf; 4] {
    [KeptLayers::path(output), KeptLayers::next_path(output), Rounds::path(output), TuningRun::path(output)]
}

/// Removes them.
pub(crate) fn remove(output: &Path) {
    for path in files(output) {
        kept_layers::remove(&path);
    }
}

impl Job<'_> {
    /// Fails where a new start would lose what is there, or --resume could not go on with it.
    pub fn check_unfinished(&self) -> Result<()> {
        let output = &self.settings.output;
        let [layers, _, rounds, steps] = files(&output.path);
        if !self.settings.resume {
            if KeptLayers::wait(&layers, None)? && !output.overwrite {
                return Err(output_file::unfinished(&layers));
            }
            let waiting = [&rounds, &steps].into_iter().find(|path| path.exists() && !output.overwrite);
            return waiting.map_or(Ok(()), |path| Err(output_file::unfinished(path)));
        }
        let dropped = [
            (&rounds, "--refine", self.settings.tuning.refine.is_none()),
            (&steps, "--distill", self.settings.tuning.distill.is_none()),
        ];
        if let Some((path, flag, _)) = dropped.into_iter().find(|(path, _, none)| *none && path.exists()) {
            return Err(Error::file(path, format!("was begun with {flag}, and now there is none"))
                .hint(format!("give {flag} again, or {}", output_file::ANEW)));
        }
        let rounding = self.rounding_settings()?;
        let mut found = rounding.is_some() && KeptLayers::wait(&layers, rounding.as_ref())?;
        if let Some(wanted) = self.settings.tuning.refine {
            found |= Rounds::wait(&rounds, &self.round_settings(wanted)?)?;
        }
        if let Some(wanted) = self.settings.tuning.distill.filter(|_| steps.exists()) {
            TuningRun::check(&steps, &self.distill_settings(&self.validation_split()?, wanted)?)?;
            found = true;
        }
        if !found {
            let name = output.path.display();
            self.progress.notes(&[format!("nothing to resume beside {name}: starting from the beginning")]);
        }
        Ok(())
    }

    /// Whether this run has kept something that --resume goes on with.
    pub(crate) fn has_kept(&self) -> bool {
        let [layers, _, rounds, steps] = files(&self.settings.output.path);
        (self.technique == Technique::Gptq && layers.exists())
            || (self.settings.tuning.refine.is_some() && rounds.exists())
            || (self.settings.tuning.distill.is_some() && steps.exists())
    }

    /// What is left after an `error` while the model was made: what is done stays where --resume can help.
    pub(crate) fn given_up(&self, error: Error) -> Error {
        match error.kind() {
            _ if !self.has_kept() => error,
            ErrorKind::Interrupted | ErrorKind::Io { .. } | ErrorKind::Engine(_)
                if error.hint_text().is_some() =>
            {
                error
            }
            ErrorKind::Interrupted | ErrorKind::Io { .. } | ErrorKind::Engine(_) => {
                error.hint("the same command with --resume goes on after what is done")
            }
            // An earlier run's work is worth more than a tidy folder.
            _ if self.settings.resume => error,
            _ => {
                remove(&self.settings.output.path);
                error
            }
        }
    }

    /// The same once the model is made, and only measuring it has failed: nothing that is done is lost.
    pub(crate) fn unmeasured(&self, error: Error) -> Error {
        let (given, validation_windows) = (
            matches!(self.settings.evaluation, EvaluationText::File(_)),
            self.texts.as_ref().map_or(0, |texts| texts.validation.len()),
        );
        // What --distill and --refine look at would be something else without the measuring.
        let has_validation = validation_windows >= FEW_VALIDATION_WINDOWS;
        let resumable = self.has_kept() && (given || has_validation || !self.settings.tuning.any());
        match error.kind() {
            ErrorKind::File { .. } | ErrorKind::Tensor { .. } | ErrorKind::Input(_) if resumable => {
                error.hint(format!(
                    "see what `mixbit check` says of the float model; what is done is kept: the same command with \
                     --resume and {} writes the result",
                    if given { "other --eval-data, or --no-eval in its place," } else { "--no-eval" }
                ))
            }
            ErrorKind::File { .. } | ErrorKind::Tensor { .. } | ErrorKind::Input(_) => error.hint(
                "see what `mixbit check` says of the float model; --no-eval writes the result all the same",
            ),
            _ => self.given_up(error),
        }
    }

    /// The calibration text, with a part of it set `apart` to measure on if need be. Where layers were rounded with a part set
    /// apart that is not wanted any more, it still is, so that they can be gone on with.
    pub(crate) fn prepare_texts(&self, apart: bool) -> Result<Texts> {
        let prepare = |scoring, progress: &dyn Progress| {
            let uses = Uses { scoring, tuning: self.settings.tuning.any() };
            Texts::prepare(self.source, &self.settings.calibration, uses, progress)
        };
        let kept = if self.settings.resume && !apart {
            KeptLayers::begun(&KeptLayers::path(&self.settings.output.path))
        } else {
            None
        };
        let was_apart = kept.is_some_and(|kept| {
            prepare(true, &Quiet).is_ok_and(|texts| digest(&texts.sequences) == kept.text)
        });
        prepare(apart || was_apart, self.progress)
    }
}
