//! Calibration text that the float model writes itself, kept as token ids beside the output.

use std::fs;
use std::path::{Path, PathBuf};

use super::bars;
use super::settings::{Calibration, Samples};
use super::texts::{Uses, sequences_left};
use super::write::check_values;
use crate::engine::decoder::model::Model;
use crate::engine::generate::texts::{SampledTexts, sample_texts};
use crate::engine::runtime::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::files::digest::digest;
use crate::files::output_file;
use crate::formats::npz::npy_header;
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;
use crate::progress::Progress;
use crate::text::corpus::{HELD_OUT_EVERY, Text, needs, windows_to_split};
use crate::text::stop_tokens::StopTokens;
use crate::text::tokenizer::Tokenizer;
use crate::words::count;

/// Tokens of the built-in text that every second text begins with.
const PIECE_TOKENS: usize = 8;
/// Texts beyond the samples, to hold out and to watch progress on.
const SPARE_TEXTS: usize = 32;

/// Text to generate, and the file that keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedText {
    path: PathBuf,
    /// Token ids at the beginning of each text.
    prompts: Vec<Vec<u32>>,
    /// Token ids that the tokenizer puts before every text.
    beginning: Vec<u32>,
    stop: Vec<u32>,
    length: usize,
    seed: u64,
}

impl GeneratedText {
    /// Plans a text of at least `tokens` by `source`, or of as many as `calibration` needs, for `uses`, beside `output`. The
    /// name of the file tells apart models, tokenizers, lengths and seeds.
    ///
    /// # Errors
    /// When so many tokens are too few for the samples, and when the model has no tokenizer, or a damaged one.
    pub fn plan(
        source: &SourceModel,
        calibration: &Calibration,
        tokens: Option<u64>,
        uses: Uses,
        output: &Path,
    ) -> Result<Self> {
        if !Tokenizer::is_in(source.files()) {
            return Err(Error::file(source.dir(), "has no tokenizer, and text is generated from tokens that texts begin with")
                .hint("put the tokenizer's files there, or give setting `calibration` a file of token ids, an .npy or .npz"));
        }
        let Calibration { samples, sequence_length, seed, .. } = *calibration;
        let length = sequence_length as usize;
        let samples = samples.count() as usize;
        let texts = match tokens {
            Some(tokens) => enough_texts(tokens, calibration, uses)?,
            None => samples + samples / (HELD_OUT_EVERY - 1) + SPARE_TEXTS,
        };
        let tokenizer = Tokenizer::from_files(source.files())?;
        let stop = StopTokens::read(source.config(), &tokenizer)?.ids();
        let beginning = tokenizer.beginning(&tokenizer.around()?, false)?;
        let prompts = prompts(&tokenizer, &beginning, [texts, length])?;
        let key = digest([format!(
            "{} {} {prompts:?} {beginning:?} {stop:?} {length} {seed}",
            env!("CARGO_PKG_VERSION"),
            source.fingerprint()?
        )]);
        let path = output_file::beside(output, &format!(".generated-{}.npy", &key[..8]));
        Ok(Self { path, prompts, beginning, stop, length, seed })
    }

    /// Returns the path of the file, which is of token ids.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of sequences of the text that nothing is held out of.
    pub fn samples(&self) -> u32 {
        let texts = self.prompts.len();
        (texts - (texts / HELD_OUT_EVERY).max(1)).max(1) as u32
    }

    /// Fails where `calibration` asks to measure sensitivities on more sequences than the text will give beside `uses`.
    pub fn check_measured(&self, calibration: &Calibration, uses: Uses) -> Result<()> {
        let sequences = sequences_left(self.prompts.len(), calibration.samples, uses);
        calibration.measured(sequences).map(drop)
    }

