//! A failing seed made small: fewer rounds, requests, levels, faults, as long as it still fails.

use crate::failure::Failure;
use crate::profile::Profile;
use crate::run::run_once;

/// The fields that are made smaller, with the least value that is tried.
const FIELDS: [(&str, u64); 24] = [
    ("rounds", 1),
    ("requests", 1),
    ("levels", 1),
    ("read_error", 0),
    ("write_error", 0),
    ("zero_error", 0),
    ("sync_error", 0),
    ("no_space", 0),
    ("quota", 0),
    ("too_big", 0),
    ("stuck", 0),
    ("short", 0),
    ("space", 0),
    ("raw", 0),
    ("pieces", 1),
    ("kill", 0),
    ("layers", 0),
    ("reorder", 0),
    ("straggler", 0),
    ("queues", 1),
    ("depth", 1),
    ("hot", 1),
    ("clusters", 4),
    ("plans", 1),
];

/// A smaller failure: the fields that differ from the named profile, and what fails then.
#[derive(Clone, Debug)]
pub struct Small {
    /// Field and value.
    pub fields: Vec<(&'static str, u64)>,
    /// The profile with them.
    pub profile: Profile,
    /// What fails.
    pub failure: Box<Failure>,
}

/// Makes a failing seed smaller with at most `tries` runs.
#[must_use]
pub fn shrink(seed: u64, profile: &Profile, failure: Box<Failure>, tries: usize) -> Small {
    let mut small = Small { fields: Vec::new(), profile: profile.clone(), failure };
    let mut left = tries;
    for (field, least) in FIELDS {
        let mut low = least;
        // The least value first; then halves.
        while left > 0 {
            let now = small.profile.get(field);
            if low >= now {
                break;
            }
            left -= 1;
            let mut next = small.profile.clone();
            next.set(field, low);
            match run_once(seed, &next) {
                Err(failure) => {
                    small.profile = next;
                    small.failure = failure;
                }
                Ok(_) => low += (now - low).div_ceil(2),
            }
        }
        let value = small.profile.get(field);
        if value != profile.get(field) {
            small.fields.push((field, value));
        }
    }
    small
}
