//! Commands that need no weights: headers come in ranges, and nothing is left behind.

use std::fs;
use std::process::Output;

use super::common::{bundled, fixtures, mixbit, stderr, stdout, succeeded};
use super::{Setup, WEIGHTS};

/// Bytes of the first request.
const FIRST: usize = 64 << 10;

impl Setup {
    /// Returns the command with a folder for temporary files of its own.
    fn look(&self, arguments: &[&str]) -> Output {
        let folder = self.home.path().join("tmp");
        fs::create_dir_all(&folder).unwrap();
        let output = self.command(arguments).env("TMPDIR", &folder).output().unwrap();
        let left: Vec<_> = fs::read_dir(&folder).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        output
    }

    /// Returns the ranges of the weights that were requested.
    fn ranges(&self) -> Vec<String> {
        let requests = self.hub.requests("GET /cdn/").into_iter();
        requests.map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
    }

    /// Gives the weights a header of `length` bytes.
    fn lengthen(&self, length: usize) {
        let mut state = self.hub.state();
        let bytes = &state.files[WEIGHTS];
        let end = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let mut header = bytes[8..end].to_vec();
        assert!(header.len() < length);
        header.resize(length, b' ');
        let long = [(length as u64).to_le_bytes().as_slice(), &header].concat();
        let whole = [long.as_slice(), &bytes[end..]].concat();
        state.files.insert(WEIGHTS.to_owned(), whole);
    }
}

#[test]
fn inspecting_fetches_headers_alone() {
    let setup = Setup::new(&bundled(), &[]);
    let local = bundled();
    for more in [&[][..], &["--layers"], &["--json"]] {
        let output = setup.look(&[&["inspect", "org/tiny"], more].concat());
        succeeded(&output);
        let expected = mixbit([&["inspect", local.to_str().unwrap()], more].concat());
        assert_eq!(stdout(&output), stdout(&expected), "{more:?}");
    }
    assert_eq!(setup.ranges(), ["bytes=0-65535"; 3]);
    assert_eq!(setup.files(), ["config.json"], "no weights, no tokenizer");
    for arguments in
        [&["inspect", "org/tiny", "--html", "a.html"][..], &["report", "org/tiny", "--out", "b.html"]]
    {
        setup.hub.state().log.clear();
        succeeded(&setup.look(arguments));
        assert_eq!(setup.ranges(), ["bytes=0-65535"], "{arguments:?}");
        let page = fs::read_to_string(setup.home.path().join(arguments.last().unwrap())).unwrap();
        assert!(page.contains("org&#x2f;tiny"), "{arguments:?}");
    }
    // What answers needs all of it; then that is what is looked at.
    succeeded(&setup.look(&["report", "org/tiny", "--out", "c.html", "--prompt", "Hi", "--max-tokens", "2"]));
    assert!(setup.snapshot().join(WEIGHTS).is_file());
    setup.hub.state().log.clear();
    succeeded(&setup.look(&["inspect", "org/tiny"]));
    assert_eq!(setup.hub.state().log.len(), 1, "{:?}", setup.hub.state().log);
}

#[test]
fn a_long_header_takes_a_second_request() {
    const LENGTH: usize = 100_000;
    let setup = Setup::new(&bundled(), &[]);
    setup.lengthen(LENGTH);
    let rest = format!("bytes={FIRST}-{}", LENGTH + 8 - 1);
    succeeded(&setup.look(&["inspect", "org/tiny"]));
    assert_eq!(setup.ranges(), ["bytes=0-65535", &rest]);
    // The first request breaks off in the middle.
    setup.hub.state().log.clear();
    setup.hub.state().breaks.insert(WEIGHTS.to_owned(), 1);
    let output = setup.look(&["inspect", "org/tiny"]);
    succeeded(&output);
    let half = FIRST / 2;
    assert!(stderr(&output).contains(&format!("continuing at {half} bytes")), "{}", stderr(&output));
    assert_eq!(setup.ranges(), ["bytes=0-65535".to_owned(), format!("bytes={half}-{}", LENGTH + 8 - 1)]);
}

#[test]
fn a_server_without_ranges_is_hung_up_on() {
    for length in [None, Some(100_000)] {
        let setup = Setup::new(&bundled(), &[]);
        if let Some(length) = length {
            setup.lengthen(length);
        }
        // After the half nothing comes, for whoever waits for it.
        setup.hub.state().rangeless = true;
        setup.hub.state().stall = true;
        setup.hub.state().breaks.insert(WEIGHTS.to_owned(), 100);
        let output = setup.look(&["inspect", "org/tiny"]);
        succeeded(&output);
        assert_eq!((stderr(&output).as_str(), setup.ranges().len()), ("", 1));
    }
}

