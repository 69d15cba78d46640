//! A model beside the one that it was made from: the same decoder, the same values up to rounding, the same tokenizer.

use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

use super::check::{Finding, Progress};
use super::folder::Folder;
use super::matrix::Matrix;
use crate::error::Result;
use crate::files::model_files::ModelFiles;
use crate::models::source::SourceModel;
use crate::models::spec::{AttentionSpec, DecoderSpec};
use crate::numerics::dtype::Dtype;
use crate::text::corpus::{Text, documents};
use crate::text::tokenizer::Tokenizer;
use crate::words::{count, list};

/// Compares `folder` with the model in `reference`.
pub(crate) fn check(folder: &Folder, reference: &Path, progress: Progress<'_>) -> Result<Vec<Finding>> {
    let subject = "reference";
    let Some(source) = &folder.source else {
        return Ok(vec![Finding::note(subject, "not compared: this folder cannot be opened as a model")]);
    };
    let reference = match SourceModel::open(reference) {
        Ok(reference) => reference,
        Err(error) => return Ok(vec![Finding::refusal(subject, &error)]),
    };
    let mut findings = shapes(source, &reference);
    findings.push(decoder(source.spec(), reference.spec()));
    findings.extend(values(source, &reference, progress)?);
    findings.extend(tokenizer(folder, reference.files()));
    Ok(findings)
}

fn shapes(source: &SourceModel, reference: &SourceModel) -> Vec<Finding> {
    let subject = "reference shapes";
    let (mut absent, mut differ) = (Vec::new(), Vec::new());
    for spec in source.manifest().iter() {
        match reference.manifest().get(&spec.name) {
            None => absent.push(format!("`{}`", spec.name)),
            Some(other) if other.shape != spec.shape => {
                differ.push(format!("`{}` {:?}, there {:?}", spec.name, spec.shape, other.shape));
            }
            Some(_) => {}
        }
    }
    let only_there = reference.manifest().iter().filter(|spec| source.manifest().get(&spec.name).is_none());
    let only_there: Vec<String> = only_there.map(|spec| format!("`{}`", spec.name)).collect();
    let mut findings = Vec::new();
    for (what, names) in [("here only", absent), ("there only", only_there), ("of another shape", differ)] {
        if !names.is_empty() {
            let message = format!("{} {what}: {}", count(names.len(), "tensor"), list(&names));
            findings.push(Finding::problem(subject, message));
        }
    }
    if findings.is_empty() {
        findings
            .push(Finding::ok(subject, format!("the same {} parameters", source.manifest().parameters())));
    }
    findings
}

/// Returns one value per block's attention.
fn of<T>(spec: &DecoderSpec, value: impl Fn(&AttentionSpec) -> T) -> Vec<T> {
    spec.attentions().map(value).collect()
}

/// Compares the decoders that the two configs make of the weights.
fn decoder(one: &DecoderSpec, other: &DecoderSpec) -> Finding {
    let same = [
        ("heads", of(one, |a| a.heads) == of(other, |a| a.heads)),
        ("key/value heads", of(one, |a| a.kv_heads) == of(other, |a| a.kv_heads)),
        ("head_dim", of(one, |a| a.head_dim) == of(other, |a| a.head_dim)),
        ("epsilon of norms", one.head.norm.eps.to_bits() == other.head.norm.eps.to_bits()),
        ("RoPE", one.ropes == other.ropes),
        ("q/k norm", of(one, |a| a.qk_norm.clone()) == of(other, |a| a.qk_norm.clone())),
        ("temperature tuning", one.temperature_tuning == other.temperature_tuning),
        (
            "RoPE or attention span of the blocks",
            of(one, |a| (a.rope, a.span)) == of(other, |a| (a.rope, a.span)),
        ),
        ("tied head", one.head.tied == other.head.tied),
    ];
    let differ: Vec<&str> = same.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect();
    if differ.is_empty() {
        return Finding::ok("reference config", "the same decoder");
    }
    Finding::problem("reference config", format!("another decoder: {} differ", differ.join(", ")))
}

/// Sums of the squares of differences and of the reference's values, and the number of values.
#[derive(Debug, Clone, Copy, Default)]
struct Squares {
    differences: f64,
    values: f64,
    count: f64,
}

impl Squares {
    fn of(ours: &[f32], theirs: &[f32]) -> Self {
        let mut squares = Self { count: ours.len() as f64, ..Self::default() };
        for (&a, &b) in ours.iter().zip(theirs) {
            squares.differences += (f64::from(a) - f64::from(b)).powi(2);
            squares.values += f64::from(b).powi(2);
        }
        squares
    }

