//! Sizes that a plan can reach, and targets held against them.

use super::plan::Plan;
use crate::error::{Error, Result};
use crate::models::source::SourceModel;
use crate::words::{self, UNFIT, count};

/// Hint where every layer has one setting.
const NO_CHOICE: &str = "leave the target out, or leave layers a choice";

impl Plan<'_> {
    /// Returns the least and the most bits per weight.
    pub fn reachable_bpw(&self) -> (f64, f64) {
        let bytes = |pick: fn(u64, u64) -> u64, start: u64| -> u64 {
            let sizes = self
                .layers
                .iter()
                .map(|(spec, options)| options.iter().filter_map(|c| self.bytes(spec, *c)).fold(start, pick));
            sizes.sum()
        };
        (self.bpw(bytes(u64::min, u64::MAX)), self.bpw(bytes(u64::max, 0)))
    }

    /// Returns the bits per weight for the layers decided on when all tensors may take `size` bytes.
    pub fn bpw_of_model_size(&self, source: &SourceModel, size: u64) -> Result<f64> {
        let rest = self.rest_bytes(source);
        let (least, most) = self.reachable_bpw();
        let bytes = |bpw: f64| rest + (bpw * self.weights() as f64 / 8.0).ceil() as u64;
        if (bytes(least)..=bytes(most)).contains(&size) {
            return Ok(self.bpw(size - rest).min(most));
        }
        let (least, most) = (bytes(least), bytes(most));
        let [wanted, from, to] = words::compared_bytes([size, least, most]);
        if self.is_fixed() {
            let message = format!(
                "a size of {wanted} cannot be reached: every layer has one setting, and the model has {to}"
            );
            return Err(Error::usage(message).hint(NO_CHOICE));
        }
        let nearest = size_within(if size < least { least } else { most }, least, most);
        let message = format!("a size of {wanted} cannot be reached: this model goes from {from} to {to}");
        Err(Error::usage(message)
            .hint(format!("the nearest is setting `target_size` {nearest}{}", self.unfit_hint())))
    }

    /// Fails unless `target` bits per weight can be kept to.
    pub fn check_target(&self, target: f64) -> Result<()> {
        let (least, most) = self.reachable_bpw();
        if target.is_finite() && (least..=most).contains(&target) {
            return Ok(());
        }
        if self.is_fixed() {
            return Err(Error::usage(format!(
                "a target of {target} bpw cannot be reached: every layer has one setting, and together they have {least:.4} bpw"
            ))
            .hint(NO_CHOICE));
        }
        if !target.is_finite() {
            return Err(Error::usage(format!("a target of {target} bpw is no number of bits"))
                .hint(format!("this model goes from {least:.3} to {most:.3}")));
        }
        let nearest = if target < least { least } else { most };
        Err(Error::usage(format!(
            "a target of {target} bpw cannot be reached: this model goes from {least:.3} to {most:.3}"
        ))
        .hint(format!(
            "the nearest is setting `target_bpw` {}{}",
            round_towards(nearest, least, most),
            self.unfit_hint()
        )))
    }

    /// Says which layers raise what is reachable because no candidate fits them; empty where there are none.
    fn unfit_hint(&self) -> String {
        let Some(first) = self.unfit.first() else { return String::new() };
        let layers = count(self.unfit.len(), "layer");
        format!("; left float: {layers} {UNFIT}, `{first}` first; choose candidates with smaller groups")
    }
}

/// Rounds `nearest` to three digits, towards the inside of the range.
fn round_towards(nearest: f64, least: f64, most: f64) -> f64 {
    let up = (nearest * 1e3).ceil() / 1e3;
    let down = (nearest * 1e3).floor() / 1e3;
    if (least..=most).contains(&up) { up } else { down }
}

/// Formats `nearest` bytes with a unit, in three decimals, rounded so that it lies between `least` and `most`.
fn size_within(nearest: u64, least: u64, most: u64) -> String {
    let (unit, name) = match nearest {
        0..1_000_000 => (1_000, "KB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        _ => (1_000_000_000, "GB"),
    };
    let step = unit / 1_000;
    let (up, down) = (nearest.next_multiple_of(step), nearest - nearest % step);
    let rounded = if (least..=most).contains(&up) { up } else { down.max(least) };
    format!("{}{name}", rounded as f64 / unit as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_into_the_range() {
        assert_eq!(size_within(476_404, 476_404, 1_771_776), "476.404KB");
        assert_eq!(size_within(1_771_776, 476_404, 1_771_776), "1.771MB");
        assert_eq!(size_within(5_000_000_001, 5_000_000_001, 9_000_000_000), "5.001GB");
    }
}
