//! Tokenizer classes of transformers 5 that build their parts anew from the vocabulary, whatever normalizer,
//! pre-tokenizer and decoder `tokenizer.json` has.
//!
//! A class is one value of [`Class`] in the table of its family: byte-level BPE, BPE in the manner of SentencePiece,
//! Unigram, and BPE or WordPiece over words. [`Build::of`] finds the class of a folder, and [`Class::rebuild`] makes
//! the tokenizer.

mod around;
mod build;
mod byte_level;
mod choose;
mod clean_up;
mod extra;
mod languages;
mod mask;
mod parts;
mod sentencepiece;
mod text;
mod unigram;
mod words;

pub(crate) use around::put_around;
pub(crate) use choose::Build;
pub(crate) use clean_up::{clean_up, cleans_up, may_be_cleaned};
pub(crate) use parts::{AddedAgain, Code, InputKind, Padding, Parts};
