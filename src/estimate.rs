//! How long a job will take here and how much memory it needs: operations counted from the shapes, over rates that were
//! measured for a moment on this machine.

use std::fmt;
use std::time::Duration;

use crate::rounding::Technique;
use crate::sensitivity::scored_every;
use crate::spec::{DecoderSpec, Manifest, TensorSpec};
use crate::tuning::{LOOK_EVERY, TOGETHER};

/// What this machine does in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Float32 operations of a matrix product of the model's own sizes.
    pub flops: f64,
    /// Weights that are rounded to nearest, with one candidate.
    pub nearest: f64,
    /// Weights that are rounded as they will be scored, with one candidate.
    pub scored: f64,
    /// Weights that GPTQ finds codes for, beside its products.
    pub fed_back: f64,
}

/// Rows that a product takes as long as, if it has fewer: each matrix is packed for it first.
const ROWS_AT_LEAST: f64 = 32.0;
/// Share of the matrix product's rate that passes through wide blocks reach, and the width at which norms, softmax and copies
/// take as long as the products: 0.43 was found at 256, 0.68 at 576 and 0.8 at 1536. At 128 it was no less than at 256.
const BLOCKS: f64 = 0.95;
const NARROW: f64 = 310.0;
const NARROWEST: f64 = 256.0;
/// The same of factoring Hessians and feeding errors back.
const FEEDBACK: f64 = 0.35;
/// Share of the matrix product's rate that steps of distillation reach: 0.5 was found at widths of 256 and 1536.
const STEPS: f64 = 0.5;
/// Tokens of a step that decoding the weights and adding up gradients for groups takes as long as: 150 was found with and
/// without experts.
const STEP_TOKENS: f64 = 150.0;
/// Candidates that a round of refinement rounds every layer to, beside the one in force.
const NEIGHBOURS: f64 = 4.0;
/// Bytes of a process that has loaded the engine and tokenized a text.
const PROCESS: u64 = 75 << 20;
/// Bytes that candidates tried side by side take beside a block's weights.
const TRIED: u64 = 25 << 20;
/// Bytes of a value.
const F32: u64 = 4;

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// The decoder.
    pub spec: &'a DecoderSpec,
    /// Its tensors.
    pub manifest: &'a Manifest,
    /// Calibration sequences; none if nothing is measured or rounded with a text.
    pub sequences: usize,
    /// How many of them sensitivities are measured on.
    pub measured: usize,
    /// Tokens in each, and in each window.
    pub length: usize,
    /// How many sequences whole models are measured on.
    pub whole: usize,
    /// Candidates that sensitivities are measured for; none if they are not.
    pub candidates: usize,
    /// How layers are rounded, or would be.
    pub technique: Technique,
    /// Whether they are.
    pub rounds: bool,
    /// Windows that the result is evaluated on.
    pub windows: usize,
    /// Steps of distillation.
    pub distill: usize,
    /// Windows that it is watched on.
    pub watched: usize,
    /// Rounds of refinement.
    pub refine: usize,
    /// Bytes of hidden states in memory at most.
    pub activations: u64,
}

/// Time and memory to expect.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Stages by name; those that take no time are left out.
    pub stages: Vec<(&'static str, Duration)>,
    /// Peak resident memory in bytes.
    pub memory: u64,
    /// Of the measurement.
    pub steps: StepCosts,
}

/// What the steps of a measurement cost beside each other, so that a bar moves evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepCosts {
    /// A block forward.
    pub forward: u64,
    /// The head.
    pub head: u64,
    /// A block back, with the scores of its candidates.
    pub backward: u64,
}

impl Default for StepCosts {
    fn default() -> Self {
        Self { forward: 1, head: 1, backward: 3 }
    }
}

/// What goes into some of a block's layers.
#[derive(Debug, Clone, Copy)]
struct Input {
    columns: f64,
    /// Rows for a token.
    tokens: f64,
    /// Matrices that have one each.
    matrices: f64,
}

