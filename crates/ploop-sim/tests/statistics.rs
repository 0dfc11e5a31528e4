//! Statistics that need a host of their own: a full one, and one whose time is known.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may panic")]

use ploop_engine::stats::{CLASSES, KeeperStats, QueueStats};
use ploop_sim::Profile;
use ploop_sim::scenario::{CLUSTER, Scenario};

fn queue(s: &Scenario, n: usize) -> &QueueStats {
    s.life.as_ref().unwrap().device().queue_stats(n)
}

fn keeper(s: &Scenario) -> &KeeperStats {
    s.life.as_ref().unwrap().device().keeper_stats()
}

fn full(s: &Scenario) {
    s.world.set_capacity(Some(s.world.allocated()));
}

/// F17: however often a held request is tried again, it is one held request, and all that are held
/// at the same time are one episode.
#[test]
fn a_request_held_again_and_again_is_one_and_so_is_its_episode() {
    for seed in 0..8 {
        let mut s = Scenario::with(seed, Profile { clusters: 60, ..Profile::plain() });
        s.open();
        for episode in 1..=2 {
            full(&s);
            let first = episode * 20;
            let mut held = Vec::new();
            let mut cluster = first;
            // Clean clusters made before are used up first.
            while queue(&s, 0).parked.get() < 2 {
                held.push(s.write(0, cluster * CLUSTER, CLUSTER, false));
                cluster += 1;
                let until = s.world.now() + 50_000_000;
                s.until(|s| s.world.now() > until);
                assert!(cluster < first + 19, "the host never got full");
            }
            let until = s.world.now() + 500_000_000;
            s.until(|s| s.world.now() > until);
            let stats = queue(&s, 0);
            assert_eq!((stats.held.get(), stats.full_episodes.get()), (2 * episode, episode));
            assert!(keeper(&s).extensions_refused.get() >= episode, "tried again and again");
            s.world.set_capacity(None);
            s.drain();
            assert!(held.iter().all(|tag| s.outcome(*tag) == Some(Ok(0))));
            let stats = queue(&s, 0);
            assert_eq!((stats.held.get(), stats.parked.get()), (2 * episode, 0));
            // The wait is part of the latency.
            let slowest = stats.classes.iter().map(|class| class.latency.max()).max();
            assert!(slowest >= Some(500_000_000), "{slowest:?}");
        }
        assert_eq!(queue(&s, 1).held.get() + queue(&s, 1).full_episodes.get(), 0);
        s.close();
    }
}

/// P10: what was kept ahead and is cut again is told apart from what was used.
#[test]
fn an_idle_disk_tells_what_it_gave_back() {
    let mut s = Scenario::with(1, Profile { clusters: 60, ..Profile::plain() });
    s.open();
    for cluster in 0..9 {
        let write = s.write(0, cluster * CLUSTER, 8, false);
        s.wait(write).unwrap();
    }
    let later = s.world.now() + 120_000_000_000;
    s.until(|s| s.world.now() > later);
    let stats = keeper(&s);
    assert_eq!((stats.allocated.get(), stats.clean.get()), (9, 0));
    assert!(stats.given_back.get() > 0);
    assert_eq!(stats.extended.get(), 9 + stats.given_back.get());
    s.close();
}

/// Several flushes behind one sync are one group.
#[test]
fn waiters_of_one_sync_are_one_group() {
    let mut s = Scenario::new(3);
    s.open();
    let write = s.write(0, CLUSTER, CLUSTER, false);
    s.wait(write).unwrap();
    let own = |s: &Scenario| queue(s, 0).sync_batches.sum() + queue(s, 1).sync_batches.sum();
    // Dirty: the keeper syncs, for all of them.
    let before = keeper(&s).sync_batches.sum();
    let flushes: Vec<u64> = (0..6).map(|n| s.flush(n % 2)).collect();
    for flush in flushes {
        s.wait(flush).unwrap();
    }
    let batches = &keeper(&s).sync_batches;
    assert_eq!((batches.sum() - before, own(&s)), (6, 0));
    assert!(batches.max() >= 3, "{} at most together", batches.max());
    // Clean: the queue syncs by itself, and the keeper has nothing to do.
    let handed = keeper(&s).flushes.get();
    let overwrite = s.write(0, CLUSTER, CLUSTER, false);
    s.wait(overwrite).unwrap();
    let flushes: Vec<u64> = (0..4).map(|_| s.flush(0)).collect();
    for flush in flushes {
        s.wait(flush).unwrap();
    }
    assert_eq!((keeper(&s).flushes.get(), own(&s)), (handed, 4));
    assert_eq!(queue(&s, 0).sync_batches.max(), 4);
    assert_eq!(queue(&s, 0).syncs.get(), queue(&s, 0).sync_latency.counts().sum::<u64>());
    let flush = CLASSES.iter().position(|class| class.operation == "flush").unwrap();
    let counted = |n| queue(&s, n).classes[flush].latency.counts().sum::<u64>();
    assert_eq!((counted(0), counted(1)), (7, 3));
    let syncs = &keeper(&s).sync_latency;
    assert!(syncs.max() > 0 && syncs.sum() >= syncs.max());
    s.close();
}
