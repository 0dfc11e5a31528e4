//! I18: a cluster is handed out as clean only if zeros there are durable (F6, F13).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_io::sim::SurvivorPlan;
use ploop_sim::Profile;
use ploop_sim::scenario::{CLUSTER, Scenario};
use std::path::Path;
use std::sync::Arc;

/// F6 (b): data reached the disk, its entry did not; the cluster is unreferenced and full of old
/// bytes. A small write that gets it must not show them.
#[test]
fn leaked_clusters_with_old_bytes_are_cleaned_before_use() {
    for seed in 0..12 {
        let mut s = Scenario::new(seed);
        s.open();
        for cluster in 1..5 {
            let write = s.write(0, cluster * CLUSTER, CLUSTER, false);
            s.wait(write).unwrap();
        }
        let low = 32 << 10;
        s.crash(&SurvivorPlan::Only(Arc::new(move |change| change.offset >= low)));
        for cluster in 5..10 {
            let write = s.write(0, cluster * CLUSTER + 8, 1, seed % 2 == 0);
            s.wait(write).unwrap();
            let read = s.read(0, cluster * CLUSTER, CLUSTER);
            s.wait(read).unwrap();
            s.crash_everywhere(4);
        }
        let flush = s.flush(0);
        s.wait(flush).unwrap();
        s.crash_everywhere(4);
        s.close();
    }
}

/// Freed clusters are cleaned, and the cleaning is durable, before they are used again.
#[test]
fn freed_clusters_come_back_clean() {
    for seed in 0..8 {
        let mut s = Scenario::new(seed);
        s.open();
        for round in 0..4 {
            for cluster in 1..8 {
                let write = s.write(0, cluster * CLUSTER, CLUSTER, false);
                s.wait(write).unwrap();
            }
            let flush = s.flush(0);
            s.wait(flush).unwrap();
            for cluster in 1..8 {
                let discard = s.discard(1, cluster * CLUSTER, CLUSTER);
                s.wait(discard).unwrap();
            }
            let pause = s.world.now() + round * 700_000_000;
            s.until(|s| s.world.now() > pause);
            for cluster in 1..8 {
                let write = s.write(0, cluster * CLUSTER + cluster, 1, seed % 3 == 0);
                s.wait(write).unwrap();
                let read = s.read(1, cluster * CLUSTER, CLUSTER);
                s.wait(read).unwrap();
                if cluster == 4 {
                    s.crash_everywhere(3);
                }
            }
        }
        s.close();
    }
}

/// A host that can only write zeros, and 128 MiB that nobody knows the content of: they are cleaned
/// one piece after the other, without turning in between, and a close does not wait for the rest.
#[test]
fn cleaning_by_writing_neither_spins_nor_holds_up_a_close() {
    let mut profile = Profile { clusters: 12, ..Profile::plain() };
    profile.world.caps.punch = false;
    profile.world.caps.zero_range = false;
    let mut s = Scenario::with(7, profile);
    s.open();
    let write = s.write(0, CLUSTER, CLUSTER, true);
    s.wait(write).unwrap();
    s.kill();
    let image = Path::new("/disk/root.hds");
    let end = s.world.read_file(image).unwrap().len() as u64;
    s.world.cut_file(image, end + (128 << 20)).unwrap();
    s.come_back();
    let (begin, start) = (s.world.now(), s.world.operations());
    let mut turns = 0;
    s.until(|s| {
        turns += 1;
        s.world.now() > begin + 20_000_000
    });
    let done = s.world.operations() - start;
    assert!(done > 0 && turns < 20 * (done + 10), "{turns} turns for {done} operations");
    let before = s.world.operations();
    s.close();
    let closing = s.world.operations() - before;
    assert!(closing < 40, "{closing} operations to close");
}
