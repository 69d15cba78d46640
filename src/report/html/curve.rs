//! Chart of size against predicted KL divergence: what mixed bits can reach, what uniform bits would give, and where
//! the model is.

use serde::Serialize;
use std::collections::BTreeMap;

use super::axis::{Axis, Tick, extremes, place};
use super::frame::Frame;
use super::page::Page;
use super::template::{kl, kl_plus_minus};
use crate::choose::allocate::CurvePoint;
use crate::choose::candidate::Candidate;
use crate::choose::correction::Correction;
use crate::choose::scores::LayerSensitivity;
use crate::error::{Error, Result};
use crate::jobs::record::Record;
use crate::numerics::quant::Quant;
use crate::numerics::rounding::Technique;
use crate::words::bytes;

/// Uniform bits that are shown, in groups of 64: the sizes that `mlx_lm.convert -q` gives the linear layers.
const UNIFORM_BITS: [u32; 5] = [3, 4, 5, 6, 8];
/// Bits per weight that are shown beyond the greatest uniform or chosen size; further points only make layers float.
const SHOWN_BEYOND_BPW: f64 = 0.25;

/// Charts of size against KL divergence, and their table.
#[derive(Debug, Serialize)]
pub struct Curve {
    charts: Vec<Chart>,
    gain: Option<String>,
    rows: Vec<Row>,
}

/// Drawing of size against KL divergence.
#[derive(Debug, Serialize)]
pub struct Chart {
    #[serde(flatten)]
    frame: Frame,
    /// Bytes of the linear layers at each tick of x.
    sizes: Vec<Tick>,
    line: String,
    uniform: Vec<Mark>,
    model: Option<Model>,
    legend: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Mark {
    x: f64,
    y: f64,
    label: String,
    title: String,
}

/// Marks of the model's own size and divergence.
#[derive(Debug, Serialize)]
struct Model {
    x: f64,
    label: String,
    predicted: Option<Mark>,
    measured: Option<Mark>,
    /// Pixels of the measured divergence minus and plus one standard error.
    error: Option<(f64, f64)>,
}

#[derive(Debug, Serialize)]
struct Entry {
    kind: &'static str,
    text: String,
    x: f64,
    y: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    what: String,
    bpw: f64,
    bytes: u64,
    kl: f64,
}

/// Size and divergence of the model.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    bpw: f64,
    bytes: u64,
    predicted: Option<f64>,
    /// Words after "this model" at its prediction: " as rounded" where the model was fine-tuned later, else none.
    state: &'static str,
    /// Measured mean and its standard error, in nats per token.
    measured: Option<(f64, f64)>,
}

/// Points that are drawn, whatever the size of the drawing.
struct Points<'a> {
    curve: Vec<&'a CurvePoint>,
    uniform: Vec<(u32, CurvePoint)>,
    chosen: Option<Chosen>,
    /// Rounding that is predicted.
    rounding: Technique,
}

/// Predicts size and KL divergence of uniform bits in groups of 64, by bits. As in mlx-lm, a layer whose rows are not
/// divisible by 64 stays float. Bits that a layer was not measured at are left out.
pub fn uniform_points(
    layers: &[LayerSensitivity],
    scale_bytes: usize,
    correction: &Correction,
) -> Vec<(u32, CurvePoint)> {
    let weights: usize = layers.iter().map(|layer| layer.rows * layer.columns).sum();
    let point = |bits: u32| {
        let (mut bytes, mut kl) = (0, 0.0);
        for layer in layers {
            let quant = Quant::affine(bits, 64);
            let candidate =
                if quant.groups(layer.columns).is_some() { quant.into() } else { Candidate::Keep };
            bytes += candidate.bytes(layer.rows, layer.columns, scale_bytes)?;
            if candidate != Candidate::Keep {
                kl += layer.scores.iter().find(|score| score.quant == quant)?.kl;
            }
        }
        let bpw = bytes as f64 * 8.0 / weights as f64;
        (kl > 0.0).then_some((bits, CurvePoint { bpw, bytes, kl: correction.whole(kl) }))
    };
    UNIFORM_BITS.into_iter().filter_map(point).collect()
}

