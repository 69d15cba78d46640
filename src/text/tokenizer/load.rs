//! From a folder's files to a tokenizer, as transformers' `AutoTokenizer` goes.

use std::path::Path;
use tokenizers::DecoderWrapper;

use super::class::{AddedAgain, Build, Code, InputKind, Parts, cleans_up, put_around};
use super::guard::guarded;
use super::message::kind;
use super::settings::{ADDED, CONFIG, MAP, Settings};
use super::special::SpecialTokens;
use super::template_settings::TemplateSettings;
use super::templates::{LEGACY_FILE, Templates};
use super::token::{Token, TokenValue};
use super::tokenizer::Tokenizer;
use super::{files, mistral, tekken, templates};
use crate::error::{Error, Result};
use crate::files::json::with_plain_surrogates;
use crate::files::model_files::ModelFiles;
use crate::words::count;

pub(crate) const JSON: &str = "tokenizer.json";

/// Reads all files.
pub(crate) fn load(files: &ModelFiles) -> Result<Tokenizer> {
    let has_json = files.has(JSON);
    let name = if has_json { JSON } else { tekken::NAME };
    if !files.has(name) {
        return Err(files::no_tokenizer_json(files));
    }
    let bytes = files.read(name)?;
    let path = files.path_of(name);
    let mut inner = if has_json {
        refuse_mark(&path, &bytes)?;
        guarded(|| tokenizers::Tokenizer::from_bytes(&bytes)).map_err(|e| {
            let message = with_plain_surrogates(&e);
            Error::file(&path, format!("not a tokenizer that can be read: {message}"))
        })?
    } else {
        tekken::read(files, &bytes)?
    };
    let settings = Settings::read(files, if has_json { &bytes } else { &[] })?;
    let build = Build::of(&settings, &bytes);
    let special = SpecialTokens::merge(&settings, build)?;
    if let Some(class) = build.class().filter(|class| has_json && class.parts == Parts::Anew) {
        inner = guarded(|| class.rebuild(&inner, &settings, &special)).map_err(|e| {
            Error::file(
                &path,
                format!("no tokenizer of class {} can be made of it: {e}", settings.class_name()),
            )
        })?;
    }
    let lacking = special.named().filter(|(_, token)| inner.token_to_id(token).is_none());
    let added_later = lacking.map(|(_, token)| token.to_owned()).collect();
    let config_path = files.path_of(CONFIG);
    let wrong_pattern = guarded(|| finish(&mut inner, &settings, build, &special)).map_err(|e| {
        Error::file(&config_path, format!("the special tokens named here cannot be added: {e}"))
    })?;
    let templates = Templates::read(files, &config_path, &settings.config)?;
    let template_settings = TemplateSettings::default();
    let byte_fallback = inner.get_decoder().is_some_and(has_byte_fallback);
    let mut notes = notes(&settings, build);
    notes.extend(unreadable(files));
    notes.extend(contradiction(&inner, &special));
    notes.extend(wrong_pattern);
    notes.extend(templates.broken_notes());
    let code = build.class().map_or(Code::None, |class| class.code);
    let cleans_up = cleans_up(&inner, &settings, build.class());
    Ok(Tokenizer {
        path,
        inner,
        special,
        added_later,
        templates,
        template_settings,
        byte_fallback,
        code,
        cleans_up,
        notes,
    })
}

/// Fails where tokenizer.json begins with a byte-order mark, with which nobody reads it.
fn refuse_mark(path: &Path, bytes: &[u8]) -> Result<()> {
    if !bytes.starts_with("\u{feff}".as_bytes()) {
        return Ok(());
    }
    let message = "begins with a byte-order mark, with which transformers and mlx-lm do not read it either";
    Err(Error::file(path, message).hint(format!(
        "save it as UTF-8 without the mark: tail -c +4 {JSON} > new.json && mv new.json {JSON}"
    )))
}

