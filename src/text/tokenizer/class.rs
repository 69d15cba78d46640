//! Tokenizer classes of transformers 5 that build their parts anew from the vocabulary, whatever normalizer,
//! pre-tokenizer and decoder `tokenizer.json` has.
//!
//! `AutoTokenizer` chooses the class by the model's type and `tokenizer_class`. Most folders get the one that takes
//! `tokenizer.json` as it is. The others keep its vocabulary, merges and post-processor, and add the tokens that the
//! files declare. Each has names for special tokens that no file names. (CodeLlama's also splits a text at `<FILL_ME>`,
//! which is not done here.)

use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::{ModelWrapper, Tokenizer};

use super::settings::Settings;

/// Ways to build a tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// By `tokenizer.json` alone.
    Backend,
    CodeLlama,
    Cohere,
    Gemma,
    Gpt2,
    GptNeox,
    Llama,
    Qwen2,
    /// By a class that builds its parts anew and is not reproduced here: `tokenizer.json` decides.
    Other,
}

/// Model types whose `tokenizer_class` transformers does not believe.
const DISBELIEVED: [&str; 3] = ["mistral", "mixtral", "iquestcoder"];

/// Model types that have a class of their own where no file names one.
const QWEN: [&str; 2] = ["qwen3", "qwen3_moe"];

/// Classes that build their parts anew, too, hardly ever for the models that can be run here.
const OTHERS: [&str; 43] = [
    "AlbertTokenizer",
    "BarthezTokenizer",
    "BartTokenizer",
    "BertTokenizer",
    "BigBirdTokenizer",
    "BlenderbotTokenizer",
    "CLIPTokenizer",
    "CamembertTokenizer",
    "CodeGenTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
    "ElectraTokenizer",
    "EsmcTokenizer",
    "FunnelTokenizer",
    "HerbertTokenizer",
    "LasrTokenizer",
    "LayoutLMv2Tokenizer",
    "LayoutLMv3Tokenizer",
    "LayoutXLMTokenizer",
    "LukeTokenizer",
    "MBart50Tokenizer",
    "MBartTokenizer",
    "MLukeTokenizer",
    "MPNetTokenizer",
    "MarkupLMTokenizer",
    "MobileBertTokenizer",
    "NllbTokenizer",
    "NougatTokenizer",
    "OpenAIGPTTokenizer",
    "PegasusTokenizer",
    "Qwen3_5Tokenizer",
    "ReformerTokenizer",
    "RemBertTokenizer",
    "RobertaTokenizer",
    "SeamlessM4TTokenizer",
    "Siglip2Tokenizer",
    "SplinterTokenizer",
    "T5Tokenizer",
    "UdopTokenizer",
    "WhisperTokenizer",
    "XGLMTokenizer",
    "XLMRobertaTokenizer",
    "XLNetTokenizer",
];

