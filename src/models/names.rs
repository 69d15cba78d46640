//! From a checkpoint's tensor names to mlx-lm's.

use std::collections::BTreeMap;

use super::derived::{Derived, Step};
use crate::error::{Error, Result};
use crate::formats::checkpoint::Checkpoint;
use crate::models::spec::DecoderSpec;
use crate::models::wrapper::Wrapper;

/// Parts of a layer's name that its tensors end with.
pub(super) const PARTS: [&str; 3] = ["weight", "scales", "biases"];

/// Fate of a checkpoint's tensor name.
#[derive(Debug, Clone, PartialEq)]
pub enum Rename {
    /// The name is mlx-lm's already.
    Keep,
    /// mlx-lm calls the tensor this.
    To(String),
    /// The tensor is one expert's part of the tensor that mlx-lm calls so.
    Expert {
        /// The tensor of all experts, one after the other.
        stack: String,
        /// The expert's number.
        index: usize,
    },
    /// These tensors are made of it.
    Derived(Vec<Derived>),
    /// The decoder has no use for the tensor (derived buffers, towers of a wrapper).
    Drop,
}

impl Rename {
    /// Makes the rename of a tensor that holds matrices of one shape, one above the other, with these names.
    pub fn stacked<const N: usize>(names: [String; N]) -> Self {
        let share = |(index, name)| Derived::new(name, [Step::Share { index, of: N }]);
        Self::Derived(names.into_iter().enumerate().map(share).collect())
    }

    /// Makes the rename of a tensor that is stored with axes of size 1.
    pub fn squeezed(name: String) -> Self {
        Self::Derived(vec![Derived::new(name, [Step::Squeezed])])
    }

    /// Makes the rename of a matrix that is stored with rows and columns exchanged.
    pub fn transposed(name: String) -> Self {
        Self::Derived(vec![Derived::new(name, [Step::Transposed])])
    }
}

/// The names of one checkpoint: the architecture's rule, after `model.` was added to names that lack it.
///
/// transformers adds its `base_model_prefix` to the names of a checkpoint that was saved from the bare model, in which
/// no name begins with it. Where all names are mlx-lm's already, so are the values.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    rule: fn(&str) -> Rename,
    wrapper: Option<&'static Wrapper>,
    bare: bool,
    converted: bool,
}

