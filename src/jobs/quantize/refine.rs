//! Refinement: moving bits between layers of the rounded model in rounds, each kept only if the measured KL divergence
//! falls.

use std::collections::BTreeMap;
use std::path::Path;

use super::inputs::Inputs;
use super::job::{Decision, Job};
use super::layer_journal::LayerJournal;
use super::refinement_journal::{self, Moves, RefinementJournal};
use super::stage::StagedModel;
use crate::choose::candidate::Candidate;
use crate::engine::learn::learning::Learners;
use crate::engine::learn::student::{Student, Target};
use crate::engine::measure::swaps::{Change, SwapSettings, swap_changes};
use crate::engine::passes::collector::{Extent, Moment};
use crate::engine::passes::moments::{MomentSettings, input_moments};
use crate::engine::runtime::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::files::journal::{self, Header, MODEL, Start};
use crate::jobs::bars;
use crate::jobs::measure::digest;
use crate::jobs::opening::{Need, open};
use crate::jobs::quantize::tuning::State;
use crate::jobs::record::{Refinement, RefinementRound};
use crate::jobs::write::{Spool, Spooled, Warnings, unroundable};
use crate::models::source::SourceTensor;
use crate::models::spec::TensorSpec;
use crate::numerics::affine::{FloatType, QuantizeError, Quantized, Rows};
use crate::numerics::dtype::float_type;
use crate::numerics::quant::{Mode, Quant};
use crate::numerics::rounding::{RoundingError, Technique};
use crate::numerics::statistics::{mean, mean_and_stderr};
use crate::numerics::{nearest, rounding};
use crate::words::count;

/// Number of candidates on either side that a layer may move to in a round.
const CANDIDATES_PER_SIDE: usize = 2;

/// A refined model in its folder.
pub struct Refined {
    /// Bit map of the model.
    pub decision: Decision,
    /// Folder of the model.
    pub staged: StagedModel,
    /// Rounds, with the divergences before and after.
    pub record: Refinement,
}

