//! The tokenizer of a model folder.

use super::message::Message;
use super::stream::Stream;
use super::template_settings::TemplateSettings;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

use super::chat::{Conversation, End};
use super::class::{Build, Code, clean_up};
use super::guard::guarded;
use super::settings::Settings;
use super::special::SpecialTokens;
use super::templates::Templates;
use crate::error::{Error, Result};
use crate::files::json;
use crate::files::model_files::ModelFiles;

/// Role of the messages that are answers.
const ASSISTANT: &str = "assistant";

/// The tokenizer of one model folder.
pub struct Tokenizer {
    /// The file with the vocabulary, for errors.
    pub(crate) path: PathBuf,
    pub(crate) inner: tokenizers::Tokenizer,
    pub(crate) special: SpecialTokens,
    /// Named tokens that the vocabulary's file lacks.
    pub(crate) added_later: Vec<String>,
    pub(crate) templates: Templates,
    pub(crate) template_settings: TemplateSettings,
    /// True if the decoder turns tokens like `<0xE2>` into bytes.
    pub(crate) byte_fallback: bool,
    /// Python code of the tokenizer's class beside the parts.
    pub(crate) code: Code,
    /// True if spaces before punctuation are taken out of decoded texts.
    pub(crate) cleans_up: bool,
    pub(crate) notes: Vec<String>,
}

impl Tokenizer {
    /// Reads the tokenizer of the model folder or pack `path`.
    ///
    /// # Errors
    /// Fails as [`Tokenizer::from_files`] does, and if `path` is a file that is no pack.
    pub fn from_dir(path: &Path) -> Result<Self> {
        Self::from_files(&ModelFiles::open(path)?)
    }

