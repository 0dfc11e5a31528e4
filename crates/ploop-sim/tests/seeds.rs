//! The simulator itself: equal seeds give equal histories, and a first handful of seeds is clean.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_sim::{Profile, profile, run};

#[test]
fn the_same_seed_twice_is_the_same_history() {
    for seed in [3, 4] {
        let profile = Profile::swarm(seed);
        let first = run(seed, &profile).unwrap_or_else(|failure| panic!("{failure}"));
        let second = run(seed, &profile).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(first, second);
        assert!(first.crash_points > 0 && first.requests > 0);
    }
    let other = Profile::swarm(5);
    let traces = [5, 6].map(|seed| run(seed, &other).map(|report| report.trace).ok());
    assert_ne!(traces[0], traces[1]);
}

#[test]
fn a_few_seeds_of_every_profile() {
    for name in profile::NAMES {
        for seed in 1..4 {
            let mut profile = Profile::named(name, seed).unwrap_or_else(|| panic!("no {name}"));
            // Not at every boundary, which takes a program built for speed: `cargo xtask sim`.
            profile.set("crash_every", 8);
            if let Err(failure) = run(seed, &profile) {
                panic!("{failure}");
            }
        }
    }
}
