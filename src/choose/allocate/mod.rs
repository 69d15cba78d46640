//! Allocation: every layer gets a candidate, with the least predicted loss that fits a budget of bytes.
//!
//! A multiple-choice knapsack. Per unit (a layer, or layers tied together) the options are pruned to those that
//! no smaller one beats, and of these the lower convex hull is found. The hulls' edges of all units, steepest
//! first, are one path of upgrades ([`Problem::curve`]); each of its points is optimal for its own bytes, and
//! the slope of the first edge that does not fit is the Lagrange multiplier. What is left of the budget is
//! filled in `fill.rs`, with options off the hull too. The multiplier gives a lower bound on any allocation's
//! loss, so every result says how far from the optimum it can be at most.
//!
//! Sizes are exact bytes, the result never exceeds the budget, no single upgrade fits into what remains, and a
//! greater budget never predicts a greater loss. Deterministic: ties go to the lower index.
mod fill;
mod problem;
#[cfg(test)]
mod tests;

pub use problem::{Allocation, Choice, CurvePoint, Layer, Point, Problem};
