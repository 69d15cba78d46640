//! Moving bits between layers of the rounded model, round after round, each kept only if the measured KL divergence falls.

use std::collections::BTreeMap;
use std::path::Path;

use super::inputs::Inputs;
use super::job::{Decision, Job};
use super::refinement_journal::{self, Moves, RefinementJournal};
use super::rounding_journal::RoundingJournal;
use super::stage::Staged;
use crate::choose::candidate::Candidate;
use crate::engine::decoder::load::Tuned;
use crate::engine::learn::student::{Student, Target};
use crate::engine::measure::swaps::{Change, SwapSettings, swap_changes};
use crate::engine::passes::collector::{Extent, Moment};
use crate::engine::passes::moments::{MomentSettings, input_moments, input_of};
use crate::engine::runtime::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::files::journal::{self, Header, Start};
use crate::jobs::measure::digest;
use crate::jobs::opening::{Need, open};
use crate::jobs::record::{Refinement, RefinementRound};
use crate::jobs::settings::Target as Size;
use crate::jobs::write::{Spool, Spooled, Warnings, unroundable};
use crate::models::source::SourceTensor;
use crate::models::spec::TensorSpec;
use crate::numerics::affine::{QuantizeError, Quantized, Rows};
use crate::numerics::dtype::float_type;
use crate::numerics::quant::{Mode, Quant};
use crate::numerics::rounding::{RoundingError, Technique};
use crate::numerics::statistics::{mean, mean_and_stderr};
use crate::numerics::{nearest, rounding};
use crate::words::count;

/// Candidates on either side that a layer may move to in a round.
const EACH: usize = 2;

/// A model that was refined, in its folder.
pub struct Refined {
    /// Its bit map, and what it was predicted to cost.
    pub decision: Decision,
    /// The folder.
    pub staged: Staged,
    /// The rounds, and the divergence before and after.
    pub record: Refinement,
}

