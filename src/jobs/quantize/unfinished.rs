//! Journals that an interrupted run has left beside the output. Before any work, and before any of them is touched, it
//! is checked whether they can be resumed or are in the way. After a run that fails, journals that help to resume are
//! kept.

use crate::progress::{Progress, Quiet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::job::Job;
use super::layer_journal::{self, LayerJournal};
use super::refinement_journal::RefinementJournal;
use super::settings::EvaluationText;
use crate::choose::recipe::Learn;
use crate::error::{Error, ErrorKind, Result};
use crate::files::journal::{ANEW, Header, Journal};
use crate::files::{journal, output_file};
use crate::jobs::measure::digest;
use crate::jobs::quantize::tuning::TuningRun;
use crate::jobs::texts::{FEW_VALIDATION_WINDOWS, Texts, Uses};
use crate::numerics::rounding::Technique;

/// Paths of the journals that a run writes while it makes an output.
struct Paths {
    /// Rounded layers.
    layers: PathBuf,
    /// Rounded layers of a round of refinement that is not yet known to be better.
    next_layers: PathBuf,
    /// Rounds of refinement.
    rounds: PathBuf,
    /// Layers whose codes have learned block by block.
    blocks: PathBuf,
    /// Steps of distillation.
    steps: PathBuf,
}

impl Paths {
    fn of(output: &Path) -> Self {
        Self {
            layers: LayerJournal::path(output),
            next_layers: LayerJournal::next_path(output),
            rounds: RefinementJournal::path(output),
            blocks: LayerJournal::blocks_path(output),
            steps: TuningRun::path(output),
        }
    }

    fn all(self) -> [PathBuf; 5] {
        [self.layers, self.next_layers, self.rounds, self.blocks, self.steps]
    }

    /// Returns the paths of the journals that an interrupted run resumes from.
    fn resumable(&self) -> [&Path; 4] {
        [&self.layers, &self.rounds, &self.blocks, &self.steps]
    }
}

/// Returns the paths of all journals that a run writes while it makes `output`.
pub(crate) fn files(output: &Path) -> [PathBuf; 5] {
    Paths::of(output).all()
}

/// Removes all journals.
pub(crate) fn remove(output: &Path) {
    for path in files(output) {
        journal::remove(&path);
    }
}

/// Adds to an [`already_exists`](output_file::already_exists) error of a run that `resumes`, or not, what becomes of the
/// unfinished work beside `output`.
pub(crate) fn explain_existing(error: Error, output: &Path, resumes: bool) -> Error {
    if resumes {
        return output_file::explain_resuming(error);
    }
    let has_unfinished = |path: &&Path| Journal::has_unfinished(path, None).unwrap_or(true);
    let paths = Paths::of(output);
    let kept: Vec<String> = paths
        .resumable()
        .into_iter()
        .filter(|path| path.is_file())
        .filter(has_unfinished)
        .map(|path| path.display().to_string())
        .collect();
    match error.kind() {
        ErrorKind::AlreadyExists { .. } if !kept.is_empty() => error.hint(format!(
            "setting `overwrite` replaces it and discards the unfinished work in {}; setting `overwrite` beside setting \
             `resume` continues that work",
            kept.join(" and ")
        )),
        _ => error,
    }
}

/// Returns when the file at `path` was last written; `None` where there is none.
fn written(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// True if the same work may succeed after `error`.
fn can_resume_after(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Io { .. } | ErrorKind::Engine(_))
}

/// True if `error` may be of the float model or of the text to measure on, and not of the model that was made.
pub(crate) fn is_of_inputs(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::File { .. }
            | ErrorKind::Tensor { .. }
            | ErrorKind::Key { .. }
            | ErrorKind::Template { .. }
            | ErrorKind::Input(_)
    )
}

