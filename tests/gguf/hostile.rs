//! Damaged GGUF files: one error each, which names the file, and the tensor or the key.

use std::collections::BTreeMap;
use std::fs;

use mixbit::models::source::SourceModel;
use mixbit::numerics::dtype::extend_f32;

use crate::common::{make, stderr};
use crate::gguf;

/// Value of a header, with its type.
#[derive(Clone)]
struct Raw {
    kind: u32,
    bytes: Vec<u8>,
}

fn text(text: &str) -> Raw {
    Raw { kind: 8, bytes: string(text) }
}

fn u32_value(number: u32) -> Raw {
    Raw { kind: 4, bytes: number.to_le_bytes().to_vec() }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Tensor in a header: sizes, innermost first, type and place.
#[derive(Clone)]
struct Tensor {
    name: String,
    sizes: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// GGUF file, taken apart.
#[derive(Clone)]
struct File {
    keys: BTreeMap<String, Raw>,
    tensors: Vec<Tensor>,
    data: Vec<u8>,
}

fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (first, rest) = bytes.split_first_chunk().unwrap();
    *bytes = rest;
    *first
}

fn number(bytes: &mut &[u8]) -> u64 {
    u64::from_le_bytes(take(bytes))
}

fn read_text(bytes: &mut &[u8]) -> String {
    let length = number(bytes) as usize;
    let (text, rest) = bytes.split_at(length);
    *bytes = rest;
    String::from_utf8(text.to_vec()).unwrap()
}

/// Returns the bytes of a value of a type at the beginning of `bytes`.
fn length(kind: u32, bytes: &[u8]) -> usize {
    let size = |kind: u32| match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        _ => 8,
    };
    match kind {
        8 => 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize,
        9 => {
            let inner = u32::from_le_bytes(*bytes.first_chunk().unwrap());
            let count = u64::from_le_bytes(*bytes[4..].first_chunk().unwrap()) as usize;
            let mut at = 12;
            for _ in 0..count {
                at += if inner == 8 { length(8, &bytes[at..]) } else { size(inner) };
            }
            at
        }
        _ => size(kind),
    }
}

impl File {
    fn read(name: &str) -> Self {
        let whole = fs::read(gguf(name)).unwrap();
        let mut bytes = &whole[8..];
        let (tensors, keys) = (number(&mut bytes), number(&mut bytes));
        let mut file = Self { keys: BTreeMap::new(), tensors: Vec::new(), data: Vec::new() };
        for _ in 0..keys {
            let key = read_text(&mut bytes);
            let kind = u32::from_le_bytes(take(&mut bytes));
            let (value, rest) = bytes.split_at(length(kind, bytes));
            bytes = rest;
            file.keys.insert(key, Raw { kind, bytes: value.to_vec() });
        }
        for _ in 0..tensors {
            let name = read_text(&mut bytes);
            let axes = u32::from_le_bytes(take(&mut bytes));
            let sizes = (0..axes).map(|_| number(&mut bytes)).collect();
            let kind = u32::from_le_bytes(take(&mut bytes));
            file.tensors.push(Tensor { name, sizes, kind, offset: number(&mut bytes) });
        }
        let data = (whole.len() - bytes.len()).next_multiple_of(32);
        file.data = whole[data..].to_vec();
        file
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            out.extend(string(key));
            out.extend(value.kind.to_le_bytes());
            out.extend(&value.bytes);
        }
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend((tensor.sizes.len() as u32).to_le_bytes());
            tensor.sizes.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }
}

/// Writes a file and returns what `convert` says about it.
fn said_of(bytes: &[u8]) -> String {
    let home = tempfile::tempdir().unwrap();
    let (path, out) = (home.path().join("model.gguf"), home.path().join("out"));
    fs::write(&path, bytes).unwrap();
    let output = make("convert", &path, &out, &[]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!out.exists(), "{said}");
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    assert!(said.contains("model.gguf"), "{said}");
    said
}

/// Damages a copy of a model and returns what `convert` says about it.
fn refused(name: &str, damage: impl FnOnce(&mut File)) -> String {
    let mut file = File::read(name);
    assert!(file.bytes() == File::read(name).bytes());
    damage(&mut file);
    said_of(&file.bytes())
}

#[test]
fn files_that_end_early_are_errors() {
    let whole = File::read("types").bytes();
    for length in [1, 3, 4, 7, 12, 23, 24, 40, 100, 1000, 3000, 5000, whole.len() / 2, whole.len() - 1] {
        let said = said_of(&whole[..length]);
        let known = ["ends within", "cannot hold", "end past the file", "is no GGUF"];
        assert!(known.iter().any(|part| said.contains(part)), "{length}: {said}");
    }
    assert!(said_of(b"").contains("is empty"));
}