    fn add(&mut self, other: Self) {
        self.differences += other.differences;
        self.values += other.values;
        self.count += other.count;
    }

    /// Returns the root mean square of the differences over that of the values.
    fn relative(self) -> f64 {
        if self.differences == 0.0 { 0.0 } else { (self.differences / self.values).sqrt() }
    }

    /// True if rounding each value once to `dtype` explains the differences: at most half a unit in the last place, or
    /// half the distance of float16's subnormal numbers.
    fn is_rounding(self, dtype: Dtype) -> bool {
        let (unit, least) = match dtype {
            Dtype::F16 => (2f64.powi(-11), 2f64.powi(-25)),
            Dtype::BF16 => (2f64.powi(-8), 0.0),
            _ => (2f64.powi(-24), 0.0),
        };
        self.differences.sqrt() <= 1.001 * (unit * self.values.sqrt() + least * self.count.sqrt())
    }

    /// True if rounding to `bits` explains the differences. A step is the group's range over 2^bits - 1, an error a
    /// third of it; ranges are five standard deviations, with outliers maybe twenty.
    fn is_quantization(self, bits: u32) -> bool {
        self.relative() <= (8.0 / (2f64.powi(bits as i32) - 1.0)).min(1.0)
    }
}

/// Comparison of many layers with those of the reference.
#[derive(Default)]
struct Compared {
    all: Squares,
    layers: usize,
    worst: Option<(f64, String)>,
    wrong: Vec<String>,
}

impl Compared {
    fn add(&mut self, name: &str, squares: Squares, good: bool) {
        self.all.add(squares);
        self.layers += 1;
        let relative = squares.relative();
        if self.worst.as_ref().is_none_or(|(most, _)| relative.is_nan() || relative > *most) {
            self.worst = Some((relative, name.to_owned()));
        }
        if !good {
            self.wrong.push(format!("`{name}` ({relative:.3e})"));
        }
    }

    fn worst(&self) -> String {
        self.worst.as_ref().map(|(most, name)| format!("worst {most:.3e}: `{name}`")).unwrap_or_default()
    }
}

/// Compares all values. Float tensors must agree up to the rounding of their dtypes; quantized layers are reported by
/// bit-width.
fn values(source: &SourceModel, reference: &SourceModel, progress: Progress<'_>) -> Result<Vec<Finding>> {
    let mut float = Compared::default();
    let mut quantized: BTreeMap<u32, Compared> = BTreeMap::new();
    let mut undecoded = 0;
    let total = source.tensors().map(|t| t.tensor.byte_len() as u64).sum();
    let mut done = 0;
    for spec in source.manifest().iter() {
        crate::interrupt::check()?;
        let Some(same) = reference.manifest().get(&spec.name).filter(|other| other.shape == spec.shape)
        else {
            continue;
        };
        let (Some(ours), Some(theirs)) = (Matrix::of(source, spec), Matrix::of(reference, same)) else {
            undecoded += 1;
            continue;
        };
        let squares = compare(&ours, &theirs);
        if let Some(quant) = ours.quant() {
            let good = squares.is_quantization(quant.bits);
            quantized.entry(quant.bits).or_default().add(&spec.name, squares, good);
        } else {
            let good = match theirs.quant() {
                Some(quant) => squares.is_quantization(quant.bits),
                None => squares.is_rounding(coarser(ours.dtype(), theirs.dtype())),
            };
            float.add(&spec.name, squares, good);
        }
        done += ours.bytes();
        progress(done, total);
    }
    let mut findings = Vec::new();
    findings.extend((float.layers > 0).then(|| float_finding(&float)));
    findings.extend(quantized.iter().map(|(bits, compared)| quantized_finding(*bits, compared)));
    if undecoded > 0 {
        let message =
            format!("{} in a mode that cannot be decoded here: not compared", count(undecoded, "layer"));
        findings.push(Finding::note("reference values", message));
    }
    Ok(findings)
}

/// Sums squares over chunks in parallel, added up in order so that the last digit does not depend on the threads.
fn compare(ours: &Matrix<'_>, theirs: &Matrix<'_>) -> Squares {
    let chunks: Vec<Squares> = (0..ours.chunks())
        .into_par_iter()
        .map_init(Default::default, |(a, b): &mut (Vec<f32>, Vec<f32>), chunk| {
            ours.read(chunk, a);
            theirs.read(chunk, b);
            Squares::of(a, b)
        })
        .collect();
    let mut squares = Squares::default();
    for chunk in chunks {
        squares.add(chunk);
    }
    squares
}

