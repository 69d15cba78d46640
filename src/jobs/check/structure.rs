//! Structure of the decoder, decided from the tensors' names and shapes and compared with config.json.

use std::collections::{BTreeMap, BTreeSet};

use super::check::Finding;
use super::folder::Folder;
use crate::files::json;
use crate::models::config::ModelConfig;
use crate::models::spec::{
    AttentionSpan, AttentionSpec, DecoderSpec, ExpertsSpec, LLAMA_NAMES, MlpSpec, NormSpec, Normalization,
    Projections, QkNorm, Role, RopeScaling, Score, TIE,
};
use crate::words::{count, list};

/// Checks MLPs, heads, norms, RoPE and tying, and lists decisions against the config's letter.
pub(crate) fn check(folder: &Folder) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(mlp(folder));
    findings.extend(gqa(folder));
    if let Some(spec) = &folder.spec {
        findings.push(qk_norm(folder, spec));
        findings.push(rope(spec));
        findings.push(attention_scale(folder.decoder_config.as_ref(), spec));
        findings.extend(tying(folder, spec));
        findings.extend(spec.notes.iter().map(|note| Finding::note("decided", note.clone())));
    }
    findings
}

/// Returns the parts of every block's MLP as pairs of module (`mlp`, `feed_forward`) and part (`gate_proj`, `up_proj`).
fn mlp_parts(folder: &Folder) -> BTreeMap<usize, BTreeSet<(&str, &str)>> {
    let mut blocks: BTreeMap<usize, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for name in folder.names.keys() {
        let parts: Vec<&str> = name.split('.').collect();
        if let ["model", "layers", block, module, part, _, ..] = parts[..]
            && module != "self_attn"
            && let Ok(block) = block.parse()
        {
            blocks.entry(block).or_default().insert((module, part));
        }
    }
    blocks
}

/// Reports the MLP that the tensors' names describe; mixbit runs one gated MLP of one width in every block.
fn mlp(folder: &Folder) -> Option<Finding> {
    if let Some(spec) = &folder.spec
        && let Some(experts) = spec.experts()
    {
        return Some(sparse_mlps(folder, spec, experts));
    }
    if let Some(spec) = &folder.spec
        && spec.mlps().any(|mlp| !mlp.gated || mlp.names != &LLAMA_NAMES)
    {
        return Some(other_mlps(spec));
    }
    let blocks = mlp_parts(folder);
    let (&first, parts) = blocks.first_key_value()?;
    let differ: Vec<String> =
        blocks.iter().filter(|(_, p)| *p != parts).map(|(block, _)| block.to_string()).collect();
    if !differ.is_empty() {
        let message = format!("the MLP of block {first} has other parts than that of {}", list(&differ));
        return Some(Finding::problem("mlp", message));
    }
    let names: BTreeSet<&str> = parts.iter().map(|(_, part)| *part).collect();
    let modules: BTreeSet<&str> = parts.iter().map(|(module, _)| *module).collect();
    let listed = parts.iter().map(|(module, part)| format!("{module}.{part}")).collect::<Vec<_>>().join(", ");
    let is_fused = |spec: &DecoderSpec| spec.mlps().any(|mlp| mlp.projections == Projections::Fused);
    let fused = folder.spec.as_ref().is_some_and(is_fused);
    let (gate, matrices) = if fused { ("gate_up_proj", 2) } else { ("gate_proj", 1) };
    let expected: BTreeSet<&str> =
        if fused { [gate, "down_proj"].into() } else { [gate, "up_proj", "down_proj"].into() };
    if names.contains("switch_mlp") {
        // The config's error was reported already.
        return None;
    }
    if modules.len() != 1 || names != expected {
        let variant = match &names {
            names if names.iter().any(|n| ["experts", "router", "shared_expert"].contains(n)) => {
                "a mixture of experts"
            }
            names if names.contains("gate_up_proj") => "gate and up in one matrix",
            names if names.is_superset(&expected) => "more than one gated MLP",
            names if names.is_disjoint(&BTreeSet::from(["gate_proj"])) => "no gate",
            _ => "no gated MLP that is known",
        };
        return Some(
            Finding::problem("mlp", format!("{variant}: {listed}"))
                .hint("mixbit runs one MLP per block, with the names that config.json's model_type has"),
        );
    }
    let module = *modules.first()?;
    let widths: BTreeSet<usize> = blocks
        .keys()
        .filter_map(|block| folder.rows(&format!("model.layers.{block}.{module}.{gate}")))
        .map(|rows| rows / matrices)
        .collect();
    let width = widths.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    let claims = mlp_claims(folder.decoder_config.as_ref());
    let claimed: Vec<String> = claims.iter().map(|(key, size)| format!("{key} {size}")).collect();
    let claimed = if claimed.is_empty() { "nothing".to_owned() } else { claimed.join(", ") };
    let message = format!("one gated MLP per block ({listed}), {width} wide; config.json says {claimed}");
    Some(match widths.len() {
        0 | 1 if claims.iter().all(|(_, size)| widths.contains(size)) => Finding::ok("mlp", message),
        0 | 1 => Finding::note("mlp", message),
        _ => Finding::problem("mlp", message),
    })
}

