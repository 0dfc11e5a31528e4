//! I11: no I/O reaches a file cluster after it was freed (F8, F9): an operation that began before
//! the unmapping is waited for, however long it takes.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use ploop_io::OpKind;
use ploop_io::sim::{SurvivorPlan, Verdict};
use ploop_sim::Profile;
use ploop_sim::scenario::{CLUSTER, Scenario, is_page};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Holds the next data operation of a kind.
fn hold_one(s: &Scenario, kind: OpKind) {
    let armed = Arc::new(AtomicBool::new(true));
    s.hook(move |attempt| {
        let hit = attempt.kind == kind && !attempt.blocking && !is_page(attempt);
        match hit && armed.swap(false, Ordering::SeqCst) {
            true => Verdict::Hold,
            false => Verdict::Normal,
        }
    });
}

/// Cluster 1 is written and flushed, an operation on it is held, it is discarded, and all the
/// space there is is asked for.
fn discarded_under(seed: u64, kind: OpKind) -> (Scenario, u64) {
    let profile = Profile { clusters: 40, depth: 32, metadata_delay_ms: 1000, ..Profile::plain() };
    let mut s = Scenario::with(seed, profile);
    s.open();
    let write = s.write(0, CLUSTER, CLUSTER, false);
    s.wait(write).unwrap();
    let flush = s.flush(0);
    s.wait(flush).unwrap();
    hold_one(&s, kind);
    let held = match kind {
        OpKind::Read => s.read(0, CLUSTER, CLUSTER),
        _ => s.write(0, CLUSTER, CLUSTER, false),
    };
    assert!(s.until(|s| s.world.held() == 1), "the operation is held");
    let discard = s.discard(1, CLUSTER, CLUSTER);
    s.wait(discard).unwrap();
    // Its page becomes durable and its second is over; the host is full, so that the next writes
    // want the freed cluster.
    let flush = s.flush(1);
    s.wait(flush).unwrap();
    s.world.set_capacity(Some(s.world.allocated()));
    for cluster in 2..30 {
        s.write(1, cluster * CLUSTER, CLUSTER, cluster % 2 == 0);
    }
    let later = s.world.now() + 5_000_000_000;
    s.until(|s| s.world.now() > later);
    // Space again: all others end, the one that is held stays.
    s.world.set_capacity(None);
    assert!(s.until(|s| s.traffic.len() == 1), "only the held one is left");
    (s, held)
}

#[test]
fn a_slow_write_never_lands_in_a_cluster_that_was_freed() {
    for seed in 0..8 {
        let (mut s, held) = discarded_under(seed, OpKind::Write);
        s.crash_everywhere(3);
        s.world.set_hook(None);
        s.world.release_held(false);
        s.wait(held).unwrap();
        s.drain();
        for cluster in 1..30 {
            let read = s.read(1, cluster * CLUSTER, CLUSTER);
            s.wait(read).unwrap();
        }
        let flush = s.flush(0);
        s.wait(flush).unwrap();
        s.look_at(&SurvivorPlan::None);
        s.close();
    }
}

#[test]
fn a_slow_read_never_sees_who_came_after() {
    for seed in 0..8 {
        let (mut s, held) = discarded_under(seed, OpKind::Read);
        s.world.set_hook(None);
        s.world.release_held(false);
        s.wait(held).unwrap();
        s.drain();
        s.close();
    }
}