impl Names {
    /// Reads the names of a checkpoint whose tensors are called `stored`; its decoder may be in a `wrapper`.
    pub fn new<'a>(
        rule: fn(&str) -> Rename,
        wrapper: Option<&'static Wrapper>,
        stored: impl Iterator<Item = &'a str>,
    ) -> Self {
        let (mut inside, mut bare, mut converted) = (false, false, true);
        for name in stored.filter(|name| wrapper.is_none_or(|wrapper| wrapper.tower(name).is_none())) {
            let name = if wrapper.is_some() { Wrapper::inner_name(name) } else { name.into() };
            inside |= name.starts_with("model.");
            bare |= is_bare(&name);
            converted &= is_of_mlx_lm(&name, &rule(&name));
        }
        Self { rule, wrapper, bare: bare && !inside, converted }
    }

    /// Returns the fate of the tensor called `name`.
    pub fn rename(&self, name: &str) -> Rename {
        let Some(wrapper) = self.wrapper else { return self.rename_inner(name) };
        if wrapper.tower(name).is_some() {
            return Rename::Drop;
        }
        let inner = Wrapper::inner_name(name);
        match self.rename_inner(&inner) {
            Rename::Keep if inner != name => Rename::To(inner.into_owned()),
            other => other,
        }
    }

    /// Returns mlx-lm's name of each tensor of `checkpoint`, with the one that it has there.
    ///
    /// # Errors
    /// Where two tensors get one name.
    pub(super) fn stored_names(&self, checkpoint: &Checkpoint) -> Result<BTreeMap<String, String>> {
        let mut stored = BTreeMap::new();
        for (original, _) in checkpoint.iter() {
            let name = match self.rename(original) {
                Rename::Drop => continue,
                Rename::Keep | Rename::Expert { .. } | Rename::Derived(_) => original.to_owned(),
                Rename::To(name) => name,
            };
            if let Some(other) = stored.insert(name.clone(), original.to_owned()) {
                return Err(Error::tensor(
                    checkpoint.path(),
                    original,
                    format!("and `{other}` are both `{name}`"),
                ));
            }
        }
        Ok(stored)
    }

    /// Returns the fate of the decoder's tensor called `name` in the decoder.
    fn rename_inner(&self, name: &str) -> Rename {
        if !self.bare || !is_bare(name) {
            let rename = (self.rule)(name);
            let stays = self.converted && is_of_mlx_lm(name, &rename);
            return if stays && rename != Rename::Drop { Rename::Keep } else { rename };
        }
        let name = format!("model.{name}");
        match (self.rule)(&name) {
            Rename::Keep => Rename::To(name),
            other => other,
        }
    }

    /// Returns the test of tensors that an index lists and no file has: true if this model does without. That are those of
    /// which [`account_for`](Self::account_for) knows and, where every tensor of the model is stored, those of another.
    pub fn accounting<'a>(
        self,
        spec: Option<&'a DecoderSpec>,
        is_stored: impl Fn(&str) -> bool + Copy + 'a,
    ) -> impl Fn(&str) -> bool + 'a {
        let whole = spec.filter(|spec| spec.manifest().iter().all(|tensor| is_stored(&tensor.name)));
        move |name| {
            self.account_for(name, spec, is_stored)
                || whole.is_some_and(|spec| self.is_foreign(name, spec, is_stored))
        }
    }

    /// True if the tensor called `name` is no part of a decoder: it has another prefix, a layer that the decoder lacks, or lies
    /// beside it. One more tensor of a layer that there is, or of embedding, norm or head, is not foreign.
    fn is_foreign(&self, name: &str, spec: &DecoderSpec, is_stored: impl Fn(&str) -> bool + Copy) -> bool {
        let inner =
            ["model.language_model.", "language_model."].iter().find_map(|start| name.strip_prefix(start));
        let inner = inner.unwrap_or(name);
        let inner = if is_bare(inner) { format!("model.{inner}") } else { inner.to_owned() };
        let inner = match (self.rule)(&inner) {
            Rename::To(name) => name,
            _ => inner,
        };
        if self.account_for(&inner, Some(spec), is_stored) {
            return true;
        }
        let blocks = spec.blocks.first().and_then(|block| block.path.strip_suffix('0')).unwrap_or_default();
        if let Some(rest) = inner.strip_prefix(blocks) {
            let layer = rest.split('.').next().and_then(|number| number.parse::<usize>().ok());
            return layer.is_some_and(|layer| layer >= spec.blocks.len());
        }
        let own = [&spec.head.norm.path, &spec.embed.path, &spec.head.path].into_iter();
        let mut own = own.chain(spec.embed.positions.as_ref().map(|positions| &positions.path));
        !own.any(|own| inner.starts_with(own))
    }

    /// True if the tensor called `name` has its place in a decoder, tensors of which `is_stored` knows by mlx-lm's names: under
    /// the name or names that it gets, or as a head that is the embedding, or because no decoder needs it.
    pub fn account_for(
        &self,
        name: &str,
        spec: Option<&DecoderSpec>,
        is_stored: impl Fn(&str) -> bool,
    ) -> bool {
        let is_tied_head = |name: &str| {
            spec.is_some_and(|spec| {
                let rest = name.strip_prefix(&*spec.head.path).and_then(|rest| rest.strip_prefix('.'));
                spec.head.tied && rest.is_some_and(|part| PARTS.contains(&part))
            })
        };
        match self.rename(name) {
            Rename::Keep => is_stored(name) || is_tied_head(name),
            Rename::To(name) => is_stored(&name) || is_tied_head(&name),
            Rename::Expert { stack, .. } => is_stored(&stack),
            Rename::Derived(derived) => derived.iter().all(|derived| is_stored(&derived.name)),
            Rename::Drop => true,
        }
    }

    /// Returns a sentence for the user where names were completed.
    pub fn note(&self) -> Option<String> {
        self.bare.then(|| {
            "the tensors' names lack `model.`, as those that are saved from a base model: it is added"
                .to_owned()
        })
    }
}

/// True if `rename` gives the tensor called `name` no other name.
fn is_of_mlx_lm(name: &str, rename: &Rename) -> bool {
    match rename {
        Rename::Keep | Rename::Drop => true,
        Rename::Derived(derived) => derived.iter().all(|derived| derived.name == name),
        Rename::To(_) | Rename::Expert { .. } => false,
    }
}

