//! `mixbit chat`: a conversation, turn by turn. What the model has seen in earlier turns is not computed again.

use std::path::{Path, PathBuf};

use super::answering::{Loaded, Source, memory, note_greedy, sampler, summary};
use crate::answer::Answer;
use crate::chat::{Conversation, HELP, Input, Seen, encode_after};
use crate::cli::Chat;
use crate::engine::{Engine, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::interrupt;
use crate::output_file;
use crate::report::{self, Console, Line, Lines, out};
use crate::sample::Sampler;

/// Runs the command.
pub fn run(args: &Chat, console: &Console) -> Result<()> {
    let source = Source::open(&args.answering, false)?;
    if !source.tokenizer.has_chat_template() {
        return Err(Error::file(
            &args.answering.model,
            "there is no chat template, so turns cannot be told apart",
        )
        .hint("mixbit run continues a text without one"));
    }
    let sampler = sampler(&args.answering.sampling, None, source.checkpoint.spec())?;
    note_greedy(&args.answering.sampling, console);
    let engine = Engine::start()?;
    let (loaded, _) = source.load(&engine, args.answering.dtype.map(Into::into))?;
    let mut lines = Lines::open()?;
    let mut chat = Talk {
        console,
        verbose: args.verbose,
        conversation: Conversation::new(args.system.clone()),
        session: source.session(&loaded),
        loaded: &loaded,
        source: &source,
        sampler,
        seen: [Seen::default(), Seen::default()],
        saved: Vec::new(),
        long: false,
    };
    interrupt::converse(lines.are_typed());
    if lines.are_typed() {
        console.line("/help lists the commands, Ctrl-D ends");
    }
    loop {
        let result = match lines.read()? {
            Line::End => return Ok(()),
            Line::Interrupted => {
                console.line("Ctrl-D ends");
                continue;
            }
            Line::Text(line) => Input::parse(&line).and_then(|input| chat.obey(input)),
        };
        match result {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            // Who types can try again; what comes through a pipe must not go on without having been understood.
            Err(error) if lines.are_typed() && !matches!(error.kind(), ErrorKind::Engine(_)) => {
                report::error(&error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// A conversation and what it needs.
struct Talk<'a> {
    console: &'a Console,
    verbose: bool,
    conversation: Conversation,
    session: Session<'a>,
    loaded: &'a Loaded,
    source: &'a Source,
    sampler: Sampler,
    /// The last prompt with its answer, and without.
    seen: [Seen; 2],
    /// Files that this conversation was saved to, and may be again.
    saved: Vec<PathBuf>,
    /// Whether the user knows that the context is used up.
    long: bool,
}

impl Talk<'_> {
    /// Does what a line asks for; false ends the conversation.
    fn obey(&mut self, input: Input) -> Result<bool> {
        match input {
            Input::Nothing => {}
            Input::Quit => return Ok(false),
            Input::Help => self.console.line(HELP),
            Input::Reset => {
                self.conversation.reset();
                self.long = false;
            }
            Input::System(text) => self.conversation.system = Some(text),
            Input::ShowSystem => self.console.line(&match &self.conversation.system {
                None => "the template's own system message, if it has one".to_owned(),
                Some(text) => format!("system message: {text:?}"),
            }),
            Input::Save(path) => self.save(&path)?,
            Input::Say(text) => {
                self.conversation.ask(text);
                self.answer().inspect_err(|_| self.conversation.take_back())?;
            }
        }
        Ok(true)
    }

    fn save(&mut self, path: &Path) -> Result<()> {
        if self.conversation.is_empty() {
            return Err(Error::usage("nothing has been said that could be saved").hint("say something first"));
        }
        if path.exists() && !self.saved.iter().any(|saved| saved == path) {
            return Err(Error::file(path, "already exists").hint("choose another name"));
        }
        output_file::write(path, self.conversation.to_jsonl().as_bytes())?;
        self.saved.push(path.to_owned());
        self.console.done(&format!("saved to {}", path.display()));
        Ok(())
    }

    /// Answers what was said last.
    fn answer(&mut self) -> Result<()> {
        let source = self.source;
        let messages = self.conversation.messages();
        let rendered = source.tokenizer.apply_chat_template(&messages, true)?.unwrap_or_default();
        let prompt = encode_after(&source.tokenizer, &rendered, &self.seen)?;
        self.note_length(prompt.len());
        let mut answer = Answer::new(&source.tokenizer, &source.ending);
        let mut tokens = Vec::new();
        // Ctrl-C from here on is meant for this answer.
        interrupt::take();
        let result = source.answer(
            self.loaded,
            &mut self.session,
            &prompt,
            &mut self.sampler,
            &mut answer,
            |chosen, text| {
                tokens.push(chosen.token);
                out(text)
            },
        );
        let stopped = matches!(&result, Err(error) if matches!(error.kind(), ErrorKind::Interrupted));
        let generation = if stopped { None } else { Some(result?) };
        let (rest, text, _) = answer.finish()?;
        out(&format!("{rest}\n"))?;
        if stopped {
            interrupt::take();
            self.console.line("stopped");
        }
        if let Some(generation) = generation.filter(|_| self.verbose) {
            summary(self.console, prompt.len(), &generation);
            memory(self.console, &generation);
        }
        let prompt = Seen { text: rendered, tokens: prompt };
        self.seen = [prompt.answered(&source.tokenizer, &tokens)?, prompt];
        if stopped && text.is_empty() {
            self.conversation.take_back();
        } else {
            self.conversation.answered(text);
        }
        Ok(())
    }

    fn note_length(&mut self, prompt: usize) {
        if let Some(note) = self.source.length_note(prompt).filter(|_| !self.long) {
            self.console.notes(&[note]);
            self.long = true;
        }
    }
}