/// Computes the charts of a page; `None` without a curve that can be drawn.
pub fn section(page: &Page<'_>) -> Option<Curve> {
    let record = page.record?;
    let scale_bytes = record.measurement.as_ref()?.dtype.bytes();
    let uniform = uniform_points(&record.sensitivities, scale_bytes, &record.correction);
    let rounding = record.predicted_rounding()?;
    let points = Points::new(&record.curve, uniform, chosen(page, record), rounding)?;
    Some(Curve {
        gain: gain(&points),
        rows: rows(&points),
        charts: vec![points.chart("wide", 940.0, 420.0), points.chart("narrow", 350.0, 400.0)],
    })
}

/// Draws the chart of a sensitivity table without a model.
pub fn alone(
    points: &[CurvePoint],
    layers: &[LayerSensitivity],
    scale_bytes: usize,
    correction: &Correction,
    rounding: Technique,
) -> Result<Chart> {
    let uniform = uniform_points(layers, scale_bytes, correction);
    let points = Points::new(points, uniform, None, rounding).ok_or_else(|| {
        Error::input("the table predicts no KL divergence above zero, so there is no curve to draw")
            .hint("measure it with setting `method` fisher")
    })?;
    Ok(points.chart("alone", 820.0, 420.0))
}

/// Returns the model's point, over the layers that were measured.
fn chosen(page: &Page<'_>, record: &Record) -> Option<Chosen> {
    let stored: BTreeMap<&str, u64> =
        page.inventory.layers.iter().map(|layer| (layer.path.as_str(), layer.bytes)).collect();
    let (mut bytes, mut weights) = (0, 0);
    for layer in &record.sensitivities {
        bytes += stored.get(layer.path.as_str())?;
        weights += layer.rows * layer.columns;
    }
    let divergence = page.evaluation().and_then(|evaluation| evaluation.summary.divergence.as_ref());
    Some(Chosen {
        bpw: bytes as f64 * 8.0 / weights as f64,
        bytes,
        predicted: record.predicted_kl.filter(|kl| *kl > 0.0),
        state: if record.is_fine_tuned() { " as rounded" } else { "" },
        measured: divergence.map(|d| (d.kl_mean, d.kl_stderr)).filter(|(kl, _)| *kl > 0.0),
    })
}

impl<'a> Points<'a> {
    fn new(
        curve: &'a [CurvePoint],
        uniform: Vec<(u32, CurvePoint)>,
        chosen: Option<Chosen>,
        rounding: Technique,
    ) -> Option<Self> {
        let chosen = chosen.filter(|chosen| chosen.bpw.is_finite());
        let last = uniform.last().map_or(0.0, |(_, point)| point.bpw).max(chosen.map_or(0.0, |c| c.bpw));
        let drawn = |point: &&CurvePoint| {
            let inside = last == 0.0 || point.bpw <= last + SHOWN_BEYOND_BPW;
            inside && point.kl > 0.0 && point.kl.is_finite() && point.bpw.is_finite() && point.bpw > 0.0
        };
        let curve: Vec<_> = curve.iter().filter(drawn).collect();
        (curve.len() > 1).then_some(Self { curve, uniform, chosen, rounding })
    }

    fn chart(&self, variant: &'static str, width: f64, height: f64) -> Chart {
        let entries = self.legend();
        let narrow = variant == "narrow";
        let above = if narrow { 18.0 * entries.len() as f64 + 38.0 } else { 26.0 };
        let (left, right) = (52.0, width - if narrow { 30.0 } else { 16.0 });
        let (top, bottom) = (above, height - 62.0);
        let (low, high) = extremes(self.bpws());
        let x = Axis::linear((low - 0.1, high + 0.1), (left, right));
        let y = Axis::decades(extremes(self.divergences()), (bottom, top));
        let legend_at = if narrow { (left - 36.0, 12.0) } else { (right - 330.0, top + 18.0) };
        let x_ticks = x.ticks(if narrow { 7 } else { 10 });
        Chart {
            sizes: self.sizes(x_ticks.iter().step_by(if narrow { 2 } else { 1 })),
            frame: Frame {
                id: "curve".to_owned(),
                variant,
                title: "Size against predicted KL divergence".to_owned(),
                description: self.description(variant != "alone"),
                width,
                height,
                left,
                right,
                top,
                bottom,
                x_ticks,
                y_ticks: y.ticks(8),
                x_label: "bits per weight of the linear layers, and their bytes",
                y_label: "KL, nats per token",
            },
            line: path(self.curve.iter().map(|p| (x.at(p.bpw), y.at(p.kl)))),
            uniform: self.uniform.iter().map(|(bits, p)| uniform_mark(*bits, p, &x, &y)).collect(),
            model: self.chosen.map(|chosen| model(&chosen, &x, &y)),
            legend: entries
                .into_iter()
                .enumerate()
                .map(|(n, (kind, text))| Entry {
                    kind,
                    text,
                    x: legend_at.0,
                    y: legend_at.1 + 18.0 * n as f64,
                })
                .collect(),
        }
    }

