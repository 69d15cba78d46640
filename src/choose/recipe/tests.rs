//! Recipes that are wrong, and what is said about them; recipes held against decoders of several depths.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use super::apply::Applied;
use super::builtin::BUILTIN;
use super::recipe::Recipe;
use super::tuning::{Learn, Quality, Tuning};
use crate::choose::candidate::{Candidate, DEFAULT_CANDIDATES};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::spec::Manifest;
use crate::numerics::quant::Quant;

fn parse(text: &str) -> Result<Recipe> {
    Recipe::parse(Path::new("folder/my.toml"), text)
}

fn manifest(model_type: &str, blocks: usize, tied: bool) -> Manifest {
    let text = format!(
        r#"{{"model_type": "{model_type}", "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": {blocks}, "vocab_size": 64, "rms_norm_eps": 1e-5,
            "intermediate_size_mlp": 256, "tie_word_embeddings": {tied}}}"#
    );
    let config = ModelConfig::parse(Path::new("config.json"), &text).unwrap();
    let row = crate::models::architectures::find(&config).unwrap();
    (row.spec)(&config, &crate::models::architectures::TensorShapes::new()).unwrap().manifest()
}

fn apply(text: &str, blocks: usize) -> Result<Applied> {
    parse(text).unwrap().apply(&manifest("llama", blocks, true))
}

/// Checks the error for a recipe that cannot be used.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, expected: &str) {
    let error = result.unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with(&format!("folder/my.toml:{expected}")), "{said}\nexpected: {expected}");
    let hint = error.hint_text().unwrap();
    assert!(!hint.contains("the model's repository"), "a recipe is not from a model's repository: {hint}");
}

#[test]
fn errors_name_file_line_and_key() {
    for (text, expected) in [
        ("", "1: the recipe is empty"),
        ("description = 'x'\n", "1: the recipe is empty"),
        ("\ntarget_bpw 4\n", "2: key `target_bpw`: not valid TOML: "),
        ("target_bpw = 4\ntarget_bpw = 5\n", "2: key `target_bpw`: not valid TOML: duplicate key"),
        ("[rule\nbits = 4\n", "1: key `rule`: not valid TOML: "),
        ("\n= 4\n", "2: not valid TOML: "),
        ("\nbitz = 4\n", "2: key `bitz`: there is no such key"),
        ("[[rule]]\nbitz = 4\n", "2: key `rule.bitz`: there is no such key, expected one of `role`"),
        ("[calibration]\nsample = 4\n", "2: key `calibration.sample`: there is no such key"),
        ("[expect]\nlayers = 4\n", "2: key `expect.layers`: there is no such key"),
        ("\ntarget_bpw = 'four'\n", "2: key `target_bpw`: invalid type: string \"four\""),
        ("candidates = 4\n", "1: key `candidates`: invalid type: integer `4`"),
        ("[rule]\nbits = 4\n", "1: key `rule`: invalid type: map, expected a sequence"),
        ("[[rule]]\nbits = 4\n\n[[rule]]\nbits = 'x'\n", "5: key `rule.bits`: invalid type: string"),
        ("[[rule]]\nrole = [\"q\",\n  true]\nbits = 4\n", "3: key `rule.role`: invalid type: boolean"),
        ("[[rule]]\nbits = -4\n", "2: key `rule.bits`: invalid value: integer `-4`"),
        ("tie = ['q', 'k']\n", "1: key `tie`: invalid type: string \"q\""),
        ("target_bpw = -1\n", "1: key `target_bpw`: -1 is no number of bits"),
        ("target_bpw = nan\n", "1: key `target_bpw`: NaN is no number of bits"),
        ("target_bpw = 0\n", "1: key `target_bpw`: 0 is no number of bits"),
        ("description = 'a\\nb'\n\ntarget_bpw = [4]\n", "3: key `target_bpw`: invalid type: sequence"),
        ("target_bpw = 4\ndescription = \"a\\nb\"\n", "2: key `description`: has more than one line"),
    ] {
        refused(parse(text), expected);
    }
}

