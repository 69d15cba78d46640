//! The knapsack: units, options, hulls and the path of upgrades.

use serde::{Deserialize, Serialize};

use crate::choose::candidate::Candidate;
use crate::error::{Error, Result};

/// One thing a layer may get.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The setting, or float.
    pub candidate: Candidate,
    /// Stored bytes of the layer with it.
    pub bytes: u64,
    /// Predicted loss (KL divergence per token); sums over layers. Finite, may be negative (it is an estimate).
    pub loss: f64,
}

/// A layer and what it may get.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Its path, for messages.
    pub path: String,
    /// In any order, each candidate once, at least one.
    pub options: Vec<Choice>,
}

/// A candidate for every layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// Per layer, the index of its option.
    pub chosen: Vec<usize>,
    /// Sum of the chosen options' bytes.
    pub bytes: u64,
    /// Sum of the chosen options' losses.
    pub loss: f64,
    /// No allocation within the budget has a loss below `loss - gap`.
    pub gap: f64,
}

/// A point of the size/loss curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Bytes of all layers.
    pub bytes: u64,
    /// Predicted loss of all layers.
    pub loss: f64,
}

/// The best that a size can buy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Bits per weight.
    pub bpw: f64,
    /// Bytes of all layers.
    pub bytes: u64,
    /// Predicted loss of all layers: KL divergence per token.
    pub kl: f64,
}

/// Layers that are decided together. The options are in order of rising bytes and falling loss.
#[derive(Debug)]
pub(crate) struct Unit {
    layers: Vec<usize>,
    pub(crate) options: Vec<Choice>,
}

impl Unit {
    /// Returns the change of the unit's bytes and loss from one option to another.
    pub(crate) fn change(&self, from: usize, to: usize) -> Change {
        let (from, to) = (&self.options[from], &self.options[to]);
        Change { bytes: to.bytes as i64 - from.bytes as i64, loss: to.loss - from.loss }
    }
}

/// A difference of two states.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Change {
    pub(crate) bytes: i64,
    pub(crate) loss: f64,
}

impl Change {
    /// Returns the loss saved per byte spent.
    fn slope(self) -> f64 {
        -self.loss / self.bytes as f64
    }
}

/// An upgrade of a unit: an edge of its hull, or in [`fill`] any.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upgrade {
    pub(crate) unit: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) change: Change,
    pub(crate) slope: f64,
}

impl Upgrade {
    pub(crate) fn new(units: &[Unit], unit: usize, from: usize, to: usize) -> Self {
        let change = units[unit].change(from, to);
        Self { unit, from, to, change, slope: change.slope() }
    }

    /// Orders upgrades: steepest first, then the lower unit, then the smaller option.
    pub(crate) fn order(&self, other: &Self) -> std::cmp::Ordering {
        other.slope.total_cmp(&self.slope).then_with(|| (self.unit, self.to).cmp(&(other.unit, other.to)))
    }
}

/// Layers, checked and ordered once, to be solved for any number of budgets.
#[derive(Debug)]
pub struct Problem {
    units: Vec<Unit>,
    layers: Vec<Layer>,
    /// All hulls' edges, steepest first.
    path: Vec<Upgrade>,
    /// Before, between and after the edges of `path`.
    curve: Vec<Point>,
}

impl Problem {
    /// Checks and orders. Each of `ties` lists indices of layers that get the same candidate; those layers may
    /// only get what all of them have in common.
    pub fn new(layers: Vec<Layer>, ties: &[Vec<usize>]) -> Result<Self> {
        layers.iter().try_for_each(check)?;
        check_total(&layers)?;
        let units = units(&layers, ties)?;
        let mut path = Vec::new();
        for (unit, this) in units.iter().enumerate() {
            let hull = hull(&this.options);
            path.extend(hull.windows(2).map(|edge| Upgrade::new(&units, unit, edge[0], edge[1])));
        }
        path.sort_unstable_by(Upgrade::order);
        let mut at = Point { bytes: 0, loss: 0.0 };
        for smallest in units.iter().filter_map(|unit| unit.options.first()) {
            at = Point { bytes: at.bytes + smallest.bytes, loss: at.loss + smallest.loss };
        }
        let mut curve = vec![at];
        curve.extend(path.iter().map(|edge| {
            let bytes = at.bytes.saturating_add_signed(edge.change.bytes);
            at = Point { bytes, loss: at.loss + edge.change.loss };
            at
        }));
        Ok(Self { units, layers, path, curve })
    }