#[test]
fn other_formats_are_errors() {
    let whole = File::read("qwen2-tied").bytes();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        said_of(&changed)
    };
    assert!(with(0, b"GGML").contains("is no GGUF"));
    assert!(with(4, &1u32.to_le_bytes()).contains("version 1"));
    assert!(with(4, &9u32.to_le_bytes()).contains("version 9"));
    assert!(with(4, &3u32.to_be_bytes()).contains("big-endian"));
    for at in [8, 16] {
        for count in [u64::MAX, 1 << 40, 1 << 63] {
            let said = with(at, &count.to_le_bytes());
            assert!(said.contains("cannot hold"), "{said}");
        }
    }
    // Length of the first key.
    for length in [u64::MAX, 1 << 62, 1 << 33] {
        assert!(with(24, &length.to_le_bytes()).contains("cannot hold"));
    }
}

#[test]
fn keys_that_are_there_twice_are_errors() {
    let mut file = File::read("qwen2-tied");
    let (key, value) = file.keys.pop_first().unwrap();
    let again = [&string(&key)[..], &value.kind.to_le_bytes(), &value.bytes].concat();
    file.keys.insert(key.clone(), value);
    let mut bytes = file.bytes();
    let keys = file.keys.len() as u64 + 1;
    bytes[16..24].copy_from_slice(&keys.to_le_bytes());
    bytes.splice(24..24, again);
    let said = said_of(&bytes);
    assert!(said.contains(&format!("`{key}`: is there twice")), "{said}");
}

/// Makes a matrix of `types` one of Q8_K, whose values are 0.25 times -128 to 127 in each row.
fn with_q8_k(scale: f32) -> File {
    let mut file = File::read("types");
    let offset = file.data.len().next_multiple_of(32);
    file.data.resize(offset, 0);
    let tensor = file.tensor("blk.1.attn_v.weight");
    (tensor.kind, tensor.offset) = (15, offset as u64);
    for _ in 0..tensor.sizes[1] {
        file.data.extend(scale.to_le_bytes());
        file.data.extend((-128..=127i8).map(i8::cast_unsigned));
        // Sums of sixteen codes, which nobody needs.
        file.data.extend([0x55; 32]);
    }
    file
}

#[test]
fn blocks_of_q8_k_are_decoded() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("model.gguf");
    fs::write(&path, with_q8_k(0.25).bytes()).unwrap();
    let source = SourceModel::open(&path).unwrap();
    let tensor = source.tensor("model.layers.1.self_attn.v_proj.weight").unwrap();
    let mut values = Vec::new();
    extend_f32(tensor.dtype, &tensor.bytes(), &mut values);
    let row: Vec<f32> = (-128..=127i8).map(|code| 0.25 * f32::from(code)).collect();
    assert_eq!(values, row.repeat(32));
    for (scale, what) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinite"), (0.0, "zero")] {
        let said = said_of(&with_q8_k(scale).bytes());
        assert!(said.contains(what) && said.contains("blk.1.attn_v.weight"), "{said}");
    }
}

#[test]
fn tensors_outside_of_the_file_are_errors() {
    const NAME: &str = "blk.0.attn_q.weight";
    type Damage = fn(&mut Tensor);
    let damages: [(Damage, &str); 10] = [
        (|tensor| tensor.offset = u64::MAX - 31, "end past the file"),
        (|tensor| tensor.offset = 1 << 40, "end past the file"),
        (|tensor| tensor.offset += 1, "no multiple of 32"),
        (|tensor| tensor.sizes = vec![1 << 40, 1 << 40], "beyond any memory"),
        (|tensor| tensor.sizes = vec![1 << 62], "past the file"),
        (|tensor| tensor.sizes[0] = 0, "numbers from 1 on"),
        (|tensor| tensor.sizes[0] = 48, "no whole blocks of Q4_0"),
        (|tensor| tensor.sizes = vec![1; 5], "5 axes"),
        (|tensor| tensor.kind = 16, "of type IQ2_XXS, which is not read"),
        (|tensor| tensor.kind = 99, "of type number 99"),
    ];
    for (damage, expected) in damages {
        let said = refused("types", |file| damage(file.tensor(NAME)));
        assert!(said.contains(expected) && said.contains(NAME), "{expected}: {said}");
    }
    let said = refused("types", |file| file.tensor(NAME).offset = 0);
    assert!(said.contains("lies over"), "{said}");
    let said = refused("types", |file| file.tensor("blk.0.ffn_up.weight").name = NAME.to_owned());
    assert!(said.contains("twice") && said.contains(NAME), "{said}");
    let said = refused("types", |file| file.tensor(NAME).name = "blk.0.attn_x.weight".to_owned());
    assert!(said.contains("blk.0.attn_x.weight") && said.contains("is not known"), "{said}");
    let said = refused("types", |file| file.tensors.retain(|tensor| tensor.name != NAME));
    assert!(said.contains("model.layers.0.self_attn.q_proj.weight") && said.contains("missing"), "{said}");
    let said = refused("types", |file| file.tensors.retain(|tensor| tensor.name != "token_embd.weight"));
    assert!(said.contains("token_embd.weight") && said.contains("missing"), "{said}");
}