#[test]
fn errors_in_meaning_name_file_line_and_key() {
    for (text, expected) in [
        ("\ncandidates = '7 x 64'\n", "2: key `candidates`: MLX has no affine quantization to 7 bits"),
        ("[[rule]]\ncandidates = ''\n", "2: key `rule.candidates`: `` is not a quantization setting"),
        ("[[rule]]\nbits = 7\n", "2: key `rule.bits`: MLX has no affine quantization to 7 bits"),
        (
            "[[rule]]\nbits = 4\ngroup_size = 48\n",
            "3: key `rule.group_size`: MLX has no affine group size 48",
        ),
        ("[[rule]]\nmode = 'mxfp4'\nbits = 8\n", "3: key `rule.bits`: 8 bits in groups of 32 do not exist"),
        ("[[rule]]\nmode = 'int4'\n", "2: key `rule.mode`: unknown quantization mode `int4`"),
        ("[[rule]]\nrole = 'q'\ngroup_size = 64\n", "1: key `rule`: lacks `bits`"),
        ("\n[[rule]]\nrole = 'q'\n", "2: key `rule`: does not say what its layers become"),
        ("[[rule]]\nbits = 4\nfloat = true\n", "3: key `rule.float`: contradicts `bits` on line 2"),
        (
            "[[rule]]\nfloat = true\ncandidates = '4'\n",
            "3: key `rule.candidates`: contradicts `float` on line 2",
        ),
        ("[[rule]]\nfloat = false\n", "2: key `rule.float`: can only be true"),
        ("[[rule]]\nrole = ['v', 'x']\nbits = 4\n", "2: key `rule.role`: there is no role `x`, only q, k, v"),
        ("[[rule]]\nrole = []\nbits = 4\n", "2: key `rule.role`: an empty list selects nothing"),
        ("[[rule]]\nrole = 'embed'\nbits = 4\n", "2: key `rule.role`: embeddings stay float"),
        ("[[rule]]\nlayers = '[a'\nbits = 4\n", "2: key `rule.layers`: `[a` is no glob"),
        ("[[rule]]\nblocks = '1/0'\nbits = 4\n", "2: key `rule.blocks`: `1/0` is no part of the depth"),
        ("[[rule]]\nblocks = [0, '5..3']\nbits = 4\n", "2: key `rule.blocks`: `5..3` is empty"),
        ("tie = [['q', 'k'],\n  ['v', 'v']]\n", "2: key `tie`: names `v` twice"),
        ("tie = [['q', 'k'],\n  ['v', 'q']]\n", "2: key `tie`: names `q` twice"),
        ("tie = [['q']]\n", "1: key `tie`: needs two roles"),
        ("tie = [['q', 'head']]\n", "1: key `tie`: `head` is no role in a block"),
        ("target_bpw = 4\n[calibration]\nsamples = 0\n", "3: key `calibration.samples`: 0 is not from 1 to"),
        (
            "target_bpw = 4\n[calibration]\nsequence_length = 1\n",
            "3: key `calibration.sequence_length`: 1 is not from 2 to",
        ),
        (
            "target_bpw = 4\n[calibration]\ntext = 'a.txt'\n",
            "3: key `calibration.text`: there is no file folder/a.txt",
        ),
        ("target_bpw = 4\nquality = 'good'\n", "2: key `quality`: `good` is none of fast, balanced, best"),
        ("target_bpw = 4\ndistill = 1000001\n", "2: key `distill`: 1000001 is not from 0 to 1000000"),
        ("target_bpw = 4\ndistill = 'much'\n", "2: key `distill`: invalid type: string"),
        ("target_bpw = 4\n\nrefine = 101\n", "3: key `refine`: 101 is not from 0 to 100"),
        ("target_bpw = 4\ndistill_norms = true\n", "2: key `distill_norms`: goes with `distill`, or with"),
        ("target_bpw = 4\nlearn = 'codes'\n", "2: key `learn`: goes with `distill`, or with"),
        ("distill = 2\ntarget_bpw = 4\nlearn = 'all'\n", "3: key `learn`: `all` is none of scales, codes"),
        ("target_bpw = 4\ndistill_norms = 3\n", "2: key `distill_norms`: invalid type: integer"),
    ] {
        refused(parse(text), expected);
    }
}

