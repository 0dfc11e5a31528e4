//! I3: what was acknowledged before a FLUSH came, on any queue, survives it (F10, F12).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_io::sim::{SurvivorPlan, Verdict};
use ploop_sim::scenario::{CLUSTER, Scenario, is_page};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[test]
fn a_flush_covers_the_writes_of_all_queues() {
    for seed in 0..12 {
        let mut s = Scenario::new(seed);
        s.open();
        for n in 0..6 {
            let write = s.write(n as usize % 2, n * CLUSTER + n, 5, false);
            s.wait(write).unwrap();
        }
        let flush = s.flush(1);
        s.wait(flush).unwrap();
        s.crash_everywhere(8);
        s.crash(&SurvivorPlan::None);
        s.close();
    }
}

/// F10: one page never has two writes in flight, and a write that lands late does not undo a newer
/// one.
#[test]
fn page_writes_that_land_in_reverse_order_lose_nothing() {
    for seed in 0..12 {
        let mut s = Scenario::new(seed);
        s.open();
        let flying: Arc<Mutex<BTreeMap<u64, u32>>> = Arc::default();
        let held = Arc::clone(&flying);
        s.hook(move |attempt| {
            if is_page(attempt) {
                *held.lock().unwrap().entry(attempt.offset).or_default() += 1;
                return Verdict::Hold;
            }
            Verdict::Normal
        });
        let mut flushes = Vec::new();
        for n in 1..8 {
            let write = s.write(0, n * CLUSTER, 3, n % 3 == 0);
            flushes.push(write);
            flushes.push(s.flush(1));
            for _ in 0..60 {
                s.turn();
            }
            let writes = flying.lock().unwrap().clone();
            assert!(writes.values().all(|n| *n <= 1), "F10: {writes:?}");
            if n % 2 == 0 {
                flying.lock().unwrap().clear();
                s.world.release_held(true);
                s.crash_everywhere(3);
            }
        }
        while flushes.iter().any(|tag| s.outcome(*tag).is_none()) {
            flying.lock().unwrap().clear();
            s.world.release_held(true);
            for _ in 0..20 {
                s.turn();
            }
        }
        assert!(flushes.iter().all(|tag| s.outcome(*tag) == Some(Ok(0))));
        s.crash_everywhere(10);
        s.world.set_hook(None);
        // A page may have been due meanwhile.
        s.world.release_held(true);
        s.close();
    }
}
