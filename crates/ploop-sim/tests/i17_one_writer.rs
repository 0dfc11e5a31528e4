//! I17: no operation of a former process reaches a file after a new one has read it (F7).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_sim::life::{Life, Opening};
use ploop_sim::recover;
use ploop_sim::scenario::{CLUSTER, Scenario};
use std::path::Path;

#[test]
fn a_disk_does_not_open_while_the_former_process_still_writes() {
    let mut waited = 0;
    for seed in 0..40 {
        let mut s = Scenario::new(seed);
        s.open();
        for n in 0..12 {
            s.write(
                n as usize % 2,
                n * CLUSTER,
                CLUSTER.min(11 * CLUSTER - n * CLUSTER + 1),
                false,
            );
        }
        s.flush(0);
        for _ in 0..10 + seed * 3 {
            s.turn();
        }
        s.kill();
        while s.world.old_life() > 0 {
            let how = Opening { queues: 1, depth: 4, metadata_delay_ms: 5, seed, direct: true };
            match Life::open(&s.world, Path::new(ploop_sim::scene::DESCRIPTOR), how) {
                Ok(_) => panic!("opened with {} operations under way", s.world.old_life()),
                Err(error) => assert!(recover::in_use(&error), "{error}"),
            }
            waited += 1;
            s.world.deliver_old_life(1);
        }
        s.come_back();
        s.close();
    }
    assert!(waited > 10, "the operations were in flight {waited} times");
}

#[test]
fn a_second_process_is_refused() {
    let mut s = Scenario::new(1);
    s.open();
    let how = Opening { queues: 1, depth: 4, metadata_delay_ms: 5, seed: 1, direct: true };
    let second = Life::open(&s.world, Path::new(ploop_sim::scene::DESCRIPTOR), how);
    assert!(second.err().is_some_and(|error| recover::in_use(&error)));
    s.close();
}
