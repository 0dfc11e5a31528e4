//! Crash points: an operation boundary and a set of survivors, each looked at once.

use crate::profile::{Profile, cluster};
use ploop_io::sim::{Rng, SurvivorPlan};
use std::collections::HashSet;
use std::sync::Arc;

/// The worst that a crash can do, beside what is drawn.
fn worst(n: u64) -> SurvivorPlan {
    let low = cluster().bytes();
    match n {
        0 => SurvivorPlan::None,
        1 => SurvivorPlan::All,
        2 => SurvivorPlan::OldestLost,
        3 => SurvivorPlan::NewestLost,
        4 => SurvivorPlan::TornMiddle,
        // Only metadata, only data.
        5 => SurvivorPlan::Only(Arc::new(move |change| change.offset < low)),
        _ => SurvivorPlan::Only(Arc::new(move |change| change.offset >= low)),
    }
}

/// One plan.
pub fn plan(rng: &mut Rng) -> SurvivorPlan {
    match rng.below(14) {
        n @ 0..7 => worst(n),
        _ => SurvivorPlan::Random(rng.next_u64()),
    }
}

/// The plans for a boundary with so many changes at stake: every subset of few, else the worst
/// cases and drawn ones.
pub fn plans(rng: &mut Rng, profile: &Profile, changes: usize) -> Vec<SurvivorPlan> {
    if changes <= profile.exhaustive {
        return (0..1 << changes).map(SurvivorPlan::Mask).collect();
    }
    if profile.plans >= 12 {
        let drawn = (7..profile.plans).map(|_| SurvivorPlan::Random(rng.next_u64()));
        return (0..7).map(worst).chain(drawn).collect();
    }
    (0..profile.plans).map(|_| plan(rng)).collect()
}

/// The points of a run that were looked at.
#[derive(Debug, Default)]
pub struct Points(HashSet<u64>);

impl Points {
    /// Whether this one is new. With nothing at stake there is none.
    pub fn is_new(&mut self, boundary: u64, survivors: u64, unsynced: usize) -> bool {
        let mixed = (survivors ^ boundary.rotate_left(40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        unsynced > 0 && self.0.insert(mixed ^ boundary)
    }
}