    /// Returns all predicted points.
    fn predictions(&self) -> impl Iterator<Item = &CurvePoint> {
        self.curve.iter().copied().chain(self.uniform.iter().map(|(_, point)| point))
    }

    /// Returns the bits per weight of everything that is drawn.
    fn bpws(&self) -> impl Iterator<Item = f64> {
        self.predictions().map(|point| point.bpw).chain(self.chosen.map(|chosen| chosen.bpw))
    }

    /// Returns the KL divergences of everything that is drawn.
    fn divergences(&self) -> impl Iterator<Item = f64> {
        let measured = self.chosen.and_then(|chosen| chosen.measured).map(|(kl, _)| kl);
        let predicted = self.chosen.and_then(|chosen| chosen.predicted);
        self.predictions().map(|point| point.kl).chain(measured).chain(predicted)
    }

    fn legend(&self) -> Vec<(&'static str, String)> {
        let mut entries = vec![("line", format!("mixed bits, predicted for {}", self.rounding))];
        if !self.uniform.is_empty() {
            entries.push(("uniform", "uniform bits in groups of 64, predicted".to_owned()));
        }
        if let Some(chosen) = self.chosen {
            let predicted = chosen
                .predicted
                .map(|value| ("predicted", format!("this model{}, predicted: {}", chosen.state, kl(value))));
            let measured = chosen.measured.map(|(value, error)| {
                ("measured", format!("this model, measured: {}", kl_plus_minus(value, error)))
            });
            entries.extend(predicted.into_iter().chain(measured));
        }
        entries
    }

    /// Returns the bytes of the linear layers at ticks of bits per weight.
    fn sizes<'t>(&self, ticks: impl Iterator<Item = &'t Tick>) -> Vec<Tick> {
        let per_bit = self.curve.last().map_or(0.0, |point| point.bytes as f64 / point.bpw);
        let sizes = ticks.map(|tick| {
            let size = tick.label.parse::<f64>().map_or(0.0, |bpw| bpw * per_bit);
            Tick { at: tick.at, label: bytes(size as u64) }
        });
        sizes.collect()
    }

    /// Describes the chart in words; a page has a `table` as well.
    fn description(&self, table: bool) -> String {
        let ends = match self.curve[..] {
            [first, .., last] => format!(
                "From {} at {:.2} bits per weight the predicted KL divergence falls to {} at {:.2}.",
                kl(first.kl),
                first.bpw,
                kl(last.kl),
                last.bpw
            ),
            _ => String::new(),
        };
        let chosen = self.chosen.map_or_else(String::new, |c| format!(" This model has {:.3}.", c.bpw));
        let table = if table { " The table below holds all points." } else { "" };
        format!("{ends}{chosen}{table}")
    }
}

fn uniform_mark(bits: u32, point: &CurvePoint, x: &Axis, y: &Axis) -> Mark {
    let title = format!(
        "uniform {bits}-bit: {:.3} bits per weight, {}, predicted KL {}",
        point.bpw,
        bytes(point.bytes),
        kl(point.kl)
    );
    Mark { x: x.at(point.bpw), y: y.at(point.kl), label: format!("{bits}-bit"), title }
}

