//! All that mixbit does with a model's files. Whatever is in them, there must be no panic, and every error must name a file of
//! the model, on one line that can be read.

use clap::Parser;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use crate::models::path_of_model;
use mixbit::choose::recipe::Recipe;
use mixbit::choose::table::Table;
use mixbit::cli::args::Cli;
use mixbit::cli::commands;
use mixbit::files::model_files::ModelFiles;
use mixbit::formats::checkpoint::Checkpoint;
use mixbit::jobs::check;
use mixbit::jobs::record::Record;
use mixbit::jobs::write::companions;
use mixbit::models::bitmap;
use mixbit::models::config::ModelConfig;
use mixbit::models::contents::FileContents;
use mixbit::models::inventory::Inventory;
use mixbit::models::source::SourceModel;
use mixbit::text::corpus::Text;
use mixbit::text::stop_tokens::StopTokens;
use mixbit::text::tokenizer;
use mixbit::text::tokenizer::{Message, Tokenizer, render_without_tokenizer};

/// Most characters of an error that somebody reads.
const LONGEST: usize = 2000;

/// Text that is tokenized: words, spaces, marks, scripts, an emoji of several parts, special tokens, a control character.
const TEXT: &str = "Hello, world!  a ab\tbaba 12345 \n\n π 日本語 👩‍👩‍👧 é\u{301} <s>a</s> <|eot|> [CLS] \u{0} z";

/// Place and message of the last panic.
static PANIC: Mutex<Option<(String, String)>> = Mutex::new(None);

/// One model, opened.
pub struct Trial<'a> {
    folder: &'a Path,
    /// Called with the name of every step before it is taken.
    announce: &'a dyn Fn(&str),
    /// The refused step and its reason.
    pub refusals: Vec<String>,
    /// Findings: the kind, by which like ones are counted, and the message.
    pub findings: Vec<(String, String)>,
}

/// Keeps panics quiet, and remembers where they came from.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, ToString::to_string);
        let message = info.payload_as_str().unwrap_or("a panic without a message").to_owned();
        if let Ok(mut panic) = PANIC.lock() {
            *panic = Some((place, message));
        }
    }));
}

impl<'a> Trial<'a> {
    /// Takes every step that there is with the model in `folder`.
    pub fn run(folder: &'a Path, announce: &'a dyn Fn(&str)) -> Self {
        let mut trial = Self { folder, announce, refusals: Vec::new(), findings: Vec::new() };
        let path = path_of_model(folder);
        if let Some(files) = trial.step("files", || ModelFiles::open(&path)) {
            trial.weights(&files);
            trial.tokens(&files);
            trial.step("record", || Record::read(&files));
        }
        if let Some(findings) = trial.step("check", || check::check(&path, None, &|_, _| ())) {
            for finding in findings {
                trial.readable("check", &finding.message);
                if finding.level == check::Level::Problem {
                    trial.refusals.push(finding.message);
                }
            }
        }
        trial.beside();
        trial
    }

    /// Opens weights and config, and all that is made of both.
    fn weights(&mut self, files: &ModelFiles) {
        if let Some(checkpoint) = self.step("weights", || Checkpoint::from_files(files)) {
            self.step("contents", || Ok(FileContents::of(&checkpoint).bpw_model()));
        }
        self.step("title and names", || {
            files.title();
            files.names()
        });
        self.step("verify files", || files.verify());
        let Some(source) = self.step("model", || SourceModel::open_headers(files.path())) else { return };
        self.step("verify weights", || source.verify());
        self.step("dtype", || source.dtype());
        self.step("fingerprint", || source.fingerprint());
        self.step("bit map", || {
            let names_apart = |path: &str| source.spec().names_apart(path);
            Ok(bitmap::to_config(source.bitmap(), source.prefix(), names_apart))
        });
        self.step("inventory", || {
            let inventory = Inventory::of_source(&source);
            Ok((inventory.bpw_quantized(), inventory.bpw_model(), inventory.cells().len()))
        });
        self.step("config to write", || Ok(companions::config(&source, source.dtype()?, source.bitmap())));
        // A GGUF is one file, and has no parts.
        if files.gguf().is_none() {
            self.step("parts", || companions::parts(&source));
        }
        self.step("base model", || Ok(companions::base_model(&source)));
    }