impl Job<'_> {
    /// Opens the journal of so many rounds from `decision`, and resumes it if the user asks for that.
    pub(crate) fn refinement_journal(&self, rounds: u32, decision: &Decision) -> Result<RefinementJournal> {
        let output = &self.settings.output.path;
        let header = self.refinement_header(rounds)?.with(refinement_journal::START, self.start(decision)?);
        let start = Start::resumed_if(self.settings.resume);
        if start == Start::Anew {
            journal::remove(&LayerJournal::next_path(output));
        }
        let path = RefinementJournal::path(output);
        let journal = RefinementJournal::open(&path, header, rounds as usize, start)?;
        if !journal.done.is_empty() {
            let done = count(journal.done.len(), "round");
            self.progress.line(&format!("resuming: {done} of setting `refine` {rounds} done already"));
        }
        Ok(journal)
    }

    /// Returns the header of the journal of so many rounds, without the model at the start.
    pub(crate) fn refinement_header(&self, rounds: u32) -> Result<Header> {
        let split = self.validation_split()?;
        let header = Header::new("refinement")
            .with("mixbit's version", env!("CARGO_PKG_VERSION"))
            .with(MODEL, self.source.fingerprint()?)
            .with("the target", self.settings.target)
            .with("rounding", self.technique)
            .with("dtype", self.plan.dtype())
            .with("refine", rounds)
            .with("seed", self.settings.calibration.seed)
            .with("the calibration text", digest(&split.sequences))
            .with("the text looked at", digest(&split.validation))
            .with(refinement_journal::START, "");
        Ok(header)
    }

    /// Returns the SHA-256 of the bit map, the sensitivities that chose it, and the candidates of a first round.
    fn start(&self, decision: &Decision) -> Result<String> {
        let bitmap = &decision.solution.bitmap;
        let layers = decision.table.as_ref().map(|table| &table.layers);
        let text = serde_json::to_vec(&(bitmap, layers, self.plan.neighbours(bitmap, CANDIDATES_PER_SIDE)));
        Ok(crate::files::digest::digest([text.map_err(|e| Error::input(e.to_string()))?]))
    }

    /// Runs the remaining rounds from `decision`, whose model is `staged`. A round whose swaps do not pay is followed
    /// by one that asks for twice the certainty; a round that finds none is the last.
    pub(crate) fn refine(
        &self,
        decision: Decision,
        staged: StagedModel,
        mut rounds: RefinementJournal,
        warnings: &Warnings,
    ) -> Result<Refined> {
        let refined = self.run_rounds(decision, staged, &mut rounds, warnings);
        let (decision, staged) = refined.map_err(|error| match error.kind() {
            // Rounding would count the layers of this round as if there were no others.
            ErrorKind::Interrupted if !rounds.done.is_empty() => {
                journal::resume_after(error, &format!("round {}", rounds.done.len()))
            }
            _ => error,
        })?;
        let split = self.validation_split()?;
        let record = Refinement { text: split.name, windows: split.validation.len(), rounds: rounds.done };
        Ok(Refined { decision, staged, record })
    }

    fn run_rounds(
        &self,
        mut decision: Decision,
        mut staged: StagedModel,
        rounds: &mut RefinementJournal,
        warnings: &Warnings,
    ) -> Result<(Decision, StagedModel)> {
        if rounds.is_over() {
            return Ok((decision, staged));
        }
        let Self { progress, plan, .. } = self;
        let engine = Engine::start()?;
        let split = self.validation_split()?;
        let target = self.target_bpw()?.ok_or_else(nothing_to_move)?;
        let table = decision.table.as_ref().map(|table| table.layers.clone()).ok_or_else(nothing_to_move)?;
        progress.stage("refining");
        let validation = self.float_target(&engine, &split.validation)?;
        let mut before = self.measure_divergences(&engine, staged.folder.path(), &validation)?;
        while !rounds.is_over() {
            progress.line(&format!("refining, round {} of {}", rounds.done.len() + 1, rounds.max_rounds));
            let moves = if let Some(moves) = rounds.take_moves() {
                moves
            } else {
                let moves = self.predict_moves(&engine, &decision, staged.folder.path(), &split.sequences);
                moves.map_err(|error| staged.folder.relocate(error))?
            };
            let solution =
                plan.swap(&decision.solution, &pessimistic(&moves, rounds.caution), &table, target)?;
            let has_moved =
                |path: &&String| solution.bitmap.get(*path) != decision.solution.bitmap.get(*path);
            let swaps = moves.keys().filter(has_moved).count();
            if swaps == 0 {
                rounds.refuse(round_without_swaps(&before), moves);
                rounds.save()?;
                break;
            }
            let next = Decision { solution, table: decision.table.clone(), curve: decision.curve.clone() };
            let next_staged = self.stage(&next, self.rounding_journal_of_round(&next)?, warnings)?;
            let after = self.measure_divergences(&engine, next_staged.folder.path(), &validation)?;
            let round = judge(swaps, &before, &after);
            let is_kept = round.kept;
            if is_kept {
                (decision, staged, before) = (next, next_staged, after);
                // The prediction was for other bits.
                decision.solution.kl = None;
                rounds.keep(round, decision.solution.clone());
            } else {
                rounds.refuse(round, moves);
            }
            rounds.save()?;
            self.settle_layers(is_kept)?;
        }
        Ok((decision, staged))
    }

    /// Measures KL divergences of the model in `folder` from the float one, token by token.
    fn measure_divergences(
        &self,
        engine: &Engine,
        folder: &Path,
        validation: &Target<'_>,
    ) -> Result<Vec<f64>> {
        let student = open(folder, Need::Headers)?;
        let memory = self.settings.calibration.memory;
        Student::new(engine, &student, Learners::default(), memory)
            .divergences(State::default().tuned(), validation)
    }

    /// Predicts by how much each move of a layer from `decision`, whose model is in `folder`, changes the KL
    /// divergence.
    fn predict_moves(
        &self,
        engine: &Engine,
        decision: &Decision,
        folder: &Path,
        sequences: &[Vec<u32>],
    ) -> Result<Moves> {
        let neighbours = self.plan.neighbours(&decision.solution.bitmap, CANDIDATES_PER_SIDE);
        let spooled = self.round_all(engine, folder, &neighbours, sequences)?;
        let student = open(folder, Need::Headers)?;
        let bar = self.progress.steps_bar(bars::SWAPS, 1);
        let settings = SwapSettings {
            sequences,
            seed: self.settings.calibration.seed,
            memory: self.settings.calibration.memory,
            progress: &|done, total| bar.set(done as u64, total as u64),
        };
        let alternatives = |path: &str| {
            let candidates = neighbours.get(path).map(Vec::as_slice).unwrap_or_default();
            candidates.iter().map(|&candidate| self.decode(path, candidate, &spooled)).collect()
        };
        let changes = swap_changes(engine, self.source, &student, &settings, &alternatives)?;
        bar.finish();
        let moves = changes.into_iter().filter_map(|(path, changes)| {
            let candidates = neighbours.get(&path)?.iter().copied();
            Some((path, candidates.zip(changes).collect()))
        });
        Ok(moves.collect())
    }

    /// Rounds every layer to each of its quantized `candidates`, in a file without a name in `folder`.
    fn round_all(
        &self,
        engine: &Engine,
        folder: &Path,
        candidates: &BTreeMap<String, Vec<Candidate>>,
        sequences: &[Vec<u32>],
    ) -> Result<Spooled> {
        let mut spool = Spool::create(folder)?;
        let bar = self.progress.steps_bar(bars::NEIGHBOURS, 1);
        let settings = MomentSettings {
            sequences,
            extent: if self.technique == Technique::Gptq { Extent::Full } else { Extent::Diagonal },
            memory: self.settings.calibration.memory,
            progress: &|done, total| bar.set(done as u64, total as u64),
        };
        input_moments(engine, self.source, &settings, |block, moments| {
            for spec in self.source.manifest().iter().filter(|spec| spec.layer == block) {
                let Some((path, candidates)) =
                    spec.path().and_then(|path| Some((path, candidates.get(path)?)))
                else {
                    continue;
                };
                crate::interrupt::check()?;
                let moments = spec.tap.and_then(|tap| moments.get(&tap));
                self.round_layer(spec, path, candidates, moments, &mut spool)?;
            }
            Ok(())
        })?;
        bar.finish();
        spool.seal()
    }

    /// Rounds one layer to each of its quantized `candidates`, by the technique in force.
    fn round_layer(
        &self,
        spec: &TensorSpec,
        path: &str,
        candidates: &[Candidate],
        moments: Option<&Moment>,
        spool: &mut Spool,
    ) -> Result<()> {
        let (dtype, columns) = (float_type(self.plan.dtype())?, spec.columns());
        let tensor = SourceTensor { name: &spec.name, tensor: self.source.tensor(&spec.name)? };
        let quants: Vec<Quant> = candidates.iter().filter_map(|candidate| candidate.quant()).collect();
        let mut codes = vec![Quantized::default(); quants.len()];
        let inputs = moments.filter(|_| self.technique == Technique::Gptq).map(Inputs::new);
        let diagonals = moments.filter(|_| self.technique == Technique::Search).map(Moment::diagonals);
        let matrices = spec.experts().unwrap_or(1);
        for index in 0..matrices {
            let rows = spec.rows() / matrices;
            let failed = |e: RoundingError| unroundable(&tensor, e.offset_rows(index * rows));
            let weights = self.weights_of(&tensor, dtype, index * rows..(index + 1) * rows);
            let input = inputs.as_ref().map(|inputs| inputs.of(index)).transpose().map_err(failed)?;
            let importance =
                diagonals.as_ref().and_then(|all| all.get(index * columns..(index + 1) * columns));
            for (&quant, codes) in quants.iter().zip(&mut codes) {
                let is_affine = quant.mode == Mode::Affine;
                let quantized = if let Some(input) = input.as_ref().filter(|_| is_affine) {
                    input.round(&weights, quant, dtype).map(|gptq| gptq.quantized)
                } else if is_affine && self.technique == Technique::Search {
                    rounding::search(&weights, columns, quant, dtype, importance)
                } else {
                    round_to_nearest(&weights, columns, quant, dtype)
                };
                codes.extend(&quantized.map_err(failed)?);
            }
        }
        quants.iter().zip(&codes).try_for_each(|(&quant, codes)| spool.add(&key(path, quant), codes))
    }

    /// Decodes the weights of a layer as `candidate` stores them.
    fn decode(&self, path: &str, candidate: Candidate, spooled: &Spooled) -> Result<Vec<f32>> {
        let dtype = float_type(self.plan.dtype())?;
        let name = format!("{path}.weight");
        let tensor = SourceTensor { name: &name, tensor: self.source.tensor(&name)? };
        let Candidate::Quantized(quant) = candidate else { return Ok(self.weights(&tensor, dtype)) };
        let mut weights = vec![0.0; tensor.tensor.len()];
        if let Some(codes) = spooled.get(&key(path, quant)) {
            let failed = |e: QuantizeError| Error::tensor(tensor.tensor.file, &name, e.to_string());
            nearest::dequantize(codes, quant, dtype, &mut weights).map_err(failed)?;
        }
        Ok(weights)
    }
}

