//! pytorch_model.bin: what is no tensor is refused, and nothing of it runs.

use std::fs;
use std::io::Write;
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::common::{bundled, copy_folder, fixtures, json_file, mixbit, stderr, succeeded};

/// Writes an archive as torch.save does.
fn archive(path: &Path, pickle: &[u8], storages: &[(&str, &[u8])], method: CompressionMethod) {
    let mut zip = ZipWriter::new(fs::File::create(path).unwrap());
    let options = SimpleFileOptions::default().compression_method(method);
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), options).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add("data.pkl", pickle);
    for (name, bytes) in storages {
        add(&format!("data/{name}"), bytes);
    }
    zip.finish().unwrap();
}

/// The pickle of a dict with one tensor `x`: a storage of `count` float32 under the key 0, then size and stride.
fn tensor(count: u32, first: u32, size: u32, stride: u32) -> Vec<u8> {
    let int = |number: u32| [b"J", &number.to_le_bytes()[..]].concat();
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    [
        b"\x80\x02}".to_vec(),
        text("x"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(count),
        b"tQ".to_vec(),
        int(first),
        int(size),
        b"\x85".to_vec(),
        int(stride),
        b"\x85\x89ccollections\nOrderedDict\n)RtRs.".to_vec(),
    ]
    .concat()
}

/// Puts a file in the place of a model's weights and returns what `inspect` says.
fn refused(write: impl Fn(&Path)) -> String {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    copy_folder(&fixtures().join("golden/forms/pytorch-strided"), &folder);
    fs::remove_file(folder.join("golden.safetensors")).unwrap();
    write(&folder.join("pytorch_model.bin"));
    let output = mixbit(["inspect", folder.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn pickles_of_other_things_are_refused() {
    let call = b"\x80\x02cos\nsystem\nX\x0a\x00\x00\x00touch /tmp\x85R.";
    for (pickle, expected) in [
        (&call[..], "`os.system`"),
        (b"\x80\x02cbuiltins\nexec\n.", "`builtins.exec`"),
        (b"\x80\x02]X\x01\x00\x00\x00aa.", "something else than a dict"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "`a`, which is no tensor"),
        (b"\x80\x02}K\x01K\x01s.", "a key that is no text"),
        (b"\x80\x02", "ends in the middle"),
        (b"\x80\x05\x95.", "protocol 5"),
    ] {
        let said = refused(|path| archive(path, pickle, &[], CompressionMethod::Stored));
        assert!(said.contains(expected) && said.contains("pytorch_model.bin"), "{said}");
    }
    // As deep as the file is long: nothing recurses.
    let nested = [b"\x80\x02)".to_vec(), vec![0x85; 300_000], b".".to_vec()].concat();
    let said = refused(|path| archive(path, &nested, &[], CompressionMethod::Stored));
    assert!(said.contains("something else than a dict"), "{said}");
}

#[test]
fn tensors_outside_of_their_storages_are_refused() {
    let bytes = [0; 64];
    for (pickle, stored, expected) in [
        (tensor(16, 0, 16, 1), &bytes[..], "not part of this architecture"),
        (tensor(16, 0, 17, 1), &bytes, "end past its storage"),
        (tensor(16, 1, 16, 1), &bytes, "end past its storage"),
        (tensor(16, 0, 16, 2), &bytes, "end past its storage"),
        (tensor(16, 0, 1 << 30, 1 << 30), &bytes, "end past its storage"),
        (tensor(17, 0, 16, 1), &bytes, "its storage has 64 bytes"),
        (tensor(16, 0, 16, 1), &bytes[..63], "its storage has 63 bytes"),
        (tensor(16, u32::MAX, 16, 1), &bytes, "no tensor"),
    ] {
        let said = refused(|path| archive(path, &pickle, &[("0", stored)], CompressionMethod::Stored));
        assert!(said.contains(expected) || said.contains("missing"), "{expected}: {said}");
        assert!(expected == "not part of this architecture" || said.contains(expected), "{expected}: {said}");
    }
    let said = refused(|path| archive(path, &tensor(16, 0, 16, 1), &[], CompressionMethod::Stored));
    assert!(said.contains("`data/0`, are missing"), "{said}");
}

#[test]
fn archives_of_other_kinds_are_refused() {
    let said = refused(|path| {
        fs::write(path, b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.").unwrap();
    });
    assert!(said.contains("is no ZIP") && said.contains("1.6"), "{said}");
    let said =
        refused(|path| archive(path, &tensor(16, 0, 16, 1), &[("0", &[0; 64])], CompressionMethod::Deflated));
    assert!(said.contains("is compressed"), "{said}");
    let said = refused(|path| {
        let whole = fs::read(path).unwrap();
        fs::write(path, &whole[..whole.len() / 2]).unwrap();
    });
    assert!(said.contains("not a whole PyTorch file"), "{said}");
}

#[test]
fn makers_own_files_get_a_hint() {
    for name in ["consolidated.safetensors", "consolidated.00.pth"] {
        let said = refused(|path| fs::rename(path, path.parent().unwrap().join(name)).unwrap());
        assert!(said.contains("makers' own names"), "{said}");
    }
    let said =
        refused(|path| fs::rename(path, path.with_file_name("pytorch_model-00001-of-00002.bin")).unwrap());
    assert!(said.contains("pytorch_model-00002-of-00002.bin"), "{said}");
}

#[test]
fn indexes_name_only_files_beside_them() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    copy_folder(&fixtures().join("golden/forms/pytorch-sharded"), &folder);
    let path = folder.join("pytorch_model.bin.index.json");
    let index = json_file(&path);
    let with = |shard: &str| {
        let mut index = index.clone();
        index["weight_map"]["model.norm.weight"] = shard.into();
        fs::write(&path, index.to_string()).unwrap();
        mixbit(["inspect", folder.to_str().unwrap()])
    };
    let said = stderr(&with("../pytorch_model.bin"));
    assert!(
        said.contains("tensor `model.norm.weight`: lies outside the folder, in `../pytorch_model.bin`"),
        "{said}"
    );
    for (shard, note) in [
        ("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json does not belong to these weights"),
        (
            "weights.pt",
            "pytorch_model.bin.index.json cannot be read (key `weight_map.model.norm.weight`: expected a weight file",
        ),
    ] {
        let output = with(shard);
        succeeded(&output);
        assert!(stderr(&output).contains(note), "{}", stderr(&output));
    }
}

#[test]
fn indexes_of_pickles_say_nothing_of_other_weights() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    copy_folder(&bundled(), &folder);
    fs::rename(folder.join("model.safetensors"), folder.join("weights-4bit.safetensors")).unwrap();
    let index = r#"{"weight_map": {"model.layers.0.qweight": "pytorch_model-00001-of-00002.bin"}}"#;
    fs::write(folder.join("pytorch_model.bin.index.json"), index).unwrap();
    let output = mixbit(["inspect", folder.to_str().unwrap()]);
    succeeded(&output);
    assert!(!stderr(&output).contains("index"), "{}", stderr(&output));
}

#[test]
fn indexes_say_which_tensors_there_must_be() {
    let index = |shard: &str| {
        let text = format!(r#"{{"weight_map": {{"model.norm.weight": "{shard}"}}}}"#);
        refused(|path| {
            fs::write(path.with_file_name("pytorch_model.bin.index.json"), &text).unwrap();
            archive(path, &tensor(16, 0, 16, 1), &[("0", &[0; 64])], CompressionMethod::Stored);
        })
    };
    let said = index("pytorch_model.bin");
    assert!(said.contains("pytorch_model.bin.index.json: tensor `model.norm.weight`"), "{said}");
    assert!(said.contains("in none of the weight files"), "{said}");
    let said = index("pytorch_model-00002-of-00002.bin");
    assert!(said.contains("names the shard `pytorch_model-00002-of-00002.bin`"), "{said}");
}
