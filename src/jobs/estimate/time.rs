//! Durations of a job's stages: operations of matrix products, counted from the shapes, at the rate that was tried on this
//! machine, and weights that are rounded, at the rates tried; all of it times one factor.

use std::time::Duration;

use super::estimate::{Rates, Work};
use crate::choose::scores::scored_every;
use crate::engine::measure::settings::StepCosts;
use crate::jobs::bars;
use crate::jobs::quantize::blocks::IMPORTANCE_SEQUENCES;
use crate::jobs::quantize::tuning::LOOK_EVERY;
use crate::numerics::rounding::Technique;
use crate::progress::{StageEstimate, StepEstimate};

/// Time of a job over that of its products and of rounding alone: norms, gates, softmax, copies, reading and writing.
const FACTOR: f64 = 1.6;
/// Products of a block's size on the way there and back: forward, once more where the way back begins, and with respect to
/// inputs and weights.
const THERE_AND_BACK: f64 = 4.0;
/// Group sizes of which one candidate each is tried on all weights.
const GROUP_SIZES: f64 = 3.0;
/// Candidates that a round of refinement rounds every layer to, beside the one in force.
const NEIGHBOURS: f64 = 4.0;
/// Sequences that a step of distillation sees.
const STEP_SEQUENCES: usize = 4;

/// Bar of a step, and the step's seconds without [`FACTOR`].
type Step = (&'static str, f64);

/// Durations of the stages of `work`, in seconds without [`FACTOR`].
pub(crate) struct Times<'a> {
    work: &'a Work<'a>,
    rates: Rates,
    /// A token through all blocks.
    blocks: f64,
    /// A token through the head.
    head: f64,
}

impl<'a> Times<'a> {
    pub(crate) fn new(work: &'a Work<'a>, rates: Rates) -> Self {
        let seconds = |operations: f64| operations / rates.flops;
        Self { work, rates, blocks: seconds(work.block_flops()), head: seconds(work.head_flops()) }
    }

    /// Returns the stages with their steps; those that take no time are left out.
    pub(crate) fn stages(&self) -> Vec<StageEstimate> {
        let all = [
            ("measuring", self.measuring()),
            ("rounding", if self.work.rounds { self.rounding() } else { Vec::new() }),
            ("refining", self.refining()),
            ("learning codes", if self.work.learns_blocks { self.learning_blocks() } else { Vec::new() }),
            ("distilling", self.distilling()),
            ("evaluating", self.evaluating()),
        ];
        let stages = all.into_iter().map(|(name, steps)| {
            let steps = steps.into_iter().filter(|(_, seconds)| *seconds > 0.0);
            let time = |seconds: f64| Duration::from_secs_f64((FACTOR * seconds).min(1e9));
            let steps = steps.map(|(bar, seconds)| StepEstimate { bar, time: time(seconds) });
            StageEstimate { name, steps: steps.collect() }
        });
        stages.filter(|stage| !stage.steps.is_empty()).collect()
    }

    /// Returns the costs of the steps of a measurement beside each other.
    pub(crate) fn steps(&self) -> StepCosts {
        let layers = self.work.spec.blocks.len().max(1) as f64;
        let micros = |seconds: f64| (seconds * 1e6).clamp(1.0, 1e15) as u64;
        let measured = self.tokens(self.work.measured);
        let back = (THERE_AND_BACK - 1.0) * measured * self.blocks;
        StepCosts {
            forward: micros(measured * self.blocks / layers),
            head: micros(2.0 * measured * self.head),
            backward: micros((back + self.scoring()) / layers),
        }
    }

    fn measuring(&self) -> Vec<Step> {
        if self.work.candidates == 0 {
            return Vec::new();
        }
        let passes = self.tokens(self.work.measured) * (THERE_AND_BACK * self.blocks + 2.0 * self.head);
        // Three whole models and the float one, on a part of the text.
        let whole = 3.0 * self.work.linear() / self.rates.scored + 4.0 * self.forward(self.work.whole);
        vec![
            (bars::SENSITIVITIES, passes + self.scoring()),
            (bars::WHOLE_MODELS, self.factors()),
            (bars::WHOLE_MODELS, whole),
        ]
    }

    /// Trying all candidates on a part of the weights, and one per group size on all of them.
    fn scoring(&self) -> f64 {
        let of = |[rows, columns]: [f64; 2]| {
            let weights = rows * columns;
            let tried = weights / scored_every(weights as usize) as f64;
            tried * self.work.candidates as f64 / self.rates.scored
                + weights * GROUP_SIZES / self.rates.nearest
        };
        self.work.matrices().map(of).sum()
    }