/// Returns the name of a layer's codes in the spool.
fn key(path: &str, quant: Quant) -> String {
    format!("{path} {quant}")
}

/// Rounds `weights` to nearest, as layers in other modes than affine always are.
fn round_to_nearest(
    weights: &[f32],
    columns: usize,
    quant: Quant,
    dtype: FloatType,
) -> std::result::Result<Quantized, RoundingError> {
    let rows = Rows::from_f32(weights, columns)?;
    Ok(nearest::quantize(rows, quant, dtype)?)
}

/// Returns the predicted changes, each `caution` standard errors worse than predicted.
fn pessimistic(moves: &Moves, caution: f64) -> BTreeMap<String, Vec<(Candidate, f64)>> {
    let worse = |(candidate, change): &(Candidate, Change)| (*candidate, change.kl + caution * change.stderr);
    moves.iter().map(|(path, moves)| (path.clone(), moves.iter().map(worse).collect())).collect()
}

/// Returns the record of a round in which no swap is predicted to pay.
fn round_without_swaps(before: &[f64]) -> RefinementRound {
    RefinementRound { swaps: 0, kl_before: mean(before), kl_after: None, stderr: None, kept: false }
}

/// Compares the KL divergences token by token: a round is kept if they fall by more than the standard error.
fn judge(swaps: usize, before: &[f64], after: &[f64]) -> RefinementRound {
    let falls: Vec<f64> = before.iter().zip(after).map(|(before, after)| before - after).collect();
    let (fall, stderr) = mean_and_stderr(&falls);
    RefinementRound {
        swaps,
        kl_before: mean(before),
        kl_after: Some(mean(after)),
        stderr: Some(stderr),
        kept: fall > stderr,
    }
}

/// Returns the error of refinement where all bits are fixed.
pub fn nothing_to_move() -> Error {
    Error::usage("setting `refine` moves bits between layers, and here all bits are fixed")
        .hint("give setting `target_bpw` or setting `target_size` and leave layers a choice, or leave setting `refine` out")
}
