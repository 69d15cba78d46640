//! Sensitivities against the KL divergence that rounding a layer causes.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod common;
#[path = "common/one_layer.rs"]
mod one_layer;

use common::{bundled, fixtures};
use one_layer::{Setting, measure, measured, rank_correlation, ratios};

use mixbit::choose::scores::{LayerSensitivity, Method};
use mixbit::engine::decoder::load::Rounding;
use mixbit::engine::measure::compare::Comparison;
use mixbit::engine::measure::sensitivities::analyze;
use mixbit::engine::measure::settings::AnalysisSettings;
use mixbit::engine::passes::collector::Extent;
use mixbit::engine::passes::forward::run_forward;
use mixbit::engine::passes::moments::{MomentSettings, input_moments};
use mixbit::engine::runtime::Engine;
use mixbit::models::source::SourceModel;
use mixbit::models::spec::Tap;
use mixbit::numerics::affine::{FloatType, rounding_error};
use mixbit::numerics::quant::Quant;
use mixbit::numerics::rounding::Technique;
use mixbit::text::corpus::Text;
use mixbit::text::tokenizer::Tokenizer;

fn table(source: &SourceModel, engine: &Engine, method: Method, memory: u64) -> Vec<LayerSensitivity> {
    let sequences: Vec<Vec<u32>> =
        (0..6).map(|n| (0..48).map(|i| (i * 37 + 11 * n) % 1000).collect()).collect();
    let candidates = [Quant::affine(3, 64), Quant::affine(4, 64), Quant::affine(8, 32)];
    let settings = AnalysisSettings {
        sequences: &sequences,
        candidates: &candidates,
        method,
        technique: Technique::Rtn,
        dtype: FloatType::F16,
        skip: [].into(),
        seed: 0,
        memory,
        costs: mixbit::engine::measure::settings::StepCosts::default(),
        progress: &|_, _| {},
    };
    let mut layers = Vec::new();
    analyze(engine, source, &settings, |layer| {
        layers.push(layer);
        Ok(())
    })
    .unwrap();
    layers
}

#[test]
fn predicted_divergence_is_what_is_measured() {
    let source = SourceModel::open(&bundled()).unwrap();
    let tokenizer = Tokenizer::from_dir(source.dir()).unwrap();
    let text = Text::open(None).unwrap();
    let setting = Setting {
        sequences: text.sequences(&tokenizer, 32, 128, 0).unwrap(),
        windows: text.windows(&tokenizer, 128, Some(16 * 128)).unwrap().windows,
        candidates: [3, 4, 6].map(|bits| Quant::affine(bits, 64)).to_vec(),
        every: 1,
    };
    let engine = Engine::start().unwrap();
    let measured = measured(&engine, &source, &setting).unwrap();
    let pairs = measure(&engine, &source, &setting, Method::FisherDiagonal, &measured).unwrap();
    let pairs: Vec<(f64, f64)> = pairs.iter().map(|p| (p.1, p.2)).collect();
    let (correlation, [_, median, _]) = (rank_correlation(&pairs), ratios(&pairs));
    assert_eq!(pairs.len(), 3 * 28, "every layer and candidate");
    assert!(correlation > 0.9, "{correlation}");
    assert!((0.5..2.0).contains(&median), "{median}");
}

/// One small random model for each part that a decoder may have beside Llama's.
#[test]
fn predictions_hold_for_every_part() {
    let engine = Engine::start().unwrap();
    let tokens = |seeds: std::ops::Range<u64>| -> Vec<Vec<u32>> {
        let text = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            (0..40).map(|_| rng.u32(0..64)).collect()
        };
        seeds.map(text).collect()
    };
    for case in [
        "apertus-untied",
        "cohere-qk-norm",
        "gemma2-caps",
        "gemma3-text-windows",
        "gpt-bigcode-one-kv-head",
        "gpt-neox-parallel",
        "granite-untied-biases",
        "olmo2-untied",
        "phi3-untied",
        "plamo-shared-heads",
        "starcoder2-tied",
    ] {
        let source = SourceModel::open(&fixtures().join("golden").join(case)).unwrap();
        let candidates = [4, 6].map(|bits| Quant::affine(bits, 32)).to_vec();
        let setting = Setting { sequences: tokens(0..48), windows: tokens(100..124), candidates, every: 1 };
        let measured = measured(&engine, &source, &setting).unwrap();
        let pairs = measure(&engine, &source, &setting, Method::FisherDiagonal, &measured).unwrap();
        let pairs: Vec<(f64, f64)> = pairs.iter().map(|p| (p.1, p.2)).collect();
        let (correlation, [_, median, _]) = (rank_correlation(&pairs), ratios(&pairs));
        println!(
            "{case}: Spearman {correlation:.3}, predicted / measured {median:.2}, {} pairs",
            pairs.len()
        );
        assert!(correlation > 0.9 && (0.5..2.0).contains(&median), "{case} {correlation} {median}");
    }
}

