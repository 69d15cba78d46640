//! Remaining time of a job whose steps were estimated before it began, for the bars of its steps.

use std::time::{Duration, Instant};

use crate::progress::StageEstimate;

/// Steps of a job, and the one that runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct RemainingTime {
    steps: Vec<Step>,
    current: Option<Current>,
    /// Seconds that the finished steps took.
    taken: f64,
    /// Seconds that the finished steps were estimated at.
    estimated: f64,
}

#[derive(Debug, Clone)]
struct Step {
    stage: &'static str,
    bar: &'static str,
    seconds: f64,
}

/// Step that runs.
#[derive(Debug, Clone)]
struct Current {
    index: usize,
    since: Instant,
    bar: BarOfStep,
}

/// Bar of the step that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BarOfStep {
    Expected,
    Running,
    /// Another bar of that name follows, for which there is no estimate.
    Finished,
}

/// State of a bar.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BarState<'a> {
    /// Words before the bar at its start.
    pub(crate) name: &'a str,
    /// Time since the bar's start.
    pub(crate) elapsed: Duration,
    /// Share of the bar's work that is done, 0 to 1.
    pub(crate) fraction: f64,
}

impl BarState<'_> {
    /// Returns the seconds that all of the bar's work takes at the rate so far; `None` before its first block or step.
    fn total_seconds(self) -> Option<f64> {
        (self.fraction > 0.0).then(|| self.elapsed.as_secs_f64() / self.fraction.min(1.0))
    }
}

impl RemainingTime {
    /// Makes the remaining time of a job of these `stages`, in their order.
    pub(crate) fn new(stages: &[StageEstimate]) -> Self {
        let steps = stages.iter().flat_map(|stage| {
            stage.steps.iter().map(|step| Step {
                stage: stage.name,
                bar: step.bar,
                seconds: step.time.as_secs_f64(),
            })
        });
        Self { steps: steps.collect(), ..Self::default() }
    }

    /// Begins stage `name` at `now`. A stage that already runs, or is over, counts as a part of the one that runs.
    pub(crate) fn enter_stage(&mut self, name: &str, now: Instant) {
        if self.current.as_ref().is_some_and(|current| self.steps[current.index].stage == name) {
            return;
        }
        let first = self.current.as_ref().map_or(0, |current| current.index + 1);
        let Some(skipped) = self.steps.iter().skip(first).position(|step| step.stage == name) else {
            return;
        };
        self.enter_step(first + skipped, BarOfStep::Expected, now);
    }

    /// Begins the bar `name` at `now`, and with it the step of the running stage that has a bar of this name.
    pub(crate) fn enter_bar(&mut self, name: &str, now: Instant) {
        let Some(current) = &mut self.current else { return };
        let running = &self.steps[current.index];
        if running.bar == name && current.bar == BarOfStep::Expected {
            current.bar = BarOfStep::Running;
            return;
        }
        let later = self.steps.iter().enumerate().skip(current.index + 1);
        let mut later = later.take_while(|(_, step)| step.stage == running.stage);
        let next = later.find(|(_, step)| step.bar == name).map(|(index, _)| index);
        match next {
            Some(index) => self.enter_step(index, BarOfStep::Running, now),
            None if running.bar == name => current.bar = BarOfStep::Finished,
            None => {}
        }
    }

    /// Begins the step at `index`. The one before counts as measured where its bar ran.
    fn enter_step(&mut self, index: usize, bar: BarOfStep, now: Instant) {
        let current = Current { index, since: now, bar };
        if let Some(over) = self.current.replace(current).filter(|over| over.bar != BarOfStep::Expected) {
            self.taken += now.duration_since(over.since).as_secs_f64();
            self.estimated += self.steps[over.index].seconds;
        }
    }

    /// Returns the remaining time at `now`, where `bar` is drawn. What the first block or step of the running step's own
    /// bar took replaces the step's estimate, and the ratio of measured to estimated time of the steps so far scales the
    /// estimates of those that follow. `None` outside the stages.
    pub(crate) fn at(&self, bar: Option<BarState<'_>>, now: Instant) -> Option<Duration> {
        let current = self.current.as_ref()?;
        let step = &self.steps[current.index];
        let passed = now.duration_since(current.since).as_secs_f64();
        let later: f64 = self.steps[current.index + 1..].iter().map(|step| step.seconds).sum();
        let total_of_bar = bar.and_then(|bar| Some((bar, bar.total_seconds()?)));
        let remaining = match total_of_bar {
            Some((bar, of_bar)) if current.bar == BarOfStep::Running && bar.name == step.bar => {
                let before_bar = (passed - bar.elapsed.as_secs_f64()).max(0.0);
                let total = before_bar + of_bar;
                let ratio = ratio(self.taken + total, self.estimated + step.seconds);
                (total - passed).max(0.0) + later * ratio
            }
            // The bar is a part of the step, or tells nothing yet.
            other => {
                let ratio = ratio(self.taken, self.estimated);
                let of_part = other.map_or(0.0, |(bar, of_bar)| of_bar - bar.elapsed.as_secs_f64());
                (step.seconds * ratio - passed).max(of_part).max(0.0) + later * ratio
            }
        };
        Some(Duration::try_from_secs_f64(remaining).unwrap_or(Duration::MAX))
    }
}