#[test]
fn shards_without_sizes() {
    let model = fixtures().join("golden/llama-sharded-inv-freq");
    let setup = Setup::new(&model, &["model-00003-of-00003.safetensors"]);
    setup.hub.state().sizeless = true;
    let output = setup.look(&["inspect", "org/tiny"]);
    succeeded(&output);
    assert_eq!(stdout(&output), stdout(&mixbit(["inspect", model.to_str().unwrap()])));
    assert_eq!(setup.ranges(), ["bytes=0-65535"; 2]);
    // Where nobody says how long the files are, they come as a whole.
    setup.hub.state().rangeless = true;
    setup.hub.state().files.insert("model-00001-of-00002.safetensors".to_owned(), Vec::new());
    let text = stderr(&setup.look(&["inspect", "org/tiny"]));
    assert!(text.contains("/org/tiny/model-00001-of-00002.safetensors: is empty"), "{text}");
}

#[test]
fn headers_that_are_none() {
    let setup = Setup::new(&bundled(), &[]);
    let weights = setup.hub.state().files[WEIGHTS].clone();
    let with = |length: u64| [length.to_le_bytes().as_slice(), &weights[8..]].concat();
    for (bytes, expected) in [
        (with(u64::MAX), "not a whole safetensors file: the header claims 18446744073709551615 bytes"),
        (with(150_000_000), "not a whole safetensors file: the header claims 150000000 bytes"),
        (with(90_000_000), "not a whole safetensors file: the header claims 90000000 bytes"),
        (
            [200_000u64.to_le_bytes().as_slice(), &vec![b'x'; 400_000]].concat(),
            "not a whole safetensors file",
        ),
        (with(5), "not a whole safetensors file"),
        (weights[..5].to_vec(), "5 bytes, too few"),
        (Vec::new(), "is empty"),
        (weights[..weights.len() - 1].to_vec(), "by its header it has"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n".to_vec(), "is a Git LFS pointer"),
    ] {
        setup.hub.state().files.insert(WEIGHTS.to_owned(), bytes);
        setup.hub.state().log.clear();
        let output = setup.look(&["inspect", "org/tiny"]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let place = format!("{}/org/tiny/{WEIGHTS}: ", setup.hub.endpoint);
        assert!(text.contains(&place) && text.contains(expected), "no `{expected}` in {text}");
        assert!(!text.contains("mixbit-headers"), "{text}");
        assert_eq!(setup.ranges().len(), 1);
    }
}

#[test]
fn a_config_of_another_model_is_named_as_on_the_hub() {
    let setup = Setup::new(&bundled(), &[]);
    let config = fs::read_to_string(bundled().join("config.json")).unwrap();
    for (from, to, expected) in [
        ("\"vocab_size\": 1024", "\"vocab_size\": 1025", "/org/tiny/model.safetensors: tensor `"),
        ("\"hidden_size\": ", "\"hidden_size\": -", "/org/tiny/config.json: key `hidden_size`"),
    ] {
        assert!(config.contains(from));
        let other = config.replacen(from, to, 1).into_bytes();
        setup.hub.state().files.insert("config.json".to_owned(), other);
        fs::remove_dir_all(setup.repository()).unwrap_or_default();
        let text = stderr(&setup.look(&["inspect", "org/tiny"]));
        assert!(text.contains(expected) && !text.contains("mixbit-headers"), "{text}");
    }
}

#[test]
fn the_token_stays_with_the_hub() {
    let store = Setup::new(&bundled(), &[]);
    let setup = Setup::new(&bundled(), &[]);
    setup.hub.state().token = Some("hf_right".to_owned());
    setup.hub.state().store = Some(store.hub.endpoint.clone());
    let arguments = ["inspect", "org/tiny"];
    setup.refused(&arguments, &["the Hub wants a token"]);
    succeeded(&setup.command(&arguments).env("HF_TOKEN", "hf_right").output().unwrap());
    assert_eq!(store.ranges(), ["bytes=0-65535"]);
    assert_eq!(store.hub.state().with_token, Vec::<String>::new());
}

#[test]
fn offline_it_is_said_what_is_missing() {
    let setup = Setup::new(&bundled(), &[]);
    let lacks = |what: &str| {
        let output = setup.command(&["inspect", "org/tiny"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
        let expected = format!("/org/tiny: {what} not in the cache, and HF_HUB_OFFLINE is set");
        assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    };
    lacks("the model is");
    // Headers are not kept.
    succeeded(&setup.look(&["inspect", "org/tiny"]));
    lacks("the model is");
    succeeded(&setup.look(&["check", "org/tiny"]));
    fs::remove_file(setup.snapshot().join(WEIGHTS)).unwrap();
    lacks("the weights are");
    fs::remove_file(setup.snapshot().join("config.json")).unwrap();
    lacks("config.json is");
}

#[test]
fn weights_in_npz_come_as_a_whole() {
    let home = tempfile::tempdir().unwrap();
    let (model, npz) = (bundled(), home.path().join("npz"));
    let arguments = ["--hf-path", model.to_str().unwrap(), "--mlx-path", npz.to_str().unwrap()];
    succeeded(&mixbit([&["convert", "--format", "npz"], &arguments[..]].concat()));
    let setup = Setup::new(&npz, &[]);
    let output = setup.look(&["inspect", "org/tiny"]);
    succeeded(&output);
    assert_eq!(stdout(&output), stdout(&mixbit(["inspect", npz.to_str().unwrap()])));
    assert!(setup.snapshot().join("weights.npz").is_file());
}