    /// Reads `tokenizer.json` or else `tekken.json`, `tokenizer_config.json`, `special_tokens_map.json`,
    /// `added_tokens.json` and the chat templates (`chat_template.jinja`, `additional_chat_templates/*.jinja`, else
    /// those of `tokenizer_config.json`).
    ///
    /// # Errors
    /// Fails when neither of the first is there (the hint says how to make one) or a file that counts is malformed.
    /// The chat template is compiled when it is applied, so a broken one does not keep anybody from encoding.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        super::load::load(files)
    }

    /// True where the folder or pack has a file with a vocabulary that can be read here.
    pub fn is_in(files: &ModelFiles) -> bool {
        files.has(super::load::JSON) || files.has(super::tekken::NAME)
    }

    /// Returns the token ids of `text`.
    ///
    /// With `bos`, what the tokenizer itself puts around a text (its post-processor: usually BOS, for some
    /// models nothing, for some an EOS too) is added, as `AutoTokenizer.encode` does; without, nothing is.
    /// Special tokens written out in the text are recognised either way. A text that already starts with
    /// the BOS token, as a chat template renders it, does not get a second one.
    ///
    /// # Errors
    /// Fails when the tokenizer's model fails on the text (an unknown character without an unknown token).
    pub fn encode(&self, text: &str, bos: bool) -> Result<Vec<u32>> {
        let encode = || match self.code.encode(&self.inner, &self.special, text, bos)? {
            Some(ids) => Ok(ids),
            None => Ok(self.inner.encode_fast(text, bos)?.get_ids().to_vec()),
        };
        let mut ids = guarded(encode)
            .map_err(|e| Error::file(&self.path, format!("the text cannot be tokenized: {e}")))?;
        if bos
            && let (Some(token), Some(id)) = (self.special.get("bos_token"), self.bos_token_id())
            && text.starts_with(token)
            && ids.starts_with(&[id, id])
        {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// Returns the text of `ids`; `skip_special` leaves special tokens out. Ids that no token has are left out too.
    ///
    /// As in transformers, `clean_up_tokenization_spaces` of `tokenizer_config.json` is ignored for BPE.
    ///
    /// # Errors
    /// Fails when the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let ids = self.code.ids(&self.inner, &self.special, ids, skip_special);
        let is_text = |id: &u32| {
            let token = self.inner.id_to_token(*id);
            token.is_some_and(|token| {
                !(skip_special && self.inner.get_added_vocabulary().is_special_token(&token))
            })
        };
        // Some decoders fail on nothing.
        if !ids.iter().any(is_text) {
            return Ok(String::new());
        }
        let text = guarded(|| self.inner.decode(&ids, skip_special))
            .map_err(|e| Error::file(&self.path, format!("the tokens cannot be decoded: {e}")))?;
        let text = self.code.text(text);
        Ok(if self.cleans_up { clean_up(&text) } else { text })
    }

    /// Returns a detokenizer for tokens that come one by one; see [`Stream`].
    pub fn stream(&self, skip_special: bool) -> Stream<'_> {
        Stream::new(self, skip_special)
    }

    /// Returns the tokenizer with these settings of its chat template.
    ///
    /// # Errors
    /// Fails if a template is chosen by a name that none has.
    pub fn with_template(mut self, mut settings: TemplateSettings) -> Result<Self> {
        if let Some(chosen) = settings.template.take() {
            self.templates.choose(chosen)?;
        }
        self.template_settings = settings;
        Ok(self)
    }

    /// Returns the prompt that the model's chat template makes of `messages`, or `None` if there is no template.
    ///
    /// The prompt is rendered as transformers' `apply_chat_template(..., tokenize=False)` does, with the tools and
    /// variables of [`TemplateSettings`]. Contents that are lists of parts reach a template that takes such lists as
    /// they are; for others their texts are joined, as mlx-lm's server does. A system message with empty content is
    /// passed on as it is: that is how a template's default system prompt is switched off. Most templates write BOS
    /// themselves; [`encode`](Self::encode) does not double it.
    ///
    /// # Errors
    /// Fails when `messages` is empty, when there are several templates and none to choose, or when the template does
    /// not compile, fails, refuses the messages (`raise_exception`) or does not come to an end; the error names the
    /// file and the template's line.
    pub fn apply_chat_template(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Option<String>> {
        let end = if add_generation_prompt { End::GenerationPrompt } else { End::Closed };
        self.render(messages, self.template_settings.tools.as_deref(), end)
    }

    /// Renders a whole conversation with `tools` in place of those of [`TemplateSettings`], without a generation
    /// prompt. Returns `None` if there is no template.
    ///
    /// # Errors
    /// Fails as [`apply_chat_template`](Self::apply_chat_template) does.
    pub fn render_with_tools(&self, messages: &[Message], tools: Option<&[Value]>) -> Result<Option<String>> {
        self.render(messages, tools, End::Closed)
    }

    /// Renders a conversation of a text with its own `tools`, without a generation prompt. Where [`TemplateSettings`] has
    /// a `prefill`, the last answer begins with it; after a message of someone else it is an answer that goes on, as
    /// [`continue_final_message`](Self::continue_final_message) renders it. Returns `None` if there is no template.
    ///
    /// # Errors
    /// Fails as [`apply_chat_template`](Self::apply_chat_template) and `continue_final_message` do.
    pub fn render_conversation(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
    ) -> Result<Option<String>> {
        let Some(prefill) = &self.template_settings.prefill else {
            return self.render(messages, tools, End::Closed);
        };
        let mut messages = messages.to_vec();
        match messages.last_mut() {
            Some(answer) if answer.role() == ASSISTANT => {
                answer.begin_with(prefill);
                self.render(&messages, tools, End::Closed)
            }
            _ => {
                messages.push(Message::new(ASSISTANT, prefill));
                self.render(&messages, tools, End::Continued)
            }
        }
    }

    /// Renders the conversation up to the end of the last message's text, for an answer that begins with that text:
    /// transformers' `continue_final_message`. Returns `None` if there is no template.
    ///
    /// # Errors
    /// Fails as [`apply_chat_template`](Self::apply_chat_template) does, and if the template changes the last message.
    pub fn continue_final_message(&self, messages: &[Message]) -> Result<Option<String>> {
        self.render(messages, self.template_settings.tools.as_deref(), End::Continued)
    }

    /// Renders a conversation with the model's template of this `name`, generation prompt included. Returns `None` if
    /// there is no template of that name.
    ///
    /// # Errors
    /// Fails if `messages` is empty, or if the template cannot be read, does not compile, fails, refuses the messages
    /// (`raise_exception`) or does not come to an end.
    pub fn apply_named_template(
        &self,
        name: &str,
        messages: &[Message],
        tools: Option<&[Value]>,
    ) -> Result<Option<String>> {
        if let Some(fault) = self.templates.fault(name) {
            return Err(fault.clone());
        }
        let Some(template) = self.templates.get(name) else { return Ok(None) };
        let end = End::GenerationPrompt;
        let conversation =
            Conversation { messages, tools, variables: &self.template_settings.variables, end };
        template.render(&conversation, &self.special).map(Some)
    }

    fn render(&self, messages: &[Message], tools: Option<&[Value]>, end: End) -> Result<Option<String>> {
        let Some((_, template)) = self.templates.pick(tools.is_some())? else { return Ok(None) };
        let conversation =
            Conversation { messages, tools, variables: &self.template_settings.variables, end };
        template.render(&conversation, &self.special).map(Some)
    }

    /// Returns the tools that the model is offered, if any.
    pub fn tools(&self) -> Option<&[Value]> {
        self.template_settings.tools.as_deref()
    }

    /// Returns notes for the user, one line each: reasons why token ids may differ from those of transformers, and
    /// settings of the model folder that are not followed.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// True if the model has a chat template, be it one that cannot be read.
    pub fn has_chat_template(&self) -> bool {
        self.templates.has_any()
    }

    /// Returns the names of all chat templates, those that cannot be read too, sorted.
    pub fn template_names(&self) -> Vec<&str> {
        self.templates.names()
    }

    /// Fails if the chat template for a conversation cannot be read.
    pub(crate) fn check_template(&self, tools: Option<&[Value]>) -> Result<()> {
        self.templates.fault_in_use(tools.is_some()).map_or(Ok(()), |fault| Err(fault.clone()))
    }

    /// Returns name and file of the chat template of prompts, or `None` if there is no template.
    ///
    /// # Errors
    /// Fails if there are several templates and none to choose.
    pub fn template_in_use(&self) -> Result<Option<(&str, &Path)>> {
        let template = self.templates.pick(self.template_settings.tools.is_some())?;
        Ok(template.map(|(name, template)| (name, template.path())))
    }

    /// Returns notes for a user who applies a chat template, one line each: decisions that transformers would not take,
    /// and variables of [`TemplateSettings`] that no template reads.
    pub fn template_notes(&self) -> Vec<String> {
        let mut notes = self.templates.notes();
        let is_read = |name: &str| {
            self.template_names()
                .iter()
                .any(|&template| self.templates.get(template).is_some_and(|template| template.mentions(name)))
        };
        let unread = self.template_settings.variables.keys().filter(|name| !is_read(name));
        notes.extend(
            unread.map(|name| format!("the chat template does not read `{name}`: it changes nothing")),
        );
        notes
    }

    /// Returns the number of tokens, added ones included. A model's embedding may have more rows than that.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Returns the largest id that a token has; there may be gaps below.
    pub fn largest_id(&self) -> Option<u32> {
        self.inner.get_vocab(true).into_values().max()
    }

    /// Returns the id of a token, spelled as in the vocabulary (`▁the`, `Ġthe`, `<s>`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns the token of an id, spelled as in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// True if `tokenizer.json` lacks the named token of this id: other files name the token, and it got the next free
    /// id.
    pub fn is_added_later(&self, id: u32) -> bool {
        self.id_to_token(id).is_some_and(|token| self.added_later.contains(&token))
    }

    /// True if the token of this id is a piece of ordinary text: no added token, not white space alone, and not in
    /// brackets like `</s>`.
    pub fn is_ordinary(&self, id: u32) -> bool {
        let Ok(text) = self.decode(&[id], false) else { return false };
        let text = text.trim();
        let brackets = [('<', '>'), ('[', ']'), ('{', '}'), ('(', ')')];
        let is_marker = brackets.iter().any(|&(open, close)| text.starts_with(open) && text.ends_with(close));
        !text.is_empty() && !is_marker && !self.inner.get_added_tokens_decoder().contains_key(&id)
    }

    /// Returns the tokens that have another id here than a file says, each as (file, id in the file, text, id here).
    pub fn contradicted(&self) -> Vec<(&'static str, u32, &str, u32)> {
        self.special.contradicted(&self.inner)
    }

    /// Returns the id of `token` if that is a special token, one that is left out of texts.
    pub fn special_token_id(&self, token: &str) -> Option<u32> {
        self.token_to_id(token).filter(|_| self.inner.get_added_vocabulary().is_special_token(token))
    }

    /// Returns the id of the `bos_token` that `tokenizer_config.json` or `special_tokens_map.json` names.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.special.get("bos_token").and_then(|token| self.token_to_id(token))
    }

    /// Returns the id of the `eos_token` that `tokenizer_config.json` or `special_tokens_map.json` names, or the
    /// tokenizer's class does. A model may stop at more ids than this one: config.json and `generation_config.json`
    /// name them.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.special.get("eos_token").and_then(|token| self.token_to_id(token))
    }
}

