//! Linear and logarithmic axes: from values to pixels, with ticks and labels.

use serde::Serialize;

/// Rounds a position to a tenth of a pixel: smaller files, and the same on every machine.
pub fn place(pixels: f64) -> f64 {
    (pixels * 10.0).round() / 10.0
}

/// Labelled position on an axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tick {
    /// Position in pixels.
    pub at: f64,
    /// Label; empty for a line alone.
    pub label: String,
}

/// Axis that runs from one pixel to another. For `y`, which runs upwards, `from` is the greater.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    from: f64,
    to: f64,
}

impl Axis {
    /// Makes a linear axis over a range of values. Neither end is moved, but an empty range is widened.
    pub fn linear((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, logarithmic: false, from, to }
    }

    /// Makes a logarithmic axis over a range of positive values, widened to whole powers of ten.
    pub fn decades((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let low = low.max(f64::MIN_POSITIVE).log10().floor();
        let high = high.max(f64::MIN_POSITIVE).log10().ceil().max(low + 1.0);
        Self { low, high, logarithmic: true, from, to }
    }

    /// Returns the pixel of `value`; values outside the range are put at its edge.
    pub fn at(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value }
            .clamp(self.low, self.high);
        place(self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from))
    }

    /// Returns about `most` labelled ticks: powers of ten, or multiples of 1, 2 or 5.
    pub fn ticks(&self, most: usize) -> Vec<Tick> {
        let step = self.step(most);
        let first = (self.low / step - 1e-9).ceil();
        let count = ((self.high / step + 1e-9).floor() - first).max(0.0) as usize;
        let tick = |value: f64| {
            if self.logarithmic {
                Tick { at: self.at(10f64.powf(value)), label: power_of_ten(value as i32) }
            } else {
                Tick { at: self.at(value), label: decimal(value, step) }
            }
        };
        (0..=count).map(|n| tick((first + n as f64) * step)).collect()
    }

    /// Returns about `most` labelled ticks at whole numbers.
    pub fn whole_ticks(&self, most: usize) -> Vec<Tick> {
        let step = self.step(most).max(1.0);
        let count = ((self.high / step).floor() - (self.low / step).ceil()).max(0.0) as usize;
        let values = (0..=count).map(|n| ((self.low / step).ceil() + n as f64) * step);
        values.map(|value| Tick { at: self.at(value), label: decimal(value, step) }).collect()
    }

    fn step(&self, most: usize) -> f64 {
        let rough = (self.high - self.low) / most.max(1) as f64;
        let magnitude = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * magnitude).find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(magnitude * 10.0);
        if self.logarithmic { step.max(1.0).round() } else { step }
    }
}

/// Returns the least and the greatest of values that are not negative.
pub fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(low, high), value| (low.min(value), high.max(value)))
}

/// Formats a power of ten as `10⁻³`.
pub fn power_of_ten(exponent: i32) -> String {
    let superscript = |c| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32('⁰' as u32 + digit as u32 - '0' as u32).unwrap_or(digit),
    };
    format!("10{}", exponent.to_string().chars().map(superscript).collect::<String>())
}

fn decimal(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).max(0.0) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    fn labels(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn decades_are_whole() {
        let axis = Axis::decades((2e-6, 0.04), (100.0, 0.0));
        assert_eq!((axis.at(1e-6), axis.at(0.1), axis.at(1e-3)), (100.0, 0.0, 40.0));
        assert_eq!(labels(&axis.ticks(5)), ["10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹"]);
        assert_eq!(labels(&axis.ticks(3)), ["10⁻⁶", "10⁻⁴", "10⁻²"]);
        assert_eq!(power_of_ten(-10), "10⁻¹⁰");
    }

    #[test]
    fn linear_ticks_are_round_numbers() {
        let axis = Axis::linear((2.25, 8.75), (0.0, 650.0));
        assert_eq!(labels(&axis.ticks(7)), ["3", "4", "5", "6", "7", "8"]);
        assert_eq!(axis.ticks(7)[0].at, 75.0);
        assert_eq!(labels(&Axis::linear((0.0, 0.31), (0.0, 1.0)).ticks(4)), ["0.0", "0.1", "0.2", "0.3"]);
        assert_eq!(
            labels(&Axis::linear((0.0, 43.0), (0.0, 1.0)).whole_ticks(5)),
            ["0", "10", "20", "30", "40"]
        );
        assert_eq!(labels(&Axis::linear((0.0, 2.0), (0.0, 1.0)).whole_ticks(6)), ["0", "1", "2"]);
    }

    #[test]
    fn nothing_leaves_the_paper() {
        for axis in [
            Axis::linear((1.0, 1.0), (0.0, 10.0)),
            Axis::decades((0.0, 0.0), (0.0, 10.0)),
            Axis::decades((1e-3, 1e-3), (0.0, 10.0)),
        ] {
            for value in [0.0, -1.0, 1.0, 1e300, f64::INFINITY] {
                assert!((0.0..=10.0).contains(&axis.at(value)), "{axis:?} {value}");
            }
            assert!(axis.ticks(5).iter().all(|tick| tick.at.is_finite()));
        }
    }
}