/// Adds tokens, and sets what is no part of `tokenizer.json`. Returns what to say of a pattern that may be wrong.
fn finish(
    inner: &mut tokenizers::Tokenizer,
    settings: &Settings,
    build: Build,
    special: &SpecialTokens,
) -> tokenizers::Result<Option<String>> {
    // A stored truncation would cut documents, a stored padding lengthen them; transformers ignores both.
    inner.with_padding(None).with_truncation(None)?;
    inner.set_encode_special_tokens(settings.is_set("split_special_tokens"));
    special.add_to(inner)?;
    let again: Vec<Token> = match build.class().map(|class| class.again) {
        Some(AddedAgain::WithFlags) => special.values().map(TokenValue::to_special).collect(),
        Some(AddedAgain::AsTexts) => special.all().into_iter().map(Token::special).collect(),
        Some(AddedAgain::Nothing) | None => Vec::new(),
    };
    inner.add_tokens(again.into_iter().map(Token::into_added))?;
    if let Some(class) = build.class().filter(|_| settings.has_tokenizer_json) {
        class.surround(inner, settings, special)?;
    } else if !settings.has_tokenizer_json {
        let token = |flag: &str, name: &str| {
            let token = special.get(name).filter(|_| settings.is_set(flag))?;
            Some((token.to_owned(), inner.token_to_id(token)?))
        };
        let (bos, eos) = (token("add_bos_token", "bos_token"), token("add_eos_token", "eos_token"));
        put_around(inner, bos.as_slice(), eos.as_slice())?;
    }
    mistral::fix_pattern(inner, settings)
}

/// Returns notes for the user, one line each: reasons why token ids may differ from those of transformers, and settings
/// of the model folder that are not followed.
fn notes(settings: &Settings, build: Build) -> Vec<String> {
    let mut notes = Vec::new();
    let name = settings.class_name();
    if build == Build::Foreign {
        notes.push(format!(
            "{name} of transformers reads files of its own with Python code, which is not run; here tokenizer.json decides, and token ids may differ"
        ));
    }
    if build.class().is_some_and(|class| class.takes == InputKind::Boxes) {
        notes.push(format!(
            "{name} of transformers takes words with boxes and refuses plain texts; here texts are encoded without boxes"
        ));
    }
    if let Some(class) = settings.config.get("tokenizer_class").filter(|class| !class.is_null())
        && !class.is_string()
    {
        let found = kind(class);
        notes.push(format!(
            "{CONFIG}: key `tokenizer_class`: expected a string, found {found}; it is not used"
        ));
    }
    if settings.config.contains_key("auto_map") {
        notes.push(
            "tokenizer_config.json names code for the tokenizer (auto_map), which is not run".to_owned(),
        );
    }
    if settings.config.contains_key("fast_tokenizer_files") {
        notes.push(
            "tokenizer_config.json lists further tokenizer files (fast_tokenizer_files), which are not read"
                .to_owned(),
        );
    }
    notes
}

/// Returns a note per folder that lies where a side file could be, and per link to a file that is not there.
fn unreadable(files: &ModelFiles) -> Vec<String> {
    let names = [JSON, CONFIG, MAP, ADDED, LEGACY_FILE];
    let folders = names.into_iter().filter(|name| files.has_folder(name)).map(|name| {
        format!("{}: is a folder, expected a file; it is not read", files.path_of(name).display())
    });
    let links = names.into_iter().chain([templates::FILE]).filter_map(|name| {
        let target = files.dangling_link(name)?;
        let path = files.path_of(name);
        Some(format!(
            "{}: is a link to {}, where nothing is; it is not read",
            path.display(),
            target.display()
        ))
    });
    folders.chain(links).collect()
}

/// Tokens whose ids in the side files are not those that they have, neither here nor with transformers.
fn contradiction(inner: &tokenizers::Tokenizer, special: &SpecialTokens) -> Option<String> {
    let wrong = special.contradicted(inner);
    let &(file, declared, text, id) = wrong.first()?;
    let more = match wrong.len() - 1 {
        0 => String::new(),
        more => format!(" (and so with {})", count(more, "more token")),
    };
    Some(format!("{file} says that `{text}` is {declared}; as with transformers, it is {id}{more}"))
}

