//! Speculative decoding as a user runs it.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{bundled, copy_folder, fixtures, make, mixbit, stderr, stdout, succeeded};
use serde_json::Value;

fn run(more: &[&str]) -> std::process::Output {
    let model = bundled();
    let base = ["run", "--model", model.to_str().unwrap(), "--prompt", "What is a trait?", "--ignore-eos"];
    mixbit([&base[..], more].concat())
}

fn drafted(draft: &Path, more: &[&str]) -> std::process::Output {
    run(&[&["--draft-model", draft.to_str().unwrap()], more].concat())
}

#[test]
fn a_rounded_self_drafts_and_the_text_stays_the_same() {
    let home = tempfile::tempdir().unwrap();
    let small = home.path().join("small");
    succeeded(&make("quantize", &bundled(), &small, &["--bits", "3"]));
    for more in [
        &["--max-tokens", "60"][..],
        &["--max-tokens", "60", "--temperature", "0.8", "--top-p", "0.9", "--seed", "5"],
        &["--max-tokens", "90", "--context-size", "48", "--num-draft-tokens", "6"],
        &["--max-tokens", "40", "--kv-bits", "8"],
    ] {
        // The model's own options, which need no draft.
        let own: Vec<&str> =
            more.iter().copied().filter(|a| !["--num-draft-tokens", "6"].contains(a)).collect();
        let (alone, found) = (run(&own), drafted(&small, more));
        succeeded(&alone);
        succeeded(&found);
        assert_eq!(stdout(&found), stdout(&alone), "{more:?}");
        assert!(stderr(&found).contains("tokens accepted ("), "{}", stderr(&found));
        assert!(!stderr(&alone).contains("accepted"), "{}", stderr(&alone));
    }
    let pack = home.path().join("small.mlxpack");
    succeeded(&mixbit(["pack", small.to_str().unwrap(), "--out", pack.to_str().unwrap()]));
    let object = |output: &std::process::Output| -> Value {
        succeeded(output);
        serde_json::from_str(&stdout(output)).unwrap()
    };
    let more = ["--max-tokens", "90", "--context-size", "48", "--json"];
    let (alone, found) = (object(&run(&more)), object(&drafted(&pack, &more)));
    assert_eq!(found["tokens"], alone["tokens"]);
    let forgotten = alone["tokens_forgotten"].as_u64().unwrap();
    assert!(forgotten >= 42 && alone.get("draft").is_none(), "{alone}");
    assert_eq!(found["tokens_forgotten"], forgotten);
    assert!(found["cache_bytes"].as_u64().unwrap() >= alone["cache_bytes"].as_u64().unwrap());
    let (drafts, accepted) = (found["draft"]["drafted"].as_u64(), found["draft"]["accepted"].as_u64());
    assert!(accepted > Some(0) && accepted < drafts, "{found}");

    let itself = drafted(&bundled(), &["--max-tokens", "30"]);
    assert!(stderr(&itself).contains("tokens accepted (100.0 %)"), "{}", stderr(&itself));
}

#[test]
fn drafts_of_another_vocabulary_are_refused() {
    let other = drafted(&fixtures().join("golden/llama-mha-untied"), &[]);
    assert_eq!(other.status.code(), Some(1));
    let text = stderr(&other);
    assert!(text.contains("llama-mha-untied: has a vocabulary of 64 tokens, the model"), "{text}");
    assert!(text.contains("mobilellm-docs-1m one of 1024") && text.contains("hint: "), "{text}");

    let home = tempfile::tempdir().unwrap();
    copy_folder(&bundled(), home.path());
    let path = home.path().join("tokenizer.json");
    let tokenizer = fs::read_to_string(&path).unwrap();
    assert!(tokenizer.contains("<|start_header_id|>"));
    fs::write(&path, tokenizer.replace("<|start_header_id|>", "<|begin|>")).unwrap();
    let renamed = stderr(&drafted(home.path(), &[]));
    assert!(
        renamed.contains("`<|begin|>`, the model") && renamed.contains("`<|start_header_id|>`"),
        "{renamed}"
    );

    let alone = run(&["--num-draft-tokens", "3"]);
    assert_eq!(alone.status.code(), Some(2));
    assert!(stderr(&alone).contains("--draft-model"), "{}", stderr(&alone));
}
