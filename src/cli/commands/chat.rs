//! `mixbit chat`: a conversation, turn by turn. Tokens of earlier turns are not computed again.

use std::path::{Path, PathBuf};

use super::answering::{Loaded, Source, note_greedy, print_cache, print_speed, sampler};
use super::flag_names::flags_in;
use super::lines::{Line, Lines};
use super::prompting::{RenderedPrompt, ignores_system, render, system_ignored};
use crate::cli::args::Chat;
use crate::cli::signals;
use crate::cli::signals::SecondInterrupt;
use crate::engine::generate::generate::Generation;
use crate::engine::generate::session::Session;
use crate::engine::runtime::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::files::output_file;
use crate::files::output_file::Existing;
use crate::report::{Console, out};
use crate::text::answer::Answer;
use crate::text::conversation::{Conversation, HELP, Input, Seen, as_said, encode_after};
use crate::text::sampling::Sampler;
use crate::{interrupt, report};

/// Runs the command.
pub fn run(args: &Chat, console: &Console) -> Result<()> {
    let source = Source::open(&args.answering, &args.asking, false)?;
    check_template(args, &source)?;
    console.notes(&source.tokenizer.template_notes());
    let sampler = sampler(&args.answering.sampling, None, source.checkpoint.spec())?;
    print_notes(args, &source, console);
    let engine = Engine::start()?;
    let (loaded, _) = source.load(&engine, args.answering.dtype.map(Into::into))?;
    let mut lines = Lines::open()?;
    let mut chat = Talk::new(args, &source, &loaded, sampler, console);
    signals::converse(if lines.are_typed() {
        SecondInterrupt::Ignored
    } else {
        SecondInterrupt::EndsProgram
    });
    if lines.are_typed() {
        console.line("/help lists the commands, Ctrl-D ends");
    }
    converse(&mut chat, &mut lines)
}

/// Fails where no chat template can be used, or the one in use leaves out the system message.
fn check_template(args: &Chat, source: &Source) -> Result<()> {
    if !source.tokenizer.has_chat_template() {
        return Err(Error::file(
            &args.answering.model,
            "there is no chat template, so turns cannot be told apart",
        )
        .hint("mixbit run continues a text without one; --chat-template FILE gives it one"));
    }
    source.tokenizer.template_in_use()?;
    if args.system.as_deref().is_some_and(|text| ignores_system(&source.tokenizer, text)) {
        return Err(system_ignored("--system"));
    }
    Ok(())
}

/// Prints notes on the model and on sampling, with --verbose also the stop tokens.
fn print_notes(args: &Chat, source: &Source, console: &Console) {
    note_greedy(&args.answering.sampling, console);
    console.notes(source.file_notes());
    console.notes(&source.notes());
    if args.verbose {
        console.line(&format!("stop tokens: {}", source.stop_tokens()));
    }
    console.notes(source.context_note().as_slice());
}

/// Obeys lines until the conversation ends.
fn converse(chat: &mut Talk<'_>, lines: &mut Lines) -> Result<()> {
    loop {
        let line = match lines.read() {
            // A typed line that is no text need not end the conversation.
            Err(error) if lines.are_typed() && error.io_kind() == Some(std::io::ErrorKind::InvalidData) => {
                report::error(&flags_in(error));
                continue;
            }
            line => line?,
        };
        let result = match line {
            Line::End => return chat.end(lines.are_typed()),
            Line::Interrupted => {
                chat.console.line("Ctrl-D ends");
                continue;
            }
            Line::Text(line) => Input::parse(&line).and_then(|input| chat.obey(input)),
        };
        match result {
            Ok(true) => {}
            Ok(false) => return chat.end(lines.are_typed()),
            // A user who types can try again; from a pipe the following lines may depend on the failed one.
            Err(error) if lines.are_typed() && can_retry(&error) => {
                report::error(&flags_in(error));
            }
            Err(error) => return Err(error),
        }
    }
}

/// True if another line may succeed after `error`.
fn can_retry(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Engine(_) | ErrorKind::ClosedPipe)
}

/// Answer of one turn.
struct TurnAnswer {
    /// Text that was shown.
    text: String,
    tokens: Vec<u32>,
    /// Figures of the generation; `None` if the user stopped it.
    generation: Option<Generation>,
}

/// A conversation, with its model, session and state.
struct Talk<'a> {
    console: &'a Console,
    verbose: bool,
    /// Beginning of every answer.
    prefill: Option<String>,
    conversation: Conversation,
    session: Session<'a>,
    loaded: &'a Loaded,
    source: &'a Source,
    sampler: Sampler,
    /// Latest prompt with its answer, and without.
    seen: [Seen; 2],
    /// Latest prompt as the template wrote it.
    rendered: String,
    /// Files that this conversation was saved to, and may be again.
    saved: Vec<PathBuf>,
    /// First file that this conversation could not be saved to.
    unsaved: Option<PathBuf>,
    /// True once the user was told that the context may be used up.
    length_noted: bool,
}

impl<'a> Talk<'a> {
    /// Begins a conversation.
    fn new(
        args: &Chat,
        source: &'a Source,
        loaded: &'a Loaded,
        sampler: Sampler,
        console: &'a Console,
    ) -> Self {
        Self {
            console,
            verbose: args.verbose,
            prefill: args.asking.template.prefill_response.clone(),
            conversation: Conversation::new(args.system.clone()),
            session: source.session(loaded),
            loaded,
            source,
            sampler,
            seen: [Seen::default(), Seen::default()],
            rendered: String::new(),
            saved: Vec::new(),
            unsaved: None,
            length_noted: false,
        }
    }