/// Describes MLPs without a gate, or of other names. Missing tensors are reported by another check.
fn other_mlps(spec: &DecoderSpec) -> Finding {
    let widths: BTreeSet<usize> = spec.mlps().map(|mlp| mlp.intermediate_size).collect();
    let widths = widths.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    let of = |mlp: &MlpSpec| {
        let layers = mlp.input_roles().iter().chain(&[Role::Down]);
        let path = |role: &Role| mlp.projection(*role).path;
        let names = layers.map(|role| path(role).rsplit('.').next().unwrap_or_default().to_owned());
        let kind = if mlp.gated { "gated MLP" } else { "MLP without gate" };
        format!("one {kind} per block ({}), {widths} wide", names.collect::<Vec<_>>().join(", "))
    };
    Finding::ok("mlp", spec.mlps().next().map_or_else(String::new, of))
}

/// Compares the blocks with experts by the tensors' names with those by the config.
fn sparse_mlps(folder: &Folder, spec: &DecoderSpec, experts: ExpertsSpec) -> Finding {
    let has = |path: String| folder.names.contains_key(&format!("{path}.weight"));
    let blocks = || spec.mlps().enumerate();
    // Missing tensors are reported by another check.
    let has_other = |mlp: &MlpSpec| {
        let is_sparse = mlp.experts.is_some();
        let experts = format!("{}.{}.gate_proj", mlp.path, experts.names.experts);
        has(if is_sparse { mlp.dense_path("gate_proj") } else { experts })
    };
    let differ: Vec<String> =
        blocks().filter(|(_, mlp)| has_other(mlp)).map(|(i, _)| i.to_string()).collect();
    if !differ.is_empty() {
        let message =
            format!("config.json and weights disagree on whether there are experts in {}", list(&differ));
        return Finding::problem("mlp", message)
            .hint("num_experts, decoder_sparse_step and mlp_only_layers must be those of the trained model");
    }
    let ExpertsSpec { count: all, per_token, intermediate_size: width, .. } = experts;
    let sparse = blocks().filter(|(_, mlp)| mlp.experts.is_some()).count();
    let dense_width = blocks().map(|(_, mlp)| mlp.intermediate_size).max().unwrap_or(0);
    let scores = match experts.score {
        Score::Softmax => "probabilities",
        Score::Sigmoid => "sigmoids",
        Score::SqrtSoftplus => "roots of softplus",
        Score::SoftmaxOfChosen => "softmax over the chosen",
        Score::Mixer { .. } => "shares among the nearest",
    };
    let shares = match (experts.score, experts.normalization) {
        (Score::SoftmaxOfChosen | Score::Mixer { .. }, _) => scores.to_owned(),
        (_, Normalization::None) => format!("{scores} as they are"),
        _ => format!("{scores} brought to a sum of 1"),
    };
    let others = match spec.blocks.len() - sparse {
        0 => String::new(),
        others => format!("; {} with one gated MLP, {} wide", count(others, "block"), dense_width),
    };
    let of = format!("{all} gated experts, {width} wide, {per_token} for a token, {shares}");
    Finding::ok("mlp", format!("{} with {of}{others}", count(sparse, "block")))
}

fn mlp_claims(config: Option<&ModelConfig>) -> Vec<(&'static str, usize)> {
    let claim = |key| Some((key, config?.size(key).ok()??));
    ["intermediate_size", "intermediate_size_mlp"].into_iter().filter_map(claim).collect()
}

