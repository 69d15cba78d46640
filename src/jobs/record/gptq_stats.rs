//! Rows and experts for which error feedback (GPTQ) was no better than scale search.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use super::record::FILE;
use crate::numerics::rounding::FEW_TOKENS;
use crate::words::count;

/// Counts of rows and experts for which error feedback (GPTQ) was no better than scale search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GptqStats {
    /// Rows of all layers that were rounded with it.
    pub rows: usize,
    /// Rows that are as scale search left them, by layer; layers without any are not listed.
    pub searched_rows: BTreeMap<String, usize>,
    /// Number of experts of each MLP that was rounded with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub experts: BTreeMap<String, usize>,
    /// Experts that saw too few tokens for error feedback, by layer: all their rows are as scale search left them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub few_tokens: BTreeMap<String, Vec<usize>>,
}

impl GptqStats {
    /// Names of layers that a sentence has room for.
    const NAMES_SHOWN: usize = 4;

    /// Counts the rows of the layer at `path`.
    pub fn add(&mut self, path: &str, rows: usize, searched: usize) {
        self.rows += rows;
        if searched > 0 {
            self.searched_rows.insert(path.to_owned(), searched);
        }
    }

    /// Counts the `experts` whose matrices the layer at `path` holds, and those with too few tokens.
    pub fn add_experts(&mut self, path: &str, experts: usize, few_tokens: &[usize]) {
        if experts > 0 {
            self.experts.insert(mlp(path).to_owned(), experts);
        }
        if !few_tokens.is_empty() {
            self.few_tokens.insert(path.to_owned(), few_tokens.to_vec());
        }
    }

    /// Returns a sentence on rows and two on experts, where there are any.
    pub fn sentences(&self) -> impl Iterator<Item = String> {
        [self.sentence(), self.experts_sentence(), self.few_tokens_sentence()].into_iter().flatten()
    }

    /// Writes `13 of 16 experts were rounded with it, 3 by scale search`; nothing where there are no experts.
    fn experts_sentence(&self) -> Option<String> {
        let all = self.experts.values().sum::<usize>();
        let searched = self.experts_with_few_tokens().values().map(BTreeSet::len).sum::<usize>();
        (all > 0).then(|| {
            let fed_back = all - searched;
            format!("{fed_back} of {} were rounded with it, {searched} by scale search", count(all, "expert"))
        })
    }

    /// Returns the experts that saw too few tokens in one of their layers, by MLP.
    fn experts_with_few_tokens(&self) -> BTreeMap<&str, BTreeSet<usize>> {
        let mut mlps: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (path, experts) in &self.few_tokens {
            mlps.entry(mlp(path)).or_default().extend(experts);
        }
        mlps
    }

    /// Writes `2 of 640 rows in 1 layer are as scale search left them (model.layers.0.self_attn.q_proj)`; nothing where
    /// there are none.
    fn sentence(&self) -> Option<String> {
        let (layers, rows) = (self.searched_rows.len(), self.searched_rows.values().sum::<usize>());
        let names: Vec<&str> = self.searched_rows.keys().map(String::as_str).collect();
        let names =
            if layers <= Self::NAMES_SHOWN { format!(" ({})", names.join(", ")) } else { String::new() };
        (rows > 0).then(|| {
            format!(
                "{rows} of {} in {} are as scale search left them{}",
                count(self.rows, "row"),
                count(self.searched_rows.len(), "layer"),
                names
            )
        })
    }

    /// Writes `fewer than 32 tokens came to 3 of 16 experts, in model.layers.1.mlp.switch_mlp (0, 7, 12): scale search
    /// rounded them`; nothing where there are none. Names have room for a few MLPs, else the record has them.
    fn few_tokens_sentence(&self) -> Option<String> {
        const MLPS_SHOWN: usize = 4;
        let mlps = self.experts_with_few_tokens();
        let experts = mlps.values().map(BTreeSet::len).sum::<usize>();
        let named = mlps.iter().map(|(mlp, experts)| {
            let numbers: Vec<String> = experts.iter().map(ToString::to_string).collect();
            format!("{mlp} ({})", numbers.join(", "))
        });
        let place = if mlps.len() <= MLPS_SHOWN {
            named.collect::<Vec<_>>().join(", ")
        } else {
            format!("{} (feedback.few_tokens of {FILE} names them)", count(mlps.len(), "block"))
        };
        (experts > 0).then(|| {
            format!(
                "fewer than {FEW_TOKENS} tokens came to {experts} of {}, in {place}: scale search rounded them",
                count(self.experts.values().sum::<usize>(), "expert")
            )
        })
    }
}

/// Returns the path of the MLP that a layer is in.
fn mlp(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(mlp, _)| mlp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_layers_are_named_and_many_are_counted() {
        let mut feedback = GptqStats::default();
        feedback.add("a", 10, 0);
        assert_eq!(feedback.sentence(), None);
        feedback.add("b", 10, 3);
        let sentence = feedback.sentence().unwrap();
        assert_eq!(sentence, "3 of 20 rows in 1 layer are as scale search left them (b)");
        (0..4).for_each(|n| feedback.add(&n.to_string(), 5, 1));
        assert_eq!(feedback.sentence().unwrap(), "7 of 40 rows in 5 layers are as scale search left them");
        assert_eq!((feedback.few_tokens_sentence(), feedback.experts_sentence()), (None, None));
        feedback.add_experts("q_proj", 0, &[]);
        feedback.add_experts("mlp.up_proj", 16, &[7, 0]);
        feedback.add_experts("mlp.down_proj", 16, &[3]);
        let sentence = feedback.few_tokens_sentence().unwrap();
        assert_eq!(
            sentence,
            "fewer than 32 tokens came to 3 of 16 experts, in mlp (0, 3, 7): scale search rounded them"
        );
        let sentence = feedback.experts_sentence().unwrap();
        assert_eq!(sentence, "13 of 16 experts were rounded with it, 3 by scale search");
    }
}
