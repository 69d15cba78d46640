//! A plan: layers, their candidates, and the bit map that fits a target.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::choose::allocate::{Allocation, Choice, CurvePoint, Layer, Problem};
use crate::choose::candidate::Candidate;
use crate::choose::recipe::{Recipe, Tie};
use crate::choose::rules::LayerRule;
use crate::choose::scores::LayerSensitivity;
use crate::error::{Error, Result};
use crate::models::bitmap::BitMap;
use crate::models::inventory::Inventory;
use crate::models::source::SourceModel;
use crate::models::spec::{Role, TensorSpec};
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::{AFFINE_GROUP_SIZES, Quant, divisible, is_unfit};
use crate::words::count;

/// Layers to be decided on, each with its candidates.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(crate) layers: Vec<(&'a TensorSpec, Vec<Candidate>)>,
    /// Linear layers whose rows no group size divides: they stay float, outside the target.
    pub indivisible: Vec<String>,
    /// Layers whose rows some group size divides, but none of their candidates': they stay float, within the target.
    pub unfit: Vec<String>,
    /// Layers that arrive quantized: they stay as they are.
    pub already: Vec<String>,
    /// Indices of layers that get the same candidate.
    pub(crate) ties: Vec<Vec<usize>>,
    /// The embedding, where the user wants it quantized.
    embedding: Option<(&'a TensorSpec, Quant)>,
    dtype: Dtype,
}

/// A solved plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Solution {
    /// The new entries.
    pub bitmap: BitMap,
    /// Bits per weight over the layers decided on, scales and biases included.
    pub bpw: f64,
    /// Predicted KL divergence per token, in nats, where sensitivities were measured.
    pub kl: Option<f64>,
    /// Most by which the predicted KL divergence of another choice within the target can be below `kl`.
    pub gap: f64,
    /// Bytes of the layers decided on.
    pub bytes: u64,
}

impl<'a> Plan<'a> {
    /// Plans for the linear layers of `source` that are float: each gets the `candidates` that fit, or what the last of
    /// `rules` that matches says. Scales, biases and what stays float have the type `dtype`.
    pub fn new(
        source: &'a SourceModel,
        candidates: &[Candidate],
        rules: &[LayerRule],
        dtype: Dtype,
    ) -> Result<Self> {
        Self::build(source, candidates, |_| None, rules, dtype)
    }

    /// Plans with the candidates that `recipe` has for each layer; `rules` win over it, and layers that they fix leave
    /// their tie.
    pub fn with_recipe(
        source: &'a SourceModel,
        recipe: &Recipe,
        rules: &[LayerRule],
        dtype: Dtype,
    ) -> Result<Self> {
        let applied = recipe.apply(source.manifest())?;
        let by_recipe = |path: &str| applied.candidates.get(path).map(Vec::as_slice);
        let mut plan = Self::build(source, recipe.default_candidates(), by_recipe, rules, dtype)?;
        applied.ties.iter().try_for_each(|tie| plan.tie(tie, rules))?;
        Ok(plan)
    }