const QWEN_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Class {
    /// The class that transformers chooses for these files; `tokenizer_json` is the content of `tokenizer.json`.
    pub(crate) fn of(settings: &Settings, tokenizer_json: &[u8]) -> Self {
        let model_type = settings.model_type.as_deref().unwrap_or_default();
        let has_code = settings.config.contains_key("auto_map");
        if DISBELIEVED.contains(&model_type) && !has_code {
            return Self::Backend;
        }
        let Some(name) = settings.tokenizer_class.as_deref() else {
            return if QWEN.contains(&model_type) { Self::Qwen2 } else { Self::Backend };
        };
        match name.strip_suffix("Fast").unwrap_or(name) {
            "LlamaTokenizer" if !has_code && is_byte_level(tokenizer_json) => Self::Backend,
            "LlamaTokenizer" => Self::Llama,
            "CodeLlamaTokenizer" => Self::CodeLlama,
            "CohereTokenizer" => Self::Cohere,
            "GemmaTokenizer" => Self::Gemma,
            "GPT2Tokenizer" => Self::Gpt2,
            "GPTNeoXTokenizer" => Self::GptNeox,
            "Qwen2Tokenizer" => Self::Qwen2,
            name if OTHERS.contains(&name) => Self::Other,
            _ => Self::Backend,
        }
    }

    /// Special tokens by name, for names that no file has.
    pub(crate) fn named_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Backend | Self::Other => &[],
            Self::CodeLlama => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("prefix_token", "▁<PRE>"),
                ("middle_token", "▁<MID>"),
                ("suffix_token", "▁<SUF>"),
                ("eot_token", "▁<EOT>"),
                ("fill_token", "<FILL_ME>"),
            ],
            Self::Cohere => &[
                ("bos_token", "<BOS_TOKEN>"),
                ("eos_token", "<|END_OF_TURN_TOKEN|>"),
                ("unk_token", "<UNK>"),
                ("sep_token", "<SEP>"),
                ("pad_token", "<PAD>"),
                ("cls_token", "<CLS>"),
                ("mask_token", "<MASK_TOKEN>"),
            ],
            Self::Gemma => &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::Gpt2 => &[("bos_token", ENDOFTEXT), ("eos_token", ENDOFTEXT), ("unk_token", ENDOFTEXT)],
            Self::GptNeox => &[
                ("bos_token", ENDOFTEXT),
                ("eos_token", ENDOFTEXT),
                ("unk_token", ENDOFTEXT),
                ("pad_token", "<|padding|>"),
            ],
            Self::Llama => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
            Self::Qwen2 => &[("eos_token", ENDOFTEXT), ("unk_token", ENDOFTEXT), ("pad_token", ENDOFTEXT)],
        }
    }

    /// Further special tokens after those of `additional_special_tokens`.
    pub(crate) fn extra_tokens(self) -> &'static [&'static str] {
        match self {
            Self::CodeLlama => &["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>", "<FILL_ME>"],
            _ => &[],
        }
    }

    /// True where the token that `tokenizer.json` pads with is the padding token if no file names one.
    pub(crate) fn pads_as_stored(self) -> bool {
        self != Self::Gpt2
    }

    /// True for a class that puts BOS before every text, whatever the post-processor of `tokenizer.json` says.
    pub(crate) fn puts_bos(self) -> bool {
        self == Self::CodeLlama
    }

    /// True for classes that build the tokenizer anew and are reproduced here.
    pub(crate) fn rebuilds(self) -> bool {
        !matches!(self, Self::Backend | Self::Other)
    }

    /// The tokenizer that the class builds of the vocabulary, the merges and the post-processor of `file`, with no
    /// added tokens; `unk_token` is the text of that token.
    pub(crate) fn rebuild(
        self,
        file: &Tokenizer,
        settings: &Settings,
        unk_token: Option<&str>,
    ) -> tokenizers::Result<Tokenizer> {
        let mut tokenizer = Tokenizer::new(self.model(file.get_model(), unk_token)?);
        let part = |value: Value| Some(value).filter(|value| !value.is_null());
        if let Some(normalizer) = part(self.normalizer()) {
            tokenizer.with_normalizer(Some(serde_json::from_value::<tokenizers::NormalizerWrapper>(
                normalizer,
            )?))?;
        }
        let pre_tokenizer = self.pre_tokenizer(settings);
        tokenizer.with_pre_tokenizer(Some(serde_json::from_value::<tokenizers::PreTokenizerWrapper>(
            pre_tokenizer,
        )?));
        let decoder = self.decoder(settings);
        tokenizer.with_decoder(Some(serde_json::from_value::<tokenizers::DecoderWrapper>(decoder)?));
        if self != Self::GptNeox {
            tokenizer.with_post_processor(file.get_post_processor().cloned());
        }
        Ok(tokenizer)
    }

    /// A BPE model with this class's flags. Vocabularies of other models have no merges, as in transformers.
    fn model(self, model: &ModelWrapper, unk_token: Option<&str>) -> tokenizers::Result<BPE> {
        let mut bpe = match model {
            ModelWrapper::BPE(bpe) => bpe.clone(),
            other => {
                let vocab = tokenizers::Model::get_vocab(other);
                let bpe = json!({"type": "BPE", "vocab": vocab, "merges": []});
                serde_json::from_slice(&serde_json::to_vec(&bpe)?)?
            }
        };
        let is_sentencepiece = matches!(self, Self::CodeLlama | Self::Gemma | Self::Llama);
        let has_unk = matches!(self, Self::CodeLlama | Self::Gemma);
        let affix = (!is_sentencepiece).then(String::new);
        bpe.dropout = None;
        bpe.unk_token = unk_token.filter(|_| has_unk).map(str::to_owned);
        bpe.continuing_subword_prefix.clone_from(&affix);
        bpe.end_of_word_suffix = affix;
        bpe.fuse_unk = is_sentencepiece;
        bpe.byte_fallback = is_sentencepiece;
        bpe.ignore_merges = false;
        Ok(bpe)
    }

    fn normalizer(self) -> Value {
        match self {
            Self::Cohere | Self::GptNeox | Self::Qwen2 => json!({"type": "NFC"}),
            Self::Gemma => json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
            _ => Value::Null,
        }
    }

    fn pre_tokenizer(self, settings: &Settings) -> Value {
        let byte_level = |use_regex: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": settings.is_set("add_prefix_space"),
                   "trim_offsets": true, "use_regex": use_regex})
        };
        let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        match self {
            Self::Llama if !prefixes(settings) => metaspace("never"),
            Self::Llama if settings.is_set("legacy") => metaspace("always"),
            Self::Llama => metaspace("first"),
            Self::CodeLlama => metaspace(if prefixes(settings) { "first" } else { "never" }),
            Self::Gemma => {
                json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false})
            }
            Self::Qwen2 => {
                let split = json!({"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated", "invert": false});
                json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
            }
            Self::Cohere => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]})
            }
            Self::Backend | Self::Gpt2 | Self::GptNeox | Self::Other => byte_level(true),
        }
    }

    fn decoder(self, settings: &Settings) -> Value {
        let mut spaces = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let strips = match self {
            Self::Llama => prefixes(settings),
            class => class == Self::CodeLlama,
        };
        if strips {
            spaces.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        match self {
            Self::CodeLlama | Self::Gemma | Self::Llama => json!({"type": "Sequence", "decoders": spaces}),
            _ => {
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
            }
        }
    }
}

