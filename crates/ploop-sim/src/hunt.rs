//! The proof of the simulator: planted bugs, each of which it must find.

use crate::failure::Failure;
use crate::profile::Profile;
use crate::run::run_once;
use ploop_io::planted::{self, Bug, Group};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How one hunt ended.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The bug.
    pub bug: Bug,
    /// Processor time of its thread.
    pub time: Duration,
    /// Runs it took.
    pub runs: u64,
    /// What failed; `None` when the budget was over before.
    pub found: Option<Box<Failure>>,
}

/// What this thread has used; other work on the machine does not count.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Runs the seeds behind `first` with a bug until one fails.
#[must_use]
pub fn hunt(bug: Bug, profile: &str, first: u64, budget: Duration) -> Hunt {
    let start = processor_time();
    planted::choose(Some(bug));
    let profile = match bug.group() {
        Group::Layer | Group::LayerDrop => "operations",
        Group::Exchange => "exchange",
        Group::Merge => "merge",
        Group::Down => "down",
        Group::Fault => "fault",
        Group::Race => "race",
        Group::Split => "split",
        _ => profile,
    };
    let mut runs = 0;
    let mut found = None;
    while found.is_none() && processor_time().saturating_sub(start) < budget {
        let seed = first + runs;
        let Some(profile) = Profile::named(profile, seed) else { break };
        runs += 1;
        found = run_once(seed, &profile).err();
    }
    planted::choose(None);
    Hunt { bug, time: processor_time().saturating_sub(start), runs, found }
}

/// Hunts every bug `times` times from random seeds, on `jobs` threads; `told` hears of each end.
#[must_use]
pub fn hunt_all(
    bugs: &[Bug],
    profile: &str,
    times: u64,
    jobs: usize,
    budget: Duration,
    told: &(dyn Fn(&Hunt) + Sync),
) -> Vec<Hunt> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(bug) = bugs.get(n / times as usize) else { return };
            let first = (n as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16;
            let hunt = hunt(*bug, profile, first, budget);
            told(&hunt);
            if let Ok(mut done) = done.lock() {
                done.push(hunt);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    done.into_inner().unwrap_or_default()
}

/// The bugs of a group.
#[must_use]
pub fn of_group(wanted: impl Fn(Group) -> bool) -> Vec<Bug> {
    Bug::ALL.iter().copied().filter(|bug| wanted(bug.group())).collect()
}