#[test]
fn a_recipe_that_does_not_suit_the_model_is_refused() {
    for (text, expected) in [
        (
            "candidates = '4'\n[expect]\nblocks = 22\n",
            "3: key `expect.blocks`: the recipe is for models with 22",
        ),
        (
            "candidates = '4'\n[expect]\nlinear_layers = 7\n",
            "3: key `expect.linear_layers`: the recipe is for models with 7 linear layers; this one has 56",
        ),
        (
            "[[rule]]\nrole = 'q'\nbits = 4\n\n[[rule]]\nrole = 'head'\nbits = 8\n",
            "5: key `rule`: selects no layer of this model: it has 8 blocks of q, k, v, o, gate, up, down, called \
             like `model.layers.0.mlp.down_proj`, and no head of its own",
        ),
        ("[[rule]]\nlayers = 'layers.0.*'\nbits = 4\n", "1: key `rule`: selects no layer"),
        ("[[rule]]\nrole = 'head'\nblocks = 0\nbits = 4\n", "1: key `rule`: selects no layer"),
        (
            "[[rule]]\nlayers = ['*.up_proj', '*.up_prj', '*.q']\nbits = 4\n",
            "1: key `rule.layers`: no layer of this model matches `*.up_prj`, `*.q`: it has 8 blocks",
        ),
        (
            "[[rule]]\nblocks = [0, 8]\nbits = 4\n",
            "1: key `rule.blocks`: names a block that this model does not",
        ),
        (
            "[[rule]]\nblocks = '4..9'\nbits = 4\n",
            "1: key `rule.blocks`: names a block that this model does not",
        ),
    ] {
        refused(apply(text, 8), expected);
    }
    let optional = "[[rule]]\nrole = 'head'\nbits = 4\noptional = true\n[[rule]]\nblocks = [0, 8]\nbits = 3\noptional = true\n";
    let applied = apply(optional, 8).unwrap();
    assert_eq!(applied.candidates["model.layers.0.mlp.up_proj"], [Candidate::from(Quant::affine(3, 64))]);
    assert_eq!(applied.candidates["model.layers.1.mlp.up_proj"], DEFAULT_CANDIDATES);
}

#[test]
fn the_last_rule_that_selects_a_layer_decides() {
    let text = "
        candidates = '3,4 x 64'
        tie = [['gate', 'up']]
        [[rule]]
        bits = 4
        blocks = '0..2'
        [[rule]]
        role = ['v', 'down']
        layers = ['*.0.*', '*.3.*']
        mode = 'mxfp8'
        [[rule]]
        layers = 'model.layers.3.*.down_proj'
        float = true
        [[rule]]
        role = 'embed'
        float = true";
    let applied = apply(text, 4).unwrap();
    let said = |path: &str| {
        let list = applied.candidates[&format!("model.layers.{path}")].iter();
        list.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(said("0.self_attn.q_proj"), "4:64");
    assert_eq!(said("0.self_attn.v_proj"), "8:32:mxfp8");
    assert_eq!(said("1.self_attn.v_proj"), "4:64");
    assert_eq!(said("2.self_attn.v_proj"), "3:64 4:64");
    assert_eq!(said("3.self_attn.v_proj"), "8:32:mxfp8");
    assert_eq!(said("3.mlp.down_proj"), "keep");
    assert_eq!(applied.candidates.len(), 28);
    assert_eq!(applied.ties.len(), 4);
    assert_eq!(applied.ties[1].paths, ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"]);
    assert_eq!(applied.ties[1].place, Path::new("folder/my.toml:3"));
}

#[test]
fn the_text_lies_beside_the_recipe() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("text.txt"), "words").unwrap();
    let path = home.path().join("my.toml");
    let text = "target_bpw = 4\n[calibration]\ntext = 'text.txt'\nsamples = 3\nsensitivity_samples = 2\nsequence_length = 8\nseed = 9\n";
    let calibration = Recipe::parse(&path, text).unwrap().calibration;
    assert_eq!(calibration.text, Some(home.path().join("text.txt")));
    assert_eq!(
        (calibration.samples, calibration.sensitivity_samples, calibration.sequence_length, calibration.seed),
        (Some(3), Some(2), Some(8), Some(9))
    );
}

