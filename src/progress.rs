//! Progress of jobs. The library knows no terminal: whoever starts a job brings a [`Progress`].

use std::sync::Arc;
use std::time::Duration;

/// Stage of a job, with the estimates of its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageEstimate {
    /// Name of the stage.
    pub name: &'static str,
    /// Steps of the stage, in their order.
    pub steps: Vec<StepEstimate>,
}

impl StageEstimate {
    /// Returns the estimated time of the whole stage.
    pub fn time(&self) -> Duration {
        self.steps.iter().map(|step| step.time).sum()
    }
}

/// Step of a stage: work that one bar shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepEstimate {
    /// Words before the bar at its start.
    pub bar: &'static str,
    /// Estimated time.
    pub time: Duration,
}

/// Receiver of a job's messages: notes, lines, stages, and bars for long work.
pub trait Progress: Sync {
    /// Takes facts that the user should know, one sentence each: decisions that were made for them, and doubts.
    fn notes(&self, notes: &[String]);

    /// Takes a line about the job's state.
    fn line(&self, text: &str);

    /// Takes the job's stages with the estimated time of their steps.
    fn begin_job(&self, stages: &[StageEstimate]);

    /// Takes the name of the stage that begins now.
    fn stage(&self, name: &str);

    /// Starts a bar over `total` steps.
    fn steps_bar(&self, verb: &str, total: u64) -> Arc<dyn Bar>;

    /// Starts a bar over `total` bytes.
    fn bytes_bar(&self, verb: &str, total: u64) -> Arc<dyn Bar>;

    /// Starts a bar that shows percent, for work whose units mean nothing to a reader.
    fn share_bar(&self, verb: &str) -> Arc<dyn Bar>;
}

/// Bar that shows how much of some work is done.
pub trait Bar: Send + Sync {
    /// Adds `steps` to the finished ones.
    fn inc(&self, steps: u64);

    /// Sets finished and total steps.
    fn set(&self, done: u64, total: u64);

    /// Replaces the words before the bar.
    fn describe(&self, text: String);

    /// Removes the bar.
    fn finish(&self);
}

/// [`Progress`] that drops all messages.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Progress for Quiet {
    fn notes(&self, _: &[String]) {}

    fn line(&self, _: &str) {}

    fn begin_job(&self, _: &[StageEstimate]) {}

    fn stage(&self, _: &str) {}

    fn steps_bar(&self, _: &str, _: u64) -> Arc<dyn Bar> {
        Arc::new(Self)
    }

    fn bytes_bar(&self, _: &str, _: u64) -> Arc<dyn Bar> {
        Arc::new(Self)
    }

    fn share_bar(&self, _: &str) -> Arc<dyn Bar> {
        Arc::new(Self)
    }
}

impl Bar for Quiet {
    fn inc(&self, _: u64) {}

    fn set(&self, _: u64, _: u64) {}

    fn describe(&self, _: String) {}

    fn finish(&self) {}
}