const ENDOFTEXT: &str = "<|endoftext|>";

/// True if a class of Llama's puts a space before a text, which the settings can switch off.
fn prefixes(settings: &Settings) -> bool {
    settings.config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true)
}

/// True if `tokenizer.json` mentions `ByteLevel` anywhere, which is the check that transformers makes.
fn is_byte_level(tokenizer_json: &[u8]) -> bool {
    const NAME: &[u8] = b"\"ByteLevel\"";
    tokenizer_json.windows(NAME.len()).any(|window| window == NAME)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{folder, sentencepiece};
    use super::super::tokenizer::Tokenizer;
    use super::*;

    fn open(json: &Value, model_type: &str, config: &Value) -> Tokenizer {
        let files = [
            ("tokenizer.json", &*json.to_string()),
            ("config.json", &*json!({"model_type": model_type}).to_string()),
            ("tokenizer_config.json", &*config.to_string()),
        ];
        Tokenizer::from_dir(folder(&files).path()).unwrap()
    }

    #[test]
    fn class_follows_model_type_and_name() {
        let class = |model_type: &str, config: Value, json: &str| {
            let model = json!({"model_type": model_type}).to_string();
            let dir = folder(&[("config.json", &model), ("tokenizer_config.json", &config.to_string())]);
            let files = crate::files::model_files::ModelFiles::open(dir.path()).unwrap();
            Class::of(&Settings::read(&files, b"").unwrap(), json.as_bytes())
        };
        let named = |name: &str| json!({"tokenizer_class": name});
        for (model_type, config, json, expected) in [
            ("llama", json!({}), "", Class::Backend),
            ("qwen3", json!({}), "", Class::Qwen2),
            ("qwen3_moe", named("PreTrainedTokenizerFast"), "", Class::Backend),
            ("llama", named("LlamaTokenizer"), "", Class::Llama),
            ("llama", named("LlamaTokenizerFast"), r#"{"type":"ByteLevel"}"#, Class::Backend),
            ("mistral", named("LlamaTokenizer"), "", Class::Backend),
            ("mixtral", named("GPT2Tokenizer"), "", Class::Backend),
            ("llama4_text", named("CohereTokenizerFast"), "", Class::Cohere),
            ("llama", named("BertTokenizer"), "", Class::Other),
            ("llama", named("SomebodysTokenizer"), "", Class::Backend),
        ] {
            assert_eq!(class(model_type, config.clone(), json), expected, "{model_type} {config}");
        }
    }

    /// Ids are those of transformers 5.23.
    #[test]
    fn llama_places_spaces_anew() {
        let ids = |more: Value| {
            let mut config = json!({"tokenizer_class": "LlamaTokenizer"});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let tokenizer = open(&sentencepiece(true), "llama", &config);
            assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(1), Some(2)));
            [" a<s>a  b", "a <s> ab"].map(|text| tokenizer.encode(text, true).unwrap())
        };
        assert_eq!(ids(json!({})), [vec![1, 262, 1, 260, 263, 261], vec![1, 262, 259, 1, 262, 261]]);
        let legacy = [vec![1, 262, 1, 262, 263, 261], vec![1, 262, 259, 1, 262, 261]];
        assert_eq!(ids(json!({"legacy": true})), legacy);
        let none = [vec![1, 262, 1, 260, 263, 261], vec![1, 260, 259, 1, 262, 261]];
        assert_eq!(ids(json!({"add_prefix_space": false})), none);
        let plain = open(&sentencepiece(true), "mistral", &json!({"tokenizer_class": "LlamaTokenizer"}));
        assert_eq!(plain.encode("a <s> ab", true).unwrap(), [1, 262, 259, 1, 259, 262, 261]);
    }

    /// Ids, EOS and numbers of tokens are those of transformers 5.23.
    #[test]
    fn other_classes_build_their_own_parts() {
        for (model_type, class, bos, ids, eos, size) in [
            ("llama", "GPTNeoXTokenizer", true, vec![260, 1, 264], 265, 267),
            ("llama", "CodeLlamaTokenizer", false, vec![1, 262, 259, 1, 262, 261], 2, 270),
            ("qwen3", "Qwen2Tokenizer", true, vec![1, 260, 1, 264], 265, 266),
            ("llama", "CohereTokenizer", true, vec![1, 260, 1, 264], 266, 272),
            ("llama", "GPT2Tokenizer", true, vec![1, 260, 1, 264], 265, 266),
        ] {
            let tokenizer = open(&sentencepiece(bos), model_type, &json!({"tokenizer_class": class}));
            assert_eq!(tokenizer.encode("a <s> ab", true).unwrap(), ids, "{class}");
            assert_eq!((tokenizer.eos_token_id(), tokenizer.vocab_size()), (Some(eos), size), "{class}");
            let lacks_infilling = class == "CodeLlamaTokenizer";
            assert_eq!(tokenizer.notes().len(), usize::from(lacks_infilling), "{:?}", tokenizer.notes());
        }
        let config = json!({"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>"});
        let gemma = open(&sentencepiece(true), "llama", &config);
        assert_eq!(gemma.encode("a <s> ab", true).unwrap(), [1, 260, 259, 1, 262, 261]);
    }

    #[test]
    fn classes_that_are_not_followed_get_a_note() {
        let bert = open(&sentencepiece(true), "llama", &json!({"tokenizer_class": "BertTokenizer"}));
        assert!(bert.notes().concat().contains("a BertTokenizer anew"), "{:?}", bert.notes());
        let code =
            open(&sentencepiece(true), "llama", &json!({"auto_map": {"AutoTokenizer": ["x.X", null]}}));
        assert!(code.notes().concat().contains("auto_map"), "{:?}", code.notes());
    }
}