    /// Returns the fewest bytes any allocation takes, and those beyond which nothing improves.
    pub fn reachable(&self) -> (u64, u64) {
        let bytes = |point: Option<&Point>| point.map_or(0, |p| p.bytes);
        (bytes(self.curve.first()), bytes(self.curve.last()))
    }

    /// Returns the best that each size can buy: the hull path, rising in bytes and falling in loss.
    pub fn curve(&self) -> &[Point] {
        &self.curve
    }

    /// Returns the candidate of each layer, in the order of the layers.
    pub fn candidates<'p>(&'p self, allocation: &'p Allocation) -> impl Iterator<Item = Candidate> + 'p {
        let chosen = self.layers.iter().zip(&allocation.chosen);
        chosen.filter_map(|(layer, &index)| Some(layer.options.get(index)?.candidate))
    }

    /// Solves for sizes from the least to the most that can be spent, in steps of `step` bits per weight over so many
    /// `weights`.
    pub fn sampled(&self, weights: u64, step: f64) -> Result<Vec<CurvePoint>> {
        let bpw = |bytes: u64| bytes as f64 * 8.0 / weights.max(1) as f64;
        let (least, most) = self.reachable();
        let mut budgets = vec![least];
        let mut target = (bpw(least) / step).floor() * step + step;
        while target < bpw(most) {
            budgets.push((target * weights as f64 / 8.0) as u64);
            target += step;
        }
        budgets.push(most);
        let solved = |budget: u64| {
            let allocation = self.solve(budget)?;
            Ok(CurvePoint { bpw: bpw(allocation.bytes), bytes: allocation.bytes, kl: allocation.loss })
        };
        budgets.into_iter().map(solved).collect()
    }

    /// Finds the allocation for `budget` bytes.
    ///
    /// # Errors
    /// When even the smallest does not fit.
    pub fn solve(&self, budget: u64) -> Result<Allocation> {
        let (min, max) = self.reachable();
        if budget < min {
            return Err(Error::usage(format!(
                "a budget of {budget} bytes is out of reach: the smallest allocation takes {min}"
            ))
            .hint(format!("between {min} and {max} bytes can be reached; allow fewer bits to reach less")));
        }
        let edges = self.curve.partition_point(|point| point.bytes <= budget) - 1;
        let mut state = vec![0; self.units.len()];
        for edge in &self.path[..edges] {
            state[edge.unit] = edge.to;
        }
        let at = self.curve[edges];
        let mut bound = at.loss;
        if let Some(next) = self.path.get(edges) {
            let room = budget - at.bytes;
            bound -= next.slope * room as f64;
            super::fill::fill(&self.units, &mut state, next.slope, room as i64);
        }
        Ok(self.allocation(&state, bound))
    }

    /// Spreads the units' options over their layers.
    fn allocation(&self, state: &[usize], bound: f64) -> Allocation {
        let mut chosen = vec![0; self.layers.len()];
        let (mut bytes, mut loss) = (0, 0.0);
        for (unit, &option) in self.units.iter().zip(state) {
            let option = &unit.options[option];
            bytes += option.bytes;
            loss += option.loss;
            for &layer in &unit.layers {
                let same = |choice: &Choice| choice.candidate == option.candidate;
                chosen[layer] = self.layers[layer].options.iter().position(same).unwrap_or_default();
            }
        }
        Allocation { chosen, bytes, loss, gap: (loss - bound).max(0.0) }
    }
}

