//! How far an unfinished refinement is: the rounds that are done, what the best of them chose, and what the next begins with. On disk it
//! is JSON, beside the output while that is being made.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::choose::candidate::Candidate;
use crate::choose::plan::Solution;
use crate::engine::measure::swaps::Change;
use crate::error::{Error, Result};
use crate::files::digest::digest;
use crate::files::journal::{Setting, begun_otherwise, fingerprint};
use crate::files::output_file;
use crate::jobs::record::RefinementRound;

/// By layer, what it may become and how the KL divergence would change.
pub type Moves = BTreeMap<String, Vec<(Candidate, Change)>>;

/// What a refinement is done with. Rounds with other settings are not to be gone on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundSettings {
    /// Version of mixbit.
    pub mixbit: String,
    /// Fingerprint of the float model.
    pub model: String,
    /// The size that was asked for.
    pub target: String,
    /// How weights are rounded.
    pub rounding: String,
    /// Type of scales and biases.
    pub dtype: String,
    /// Rounds at most.
    pub rounds: u32,
    /// Seed of the labels.
    pub seed: u64,
    /// SHA-256 of the token sequences that swaps are measured on.
    pub text: String,
    /// SHA-256 of those looked at.
    pub slice: String,
    /// SHA-256 of what layers are and may become at the start.
    pub start: String,
}

impl RoundSettings {
    /// By name, for messages.
    fn named(&self) -> Vec<Setting> {
        vec![
            ("mixbit's version", self.mixbit.clone()),
            ("the model", fingerprint(&self.model)),
            ("the target", self.target.clone()),
            ("--rounding", self.rounding.clone()),
            ("--dtype", self.dtype.clone()),
            ("--refine", self.rounds.to_string()),
            ("--seed", self.seed.to_string()),
            ("the calibration text", fingerprint(&self.text)),
            ("the text looked at", fingerprint(&self.slice)),
            ("what layers may become", fingerprint(&self.start)),
        ]
    }
}

/// The rounds so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rounds {
    settings: RoundSettings,
    /// How each went.
    pub done: Vec<RefinementRound>,
    /// What the last one that was kept chose.
    pub solution: Option<Solution>,
    /// What layers may move to from there, where a round has measured it since.
    moves: Option<Moves>,
    /// How many standard errors worse than predicted a move is taken to be next.
    pub caution: f64,
}

impl Rounds {
    /// Before the first.
    pub fn new(settings: RoundSettings) -> Self {
        Self { settings, done: Vec::new(), solution: None, moves: None, caution: 1.0 }
    }

    /// How many there are at most.
    pub fn most(&self) -> u32 {
        self.settings.rounds
    }

    /// Whether another could be of use.
    pub fn is_over(&self) -> bool {
        self.done.len() >= self.settings.rounds as usize
            || self.done.last().is_some_and(|round| round.swaps == 0)
    }

    /// Hands out what layers may move to, if it is known.
    pub fn take_moves(&mut self) -> Option<Moves> {
        self.moves.take()
    }

    /// Ends a round whose choice, if there was one, is kept: what comes next is to be measured anew.
    pub fn kept(&mut self, round: RefinementRound, solution: Solution) {
        self.done.push(round);
        (self.solution, self.moves, self.caution) = (Some(solution), None, 1.0);
    }

    /// Ends a round that changes nothing. The next asks for twice the certainty of the same `moves`.
    pub fn refused(&mut self, round: RefinementRound, moves: Moves) {
        self.done.push(round);
        (self.moves, self.caution) = (Some(moves), 2.0 * self.caution);
    }

    /// Where they are kept while `output` is being made.
    pub fn path(output: &Path) -> PathBuf {
        output_file::beside(output, ".refining")
    }

    /// Writes them, replacing `path` in one step.
    pub fn save(&self, path: &Path) -> Result<()> {
        let finite =
            |moves: &Moves| moves.values().flatten().all(|(_, c)| c.kl.is_finite() && c.stderr.is_finite());
        // JSON has no NaN: such moves are measured again.
        let written = Self { moves: self.moves.clone().filter(finite), ..self.clone() };
        let text = summed(&written).map_err(|e| Error::file(path, e.to_string()))?;
        output_file::write(path, &text)
    }

    /// Reads what [`save`](Self::save) wrote with the same settings; nothing where there is nothing.
    pub fn read(path: &Path, settings: &RoundSettings) -> Result<Option<Self>> {
        let Some(rounds) = Self::found(path)? else { return Ok(None) };
        if rounds.settings == *settings {
            return Ok(Some(rounds));
        }
        Err(begun_otherwise(path, &rounds.settings.named(), &settings.named()))
    }