/// Compares the heads by the shapes of the projections with the config's.
fn gqa(folder: &Folder) -> Option<Finding> {
    let size = |key| folder.decoder_config.as_ref()?.size(key).ok()?;
    let attention = folder.spec.as_ref().and_then(|spec| spec.attentions().next());
    let (heads, claimed, head_dim) = if let Some(attention) = attention {
        (attention.heads, attention.kv_heads, attention.head_dim)
    } else {
        let heads = size("num_attention_heads")?;
        let head_dim = size("head_dim").or_else(|| size("hidden_size")?.checked_div(heads))?;
        (heads, size("num_key_value_heads").unwrap_or(heads), head_dim)
    };
    let rows = |role, name| match attention {
        Some(attention) => folder.rows(&attention.projection(role).path),
        None => folder.rows(&format!("model.layers.0.self_attn.{name}")),
    };
    let (q, k) = (rows(Role::Q, "q_proj")?, rows(Role::K, "k_proj")?);
    if head_dim == 0 || q != heads * head_dim || k != claimed * head_dim {
        let message = format!(
            "config.json says {heads} query and {} of {head_dim} dimensions, that is {} and {} rows; the weights have {q} and {k}",
            count(claimed, "key/value head"),
            heads * head_dim,
            claimed * head_dim
        );
        let hint = "num_attention_heads, num_key_value_heads and head_dim must be those that the model was trained with";
        return Some(Finding::problem("gqa", message).hint(hint));
    }
    if claimed == 0 || heads % claimed != 0 {
        let message = format!("{claimed} key/value heads do not divide {heads} query heads");
        return Some(Finding::problem("gqa", message));
    }
    Some(Finding::ok(
        "gqa",
        format!(
            "{} of {head_dim} on {}, {} to 1",
            count(heads, "query head"),
            count(claimed, "key/value head"),
            heads / claimed
        ),
    ))
}

fn qk_norm(folder: &Folder, spec: &DecoderSpec) -> Finding {
    let is_stored = |name: &str| folder.names.contains_key(name);
    let has_all = |attention: &&AttentionSpec| {
        let mut names = attention.norms().iter().flat_map(NormSpec::names);
        names.all(|(_, name)| is_stored(&name))
    };
    let with = spec.attentions().filter(has_all).count();
    let strange = |attention: &AttentionSpec| {
        let names = ["q_norm", "k_norm", "query_layernorm", "key_layernorm"];
        names.iter().any(|name| is_stored(&format!("{}.{name}.weight", attention.path)))
    };
    let any = spec.attentions().any(strange);
    let subject = "q/k norm";
    let norm = spec.attentions().map(|attention| &attention.qk_norm).find(|norm| **norm != QkNorm::None);
    match norm {
        _ if folder.checkpoint.is_none() => Finding::note(subject, "cannot be looked for without weights"),
        Some(
            norm @ (QkNorm::Weighted(_) | QkNorm::EachHead(_) | QkNorm::AllHeads(_) | QkNorm::Rotated(_)),
        ) => {
            let place = if matches!(norm, QkNorm::Rotated(_)) { "after" } else { "before" };
            if with == spec.blocks.len() {
                let message = format!("norms of q and k with weights in every block, {place} RoPE");
                Finding::ok(subject, message)
            } else {
                let blocks = count(spec.blocks.len(), "block");
                Finding::problem(subject, format!("norms of q and k are in {with} of {blocks} only"))
            }
        }
        _ if any => Finding::problem(
            subject,
            "the weights have q_norm or k_norm, this architecture has no place for them",
        ),
        Some(QkNorm::Weightless(_)) => Finding::ok(subject, "without weights"),
        _ => Finding::ok(subject, "none"),
    }
}

fn rope(spec: &DecoderSpec) -> Finding {
    let with = spec.attentions().filter(|attention| attention.rope.is_some()).count();
    let Some(rope) = spec.ropes.first() else {
        let positions = spec.embed.positions.as_ref().map_or(0, |positions| positions.count);
        return Finding::ok("rope", format!("none: {}", count(positions, "learned position")));
    };
    let thetas: Vec<String> = spec.ropes.iter().map(|rope| rope.theta.to_string()).collect();
    let layout = if rope.traditional { "interleaved pairs" } else { "halves" };
    let scaling = match rope.scaling {
        RopeScaling::Default => "no scaling".to_owned(),
        RopeScaling::Linear { factor } => format!("linear scaling by {factor}"),
        RopeScaling::Dynamic { factor, .. } => format!("dynamic scaling by {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!("llama3 scaling by {factor}"),
        RopeScaling::Yarn { factor, .. } => format!("yarn scaling by {factor}"),
        RopeScaling::LongRope { .. } => "longrope scaling".to_owned(),
    };
    let tail = format!("{layout}, theta {}, {scaling}{}", thetas.join(" and "), spans(spec));
    if with == spec.blocks.len() {
        return Finding::ok("rope", format!("in every block, {tail}"));
    }
    let without: Vec<String> = (0..)
        .zip(spec.attentions())
        .filter(|(_, attention)| attention.rope.is_none())
        .map(|(i, _): (usize, _)| i.to_string())
        .collect();
    Finding::note(
        "rope",
        format!("in {with} of {}, not in {}; {tail}", count(spec.blocks.len(), "block"), list(&without)),
    )
}

/// Describes the blocks whose attention is limited to a window or a chunk.
fn spans(spec: &DecoderSpec) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for attention in spec.attentions() {
        match attention.span {
            AttentionSpan::Full => {}
            AttentionSpan::Sliding(n) => *counts.entry(format!("sliding window of {n}")).or_default() += 1,
            AttentionSpan::Chunked(n) => *counts.entry(format!("chunks of {n}")).or_default() += 1,
        }
    }
    let blocks = spec.blocks.len();
    let described = counts.iter().map(|(span, &limited)| {
        if limited == blocks {
            format!(", {span} everywhere")
        } else {
            format!(", {span} in {limited} of {}", count(blocks, "block"))
        }
    });
    described.collect::<Vec<_>>().concat()
}

