//! Remaining time of a job whose stages were estimated before it began, for the bars of its stages.

use std::time::{Duration, Instant};

/// Stages of a job, and the one that runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct RemainingTime {
    stages: Vec<(&'static str, Duration)>,
    /// Index of the stage that runs, and its start.
    current: Option<(usize, Instant)>,
    /// Seconds that the finished stages took.
    taken: f64,
    /// Seconds that the finished stages were estimated at.
    estimated: f64,
}

impl RemainingTime {
    /// Makes the remaining time of a job of these `stages`, in their order, with the estimate of each.
    pub(crate) fn new(stages: Vec<(&'static str, Duration)>) -> Self {
        Self { stages, ..Self::default() }
    }

    /// Begins stage `name` at `now`. A stage that already runs, or is over, counts as a part of the one that runs.
    pub(crate) fn enter(&mut self, name: &str, now: Instant) {
        let first = self.current.map_or(0, |(index, _)| index + 1);
        let Some(skipped) = self.stages.iter().skip(first).position(|(stage, _)| *stage == name) else {
            return;
        };
        if let Some((over, since)) = self.current {
            self.taken += now.duration_since(since).as_secs_f64();
            self.estimated += self.stages[over].1.as_secs_f64();
        }
        self.current = Some((first + skipped, now));
    }

    /// Returns the remaining time at `now`, where the bar of a part of the running stage says that `bar` remains.
    /// Finished stages correct the estimate of the others, the more so the larger a part of the job they are. `None`
    /// outside the stages.
    pub(crate) fn at(&self, bar: Duration, now: Instant) -> Option<Duration> {
        let (index, since) = self.current?;
        let rest: f64 = self.stages[index..].iter().map(|(_, time)| time.as_secs_f64()).sum();
        let estimate = (self.estimated + rest).max(f64::MIN_POSITIVE);
        let correction = ((self.taken + rest) / estimate).clamp(0.5, 2.0);
        let stage = self.stages[index].1.mul_f64(correction).saturating_sub(now.duration_since(since));
        let later: Duration = self.stages[index + 1..].iter().map(|(_, time)| *time).sum();
        Some(stage.max(bar) + later.mul_f64(correction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_time_follows_estimate_and_bars() {
        let seconds = Duration::from_secs;
        let mut remaining =
            RemainingTime::new(vec![("a", seconds(10)), ("b", seconds(20)), ("c", seconds(5))]);
        let start = Instant::now();
        assert_eq!(remaining.at(seconds(3), start), None);
        remaining.enter("a", start);
        assert_eq!(remaining.at(Duration::ZERO, start), Some(seconds(35)));
        assert_eq!(remaining.at(Duration::ZERO, start + seconds(4)), Some(seconds(31)));
        // A bar that knows of more.
        assert_eq!(remaining.at(seconds(9), start + seconds(4)), Some(seconds(34)));
        // A stage that runs already, and a name of no stage.
        for name in ["a", "other"] {
            remaining.enter(name, start + seconds(5));
            assert_eq!(remaining.at(Duration::ZERO, start + seconds(5)), Some(seconds(30)));
        }
        // Ten seconds more than estimated, of a job of 35: the others will take longer too.
        remaining.enter("b", start + seconds(20));
        let time = remaining.at(Duration::ZERO, start + seconds(20)).unwrap().as_secs_f64();
        assert!((time - 25.0 * 45.0 / 35.0).abs() < 1e-6, "{time}");
        remaining.enter("a", start + seconds(21));
        let time = remaining.at(Duration::ZERO, start + seconds(70)).unwrap().as_secs_f64();
        assert!((time - 5.0 * 45.0 / 35.0).abs() < 1e-6, "{time}");
        remaining.enter("c", start + seconds(80));
        assert_eq!(remaining.at(seconds(1), start + seconds(100)), Some(seconds(1)));
    }
}
