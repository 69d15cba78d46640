//! Memory that a job needs.

use super::estimate::Work;
use super::operations::inputs;
use crate::engine::decoder::capped::QUERIES_AT_ONCE;
use crate::engine::learn::student::TOKENS_PER_PASS;
use crate::engine::passes::forward::positions_at_once;
use crate::numerics::rounding::Technique;

/// Bytes of a process that has loaded the engine and tokenized a text.
const PROCESS: u64 = 75 << 20;
/// Bytes that candidates tried side by side take beside a block's weights.
const TRIED: u64 = 25 << 20;
/// Arrays of capped scores, of their gradients and of what lies between that MLX holds at one time, as measured.
const SCORES: usize = 11;
/// Bytes of a value.
const F32: u64 = 4;
/// Bytes of a code that learns: a latent one, its two moments, and the best one so far, packed.
const LEARNING_CODE: u64 = 3 * F32 + 1;

impl Work<'_> {
    /// Returns the peak resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let spec = self.spec;
        let largest_block = self.linear() as u64 / spec.blocks.len().max(1) as u64 * F32;
        let head = (spec.vocab_size * spec.hidden_size) as u64 * F32;
        let ends = if spec.head.tied { head } else { 2 * head };
        let kept = (self.measured * (spec.blocks.len() + 2)).max(2 * self.sequences);
        let states = (kept * self.length * spec.hidden_size) as u64 * F32;
        let positions = self.length.min(positions_at_once(spec.vocab_size));
        let logits = 3 * (positions * spec.vocab_size) as u64 * F32;
        // Weights twice, gradients, and four sums of their squares.
        let measuring = if self.candidates > 0 {
            7 * largest_block + 2 * self.routed() + self.scores() + TRIED
        } else {
            0
        };
        // Sums of products, their means and a factor.
        let sums =
            |block| inputs(block).iter().map(|i| (i.matrices * i.columns * i.columns) as u64).sum::<u64>();
        let moments = spec.blocks.iter().map(sums).max().unwrap_or(0) * F32;
        let rounding = match (self.rounds, self.technique) {
            (true, Technique::Gptq) => 2 * largest_block + 3 * moments + self.routed(),
            (true, Technique::Search) => largest_block + self.routed(),
            _ => 0,
        };
        // The float model is compared with by a head of its own.
        let evaluating = if self.windows > 0 { head + largest_block + logits + self.routed() } else { 0 };
        let tuning =
            if self.distill + self.refine > 0 { head + self.learning(14 * largest_block) } else { 0 };
        let tuning = tuning + self.learning_codes * LEARNING_CODE;
        if self.sequences == 0 && self.windows == 0 {
            return PROCESS;
        }
        // One stage gives back what the next one takes.
        let stage = [measuring, rounding, evaluating, tuning].into_iter().max().unwrap_or(0);
        PROCESS + ends + logits + stage + states.min(self.activations)
    }

    /// Returns the bytes of what two sequences' tokens are on their way through experts, each token in several of them.
    fn routed(&self) -> u64 {
        let Some(experts) = self.spec.experts() else { return 0 };
        let row = 4 * self.spec.hidden_size + 8 * experts.intermediate_size;
        (2 * self.length * experts.per_token * row) as u64 * F32
    }

    /// Returns the bytes of capped scores with their gradients, which are there for some queries at a time.
    fn scores(&self) -> u64 {
        let capped = self.spec.attentions().filter(|attention| attention.cap.is_some());
        let heads = capped.map(|attention| attention.heads).max().unwrap_or(0);
        (SCORES * heads * self.length.min(QUERIES_AT_ONCE) * self.length) as u64 * F32
    }

    /// Returns the bytes of distillation, and about those of refinement, beside those of the `block`s: what the way back
    /// through one keeps of the tokens, and scales and biases with their gradients and moments, in groups of 64.
    fn learning(&self, block: u64) -> u64 {
        let widths = self
            .spec
            .blocks
            .iter()
            .map(|block| 6 * block.mlp.part.intermediate_size + block.attention.part.heads * self.length);
        let token = 12 * self.spec.hidden_size + widths.max().unwrap_or(0);
        block + (TOKENS_PER_PASS * token) as u64 * F32 + self.linear() as u64 / 64 * 2 * 5 * F32
    }
}