impl Work<'_> {
    /// What it takes at the `rates` of a machine.
    pub fn estimate(&self, rates: Rates) -> Estimate {
        let tokens = (self.sequences * self.length) as f64;
        let measured = (self.measured * self.length) as f64;
        let per_second = self.per_second(rates);
        let (blocks, head) = (self.block_flops(), self.head_flops());
        let forward = |tokens: f64| tokens * (blocks + head) / per_second;
        let scoring = self.scoring(rates);
        let (mut seconds, gptq) = (Vec::new(), self.technique == Technique::Gptq);
        if self.candidates > 0 {
            // Forward; and for the way back forward again and two products for each of it.
            let passes = measured * (4.0 * blocks + 2.0 * head) / per_second;
            // Three whole models and the float one, on a part of the text.
            let part = (self.whole * self.length) as f64;
            let whole = 3.0 * self.linear() / rates.scored + 4.0 * forward(part);
            let factors = self.factors(if gptq { tokens } else { part }, rates);
            seconds.push(("measuring", passes + scoring + whole + factors));
        }
        let passes = tokens * blocks / per_second;
        let (inputs, codes) = match self.technique {
            Technique::Gptq => {
                let moments = tokens * self.moment_flops() / per_second;
                let products = self.feedback_flops() / (rates.flops * FEEDBACK);
                (passes + moments, products + self.linear() / rates.fed_back)
            }
            Technique::Search => (passes, self.linear() / rates.scored),
            Technique::Rtn => (0.0, self.linear() / rates.nearest),
        };
        seconds.push(("rounding", if self.rounds { inputs + codes } else { 0.0 }));
        // The neighbours of every layer are rounded, then the model that was chosen; between them both models go forward, and
        // the rounded one back.
        let round = 2.0 * inputs + (1.0 + NEIGHBOURS) * codes + tokens * 5.0 * blocks / per_second;
        seconds.push(("refining", self.refine as f64 * round));
        if self.distill > 0 {
            // Both models see what is watched; the float one what is learned from, too.
            let watched = forward((self.watched * self.length) as f64);
            let looks = 1.0 + self.distill as f64 / LOOK_EVERY as f64;
            let batch = (4 * self.length) as f64;
            let step = 4.0 * batch * (blocks + head) + 4.0 * STEP_TOKENS * 2.0 * self.linear();
            let steps = self.distill as f64 * step / (rates.flops * STEPS);
            seconds.push(("distilling", steps + looks * watched + forward(tokens) + watched));
        }
        seconds.push(("evaluating", 2.0 * forward((self.windows * self.length) as f64)));
        let stages = seconds.into_iter().filter(|(_, seconds)| *seconds > 0.0);
        let layers = self.spec.layers.len().max(1) as f64;
        let micros = |seconds: f64| (seconds * 1e6).clamp(1.0, 1e15) as u64;
        Estimate {
            stages: stages.map(|(name, seconds)| (name, Duration::from_secs_f64(seconds.min(1e9)))).collect(),
            memory: self.memory(),
            steps: StepCosts {
                forward: micros(measured * blocks / layers / per_second),
                head: micros(2.0 * measured * head / per_second),
                backward: micros((3.0 * measured * blocks / per_second + scoring) / layers),
            },
        }
    }

    /// Operations of passes through blocks in a second.
    fn per_second(&self, rates: Rates) -> f64 {
        let width = (self.spec.hidden_size as f64).max(NARROWEST);
        rates.flops * BLOCKS * width / (width + NARROW)
    }

    /// Seconds of trying what whole layers' errors are beside scores: half the blocks forward, moments of two of them.
    fn factors(&self, tokens: f64, rates: Rates) -> f64 {
        let layers = self.spec.layers.len().max(1) as f64;
        let passes = tokens * (self.block_flops() / 2.0 + 2.0 / layers * self.moment_flops());
        let tried = self.spec.layers.first().is_some_and(|layer| layer.sparse);
        let factored: f64 = self.inputs(tried).iter().map(|input| 2.0 * input.columns.powi(3) / 3.0).sum();
        passes / self.per_second(rates) + factored / (rates.flops * FEEDBACK)
    }

    /// Weights of all linear layers.
    fn linear(&self) -> f64 {
        self.matrices().map(|[rows, columns]| rows * columns).sum()
    }

    /// Seconds of trying all candidates, on a part of what is large, and one of each of three group sizes on all of it.
    fn scoring(&self, rates: Rates) -> f64 {
        let of = |[rows, columns]: [f64; 2]| {
            let weights = rows * columns;
            let tried = weights / scored_every(weights as usize) as f64;
            tried * self.candidates as f64 / rates.scored + weights * 3.0 / rates.nearest
        };
        self.matrices().map(of).sum()
    }

    fn matrices(&self) -> impl Iterator<Item = [f64; 2]> {
        let specs = self.manifest.iter().filter(|spec| spec.quantizable());
        specs.map(|spec| [spec.rows() as f64, spec.columns() as f64])
    }

    /// Operations of all blocks for a token.
    fn block_flops(&self) -> f64 {
        let in_blocks = self.manifest.iter().filter(|spec| spec.layer.is_some() && spec.quantizable());
        let weights: f64 = in_blocks.map(|spec| spec.len() as f64 * self.used(spec)).sum();
        let width = self.spec.num_attention_heads * self.spec.head_dim;
        2.0 * weights + 4.0 * (self.length * width * self.spec.layers.len()) as f64
    }

    /// Part of a layer that a token meets. A product with few rows takes as long as one with some more, and each sequence
    /// gives an expert few.
    fn used(&self, spec: &TensorSpec) -> f64 {
        match (spec.experts(), self.spec.experts) {
            (Some(_), Some(experts)) => {
                let part = experts.per_token as f64 / experts.count as f64;
                part + ROWS_AT_LEAST / self.length.max(1) as f64
            }
            _ => 1.0,
        }
    }

    /// Operations of the head for a token.
    fn head_flops(&self) -> f64 {
        2.0 * (self.spec.hidden_size * self.spec.vocab_size) as f64
    }

    /// Operations of E[x x^T] for a token, half of which is the other half's mirror image: q, k and v share an input, and
    /// gate and up.
    fn moment_flops(&self) -> f64 {
        let of = |sparse| self.inputs(sparse).iter().map(|i| i.tokens * i.columns * i.columns).sum::<f64>();
        self.spec.layers.iter().map(|layer| of(layer.sparse)).sum()
    }

    /// The four inputs of a block.
    fn inputs(&self, sparse: bool) -> [Input; 4] {
        let DecoderSpec { hidden_size, intermediate_size, num_attention_heads, head_dim, .. } = self.spec;
        let one = |columns: usize| Input { columns: columns as f64, tokens: 1.0, matrices: 1.0 };
        let attention = [one(*hidden_size), one(num_attention_heads * head_dim)];
        let [gate, down] = match self.spec.experts.filter(|_| sparse) {
            None => [one(*hidden_size), one(*intermediate_size)],
            Some(experts) => [*hidden_size, experts.intermediate_size].map(|columns| Input {
                columns: columns as f64,
                tokens: experts.per_token as f64,
                matrices: experts.count as f64,
            }),
        };
        [attention[0], attention[1], gate, down]
    }

    /// Operations of GPTQ: a factorization and a triangular product a matrix.
    fn feedback_flops(&self) -> f64 {
        let specs = self.manifest.iter().filter(|spec| spec.quantizable());
        let of = |spec: &TensorSpec| {
            let (rows, columns) = (spec.rows() as f64, spec.columns() as f64);
            columns * columns * (spec.experts().unwrap_or(1) as f64 * columns / 3.0 + rows)
        };
        specs.map(of).sum()
    }

    fn memory(&self) -> u64 {
        let spec = self.spec;
        let largest_block = self.linear() as u64 / spec.layers.len().max(1) as u64 * F32;
        let ends = (spec.vocab_size * spec.hidden_size) as u64 * F32;
        let ends = if spec.tie_word_embeddings { ends } else { 2 * ends };
        let kept = (self.measured * (spec.layers.len() + 2)).max(2 * self.sequences);
        let states = (kept * self.length * spec.hidden_size) as u64 * F32;
        let logits = 3 * (self.length.min(256) * spec.vocab_size) as u64 * F32;
        // Weights twice, gradients, and four sums of their squares.
        let measuring = if self.candidates > 0 { 7 * largest_block + 2 * self.routed() + TRIED } else { 0 };
        // Sums of products, their means and a factor.
        let sparse = spec.layers.iter().any(|layer| layer.sparse);
        let sums = self.inputs(sparse).into_iter().map(|i| (i.matrices * i.columns * i.columns) as u64);
        let moments = sums.sum::<u64>() * F32;
        let rounding = match (self.rounds, self.technique) {
            (true, Technique::Gptq) => 2 * largest_block + 3 * moments + self.routed(),
            (true, Technique::Search) => largest_block + self.routed(),
            _ => 0,
        };
        let evaluating = if self.windows > 0 { largest_block + logits + self.routed() } else { 0 };
        let tuning = if self.distill + self.refine > 0 { self.learning(14 * largest_block) } else { 0 };
        if self.sequences == 0 && self.windows == 0 {
            return PROCESS;
        }
        // One stage gives back what the next one takes.
        let stage = [measuring, rounding, evaluating, tuning].into_iter().max().unwrap_or(0);
        PROCESS + ends + logits + stage + states.min(self.activations)
    }

    /// Bytes of what two sequences' tokens are on their way through experts, each token in several of them.
    fn routed(&self) -> u64 {
        let Some(experts) = self.spec.experts else { return 0 };
        let row = 4 * self.spec.hidden_size + 8 * experts.intermediate_size;
        (2 * self.length * experts.per_token * row) as u64 * F32
    }

    /// Bytes of distillation, and about those of refinement, beside those of the `block`s: what the way back through one
    /// keeps of the tokens, and scales and biases with their gradients and moments, in groups of 64.
    fn learning(&self, block: u64) -> u64 {
        let DecoderSpec { hidden_size, intermediate_size, num_attention_heads, .. } = self.spec;
        let token = 12 * hidden_size + 6 * intermediate_size + num_attention_heads * self.length;
        block + (TOGETHER * token) as u64 * F32 + self.linear() as u64 / 64 * 2 * 5 * F32
    }
}

