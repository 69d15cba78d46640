//! Journal of an unfinished refinement: the rounds that are done, the choice of the best, and the state that the next begins
//! with.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::choose::candidate::Candidate;
use crate::choose::plan::Solution;
use crate::engine::measure::swaps::Change;
use crate::error::Result;
use crate::files::journal::{self, Header, Journal, Start};
use crate::files::output_file;
use crate::jobs::record::RefinementRound;

/// By layer, what it may become and how the KL divergence would change.
pub type Moves = BTreeMap<String, Vec<(Candidate, Change)>>;

/// Name of the setting that says what layers are and may become at the start.
pub const START: &str = "what layers may become";

/// The rounds so far, in a file that is replaced after each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefinementJournal {
    #[serde(skip)]
    path: PathBuf,
    #[serde(skip)]
    header: Header,
    /// Rounds at most.
    #[serde(skip)]
    pub max_rounds: usize,
    /// Results of the rounds.
    pub done: Vec<RefinementRound>,
    /// Choice of the last round that was kept.
    pub solution: Option<Solution>,
    /// Moves from there, where a round has measured them since.
    moves: Option<Moves>,
    /// Standard errors by which a move is next taken to be worse than predicted.
    pub caution: f64,
}

impl RefinementJournal {
    /// Path of the journal while `output` is being made.
    pub fn path(output: &Path) -> PathBuf {
        output_file::beside(output, ".refining")
    }

    /// Opens the journal at `path`, for so many rounds at most.
    pub fn open(path: &Path, header: Header, max_rounds: usize, start: Start) -> Result<Self> {
        let mut resumed = None;
        if start == Start::Resumed {
            resumed = Journal::read::<Self>(path, &header)?;
        } else {
            journal::remove(path);
        }
        let path = path.to_owned();
        if let Some((rounds, _)) = resumed {
            return Ok(Self { path, header, max_rounds, ..rounds });
        }
        let (done, solution, moves) = (Vec::new(), None, None);
        Ok(Self { path, header, max_rounds, done, solution, moves, caution: 1.0 })
    }

    /// True if no other round could be of use.
    pub fn is_over(&self) -> bool {
        self.done.len() >= self.max_rounds || self.done.last().is_some_and(|round| round.swaps == 0)
    }

    /// Hands out what layers may move to, where that was measured.
    pub fn take_moves(&mut self) -> Option<Moves> {
        self.moves.take()
    }

    /// Ends a round whose `solution` is kept: moves are to be measured anew.
    pub fn keep(&mut self, round: RefinementRound, solution: Solution) {
        self.done.push(round);
        (self.solution, self.moves, self.caution) = (Some(solution), None, 1.0);
    }

    /// Ends a round that changes nothing. The next asks for twice the certainty of the same `moves`.
    pub fn refuse(&mut self, round: RefinementRound, moves: Moves) {
        self.done.push(round);
        (self.moves, self.caution) = (Some(moves), 2.0 * self.caution);
    }

    /// Writes the rounds, replacing the file in one step.
    pub fn save(&self) -> Result<()> {
        let finite =
            |moves: &Moves| moves.values().flatten().all(|(_, c)| c.kl.is_finite() && c.stderr.is_finite());
        // JSON has no NaN: such moves are measured again.
        let written = Self { moves: self.moves.clone().filter(finite), ..self.clone() };
        Journal::replace(&self.path, &self.header, &written, &[])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::numerics::quant::Quant;

    fn open(path: &Path, start: Start) -> RefinementJournal {
        RefinementJournal::open(path, Header::new("refinement"), 3, start).unwrap()
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
    fn resumed_rounds_are_as_they_were() {
        let home = tempfile::tempdir().unwrap();
        let path = RefinementJournal::path(&home.path().join("out"));
        let bitmap = [("a".to_owned(), Quant::affine(4, 64))].into();
        let solution = Solution { bitmap, bpw: 4.5, kl: None, gap: 0.1, bytes: 7 };
        let mut rounds = open(&path, Start::Resumed);
        rounds.refuse(round(2, false), moves(1.0));
        assert!((rounds.caution - 2.0).abs() < 1e-12 && rounds.take_moves() == Some(moves(1.0)));
        rounds.keep(round(1, true), solution);
        rounds.refuse(round(1, false), moves(-1.0 / 3.0));
        rounds.save().unwrap();
        let mut resumed = open(&path, Start::Resumed);
        assert_eq!(resumed, rounds);
        assert!(resumed.is_over() && resumed.take_moves() == Some(moves(-1.0 / 3.0)));
        assert!(open(&path, Start::Anew).done.is_empty() && !path.exists());
    }

    #[test]
    fn a_round_without_swaps_is_the_last() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("rounds");
        let mut rounds = open(&path, Start::Anew);
        assert!(!rounds.is_over());
        rounds.refuse(round(0, false), moves(f64::NAN));
        assert!(rounds.is_over());
        rounds.save().unwrap();
        assert_eq!(open(&path, Start::Resumed).take_moves(), None, "not a number");
    }
}
