//! A prompt and what the models answer, side by side.

use serde::Serialize;

use crate::words::count;

/// A prompt and answers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Prompt that was asked.
    pub prompt: String,
    /// Answers, the float model's first, where it was asked.
    pub answers: Vec<Answer>,
}

/// Answer of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Name of the model.
    pub by: String,
    /// Text of the answer.
    pub text: String,
    /// Number of tokens of the answer.
    pub tokens: usize,
    /// True if the answer ended by itself, false if it was cut off.
    pub ended: bool,
}

/// Prompt and answers as the page shows them.
#[derive(Debug, Serialize)]
pub struct Section {
    prompt: String,
    answers: Vec<AnswerParts>,
    /// Comparison of the answers in a sentence; empty for one alone.
    comparison: String,
}

#[derive(Debug, Serialize)]
struct AnswerParts {
    by: String,
    /// Beginning that all answers share.
    same: String,
    /// Rest of the answer, from the first difference on.
    other: String,
    length: String,
}

/// Splits the answers at their first difference.
pub fn section(sample: &Sample) -> Section {
    let common = match &sample.answers[..] {
        [first, others @ ..] => others
            .iter()
            .fold(first.text.len(), |common, answer| common.min(common_prefix(&first.text, &answer.text))),
        [] => 0,
    };
    let answers = sample.answers.iter().map(|answer| {
        let (same, other) = answer.text.split_at_checked(common).unwrap_or((&answer.text, ""));
        let end = if answer.ended { "then it ended" } else { "then it was cut off" };
        AnswerParts {
            by: answer.by.clone(),
            same: same.to_owned(),
            other: other.to_owned(),
            length: format!("{}, {end}", count(answer.tokens, "token")),
        }
    });
    Section {
        prompt: sample.prompt.clone(),
        answers: answers.collect(),
        comparison: comparison(sample, common),
    }
}

fn comparison(sample: &Sample, common: usize) -> String {
    match &sample.answers[..] {
        [] | [_] => String::new(),
        [first, others @ ..] if others.iter().all(|answer| answer.text == first.text) => {
            "Both say the same.".to_owned()
        }
        [first, ..] => {
            let characters = first.text.get(..common).unwrap_or_default().chars().count();
            format!("The same for {characters} characters; what differs is marked.")
        }
    }
}

/// Returns the bytes of the longest text that both begin with.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(texts: &[&str]) -> Section {
        let answer =
            |text: &&str| Answer { by: "x".to_owned(), text: (*text).to_owned(), tokens: 1, ended: true };
        section(&Sample { prompt: "p".to_owned(), answers: texts.iter().map(answer).collect() })
    }

    #[test]
    fn answers_part_between_characters() {
        let section = sample(&["naïve é", "naïve è!"]);
        let parts: Vec<_> = section.answers.iter().map(|a| (a.same.as_str(), a.other.as_str())).collect();
        assert_eq!(parts, [("naïve ", "é"), ("naïve ", "è!")]);
        assert!(section.comparison.contains("6 characters"), "{}", section.comparison);
        assert_eq!(sample(&["a", "a"]).comparison, "Both say the same.");
        assert_eq!(sample(&["a"]).comparison, "");
        assert_eq!(sample(&["", "b"]).answers[1].other, "b");
    }
}
