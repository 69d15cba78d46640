//! Windows of one length over a text: spread for calibration, consecutive for evaluation, and both from one text
//! without overlap. Each begins as the text does: see [`cut`](super::cut).

use std::collections::BTreeSet;

use super::cut::{Cut, tokens_for};
use super::text::Text;
use crate::error::{Error, Result};
use crate::text::tokenizer::Tokenizer;
use crate::words::count;

/// Number of windows of which the last is held out, if one text serves both calibration and evaluation.
pub const HELD_OUT_EVERY: usize = 8;

/// Windows of one text that share no token but those that all begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Windows to calibrate on, spread over the text.
    pub calibration: Vec<Vec<u32>>,
    /// Windows to evaluate on, in the order of the text. The choice depends only on the text, the length and the number
    /// asked for, not on the seed.
    pub held_out: Vec<Vec<u32>>,
    /// Held-out windows beyond the number asked for, in the order of the text.
    pub spare: Vec<Vec<u32>>,
    /// Windows that are not held out, beyond the number asked for, in the order of the text.
    pub unused: Vec<Vec<u32>>,
}

/// Consecutive windows of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// Token ids, window by window. All windows have one length.
    pub windows: Vec<Vec<u32>>,
    /// Number of tokens at the end that do not fill a window.
    pub left_out: usize,
}

