//! I10: a failed sync is never silent and never healed (F5).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_io::OpKind;
use ploop_io::sim::{SurvivorPlan, Verdict};
use ploop_sim::recover;
use ploop_sim::scenario::{CLUSTER, Scenario, is_sync};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// One sync fails, the later ones would succeed.
fn fail_once(s: &Scenario, kind: fn(&ploop_io::sim::Attempt) -> bool) {
    let failed = Arc::new(AtomicU32::new(0));
    s.hook(move |attempt| match kind(attempt) && failed.fetch_add(1, Ordering::SeqCst) == 0 {
        true => Verdict::Fail(libc::EIO),
        false => Verdict::Good,
    });
}

/// Ends a device whose sync failed: it must not close as clean, and after a crash what was flushed
/// before is there.
fn end(mut s: Scenario) {
    s.drain();
    s.crash_everywhere(8);
    let world = s.world.clone();
    let mut rng = ploop_io::sim::Rng::new(1);
    let Some(life) = s.life.take() else { return };
    assert!(recover::close(life, &mut rng).is_err(), "it closed as clean");
    s.world = world;
    s.crash_everywhere(4);
}

#[test]
fn a_flush_after_a_failed_sync_fails_too() {
    for seed in 0..8 {
        let mut s = Scenario::new(seed);
        s.open();
        let safe = s.write(0, CLUSTER, 3, false);
        s.wait(safe).unwrap();
        let flush = s.flush(0);
        s.wait(flush).unwrap();
        let lost = s.write(0, CLUSTER, 2, false);
        s.wait(lost).unwrap();
        fail_once(&s, is_sync);
        let first = s.flush(0);
        assert!(s.wait(first).is_err());
        // The same again, on the other queue, and by FUA.
        let second = s.flush(1);
        assert!(s.wait(second).is_err());
        let fua = s.write(1, CLUSTER, 1, true);
        assert!(s.wait(fua).is_err());
        let read = s.read(1, CLUSTER, CLUSTER);
        s.wait(read).unwrap();
        end(s);
    }
}

#[test]
fn two_flushes_at_once_both_fail() {
    for seed in 0..8 {
        let mut s = Scenario::new(seed);
        s.open();
        let write = s.write(0, CLUSTER, 3, false);
        s.wait(write).unwrap();
        fail_once(&s, is_sync);
        let flushes = [s.flush(0), s.flush(1)];
        s.drain();
        assert!(flushes.iter().all(|tag| s.outcome(*tag).is_some_and(|o| o.is_err())));
        end(s);
    }
}

#[test]
fn a_failed_synchronous_write_is_a_failed_sync() {
    for seed in 0..8 {
        let mut s = Scenario::new(seed);
        s.open();
        let write = s.write(0, CLUSTER, 3, false);
        s.wait(write).unwrap();
        let flush = s.flush(0);
        s.wait(flush).unwrap();
        fail_once(&s, |attempt| attempt.kind == OpKind::WriteDsync);
        let fua = s.write(0, CLUSTER, 1, true);
        assert!(s.wait(fua).is_err());
        let flush = s.flush(1);
        assert!(s.wait(flush).is_err());
        end(s);
    }
}

/// A page write that fails is tried again and its flush waits for it.
#[test]
fn a_failed_page_write_is_tried_again() {
    for seed in 0..8 {
        let mut s = Scenario::new(seed);
        s.open();
        let write = s.write(0, CLUSTER, 3, false);
        s.wait(write).unwrap();
        let failed = AtomicU32::new(0);
        s.hook(move |attempt| {
            let page = ploop_sim::scenario::is_page(attempt);
            match page && failed.fetch_add(1, Ordering::SeqCst) < 2 {
                true => Verdict::FailTorn(libc::EIO),
                false => Verdict::Good,
            }
        });
        let flush = s.flush(1);
        while s.outcome(flush).is_none() {
            s.turn();
            s.look_at(&SurvivorPlan::All);
        }
        assert_eq!(s.outcome(flush), Some(Ok(0)));
        s.crash_everywhere(8);
        s.world.set_hook(None);
        s.close();
    }
}