fn has_byte_fallback(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(all) => all.get_decoders().iter().any(has_byte_fallback),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{folder, of_class, sentencepiece};
    use super::super::tokenizer::Tokenizer;

    fn open(change: impl FnOnce(&mut Value)) -> crate::error::Result<Tokenizer> {
        let mut json = sentencepiece(true);
        change(&mut json);
        Tokenizer::from_dir(folder(&[("tokenizer.json", &json.to_string())]).path())
    }

    #[test]
    fn folders_in_place_of_files_are_noted() {
        let json = sentencepiece(true).to_string();
        let names =
            ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"];
        for name in names {
            let inside = format!("{name}/is-a-folder");
            let dir = folder(&[("tokenizer.json", &json), (&inside, "")]);
            let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
            let expected =
                format!("{}: is a folder, expected a file; it is not read", dir.path().join(name).display());
            assert!(tokenizer.notes().contains(&expected), "{:?}", tokenizer.notes());
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_to_nothing_are_noted() {
        let json = sentencepiece(true).to_string();
        for name in ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"] {
            let dir = folder(&[("tokenizer.json", &json)]);
            std::os::unix::fs::symlink("gone", dir.path().join(name)).unwrap();
            let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
            let expected = format!("{name}: is a link to gone, where nothing is; it is not read");
            assert!(tokenizer.notes().concat().contains(&expected), "{:?}", tokenizer.notes());
        }
        let dir = folder(&[]);
        std::os::unix::fs::symlink("gone", dir.path().join("tokenizer.json")).unwrap();
        let error = Tokenizer::from_dir(dir.path()).err().unwrap().to_string();
        assert!(error.ends_with("tokenizer.json: is a link to gone, where nothing is"), "{error}");
    }

    #[test]
    fn a_class_that_is_no_string_is_noted() {
        let json = sentencepiece(true).to_string();
        let notes = |config: &str| {
            let dir = folder(&[("tokenizer.json", &json), ("tokenizer_config.json", config)]);
            Tokenizer::from_dir(dir.path()).unwrap().notes().concat()
        };
        let expected = "key `tokenizer_class`: expected a string, found a number; it is not used";
        assert!(notes(r#"{"tokenizer_class": 3}"#).contains(expected));
        assert_eq!(notes(r#"{"tokenizer_class": null}"#), "");
    }

    #[test]
    fn a_byte_order_mark_is_named() {
        let json = format!("\u{feff}{}", sentencepiece(true));
        let error = Tokenizer::from_dir(folder(&[("tokenizer.json", &json)]).path()).err().unwrap();
        assert!(error.to_string().contains("tokenizer.json: begins with a byte-order mark"), "{error}");
        assert!(error.hint_text().unwrap().contains("tail -c +4"), "{error:?}");
    }

    /// The tokenizers crate panics on these.
    #[test]
    fn damaged_parts_are_errors_that_name_the_file() {
        for decoder in
            [json!({"type": "Fuze"}), json!({"typ": "Fuse"}), json!({"type": "Sequence", "decoders": [{}]})]
        {
            let error = open(|file| file["decoder"] = decoder).err().unwrap().to_string();
            assert!(error.contains("tokenizer.json: not a tokenizer that can be read"), "{error}");
        }
        for part in ["normalizer", "pre_tokenizer", "post_processor", "model"] {
            let error = open(|file| file[part] = json!({"type": "Nonesuch"})).err().unwrap().to_string();
            assert!(error.contains("tokenizer.json: not a tokenizer that can be read"), "{part}: {error}");
        }
    }
    #[test]
    fn python_code_that_is_not_run_gets_a_note() {
        let notes =
            |class: &str, settings: Value| of_class(&sentencepiece(true), class, &settings).notes().concat();
        assert!(
            notes("ByT5Tokenizer", json!({}))
                .contains("ByT5Tokenizer of transformers reads files of its own")
        );
        assert!(notes("LayoutLMv2Tokenizer", json!({})).contains("takes words with boxes"));
        let code = json!({"auto_map": {"AutoTokenizer": ["x.X", null]}});
        assert!(notes("SomebodysTokenizer", code).contains("auto_map"));
    }

    #[test]
    fn classes_refuse_vocabularies_of_other_kinds() {
        let json = sentencepiece(true).to_string();
        let config = r#"{"tokenizer_class": "T5Tokenizer"}"#;
        let dir = folder(&[("tokenizer.json", &json), ("tokenizer_config.json", config)]);
        let error = Tokenizer::from_dir(dir.path()).err().unwrap().to_string();
        assert!(error.contains("no tokenizer of class T5Tokenizer can be made of it"), "{error}");
    }
}