/// Attention and an MLP that read one normed input have one matrix of second moments, in which each token is once.
#[test]
fn a_shared_input_is_seen_once() {
    let source = SourceModel::open(&fixtures().join("golden/cohere-plain")).unwrap();
    let sequences: Vec<Vec<u32>> = (1..4).map(|n| (0..20).map(|i| (i * 7 + n) % 60).collect()).collect();
    let settings = MomentSettings {
        sequences: &sequences,
        extent: Extent::Full,
        memory: u64::MAX,
        progress: &|_, _| {},
    };
    input_moments(&Engine::start().unwrap(), &source, &settings, |block, moments| {
        let taps: Vec<Tap> = moments.keys().copied().collect();
        if block.is_some() {
            assert_eq!(taps, [Tap::ATTENTION, Tap::HEADS, Tap::INNER]);
        }
        assert!(moments.values().all(|moment| moment.tokens() == [60]));
        Ok(())
    })
    .unwrap();
}

#[test]
fn spilled_hidden_states_change_nothing() {
    let source = SourceModel::open(&bundled()).unwrap();
    let engine = Engine::start().unwrap();
    let in_memory = table(&source, &engine, Method::FisherDiagonal, u64::MAX);
    assert_eq!(in_memory, table(&source, &engine, Method::FisherDiagonal, 1000));
}

#[test]
fn sequences_side_by_side_change_nothing() {
    let source = SourceModel::open(&bundled()).unwrap();
    let engine = |count| Engine::start().unwrap().side_by_side(count);
    // Long enough for products to be split over the threads; the last is alone on its way.
    let sequences: Vec<Vec<u32>> =
        (0..5).map(|n| (0..300).map(|i| (i * 37 + 11 * n) % 1000).collect()).collect();
    let moments = |engine: &Engine| {
        let mut found = Vec::new();
        let settings = MomentSettings {
            sequences: &sequences,
            extent: Extent::Full,
            memory: u64::MAX,
            progress: &|_, _| {},
        };
        input_moments(engine, &source, &settings, |_, moments| {
            found.push(moments.clone());
            Ok(())
        })
        .unwrap();
        found
    };
    let logits = |engine: &Engine| {
        let states = run_forward(engine, &source, &sequences, 4, u64::MAX, &|| ()).unwrap();
        (0..states.len()).flat_map(|n| states.logits(n, 0, 300).unwrap()).collect::<Vec<f32>>()
    };
    let alone = engine(1);
    for count in [2, 3] {
        let together = engine(count);
        assert_eq!(moments(&alone), moments(&together));
        assert!(logits(&alone) == logits(&together));
        let method = Method::FisherDiagonal;
        assert_eq!(table(&source, &alone, method, u64::MAX), table(&source, &together, method, u64::MAX));
    }
}

/// At the rounded model the first-order change of the KL divergence is the difference of two alignments.
#[test]
fn alignment_is_the_slope_of_the_divergence() {
    let source = SourceModel::open(&bundled()).unwrap();
    let engine = Engine::start().unwrap();
    let at = Quant::affine(3, 64);
    let layers = table(&source, &engine, Method::Alignment { at }, u64::MAX);
    let sequences: Vec<Vec<u32>> =
        (0..6).map(|n| (0..48).map(|i| (i * 37 + 11 * n) % 1000).collect()).collect();
    let comparison = Comparison::new(&engine, &source, &sequences, u64::MAX).unwrap();
    let all = |quant: Quant| Rounding {
        bitmap: layers.iter().map(|layer| (layer.path.clone(), quant)).collect(),
        dtype: FloatType::F16,
    };
    let base = comparison.kl_divergence(&all(at)).unwrap();
    let (mut predicted, mut found) = (0.0, 0.0);
    for layer in &layers {
        let score = |quant: Quant| layer.scores.iter().find(|score| score.quant == quant).unwrap().kl;
        let mut rounding = all(at);
        rounding.bitmap.insert(layer.path.clone(), Quant::affine(8, 32));
        predicted += score(at) - score(Quant::affine(8, 32));
        found += base - comparison.kl_divergence(&rounding).unwrap();
    }
    assert!(found > 0.0 && (0.5..2.5).contains(&(predicted / found)), "{predicted} {found}");
}

#[test]
fn a_rounded_layer_is_measured_as_the_quantized_one() {
    let errors = rounding_error(&[0.1; 64], 64, Quant::affine(4, 64), FloatType::F16).unwrap();
    assert!(errors.iter().all(|e| e.abs() < 1e-3));
    let source = SourceModel::open(&bundled()).unwrap();
    let engine = Engine::start().unwrap();
    let comparison = Comparison::new(&engine, &source, &[(0..32).collect()], u64::MAX).unwrap();
    let nothing = Rounding { bitmap: [].into(), dtype: FloatType::F16 };
    assert!(comparison.kl_divergence(&nothing).unwrap() < 1e-6);
}
