//! The class of a folder, as transformers' `AutoTokenizer` chooses it: by the model's type and `tokenizer_class`.

use super::super::settings::Settings;
use super::parts::Class;
use super::{byte_level, sentencepiece, unigram, words};

/// Ways to build a tokenizer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Build {
    /// `tokenizer.json` as it is.
    Stored,
    /// Parts anew from its vocabulary, merges and post-processor.
    Anew(&'static Class),
    /// Python code that reads files of its own and is not reproduced; `tokenizer.json` decides.
    Foreign,
}

/// Model types whose `tokenizer_class` transformers does not believe. (Nor does it believe `qwen2`'s, which has a class of
/// its own.)
const DISBELIEVED: [&str; 5] = ["mistral", "mixtral", "iquestcoder", "ernie4_5", "internlm3"];

/// Model types that have a class of their own where no file names one.
const QWEN: [&str; 3] = ["qwen2", "qwen3", "qwen3_moe"];

/// Classes written in Python, without the tokenizers crate or with a part that is.
const FOREIGN: [&str; 37] = [
    "BartphoTokenizer",
    "BertGenerationTokenizer",
    "BertJapaneseTokenizer",
    "BertweetTokenizer",
    "BioGptTokenizer",
    "BlenderbotSmallTokenizer",
    "ByT5Tokenizer",
    "CTRLTokenizer",
    "CanineTokenizer",
    "ClvpTokenizer",
    "CpmTokenizer",
    "CpmAntTokenizer",
    "DiaTokenizer",
    "EsmTokenizer",
    "FSMTTokenizer",
    "FastSpeech2ConformerTokenizer",
    "FlaubertTokenizer",
    "GPTNeoXJapaneseTokenizer",
    "GPTSw3Tokenizer",
    "M2M100Tokenizer",
    "MarianTokenizer",
    "MgpstrTokenizer",
    "MyT5Tokenizer",
    "PLBartTokenizer",
    "PerceiverTokenizer",
    "PhobertTokenizer",
    "ProphetNetTokenizer",
    "RoCBertTokenizer",
    "RoFormerTokenizer",
    "SiglipTokenizer",
    "Speech2TextTokenizer",
    "SpeechT5Tokenizer",
    "TapasTokenizer",
    "VitsTokenizer",
    "Wav2Vec2CTCTokenizer",
    "Wav2Vec2PhonemeCTCTokenizer",
    "XLMTokenizer",
];

impl Build {
    /// Returns the way in which transformers builds the tokenizer of these files; `tokenizer_json` is the content of
    /// `tokenizer.json`.
    pub(crate) fn of(settings: &Settings, tokenizer_json: &[u8]) -> Self {
        let model_type = settings.model_type.as_deref().unwrap_or_default();
        let has_code = settings.config.contains_key("auto_map");
        if DISBELIEVED.contains(&model_type) && !has_code {
            return Self::Stored;
        }
        if model_type == "qwen2" && !has_code {
            return Self::by_name("Qwen2Tokenizer");
        }
        let Some(name) = settings.tokenizer_class.as_deref() else {
            return if QWEN.contains(&model_type) { Self::by_name("Qwen2Tokenizer") } else { Self::Stored };
        };
        match name.strip_suffix("Fast").unwrap_or(name) {
            "LlamaTokenizer" if !has_code && is_byte_level(tokenizer_json) => Self::Stored,
            name => Self::by_name(name),
        }
    }

    /// Returns the class, unless `tokenizer.json` decides alone.
    pub(crate) fn class(self) -> Option<&'static Class> {
        match self {
            Self::Anew(class) => Some(class),
            Self::Stored | Self::Foreign => None,
        }
    }

    fn by_name(name: &str) -> Self {
        match class(name) {
            Some(class) => Self::Anew(class),
            None if FOREIGN.contains(&name) => Self::Foreign,
            None => Self::Stored,
        }
    }
}

/// Lists all classes.
fn tables() -> impl Iterator<Item = &'static Class> {
    let tables: [&'static [Class]; 4] =
        [&byte_level::CLASSES, &sentencepiece::CLASSES, &unigram::CLASSES, &words::CLASSES];
    tables.into_iter().flatten()
}

/// Returns the class of this name, which has no `Fast`.
fn class(name: &str) -> Option<&'static Class> {
    tables().find(|class| class.names.contains(&name))
}

/// True if `tokenizer.json` mentions `ByteLevel` anywhere, which is the check that transformers makes.
fn is_byte_level(tokenizer_json: &[u8]) -> bool {
    const NAME: &[u8] = b"\"ByteLevel\"";
    tokenizer_json.windows(NAME.len()).any(|window| window == NAME)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::testing::folder;
    use super::*;
    use crate::files::model_files::ModelFiles;

    #[test]
    fn class_follows_model_type_and_name() {
        let build = |model_type: &str, config: Value, json: &str| {
            let model = json!({"model_type": model_type}).to_string();
            let dir = folder(&[("config.json", &model), ("tokenizer_config.json", &config.to_string())]);
            let files = ModelFiles::open(dir.path()).unwrap();
            Build::of(&Settings::read(&files, b"").unwrap(), json.as_bytes())
        };
        let anew = |name: &str| Build::Anew(class(name).unwrap());
        let named = |name: &str| json!({"tokenizer_class": name});
        for (model_type, config, json, expected) in [
            ("llama", json!({}), "", Build::Stored),
            ("qwen2", named("LlamaTokenizerFast"), r#"{"type":"ByteLevel"}"#, anew("Qwen2Tokenizer")),
            ("qwen3", json!({}), "", anew("Qwen2Tokenizer")),
            ("qwen3_moe", named("PreTrainedTokenizerFast"), "", Build::Stored),
            ("llama", named("LlamaTokenizer"), "", anew("LlamaTokenizer")),
            ("llama", named("LlamaTokenizerFast"), r#"{"type":"ByteLevel"}"#, Build::Stored),
            ("llama", named("Phi3Tokenizer"), r#"{"type":"ByteLevel"}"#, anew("LlamaTokenizer")),
            ("mistral", named("LlamaTokenizer"), "", Build::Stored),
            ("mixtral", named("GPT2Tokenizer"), "", Build::Stored),
            ("llama4_text", named("CohereTokenizerFast"), "", anew("CohereTokenizer")),
            ("llama", named("ElectraTokenizer"), "", anew("BertTokenizer")),
            ("llama", named("ByT5Tokenizer"), "", Build::Foreign),
            ("llama", named("SomebodysTokenizer"), "", Build::Stored),
        ] {
            assert_eq!(build(model_type, config.clone(), json), expected, "{model_type} {config}");
        }
    }

    #[test]
    fn names_stand_in_the_tables_once() {
        let mut names: Vec<&str> = tables().flat_map(|class| class.names).copied().collect();
        names.extend(FOREIGN);
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