    /// Generates the text with `source` and writes it, unless an earlier run has. Returns true if it was written now.
    ///
    /// # Errors
    /// When another file has its name, the model cannot be loaded, its logits are not numbers, the file cannot be written, or
    /// the work is interrupted.
    pub fn write(&self, source: &SourceModel, progress: &dyn Progress) -> Result<bool> {
        let shape = [self.prompts.len(), self.length];
        let (name, tokens) = (self.path.display(), count(shape[0] * shape[1], "token"));
        let mut bytes = npy_header(Dtype::U32, &shape);
        if fs::exists(&self.path).map_err(|e| Error::io(&self.path, e))? {
            self.check(&bytes)?;
            progress.line(&format!("calibration: {tokens} that the model has generated before, in {name}"));
            return Ok(false);
        }
        progress.stage("generating");
        let texts = self.sample(source, progress)?;
        bytes.extend(texts.iter().flatten().flat_map(|token| token.to_le_bytes()));
        output_file::write(&self.path, &bytes)?;
        progress.line(&format!("calibration: {tokens} that the model has generated, kept in {name}"));
        Ok(true)
    }

    /// Fails unless the file that is there begins with `header`, and has as many token ids as that says.
    fn check(&self, header: &[u8]) -> Result<()> {
        let found = fs::read(&self.path).map_err(|e| Error::io(&self.path, e))?;
        let size = header.len() + self.prompts.len() * self.length * size_of::<u32>();
        if found.len() == size && found.starts_with(header) {
            return Ok(());
        }
        let shape = [self.prompts.len(), self.length];
        Err(Error::file(
            &self.path,
            format!("is not the generated text {shape:?} that is kept under this name"),
        )
        .hint("move the file away; the text is then generated again"))
    }

    fn sample(&self, source: &SourceModel, progress: &dyn Progress) -> Result<Vec<Vec<u32>>> {
        let engine = Engine::start()?;
        let model = Model::load(&engine, source, None)?;
        let bar = progress.steps_bar(bars::GENERATING, self.prompts.len() as u64);
        let settings = SampledTexts {
            prompts: &self.prompts,
            length: self.length,
            stop: &self.stop,
            beginning: &self.beginning,
            seed: self.seed,
        };
        let texts = sample_texts(&model, &settings, &mut |finished| bar.inc(finished as u64));
        // The name of the damaged tensor says more than that logits are NaN.
        let texts = texts.map_err(|error| match error.kind() {
            ErrorKind::Input(_) => check_values(source, Dtype::F32).err().unwrap_or(error),
            _ => error,
        })?;
        bar.finish();
        Ok(texts)
    }
}

/// Returns the number of texts that have so many `tokens`. Fails where `calibration` and `uses` need more: that is told
/// before any is generated.
fn enough_texts(tokens: u64, calibration: &Calibration, uses: Uses) -> Result<usize> {
    let length = (calibration.sequence_length as usize).max(1);
    let texts = (tokens as usize).div_ceil(length);
    let asked = match calibration.samples {
        Samples::Exactly(samples) => samples as usize,
        Samples::AtMost(_) => 1,
    };
    // Where windows are held out, tuning watches its progress on sequences that it does not learn from.
    let samples = if uses.scoring && uses.tuning { asked.max(2) } else { asked };
    let needed = if uses.scoring { windows_to_split(samples) } else { samples };
    if texts >= needed {
        return Ok(texts);
    }
    let fewer = if asked > 1 { ", fewer setting `samples`" } else { "" };
    Err(Error::usage(format!(
        "setting `calibration` generated:{tokens} makes {}; {}",
        count(texts * length, "token"),
        needs([samples, length], needed * length, uses.scoring)
    ))
    .hint(format!(
        "give setting `calibration` generated:{}{fewer} or a smaller setting `sequence_length`",
        needed * length
    )))
}

/// Returns what each of so many `texts` of `length` begins with: half of them as every text does, and the others with a piece of
/// the built-in text besides. Where texts have no common beginning all get a piece.
fn prompts(tokenizer: &Tokenizer, beginning: &[u32], [texts, length]: [usize; 2]) -> Result<Vec<Vec<u32>>> {
    let bare = if beginning.is_empty() { 0 } else { texts.div_ceil(2) };
    let pieces = texts - bare;
    let tokens = tokenizer.encode(Text::built_in(), false)?;
    let room = length.saturating_sub(beginning.len() + 1).min(PIECE_TOKENS).min(tokens.len());
    let last = tokens.len() - room;
    let piece = |index: usize| {
        let start = last * index / pieces.max(1);
        [beginning, &tokens[start..start + room]].concat()
    };
    Ok(std::iter::repeat_n(beginning.to_vec(), bare).chain((0..pieces).map(piece)).collect())
}