impl Text {
    /// Returns `samples` sequences of `length` tokens, spread evenly over the text from a start that `seed` chooses.
    /// Where the tokenizer puts BOS before documents, every sequence begins with it, and it counts. The built-in text
    /// gives fewer sequences if it is too short.
    ///
    /// # Errors
    /// As [`Text::tokens`], when the text is too short, and when `length` has room for nothing but BOS.
    pub fn sequences<'t>(
        &self,
        tokenizer: impl Into<Option<&'t Tokenizer>>,
        samples: usize,
        length: usize,
        seed: u64,
    ) -> Result<Vec<Vec<u32>>> {
        let tokenizer = tokenizer.into();
        let tokens = self.tokens(tokenizer)?;
        let beginning = self.beginning(tokenizer, &tokens)?;
        let cut = Cut::new(&tokens, &beginning, length)?;
        let needed = tokens_for(samples, length, beginning.len());
        let wanted = Wanted { samples, length, tokens: needed, held_out: false };
        self.check_enough(tokens.len(), cut.len(), &wanted)?;
        Ok(cut.windows(spread(cut.len(), samples, seed)))
    }

    /// Splits the text into windows of `length` tokens to calibrate and to evaluate on, which begin as those of
    /// [`sequences`](Self::sequences). The last of every [`HELD_OUT_EVERY`] windows is held out, or the last of all if
    /// there are fewer. Of the held-out windows, at most `most_held_out` (0 counts as 1) are chosen, spread evenly; of
    /// the others, `samples` are chosen, spread evenly from a start that `seed` chooses. The built-in text gives fewer if
    /// it is too short.
    ///
    /// # Errors
    /// As [`Text::sequences`], and when the text is too short for both.
    pub fn split<'t>(
        &self,
        tokenizer: impl Into<Option<&'t Tokenizer>>,
        samples: usize,
        length: usize,
        seed: u64,
        most_held_out: usize,
    ) -> Result<Split> {
        let tokenizer = tokenizer.into();
        let tokens = self.tokens(tokenizer)?;
        let beginning = self.beginning(tokenizer, &tokens)?;
        let cut = Cut::new(&tokens, &beginning, length)?;
        let (held_out, calibration) = held_out(cut.len());
        let needed = tokens_for(windows_to_split(samples), length, beginning.len());
        let wanted = Wanted { samples, length, tokens: needed, held_out: true };
        self.check_enough(tokens.len(), calibration.len(), &wanted)?;
        let most = held_out.len().min(most_held_out.max(1));
        let chosen: BTreeSet<usize> = (0..most).map(|i| i * held_out.len() / most).collect();
        let pick = |wanted: bool| {
            let all = held_out.iter().enumerate().filter(|(index, _)| chosen.contains(index) == wanted);
            cut.windows(all.map(|(_, window)| *window))
        };
        let (held_out, spare) = (pick(true), pick(false));
        let chosen = spread(calibration.len(), samples, seed);
        let unused = calibration.iter().enumerate().filter(|(index, _)| !chosen.contains(index));
        Ok(Split {
            unused: cut.windows(unused.map(|(_, window)| *window)),
            calibration: cut.windows(chosen.iter().map(|&index| calibration[index])),
            held_out,
            spare,
        })
    }

    /// Returns consecutive windows of `length` tokens from the start of the text, with at most `max_tokens` tokens
    /// together. They begin as those of [`sequences`](Self::sequences). A shorter window at the end is left out unless it
    /// is the only one.
    ///
    /// # Errors
    /// As [`Text::tokens`], and when `length` is below 2 or has room for nothing but BOS, or `max_tokens` or the text's
    /// number of tokens is below 3.
    pub fn windows<'t>(
        &self,
        tokenizer: impl Into<Option<&'t Tokenizer>>,
        length: usize,
        max_tokens: Option<usize>,
    ) -> Result<Windows> {
        let most = max_tokens.unwrap_or(usize::MAX);
        if length < 2 || most < 3 {
            return Err(Error::usage(format!(
                "windows of {}, {} in all: a window needs 2, and one prediction has no standard error",
                count(length, "token"),
                if most == usize::MAX { "any number".to_owned() } else { most.to_string() }
            ))
            .hint("ask for windows of at least 2 tokens, and for at least 3 tokens of the text"));
        }
        let tokenizer = tokenizer.into();
        let tokens = self.first_tokens(tokenizer, most)?;
        if tokens.len() < 3 {
            return Err(Error::input(format!(
                "{} has {}, at least 3 are needed",
                self.name(),
                count(tokens.len(), "token")
            ))
            .hint("give a longer text"));
        }
        if tokens.len() < length {
            return Ok(Windows { windows: vec![tokens], left_out: 0 });
        }
        let beginning = self.beginning(tokenizer, &tokens)?;
        let cut = Cut::new(&tokens, &beginning, length)?;
        // What is inserted counts too.
        let whole = cut.len().min(most / length);
        let left_out = if whole < cut.len() { most } else { cut.rest.len() }.min(most - whole * length);
        Ok(Windows { windows: cut.windows(0..whole), left_out })
    }

    /// Fails if the `windows` that the text has are fewer than those `wanted`, unless it is the built-in text and has
    /// any. `tokens`, the text's number of tokens, is for the message.
    fn check_enough(&self, tokens: usize, windows: usize, wanted: &Wanted) -> Result<()> {
        let Wanted { samples, length, tokens: needed, held_out } = *wanted;
        if windows >= samples || (windows > 0 && self.is_built_in()) {
            return Ok(());
        }
        Err(Error::input(format!(
            "{} has {}; {}",
            self.name(),
            count(tokens, "token"),
            needs([samples, length], needed, held_out)
        ))
        .hint("give a longer setting `calibration` text, or fewer setting `samples` or a smaller setting `sequence_length`"))
    }
}

/// Windows to find in a text.
struct Wanted {
    /// Number of windows.
    samples: usize,
    /// Tokens of each.
    length: usize,
    /// Tokens of a text that has them.
    tokens: usize,
    /// True if some tokens are for evaluation.
    held_out: bool,
}

/// Says that `samples` sequences of `length` tokens need so many `tokens` of a text.
pub(crate) fn needs([samples, length]: [usize; 2], tokens: usize, held_out: bool) -> String {
    let verb = if samples == 1 { "needs" } else { "need" };
    let held_out = if held_out { ", some of them held out for evaluation" } else { "" };
    format!("{} of {length} {verb} {tokens}{held_out}", count(samples, "sequence"))
}

