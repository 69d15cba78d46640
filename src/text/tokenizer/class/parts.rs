//! Values that describe a tokenizer class.

/// Recipe by which a class of transformers builds a tokenizer from a vocabulary.
#[derive(Debug, PartialEq)]
pub(crate) struct Class {
    /// Names in `tokenizer_class`, without `Fast`.
    pub(crate) names: &'static [&'static str],
    /// Source of model, normalizer, pre-tokenizer and decoder.
    pub(crate) parts: Parts,
    /// Model over the vocabulary.
    pub(crate) model: Model,
    /// Steps of the normalizer, in their order.
    pub(crate) normalizer: &'static [Normalizer],
    /// Steps of the pre-tokenizer, in their order.
    pub(crate) pre_tokenizer: &'static [PreTokenizer],
    /// Decoder from tokens to text.
    pub(crate) decoder: Decoder,
    /// Tokens around every text.
    pub(crate) around: Around,
    /// Special tokens by name, for names that no file has. The name of another token stands for that one. The model's
    /// own names stand in the order of transformers.
    pub(crate) named: &'static [(&'static str, &'static str)],
    /// Flags of the mask token.
    pub(crate) mask: Mask,
    /// Further special tokens.
    pub(crate) extra: Extra,
    /// Special tokens that are added once more, after all others.
    pub(crate) again: AddedAgain,
    /// Source of a padding token that no file names.
    pub(crate) padding: Padding,
    /// Python code beside the parts.
    pub(crate) code: Code,
    /// Texts that the class takes.
    pub(crate) takes: InputKind,
}

impl Class {
    /// Class without settings of its own, for tables to complete.
    pub(super) const PLAIN: Self = Self {
        names: &[],
        parts: Parts::Anew,
        model: Model::WordPiece,
        normalizer: &[],
        pre_tokenizer: &[],
        decoder: Decoder::None,
        around: Around::Stored,
        named: &[],
        mask: Mask::Plain,
        extra: Extra::None,
        again: AddedAgain::Nothing,
        padding: Padding::Stored,
        code: Code::None,
        takes: InputKind::Texts,
    };
}

/// Named tokens of RoBERTa and of many that follow it.
pub(super) const ROBERTA: &[(&str, &str)] = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("sep_token", "</s>"),
    ("cls_token", "<s>"),
    ("unk_token", "<unk>"),
    ("pad_token", "<pad>"),
    ("mask_token", "<mask>"),
];

/// Source of model, normalizer, pre-tokenizer and decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    /// The class, over the vocabulary of `tokenizer.json`.
    Anew,
    /// `tokenizer.json`; what the class has besides counts.
    Stored,
}

/// Model of a class. Vocabularies of other kinds are converted where transformers converts them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Model {
    Bpe {
        /// True if characters outside the vocabulary become the unknown token; otherwise they are left out.
        unk: bool,
        /// True if a run of such characters counts as one.
        fuses: bool,
        /// True if such characters are spelled in bytes.
        bytes: bool,
        /// Text at the end of a word; may be empty.
        suffix: &'static str,
    },
    Unigram(UnkId),
    /// Unigram with the id 3 for the unknown token. A vocabulary without any of these codes of languages gets them, and
    /// the special tokens, at the places where MBart-50 has them.
    UnigramOfLanguages(&'static [&'static str]),
    WordPiece,
    /// BPE without merges over this vocabulary, whatever the file has.
    Fixed(&'static [&'static str]),
}

/// Id of the unknown token in a Unigram vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnkId {
    At(usize),
    /// `unk_id` of `tokenizer_config.json`, 0 where that is missing.
    Setting,
    /// Place of `unk_token`, otherwise this id.
    Named(usize),
    /// Place of `unk_token` if its score is 0, otherwise this id.
    Unscored(usize),
    /// Place of `unk_token` if its score is 0, otherwise `unk_id` of `tokenizer_config.json`, or 1.
    UnscoredOrSetting,
    /// Place of `unk_token`, which must have the score 0 and not be the first.
    UnscoredLater,
}

/// Value that is true or false, for most flags by a setting of `tokenizer_config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    /// Key, and the value where that is missing.
    Setting { key: &'static str, default: bool },
    /// True whatever the settings are.
    Always,
    /// False whatever the settings are.
    Never,
}

