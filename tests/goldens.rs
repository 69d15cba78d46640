//! Logits against the golden ones, for every case and every row of the registry.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod common;

use common::{fixtures, golden_cases, json_file};
use safetensors::SafeTensors;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use mixbit::engine::cache::sequence::CacheSettings;
use mixbit::engine::decoder::model::Model;
use mixbit::engine::generate::generate::{Settings, generate};
use mixbit::engine::generate::session::Session;
use mixbit::engine::runtime::Engine;
use mixbit::models::architectures;
use mixbit::models::config::ModelConfig;
use mixbit::models::source::SourceModel;
use mixbit::models::spec::AttentionSpan;
use mixbit::text::sampling::{Chosen, Sampler, Sampling};

/// Largest difference, relative to the largest logit.
const TOLERANCE: f32 = 1e-4;

fn golden(folder: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = fs::read(folder.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> { file.tensor(name).unwrap().data().as_chunks().0.to_vec() };
    let tokens = words("tokens").into_iter().map(u32::from_le_bytes).collect();
    (tokens, words("logits").into_iter().map(f32::from_le_bytes).collect())
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let error = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale;
    assert!(error < TOLERANCE, "{what}: relative error {error:e}");
}

#[test]
fn logits_equal_the_golden_ones_with_and_without_cache() {
    let engine = Engine::start().unwrap();
    let cases = golden_cases();
    assert!(cases.len() >= 18, "only {} cases", cases.len());
    for folder in cases {
        let (tokens, expected) = golden(&folder);
        let source = SourceModel::open(&folder).unwrap();
        let model = Model::load(&engine, &source, None).unwrap();
        let cached =
            json_file(&folder.join("case.json"))["cached_evaluation_agrees"].as_bool().unwrap_or(true);
        let steps: &[Option<usize>] = if cached { &[None, Some(1), Some(7), Some(1000)] } else { &[None] };
        for step in steps {
            let what = format!("{} step {step:?}", folder.display());
            assert_close(&what, &model.logits(&tokens, *step).unwrap(), &expected);
        }
    }
}

#[test]
fn a_session_saves_work_and_changes_nothing() {
    let engine = Engine::start().unwrap();
    let mut windows = 0;
    for folder in golden_cases() {
        let case = json_file(&folder.join("case.json"));
        if case["cached_evaluation_agrees"] == false {
            continue;
        }
        let (tokens, _) = golden(&folder);
        let source = SourceModel::open(&folder).unwrap();
        let model = Model::load(&engine, &source, None).unwrap();
        let sliding = source.spec().attentions().any(|layer| matches!(layer.span, AttentionSpan::Sliding(_)));
        let answer = |session: &mut Session<'_>, prompt: &[u32]| {
            let settings = Settings::new(6, Vec::new());
            let mut greedy = Sampler::new(Sampling::default(), 0);
            let go_on = |_: &Chosen| Ok(ControlFlow::Continue(()));
            generate(&model, session, prompt, &mut greedy, &settings, go_on).unwrap()
        };
        let new = || Session::new(&model, CacheSettings::default(), None);
        let mut session = new();
        let first = answer(&mut session, &tokens);
        assert_eq!(first.reused, 0);
        let half = tokens.len() / 2;
        let continued = [&tokens[..], &first.tokens[..3], &[first.tokens[3] ^ 1], &tokens[..4]].concat();
        let parted = [&continued[..half], &[tokens[half] ^ 1, 3, 1]].concat();
        for (prompt, common) in [
            (&continued, tokens.len() + 3),
            // The same again: the last token has to go through the model.
            (&continued, continued.len() - 1),
            (&parted, half),
            (&tokens, half),
        ] {
            let what = format!("{} after {common} tokens", folder.display());
            let found = answer(&mut session, prompt);
            assert_eq!(found.tokens, answer(&mut new(), prompt).tokens, "{what}");
            windows += usize::from(sliding && found.reused == 0);
            assert!(found.reused == common || (sliding && found.reused == 0), "{what}: {}", found.reused);
        }
    }
    assert!(windows > 0, "no window was too short to go back, so that was not tested");
}

#[test]
fn every_architecture_has_two_golden_cases() {
    let types: Vec<String> = golden_cases()
        .iter()
        .map(|folder| ModelConfig::from_dir(folder).unwrap().model_type().to_owned())
        .collect();
    for row in architectures::rows() {
        let name = row.alias_of.unwrap_or(row.model_type);
        let count = types.iter().filter(|found| *found == name).count();
        assert!(
            count >= 2,
            "{}: {count} golden cases; fixtures/README.md says how to add one",
            row.model_type
        );
    }
}

#[test]
fn aliases_are_the_architecture_they_name() {
    for row in architectures::rows() {
        let Some(original) = row.alias_of else { continue };
        let rows = architectures::rows();
        if rows.iter().any(|other| other.model_type == original && other.defaults != row.defaults) {
            continue;
        }
        let case = golden_cases()
            .into_iter()
            .find(|folder| {
                // Not all aliases of a wrapper read a tie beside `text_config`.
                let config = json_file(&folder.join("config.json"));
                config["model_type"] == original && config["tie_word_embeddings"] != true
            })
            .unwrap();
        let text = fs::read_to_string(case.join("config.json")).unwrap();
        let renamed = text.replace(&format!("\"{original}\""), &format!("\"{}\"", row.model_type));
        let config = ModelConfig::parse(&case.join("config.json"), &renamed).unwrap();
        let spec = (architectures::find(&config).unwrap().spec)(&config, &architectures::TensorShapes::new())
            .unwrap();
        let source = SourceModel::open(&case).unwrap();
        assert_eq!(spec.manifest(), source.manifest().clone(), "{}", row.model_type);
    }
}

#[test]
fn fixtures_name_their_versions() {
    let versions = json_file(&fixtures().join("golden/VERSIONS.json"));
    assert!(versions.to_string().contains("mlx"), "{versions}");
}
