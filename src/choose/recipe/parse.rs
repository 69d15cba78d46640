//! TOML to [`Recipe`]: types are serde's business, meaning is checked here, and both name the line and the key.

use glob::Pattern;
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use std::fmt;
use std::ops::RangeInclusive;
use toml::Spanned;

use super::blocks::Blocks;
use super::document::Document;
use super::recipe::{Calibration, Expect, Recipe, RoleTie, Rule};
use super::tuning::{Learn, Quality, Tuning};
use crate::choose::candidate::Candidate;
use crate::error::{Error, Result};
use crate::models::spec::Role;
use crate::numerics::quant::{AFFINE_BITS, DEFAULT_GROUP_SIZE, Mode, Quant};
use crate::text::corpus::LONGEST_SEQUENCE;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecipe {
    description: Option<Spanned<String>>,
    target_bpw: Option<Spanned<f64>>,
    candidates: Option<Spanned<String>>,
    quality: Option<Spanned<String>>,
    distill: Option<Spanned<u32>>,
    learn: Option<Spanned<String>>,
    distill_norms: Option<Spanned<bool>>,
    refine: Option<Spanned<u32>>,
    #[serde(default)]
    tie: Vec<Spanned<Vec<String>>>,
    #[serde(default)]
    calibration: RawCalibration,
    #[serde(default)]
    expect: RawExpect,
    #[serde(default)]
    rule: Vec<Spanned<RawRule>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCalibration {
    text: Option<Spanned<String>>,
    samples: Option<Spanned<u32>>,
    sensitivity_samples: Option<Spanned<u32>>,
    sequence_length: Option<Spanned<u32>>,
    seed: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpect {
    blocks: Option<Spanned<usize>>,
    linear_layers: Option<Spanned<usize>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    role: Option<Spanned<OneOrMany>>,
    layers: Option<Spanned<OneOrMany>>,
    blocks: Option<Spanned<OneOrMany>>,
    bits: Option<Spanned<u32>>,
    group_size: Option<Spanned<u32>>,
    mode: Option<Spanned<String>>,
    float: Option<Spanned<bool>>,
    candidates: Option<Spanned<String>>,
    #[serde(default)]
    optional: bool,
}

/// A string, a whole number, or a list of them.
struct OneOrMany(Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_i64<E>(self, number: i64) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![number.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<OneOrMany, A::Error> {
                let items = Vec::<OneOrMany>::deserialize(SeqAccessDeserializer::new(items))?;
                Ok(OneOrMany(items.into_iter().flat_map(|item| item.0).collect()))
            }
        }
        deserializer.deserialize_any(Items)
    }
}

/// Checks everything that needs no model.
pub fn recipe(document: Document) -> Result<Recipe> {
    let raw: RawRecipe = document.parse()?;
    if raw.target_bpw.is_none() && raw.candidates.is_none() && raw.tie.is_empty() && raw.rule.is_empty() {
        return Err(document.whole("the recipe is empty: no rule, candidates, tie or target_bpw in it"));
    }
    let reader = Reader { document: &document };
    let target_bpw = raw.target_bpw.as_ref().map(|target| reader.target(target)).transpose()?;
    let candidates = raw.candidates.as_ref().map(|list| reader.candidates("candidates", list)).transpose()?;
    let calibration = reader.calibration(&raw.calibration)?;
    let tuning = reader.tuning(&raw)?;
    let rules = raw.rule.iter().map(|rule| reader.rule(rule)).collect::<Result<_>>()?;
    let ties = reader.ties(&raw.tie)?;
    let expect = Expect {
        blocks: raw.expect.blocks.map(|n| (reader.line(&n), n.into_inner())),
        linear_layers: raw.expect.linear_layers.map(|n| (reader.line(&n), n.into_inner())),
    };
    let description = match &raw.description {
        Some(text) if text.get_ref().contains('\n') => {
            return Err(reader.error(text, "description", "has more than one line"));
        }
        Some(text) => text.get_ref().clone(),
        None => String::new(),
    };
    let name = document.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Recipe {
        name,
        description,
        target_bpw,
        candidates,
        calibration,
        tuning,
        rules,
        ties,
        expect,
        document,
    })
}

struct Reader<'a> {
    document: &'a Document,
}