fn model(chosen: &Chosen, x: &Axis, y: &Axis) -> Model {
    let at = x.at(chosen.bpw);
    let mark = |state: &str, kind: &str, value: f64| Mark {
        x: at,
        y: y.at(value),
        label: String::new(),
        title: format!("this model{state}: {:.3} bits per weight, {kind} KL {}", chosen.bpw, kl(value)),
    };
    Model {
        x: at,
        label: format!("this model: {:.2}", chosen.bpw),
        predicted: chosen.predicted.map(|value| mark(chosen.state, "predicted", value)),
        measured: chosen.measured.map(|(value, _)| mark("", "measured", value)),
        error: chosen.measured.map(|(value, error)| (y.at(value - error), y.at(value + error))),
    }
}

/// Returns the SVG path of a line through `points`.
pub fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let parts = points
        .enumerate()
        .map(|(n, (x, y))| format!("{}{} {}", if n == 0 { "M" } else { "L" }, place(x), place(y)));
    parts.collect()
}

/// Compares the allocation, in a sentence, with uniform bits of the nearest size at or below the model's.
fn gain(points: &Points<'_>) -> Option<String> {
    let most = points.chosen.map_or(f64::INFINITY, |chosen| chosen.bpw + 1e-9);
    let (bits, uniform) = points.uniform.iter().rfind(|(_, point)| point.bpw <= most)?;
    let after = points.curve.iter().position(|point| point.bpw >= uniform.bpw)?;
    let (before, after) = (points.curve.get(after.checked_sub(1)?)?, points.curve.get(after)?);
    let part = (uniform.bpw - before.bpw) / (after.bpw - before.bpw);
    let mixed = (before.kl.ln() + part * (after.kl.ln() - before.kl.ln())).exp();
    Some(format!(
        "At the size of uniform {bits}-bit layers ({:.2} bits per weight) mixed bits are predicted to cost {}, uniform \
         ones {}: {:.1} times as much.",
        uniform.bpw,
        kl(mixed),
        kl(uniform.kl),
        uniform.kl / mixed
    ))
}

fn rows(points: &Points<'_>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut row = |what: String, bpw, bytes, kl| rows.push(Row { what, bpw, bytes, kl });
    if let Some(chosen) = points.chosen {
        let mut own = |state: &str, what: &str, value| {
            row(format!("this model{state}, {what}"), chosen.bpw, chosen.bytes, value);
        };
        chosen.predicted.iter().for_each(|value| own(chosen.state, "predicted", *value));
        chosen.measured.iter().for_each(|(value, _)| own("", "measured", *value));
    }
    for (bits, point) in &points.uniform {
        row(format!("uniform {bits}-bit, predicted"), point.bpw, point.bytes, point.kl);
    }
    for point in &points.curve {
        row(format!("mixed bits, predicted for {}", points.rounding), point.bpw, point.bytes, point.kl);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choose::scores::Score;

    fn layer(columns: usize, costs: &[(u32, f64)]) -> LayerSensitivity {
        let score = |(bits, kl): &(u32, f64)| Score { quant: Quant::affine(*bits, 64), kl: *kl, stderr: 0.0 };
        LayerSensitivity {
            path: format!("layer.{columns}"),
            rows: 2,
            columns,
            scores: costs.iter().map(score).collect(),
        }
    }

    #[test]
    fn uniform_points_are_sums() {
        let layers = [layer(64, &[(3, 0.5), (4, 0.2)]), layer(128, &[(4, 0.1)]), layer(50, &[])];
        let points = uniform_points(&layers, 2, &Correction::default());
        assert_eq!(points.iter().map(|(bits, _)| *bits).collect::<Vec<_>>(), [4], "3 bits lack a layer");
        let point = points[0].1;
        assert_eq!(point.bytes, 2 * (36 + 72 + 100));
        assert!((point.kl - 0.3).abs() < 1e-12);
        assert!((point.bpw - point.bytes as f64 * 8.0 / 484.0).abs() < 1e-12);
    }

    #[test]
    fn a_table_of_zeros_has_no_curve() {
        let point = |bpw: f64, kl: f64| CurvePoint { bpw, bytes: 1, kl };
        let drawn = |points: &[CurvePoint]| alone(points, &[], 2, &Correction::default(), Technique::Gptq);
        assert!(drawn(&[point(2.0, 0.0), point(4.0, 0.0)]).is_err());
        assert!(drawn(&[point(2.0, 0.2), point(4.0, -0.1)]).is_err());
        assert!(drawn(&[point(2.0, 0.2), point(4.0, 0.1)]).is_ok());
    }
}
