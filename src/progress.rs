//! How a job speaks while it works. The library knows no terminal: whoever starts a job brings a [`Progress`].

use std::sync::Arc;
use std::time::Duration;

/// Takes what a job has to say: notes, lines, stages, and bars for long work.
pub trait Progress: Sync {
    /// Facts that the user should know, one sentence each: decisions that were made for them, and doubts.
    fn notes(&self, notes: &[String]);

    /// A line about where the job is.
    fn line(&self, text: &str);

    /// The job's stages and how long each is estimated to take.
    fn begin_job(&self, stages: &[(&'static str, Duration)]);

    /// The stage of the job's estimate that begins now.
    fn stage(&self, name: &str);

    /// A bar over `total` steps.
    fn steps_bar(&self, verb: &str, total: u64) -> Arc<dyn Bar>;

    /// A bar over `total` bytes.
    fn bytes_bar(&self, verb: &str, total: u64) -> Arc<dyn Bar>;

    /// A bar over work whose units say nothing to a reader.
    fn share_bar(&self, verb: &str) -> Arc<dyn Bar>;
}

/// A bar: how much of a piece of work is done.
pub trait Bar: Send + Sync {
    /// Adds `steps` to those that are done.
    fn inc(&self, steps: u64);

    /// Sets steps done and in total.
    fn set(&self, done: u64, total: u64);

    /// Replaces the words before the bar.
    fn describe(&self, text: String);

    /// Takes the bar away.
    fn finish(&self);
}

/// A [`Progress`] that drops everything it is told.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Progress for Quiet {
    fn notes(&self, _: &[String]) {}

    fn line(&self, _: &str) {}

    fn begin_job(&self, _: &[(&'static str, Duration)]) {}

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