impl Reader<'_> {
    fn line<T>(&self, value: &Spanned<T>) -> usize {
        self.document.line(value.span().start)
    }

    fn error<T>(&self, value: &Spanned<T>, key: &str, message: impl Into<String>) -> Error {
        self.document.error(self.line(value), key, message)
    }

    /// Returns the error `cause` at a key of the recipe, with its own hint.
    fn because<T>(&self, value: &Spanned<T>, key: &str, cause: &Error) -> Error {
        let error = self.error(value, key, cause.to_string());
        match cause.hint_text() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    fn target(&self, target: &Spanned<f64>) -> Result<f64> {
        let bpw = *target.get_ref();
        if bpw.is_finite() && bpw > 0.0 {
            return Ok(bpw);
        }
        Err(self.error(target, "target_bpw", format!("{bpw} is no number of bits a weight, such as 4.5")))
    }

    fn candidates(&self, key: &str, list: &Spanned<String>) -> Result<Vec<Candidate>> {
        Candidate::parse_list(list.get_ref()).map_err(|e| self.because(list, key, &e))
    }

    fn calibration(&self, raw: &RawCalibration) -> Result<Calibration> {
        let text = raw.text.as_ref().map(|text| {
            let path = self.document.folder().join(text.get_ref());
            let message = format!("there is no file {}", path.display());
            if path.is_file() { Ok(path) } else { Err(self.error(text, "calibration.text", message)) }
        });
        Ok(Calibration {
            text: text.transpose()?,
            samples: self.within("calibration.samples", raw.samples.as_ref(), 1..=100_000)?,
            sensitivity_samples: self.within(
                "calibration.sensitivity_samples",
                raw.sensitivity_samples.as_ref(),
                1..=100_000,
            )?,
            sequence_length: self.within(
                "calibration.sequence_length",
                raw.sequence_length.as_ref(),
                2..=LONGEST_SEQUENCE,
            )?,
            seed: raw.seed,
        })
    }

    fn within(
        &self,
        key: &str,
        value: Option<&Spanned<u32>>,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>> {
        match value {
            Some(n) if !range.contains(n.get_ref()) => {
                let (least, most) = (range.start(), range.end());
                Err(self.error(n, key, format!("{} is not from {least} to {most}", n.get_ref())))
            }
            value => Ok(value.map(|n| *n.get_ref())),
        }
    }

    fn tuning(&self, raw: &RawRecipe) -> Result<Tuning> {
        let quality = raw.quality.as_ref().map(|name| {
            Quality::named(name.get_ref()).ok_or_else(|| {
                let message = format!("`{}` is none of fast, balanced, best", name.get_ref());
                self.error(name, "quality", message)
            })
        });
        let quality = quality.transpose()?;
        let distill = self.within("distill", raw.distill.as_ref(), 0..=1_000_000)?;
        let (learn, norms) = (raw.learn.as_ref(), raw.distill_norms.as_ref());
        let distills = distill.unwrap_or(0) > 0 || quality == Some(Quality::Best);
        let idle = "goes with `distill`, or with quality = \"best\"";
        if let Some(norms) = norms.filter(|_| !distills) {
            return Err(self.error(norms, "distill_norms", idle));
        }
        if let Some(learn) = learn.filter(|_| !distills) {
            return Err(self.error(learn, "learn", idle));
        }
        let learn = learn.map(|name| {
            Learn::named(name.get_ref()).ok_or_else(|| {
                self.error(name, "learn", format!("`{}` is none of scales, codes", name.get_ref()))
            })
        });
        Ok(Tuning {
            quality,
            distill,
            learn: learn.transpose()?,
            distill_norms: norms.is_some_and(|norms| *norms.get_ref()),
            refine: self.within("refine", raw.refine.as_ref(), 0..=100)?,
        })
    }

    fn ties(&self, raw: &[Spanned<Vec<String>>]) -> Result<Vec<RoleTie>> {
        let mut seen = Vec::new();
        let mut ties = Vec::new();
        for tie in raw {
            let mut roles = Vec::new();
            for name in tie.get_ref() {
                let role =
                    Role::BLOCK.into_iter().find(|role| role.to_string() == *name).ok_or_else(|| {
                        let names = Role::BLOCK.map(|role| role.to_string()).join(", ");
                        self.error(tie, "tie", format!("`{name}` is no role in a block, which are {names}"))
                    })?;
                if seen.contains(&role) {
                    return Err(self.error(tie, "tie", format!("names `{name}` twice")));
                }
                seen.push(role);
                roles.push(role);
            }
            if roles.len() < 2 {
                return Err(self.error(tie, "tie", "needs two roles or more"));
            }
            ties.push(RoleTie { line: self.line(tie), roles });
        }
        Ok(ties)
    }

    fn rule(&self, raw: &Spanned<RawRule>) -> Result<Rule> {
        let line = self.line(raw);
        let RawRule { role, layers, blocks, .. } = raw.get_ref();
        let roles = self.list(role.as_ref(), "rule.role", role_called)?;
        let layers = self.list(layers.as_ref(), "rule.layers", |glob| {
            Pattern::new(glob).map_err(|e| format!("`{glob}` is no glob: {}", e.msg))
        })?;
        let blocks = self.list(blocks.as_ref(), "rule.blocks", |text| match text.parse::<i64>() {
            Ok(number) => Ok(Blocks::single(number)),
            Err(_) => text.parse(),
        })?;
        let candidates = self.setting(raw)?;
        if let Some(role) = role
            && roles.contains(&Role::Embed)
            && candidates != [Candidate::Keep]
        {
            return Err(self
                .error(role, "rule.role", "embeddings stay float: `embed` goes with float = true only")
                .hint("leave `embed` out of this rule"));
        }
        Ok(Rule { line, roles, layers, blocks, candidates, optional: raw.get_ref().optional })
    }

    /// Reads every item of a selector by `read`.
    fn list<T>(
        &self,
        raw: Option<&Spanned<OneOrMany>>,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>> {
        let Some(raw) = raw else { return Ok(Vec::new()) };
        let items = &raw.get_ref().0;
        if items.is_empty() {
            return Err(self.error(raw, key, "an empty list selects nothing"));
        }
        items.iter().map(|item| read(item).map_err(|why| self.error(raw, key, why))).collect()
    }

    /// Returns the candidates that a rule gives its layers.
    fn setting(&self, raw: &Spanned<RawRule>) -> Result<Vec<Candidate>> {
        let rule = raw.get_ref();
        let quant = [
            ("bits", rule.bits.as_ref().map(|v| self.line(v))),
            ("group_size", rule.group_size.as_ref().map(|v| self.line(v))),
            ("mode", rule.mode.as_ref().map(|v| self.line(v))),
        ];
        let quant = quant.into_iter().find_map(|(key, line)| Some((key, line?)));
        let float = rule.float.as_ref().map(|v| ("float", self.line(v)));
        let list = rule.candidates.as_ref().map(|v| ("candidates", self.line(v)));
        let settings: Vec<(&str, usize)> = [quant, float, list].into_iter().flatten().collect();
        if let [(first, first_line), (second, line), ..] = settings[..] {
            let message = format!("contradicts `{first}` on line {first_line}: a rule says one of the two");
            return Err(self.document.error(line, &format!("rule.{second}"), message));
        }
        if let Some(list) = &rule.candidates {
            return self.candidates("rule.candidates", list);
        }
        match &rule.float {
            Some(float) if *float.get_ref() => return Ok(vec![Candidate::Keep]),
            Some(float) => {
                return Err(self.error(float, "rule.float", "can only be true; leave it out, and give bits"));
            }
            None if quant.is_none() => {
                return Err(self
                    .error(raw, "rule", "does not say what its layers become")
                    .hint("give bits (with group_size and mode if need be), candidates, or float = true"));
            }
            None => {}
        }
        Ok(vec![self.quant(rule, raw)?.into()])
    }

    fn quant(&self, rule: &RawRule, raw: &Spanned<RawRule>) -> Result<Quant> {
        let mode: Mode = match &rule.mode {
            Some(mode) => mode.get_ref().parse().map_err(|e| self.because(mode, "rule.mode", &e))?,
            None => Mode::Affine,
        };
        let default = mode.default_quant();
        let bits = rule.bits.as_ref().map(|bits| *bits.get_ref());
        let bits = match (bits, mode) {
            (Some(bits), _) => bits,
            (None, Mode::Affine) => return Err(self.error(raw, "rule", "lacks `bits`")),
            (None, _) => default.bits,
        };
        let group_size = rule.group_size.as_ref().map(|group_size| *group_size.get_ref());
        let fallback = if mode == Mode::Affine { DEFAULT_GROUP_SIZE } else { default.group_size };
        let quant = Quant { bits, group_size: group_size.unwrap_or(fallback), mode };
        let Err(cause) = quant.validate() else { return Ok(quant) };
        let bits_fit = if mode == Mode::Affine { AFFINE_BITS.contains(&bits) } else { bits == default.bits };
        Err(match (&rule.bits, &rule.group_size) {
            (_, Some(group_size)) if bits_fit => self.because(group_size, "rule.group_size", &cause),
            (Some(bits), _) => self.because(bits, "rule.bits", &cause),
            _ => self.because(raw, "rule", &cause),
        })
    }
}

fn role_called(name: &str) -> Result<Role, String> {
    let roles = [&Role::BLOCK[..], &[Role::Head, Role::Embed]].concat();
    roles.iter().find(|role| role.to_string() == name).copied().ok_or_else(|| {
        let names: Vec<String> = roles.iter().map(ToString::to_string).collect();
        format!("there is no role `{name}`, only {}", names.join(", "))
    })
}