/// One step of a normalizer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Normalizer {
    Nfc,
    Nfkc,
    Nfkd,
    StripAccents,
    Lowercase,
    /// Strips white space off the end.
    StripEnd,
    /// Replaces a text by another.
    Replace(&'static str, &'static str),
    /// Replaces matches of a pattern by a text.
    ReplaceAll(&'static str, &'static str),
    /// The table of SentencePiece that `tokenizer.json` has, and the first steps; without one, the second steps.
    Charsmap(&'static [Self], &'static [Self]),
    /// BERT's normalizer with these flags: clean, lower case. Chinese characters and accents go by settings.
    Bert(Flag, Flag),
    /// BERT's normalizer, which cleans, separates Chinese characters, and changes neither case nor accents.
    BertCased,
    /// BERT's normalizer with all that it does.
    BertLowercase,
    /// Steps where the flag is set.
    If(Flag, &'static [Self]),
    /// Steps where the flag is not set.
    Unless(Flag, &'static [Self]),
}

/// One step of a pre-tokenizer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum PreTokenizer {
    /// Bytes, split by GPT-2's pattern; puts a space before a text where the flag is set.
    ByteLevel(Flag),
    /// Bytes, split by other steps before.
    Bytes(Flag),
    Metaspace(Scheme),
    /// One piece, spaces in it.
    MetaspaceWhole(Scheme),
    WhitespaceSplit,
    Digits,
    Bert,
    /// Single punctuation characters, where `split_by_punct` is set.
    Punctuation,
    /// Splits at matches of a pattern, which are pieces of their own.
    Isolate(&'static str),
    /// Splits at a text, which is a piece of its own.
    IsolateText(&'static str),
    /// InputKind matches of a pattern as pieces, and drops what is between them.
    Matches(&'static str),
    /// Drops a text.
    Remove(&'static str),
    /// Splits after each space.
    AfterSpace,
}

/// Texts that get a `▁` in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Always,
    First,
    /// Always, or never if `add_prefix_space` is not set.
    Prefix,
    /// Always, or first if `add_prefix_space` is not set.
    PrefixOrFirst,
    /// First, or never if `add_prefix_space` is false.
    FirstOrNever,
    /// First, always with `legacy`, or never if `add_prefix_space` is false.
    Llama,
}

/// Decoder from tokens to text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// Bytes in the spelling of GPT-2.
    ByteLevel,
    /// Spaces and bytes; the first space stays.
    Spaces,
    /// Spaces and bytes; the first space is dropped.
    SpacesButFirst,
    /// Spaces and bytes; the first space is dropped unless `add_prefix_space` is false.
    SpacesButPrefix,
    Metaspace(Scheme),
    /// [`Scheme::Always`], then bytes.
    MetaspaceBytes,
    /// WordPiece with `##`.
    WordPiece,
    /// WordPiece with `wordpieces_prefix`.
    WordPiecePrefix,
    /// Spaces in place of `</w>`.
    WordEnds,
    /// Tokens with spaces between them.
    None,
}

/// Tokens around every text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Around {
    /// Tokens of the post-processor of `tokenizer.json`.
    Stored,
    /// Tokens of `tokenizer.json`, or the given ones where it has no post-processor.
    StoredOr(&'static [Piece], &'static [Piece]),
    /// No tokens.
    Nothing,
    /// The given tokens, before and after.
    Put(&'static [Piece], &'static [Piece]),
    /// The given tokens if all their names stand for tokens, and otherwise those of `tokenizer.json`.
    PutAll(&'static [Piece], &'static [Piece]),
    /// The given tokens where `tokenizer.json` has a post-processor, and otherwise none.
    IfStored(&'static [Piece], &'static [Piece]),
    /// The first where the flag is set, otherwise the second.
    If(Flag, &'static Self, &'static Self),
    /// Whisper's start, language and task, and EOS.
    Whisper,
}

/// One token around a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Token of this name, or the unknown token where it stands for none.
    Named(&'static str),
    /// Token of this name, or this id where it stands for none.
    NamedOr(&'static str, u32),
    /// Token of this name, if it stands for one.
    IfNamed(&'static str),
    At(u32),
    /// Code of the language that a setting names, or this one.
    Language(&'static str, &'static str),
    /// Code of the language that a setting names, or this one, with underscores around it: `__eng__`.
    Underscored(&'static str, &'static str),
}

/// Flags of a mask token that is given as a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mask {
    Plain,
    /// InputKind the white space before it.
    Strips,
    /// InputKind the white space before it, and is looked for after normalizing.
    StripsNormalized,
}

/// Further special tokens of a class; the list of the files is the one that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extra {
    None,
    /// `extra_special_tokens` alone.
    Newer,
    /// The given tokens after those of the list.
    Append(&'static [&'static str]),
    /// The given tokens after those of the list, each with a name that must stand for a token, be it another.
    Named(&'static [(&'static str, &'static str)]),
    /// The given tokens that are not in the list, after it.
    Complete(&'static [&'static str]),
    /// The given tokens before those of the list.
    Prepend(&'static [&'static str]),
    /// The given tokens where there is no list.
    Default(&'static [&'static str]),
    /// The given tokens where there is none of both lists, `null` being none.
    Fallback(&'static [&'static str]),
    /// `<extra_id_0>` and so on, `extra_ids` of them, where the list has none.
    Sentinels,
    /// Pegasus' `<mask_1>` and `<unk_2>` and so on, up to `offset`, in place of the list.
    Pegasus,
    /// Tokens of entities, after both lists: the two that are named, with this before a name, and those of these names.
    Entities(&'static str, &'static [&'static str]),
}

/// Special tokens that a class adds once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddedAgain {
    Nothing,
    /// All special tokens, with their flags.
    WithFlags,
    /// All special tokens, as texts without flags.
    AsTexts,
}

/// Source of a padding token that no file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Padding {
    /// The token that `tokenizer.json` pads with.
    Stored,
    /// No source: there is no padding token.
    Absent,
}

/// Python code of a class beside the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    None,
    /// A text with `<FILL_ME>` is encoded as prefix and suffix.
    Infilling,
    /// A text is split at white space first.
    SplitWords,
    /// Decoded texts have spaces for `</w>`, and none around them.
    WordEnds,
    /// Runs of the same token count once in decoding, padding not at all.
    Ctc,
    /// Decoded texts lack time stamps, and the prompt if special tokens are left out.
    Transcript,
}

/// Texts that a class takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputKind {
    Texts,
    /// Words with boxes; plain texts are refused.
    Boxes,
}