    /// Plans with the candidates that `by_recipe` returns for a layer's path, or else with `candidates`.
    fn build<'c>(
        source: &'a SourceModel,
        candidates: &'c [Candidate],
        by_recipe: impl Fn(&str) -> Option<&'c [Candidate]>,
        rules: &[LayerRule],
        dtype: Dtype,
    ) -> Result<Self> {
        let mut plan = Self {
            layers: Vec::new(),
            indivisible: Vec::new(),
            unfit: Vec::new(),
            already: Vec::new(),
            ties: Vec::new(),
            embedding: None,
            dtype,
        };
        for spec in source.manifest().iter().filter(|spec| spec.quantizable()) {
            let Some(path) = spec.path() else { continue };
            if source.bitmap().contains_key(path) {
                plan.already.push(path.to_owned());
                continue;
            }
            match rules.iter().rev().find(|rule| rule.matches(path)) {
                Some(rule) => plan.add(spec, path, vec![ruled(spec, rule)?]),
                None => plan.add_with(spec, path, by_recipe(path).unwrap_or(candidates)),
            }
        }
        if plan.layers.len() == plan.unfit.len() {
            return Err(nothing_to_do(source, &plan, candidates));
        }
        plan.check_rules(source, rules)?;
        Ok(plan)
    }

    /// Adds the layer `spec` at `path`, which may become what its `options` say.
    fn add(&mut self, spec: &'a TensorSpec, path: &str, options: Vec<Candidate>) {
        if divisible(spec.columns()) || options != [Candidate::Keep] {
            self.layers.push((spec, options));
        } else {
            self.indivisible.push(path.to_owned());
        }
    }

    /// Adds the layer `spec` at `path` with the `candidates` that its rows allow. It stays float where there are none.
    fn add_with(&mut self, spec: &'a TensorSpec, path: &str, candidates: &[Candidate]) {
        let quants = || candidates.iter().filter_map(|candidate| candidate.quant());
        if quants().next().is_some() && is_unfit(spec.columns(), quants()) {
            self.unfit.push(path.to_owned());
        }
        let fits = |c: &&Candidate| c.quant().is_none_or(|q| q.packed_columns(spec.columns()).is_some());
        let options: Vec<Candidate> = candidates.iter().filter(fits).copied().collect();
        self.add(spec, path, if options.is_empty() { vec![Candidate::Keep] } else { options });
    }

    /// Fails where one of `rules` matches no layer.
    fn check_rules(&self, source: &SourceModel, rules: &[LayerRule]) -> Result<()> {
        let layers = self.layers.iter().filter_map(|(spec, _)| spec.path());
        let paths: Vec<&str> = layers.chain(self.indivisible.iter().map(String::as_str)).collect();
        let routers = source.manifest().iter().filter(|spec| spec.is_router());
        let routers: Vec<&str> = routers.filter_map(TensorSpec::path).collect();
        let has_none = |rule: &&LayerRule| !paths.iter().chain(&routers).any(|path| rule.matches(path));
        for rule in rules.iter().filter(has_none) {
            if let Some(path) = source.bitmap().keys().find(|path| rule.matches(path)) {
                return Err(rule
                    .error(&format!("`{path}` came quantized and stays as it is"))
                    .hint("set setting `requantize` to decode such layers and quantize them anew"));
            }
        }
        LayerRule::check_all(rules, &paths, &routers)
    }

    /// Ties the layers of `tie` that are to be decided on: each keeps the candidates that all of them have. Layers that no
    /// candidate fits stay float by themselves.
    fn tie(&mut self, tie: &Tie, rules: &[LayerRule]) -> Result<()> {
        let is_unfit = |path: &str| self.unfit.iter().any(|unfit| unfit == path);
        let is_free = |path: &str| !is_unfit(path) && !rules.iter().any(|rule| rule.matches(path));
        let tied = |path: &str| tie.paths.iter().any(|p| p == path) && is_free(path);
        let members = self.layers.iter().enumerate().filter(|(_, (spec, _))| spec.path().is_some_and(tied));
        let members: Vec<usize> = members.map(|(index, _)| index).collect();
        let mut common =
            members.iter().filter_map(|&i| self.layers.get(i)).map(|(_, options)| options.clone());
        let Some(first) = common.next() else { return Ok(()) };
        let common = common.fold(first, |mut all, options| {
            all.retain(|candidate| options.contains(candidate));
            all
        });
        if common.is_empty() {
            let message = format!("{} have no candidate in common", tie.paths.join(", "));
            return Err(Error::key(&tie.place, "tie", message)
                .hint("rules and row lengths leave these layers nothing that all may become: untie them"));
        }
        for &index in &members {
            if let Some((_, options)) = self.layers.get_mut(index) {
                options.clone_from(&common);
            }
        }
        self.ties.push(members);
        Ok(())
    }

    /// Has the embedding quantized too. It is outside the target, and no sensitivity is measured for it.
    pub fn quantize_embedding(&mut self, source: &'a SourceModel, quant: Quant) -> Result<()> {
        let spec = source.manifest().iter().find(|spec| spec.role == Role::Embed);
        let Some((spec, path)) = spec.and_then(|spec| Some((spec, spec.path()?))) else { return Ok(()) };
        if source.bitmap().contains_key(path) {
            return Err(Error::file(source.dir(), "the embedding is already quantized")
                .hint("leave out setting `quantize_embeddings`, or start from the float model"));
        }
        if source.spec().head.tied && !source.spec().head.quantized_tied {
            return Err(Error::usage(format!(
                "the embedding of this {} model cannot be quantized: its head is tied to it, and stock mlx-lm, which \
                 multiplies by the embedding's raw weight there, crashes on a quantized one",
                source.config().model_type()
            ))
            .hint("leave out setting `quantize_embeddings`; the embedding stays float"));
        }
        if quant.packed_columns(spec.columns()).is_none() {
            return Err(Error::usage(format!(
                "the embedding has rows of {}, which {quant} cannot divide",
                spec.columns()
            ))
            .hint("choose another group size, such as setting `quantize_embeddings` 8:32"));
        }
        self.embedding = Some((spec, quant));
        Ok(())
    }

    /// Returns the embedding's entry, where it is to be quantized.
    pub fn embedding(&self) -> BitMap {
        let entry = self.embedding.and_then(|(spec, quant)| Some((spec.path()?.to_owned(), quant)));
        entry.into_iter().collect()
    }

    /// Returns the number of weights of the layers decided on.
    pub fn weights(&self) -> u64 {
        self.layers.iter().map(|(spec, _)| spec.len() as u64).sum()
    }

    /// Returns the number of weights of those in a block.
    pub fn weights_of_block(&self, block: usize) -> u64 {
        let layers = self.layers.iter().filter(|(spec, _)| spec.layer == Some(block));
        layers.map(|(spec, _)| spec.len() as u64).sum()
    }

    /// Returns the number of layers decided on.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// True if there is no layer to decide on, which no finished plan is.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Returns the type of scales, biases and tensors that stay float.
    pub const fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Returns the bytes of the tensors that are not decided on, as they will be written.
    pub fn rest_bytes(&self, source: &SourceModel) -> u64 {
        let mut bitmap = source.bitmap().clone();
        bitmap.extend(self.embedding());
        let as_float = Inventory::planned(source, &bitmap, self.dtype).bytes.total;
        as_float - self.weights() * self.dtype.size() as u64
    }

    /// True if rules and candidates leave nothing to choose.
    pub fn is_fixed(&self) -> bool {
        self.layers.iter().all(|(_, options)| options.len() == 1)
    }

    /// Returns the only solution of a fixed plan: every layer's first option.
    pub fn fixed(&self) -> Solution {
        let options = self.layers.iter().filter_map(|(spec, options)| Some((spec, *options.first()?)));
        let bytes = options.clone().filter_map(|(spec, candidate)| self.bytes(spec, candidate)).sum();
        let bitmap = options.filter_map(|(spec, c)| Some((spec.path()?.to_owned(), c.quant()?))).collect();
        Solution { bitmap, bpw: self.bpw(bytes), kl: None, gap: 0.0, bytes }
    }

    /// Finds the bit map with the least predicted KL divergence at no more than `target` bits per weight.
    pub fn solve(&self, table: &[LayerSensitivity], target: f64) -> Result<Solution> {
        let budget = (target * self.weights() as f64 / 8.0).floor() as u64;
        Ok(self.solution(&self.problem(table)?.solve(budget)?))
    }

    /// Computes size against predicted KL divergence over the whole range, in steps of `step` bits per weight.
    pub fn curve(&self, table: &[LayerSensitivity], step: f64) -> Result<Vec<CurvePoint>> {
        self.problem(table)?.sampled(self.weights(), step)
    }

    /// Fails unless `table` has every layer, in its shape and with its candidates.
    pub fn check_table(&self, table: &[LayerSensitivity]) -> Result<()> {
        self.problem(table).map(drop)
    }

    fn problem(&self, table: &[LayerSensitivity]) -> Result<Problem> {
        let by_path: BTreeMap<&str, &LayerSensitivity> =
            table.iter().map(|row| (row.path.as_str(), row)).collect();
        let mut layers = Vec::new();
        for (spec, options) in &self.layers {
            let path = spec.path().unwrap_or_default();
            // Tables of earlier versions lack layers that no candidate fits.
            if let [Candidate::Keep] = options[..] {
                let bytes = self.bytes(spec, Candidate::Keep).unwrap_or_default();
                let choice = Choice { candidate: Candidate::Keep, bytes, loss: 0.0 };
                layers.push(Layer { path: path.to_owned(), options: vec![choice] });
                continue;
            }
            let row = by_path
                .get(path)
                .ok_or_else(|| Error::input(format!("the sensitivity table lacks layer `{path}`")))?;
            if (row.rows, row.columns) != (spec.rows(), spec.columns()) {
                return Err(Error::input(format!(
                    "the sensitivity table has layer `{path}` as {}x{}, the model as {}x{}",
                    row.rows,
                    row.columns,
                    spec.rows(),
                    spec.columns()
                )));
            }
            let choices = options.iter().map(|&candidate| self.choice(spec, row, candidate));
            layers.push(Layer { path: path.to_owned(), options: choices.collect::<Result<_>>()? });
        }
        Problem::new(layers, &self.ties)
    }

    pub(crate) fn choice(
        &self,
        spec: &TensorSpec,
        row: &LayerSensitivity,
        candidate: Candidate,
    ) -> Result<Choice> {
        let missing =
            || Error::input(format!("the sensitivity table lacks {candidate} for layer `{}`", row.path));
        let loss = match candidate {
            Candidate::Keep => 0.0,
            Candidate::Quantized(quant) => {
                row.scores.iter().find(|score| score.quant == quant).ok_or_else(missing)?.kl
            }
        };
        Ok(Choice { candidate, bytes: self.bytes(spec, candidate).ok_or_else(missing)?, loss })
    }

    fn solution(&self, allocation: &Allocation) -> Solution {
        let chosen = self.layers.iter().zip(&allocation.chosen);
        let bitmap = chosen
            .filter_map(|((spec, options), &index)| {
                Some((spec.path()?.to_owned(), options.get(index)?.quant()?))
            })
            .collect();
        Solution {
            bitmap,
            bpw: self.bpw(allocation.bytes),
            kl: Some(allocation.loss),
            gap: allocation.gap,
            bytes: allocation.bytes,
        }
    }

    pub(crate) fn bytes(&self, spec: &TensorSpec, candidate: Candidate) -> Option<u64> {
        candidate.bytes(spec.rows(), spec.columns(), self.dtype.size())
    }

    pub(crate) fn bpw(&self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / self.weights() as f64
    }

    /// Returns the quantized candidates of all layers, each once.
    pub fn quants(&self) -> Vec<Quant> {
        let mut quants: Vec<Quant> =
            self.layers.iter().flat_map(|(_, options)| options.iter().filter_map(|c| c.quant())).collect();
        quants.sort_unstable();
        quants.dedup();
        quants
    }
}