    /// Inputs of the first block and the middle one, to try what whole layers' errors are beside scores.
    fn factors(&self) -> f64 {
        let layers = self.work.spec.blocks.len().max(1) as f64;
        let moments = 2.0 / layers * self.seconds(self.work.moment_flops());
        let sequences = match self.work.technique {
            Technique::Gptq => self.work.sequences,
            Technique::Search => self.work.whole,
            Technique::Rtn => 0,
        };
        self.tokens(sequences) * (self.blocks / 2.0 + moments)
    }

    /// Inputs of all layers, and their codes, which GPTQ finds block by block and the others while files are written.
    fn rounding(&self) -> Vec<Step> {
        match self.work.technique {
            Technique::Gptq => vec![(bars::ROUNDING, self.inputs() + self.codes())],
            Technique::Search | Technique::Rtn => {
                vec![(bars::ROUNDING, self.inputs()), (bars::QUANTIZING, self.codes())]
            }
        }
    }

    /// Measuring the inputs that layers are rounded for.
    fn inputs(&self) -> f64 {
        let tokens = self.tokens(self.work.sequences);
        match self.work.technique {
            Technique::Gptq => tokens * (self.blocks + self.seconds(self.work.moment_flops())),
            Technique::Search => tokens * self.blocks,
            Technique::Rtn => 0.0,
        }
    }

    /// Finding the codes of all weights.
    fn codes(&self) -> f64 {
        let weights = self.work.linear();
        match self.work.technique {
            Technique::Gptq => self.seconds(self.work.feedback_flops()) + weights / self.rates.fed_back,
            Technique::Search => weights / self.rates.scored,
            Technique::Rtn => weights / self.rates.nearest,
        }
    }

    fn refining(&self) -> Vec<Step> {
        let Work { sequences, watched, refine, .. } = *self.work;
        // The float model sees the sequences too.
        let passes = (1.0 + THERE_AND_BACK) * self.blocks + 4.0 * self.head;
        // The neighbours of every layer are rounded and weighed by every sequence's gradients; then the model is rounded.
        let weighed = sequences as f64 * NEIGHBOURS * self.visited();
        let mut steps = Vec::new();
        for round in 0..refine {
            let watching = self.forward(watched) * if round == 0 { 3.0 } else { 1.0 };
            steps.push((bars::NEIGHBOURS, watching + self.inputs() + NEIGHBOURS * self.codes()));
            steps.push((bars::SWAPS, weighed + self.tokens(sequences) * passes));
            steps.extend(self.rounding());
        }
        steps
    }

    fn distilling(&self) -> Vec<Step> {
        let Work { sequences, watched, distill, .. } = *self.work;
        if distill == 0 {
            return Vec::new();
        }
        let passes = self.tokens(STEP_SEQUENCES) * THERE_AND_BACK * (self.blocks + self.head);
        // Weights are decoded, and their gradients added up by group.
        let step = passes + self.visited();
        let looks = distill as f64 / LOOK_EVERY as f64 * self.forward(watched);
        // Both models see what is watched; the float one what is learned from, too.
        vec![
            (bars::FLOAT_MODEL, self.forward(sequences)),
            (bars::FLOAT_MODEL, 2.0 * self.forward(watched)),
            (bars::DISTILLING, distill as f64 * step + looks),
        ]
    }

    /// Steps of all blocks, without the head, and what they are compared with.
    fn learning_blocks(&self) -> Vec<Step> {
        let Work { sequences, watched, distill, .. } = *self.work;
        let importance =
            self.tokens(IMPORTANCE_SEQUENCES.min(sequences)) * THERE_AND_BACK * (self.blocks + self.head);
        let step = self.tokens(STEP_SEQUENCES) * THERE_AND_BACK * self.blocks + self.visited();
        let looks = distill as f64 / LOOK_EVERY as f64 * self.tokens(watched) * self.blocks;
        let both = 2.0 * self.tokens(sequences + watched) * self.blocks;
        vec![(bars::FLOAT_MODEL, importance), (bars::LEARNING_BLOCKS, distill as f64 * step + looks + both)]
    }

    /// Both models on the windows.
    fn evaluating(&self) -> Vec<Step> {
        let tokens = self.tokens(self.work.windows);
        let blocks = tokens * self.blocks;
        vec![(bars::MODEL, blocks), (bars::REFERENCE, blocks), (bars::SCORING, 2.0 * tokens * self.head)]
    }

    /// Passing over all weights one by one, which takes about as long as rounding them to nearest.
    fn visited(&self) -> f64 {
        self.work.linear() / self.rates.nearest
    }

    fn tokens(&self, sequences: usize) -> f64 {
        (sequences * self.work.length) as f64
    }

    /// A forward pass of `sequences`.
    fn forward(&self, sequences: usize) -> f64 {
        self.tokens(sequences) * (self.blocks + self.head)
    }

    fn seconds(&self, operations: f64) -> f64 {
        operations / self.rates.flops
    }
}