    /// Whether there are rounds at `path`.
    ///
    /// # Errors
    /// When they were made with other settings, other than for the start, which is not known before bits are chosen.
    pub fn wait(path: &Path, settings: &RoundSettings) -> Result<bool> {
        let Some(was) = Self::found(path)?.map(|rounds| rounds.settings) else { return Ok(false) };
        let now = RoundSettings { start: was.start.clone(), ..settings.clone() };
        if was == now { Ok(true) } else { Err(begun_otherwise(path, &was.named(), &now.named())) }
    }

    fn found(path: &Path) -> Result<Option<Self>> {
        output_file::only_files(path)?;
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, e)),
        };
        let damaged = |what: String| Error::file(path, format!("damaged: {what}")).hint(output_file::ANEW);
        let (sum, rounds) = unsummed(&text).map_err(|e| damaged(e.to_string()))?;
        if sum {
            Ok(Some(rounds))
        } else {
            Err(damaged("its SHA-256 is not the one that was written with it".to_owned()))
        }
    }
}

/// The key of the SHA-256 of everything else.
const SUM: &str = "sha256";

/// As JSON, with its SHA-256.
fn summed(rounds: &Rounds) -> serde_json::Result<Vec<u8>> {
    let mut value = serde_json::to_value(rounds)?;
    value[SUM] = digest([serde_json::to_vec(&value)?]).into();
    serde_json::to_vec(&value)
}

/// Whether the SHA-256 is right, and the rest.
fn unsummed(text: &[u8]) -> serde_json::Result<(bool, Rounds)> {
    let mut value: Value = serde_json::from_slice(text)?;
    let said = value.as_object_mut().and_then(|object| object.shift_remove(SUM));
    let found = digest([serde_json::to_vec(&value)?]);
    Ok((said.as_ref().and_then(Value::as_str) == Some(&found), serde_json::from_value(value)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::numerics::quant::Quant;

    fn settings(rounds: u32) -> RoundSettings {
        let text = || "t".to_owned();
        RoundSettings {
            mixbit: text(),
            model: text(),
            target: text(),
            rounding: text(),
            dtype: text(),
            rounds,
            seed: 1,
            text: text(),
            slice: text(),
            start: text(),
        }
    }

    fn round(swaps: usize, kept: bool) -> RefinementRound {
        RefinementRound { swaps, kl_before: 0.1 + 0.2, kl_after: Some(1.0 / 3.0), stderr: Some(1e-9), kept }
    }

    fn moves(kl: f64) -> Moves {
        let change = Change { kl, stderr: 0.1 };
        Moves::from([(
            "a".to_owned(),
            vec![(Candidate::Keep, change), (Quant::affine(3, 32).into(), change)],
        )])
    }

    #[test]
    fn rounds_come_back_from_their_file_and_only_with_the_same_settings() {
        let home = tempfile::tempdir().unwrap();
        let path = Rounds::path(&home.path().join("out"));
        assert_eq!(Rounds::read(&path, &settings(3)).unwrap(), None);
        let bitmap = [("a".to_owned(), Quant::affine(4, 64))].into();
        let solution = Solution { bitmap, bpw: 4.5, kl: None, gap: 0.1, bytes: 7 };
        let mut rounds = Rounds::new(settings(3));
        rounds.refused(round(2, false), moves(1.0));
        assert!((rounds.caution - 2.0).abs() < 1e-12 && rounds.take_moves() == Some(moves(1.0)));
        rounds.kept(round(1, true), solution);
        rounds.refused(round(1, false), moves(-1.0 / 3.0));
        rounds.save(&path).unwrap();
        let mut back = Rounds::read(&path, &settings(3)).unwrap().unwrap();
        assert_eq!(back, rounds);
        assert!(back.is_over() && back.take_moves() == Some(moves(-1.0 / 3.0)));
        let error = Rounds::read(&path, &settings(4)).unwrap_err().to_string();
        assert!(error.ends_with("settings: --refine was 3, now it is 4"), "{error}");
        let other = RoundSettings { start: "u".to_owned(), ..settings(3) };
        assert!(Rounds::wait(&path, &other).unwrap() && Rounds::read(&path, &other).is_err());
        fs::write(&path, "{").unwrap();
        assert!(Rounds::wait(&path, &other).unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn a_round_without_swaps_is_the_last_and_odd_moves_are_not_kept() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("rounds");
        let mut rounds = Rounds::new(settings(3));
        assert!(!rounds.is_over());
        rounds.refused(round(0, false), moves(f64::NAN));
        assert!(rounds.is_over());
        rounds.save(&path).unwrap();
        assert_eq!(Rounds::read(&path, &settings(3)).unwrap().unwrap().take_moves(), None);
    }
}
