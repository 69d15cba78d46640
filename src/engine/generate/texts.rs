//! Texts that a model writes itself, many at a time, to calibrate on.

use rayon::prelude::*;

use crate::engine::cache::sequence::{CacheSettings, Caches};
use crate::engine::decoder::model::Model;
use crate::error::{Error, Result};
use crate::text::sampling::{are_numbers, categorical};

/// Texts that are written side by side: enough for the matrix products, and the same on every machine.
const TEXTS_AT_ONCE: usize = 32;

/// Sampled texts: how they begin, and how long they become.
#[derive(Debug, Clone)]
pub struct SampledTexts<'a> {
    /// Tokens that each text begins with, at least one.
    pub prompts: &'a [Vec<u32>],
    /// Tokens of each text, its prompt included.
    pub length: usize,
    /// Tokens that end a document. `beginning` follows each.
    pub stop: &'a [u32],
    /// Tokens that a document begins with; may be none.
    pub beginning: &'a [u32],
    /// Seed of the samples. A text depends on it and on its number.
    pub seed: u64,
}

/// Continues each prompt with tokens drawn from the whole distribution of `model`. `tick` is called with the number of
/// texts that are finished, some at a time.
///
/// # Errors
/// When a prompt is empty or has a token outside the vocabulary, when logits are not numbers, or when a stop was
/// requested.
pub fn sample_texts(
    model: &Model,
    settings: &SampledTexts<'_>,
    tick: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<u32>>> {
    let mut texts = Vec::with_capacity(settings.prompts.len());
    // Texts of one array are equally long at every step.
    for same_length in settings.prompts.chunk_by(|a, b| a.len() == b.len()) {
        for prompts in same_length.chunks(TEXTS_AT_ONCE) {
            let first = texts.len();
            texts.extend(write_together(model, settings, prompts, first)?);
            tick(prompts.len());
        }
    }
    Ok(texts)
}

/// Text that is being written.
struct Draft {
    tokens: Vec<u32>,
    rng: fastrand::Rng,
    /// Tokens of the next document's beginning that are still to come.
    begins: usize,
}

/// Writes texts whose prompts have one length, of which the first has number `first`.
fn write_together(
    model: &Model,
    settings: &SampledTexts<'_>,
    prompts: &[Vec<u32>],
    first: usize,
) -> Result<Vec<Vec<u32>>> {
    let &SampledTexts { length, stop, beginning, seed, .. } = settings;
    for prompt in prompts {
        model.check_tokens(prompt)?;
    }
    let mut caches = Caches::new(model.spec(), &CacheSettings::default(), 0);
    let mut drafts: Vec<Draft> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| Draft {
            tokens: prompt.clone(),
            rng: fastrand::Rng::with_seed(seed ^ (first as u64 + index as u64 + 1).wrapping_mul(SPREAD)),
            begins: 0,
        })
        .collect();
    let mut read = 0;
    while drafts[0].tokens.len() < length {
        crate::interrupt::check()?;
        let rows: Vec<&[u32]> = drafts.iter().map(|draft| &draft.tokens[read..]).collect();
        read = drafts[0].tokens.len();
        let logits = model.next_logits(&rows, &mut caches)?;
        let vocabulary = logits.len() / drafts.len();
        let drawn = drafts.par_iter_mut().zip(logits.par_chunks(vocabulary));
        drawn.try_for_each(|(draft, logits)| draft.draw(logits, stop, beginning))?;
    }
    Ok(drafts.into_iter().map(|draft| draft.tokens[..length].to_vec()).collect())
}

/// Multiplier that makes seeds of numbers.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Draft {
    /// Appends the next token: of a beginning after a document's end, and drawn elsewhere.
    fn draw(&mut self, logits: &[f32], stop: &[u32], beginning: &[u32]) -> Result<()> {
        if self.begins > 0 {
            self.tokens.push(beginning[beginning.len() - self.begins]);
            self.begins -= 1;
            return Ok(());
        }
        if !are_numbers(logits) {
            return Err(Error::input("the model's logits are not numbers")
                .hint("the weights hold NaN or infinite values: no text can be generated from them"));
        }
        let token = categorical(logits, self.rng.f64());
        if stop.contains(&token) {
            self.begins = beginning.len();
        }
        self.tokens.push(token);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::engine::runtime::Engine;
    use crate::models::source::SourceModel;

    fn models() -> Vec<PathBuf> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let entries = std::fs::read_dir(fixtures.join("golden")).unwrap();
        let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        folders.push(fixtures.join("models/mobilellm-docs-1m"));
        folders.retain(|folder| folder.join("config.json").is_file());
        folders.sort();
        assert!(folders.len() > 100, "{}", folders.len());
        folders
    }

    #[test]
    fn texts_side_by_side_have_the_logits_of_one_alone() {
        let engine = Engine::start().unwrap();
        let mut rng = fastrand::Rng::with_seed(5);
        for folder in models() {
            let model = Model::load(&engine, &SourceModel::open(&folder).unwrap(), None).unwrap();
            let vocabulary = model.spec().vocab_size;
            let texts: Vec<Vec<u32>> =
                (0..3).map(|_| (0..14).map(|_| rng.u32(0..vocabulary as u32)).collect()).collect();
            let mut caches = Caches::new(model.spec(), &CacheSettings::default(), 0);
            let mut from = 0;
            for to in [6, 7, 8, 14] {
                let rows: Vec<&[u32]> = texts.iter().map(|text| &text[from..to]).collect();
                let logits = model.next_logits(&rows, &mut caches).unwrap();
                for (text, logits) in texts.iter().zip(logits.chunks(vocabulary)) {
                    let all = model.logits(&text[..to], None).unwrap();
                    let alone = &all[all.len() - vocabulary..];
                    let largest = alone.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                    let difference = alone.iter().zip(logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(difference <= 1e-4 * largest, "{} {to}: {difference}", folder.display());
                }
                from = to;
            }
        }
    }

    #[test]
    fn a_document_that_ends_is_followed_by_a_beginning() {
        let engine = Engine::start().unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/mobilellm-docs-1m");
        let model = Model::load(&engine, &SourceModel::open(&folder).unwrap(), None).unwrap();
        let prompts = vec![vec![0], vec![0], vec![0, 5]];
        // Every second token or so ends a document.
        let stop: Vec<u32> = (0..1024).filter(|id: &u32| id.is_multiple_of(2)).collect();
        let settings =
            SampledTexts { prompts: &prompts, length: 40, stop: &stop, beginning: &[7, 9], seed: 1 };
        let mut finished = 0;
        let texts = sample_texts(&model, &settings, &mut |count| finished += count).unwrap();
        assert_eq!((texts.len(), finished), (3, 3));
        assert!(texts[0] != texts[1] && texts.iter().all(|text| text.len() == 40));
        for (text, prompt) in texts.iter().zip(&prompts) {
            assert!(text.starts_with(prompt));
            let mut ends = 0;
            for (index, _) in
                text.iter().enumerate().skip(prompt.len()).filter(|(_, id)| id.is_multiple_of(2))
            {
                assert!(
                    text[index + 1..].iter().zip([7, 9]).all(|(id, expected)| *id == expected),
                    "{text:?}"
                );
                ends += 1;
            }
            assert!(ends > 3, "{text:?}");
        }
        assert_eq!(sample_texts(&model, &settings, &mut |_| {}).unwrap(), texts);
        let other = SampledTexts { seed: 2, ..settings };
        assert!(sample_texts(&model, &other, &mut |_| {}).unwrap() != texts);
    }
}
