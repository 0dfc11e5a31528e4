//! I16: every request ends, whatever waits for whom (F8, F17): a watchdog on virtual time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_engine::Errno;
use ploop_io::sim::{Rng, Verdict};
use ploop_sim::Profile;
use ploop_sim::scenario::{CLUSTER, Scenario, is_page};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn discards_writes_and_flushes_of_one_cluster_never_wait_for_each_other() {
    for seed in 0..40 {
        let mut s = Scenario::new(seed);
        s.open();
        let mut rng = Rng::new(seed);
        for _ in 0..150 {
            let lane = rng.below(2) as usize;
            let at = rng.below(2) * CLUSTER + CLUSTER;
            match rng.below(6) {
                0 | 1 => s.discard(lane, at, CLUSTER),
                2 => s.write(lane, at + rng.below(60), 1 + rng.below(70), rng.chance(1, 3)),
                3 => s.zero(lane, at, CLUSTER, rng.chance(1, 3)),
                4 => s.flush(lane),
                _ => s.read(lane, at, 2 * CLUSTER),
            };
            for _ in 0..rng.below(4) {
                s.turn();
            }
        }
        let started = s.world.now();
        s.drain();
        assert!(s.world.now() - started < 30_000_000_000, "{} ns", s.world.now() - started);
        s.close();
    }
}

/// F17: on a full host writes are held, everything else goes on; with space they go on as well.
#[test]
fn a_full_host_holds_writes_and_nothing_else() {
    for seed in 0..8 {
        let profile = Profile { clusters: 40, metadata_delay_ms: 1000, ..Profile::plain() };
        let mut s = Scenario::with(seed, profile);
        s.open();
        let write = s.write(0, CLUSTER, CLUSTER, false);
        s.wait(write).unwrap();
        s.world.set_capacity(Some(s.world.allocated()));
        let mut held = Vec::new();
        for cluster in 2..18 {
            held.push(s.write(cluster as usize % 2, cluster * CLUSTER, CLUSTER, false));
        }
        // At most half of a queue's depth is held, the rest is told; reads and flushes get in.
        let deadline = s.world.now() + 3_000_000_000;
        s.until(|s| s.world.now() > deadline);
        let read = s.read(0, CLUSTER, CLUSTER);
        s.wait(read).unwrap();
        let flush = s.flush(1);
        s.wait(flush).unwrap();
        assert!(held.iter().any(|tag| s.outcome(*tag).is_none()), "nothing is held");
        s.crash_everywhere(3);
        s.world.set_capacity(None);
        s.drain();
        assert!(held.iter().all(|tag| s.outcome(*tag).is_some()));
        let flush = s.flush(0);
        s.wait(flush).unwrap();
        s.crash_everywhere(3);
        s.close();
    }
}

/// T17: pages of the block table that find no space (a host that copies on write is full) hold a
/// FLUSH. When the device is about to end the FLUSH fails, and with space it succeeds again.
#[test]
fn a_flush_whose_pages_find_no_space_ends_when_the_device_gives_up() {
    for seed in 0..2 {
        let profile = Profile { clusters: 40, metadata_delay_ms: 1000, ..Profile::plain() };
        let mut s = Scenario::with(seed, profile);
        s.open();
        let full = Arc::new(AtomicBool::new(true));
        let now = Arc::clone(&full);
        s.hook(move |attempt| match is_page(attempt) && now.load(Ordering::SeqCst) {
            true => Verdict::Fail(libc::ENOSPC),
            false => Verdict::Normal,
        });
        let write = s.write(0, CLUSTER, CLUSTER, false);
        s.wait(write).unwrap();
        let (flush, fua) = (s.flush(1), s.write(0, CLUSTER, 1, true));
        let deadline = s.world.now() + 1_000_000_000;
        s.until(|s| s.world.now() > deadline);
        assert!(s.outcome(flush).is_none() && s.outcome(fua).is_none(), "both are held");
        let device = s.life.as_ref().unwrap().device().clone();
        device.give_up(true);
        let begun = s.world.now();
        assert_eq!(s.wait(flush), Err(Errno::NOSPC));
        assert_eq!(s.wait(fua), Err(Errno::NOSPC));
        assert!(s.world.now() - begun < 1_000_000_000, "{} ns", s.world.now() - begun);
        // The end was called off, and there is space.
        device.give_up(false);
        drop(device);
        full.store(false, Ordering::SeqCst);
        let flush = s.flush(0);
        s.wait(flush).unwrap();
        s.crash_everywhere(3);
        s.close();
    }
}

/// T17: writes that are held fail while the device still serves, so that who ends it can wait for
/// its page cache; reads go on.
#[test]
fn held_writes_fail_before_the_device_stops() {
    let profile = Profile { clusters: 40, metadata_delay_ms: 1000, ..Profile::plain() };
    let mut s = Scenario::with(5, profile);
    s.open();
    let write = s.write(0, CLUSTER, CLUSTER, false);
    s.wait(write).unwrap();
    s.world.set_capacity(Some(s.world.allocated()));
    let held: Vec<u64> = (2..18).map(|n| s.write(0, n * CLUSTER, CLUSTER, false)).collect();
    let deadline = s.world.now() + 3_000_000_000;
    s.until(|s| s.world.now() > deadline);
    let waits: Vec<u64> = held.into_iter().filter(|tag| s.outcome(*tag).is_none()).collect();
    assert!(!waits.is_empty(), "nothing is held");
    let device = s.life.as_ref().unwrap().device().clone();
    device.give_up(true);
    for tag in waits {
        assert_eq!(s.wait(tag), Err(Errno::NOSPC));
    }
    let late = s.write(1, 20 * CLUSTER, CLUSTER, false);
    assert_eq!(s.wait(late), Err(Errno::NOSPC), "nothing is held any more");
    let read = s.read(0, CLUSTER, CLUSTER);
    s.wait(read).unwrap();
    device.give_up(false);
    drop(device);
    s.world.set_capacity(None);
    let write = s.write(0, 2 * CLUSTER, CLUSTER, false);
    s.wait(write).unwrap();
    s.close();
}
