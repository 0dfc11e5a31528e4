//! I5: after a discard a sector is old or zero, never anything a lower level remembers (F11).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_io::sim::SurvivorPlan;
use ploop_sim::scenario::{CLUSTER, Scenario};

/// F11: three levels, each subset of them has the cluster.
#[test]
fn discard_and_zeroing_on_every_subset_of_three_levels() {
    for subset in 0..8u64 {
        for seed in 0..6 {
            for action in 0..4 {
                let mut s = Scenario::new(seed);
                s.open();
                for level in 0..3 {
                    if subset >> level & 1 == 1 {
                        let write = s.write(0, 3 * CLUSTER, CLUSTER, false);
                        s.wait(write).unwrap();
                    }
                    if level < 2 {
                        s.add_level(level + 1);
                        s.open();
                    }
                }
                let flush = s.flush(0);
                s.wait(flush).unwrap();
                let tag = match action {
                    0 => s.discard(0, 3 * CLUSTER, CLUSTER),
                    1 => s.discard(1, 3 * CLUSTER + 5, 20),
                    2 => s.zero(0, 3 * CLUSTER, CLUSTER, seed % 2 == 0),
                    _ => s.zero(1, 3 * CLUSTER + 5, 20, seed % 2 == 0),
                };
                s.wait(tag).unwrap();
                // The read fixes what the discard left; nothing may change it but a crash.
                for _ in 0..2 {
                    let read = s.read(1, 3 * CLUSTER, CLUSTER);
                    s.wait(read).unwrap();
                }
                s.crash_everywhere(2);
                let flush = s.flush(1);
                s.wait(flush).unwrap();
                let read = s.read(1, 3 * CLUSTER, CLUSTER);
                s.wait(read).unwrap();
                s.look_at(&SurvivorPlan::None);
                s.close();
            }
        }
    }
}
