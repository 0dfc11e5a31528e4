//! I4: an acknowledged FUA operation survives a host crash, data and mapping (F3).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_io::sim::SurvivorPlan;
use ploop_sim::scenario::{CLUSTER, Scenario};

fn look(s: &mut Scenario) {
    s.look_at(&SurvivorPlan::None);
    s.crash_everywhere(6);
}

/// F3 (a): the mapping is of an earlier write that nobody flushed.
#[test]
fn fua_after_a_plain_write_to_a_hole() {
    for seed in 0..12 {
        let mut s = Scenario::new(seed);
        s.open();
        let plain = s.write(0, CLUSTER, 4, false);
        s.wait(plain).unwrap();
        let fua = s.write(1, CLUSTER + 2, 1, true);
        s.wait(fua).unwrap();
        look(&mut s);
        s.close();
    }
}

/// F3 (b): the mapping is of a copy-up.
#[test]
fn fua_after_a_copy_up() {
    for seed in 0..12 {
        let mut s = Scenario::new(seed);
        s.open();
        s.write(0, CLUSTER, CLUSTER, false);
        s.add_level(1);
        s.open();
        let plain = s.write(0, CLUSTER + 9, 4, false);
        s.wait(plain).unwrap();
        let fua = s.write(1, CLUSTER + 10, 1, true);
        let second = s.write(0, CLUSTER + 20, 1, true);
        s.wait(fua).unwrap();
        look(&mut s);
        s.wait(second).unwrap();
        look(&mut s);
        s.close();
    }
}

/// F3 (c): discarded, the page not durable; then zeros with FUA that write nothing.
#[test]
fn fua_zeros_after_a_discard() {
    for seed in 0..12 {
        for whole in [true, false] {
            let mut s = Scenario::new(seed);
            s.open();
            let write = s.write(0, CLUSTER, CLUSTER, true);
            s.wait(write).unwrap();
            let discard = s.discard(0, CLUSTER, CLUSTER);
            s.wait(discard).unwrap();
            let (first, count) = if whole { (CLUSTER, CLUSTER) } else { (CLUSTER + 8, 8) };
            let zero = if seed % 2 == 0 {
                s.zero(1, first, count, true)
            } else {
                let flags = ploop_engine::Flags { fua: true, ..Default::default() };
                let wish = ploop_sim::traffic::Wish::write(first, count, 0, true);
                s.give(1, ploop_sim::traffic::Wish { flags, ..wish })
            };
            s.wait(zero).unwrap();
            look(&mut s);
            s.close();
        }
    }
}

/// F3 (d): zeros with FUA done by a punch need a sync of their own.
#[test]
fn fua_zeros_over_written_blocks() {
    for seed in 0..12 {
        let mut s = Scenario::new(seed);
        s.open();
        let write = s.write(0, CLUSTER, CLUSTER, true);
        s.wait(write).unwrap();
        let (first, count) =
            [(CLUSTER + 8, 16), (CLUSTER + 3, 30), (CLUSTER, CLUSTER)][seed as usize % 3];
        let zero = s.zero(1, first, count, true);
        s.wait(zero).unwrap();
        look(&mut s);
        s.close();
    }
}
