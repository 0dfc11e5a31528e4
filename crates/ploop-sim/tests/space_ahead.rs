//! P10: space is kept ahead of writes only as far as the disk can need it and the option allows.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_sim::Profile;
use ploop_sim::scenario::{CLUSTER, Scenario};

/// Sixty-four clusters.
const CLUSTERS: u64 = 64;

fn disk(seed: u64) -> Scenario {
    Scenario::with(seed, Profile { clusters: CLUSTERS, ..Profile::plain() })
}

/// Clusters that the file was made longer by.
fn extended(s: &Scenario) -> u64 {
    s.life.as_ref().unwrap().device().keeper_stats().extended.get()
}

fn rest(s: &mut Scenario, seconds: u64) {
    let until = s.world.now() + seconds * 1_000_000_000;
    s.until(|s| s.world.now() > until);
}

/// Clusters of data that the image takes.
fn length(s: &Scenario) -> u64 {
    let image = s.world.read_file(std::path::Path::new("/disk/root.hds")).unwrap();
    image.len() as u64 / (CLUSTER * 512) - 1
}

#[test]
fn a_disk_that_rests_keeps_a_few_clusters() {
    let mut s = disk(1);
    s.open();
    rest(&mut s, 30);
    assert!(extended(&s) <= 4, "{} clusters for a disk that nobody wrote to", extended(&s));
    s.close();
    assert_eq!(length(&s), 0);
}

#[test]
fn a_disk_that_is_full_keeps_none() {
    let mut s = disk(2);
    s.open();
    for cluster in 0..CLUSTERS {
        s.write(0, cluster * CLUSTER, CLUSTER, false);
        if cluster % 8 == 7 {
            s.drain();
        }
        let grown = extended(&s);
        assert!(grown <= CLUSTERS, "{grown} clusters of a device of {CLUSTERS} at {cluster}");
    }
    s.drain();
    assert_eq!(extended(&s), CLUSTERS, "every cluster once");
    s.close();
    // Written over and over: nothing is left to need.
    s.open();
    for _ in 0..3 {
        for cluster in 0..CLUSTERS {
            s.write(0, cluster * CLUSTER, CLUSTER, false);
            s.drain();
        }
        s.flush(0);
        s.drain();
    }
    assert_eq!(extended(&s), 0, "no hole is left, so nothing is kept ahead");
    s.close();
    assert_eq!(length(&s), CLUSTERS);
}