    /// Obeys a line; false ends the conversation.
    fn obey(&mut self, input: Input) -> Result<bool> {
        match input {
            Input::Nothing => {}
            Input::Quit => return Ok(false),
            Input::Help => self.console.line(HELP),
            Input::Reset => {
                self.conversation.reset();
                self.length_noted = false;
                self.console.line("what was said is forgotten; the system message stays");
            }
            Input::System(text) => {
                self.console.line(match text.as_str() {
                    "" => "no system message from now on",
                    _ => "this is the system message from now on; what was said stays",
                });
                if ignores_system(&self.source.tokenizer, &text) {
                    self.console.notes(&["this model's chat template leaves out system messages".to_owned()]);
                }
                self.conversation.system = Some(text);
            }
            Input::ShowSystem => self.console.line(&match &self.conversation.system {
                None => {
                    "system message: the template's own, if it has one; /system TEXT sets another".to_owned()
                }
                Some(text) => format!("system message: {text:?}; /system TEXT sets another"),
            }),
            Input::Save(path) => {
                // The following lines do not depend on it.
                if let Err(error) = self.save(&path) {
                    report::error(&flags_in(error));
                    self.unsaved.get_or_insert(path);
                }
            }
            Input::Say(text) => {
                self.conversation.ask(text);
                self.answer().inspect_err(|_| self.conversation.take_back())?;
            }
        }
        Ok(true)
    }

    /// Ends the conversation. Fails where it could not be saved, unless a user who types has seen that.
    fn end(&self, typed: bool) -> Result<()> {
        match self.unsaved.as_ref().filter(|_| !typed) {
            Some(path) => Err(Error::file(path, "the conversation could not be saved there")
                .hint("the reason was printed where /save stood")),
            None => Ok(()),
        }
    }

    fn save(&mut self, path: &Path) -> Result<()> {
        if self.conversation.is_empty() {
            return Err(Error::input("nothing has been said that could be saved").hint("say something first"));
        }
        if path.exists() && !self.saved.iter().any(|saved| saved == path) {
            output_file::only_files(path)?;
            return Err(Error::file(
                path,
                "already exists, and this conversation was not saved to it before",
            )
            .hint("choose another name"));
        }
        output_file::check(path, Existing::Replaced)?;
        output_file::write(path, self.conversation.to_jsonl(self.source.tokenizer.tools()).as_bytes())?;
        self.saved.push(path.to_owned());
        self.console.done(&format!("saved to {}", path.display()));
        Ok(())
    }

    /// Answers the latest message of the user.
    fn answer(&mut self) -> Result<()> {
        let (messages, tokenizer) = (self.conversation.messages(), &self.source.tokenizer);
        let RenderedPrompt { rendered, prefill } = render(tokenizer, messages, self.prefill.as_deref())?;
        let rendered = rendered.unwrap_or_default();
        let prompt = self.prompt(&rendered)?;
        self.note_length(prompt.tokens.len());
        let TurnAnswer { text, tokens, generation } = self.generate(&prompt.tokens, prefill)?;
        if generation.is_none() {
            interrupt::take();
            self.console.line("stopped");
        }
        if let Some(generation) = generation.as_ref().filter(|_| self.verbose) {
            print_speed(self.console, prompt.tokens.len(), generation);
            print_cache(self.console, generation);
        }
        self.rendered = rendered;
        self.seen = [prompt.answered(tokenizer, &tokens)?, prompt];
        if generation.is_none() && (text.is_empty() || tokens.is_empty()) {
            self.conversation.take_back();
        } else {
            self.conversation.answered(text);
        }
        Ok(())
    }

    /// Returns the prompt that the template wrote as `rendered`, in the tokens that the model has seen of it.
    fn prompt(&self, rendered: &str) -> Result<Seen> {
        let [answered, before] = &self.seen;
        let as_generated = if self.session.has_forgotten() {
            as_said(rendered, &self.rendered, before, answered)
        } else {
            None
        };
        let text = as_generated.unwrap_or_else(|| rendered.to_owned());
        let tokens = encode_after(&self.source.tokenizer, &text, &self.seen)?;
        Ok(Seen { text, tokens })
    }

    /// Generates an answer to `prompt` that begins with `prefill`, and shows it. Ctrl-C ends it.
    fn generate(&mut self, prompt: &[u32], prefill: String) -> Result<TurnAnswer> {
        let source = self.source;
        let mut answer = Answer::new(&source.tokenizer, &source.ending);
        out(&answer.begin_with(prefill))?;
        let mut tokens = Vec::new();
        // Ctrl-C from here on is meant for this answer.
        interrupt::take();
        let result = source.answer(
            self.loaded,
            &mut self.session,
            prompt,
            &mut self.sampler,
            &mut answer,
            |chosen, text| {
                tokens.push(chosen.token);
                out(text)
            },
        );
        let generation = match result {
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted) => None,
            result => Some(result?),
        };
        let (rest, text, _) = answer.finish()?;
        out(&format!("{rest}\n"))?;
        Ok(TurnAnswer { text, tokens, generation })
    }

    fn note_length(&mut self, prompt: usize) {
        if let Some(note) = self.source.length_note(prompt).filter(|_| !self.length_noted) {
            self.console.notes(&[note]);
            self.length_noted = true;
        }
    }
}