/// True for the decoder's own tensors without the prefix.
fn is_bare(name: &str) -> bool {
    ["layers.", "embed_tokens.", "norm."].iter().any(|part| name.starts_with(part))
}

/// Renames as all Llama-like checkpoints need it: RoPE buffers of old transformers versions are dropped.
pub(crate) fn rename_common(name: &str) -> Rename {
    if name.ends_with(".rotary_emb.inv_freq") { Rename::Drop } else { Rename::Keep }
}

/// Drops tensors whose names end as one of `buffers`, and replaces the first of `prefixes` that a name has, the last of which
/// may be empty.
pub(crate) fn rename_prefix(name: &str, buffers: &[&str], prefixes: &[(&str, &str)]) -> Rename {
    if buffers.iter().any(|end| name.ends_with(end)) {
        return Rename::Drop;
    }
    let replaced = |(old, new): &(&str, &str)| name.strip_prefix(old).map(|rest| format!("{new}{rest}"));
    match prefixes.iter().find_map(replaced) {
        Some(new) if new != name => Rename::To(new),
        _ => Rename::Keep,
    }
}

/// Buffers of attention that old versions of transformers stored.
pub(crate) const ATTENTION_BUFFERS: [&str; 2] = [".attn.bias", ".attn.masked_bias"];

/// Renames experts, and the rest as [`rename_common`].
///
/// `<mlp>.experts.<number>.<name>.<part>`, one tensor per expert, is a part of `<mlp>.switch_mlp.<name>.<part>`: the weight
/// of a float model, and weight, scales and biases of what old versions of mlx-lm quantized.
/// `<mlp>.experts.gate_up_proj` [experts, 2 * width, hidden] and `<mlp>.experts.down_proj` [experts, hidden, width] are how
/// transformers 5 holds them in memory (`Qwen3MoeExperts`, `MixtralExperts`): gate above up.
pub(crate) fn rename_experts(name: &str) -> Rename {
    expert(name, "switch_mlp").unwrap_or_else(|| rename_common(name))
}

/// Renames experts whose matrices mlx-lm keeps in `experts`, where the checkpoint has them, and the rest as [`rename_common`].
pub(crate) fn rename_experts_in_place(name: &str) -> Rename {
    expert(name, "experts").unwrap_or_else(|| rename_common(name))
}