fn coarser(one: Dtype, other: Dtype) -> Dtype {
    [Dtype::BF16, Dtype::F16].into_iter().find(|dtype| [one, other].contains(dtype)).unwrap_or(Dtype::F32)
}

fn float_finding(float: &Compared) -> Finding {
    let subject = "reference values";
    let tensors = count(float.layers, "float tensor");
    if !float.wrong.is_empty() {
        let message = format!(
            "{} of {tensors} differ by more than rounding: {}",
            float.wrong.len(),
            list(&float.wrong)
        );
        return Finding::problem(subject, message)
            .hint("this model was made from another one, or changed since");
    }
    Finding::ok(
        subject,
        match float.all.relative() {
            0.0 => format!("{tensors}, all equal"),
            relative => format!("{tensors}, relative RMS difference {relative:.3e} ({})", float.worst()),
        },
    )
}

fn quantized_finding(bits: u32, compared: &Compared) -> Finding {
    let subject = "reference values";
    let layers = count(compared.layers, "layer");
    if !compared.wrong.is_empty() {
        let message = format!(
            "{} of {layers} at {bits} bits are no rounding of the reference (relative RMS error): {}",
            compared.wrong.len(),
            list(&compared.wrong)
        );
        return Finding::problem(subject, message)
            .hint("this model was made from another one, or changed since");
    }
    let relative = compared.all.relative();
    Finding::ok(
        subject,
        format!("{layers} at {bits} bits, relative RMS rounding error {relative:.3e} ({})", compared.worst()),
    )
}

/// Compares the tokenizers: one file, or at least equal ids.
fn tokenizer(folder: &Folder, reference: &ModelFiles) -> Option<Finding> {
    let subject = "reference tokenizer";
    let ours = folder.tokenizer.as_ref()?;
    let theirs = match Tokenizer::from_files(reference) {
        Ok(theirs) => theirs,
        Err(error) => {
            return Some(Finding { level: super::check::Level::Note, ..Finding::refusal(subject, &error) });
        }
    };
    let file = |files: &ModelFiles| files.read("tokenizer.json").ok();
    let same_file = file(&folder.files) == file(reference);
    let message = match same_ids(ours, &theirs) {
        Ok(true) if same_file => return Some(Finding::ok(subject, "the same")),
        Ok(true) => return Some(Finding::ok(subject, "another file that gives the same ids")),
        Ok(false) => "gives other ids".to_owned(),
        Err(error) => error.to_string(),
    };
    Some(Finding::problem(subject, message).hint("copy the tokenizer's files from the reference"))
}

/// True if both tokenizers give equal ids for the text that mixbit carries.
fn same_ids(one: &Tokenizer, other: &Tokenizer) -> Result<bool> {
    for document in documents(Text::built_in()) {
        if one.encode(document, true)? != other.encode(document, true)? {
            return Ok(false);
        }
    }
    Ok(one.vocab_size() == other.vocab_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_are_rounding_and_changes_are_not() {
        let mut random = fastrand::Rng::with_seed(3);
        let values: Vec<f32> =
            (0..4096).map(|_| (random.f32() - 0.5) * 10f32.powi(random.i32(-9..2))).collect();
        for dtype in [Dtype::F16, Dtype::BF16] {
            let mut bytes = Vec::new();
            crate::numerics::dtype::push_f32(&values, dtype, &mut bytes);
            let mut cast = Vec::new();
            crate::numerics::dtype::extend_f32(dtype, &bytes, &mut cast);
            let squares = Squares::of(&cast, &values);
            assert!(squares.relative() > 0.0 && squares.is_rounding(dtype));
            assert!(!squares.is_rounding(Dtype::F32));
            let changed: Vec<f32> = cast.iter().map(|x| x * 1.02).collect();
            assert!(!Squares::of(&changed, &values).is_rounding(dtype));
        }
    }

    #[test]
    fn numbers_that_are_none_never_agree() {
        let squares = Squares::of(&[f32::NAN, 1.0], &[1.0, 1.0]);
        assert!(!squares.is_rounding(Dtype::BF16) && !squares.is_quantization(2));
        let mut compared = Compared::default();
        compared.add("a", Squares::of(&[1.0], &[2.0]), true);
        compared.add("b", squares, false);
        assert!(compared.worst().contains("`b`"));
    }
}