impl Job<'_> {
    /// Opens the journal of so many rounds from `decision`, and resumes it if the user asks for that.
    pub(crate) fn refinement_journal(&self, rounds: u32, decision: &Decision) -> Result<RefinementJournal> {
        let output = &self.settings.output.path;
        let header = self.refinement_header(rounds)?.with(refinement_journal::START, self.start(decision)?);
        let start = Start::resumed_if(self.settings.resume);
        if start == Start::Anew {
            journal::remove(&RoundingJournal::next_path(output));
        }
        let path = RefinementJournal::path(output);
        let journal = RefinementJournal::open(&path, header, rounds as usize, start)?;
        if !journal.done.is_empty() {
            let done = count(journal.done.len(), "round");
            self.progress.line(&format!("resuming: {done} of --refine {rounds} done already"));
        }
        Ok(journal)
    }

    /// Returns the header of the journal of so many rounds, without what they begin with.
    pub(crate) fn refinement_header(&self, rounds: u32) -> Result<Header> {
        let slice = self.slice()?;
        let header = Header::new("refinement")
            .with("mixbit's version", env!("CARGO_PKG_VERSION"))
            .with("the model", self.source.fingerprint()?)
            .with("the target", self.settings.target)
            .with("rounding", self.technique)
            .with("dtype", self.settings.dtype)
            .with("refine", rounds)
            .with("seed", self.settings.calibration.seed)
            .with("the calibration text", digest(&slice.sequences))
            .with("the text looked at", digest(&slice.windows))
            .with(refinement_journal::START, "");
        Ok(header)
    }

    /// SHA-256 of what layers get, what that was chosen by, and what they may become in a round.
    fn start(&self, decision: &Decision) -> Result<String> {
        let bitmap = &decision.solution.bitmap;
        let layers = decision.table.as_ref().map(|table| &table.layers);
        let text = serde_json::to_vec(&(bitmap, layers, self.plan.neighbours(bitmap, EACH)));
        Ok(crate::files::digest::digest([text.map_err(|e| Error::input(e.to_string()))?]))
    }

    /// The rounds that are left from `decision`, which is rounded in `staged`. A round whose swaps do not pay is followed by
    /// one that asks for twice the certainty; a round that finds none is the last.
    pub(crate) fn refine(
        &self,
        decision: Decision,
        staged: Staged,
        mut rounds: RefinementJournal,
        warnings: &Warnings,
    ) -> Result<Refined> {
        let refined = self.refine_on(decision, staged, &mut rounds, warnings);
        let (decision, staged) = refined.map_err(|error| match error.kind() {
            // Rounding would count the layers of this round as if there were no others.
            ErrorKind::Interrupted if !rounds.done.is_empty() => {
                error.hint(journal::resume_after(&format!("round {}", rounds.done.len())))
            }
            _ => error,
        })?;
        let slice = self.slice()?;
        let record = Refinement { text: slice.name, windows: slice.windows.len(), rounds: rounds.done };
        Ok(Refined { decision, staged, record })
    }

    fn refine_on(
        &self,
        mut decision: Decision,
        mut staged: Staged,
        rounds: &mut RefinementJournal,
        warnings: &Warnings,
    ) -> Result<(Decision, Staged)> {
        if rounds.is_over() {
            return Ok((decision, staged));
        }
        let Self { progress, source, plan, .. } = self;
        let (engine, memory, slice) = (Engine::start()?, self.settings.calibration.memory, self.slice()?);
        let target = match self.settings.target {
            Size::Bpw(bpw) => bpw,
            Size::Size(size) => plan.bpw_of_model_size(source, size)?,
            Size::Fixed => return Err(nothing_to_move()),
        };
        let table = decision.table.as_ref().map(|table| table.layers.clone()).ok_or_else(nothing_to_move)?;
        let exam = Target::new(&engine, source, &slice.windows, memory, &|| {})?;
        let divergences = |folder: &Path| {
            let student = open(folder, Need::Headers)?;
            let layers = std::collections::BTreeSet::new();
            Student::new(&engine, &student, &layers, false, memory).divergences(&Tuned::new(), &exam)
        };
        progress.stage("refining");
        let mut before = divergences(staged.folder.path())?;
        while !rounds.is_over() {
            progress.line(&format!("refining, round {} of {}", rounds.done.len() + 1, rounds.max_rounds));
            let known = match rounds.take_moves() {
                Some(moves) => moves,
                None => self.moves(&engine, &decision, staged.folder.path(), &slice.sequences)?,
            };
            let solution =
                plan.swap(&decision.solution, &cautious(&known, rounds.caution), &table, target)?;
            let moved = |path: &&String| solution.bitmap.get(*path) != decision.solution.bitmap.get(*path);
            let (swaps, kl_before) = (known.keys().filter(moved).count(), mean(&before));
            if swaps == 0 {
                let (kl_after, stderr, kept) = (None, None, false);
                rounds.refuse(RefinementRound { swaps, kl_before, kl_after, stderr, kept }, known);
                rounds.save()?;
                break;
            }
            let next = Decision { solution, table: decision.table.clone(), curve: decision.curve.clone() };
            let next_staged = self.staged(&next, self.rounding_journal_of_round(&next)?, warnings)?;
            let after = divergences(next_staged.folder.path())?;
            let (fall, stderr) = fall(&before, &after);
            let kept = fall > stderr;
            let (kl_after, stderr) = (Some(mean(&after)), Some(stderr));
            let round = RefinementRound { swaps, kl_before, kl_after, stderr, kept };
            if kept {
                (decision, staged, before) = (next, next_staged, after);
                // What was predicted goes for other bits.
                decision.solution.kl = None;
                rounds.keep(round, decision.solution.clone());
            } else {
                rounds.refuse(round, known);
            }
            rounds.save()?;
            self.settle_layers(kept)?;
        }
        Ok((decision, staged))
    }

    /// What every layer may move to from `decision`, which is rounded in `folder`, and what that is predicted to change.
    fn moves(
        &self,
        engine: &Engine,
        decision: &Decision,
        folder: &Path,
        sequences: &[Vec<u32>],
    ) -> Result<Moves> {
        let neighbours = self.plan.neighbours(&decision.solution.bitmap, EACH);
        let spooled = self.round_all(engine, folder, &neighbours, sequences)?;
        let student = open(folder, Need::Headers)?;
        let bar = self.progress.steps_bar("measuring swaps", 1);
        let settings = SwapSettings {
            sequences,
            seed: self.settings.calibration.seed,
            memory: self.settings.calibration.memory,
            progress: &|done, total| bar.set(done as u64, total as u64),
        };
        let alternatives = |path: &str| {
            let candidates = neighbours.get(path).map(Vec::as_slice).unwrap_or_default();
            candidates.iter().map(|&candidate| self.decoded(path, candidate, &spooled)).collect()
        };
        let changes = swap_changes(engine, self.source, &student, &settings, &alternatives)?;
        bar.finish();
        let moves = changes.into_iter().filter_map(|(path, changes)| {
            let candidates = neighbours.get(&path)?.iter().copied();
            Some((path, candidates.zip(changes).collect()))
        });
        Ok(moves.collect())
    }

    /// Codes of every layer in each of its quantized `candidates`, in a file without a name in `folder`.
    fn round_all(
        &self,
        engine: &Engine,
        folder: &Path,
        candidates: &BTreeMap<String, Vec<Candidate>>,
        sequences: &[Vec<u32>],
    ) -> Result<Spooled> {
        let mut spool = Spool::create(folder)?;
        let bar = self.progress.steps_bar("rounding neighbours", 1);
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
                let moments = moments.get(&input_of(spec.role));
                self.round_layer(spec, path, candidates, moments, &mut spool)?;
            }
            Ok(())
        })?;
        bar.finish();
        spool.seal()
    }

    /// One layer in each of its quantized `candidates`, as the technique in force does it.
    fn round_layer(
        &self,
        spec: &TensorSpec,
        path: &str,
        candidates: &[Candidate],
        moments: Option<&Moment>,
        spool: &mut Spool,
    ) -> Result<()> {
        let (dtype, columns) = (float_type(self.settings.dtype)?, spec.columns());
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
            let known = inputs.as_ref().map(|inputs| inputs.of(index)).transpose().map_err(failed)?;
            let importance =
                diagonals.as_ref().and_then(|all| all.get(index * columns..(index + 1) * columns));
            for (&quant, codes) in quants.iter().zip(&mut codes) {
                let found = match (&known, self.technique) {
                    (Some(known), _) if quant.mode == Mode::Affine => {
                        known.round(&weights, quant, dtype).map(|found| found.quantized)
                    }
                    (None, Technique::Search) if quant.mode == Mode::Affine => {
                        rounding::search(&weights, columns, quant, dtype, importance)
                    }
                    _ => Rows::from_f32(&weights, columns)
                        .and_then(|rows| nearest::quantize(rows, quant, dtype))
                        .map_err(Into::into),
                };
                codes.extend(&found.map_err(failed)?);
            }
        }
        quants.iter().zip(&codes).try_for_each(|(&quant, codes)| spool.add(&key(path, quant), codes))
    }

    /// The weights of a layer as `candidate` would have them.
    fn decoded(&self, path: &str, candidate: Candidate, spooled: &Spooled) -> Result<Vec<f32>> {
        let dtype = float_type(self.settings.dtype)?;
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

/// What a layer's codes are called in the spool.
fn key(path: &str, quant: Quant) -> String {
    format!("{path} {quant}")
}

/// The predicted changes, each so many standard errors worse than it is.
fn cautious(moves: &Moves, caution: f64) -> BTreeMap<String, Vec<(Candidate, f64)>> {
    let worse = |(candidate, change): &(Candidate, Change)| (*candidate, change.kl + caution * change.stderr);
    moves.iter().map(|(path, moves)| (path.clone(), moves.iter().map(worse).collect())).collect()
}

/// Mean fall of the KL divergence from token to token, and its standard error.
fn fall(before: &[f64], after: &[f64]) -> (f64, f64) {
    let falls: Vec<f64> = before.iter().zip(after).map(|(before, after)| before - after).collect();
    mean_and_stderr(&falls)
}

/// Where all bits are fixed.
pub fn nothing_to_move() -> Error {
    Error::usage("--refine moves bits between layers, and here all bits are fixed")
        .hint("give --target-bpw or --target-size and leave layers a choice, or leave --refine out")
}