    /// Opens tokenizer, template and the tokens that end a text.
    fn tokens(&mut self, files: &ModelFiles) {
        let messages = [
            Message::new("system", "Be brief."),
            Message::new("user", "Hi"),
            Message::new("assistant", "Hello!"),
            Message::new("user", TEXT),
        ];
        self.step("tokenizer's files", || tokenizer::files(files));
        self.step("template alone", || render_without_tokenizer(files, &messages));
        let Some(tokenizer) = self.step("tokenizer", || Tokenizer::from_files(files)) else { return };
        self.step("special tokens", || {
            let ids = [tokenizer.bos_token_id(), tokenizer.eos_token_id(), tokenizer.first_token_id()];
            let ids = ids.into_iter().flatten().chain(tokenizer.largest_id());
            let known = ids.map(|id| (tokenizer.is_ordinary(id), tokenizer.is_added_later(id)));
            Ok((known.count(), tokenizer.contradicted().len(), tokenizer.vocab_size()))
        });
        for bos in [true, false] {
            let Some(ids) = self.step("encode", || tokenizer.encode(TEXT, bos)) else { continue };
            self.step("decode", || tokenizer.decode(&ids, bos));
            self.step("stream", || {
                let mut stream = tokenizer.stream(bos);
                ids.iter().try_for_each(|&id| stream.push(id).map(drop))?;
                stream.finish()
            });
        }
        self.step("decode any", || {
            let ids: Vec<u32> = (0..300).chain([u32::MAX, 1 << 31]).collect();
            let mut stream = tokenizer.stream(true);
            ids.iter().try_for_each(|&id| stream.push(id).map(drop))?;
            stream.finish()?;
            tokenizer.decode(&ids, false)
        });
        for conversation in [&messages[..], &messages[1..2]] {
            let prompt = self.step("template", || tokenizer.apply_chat_template(conversation, true));
            if let Some(Some(prompt)) = prompt {
                self.step("encode prompt", || tokenizer.encode(&prompt, true));
            }
        }
        if let Some(config) = self.step("config", || ModelConfig::from_files(files)) {
            self.step("stop tokens", || StopTokens::read(&config, &tokenizer).map(|stop| stop.ids()));
        }
    }

    /// Opens the files beside a model that are there.
    fn beside(&mut self) {
        let folder = self.folder;
        let named = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let source = || SourceModel::open(folder);
        if let Some(path) = named("sensitivity.json") {
            self.step("sensitivity table", || Table::read(&path));
        }
        if let Some(path) = named("recipe.toml") {
            let name = path.to_string_lossy().into_owned();
            let recipe = self.step("recipe", || Recipe::load(&name));
            if let (Some(recipe), Ok(source)) = (recipe, source()) {
                self.step("recipe on a model", || recipe.apply(source.manifest()));
            }
        }
        if named("mixbit-report.json").is_some() {
            let page = std::env::temp_dir().join(format!("mixbit-fuzz-{}.html", std::process::id()));
            let arguments = [
                "mixbit".as_ref(),
                "--quiet".as_ref(),
                "report".as_ref(),
                folder.as_os_str(),
                "--out".as_ref(),
                page.as_os_str(),
            ];
            if let Ok(cli) = Cli::try_parse_from(arguments) {
                self.step("report", || commands::dispatch::run(cli));
            }
            let _ = std::fs::remove_file(page);
        }
        for name in ["texts.jsonl", "tokens.npy", "tokens.npz"] {
            let Some(path) = named(name) else { continue };
            if let Some(text) = self.step("text", || Text::open(Some(&path))) {
                self.step("tokens of a text", || text.tokens(Tokenizer::from_dir(folder).ok().as_ref()));
            }
        }
    }

    /// Does `work`; `None` if it was refused, panicked or gave a bad error.
    fn step<T>(&mut self, name: &str, work: impl FnOnce() -> mixbit::error::Result<T>) -> Option<T> {
        (self.announce)(name);
        let Ok(result) = catch_unwind(AssertUnwindSafe(work)) else {
            let panic = PANIC.lock().ok().and_then(|mut panic| panic.take());
            let (place, message) = panic.unwrap_or_default();
            self.findings.push((format!("panic at {}", short(&place)), format!("{name}: {message}")));
            return None;
        };
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let message = error.to_string();
        self.refusals.push(message.clone());
        let folder = self.folder.to_string_lossy();
        if !message.contains(folder.as_ref()) {
            self.findings.push((format!("{name}: error without the file"), message.clone()));
        }
        if error.hint_text().is_none() {
            self.findings.push((format!("{name}: error without a hint"), message.clone()));
        }
        self.readable(name, &message);
        self.readable(name, error.hint_text().unwrap_or_default());
        None
    }

    fn readable(&mut self, name: &str, message: &str) {
        let mut keep = |what: &str| self.findings.push((format!("{name}: {what}"), message.to_owned()));
        if message.chars().count() > LONGEST {
            keep("error of thousands of characters");
        }
        if message.contains(char::is_control) {
            keep("error with control characters");
        }
    }
}

/// Returns a place in the source without the machine's folders.
fn short(place: &impl Display) -> String {
    let place = place.to_string();
    let parts: Vec<&str> = place.split('/').collect();
    let start = parts.iter().position(|part| part.starts_with("index.crates.io")).map_or(0, |at| at + 1);
    parts[start..].join("/")
}
