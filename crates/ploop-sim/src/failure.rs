//! What a run says at its end.

use std::fmt;

/// How much a run did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// A hash of the whole history: equal for equal seeds and profiles.
    pub trace: u64,
    /// Requests answered.
    pub requests: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Moments of a host crash that were looked at, each with its set of survivors.
    pub crash_points: u64,
    /// Processes killed while the host lived on.
    pub kills: u64,
    /// Clean closes.
    pub closes: u64,
    /// Operations of the simulated disk.
    pub operations: u64,
}

/// A broken rule.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// The name of the profile.
    pub profile: String,
    /// When: round and step.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// The last things that happened, oldest first.
    pub story: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.story {
            writeln!(f, "    {line}")?;
        }
        writeln!(f, "seed {} ({}), {}: {}", self.seed, self.profile, self.place, self.what)?;
        write!(f, "replay: ploop-sim --profile {} --from {} --seeds 1", self.profile, self.seed)
    }
}

impl std::error::Error for Failure {}

impl Report {
    /// Adds what another run did.
    pub fn add(&mut self, other: &Self) {
        self.trace = self.trace.rotate_left(1) ^ other.trace;
        self.requests += other.requests;
        self.failed += other.failed;
        self.crash_points += other.crash_points;
        self.kills += other.kills;
        self.closes += other.closes;
        self.operations += other.operations;
    }
}
