//! Rules by which texts are split before byte pairs are joined, by llama.cpp's names for them.

use super::gguf::Gguf;
use crate::error::Result;

/// Rule of a vocabulary.
#[derive(Debug, Clone, Copy)]
pub(super) struct PreTokenizer {
    /// Patterns of pieces, each applied to what the one before it leaves.
    pub(super) patterns: &'static [&'static str],
    /// True if a piece that is a token is taken whole, whatever its pairs.
    pub(super) ignores_merges: bool,
    /// True if BOS is put before texts where the metadata does not say.
    pub(super) adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const PLAIN: PreTokenizer = PreTokenizer { patterns: &[GPT2], ignores_merges: false, adds_bos: false };

/// Names of rules, with the rule.
const RULES: &[(&[&str], PreTokenizer)] = &[
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "midm-2.0"],
        PreTokenizer { patterns: &[LLAMA3], ignores_merges: true, adds_bos: true },
    ),
    (&["dbrx", "smaug-bpe"], PreTokenizer { patterns: &[LLAMA3], ..PLAIN }),
    (&["glm4"], PreTokenizer { patterns: &[LLAMA3], ignores_merges: true, ..PLAIN }),
    (
        &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "solar-open"],
        PreTokenizer { patterns: &[QWEN2], ..PLAIN },
    ),
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        PreTokenizer { patterns: &[r"\p{N}", GPT2], ..PLAIN },
    ),
    (&["gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion", "granite-docling"], PLAIN),
    (
        &["default"],
        PreTokenizer { patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], ..PLAIN },
    ),
];

const KEY: &str = "tokenizer.ggml.pre";

impl PreTokenizer {
    /// Finds the rule of a model.
    ///
    /// # Errors
    /// Fails if none is named, or one that is not known: the tokens would be wrong.
    pub(super) fn of(gguf: &Gguf) -> Result<Self> {
        let name = gguf.text(KEY)?.ok_or_else(|| gguf.missing(KEY))?;
        let rule = RULES.iter().find(|(names, _)| names.contains(&name)).map(|(_, rule)| *rule);
        rule.ok_or_else(|| {
            let known: Vec<&str> = RULES.iter().flat_map(|(names, _)| *names).copied().collect();
            gguf.error(KEY, format!("`{name}` is no rule for splitting texts that is known"))
                .hint(format!("rules that are read: {}", known.join(", ")))
        })
    }
}
