//! How long the stages of a job take.

use std::time::Duration;

use super::estimate::{Rates, Work};
use crate::choose::scores::scored_every;
use crate::engine::measure::settings::StepCosts;
use crate::jobs::quantize::tuning::LOOK_EVERY;
use crate::models::spec::DecoderSpec;
use crate::numerics::rounding::Technique;

// What is not a matrix product is counted in operations that take as long: found by least squares over the stages of jobs
// on stories260K, mobilellm-docs-1m and 6m, their like with experts, and shapes of widths 1536 and 2048.

/// Share of the matrix product's rate that those in blocks reach.
const BLOCKS: f64 = 0.77;
/// Norms, gates and copies of a value.
const VALUE: f64 = 680.0;
/// Softmax of one of attention's scores.
const SCORE: f64 = 57.0;
/// Starting a block's operations on a sequence, and an expert's.
const CALL: f64 = 1.1e8;
const EXPERT: f64 = 4.1e7;
/// Reading a weight from the checkpoint, and writing one.
const READ: f64 = 800.0;
const WRITTEN: f64 = 1000.0;
/// Forward passes through blocks that a way there and back takes as long as, and with it that of the model that is compared
/// with.
const BACK: f64 = 3.35;
const SWAPS: f64 = 5.5;
/// Weighing what a sequence says of a weight's neighbour.
const WEIGHED: f64 = 1650.0;
/// Share of the rate of scoring weights that a model's layers, one after another, reach.
const SCORED: f64 = 0.52;
/// Share of the matrix product's rate of factoring Hessians and feeding errors back, and the beginning of one.
const FEEDBACK: f64 = 0.35;
const HESSIAN: f64 = 2.5e8;
/// Forward passes that a step of distillation takes as long as, and beside them decoding a weight and adding up gradients for
/// its group, and a value that goes to an expert and back.
const STEP: f64 = 4.0;
const STEP_WEIGHT: f64 = 2400.0;
const STEP_ROUTED: f64 = 10_700.0;
/// Sequences that a step sees together.
const STEP_SEQUENCES: f64 = 4.0;
/// Seconds that a stage takes to begin and end.
const STAGE: f64 = 0.02;
/// Candidates that a round of refinement rounds every layer to, beside the one in force.
const NEIGHBOURS: f64 = 4.0;

/// What the stages of `work` are made of, in seconds.
pub(crate) struct Times<'a> {
    work: &'a Work<'a>,
    rates: Rates,
    /// A token through all blocks.
    block: f64,
    /// A token through the head.
    head: f64,
    /// All weights from the checkpoint.
    read: f64,
}

impl<'a> Times<'a> {
    pub(crate) fn new(work: &'a Work<'a>, rates: Rates) -> Self {
        let seconds = |operations: f64| operations / rates.flops;
        let (block, head) = (seconds(work.block()), seconds(work.head_flops()));
        Self { work, rates, block, head, read: seconds(work.linear() * READ) }
    }

    /// By name; those that take no time are left out.
    pub(crate) fn stages(&self) -> Vec<(&'static str, Duration)> {
        let all = [
            ("measuring", self.measuring()),
            ("rounding", self.rounding()),
            ("refining", self.refining()),
            ("distilling", self.distilling()),
            ("evaluating", self.evaluating()),
        ];
        let taken = all.into_iter().filter(|(_, seconds)| *seconds > 0.0);
        taken.map(|(name, seconds)| (name, Duration::from_secs_f64((STAGE + seconds).min(1e9)))).collect()
    }

    /// The steps of measuring sensitivities beside each other.
    pub(crate) fn steps(&self) -> StepCosts {
        let layers = self.work.spec.layers.len().max(1) as f64;
        let micros = |seconds: f64| (seconds * 1e6).clamp(1.0, 1e15) as u64;
        let measured = self.tokens(self.work.measured);
        StepCosts {
            forward: micros(measured * self.block / layers),
            head: micros(2.0 * measured * self.head),
            backward: micros(((BACK - 1.0) * measured * self.block + self.scoring()) / layers),
        }
    }

    fn measuring(&self) -> f64 {
        if self.work.candidates == 0 {
            return 0.0;
        }
        let passes =
            self.tokens(self.work.measured) * (BACK * self.block + 2.0 * self.head) + 2.0 * self.read;
        // Three whole models and the float one, on a part of the text.
        let part = self.tokens(self.work.whole);
        let rounded = 3.0 * self.work.linear() / (self.rates.scored * SCORED);
        let whole = rounded + 4.0 * self.forward(part) + self.read;
        let seen =
            if self.work.technique == Technique::Gptq { self.tokens(self.work.sequences) } else { part };
        passes + self.scoring() + whole + self.seconds(self.work.factors(seen)) + self.read / 2.0
    }

    /// Trying all candidates, on a part of what is large, and one of each of three group sizes on all of it.
    fn scoring(&self) -> f64 {
        let of = |[rows, columns]: [f64; 2]| {
            let weights = rows * columns;
            let tried = weights / scored_every(weights as usize) as f64;
            tried * self.work.candidates as f64 / self.rates.scored + weights * 3.0 / self.rates.nearest
        };
        self.work.matrices().map(of).sum::<f64>() / SCORED
    }