#[test]
fn alignments_that_are_none_are_errors() {
    for alignment in [0, 3, 33, u32::MAX] {
        let said = refused("types", |file| {
            file.keys.insert("general.alignment".to_owned(), u32_value(alignment));
        });
        assert!(said.contains("general.alignment") && said.contains("power of two"), "{said}");
    }
}

#[test]
fn keys_that_are_missing_or_wrong_are_named() {
    for key in [
        "general.architecture",
        "llama.embedding_length",
        "llama.block_count",
        "llama.context_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.pre",
    ] {
        let said = refused("types", |file| drop(file.keys.remove(key).unwrap()));
        assert!(said.contains(&format!("`{key}`: missing")), "{key}: {said}");
    }
    for (key, value, expected) in [
        ("general.architecture", text("mamba"), "architectures that are read from GGUF: llama, qwen2"),
        ("llama.embedding_length", text("x"), "expected a size"),
        ("llama.attention.head_count", u32_value(0), "expected a size"),
        ("llama.attention.value_length", u32_value(16), "expected 32, as for keys"),
        ("llama.rope.dimension_count", u32_value(16), "expected 32, the size of a head"),
        ("llama.rope.scaling.type", text("longrope"), "is not read for this architecture"),
        ("llama.attention.clamp_kqv", u32_value(8), "is not known to this architecture"),
        ("tokenizer.ggml.model", text("bert"), "`gpt2`, of byte pairs"),
        ("tokenizer.ggml.pre", text("nobody-knows"), "rules that are read: llama-bpe"),
        ("tokenizer.ggml.bos_token_id", u32_value(1 << 30), "there are 64 tokens"),
        (
            "tokenizer.ggml.token_type",
            Raw { kind: 9, bytes: vec![4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] },
            "has 0 entries",
        ),
        ("llama.x", Raw { kind: 77, bytes: Vec::new() }, "a value of type 77"),
    ] {
        let said = refused("types", |file| drop(file.keys.insert(key.to_owned(), value)));
        assert!(said.contains(expected) && said.contains(key), "{key}: {said}");
    }
}

#[test]
fn heads_that_do_not_fit_rows_are_errors() {
    let said = refused("types", |file| {
        file.keys.insert("llama.attention.head_count".to_owned(), u32_value(3));
    });
    assert!(said.contains("blk.0.attn_q.weight") && said.contains("no 3 heads"), "{said}");
}

#[test]
fn factors_that_are_not_llamas_are_errors() {
    let said = refused("llama-gqa-llama3-rope", |file| {
        let at = file.tensor("rope_freqs.weight").offset as usize;
        file.data[at + 8..at + 12].copy_from_slice(&3f32.to_le_bytes());
    });
    assert!(said.contains("rope_freqs.weight") && said.contains("Llama 3's scaling"), "{said}");
}

#[test]
fn scales_that_are_no_numbers_or_all_zero_are_errors() {
    // Layer, bytes of a block, place of its scale: of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, Q2_K to Q6_K, IQ4_XS.
    for (name, block, at) in [
        ("blk.0.attn_q.weight", 18, 0),
        ("blk.0.attn_k.weight", 20, 0),
        ("blk.0.attn_v.weight", 22, 0),
        ("blk.0.attn_output.weight", 24, 0),
        ("blk.0.ffn_gate.weight", 34, 0),
        ("blk.0.ffn_down.weight", 18, 0),
        ("blk.1.attn_q.weight", 84, 80),
        ("blk.1.attn_k.weight", 110, 108),
        ("blk.1.attn_v.weight", 144, 0),
        ("blk.1.ffn_gate.weight", 176, 0),
        ("blk.1.ffn_up.weight", 210, 208),
        ("blk.2.attn_q.weight", 136, 0),
    ] {
        for (number, what) in [([0xff, 0x7f], "NaN"), ([0, 0], "zero")] {
            let said = refused("types", |file| {
                let tensor = file.tensor(name).clone();
                let values: u64 = tensor.sizes.iter().product();
                let blocks = (if block < 40 { values / 32 } else { values / 256 }) as usize;
                let start = tensor.offset as usize;
                for data in file.data[start..start + blocks * block].chunks_mut(block) {
                    // Minimums and codes go too, so that nothing but the scale is at fault.
                    if what == "zero" {
                        data.fill(0);
                    }
                    data[at..at + 2].copy_from_slice(&number);
                }
            });
            assert!(said.contains(what) && said.contains(name), "{name}: {said}");
        }
    }
    let said = refused("types", |file| {
        let at = file.tensor("blk.0.ffn_up.weight").offset as usize;
        file.data[at] = 0xff;
    });
    assert!(said.contains("NaN") && said.contains("blk.0.ffn_up.weight"), "{said}");
}