#[test]
fn what_follows_rounding_can_be_said() {
    let tuning = |text: &str| parse(&format!("target_bpw = 4\n{text}")).unwrap().tuning;
    assert_eq!(tuning(""), Tuning::default());
    assert_eq!(
        tuning("quality = 'best'\ndistill = 20\ndistill_norms = true\nrefine = 3\n"),
        Tuning {
            quality: Some(Quality::Best),
            distill: Some(20),
            learn: None,
            distill_norms: true,
            refine: Some(3)
        }
    );
    assert!(tuning("quality = 'best'\ndistill_norms = true\n").distill_norms);
    assert_eq!(tuning("distill = 3\nlearn = 'codes'\n").learn, Some(Learn::Codes));
    let blamed = parse("target_bpw = 4\n# refine\nrefine = 1\n");
    refused(
        Err::<(), _>(blamed.unwrap().blame("refine", &crate::error::Error::usage("no"))),
        "3: key `refine`: no",
    );
}

#[test]
fn the_shipped_recipes_are_all_there_and_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("quant-recipes");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<String> = files
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(files, BUILTIN.iter().map(|(name, _)| (*name).to_owned()).collect());
    for name in files {
        let recipe = Recipe::load(&name).unwrap();
        assert_eq!(recipe.name, name);
        assert!(!recipe.description.is_empty() && recipe.description.len() < 110, "{name}");
        for (model_type, tied) in [("llama", false), ("llama", true), ("llama4_text", true)] {
            let applied = recipe.apply(&manifest(model_type, 22, tied));
            if name == "mobilellm-r1-4.5bpw" && !tied {
                assert!(applied.is_err(), "155 layers");
                continue;
            }
            let fixed = applied.unwrap().candidates.values().all(|candidates| candidates.len() == 1);
            assert_eq!(fixed, recipe.target_bpw.is_none(), "{name}");
        }
    }
}

#[test]
fn mobilellm_r1_has_one_layer_at_8_bits() {
    let text = r#"{"model_type": "llama4_text", "hidden_size": 1536, "intermediate_size": 6144,
        "intermediate_size_mlp": 6144, "num_attention_heads": 24, "num_key_value_heads": 6, "head_dim": 64,
        "num_hidden_layers": 22, "vocab_size": 128256, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#;
    let config = ModelConfig::parse(Path::new("config.json"), text).unwrap();
    let spec = crate::models::architectures::find(&config).unwrap().spec;
    let manifest = spec(&config, &crate::models::architectures::TensorShapes::new()).unwrap().manifest();
    let applied = Recipe::load("mobilellm-r1-4.5bpw").unwrap().apply(&manifest).unwrap();
    let (mut bits, mut bytes, mut weights) = (Vec::new(), 0, 0);
    for (path, candidates) in &applied.candidates {
        let spec = manifest.layer(path).unwrap();
        let [candidate] = candidates[..] else { panic!("{path} has a choice") };
        bits.push(candidate.quant().unwrap().bits);
        bytes += candidate.bytes(spec.rows(), spec.columns(), 2).unwrap();
        weights += spec.len();
    }
    let count = |wanted: u32| bits.iter().filter(|&&bits| bits == wanted).count();
    assert_eq!((count(4), count(8), bits.len()), (153, 1, 154));
    let bpw = bytes as f64 * 8.0 / weights as f64;
    assert_eq!(format!("{bpw:.4}"), "4.5031", "the description says so");
}