/// Reports the scale of attention scores: `attn_scale` looks like a multiplier of them and is none.
fn attention_scale(config: Option<&ModelConfig>, spec: &DecoderSpec) -> Finding {
    let subject = "attention scale";
    let scores = spec.attentions().next().map_or_else(String::new, |attention| {
        let usual = (attention.head_dim as f32).powf(-0.5);
        let is_usual = (attention.scale - usual).abs() < f32::EPSILON;
        let factor =
            if is_usual { format!("1/sqrt({})", attention.head_dim) } else { attention.scale.to_string() };
        let cap = attention.cap.map_or_else(String::new, |cap| format!(", and capped at {cap}"));
        format!("scores are multiplied by {factor}{cap}")
    });
    let attn_scale = config.and_then(|config| config.get("attn_scale"));
    match (&spec.temperature_tuning, attn_scale) {
        (Some(tuning), _) => Finding::note(
            subject,
            format!(
                "{scores}; blocks without RoPE also by temperature tuning with attn_scale {}",
                tuning.attn_scale
            ),
        ),
        (None, Some(value)) => Finding::ok(
            subject,
            format!(
                "{scores}; attn_scale {} is for temperature tuning, which no block here has",
                json::shown(value)
            ),
        ),
        (None, None) => Finding::ok(subject, scores),
    }
}

fn tying(folder: &Folder, spec: &DecoderSpec) -> Vec<Finding> {
    let subject = "head";
    if folder.checkpoint.is_none() {
        return Vec::new();
    }
    let head = folder.tensor(&format!("{}.weight", spec.head.path));
    let embedding = folder.tensor(&format!("{}.weight", spec.embed.path));
    let equal = match (&head, &embedding) {
        (Some(head), Some(embedding)) => {
            let equal = head.shape == embedding.shape && head.bytes() == embedding.bytes();
            head.release(0, head.byte_len());
            embedding.release(0, embedding.byte_len());
            equal
        }
        _ => false,
    };
    let declared =
        folder.decoder_config.as_ref().is_some_and(|config| config.get(spec.head.tie_key).is_some());
    let mut findings = vec![match (spec.head.tied, head.is_some()) {
        (true, false) => Finding::ok(subject, "tied: the embedding"),
        (true, true) if equal => {
            Finding::ok(subject, "tied, and stored once more as a copy of the embedding")
        }
        (true, true) => Finding::problem(subject, "said to be tied, but a different one is stored")
            .hint(spec.head.untie_hint()),
        (false, true) if equal => Finding::note(subject, "untied, yet equal to the embedding: could be tied"),
        (false, true) => Finding::ok(subject, "untied: its own matrix"),
        (false, false) => {
            Finding::problem(subject, format!("untied, but there is no `{}.weight`", spec.head.path))
                .hint(spec.head.tie_hint())
        }
    }];
    if !declared && !spec.head.tied && head.is_some() && spec.head.tie_key == TIE {
        findings.push(Finding::note(
            subject,
            "tie_word_embeddings is absent: read as false; stock mlx-lm reads it as true (mixbit writes it out)",
        ));
    }
    let quantized = folder.names.contains_key(&format!("{}.scales", spec.embed.path));
    if quantized
        && spec.head.tied
        && !spec.head.quantized_tied
        && let Some(config) = &folder.decoder_config
    {
        let name = config.model_type();
        findings.push(Finding::note(
            subject,
            format!("tied to a quantized embedding: stock mlx-lm's {name} multiplies by the packed codes and fails"),
        ));
    }
    findings
}
