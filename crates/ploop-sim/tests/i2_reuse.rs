//! I2: no two durable entries name one cluster, entries of a former process included (F6).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_io::sim::SurvivorPlan;
use ploop_sim::scenario::{CLUSTER, Scenario};

/// F6 (a): unmapped and written to the page but not synced; the next process reuses the cluster;
/// power fails and the old page comes back.
#[test]
fn a_cluster_unmapped_by_a_killed_process_is_reused_safely() {
    for seed in 0..12 {
        let mut s = Scenario::new(seed);
        s.open();
        let write = s.write(0, 2 * CLUSTER, CLUSTER, false);
        s.wait(write).unwrap();
        let flush = s.flush(0);
        s.wait(flush).unwrap();
        let discard = s.discard(0, 2 * CLUSTER, CLUSTER);
        s.wait(discard).unwrap();
        // The page is written after its deadline; then the process dies.
        let deadline = s.world.now() + 1_010_000_000 + seed * 1_000_000;
        s.until(|s| s.world.now() > deadline);
        s.kill();
        if seed % 2 == 0 {
            s.world.deliver_old_life(99);
        }
        s.world.drop_old_life();
        s.come_back();
        for cluster in 5..10 {
            let write = s.write(1, cluster * CLUSTER, CLUSTER, true);
            s.wait(write).unwrap();
            s.crash_everywhere(6);
        }
        s.crash(&SurvivorPlan::None);
        s.close();
    }
}

/// A freed cluster waits until the page without its entry is durable.
#[test]
fn a_freed_cluster_waits_for_its_page() {
    for seed in 0..8 {
        let mut s = Scenario::new(seed);
        s.open();
        for cluster in 1..6 {
            let write = s.write(0, cluster * CLUSTER, CLUSTER, false);
            s.wait(write).unwrap();
        }
        let flush = s.flush(0);
        s.wait(flush).unwrap();
        for cluster in 1..6 {
            let discard = s.discard(0, cluster * CLUSTER, CLUSTER);
            s.wait(discard).unwrap();
            let write = s.write(1, (cluster + 5) * CLUSTER, CLUSTER, seed % 2 == 0);
            s.wait(write).unwrap();
            s.crash_everywhere(6);
        }
        s.close();
    }
}
