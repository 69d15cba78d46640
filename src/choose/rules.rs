//! Rules that fix layers by hand: `GLOB=bits[:group[:mode]]` or `GLOB=float`. The last that matches a layer wins.

use glob::Pattern;
use std::str::FromStr;

use super::candidate::Candidate;
use crate::error::{Error, Result};

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRule {
    text: String,
    pattern: Pattern,
    /// Candidate of the layers that match.
    pub candidate: Candidate,
}

impl LayerRule {
    /// True if the rule is about the layer at `path`.
    pub fn matches(&self, path: &str) -> bool {
        self.pattern.matches(path)
    }

    /// Makes an error about this rule.
    pub(crate) fn error(&self, message: &str) -> Error {
        Error::usage(format!("setting `layer` {}: {message}", self.text))
    }

    /// Fails for a rule that matches none of `paths`, which is a misspelt one. `routers` stay float, and may be told to.
    pub fn check_all(rules: &[Self], paths: &[&str], routers: &[&str]) -> Result<()> {
        let matched = |rule: &&Self| paths.iter().any(|path| rule.matches(path));
        for rule in rules.iter().filter(|rule| !matched(rule)) {
            let router = routers.iter().find(|path| rule.matches(path));
            if router.is_some() && rule.candidate == Candidate::Keep {
                continue;
            }
            if let Some(router) = router {
                return Err(rule.error(&format!("`{router}` is a router")).hint(
                    "routers stay float: they are small, and decide what all else of a token's MLP is",
                ));
            }
            let example = paths.iter().find(|path| path.contains(".switch_mlp.")).or(paths.first());
            let experts = if routers.is_empty() { "" } else { "; all experts of a block are one layer" };
            return Err(rule.error("no float linear layer matches").hint(format!(
                "layers are called like `{}`{experts}; `*` stands for anything",
                example.unwrap_or(&"")
            )));
        }
        Ok(())
    }
}

impl FromStr for LayerRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = |why: String| {
            Error::usage(format!("setting `layer` {text}: {why}"))
                .hint("write GLOB=bits, GLOB=bits:group or GLOB=float, such as '*.v_proj=6:64'")
        };
        let (glob, candidate) = text.split_once('=').ok_or_else(|| malformed("no `=`".to_owned()))?;
        let candidate = match candidate {
            "float" => Candidate::Keep,
            setting => setting.parse().map_err(|e: Error| malformed(e.to_string()))?,
        };
        let pattern = Pattern::new(glob).map_err(|e| malformed(e.to_string()))?;
        Ok(Self { text: text.to_owned(), pattern, candidate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::quant::Quant;

    #[test]
    fn rules_match_paths() {
        let rule: LayerRule = "model.layers.*.v_proj=6:128".parse().unwrap();
        assert!(rule.matches("model.layers.3.self_attn.v_proj") && !rule.matches("lm_head"));
        assert_eq!(rule.candidate, Candidate::Quantized(Quant::affine(6, 128)));
        assert_eq!("*=float".parse::<LayerRule>().unwrap().candidate, Candidate::Keep);
        for bad in ["x", "x=7", "x=4:48", "[=4"] {
            assert!(bad.parse::<LayerRule>().is_err(), "{bad}");
        }
        assert!(LayerRule::check_all(&[rule], &["a", "b"], &[]).is_err());
        let check =
            |rule: &str| LayerRule::check_all(&[rule.parse().unwrap()], &["a.switch_mlp.up"], &["a.gate"]);
        assert!(check("*.gate=float").is_ok() && check("a.*=4").is_ok());
        let message = |rule: &str| check(rule).unwrap_err().to_string();
        assert!(message("*.gate=8").contains("`a.gate` is a router"));
        assert!(message("*.experts.*=8").contains("no float linear layer matches"));
    }
}
