//! Experts in the form of gpt-oss, whose rows of gate and up take turns.

use super::common::{RawCheckpoint, fixtures, make, stderr, succeeded};
use super::{difference, logits};
use mixbit::models::source::SourceModel;
use std::path::PathBuf;

const EXPERTS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

fn published() -> PathBuf {
    fixtures().join("golden/gpt-oss-mxfp4")
}

fn path_of(block: usize, part: &str) -> String {
    format!("model.layers.{block}.mlp.experts.{part}")
}

#[test]
fn codes_of_gpt_oss_pass_through() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let output = make("convert", &published(), &out, &[]);
    succeeded(&output);
    assert!(
        stderr(&output).contains("6 layers in the form mxfp4: taken as 4:32:mxfp4, lossless"),
        "{}",
        stderr(&output)
    );
    let raw = RawCheckpoint::read(&published().join("model.safetensors"));
    let stored = |name: &str| raw.tensors.iter().find(|tensor| tensor.0 == name).unwrap();
    let written = SourceModel::open(&out).unwrap();
    for block in 0..2 {
        for (part, end) in [("blocks", "weight"), ("scales", "scales")] {
            let (_, _, shape, bytes) = stored(&path_of(block, &format!("gate_up_proj_{part}")));
            let row = bytes.len() / (shape[0] * shape[1]);
            for (first, name) in ["gate_proj", "up_proj"].into_iter().enumerate() {
                let turns: Vec<u8> = bytes.chunks(row).skip(first).step_by(2).flatten().copied().collect();
                let tensor = written.tensor(&format!("{}.{end}", path_of(block, name))).unwrap();
                assert!(tensor.bytes() == turns.as_slice(), "{block} {name} {part}");
            }
            let down = written.tensor(&format!("{}.{end}", path_of(block, "down_proj"))).unwrap();
            let (.., bytes) = stored(&path_of(block, &format!("down_proj_{part}")));
            assert!(down.bytes() == bytes.as_slice(), "{block} {part}");
        }
    }
    assert!(difference(&logits(&out), &logits(&published())) < 2e-5);
}

#[test]
fn experts_of_gpt_oss_stay_or_are_quantized_anew() {
    let home = tempfile::tempdir().unwrap();
    let (kept, anew) = (home.path().join("kept"), home.path().join("anew"));
    let output = make("quantize", &published(), &kept, &["--bits", "6:32", "--no-eval"]);
    succeeded(&output);
    assert!(stderr(&output).contains("already quantized, passed through: 6 layers"), "{}", stderr(&output));
    succeeded(&make("quantize", &published(), &anew, &["--bits", "6:32", "--no-eval", "--requantize"]));
    let (kept, anew) = (SourceModel::open(&kept).unwrap(), SourceModel::open(&anew).unwrap());
    for path in (0..2).flat_map(|block| EXPERTS.map(|part| path_of(block, part))) {
        assert_eq!(kept.bitmap()[&path].to_string(), "4:32:mxfp4", "{path}");
        assert_eq!(anew.bitmap()[&path].to_string(), "6:32", "{path}");
    }
    assert!(difference(&logits(anew.dir()), &logits(&published())) < 0.2);
}