/// Returns the candidate that `rule` gives a layer.
///
/// # Errors
/// When the layer's rows do not allow it.
fn ruled(spec: &TensorSpec, rule: &LayerRule) -> Result<Candidate> {
    let fits = rule.candidate.quant().is_none_or(|quant| quant.packed_columns(spec.columns()).is_some());
    if fits {
        return Ok(rule.candidate);
    }
    Err(Error::usage(format!(
        "layer `{}` has rows of {}, which {} cannot divide",
        spec.name,
        spec.columns(),
        rule.candidate
    ))
    .hint("choose another group size for it, or float"))
}

fn nothing_to_do(source: &SourceModel, plan: &Plan<'_>, candidates: &[Candidate]) -> Error {
    let dir = source.dir();
    if !plan.already.is_empty() {
        return Error::file(
            dir,
            format!("nothing left to quantize: {} already quantized", count(plan.already.len(), "layer")),
        )
        .hint("start from the float model to choose other bits, or decode these with setting `requantize`");
    }
    let list: Vec<String> = candidates.iter().map(ToString::to_string).collect();
    let example =
        plan.unfit.first().or(plan.indivisible.first()).and_then(|path| source.manifest().layer(path));
    let example = example.map_or_else(String::new, |spec| {
        format!(": `{}` has rows of {}", spec.path().unwrap_or(&spec.name), spec.columns())
    });
    Error::usage(format!("no layer can take any of the candidates {}{example}", list.join(", ")))
        .hint(fitting_groups(source, &plan.unfit))
}