/// Returns measured over estimated time, within a factor of 20; 1 where nothing was estimated.
fn ratio(measured: f64, estimated: f64) -> f64 {
    const MOST: f64 = 20.0;
    if estimated > 0.0 { (measured / estimated).clamp(1.0 / MOST, MOST) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::StepEstimate;

    fn stage(name: &'static str, steps: &[(&'static str, u64)]) -> StageEstimate {
        let steps =
            steps.iter().map(|&(bar, seconds)| StepEstimate { bar, time: Duration::from_secs(seconds) });
        StageEstimate { name, steps: steps.collect() }
    }

    fn bar(name: &str, seconds: u64, fraction: f64) -> BarState<'_> {
        BarState { name, elapsed: Duration::from_secs(seconds), fraction }
    }

    /// Remaining time of a job, asked in seconds after its start.
    struct Job {
        remaining: RemainingTime,
        start: Instant,
    }

    impl Job {
        fn new(stages: &[StageEstimate]) -> Self {
            Self { remaining: RemainingTime::new(stages), start: Instant::now() }
        }

        fn enter_stage(&mut self, name: &str, seconds: u64) {
            self.remaining.enter_stage(name, self.start + Duration::from_secs(seconds));
        }

        fn enter_bar(&mut self, name: &str, seconds: u64) {
            self.remaining.enter_bar(name, self.start + Duration::from_secs(seconds));
        }

        #[track_caller]
        fn expect(&self, bar: Option<BarState<'_>>, seconds: u64, expected: f64) {
            let now = self.start + Duration::from_secs(seconds);
            let remaining = self.remaining.at(bar, now).map_or(f64::NAN, |time| time.as_secs_f64());
            assert!((remaining - expected).abs() < 1e-6, "{remaining}, expected {expected}");
        }
    }

    #[test]
    fn estimates_count_until_a_block_is_done() {
        let mut job = Job::new(&[stage("a", &[("x", 10)]), stage("b", &[("y", 20)])]);
        assert_eq!(job.remaining.at(None, job.start), None);
        job.enter_stage("a", 0);
        job.expect(None, 4, 26.0);
        job.enter_bar("x", 4);
        job.expect(Some(bar("x", 1, 0.0)), 5, 25.0);
        job.expect(None, 40, 20.0);
    }

    #[test]
    fn the_first_block_replaces_the_estimate() {
        let mut job = Job::new(&[stage("a", &[("x", 10)]), stage("b", &[("y", 20)])]);
        job.enter_stage("a", 0);
        job.enter_bar("x", 0);
        // One block of ten took four seconds, and so four times the estimate; what follows will too.
        job.expect(Some(bar("x", 4, 0.1)), 4, 36.0 + 80.0);
        job.expect(Some(bar("x", 20, 0.5)), 20, 20.0 + 80.0);
        // Faster than estimated, with a second before the bar.
        let mut job = Job::new(&[stage("a", &[("x", 10)]), stage("b", &[("y", 20)])]);
        job.enter_stage("a", 0);
        job.enter_bar("x", 1);
        job.expect(Some(bar("x", 2, 0.5)), 3, 2.0 + 20.0 * 0.5);
    }

    #[test]
    fn steps_scale_those_that_follow_within_limits() {
        for (seconds, ratio) in [(0, 1.0 / 20.0), (1, 0.1), (1000, 20.0)] {
            let mut job = Job::new(&[stage("a", &[("x", 10)]), stage("b", &[("y", 20)])]);
            job.enter_stage("a", 0);
            job.enter_bar("x", 0);
            job.enter_stage("b", seconds);
            job.expect(None, seconds, 20.0 * ratio);
        }
    }

    #[test]
    fn finished_steps_scale_those_that_follow() {
        let stages = [stage("a", &[("x", 10), ("y", 10), ("y", 20)]), stage("b", &[("z", 5)])];
        let mut job = Job::new(&stages);
        job.enter_stage("a", 0);
        job.enter_bar("x", 0);
        job.enter_bar("y", 20);
        job.expect(None, 20, 2.0 * 35.0);
        // Thirty seconds measured and projected, of twenty estimated.
        job.expect(Some(bar("y", 5, 0.5)), 25, 5.0 + 1.5 * 25.0);
        job.enter_bar("y", 30);
        job.expect(None, 30, 1.5 * 25.0);
        // A bar without an estimate, in a step that is late.
        job.enter_bar("w", 70);
        job.expect(Some(bar("w", 1, 0.25)), 71, 3.0 + 1.5 * 5.0);
        // A third bar of the name is not that of the step.
        job.enter_bar("y", 71);
        job.expect(Some(bar("y", 1, 0.5)), 72, 1.0 + 1.5 * 5.0);
        job.enter_stage("b", 80);
        job.expect(None, 80, 5.0 * 80.0 / 40.0);
    }

    #[test]
    fn steps_left_out_count_for_nothing() {
        let stages = [stage("a", &[("x", 10), ("y", 10)]), stage("b", &[("x", 30)]), stage("c", &[("z", 5)])];
        let mut job = Job::new(&stages);
        job.enter_stage("a", 0);
        // A stage that runs, one that is none, and a bar of another stage.
        job.enter_stage("a", 3);
        job.enter_stage("other", 3);
        job.enter_bar("z", 3);
        job.expect(None, 3, 7.0 + 45.0);
        job.enter_bar("y", 4);
        job.expect(Some(bar("y", 2, 0.5)), 6, 2.0 + 0.4 * 35.0);
        job.enter_stage("c", 8);
        job.expect(None, 8, 0.4 * 5.0);
        // A stage that is over.
        job.enter_stage("b", 9);
        job.expect(None, 9, 1.0);
    }
}