/// Divides the indices of so many `windows` into those that are held out and the others.
fn held_out(windows: usize) -> (Vec<usize>, Vec<usize>) {
    let few = windows < HELD_OUT_EVERY;
    (0..windows).partition(|index| {
        if few { index + 1 == windows } else { index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 }
    })
}

/// Returns the least number of windows of which `samples`, at least 1, are left when some are held out.
pub(crate) fn windows_to_split(samples: usize) -> usize {
    samples + (samples.saturating_sub(1) / (HELD_OUT_EVERY - 1)).max(1)
}

/// Returns the indices of the windows to take: at most `samples`, evenly spaced from a start that `seed` chooses and
/// continued from the front at the end.
fn spread(windows: usize, samples: usize, seed: u64) -> Vec<usize> {
    if windows == 0 {
        return Vec::new();
    }
    let count = samples.min(windows);
    let start = fastrand::Rng::with_seed(seed).usize(..windows);
    (0..count).map(|i| (start + i * windows / count) % windows).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::text::tests::{open, tokenizer};
    use super::*;
    use crate::text::tokenizer::{ChosenTemplate, TemplateSettings};

    /// Returns a text of the token ids from 0 to `count` - 1.
    fn counting(count: u16) -> Text {
        let header = format!("{{'descr': '<u2', 'fortran_order': False, 'shape': ({count},), }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend((0..count).flat_map(u16::to_le_bytes));
        open("a.npy", &bytes).unwrap()
    }

    #[test]
    fn windows_follow_one_another() {
        let (text, tokenizer) = (counting(11), tokenizer());
        let windows = |length, most| {
            let Windows { windows, left_out } = text.windows(&tokenizer, length, most).unwrap();
            (windows, left_out)
        };
        assert_eq!(windows(4, None), (vec![vec![0, 1, 2, 3], vec![4, 5, 6, 7]], 3));
        assert_eq!(windows(4, Some(7)), (vec![vec![0, 1, 2, 3]], 3));
        assert_eq!(windows(4, Some(8)).1, 0);
        assert_eq!(windows(4, Some(3)), (vec![vec![0, 1, 2]], 0));
        assert_eq!(windows(100, None), (vec![(0..11).collect()], 0));
        let error = counting(1).windows(&tokenizer, 4, None).unwrap_err().to_string();
        assert!(error.ends_with("has 1 token, at least 3 are needed"), "{error}");
        assert!(text.windows(&tokenizer, 1, None).is_err() && text.windows(&tokenizer, 4, Some(1)).is_err());
    }

    #[test]
    fn every_window_begins_with_bos() {
        let tokenizer = tokenizer();
        let text = open("a.txt", b"A trait tells the compiler what a type has and shares with other types.")
            .unwrap();
        let all = text.tokens(&tokenizer).unwrap();
        let Windows { windows, left_out } = text.windows(&tokenizer, 4, None).unwrap();
        assert!(windows.len() > 3 && windows.iter().all(|window| window[0] == 0));
        let parts: Vec<u32> = windows.iter().flat_map(|window| window[1..].to_vec()).collect();
        assert_eq!(parts, all[1..all.len() - left_out], "no token is lost");
        assert_eq!(
            text.windows(&tokenizer, 4, Some(11)).unwrap(),
            Windows { windows: windows[..2].to_vec(), left_out: 3 }
        );
        assert_eq!(text.windows(&tokenizer, 4, Some(12)).unwrap().left_out, 0, "BOS counts");
        let sequences = text.sequences(&tokenizer, 3, 4, 0).unwrap();
        assert!(sequences.iter().all(|sequence| windows.contains(sequence)));
        let Split { calibration, held_out, .. } = text.split(&tokenizer, 2, 4, 0, 1).unwrap();
        assert!(calibration.iter().chain(&held_out).all(|sequence| windows.contains(sequence)));
        assert!(text.sequences(&tokenizer, 1, 1, 0).is_err(), "no room beside BOS");
        let one_stream = text.windows(&tokenizer, usize::MAX, None).unwrap().windows;
        assert_eq!(one_stream, [all]);
    }

    #[test]
    fn conversations_begin_as_the_template_writes_them() {
        let tokenizer = tokenizer();
        let line = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes, and no, and so on and on"}]}"#;
        let text = open("a.jsonl", format!("{line}\n{line}\n").as_bytes()).unwrap();
        let windows = text.windows(&tokenizer, 8, None).unwrap().windows;
        assert!(windows.len() > 2 && windows.iter().all(|window| window[0] == 0), "{windows:?}");
        let settings = TemplateSettings {
            template: Some(ChosenTemplate::Source {
                path: "bare.jinja".into(),
                source: "{{ messages[1].content }}".to_owned(),
            }),
            ..TemplateSettings::default()
        };
        let plain = tokenizer.with_template(settings).unwrap();
        let windows = text.windows(&plain, 8, None).unwrap().windows;
        assert!(windows.iter().flatten().all(|&id| id != 0), "{windows:?}");
    }

    #[test]
    fn too_short_says_what_is_there_and_what_is_needed() {
        let tokenizer = tokenizer();
        let error = counting(11).sequences(&tokenizer, 4, 3, 0).unwrap_err().to_string();
        assert!(error.ends_with("has 11 tokens; 4 sequences of 3 need 12"), "{error}");
        assert_eq!(counting(12).sequences(&tokenizer, 4, 3, 0).unwrap().len(), 4);
        let built_in = Text::open(None).unwrap();
        assert!(built_in.sequences(&tokenizer, 100_000, 512, 0).unwrap().len() > 16);
        assert!(built_in.sequences(&tokenizer, 1, 1_000_000, 0).is_err());
    }

    #[test]
    fn held_out_windows_are_apart_and_always_the_same() {
        let (text, tokenizer) = (counting(40 * 5 + 3), tokenizer());
        let split = |samples, seed, most| text.split(&tokenizer, samples, 5, seed, most).unwrap();
        let first = split(35, 1, 100);
        let starts = |windows: &[Vec<u32>]| -> BTreeSet<u32> { windows.iter().map(|w| w[0]).collect() };
        assert_eq!(starts(&first.held_out), BTreeSet::from([35, 75, 115, 155, 195]));
        assert_eq!(starts(&first.calibration).len(), 35);
        assert!(starts(&first.calibration).is_disjoint(&starts(&first.held_out)) && first.unused.is_empty());
        assert!(first.spare.is_empty(), "all that is held out was asked for");
        let second = split(4, 2, 100);
        assert_eq!(second.held_out, first.held_out);
        let few = split(4, 2, 2);
        assert_eq!(starts(&few.held_out), BTreeSet::from([35, 115]));
        let apart = starts(&few.held_out).union(&starts(&few.spare)).copied().collect::<BTreeSet<_>>();
        assert_eq!(apart, starts(&first.held_out), "the rest is spare");
        assert_eq!(split(4, 2, 0).held_out.len(), 1);
        let used = starts(&few.calibration).union(&apart).copied().collect::<BTreeSet<_>>();
        assert!(few.unused.len() == 31 && starts(&few.unused).is_disjoint(&used));
    }

    #[test]
    fn both_need_room() {
        let tokenizer = tokenizer();
        // As many windows as the error asks for do.
        for samples in [1, 6, 7, 8, 14, 15, 50] {
            let needed =
                (1u16..1000).find(|&n| counting(n * 2).split(&tokenizer, samples, 2, 0, 9).is_ok()).unwrap();
            let error = counting(needed * 2 - 1).split(&tokenizer, samples, 2, 0, 9).unwrap_err().to_string();
            let expected = format!(" of 2 need {}, some of them held out for evaluation", needed * 2);
            let error = error.replace("1 sequence of 2 needs", "1 sequences of 2 need");
            assert!(error.contains(&expected), "{samples}: {error}");
        }
    }
}
