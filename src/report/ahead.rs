//! What is left of a job whose stages were estimated before it began, for the bars of its stages.

use std::time::{Duration, Instant};

/// The stages of a job, and where it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ahead {
    stages: Vec<(&'static str, Duration)>,
    /// Which of them runs, and since when.
    current: Option<(usize, Instant)>,
    /// What the finished ones took, and what they were estimated at, in seconds.
    taken: f64,
    estimated: f64,
}

impl Ahead {
    /// A job of these `stages`, in their order, with the time that each is estimated at.
    pub(crate) fn new(stages: Vec<(&'static str, Duration)>) -> Self {
        Self { stages, ..Self::default() }
    }

    /// Stage `name` begins at `now`. One that runs or is over already goes on as a part of the one that runs.
    pub(crate) fn enter(&mut self, name: &str, now: Instant) {
        let first = self.current.map_or(0, |(index, _)| index + 1);
        let Some(ahead) = self.stages.iter().skip(first).position(|(stage, _)| *stage == name) else {
            return;
        };
        if let Some((over, since)) = self.current {
            self.taken += now.duration_since(since).as_secs_f64();
            self.estimated += self.stages[over].1.as_secs_f64();
        }
        self.current = Some((first + ahead, now));
    }

    /// What is left at `now`, where the bar of a part of the stage that runs has `bar` left. Stages that are over say the more
    /// of how far the estimate is off, the larger a part of the job they are. Nothing is known outside the stages.
    pub(crate) fn left(&self, bar: Duration, now: Instant) -> Option<Duration> {
        let (index, since) = self.current?;
        let rest: f64 = self.stages[index..].iter().map(|(_, time)| time.as_secs_f64()).sum();
        let off = ((self.taken + rest) / (self.estimated + rest).max(f64::MIN_POSITIVE)).clamp(0.5, 2.0);
        let stage = self.stages[index].1.mul_f64(off).saturating_sub(now.duration_since(since));
        let later: Duration = self.stages[index + 1..].iter().map(|(_, time)| *time).sum();
        Some(stage.max(bar) + later.mul_f64(off))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_estimate_bars_and_what_was_taken() {
        let seconds = Duration::from_secs;
        let mut ahead = Ahead::new(vec![("a", seconds(10)), ("b", seconds(20)), ("c", seconds(5))]);
        let start = Instant::now();
        assert_eq!(ahead.left(seconds(3), start), None);
        ahead.enter("a", start);
        assert_eq!(ahead.left(Duration::ZERO, start), Some(seconds(35)));
        assert_eq!(ahead.left(Duration::ZERO, start + seconds(4)), Some(seconds(31)));
        // A bar that knows of more.
        assert_eq!(ahead.left(seconds(9), start + seconds(4)), Some(seconds(34)));
        // What runs already, and what is no stage.
        for name in ["a", "other"] {
            ahead.enter(name, start + seconds(5));
            assert_eq!(ahead.left(Duration::ZERO, start + seconds(5)), Some(seconds(30)));
        }
        // Ten seconds more than estimated, of a job of 35: the others will take longer too.
        ahead.enter("b", start + seconds(20));
        let left = ahead.left(Duration::ZERO, start + seconds(20)).unwrap().as_secs_f64();
        assert!((left - 25.0 * 45.0 / 35.0).abs() < 1e-6, "{left}");
        ahead.enter("a", start + seconds(21));
        let left = ahead.left(Duration::ZERO, start + seconds(70)).unwrap().as_secs_f64();
        assert!((left - 5.0 * 45.0 / 35.0).abs() < 1e-6, "{left}");
        ahead.enter("c", start + seconds(80));
        assert_eq!(ahead.left(seconds(1), start + seconds(100)), Some(seconds(1)));
    }
}
