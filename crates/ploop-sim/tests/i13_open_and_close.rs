//! I13, I12, I7: a crash after any operation of open and close leaves nothing but the in-use mark
//! and unreferenced clusters, and the disk opens again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_io::sim::SurvivorPlan;
use ploop_sim::life::Life;
use ploop_sim::recover;
use ploop_sim::scenario::{CLUSTER, Scenario};
use std::path::Path;

/// A disk with data, freed clusters and a tail, closed cleanly.
fn used(seed: u64) -> Scenario {
    let mut s = Scenario::new(seed);
    s.open();
    for cluster in 1..7 {
        let write = s.write(0, cluster * CLUSTER, CLUSTER, false);
        s.wait(write).unwrap();
    }
    let discard = s.discard(0, 2 * CLUSTER, CLUSTER);
    s.wait(discard).unwrap();
    s
}

#[test]
fn every_operation_of_an_open() {
    let mut after = 1;
    loop {
        let mut s = used(after);
        s.close();
        s.world.crash_after(Some(s.world.operations() + after));
        let target = Path::new(ploop_sim::scene::DESCRIPTOR);
        let how = ploop_sim::life::Opening {
            queues: 1,
            depth: 4,
            metadata_delay_ms: 5,
            seed: after,
            direct: true,
        };
        let opened = Life::open(&s.world, target, how);
        let dead = s.world.is_dead();
        s.crash_everywhere(10);
        drop(opened);
        if !dead {
            break;
        }
        after += 1;
    }
    assert!(after > 3, "an open is more than {after} operations");
}

#[test]
fn every_operation_of_a_close() {
    let mut after = 1;
    loop {
        let mut s = used(after);
        s.drain();
        s.world.crash_after(Some(s.world.operations() + after));
        let mut rng = ploop_io::sim::Rng::new(after);
        let closed = s.life.take().map(|life| recover::close(life, &mut rng));
        let dead = s.world.is_dead();
        if closed.is_some_and(|c| c.is_ok()) {
            s.model.closed();
        }
        s.crash_everywhere(10);
        if !dead {
            break;
        }
        after += 1;
    }
    assert!(after > 5, "a close is more than {after} operations");
}

#[test]
fn a_kill_and_an_open_again() {
    for seed in 0..20 {
        let mut s = used(seed);
        let flush = s.flush(0);
        s.wait(flush).unwrap();
        for n in 0..20 {
            s.write(n as usize % 2, n * 17 % (11 * CLUSTER), 5, n % 3 == 0);
        }
        for _ in 0..seed * 5 {
            s.turn();
        }
        s.kill();
        s.world.deliver_old_life(99);
        s.come_back();
        s.crash_everywhere(3);
        s.crash(&SurvivorPlan::None);
        s.close();
    }
}