fn expert(name: &str, module: &str) -> Option<Rename> {
    let (mlp, rest) = name.split_once(".experts.")?;
    let whole = |name: &str| format!("{mlp}.{module}.{name}.weight");
    match rest {
        "gate_up_proj" => return Some(Rename::stacked([whole("gate_proj"), whole("up_proj")])),
        "down_proj" => return Some(Rename::To(whole("down_proj"))),
        _ => {}
    }
    let (number, rest) = rest.split_once('.')?;
    let index = number.parse().ok().filter(|index: &usize| index.to_string() == number)?;
    let (_, part) = rest.rsplit_once('.')?;
    PARTS.contains(&part).then(|| Rename::Expert { stack: format!("{mlp}.{module}.{rest}"), index })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::models::architectures::{TensorShapes, find};
    use crate::models::config::ModelConfig;

    fn to(name: &str) -> Rename {
        Rename::To(name.to_owned())
    }

    #[test]
    fn bare_names_get_the_prefix() {
        let stored = ["embed_tokens.weight", "layers.0.mlp.experts.1.up_proj.weight", "lm_head.weight"];
        let names = Names::new(rename_experts, None, stored.into_iter());
        assert_eq!(names.rename(stored[0]), to("model.embed_tokens.weight"));
        let stack = "model.layers.0.mlp.switch_mlp.up_proj.weight".to_owned();
        assert_eq!(names.rename(stored[1]), Rename::Expert { stack: stack.clone(), index: 1 });
        assert_eq!((names.rename(stored[2]), names.rename(&stack)), (Rename::Keep, Rename::Keep));
        assert_eq!(names.rename("layers.0.self_attn.rotary_emb.inv_freq"), Rename::Drop);
        assert!(names.note().is_some());
    }

    #[test]
    fn mixed_names_stay_as_they_are() {
        let stored = ["model.embed_tokens.weight", "layers.0.input_layernorm.weight"];
        let names = Names::new(rename_common, None, stored.into_iter());
        assert!(stored.iter().all(|name| names.rename(name) == Rename::Keep));
        assert_eq!(names.note(), None);
    }

    #[test]
    fn wrapped_names_lose_the_prefix() {
        let config = serde_json::json!({"model_type": "llava", "text_config": {}}).to_string();
        let config = ModelConfig::parse(Path::new("config.json"), &config).unwrap();
        let wrapper = find(&config).unwrap().wrapper;
        let stored = ["model.vision_tower.layers.0.weight", "language_model.layers.0.mlp.up_proj.weight"];
        let names = Names::new(rename_common, wrapper, stored.into_iter());
        assert_eq!(names.rename(stored[0]), Rename::Drop);
        assert_eq!(
            names.rename(stored[1]),
            to("model.layers.0.mlp.up_proj.weight"),
            "saved from a base model"
        );
        assert_eq!(names.rename("language_model.lm_head.weight"), to("lm_head.weight"));
        assert_eq!(names.rename("language_model.layers.0.self_attn.rotary_emb.inv_freq"), Rename::Drop);
        assert_eq!(names.rename("audio_tower.layers.0.weight"), Rename::Keep);
    }

    #[test]
    fn experts_in_every_spelling() {
        let part = |part: &str| rename_experts(&format!("a.mlp.experts.12.up_proj.{part}"));
        for name in PARTS {
            let stack = format!("a.mlp.switch_mlp.up_proj.{name}");
            assert_eq!(part(name), Rename::Expert { stack, index: 12 });
        }
        assert_eq!((part("bias"), part("qweight")), (Rename::Keep, Rename::Keep));
        let whole = |name: &str| format!("a.mlp.switch_mlp.{name}.weight");
        let share = |name, index| Derived::new(whole(name), [Step::Share { index, of: 2 }]);
        let fused = Rename::Derived(vec![share("gate_proj", 0), share("up_proj", 1)]);
        assert_eq!(rename_experts("a.mlp.experts.gate_up_proj"), fused);
        assert_eq!(rename_experts("a.mlp.experts.down_proj"), Rename::To(whole("down_proj")));
        assert_eq!(rename_experts("a.mlp.experts.gate_up_proj_scales"), Rename::Keep);
    }

    #[test]
    fn tensors_of_other_models_are_accounted_for() {
        let config = serde_json::json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 16, "tie_word_embeddings": true});
        let config = ModelConfig::parse(Path::new("config.json"), &config.to_string()).unwrap();
        let spec = (find(&config).unwrap().spec)(&config, &TensorShapes::new()).unwrap();
        let stored: Vec<String> = spec.manifest().iter().map(|tensor| tensor.name.clone()).collect();
        let names = Names::new(rename_common, None, stored.iter().map(String::as_str));
        let is_stored = |name: &str| stored.iter().any(|stored| stored == name);
        let does_without = names.accounting(Some(&spec), is_stored);
        for foreign in [
            "vision_tower.encoder.layers.0.weight",
            "model.layers.2.eh_proj.weight",
            "layers.1.mlp.up_proj.weight",
            "language_model.model.norm.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
        ] {
            assert!(does_without(foreign), "{foreign}");
        }
        for own in ["model.layers.1.self_attn.q_proj.bias", "model.norm.bias", "model.layers.x.a"] {
            assert!(!does_without(own), "{own}");
        }
        let lacks_one = |name: &str| name != "model.norm.weight" && is_stored(name);
        assert!(!names.accounting(Some(&spec), lacks_one)("vision_tower.a"), "the model is not whole");
    }

    #[test]
    fn what_an_index_lists_is_accounted_for() {
        let names = Names::new(rename_experts, None, ["model.norm.weight"].into_iter());
        let is_stored = |name: &str| name == "a.mlp.switch_mlp.up_proj.weight";
        assert!(names.account_for("a.mlp.experts.3.up_proj.weight", None, is_stored));
        assert!(names.account_for("a.rotary_emb.inv_freq", None, is_stored));
        assert!(!names.account_for("a.mlp.experts.gate_up_proj", None, is_stored), "gate is not there");
        assert!(!names.account_for("lm_head.weight", None, is_stored));
    }
}