fn check(layer: &Layer) -> Result<()> {
    let bad = |what: String| Err(Error::input(format!("layer `{}`: {what}", layer.path)));
    if layer.options.is_empty() {
        return bad("nothing to choose from".to_owned());
    }
    for (i, choice) in layer.options.iter().enumerate() {
        if !choice.loss.is_finite() {
            return bad(format!("the predicted loss of {} is {}", choice.candidate, choice.loss));
        }
        if layer.options[..i].iter().any(|other| other.candidate == choice.candidate) {
            return bad(format!("{} is listed twice", choice.candidate));
        }
    }
    Ok(())
}

/// Fails unless sums and differences of any allocations fit 63 bits.
fn check_total(layers: &[Layer]) -> Result<()> {
    let largest = layers.iter().map(|layer| layer.options.iter().map(|o| o.bytes).max().unwrap_or(0));
    let total = largest.map(u128::from).sum::<u128>();
    if i64::try_from(total).is_ok() {
        return Ok(());
    }
    Err(Error::input(format!("the layers take up to {total} bytes, more than 63 bits can count")))
}

/// Returns one unit per tie and per layer that is in none, in order of their first layers.
fn units(layers: &[Layer], ties: &[Vec<usize>]) -> Result<Vec<Unit>> {
    let mut tie_of = vec![None; layers.len()];
    for (tie, members) in ties.iter().enumerate() {
        for &layer in members {
            match tie_of.get_mut(layer) {
                Some(free @ None) => *free = Some(tie),
                Some(Some(_)) => {
                    let path = &layers[layer].path;
                    return Err(Error::input(format!("layer `{path}` is tied twice")));
                }
                None => return Err(Error::input(format!("a tie names layer {layer} of {}", layers.len()))),
            }
        }
    }
    let mut done = vec![false; ties.len()];
    let mut units = Vec::with_capacity(layers.len());
    for (layer, tie) in tie_of.iter().enumerate() {
        match *tie {
            None => units.push(unit(layers, vec![layer])?),
            Some(tie) if !done[tie] => {
                done[tie] = true;
                units.push(unit(layers, ties[tie].clone())?);
            }
            Some(_) => {}
        }
    }
    Ok(units)
}

/// Joins layers: the candidates they all have, bytes and losses added up, without those that a smaller or
/// equal one matches.
fn unit(layers: &[Layer], members: Vec<usize>) -> Result<Unit> {
    let mut options = members.first().map_or_else(Vec::new, |&first| layers[first].options.clone());
    for &member in members.iter().skip(1) {
        let others = &layers[member].options;
        options.retain_mut(|option| {
            let other = others.iter().find(|other| other.candidate == option.candidate);
            if let Some(other) = other {
                option.bytes += other.bytes;
                option.loss += other.loss;
            }
            other.is_some()
        });
    }
    if options.is_empty() {
        let paths: Vec<&str> = members.iter().map(|&layer| layers[layer].path.as_str()).collect();
        return Err(Error::usage(format!(
            "the tied layers {} have no candidate in common",
            paths.join(", ")
        )));
    }
    options.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
    let mut best = f64::INFINITY;
    options.retain(|option| {
        let better = option.loss < best;
        best = best.min(option.loss);
        better
    });
    Ok(Unit { layers: members, options })
}

/// Returns the lower convex hull of options in order of rising bytes and falling loss: their indices. Slopes along it
/// strictly fall.
fn hull(options: &[Choice]) -> Vec<usize> {
    let slope = |from: usize, to: usize| {
        let (from, to): (&Choice, &Choice) = (&options[from], &options[to]);
        (from.loss - to.loss) / (to.bytes - from.bytes) as f64
    };
    let mut hull: Vec<usize> = Vec::with_capacity(options.len());
    for option in 0..options.len() {
        while let [.., before, last] = hull[..]
            && slope(last, option) >= slope(before, last)
        {
            hull.pop();
        }
        hull.push(option);
    }
    hull
}
