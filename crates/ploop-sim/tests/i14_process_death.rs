//! I14: process death without a host crash loses no acknowledged operation, flushed or not (F2).

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use ploop_io::sim::{SimOptions, SurvivorPlan, Verdict};
use ploop_sim::Profile;
use ploop_sim::scenario::{CLUSTER, Scenario, is_page};

/// Pages are never written by deadline: without the record a kill loses every mapping.
fn lazy() -> Profile {
    Profile { levels: 2, metadata_delay_ms: 3_600_000, clusters: 40, depth: 16, ..Profile::plain() }
}

/// Every kind of change, all answered, none flushed.
fn changes(s: &mut Scenario) {
    let kept = s.write(0, 0, 12 * CLUSTER, false);
    s.wait(kept).unwrap();
    s.add_level(1);
    s.open();
    // A hole, a copy-up, a covering write over lower data, zeros over it, a discard.
    for (first, count) in [(20 * CLUSTER, 8), (CLUSTER + 8, 8), (2 * CLUSTER, CLUSTER)] {
        let write = s.write(1, first, count, false);
        s.wait(write).unwrap();
    }
    let zero = s.zero(0, 3 * CLUSTER, CLUSTER, false);
    s.wait(zero).unwrap();
    let mapped = s.write(0, 30 * CLUSTER, CLUSTER, false);
    s.wait(mapped).unwrap();
    let discard = s.discard(1, 30 * CLUSTER, CLUSTER);
    s.wait(discard).unwrap();
}

#[test]
fn what_was_answered_is_there_after_a_kill() {
    for seed in 0..10 {
        let mut s = Scenario::with(seed, lazy());
        s.open();
        changes(&mut s);
        s.kill();
        s.world.drop_old_life();
        s.come_back();
        // The next life is killed before it did anything, and the host crashes in the end. Space
        // that it was reserving may still be under way and hold its lock.
        s.kill();
        s.world.drop_old_life();
        s.come_back();
        s.crash_everywhere(3);
        s.close();
    }
}

#[test]
fn a_host_crash_after_the_replay_loses_nothing_the_replay_showed() {
    for seed in 0..10 {
        let mut s = Scenario::with(seed, lazy());
        s.open();
        changes(&mut s);
        s.kill();
        s.world.drop_old_life();
        s.come_back();
        s.crash(&SurvivorPlan::None);
        s.close();
    }
}

#[test]
fn a_page_write_that_failed_leaves_its_changes_on_record() {
    let mut s = Scenario::with(5, Profile { metadata_delay_ms: 1, ..lazy() });
    s.open();
    s.hook(|attempt| match is_page(attempt) {
        true => Verdict::Fail(libc::ENOSPC),
        false => Verdict::Normal,
    });
    for cluster in 0..8 {
        let write = s.write(0, cluster * CLUSTER, 8, false);
        s.wait(write).unwrap();
    }
    let later = s.world.now() + 1_000_000_000;
    s.until(|s| s.world.now() > later);
    s.kill();
    s.world.set_hook(None);
    s.world.drop_old_life();
    s.come_back();
    s.close();
}

#[test]
fn a_full_record_lets_changes_wait_for_page_writes() {
    for words in 17..22 {
        let world = SimOptions { record_words: words, ..SimOptions::default() };
        let mut s = Scenario::with(words as u64, Profile { world, ..lazy() });
        s.open();
        changes(&mut s);
        for cluster in 4..30 {
            s.write(cluster as usize % 2, cluster * CLUSTER, 8, false);
        }
        s.drain();
        s.kill();
        s.world.drop_old_life();
        s.come_back();
        s.close();
    }
}

#[test]
fn without_a_record_only_what_was_flushed_is_promised() {
    let world = SimOptions { record_words: 0, ..SimOptions::default() };
    let mut s = Scenario::with(3, Profile { world, ..lazy() });
    s.open();
    changes(&mut s);
    s.kill();
    s.world.drop_old_life();
    s.come_back();
    s.close();
}
