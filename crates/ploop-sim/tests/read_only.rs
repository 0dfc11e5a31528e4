//! A device that is only read: its keeper has nothing to do, and does nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use ploop_engine::Operation;
use ploop_io::sim::{Rng, SimWorld};
use ploop_sim::life::{Life, Opening, Turn};
use ploop_sim::model::Model;
use ploop_sim::profile::Profile;
use ploop_sim::scenario::{CLUSTER, Scenario};
use ploop_sim::traffic::{Traffic, Wish};
use ploop_sim::{recover, scene};
use std::path::Path;

/// A disk with data and with free clusters at its end, frozen under an empty top.
fn frozen() -> SimWorld {
    let mut scenario = Scenario::with(5, Profile { clusters: 12, ..Profile::plain() });
    scenario.open();
    for cluster in 0..6 {
        scenario.write(0, cluster * CLUSTER, CLUSTER, false);
    }
    scenario.drain();
    for cluster in 2..4 {
        scenario.discard(0, cluster * CLUSTER, CLUSTER);
    }
    scenario.close();
    scenario.add_level(2);
    scenario.world
}

#[test]
fn free_clusters_give_a_read_only_device_nothing_to_do() {
    let world = frozen();
    let base = Path::new(scene::HOME).join("root.hds");
    let before = world.read_file(&base).unwrap();
    let opening = Opening { queues: 2, depth: 8, metadata_delay_ms: 50, seed: 1, direct: true };
    let mut life = Life::open(&world, &base, opening).unwrap();
    assert!(life.device().limits().read_only, "a frozen image is only read");
    let (mut traffic, mut rng) = (Traffic::default(), Rng::new(3));
    for cluster in 0..12 {
        let wish = Wish::plain(Operation::Read, cluster * CLUSTER, CLUSTER);
        traffic.give(&mut life, cluster as usize % 2, wish, 0);
    }
    recover::drain(&mut life, &mut traffic, &mut Model::anything(), &mut rng).unwrap();
    assert_eq!(traffic.failed, 0);
    let idle = (0..100).any(|_| life.turn(&mut rng) == Turn::Idle);
    assert!(idle, "the device never comes to rest");
    recover::close(life, &mut rng).unwrap();
    assert!(world.read_file(&base).unwrap() == before);
}