impl Estimate {
    /// All stages together.
    pub fn total(&self) -> Duration {
        self.stages.iter().map(|(_, time)| *time).sum()
    }
}

impl fmt::Display for Estimate {
    /// `measuring 6 s, rounding 3 s; 9 s in all`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, time)) in self.stages.iter().enumerate() {
            write!(f, "{}{name} {}", if index == 0 { "" } else { ", " }, rough(*time))?;
        }
        match self.stages.len() {
            0 => f.write_str("under 1 s"),
            1 => Ok(()),
            _ => write!(f, "; {} in all", rough(self.total())),
        }
    }
}

/// Two digits at most.
fn rough(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 1.0 => "under 1 s".to_owned(),
        seconds if seconds < 100.0 => format!("{seconds:.0} s"),
        seconds if seconds < 5400.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::SourceModel;

    #[test]
    fn stages_follow_the_work() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/mobilellm-docs-1m");
        let source = SourceModel::open(&folder).unwrap();
        let work = Work {
            spec: source.spec(),
            manifest: source.manifest(),
            sequences: 8,
            measured: 8,
            length: 128,
            whole: 2,
            candidates: 18,
            technique: Technique::Gptq,
            rounds: true,
            windows: 4,
            distill: 0,
            watched: 4,
            refine: 0,
            activations: 1 << 29,
        };
        let rates = Rates { flops: 1e10, nearest: 1e8, scored: 1e7, fed_back: 1e6 };
        let names = |work: Work<'_>| -> Vec<&str> {
            work.estimate(rates).stages.into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(work), ["measuring", "rounding", "evaluating"]);
        let nothing = Work { candidates: 0, rounds: false, windows: 0, ..work };
        assert_eq!(names(nothing), Vec::<&str>::new());
        assert_eq!(nothing.estimate(rates).to_string(), "under 1 s");
        let only = |technique| Work { technique, rounds: true, ..nothing }.estimate(rates);
        let [nearest, search, gptq] = [Technique::Rtn, Technique::Search, Technique::Gptq].map(only);
        assert!(nearest.total() < search.total() && search.total() < gptq.total());
        assert!(nearest.memory < search.memory && search.memory < gptq.memory);
        let tuned = Work { distill: 10, refine: 1, ..work };
        assert_eq!(names(tuned), ["measuring", "rounding", "refining", "distilling", "evaluating"]);
        let (one, two) = (work.estimate(rates), Work { sequences: 16, measured: 16, ..work }.estimate(rates));
        assert!(two.total() > one.total() && two.total() < 2 * one.total());
        assert!(two.memory > one.memory);
        assert!(work.estimate(Rates { flops: 2e10, ..rates }).total() < one.total());
        assert!(one.steps.backward > one.steps.forward);
        assert_eq!(rough(Duration::from_secs(7)), "7 s");
        assert_eq!(rough(Duration::from_mins(10)), "10 min");
    }
}