impl Job<'_> {
    /// Fails where a new start would lose what is there, or it cannot be resumed. Returns the journals that a new start
    /// discards, and when they were written.
    pub(crate) fn check_unfinished(&self) -> Result<Vec<(PathBuf, SystemTime)>> {
        let paths = Paths::of(&self.settings.output.path);
        if !self.settings.resume {
            self.check_start()?;
            let journals = paths.all().into_iter();
            return Ok(journals.filter_map(|path| Some((path.clone(), written(&path)?))).collect());
        }
        self.refuse_dropped_work()?;
        if !self.has_work_to_resume()? {
            let resumable = paths.resumable().map(|path| path.display().to_string());
            self.progress.notes(&[journal::nothing_to_resume(&resumable)]);
        }
        Ok(Vec::new())
    }

    /// Removes the journals of an earlier run that this one does not resume: beside them, it could not be resumed itself.
    pub(crate) fn discard_unfinished(&self) -> Result<()> {
        let mut lost = Vec::new();
        for (path, _) in self.discarded.iter().filter(|(path, time)| written(path) == Some(*time)) {
            if journal::discard(path)? {
                lost.push(path.display().to_string());
            }
        }
        if !lost.is_empty() {
            self.progress.notes(&[format!("discarded the unfinished work in {}", lost.join(" and "))]);
        }
        Ok(())
    }

    /// Fails where there is unfinished work of a kind that this run does without.
    fn refuse_dropped_work(&self) -> Result<()> {
        let tuning = &self.settings.tuning;
        let Paths { layers, rounds, blocks, steps, .. } = Paths::of(&self.settings.output.path);
        let dropped = [
            (&layers, "setting `rounding` gptq", self.technique != Technique::Gptq),
            (&rounds, "setting `refine`", tuning.refine.is_none()),
            (&blocks, "setting `learn` codes", !self.learns_by_block()),
            (&steps, "setting `distill`", tuning.distill.is_none()),
        ];
        match dropped.into_iter().find(|(path, _, none)| *none && path.exists()) {
            Some((path, setting, _)) => {
                let message = format!("was begun with {setting}, which this run does without");
                Err(Error::file(path, message).hint(format!("give {setting} again, or {ANEW}")))
            }
            None => Ok(()),
        }
    }

    /// True if there is unfinished work that this run resumes. Fails where it was begun with other settings.
    fn has_work_to_resume(&self) -> Result<bool> {
        let tuning = &self.settings.tuning;
        let Paths { layers, rounds, blocks, steps, .. } = Paths::of(&self.settings.output.path);
        let by_block = tuning.distill.filter(|_| self.learns_by_block());
        let headers = [
            (layers, self.rounding_header()?),
            (rounds, tuning.refine.map(|rounds| self.refinement_header(rounds)).transpose()?),
            (blocks, by_block.map(|steps| self.blocks_header(steps)).transpose()?),
            (steps, tuning.distill.map(|steps| self.distill_header(steps)).transpose()?),
        ];
        let mut resumes = false;
        for (path, header) in headers {
            if let Some(header) = header {
                resumes |= Journal::has_unfinished(&path, Some(&header))?;
            }
        }
        Ok(resumes)
    }

    /// Fails where a new start would lose unfinished work. That needs no text, and can be told before one is generated.
    pub(crate) fn check_start(&self) -> Result<()> {
        let output = &self.settings.output;
        if self.settings.resume || output.overwrite {
            return Ok(());
        }
        for path in Paths::of(&output.path).resumable() {
            if Journal::has_unfinished(path, None)? {
                return Err(journal::unfinished(path));
            }
        }
        Ok(())
    }

    /// Returns the header of the journal of so many steps, without the model at the start.
    fn distill_header(&self, steps: u32) -> Result<Header> {
        Ok(self.distill_settings(&self.validation_split()?, self.learns_end_to_end, steps)?.header())
    }

    /// Returns the header of the journal of blocks that learn in so many steps each, without the model at the start.
    fn blocks_header(&self, steps: u32) -> Result<Header> {
        Ok(self.distill_settings(&self.validation_split()?, Learn::Codes, steps)?.blocks_header())
    }

    /// True if this run has kept something that can be resumed.
    pub(crate) fn has_kept(&self) -> bool {
        !self.kept_journals().is_empty()
    }

    /// Returns the paths of the journals that this run has written or resumes.
    fn kept_journals(&self) -> Vec<PathBuf> {
        let tuning = &self.settings.tuning;
        let (feeds_back, refines) = (self.technique == Technique::Gptq, tuning.refine.is_some());
        let distills = tuning.distill.is_some();
        let paths = Paths::of(&self.settings.output.path);
        let used = [
            (paths.layers, feeds_back),
            (paths.next_layers, feeds_back && refines),
            (paths.rounds, refines),
            (paths.blocks, self.learns_by_block()),
            (paths.steps, distills),
        ];
        let is_kept = |path: &PathBuf| {
            written(path).is_some_and(|time| !self.discarded.contains(&(path.clone(), time)))
        };
        used.into_iter().filter(|(_, is_used)| *is_used).map(|(path, _)| path).filter(is_kept).collect()
    }

    /// Adds to an `error` while the model was made what is kept, and how to resume.
    pub(crate) fn with_resume_hint(&self, error: Error) -> Error {
        let journals = self.kept_journals();
        if !journals.is_empty() && can_resume_after(&error) {
            let kept: Vec<&Path> = journals.iter().map(PathBuf::as_path).collect();
            return journal::with_kept_work(error, &kept);
        }
        match error.kind() {
            ErrorKind::Interrupted => error.hint_if_none(&self.nothing_kept()),
            _ => error,
        }
    }

    /// Adds to an interruption before the model was made what is kept, and how to resume.
    pub(crate) fn explain_interruption(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Interrupted => self.with_resume_hint(error),
            _ => error,
        }
    }

    /// Says that an interruption has left nothing to resume, and how sensitivities are kept.
    fn nothing_kept(&self) -> String {
        let anew = "nothing is kept yet: the same command starts from the beginning";
        if self.is_fixed() || self.table.is_some() {
            return anew.to_owned();
        }
        format!(
            "{anew}; `mixbit analyze` keeps what it has measured, and setting `sensitivities` takes its table"
        )
    }

    /// Removes the journals of this run where `error` would come again. An earlier run's work is worth more than a tidy
    /// folder.
    pub(crate) fn remove_useless_journals(&self, error: &Error) {
        if self.has_kept() && !can_resume_after(error) && !self.settings.resume {
            remove(&self.settings.output.path);
        }
    }

    /// Adds to an `error` while the finished model was measured how to resume: nothing that is done is lost.
    pub(crate) fn with_evaluation_hint(&self, error: Error) -> Error {
        let (given, validation_windows) = (
            matches!(self.settings.evaluation, EvaluationText::File(_)),
            self.texts.as_ref().map_or(0, |texts| texts.validation.len()),
        );
        // Distillation and refinement would look at something else without the measuring.
        let has_validation = validation_windows >= FEW_VALIDATION_WINDOWS;
        let resumable = self.has_kept() && (given || has_validation || !self.settings.tuning.any());
        if !is_of_inputs(&error) {
            return self.with_resume_hint(error);
        }
        if !resumable {
            return error.hint(
                "see what `mixbit check` says of the float model; setting `no_eval` writes the result all the same",
            );
        }
        let change = if given {
            "other setting `eval_data`, or setting `no_eval` in its place,"
        } else {
            "setting `no_eval`"
        };
        error.hint(format!(
            "see what `mixbit check` says of the float model; what is done is kept: the same command with setting \
             `resume` and {change} writes the result"
        ))
    }

    /// Reads the calibration text for these `uses`. Where layers were rounded with a held-out part that is not wanted any
    /// more, it is still held out, so that they can be resumed.
    pub(crate) fn prepare_texts(&self, uses: Uses) -> Result<Texts> {
        let prepare = |uses, progress: &dyn Progress| {
            Texts::prepare(self.source, &self.settings.calibration, uses, progress)
        };
        let mut header = None;
        if self.settings.resume && !uses.scoring {
            header = Journal::peek(&LayerJournal::path(&self.settings.output.path));
        }
        let text = header.as_ref().and_then(|header| header.value(layer_journal::TEXT));
        let with_scoring = Uses { scoring: true, ..uses };
        let was_held_out = text.is_some_and(|text| {
            prepare(with_scoring, &Quiet).is_ok_and(|texts| digest(&texts.sequences) == text)
        });
        prepare(if was_held_out { with_scoring } else { uses }, self.progress)
    }
}
