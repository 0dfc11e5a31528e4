//! What a run says at its end.

use crate::cover::Cover;
use std::collections::BTreeMap;
use std::fmt;

/// How much a run did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// A hash of the whole history: equal for equal seeds and profiles.
    pub trace: u64,
    /// Requests answered.
    pub requests: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Distinct pairs of an operation boundary and a set of survivors that were looked at.
    pub crash_points: u64,
    /// The same by what ran: phase and operation.
    pub points: BTreeMap<String, u64>,
    /// Decisions of the engine.
    pub cover: Cover,
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
        write!(f, "replay: cargo xtask sim --profile {} --seed {}", self.profile, self.seed)
    }
}

impl std::error::Error for Failure {}

impl Report {
    /// Adds what another run did.
    pub fn add(&mut self, other: &Self) {
        self.trace ^= other.trace;
        self.requests += other.requests;
        self.failed += other.failed;
        self.crash_points += other.crash_points;
        for (name, count) in &other.points {
            *self.points.entry(name.clone()).or_default() += count;
        }
        self.cover.add(&other.cover);
        self.kills += other.kills;
        self.closes += other.closes;
        self.operations += other.operations;
    }
}