    fn rounding(&self) -> f64 {
        if self.work.rounds { self.inputs() + self.codes() + self.writing() } else { 0.0 }
    }

    /// What layers are rounded with.
    fn inputs(&self) -> f64 {
        let tokens = self.tokens(self.work.sequences);
        let passes = tokens * self.block + self.read;
        match self.work.technique {
            Technique::Gptq => passes + tokens * self.seconds(self.work.moment_flops() / BLOCKS),
            Technique::Search => passes,
            Technique::Rtn => 0.0,
        }
    }

    /// Finding the codes of all weights.
    fn codes(&self) -> f64 {
        let Work { technique, .. } = self.work;
        let weights = self.work.linear();
        match technique {
            Technique::Gptq => {
                let products = self.work.feedback_flops() / FEEDBACK + self.work.hessians() * HESSIAN;
                self.seconds(products) + weights / self.rates.fed_back
            }
            Technique::Search => weights / self.rates.scored,
            Technique::Rtn => weights / self.rates.nearest,
        }
    }

    fn writing(&self) -> f64 {
        self.seconds(self.work.linear() * WRITTEN)
    }

    fn refining(&self) -> f64 {
        if self.work.refine == 0 {
            return 0.0;
        }
        let Work { sequences, watched, refine, .. } = *self.work;
        let weighed = self.seconds(sequences as f64 * NEIGHBOURS * self.work.linear() * WEIGHED);
        let swaps = self.tokens(sequences) * (SWAPS * self.block + 4.0 * self.head) + weighed;
        // The neighbours of every layer are rounded, then the model that was chosen.
        let rounded = 2.0 * self.inputs() + (1.0 + NEIGHBOURS) * self.codes() + self.writing();
        let watched = self.forward(self.tokens(watched)) + self.read;
        refine as f64 * (rounded + swaps + watched) + 2.0 * watched
    }

    fn distilling(&self) -> f64 {
        if self.work.distill == 0 {
            return 0.0;
        }
        // Both models see what is watched; the float one what is learned from, too.
        let watched = self.forward(self.tokens(self.work.watched));
        let looks = 2.0 + self.work.distill as f64 / LOOK_EVERY as f64;
        let steps = self.work.distill as f64 * self.seconds(self.work.step());
        steps + looks * watched + self.forward(self.tokens(self.work.sequences)) + 4.0 * self.read
    }

    fn evaluating(&self) -> f64 {
        match self.work.windows {
            0 => 0.0,
            windows => 2.0 * (self.forward(self.tokens(windows)) + self.read),
        }
    }

    fn tokens(&self, sequences: usize) -> f64 {
        (sequences * self.work.length) as f64
    }

    fn forward(&self, tokens: f64) -> f64 {
        tokens * (self.block + self.head)
    }

    fn seconds(&self, operations: f64) -> f64 {
        operations / self.rates.flops
    }
}

/// Operations that what is counted takes as long as.
impl Work<'_> {
    /// Operations of all blocks for a token of a sequence, as long as it takes.
    fn block(&self) -> f64 {
        let experts = self.spec.experts.map_or(0, |experts| experts.count);
        let starts = CALL * self.spec.layers.len() as f64 + EXPERT * (experts * self.sparse_layers()) as f64;
        self.together() + starts / self.length.max(1) as f64
    }

    /// The same where starting operations does not count.
    fn together(&self) -> f64 {
        let DecoderSpec { hidden_size, intermediate_size, num_attention_heads, .. } = self.spec;
        let (sparse, routed) = (self.sparse_layers(), self.routed_values());
        let dense = (self.spec.layers.len() - sparse) * (hidden_size + intermediate_size);
        let values = self.spec.layers.len() * hidden_size + dense + routed;
        let scores = self.spec.layers.len() * num_attention_heads * self.length;
        self.block_flops() / BLOCKS + VALUE * values as f64 + SCORE * scores as f64
    }

    /// Operations of a step of distillation, as long as it takes.
    fn step(&self) -> f64 {
        let token = STEP * (self.together() + self.head_flops()) + STEP_ROUTED * self.routed_values() as f64;
        STEP_SEQUENCES * self.length as f64 * token + STEP_WEIGHT * self.linear()
    }

    /// Operations of trying what whole layers' errors are beside scores: half the blocks forward, moments of two of them.
    fn factors(&self, tokens: f64) -> f64 {
        let layers = self.spec.layers.len().max(1) as f64;
        let passes = tokens * (self.block() / 2.0 + 2.0 / layers * self.moment_flops() / BLOCKS);
        let tried = self.spec.layers.first().is_some_and(|layer| layer.sparse);
        let factored: f64 = self.inputs(tried).iter().map(|input| 2.0 * input.columns.powi(3) / 3.0).sum();
        passes + factored / FEEDBACK
    }
}
