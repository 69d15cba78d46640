//! Selection of a rule's blocks, for a decoder of any depth: `0`, `-1`, `"0..4"`, `"7/8.."`, `"1/8+2.. step 3"`.
//!
//! A bound is a block number, a number from the end (`-1` is the last block), or a fraction of the depth, rounded down;
//! each may be followed by `+n` or `-n`. The end of a range is outside it.

use std::str::FromStr;

/// A place in a stack of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    base: Base,
    offset: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Start,
    End,
    /// Numerator and denominator of a part of the depth.
    Fraction(u32, u32),
}

impl Bound {
    const START: Self = Self { base: Base::Start, offset: 0 };
    const END: Self = Self { base: Base::End, offset: 0 };

    fn at(self, depth: usize) -> i64 {
        let depth = depth as i64;
        let base = match self.base {
            Base::Start => 0,
            Base::End => depth,
            Base::Fraction(a, b) => depth * i64::from(a) / i64::from(b),
        };
        base.saturating_add(self.offset)
    }

    /// True if this is a number, which a decoder may be too shallow for; fractions adapt themselves.
    fn is_number(self) -> bool {
        !matches!(self.base, Base::Fraction(..))
    }
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let malformed = || format!("`{text}` is no block number and no fraction of the depth");
        let number = |text: &str| text.parse::<u32>().map_err(|_| malformed());
        if let Some(from_end) = text.strip_prefix('-') {
            return Ok(Self { base: Base::End, offset: -i64::from(number(from_end)?) });
        }
        let Some((numerator, rest)) = text.split_once('/') else {
            return Ok(Self { base: Base::Start, offset: number(text)?.into() });
        };
        let (denominator, offset) = match rest.find(['+', '-']) {
            None => (rest, 0),
            Some(at) => {
                let (denominator, signed) = rest.split_at(at);
                let size = i64::from(number(signed.get(1..).unwrap_or_default())?);
                (denominator, if signed.starts_with('-') { -size } else { size })
            }
        };
        let (a, b) = (number(numerator)?, number(denominator)?);
        if b == 0 || a > b {
            return Err(format!("`{text}` is no part of the depth: a fraction goes from 0/1 to 1/1"));
        }
        Ok(Self { base: Base::Fraction(a, b), offset })
    }
}

/// Some blocks: from `start` to before `end`, every `step`-th.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    start: Bound,
    /// `None` for a single block.
    end: Option<Bound>,
    step: u32,
}

impl Blocks {
    /// Selects the block with this number; from the end if negative.
    pub fn single(number: i64) -> Self {
        let base = if number < 0 { Base::End } else { Base::Start };
        Self { start: Bound { base, offset: number }, end: None, step: 1 }
    }

    /// True if `block` is selected in a decoder of `depth` blocks.
    pub fn contains(self, block: usize, depth: usize) -> bool {
        let block = block as i64;
        let start = self.start.at(depth);
        let Some(end) = self.end else { return block == start };
        block >= start && block < end.at(depth) && (block - start) % i64::from(self.step) == 0
    }

    /// True if all numbers exist in a decoder of `depth` blocks.
    pub fn fits(self, depth: usize) -> bool {
        let inside = |bound: Bound, most: i64| !bound.is_number() || (0..=most).contains(&bound.at(depth));
        let last = depth as i64;
        match self.end {
            Some(end) => inside(self.start, last) && inside(end, last),
            None => inside(self.start, last - 1),
        }
    }
}

impl FromStr for Blocks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (range, step) = match text.split_once(" step ") {
            None => (text, 1),
            Some((range, step)) => match step.trim().parse::<u32>() {
                Ok(step) if step > 0 => (range, step),
                _ => return Err(format!("a step of `{}` is no whole number above 0", step.trim())),
            },
        };
        let Some((start, end)) = range.split_once("..") else {
            if step != 1 {
                return Err(format!("`{text}` has a step but is no range such as 0..8"));
            }
            return Ok(Self { start: range.parse()?, end: None, step });
        };
        let bound = |text: &str, open: Bound| if text.trim().is_empty() { Ok(open) } else { text.parse() };
        let (start, end) = (bound(start, Bound::START)?, bound(end, Bound::END)?);
        if start.base == end.base && start.offset >= end.offset {
            return Err(format!("`{text}` is empty: the end of a range is outside it"));
        }
        Ok(Self { start, end: Some(end), step })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn list(text: &str, depth: usize) -> Vec<usize> {
        let blocks: Blocks = text.parse().unwrap();
        (0..depth).filter(|&block| blocks.contains(block, depth)).collect()
    }

    #[test]
    fn ranges_adapt_to_the_depth() {
        assert_eq!(list("0..3", 8), [0, 1, 2]);
        assert_eq!(list("-2..", 8), [6, 7]);
        assert_eq!(list("-1", 8), [7]);
        assert_eq!(list("..1/8", 22), [0, 1]);
        assert_eq!(list("7/8..", 22), [19, 20, 21]);
        assert_eq!(list("1/8+2..7/8 step 3", 22), [4, 7, 10, 13, 16]);
        assert_eq!(list("1/2-1", 8), [3]);
        assert!(list("..1/8", 7).is_empty() && list("1/8+2..", 1).is_empty());
        assert_eq!(list(" .. step 2", 5), [0, 2, 4]);
    }

    #[test]
    fn numbers_must_exist_and_fractions_always_do() {
        let fits = |text: &str| text.parse::<Blocks>().unwrap().fits(8);
        assert!(fits("7") && fits("-8") && fits("0..8") && fits("1/8+9..") && fits(".."));
        assert!(!fits("8") && !fits("-9") && !fits("0..9") && !fits("-9.."));
        assert!(Blocks::single(-1).contains(7, 8) && Blocks::single(3).contains(3, 8));
    }

    #[test]
    fn malformed() {
        for text in
            ["", "x", "1/0", "9/8", "1..2..3", "0..4 step 0", "3 step 2", "4..4", "-1..-2", "1/8*2", "--1"]
        {
            assert!(text.parse::<Blocks>().is_err(), "{text}");
        }
    }
}