/// Says which group size the `unfit` layers can take, all of which some group size divides.
fn fitting_groups(source: &SourceModel, unfit: &[String]) -> String {
    let specs = || unfit.iter().filter_map(|path| source.manifest().layer(path));
    let divides_all = |group: &&u32| specs().all(|spec| spec.columns().is_multiple_of(**group as usize));
    match AFFINE_GROUP_SIZES.iter().rev().find(divides_all) {
        Some(group) if !unfit.is_empty() => {
            let layers = count(unfit.len(), "layer");
            format!(
                "groups of {group} divide the rows of {layers}: choose bits with such groups, as 4:{group}"
            )
        }
        _ => "a candidate's group size must divide a layer's rows: 32, 64 or 128, and 16 in mode nvfp4"
            .to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::choose::candidate::DEFAULT_CANDIDATES;
    use crate::choose::scores::Score;

    fn bundled() -> SourceModel {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/mobilellm-docs-1m");
        SourceModel::open(&folder).unwrap()
    }

    fn recipe(text: &str) -> Recipe {
        Recipe::parse(Path::new("my.toml"), text).unwrap()
    }

    /// Layers that differ much in what rounding costs them.
    fn table(source: &SourceModel) -> Vec<LayerSensitivity> {
        let linear = source.manifest().iter().filter(|spec| spec.quantizable());
        let rows = linear.enumerate().map(|(i, spec)| {
            let weight = [1.0, 30.0, 0.02][i % 3] * (1.0 + i as f64 / 10.0);
            let scores = DEFAULT_CANDIDATES.iter().filter_map(|c| c.quant()).map(|quant| {
                let error = f64::from(quant.group_size).sqrt() / f64::from(4u32.pow(quant.bits));
                Score::new(quant, &[weight * error])
            });
            let path = spec.path().unwrap().to_owned();
            LayerSensitivity { path, rows: spec.rows(), columns: spec.columns(), scores: scores.collect() }
        });
        rows.collect()
    }

    fn solved(source: &SourceModel, text: &str, rules: &[LayerRule], target: f64) -> Solution {
        let plan = Plan::with_recipe(source, &recipe(text), rules, Dtype::F16).unwrap();
        plan.solve(&table(source), target).unwrap()
    }

    #[test]
    fn tied_layers_get_the_same_and_the_budget_is_kept() {
        let source = bundled();
        let tied = "tie = [['q', 'k', 'v'], ['gate', 'up']]";
        let same = |solution: &Solution, block: usize, names: &[&str]| {
            let path = |name: &&str| format!("model.layers.{block}.{name}_proj");
            let found: Vec<_> = names.iter().map(|name| solution.bitmap.get(&path(name))).collect();
            found.windows(2).all(|pair| pair[0] == pair[1])
        };
        let attention = ["self_attn.q", "self_attn.k", "self_attn.v"];
        let mlp = ["feed_forward.gate", "feed_forward.up"];
        for target in [2.3, 3.0, 3.7, 4.5, 6.1, 12.0] {
            let (free, tied) = (
                solved(&source, "candidates = '2,3,4,5,6,8 x 32,64,128 + keep'", &[], target),
                solved(&source, tied, &[], target),
            );
            assert!(tied.bpw <= target && tied.bpw > target - 0.2, "{} of {target}", tied.bpw);
            assert!(tied.kl.unwrap() >= free.kl.unwrap(), "{target}");
            for block in 0..4 {
                assert!(same(&tied, block, &attention) && same(&tied, block, &mlp), "{target} {tied:?}");
            }
            assert!((0..4).any(|block| !same(&free, block, &attention)), "the test's layers do differ");
        }
    }

    #[test]
    fn ties_keep_what_all_have_and_rules_by_hand_leave_them() {
        let source = bundled();
        let text =
            "tie = [['q', 'k', 'v']]\ncandidates = '4'\n[[rule]]\nrole = 'v'\ncandidates = '4,8 x 64'\n";
        let plan = Plan::with_recipe(&source, &recipe(text), &[], Dtype::F16).unwrap();
        assert!(plan.is_fixed() && plan.reachable_bpw() == (4.5, 4.5));
        let by_hand: LayerRule = "*.0.*.v_proj=8".parse().unwrap();
        let plan = Plan::with_recipe(&source, &recipe(text), &[by_hand], Dtype::F16).unwrap();
        let solution = plan.fixed();
        let bits = |path: &str| solution.bitmap[path].bits;
        assert_eq!(
            (bits("model.layers.0.self_attn.q_proj"), bits("model.layers.0.self_attn.v_proj")),
            (4, 8)
        );
        assert_eq!(bits("model.layers.1.self_attn.v_proj"), 4);
        let text = "candidates = '4'\ntie = [['q', 'k']]\n[[rule]]\nrole = 'k'\nfloat = true\n";
        let error = Plan::with_recipe(&source, &recipe(text), &[], Dtype::F16).unwrap_err();
        let expected =
            "my.toml:2: key `tie`: model.layers.0.self_attn.k_proj, model.layers.0.self_attn.q_proj have no";
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