/// Renders `messages` with the chat template of a model, generation prompt included, without reading its tokenizer.
/// Returns `None` if there is no template, or if the tokenizer's settings or special tokens cannot be read.
///
/// # Errors
/// Fails if a template cannot be read, and as [`Tokenizer::apply_chat_template`] does.
pub fn render_without_tokenizer(files: &ModelFiles, messages: &[Message]) -> Result<Option<String>> {
    let Ok(settings) = Settings::read(files, &[]) else { return Ok(None) };
    let Ok(special) = SpecialTokens::merge(&settings, Build::Stored) else { return Ok(None) };
    let templates = Templates::read(files, &settings.path_of(super::settings::CONFIG), &settings.config)?;
    let Some((_, template)) = templates.pick(false)? else { return Ok(None) };
    let variables = &Map::new();
    let conversation = Conversation { messages, tools: None, variables, end: End::GenerationPrompt };
    template.render(&conversation, &special).map(Some)
}

/// Reads a JSON file that holds an object; `None` if there is no such file.
pub(crate) fn read_object(files: &ModelFiles, name: &str) -> Result<Option<Map<String, Value>>> {
    if !files.has(name) {
        return Ok(None);
    }
    json::parse_object(&files.path_of(name), &files.read(name)?).map(Some)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{config, fixture, folder, sentencepiece};
    use super::*;

    fn open(files: &[(&str, &str)]) -> Tokenizer {
        Tokenizer::from_dir(folder(files).path()).unwrap()
    }

    #[test]
    fn fixture_goes_there_and_back() {
        let tokenizer = fixture();
        assert_eq!(tokenizer.vocab_size(), 1024);
        assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(0), Some(4)));
        assert_eq!(tokenizer.token_to_id("<|end_of_text|>"), Some(1));
        assert_eq!(tokenizer.id_to_token(1).as_deref(), Some("<|end_of_text|>"));
        assert_eq!((tokenizer.token_to_id("no such token"), tokenizer.id_to_token(1024)), (None, None));
        for text in ["", " ", "Hello,  world\n", "π 日本語 👩‍👩‍👧 \u{0}", "\t<b> def f(x): "]
        {
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(ids.first(), Some(&0), "{text:?}");
            assert_eq!(ids.get(1..), Some(tokenizer.encode(text, false).unwrap().as_slice()));
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), format!("<|begin_of_text|>{text}"));
        }
    }

    #[test]
    fn bos_is_not_doubled() {
        let tokenizer = fixture();
        let once = tokenizer.encode("hey", true).unwrap();
        assert_eq!(tokenizer.encode("<|begin_of_text|>hey", true).unwrap(), once);
        assert_eq!(tokenizer.encode("<|begin_of_text|>hey", false).unwrap(), once);
        // Written twice in the text is the text's own affair.
        assert_eq!(tokenizer.encode("<|begin_of_text|><|begin_of_text|>", true).unwrap(), [0, 0]);
        assert_eq!(tokenizer.encode("<|begin_of_text|>", true).unwrap(), [0]);
    }

    #[test]
    fn post_processor_is_the_bos_rule() {
        // As transformers 5.23: with a tokenizer.json, `add_bos_token` says nothing.
        let with = sentencepiece(true).to_string();
        let without = sentencepiece(false).to_string();
        for add_bos_token in ["true", "false"] {
            let config = format!(r#"{{"bos_token": "<s>", "add_bos_token": {add_bos_token}}}"#);
            let tokenizer = open(&[("tokenizer.json", &with), ("tokenizer_config.json", &config)]);
            assert_eq!(tokenizer.encode("", true).unwrap(), [1]);
            assert!(tokenizer.encode("", false).unwrap().is_empty());
            let tokenizer = open(&[("tokenizer.json", &without), ("tokenizer_config.json", &config)]);
            assert!(tokenizer.encode("", true).unwrap().is_empty());
        }
    }

    #[test]
    fn stored_truncation_and_padding_are_ignored() {
        let mut json = sentencepiece(true);
        json["truncation"] = serde_json::json!(
            {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = serde_json::json!({"strategy": {"Fixed": 64}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"});
        let plain = open(&[("tokenizer.json", &sentencepiece(true).to_string())]);
        let tokenizer = open(&[("tokenizer.json", &json.to_string())]);
        assert_eq!(tokenizer.encode("a b a", true).unwrap(), plain.encode("a b a", true).unwrap());
    }

    #[test]
    fn special_tokens_come_from_both_files() {
        let json = sentencepiece(true).to_string();
        let size = open(&[("tokenizer.json", &json)]).vocab_size();
        // Strings and objects; the map wins; a token that tokenizer.json lacks gets the next id.
        let tokenizer = open(&[
            ("tokenizer.json", &json),
            (
                "tokenizer_config.json",
                r#"{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "<unk>", "pad_token": "<pad>",
                    "unk_token": null, "extra_special_tokens": ["<x>"]}"#,
            ),
            ("special_tokens_map.json", r#"{"eos_token": {"content": "</s>"}}"#),
        ]);
        assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(1), Some(2)));
        assert_eq!(tokenizer.vocab_size(), size + 2);
        let pad = tokenizer.token_to_id("<pad>").unwrap();
        assert_eq!(pad as usize, size);
        let ids = tokenizer.encode("a<pad><x>", false).unwrap();
        assert_eq!(ids.get(ids.len() - 2..), Some([pad, pad + 1].as_slice()));
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a");
        // With `added_tokens_decoder` the map does not count.
        let tokenizer = open(&[
            ("tokenizer.json", &json),
            (
                "tokenizer_config.json",
                r#"{"eos_token": "<unk>", "added_tokens_decoder": {"0": {"content": "<unk>", "special": true}}}"#,
            ),
            ("special_tokens_map.json", r#"{"eos_token": "</s>"}"#),
        ]);
        assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (None, Some(0)));
    }

    #[test]
    fn malformed_files_are_named() {
        let json = sentencepiece(true).to_string();
        let fails = |files: &[(&str, &str)]| {
            let dir = folder(files);
            Tokenizer::from_dir(dir.path()).err().unwrap().to_string()
        };
        let message = fails(&[("tokenizer.json", "{}")]);
        assert!(message.contains("tokenizer.json: not a tokenizer"), "{message}");
        let message = fails(&[("tokenizer.json", &json), ("tokenizer_config.json", "[1]")]);
        assert!(message.contains("tokenizer_config.json: expected a JSON object"), "{message}");
        let message = fails(&[("tokenizer.json", &json), config(r#"{"bos_token": 3}"#)]);
        assert!(message.contains("key `bos_token`: expected a string"), "{message}");
        let message = fails(&[("tokenizer.json", &json), config(r#"{"added_tokens_decoder": {"x": "y"}}"#)]);
        assert!(message.contains("key `added_tokens_decoder`"), "{message}");
    }
}
