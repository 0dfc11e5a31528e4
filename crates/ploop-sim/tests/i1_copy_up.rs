//! I1: a durable entry names the complete cluster: lower bytes merged with the guest's, never a
//! half copy, never another cluster's bytes (F1, F4, F13).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_io::OpKind;
use ploop_io::sim::{SurvivorPlan, Verdict};
use ploop_sim::scenario::{CLUSTER, Scenario, is_page, is_sync};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Two levels; the lower one has clusters 1 and 2, flushed.
fn two_levels(seed: u64) -> Scenario {
    let mut s = Scenario::new(seed);
    s.open();
    s.write(0, CLUSTER, 2 * CLUSTER, false);
    s.add_level(1);
    s.open();
    s
}

/// F1: the page must not carry a copy-up that ended after the sync before it began.
#[test]
fn a_page_carries_no_copy_up_younger_than_its_sync() {
    for seed in 0..12 {
        let mut s = two_levels(seed);
        let first = s.write(0, CLUSTER + 3, 1, false);
        s.wait(first).unwrap();
        // The data sync that makes it eligible is held, and a second copy-up ends meanwhile.
        let hold = Arc::new(AtomicBool::new(true));
        let seen = Arc::clone(&hold);
        s.hook(move |attempt| match is_sync(attempt) && seen.swap(false, Ordering::SeqCst) {
            true => Verdict::Hold,
            false => Verdict::Normal,
        });
        let flush = s.flush(1);
        assert!(s.until(|s| s.world.held() == 1), "the flush starts a sync");
        let second = s.write(0, 2 * CLUSTER + 5, 1, false);
        s.wait(second).unwrap();
        s.crash_everywhere(5);
        s.world.set_hook(None);
        s.world.release_held(false);
        // At every step from here, a page that survives alone must be safe.
        let mut looked = 0;
        while s.outcome(flush).is_none() {
            let before = s.world.operations();
            s.turn();
            if s.world.operations() > before {
                looked += s.crash_everywhere(4);
            }
        }
        assert!(looked > 0);
        assert_eq!(s.outcome(flush), Some(Ok(0)));
        s.crash_everywhere(10);
        s.close();
    }
}

/// F4: a covering write over lower data is a copy-up: an error or a crash leaves the old bytes,
/// and readers never see anything between.
#[test]
fn a_covering_write_that_fails_leaves_the_lower_bytes() {
    for seed in 0..8 {
        let mut s = two_levels(seed);
        s.hook(|attempt| match attempt.kind {
            OpKind::Write if !is_page(attempt) => Verdict::FailTorn(libc::EIO),
            _ => Verdict::Normal,
        });
        let write = s.write(0, CLUSTER, CLUSTER, false);
        while s.outcome(write).is_none() {
            let read = s.read(1, CLUSTER, CLUSTER);
            s.wait(read).unwrap();
            s.crash_everywhere(2);
        }
        assert!(s.outcome(write).is_some_and(|o| o.is_err()));
        s.world.set_hook(None);
        let read = s.read(1, CLUSTER, CLUSTER);
        s.wait(read).unwrap();
        let flush = s.flush(0);
        s.wait(flush).unwrap();
        s.crash_everywhere(10);
        s.close();
    }
}

/// F4: while a covering write runs, a crash with the page kept and the data lost shows old bytes.
#[test]
fn a_covering_write_is_old_or_new_at_every_step() {
    for seed in 0..10 {
        let mut s = two_levels(seed);
        let write = s.write(0, CLUSTER, CLUSTER, false);
        let flush = s.flush(1);
        loop {
            let before = s.world.operations();
            s.turn();
            if s.world.operations() > before {
                s.crash_everywhere(4);
                let read = s.read(1, CLUSTER + 7, 9);
                s.wait(read).unwrap();
            }
            if s.outcome(write).is_some() && s.outcome(flush).is_some() {
                break;
            }
        }
        s.close();
    }
}

/// F13: the target of a copy-up that failed is not handed out again before it was cleaned.
#[test]
fn a_failed_copy_up_leaves_nothing_in_the_next_cluster() {
    for seed in 0..8 {
        for errno in [libc::EIO, libc::ENOSPC] {
            let mut s = two_levels(seed);
            let writes = Arc::new(AtomicU32::new(0));
            let count = Arc::clone(&writes);
            // The one write of the lower cluster with the guest's part in it arrives half.
            s.hook(move |attempt| match attempt.kind {
                OpKind::Write if !is_page(attempt) => {
                    let n = count.fetch_add(1, Ordering::SeqCst);
                    if n == 0 { Verdict::FailTorn(errno) } else { Verdict::Good }
                }
                _ => Verdict::Normal,
            });
            let copy = s.write(0, CLUSTER + 3, 1, false);
            if errno == libc::EIO {
                assert!(s.wait(copy).is_err());
            } else {
                s.until(|_| writes.load(Ordering::SeqCst) >= 2);
            }
            s.world.set_hook(None);
            // Holes: one sector of each; the rest must read as zeros now and after a crash.
            for cluster in 4..9 {
                let write = s.write(1, cluster * CLUSTER + 9, 1, cluster == 5);
                s.wait(write).unwrap();
                let read = s.read(1, cluster * CLUSTER, CLUSTER);
                s.wait(read).unwrap();
            }
            s.wait(copy).ok();
            let flush = s.flush(0);
            s.wait(flush).unwrap();
            s.crash_everywhere(10);
            s.crash(&SurvivorPlan::None);
            s.close();
        }
    }
}
