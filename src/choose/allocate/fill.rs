//! Spending what the hull path leaves of the budget.
//!
//! The plain filling takes, again and again, the steepest upgrade that fits, off the hull too, until none does.
//! It is tried from several starts: the point of the path itself, and that point with one or two units moved to
//! another option, up or down, so that pairs of units swap bytes. The best end wins.
//!
//! A greater budget never ends worse. For one start: let two budgets part at an upgrade that fits only the
//! greater one. All that the smaller one still takes is less steep and smaller in sum, so it saves less than
//! that single upgrade. And the starts depend only on the point of the path, not on the budget, except that a
//! greater budget admits more of them; and the next point of the path is itself optimal.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::problem::{Change, Unit, Upgrade};

/// Starts with one unit moved: those that cost least at the multiplier's price.
const SINGLES: usize = 64;
/// Number of those starts that are also tried two at a time.
const PAIRED: usize = 24;

/// A unit moved to another option.
#[derive(Debug, Clone, Copy)]
struct Move {
    unit: usize,
    to: usize,
    change: Change,
}

/// Improves `state` (an option per unit) within `room` bytes; `price` is the multiplier, loss per byte.
pub(crate) fn fill(units: &[Unit], state: &mut [usize], price: f64, room: i64) {
    let starts = starts(units, state, price, room);
    let widest = starts.iter().map(|start| room - bytes(start)).max().unwrap_or(room);
    let upgrades = upgrades(units, state, widest);
    let mut best: (f64, Vec<Move>) = (f64::INFINITY, Vec::new());
    let smallest = smallest_of_rest(&upgrades);
    let mut run = Run { units, upgrades: &upgrades, smallest: &smallest, state, heap: BinaryHeap::new() };
    for start in starts {
        run.heap.clear();
        if let Some(end) = run.from(start, room, best.0) {
            best = end;
        }
    }
    for step in best.1 {
        state[step.unit] = step.to;
    }
}

fn bytes(moves: &[Move]) -> i64 {
    moves.iter().map(|m| m.change.bytes).sum()
}

/// Returns the starts: no move, single moves, and pairs of them, that fit into `room`.
fn starts(units: &[Unit], state: &[usize], price: f64, room: i64) -> Vec<Vec<Move>> {
    let mut moves = Vec::new();
    for (unit, (this, &from)) in units.iter().zip(state).enumerate() {
        for to in (0..this.options.len()).filter(|&to| to != from) {
            let change = this.change(from, to);
            moves.push((change.loss + price * change.bytes as f64, Move { unit, to, change }));
        }
    }
    let order = |(a, x): &(f64, Move), (b, y): &(f64, Move)| {
        a.total_cmp(b).then_with(|| (x.unit, x.to).cmp(&(y.unit, y.to)))
    };
    if moves.len() > SINGLES {
        moves.select_nth_unstable_by(SINGLES, order);
        moves.truncate(SINGLES);
    }
    moves.sort_unstable_by(order);
    let moves: Vec<Move> = moves.into_iter().map(|(_, m)| m).collect();
    let mut starts = vec![Vec::new()];
    starts.extend(moves.iter().map(|&m| vec![m]));
    for (i, &a) in moves.iter().take(PAIRED).enumerate() {
        starts.extend(moves[..i].iter().filter(|b| b.unit != a.unit).map(|&b| vec![b, a]));
    }
    starts.retain(|start| bytes(start) <= room);
    starts
}

/// Returns every upgrade from `state` that takes at most `room` bytes, steepest first.
fn upgrades(units: &[Unit], state: &[usize], room: i64) -> Vec<Upgrade> {
    let mut upgrades = Vec::new();
    for (unit, (this, &from)) in units.iter().zip(state).enumerate() {
        let all = (from + 1..this.options.len()).map(|to| Upgrade::new(units, unit, from, to));
        upgrades.extend(all.take_while(|upgrade| upgrade.change.bytes <= room));
    }
    upgrades.sort_unstable_by(Upgrade::order);
    upgrades
}

/// Returns, for each upgrade, the bytes of the smallest from there on.
fn smallest_of_rest(upgrades: &[Upgrade]) -> Vec<i64> {
    let mut smallest: Vec<i64> = upgrades.iter().map(|upgrade| upgrade.change.bytes).collect();
    for i in (1..smallest.len()).rev() {
        smallest[i - 1] = smallest[i - 1].min(smallest[i]);
    }
    smallest
}

/// An [`Upgrade`] in a heap, steepest on top.
struct Steepest(Upgrade);

impl Ord for Steepest {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.order(&self.0)
    }
}

impl PartialOrd for Steepest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Steepest {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Steepest {}

/// The plain filling, from one start after the other.
struct Run<'a> {
    units: &'a [Unit],
    /// From the common state, for units that have not moved.
    upgrades: &'a [Upgrade],
    /// [`smallest_of_rest`] of them.
    smallest: &'a [i64],
    /// The common state; moved during a run, and restored after it.
    state: &'a mut [usize],
    /// Upgrades of units that have moved.
    heap: BinaryHeap<Steepest>,
}

impl Run<'_> {
    /// Fills the budget from `start`. Returns the change of loss and the moves, if the change is below `limit`.
    fn from(&mut self, start: Vec<Move>, room: i64, limit: f64) -> Option<(f64, Vec<Move>)> {
        let mut before = Vec::with_capacity(start.len());
        let (mut room, mut loss) = (room, 0.0);
        let mut moves = Vec::with_capacity(start.len());
        let mut at = 0;
        let mut pending = start.into_iter();
        while let Some(step) = pending.next().or_else(|| self.next(&mut at, room, loss, limit)) {
            before.push((step.unit, self.state[step.unit]));
            self.state[step.unit] = step.to;
            room -= step.change.bytes;
            loss += step.change.loss;
            let last = self.units[step.unit].options.len();
            for to in step.to + 1..last {
                self.heap.push(Steepest(Upgrade::new(self.units, step.unit, step.to, to)));
            }
            moves.push(step);
        }
        for (unit, option) in before.into_iter().rev() {
            self.state[unit] = option;
        }
        (loss < limit).then_some((loss, moves))
    }

    /// Finds the steepest upgrade, of a moved unit or from position `at` on, that fits into `room`; `None` too where no
    /// filling can get `loss` below `limit`.
    fn next(&mut self, at: &mut usize, room: i64, loss: f64, limit: f64) -> Option<Move> {
        loop {
            if self.smallest.get(*at).is_some_and(|&bytes| bytes > room) {
                *at = self.upgrades.len();
            }
            let fresh = self.upgrades.get(*at);
            let moved = self.heap.peek().map(|top| &top.0);
            let from_heap = match (fresh, moved) {
                (None, None) => return None,
                (Some(fresh), Some(moved)) => moved.order(fresh).is_lt(),
                (fresh, _) => fresh.is_none(),
            };
            let upgrade = if from_heap {
                self.heap.pop()?.0
            } else {
                *at += 1;
                *fresh?
            };
            if loss - upgrade.slope * room as f64 >= limit {
                return None;
            }
            // What a unit had before it moved is stale, and what does not fit now never will.
            if upgrade.change.bytes <= room && self.state[upgrade.unit] == upgrade.from {
                return Some(Move { unit: upgrade.unit, to: upgrade.to, change: upgrade.change });
            }
        }
    }
}
