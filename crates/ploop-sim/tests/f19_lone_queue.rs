//! F19: a lone queue rewrites parts of blocks by itself. Nothing else changes a block meanwhile,
//! and parts that come while their block is read go with it.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use ploop_io::OpKind;
use ploop_io::sim::Verdict;
use ploop_sim::Profile;
use ploop_sim::life::Turn;
use ploop_sim::scenario::{CLUSTER, Scenario};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Reads and writes of clusters.
#[derive(Clone, Default)]
struct Seen(Arc<[AtomicU64; 2]>);

impl Seen {
    fn reads(&self) -> u64 {
        self.0[0].load(Ordering::SeqCst)
    }

    fn writes(&self) -> u64 {
        self.0[1].load(Ordering::SeqCst)
    }
}

/// A disk with one queue on storage of 4096-byte blocks (eight sectors), whose cluster 1 is
/// written. From now on reads and writes are counted, and the first one of a kind is held.
fn lone(hold: OpKind) -> (Scenario, Seen) {
    let mut profile = Profile { clusters: 12, queues: 1, depth: 16, ..Profile::plain() };
    profile.world.caps.offset_align = 4096;
    profile.metadata_delay_ms = 1000;
    let mut s = Scenario::with(7, profile);
    s.open();
    let write = s.write(0, CLUSTER, CLUSTER, true);
    s.wait(write).unwrap();
    let (seen, held) = (Seen::default(), AtomicU64::new(0));
    let counts = seen.clone();
    s.hook(move |attempt| {
        let write = matches!(attempt.kind, OpKind::Write | OpKind::WriteDsync);
        let data = write || attempt.kind == OpKind::Read;
        if !data || attempt.blocking || attempt.offset < CLUSTER * 512 {
            return Verdict::Normal;
        }
        counts.0[usize::from(write)].fetch_add(1, Ordering::SeqCst);
        let wanted = write == (hold == OpKind::Write);
        match wanted && held.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Verdict::Hold,
            false => Verdict::Normal,
        }
    });
    (s, seen)
}

/// Goes on until nothing happens any more but what is held.
fn idle(s: &mut Scenario) {
    let later = s.world.now() + 5_000_000_000;
    s.until(|s| s.world.now() > later);
    assert_eq!(s.world.held(), 1, "it is still held");
}

/// Lets go, waits for everybody, and looks at the cluster.
fn let_go(mut s: Scenario) {
    s.world.release_held(false);
    s.drain();
    let read = s.read(0, CLUSTER, CLUSTER);
    s.wait(read).unwrap();
    s.close();
}

fn rewritten(s: &Scenario) -> u64 {
    s.life.as_ref().unwrap().device().queue_stats(0).rewritten.get()
}

#[test]
fn what_changes_a_block_waits_for_its_rewrite() {
    let (mut s, seen) = lone(OpKind::Read);
    let part = s.write(0, CLUSTER + 1, 1, false);
    assert!(s.until(|s| s.world.held() == 1), "its block is being read");
    let others = [
        s.write(0, CLUSTER, 8, false),
        s.write(0, CLUSTER, 16, true),
        s.discard(0, CLUSTER, 8),
        s.zero(0, CLUSTER, 8, false),
        s.zero(0, CLUSTER + 4, 8, false),
    ];
    let beside = s.write(0, CLUSTER + 16, 8, false);
    s.wait(beside).unwrap();
    idle(&mut s);
    assert!(s.outcome(part).is_none());
    assert!(others.iter().all(|tag| s.outcome(*tag).is_none()), "they wait");
    assert_eq!((seen.reads(), seen.writes()), (1, 1), "only what lies beside was written");
    let_go(s);
}

#[test]
fn a_part_waits_for_what_changes_its_block() {
    let (mut s, seen) = lone(OpKind::Write);
    let whole = s.write(0, CLUSTER, 8, false);
    assert!(s.until(|s| s.world.held() == 1), "the block is being written");
    let part = s.write(0, CLUSTER + 1, 1, false);
    let other = s.write(0, CLUSTER + 9, 1, false);
    s.wait(other).unwrap();
    idle(&mut s);
    assert!(s.outcome(whole).is_none() && s.outcome(part).is_none());
    assert_eq!((seen.reads(), seen.writes()), (1, 2), "the other block, and what is held");
    let_go(s);
}

#[test]
fn parts_that_come_while_their_block_is_read_go_with_it() {
    let (mut s, seen) = lone(OpKind::Read);
    let first = s.write(0, CLUSTER + 1, 1, false);
    assert!(s.until(|s| s.world.held() == 1), "its block is being read");
    for (sector, fua) in [(2, false), (1, true), (7, false)] {
        s.write(0, CLUSTER + sector, 1, fua);
    }
    s.zero(0, CLUSTER + 4, 1, false);
    idle(&mut s);
    s.world.release_held(false);
    s.wait(first).unwrap();
    s.drain();
    assert_eq!((seen.reads(), seen.writes()), (1, 1), "one read and one write for all");
    assert_eq!(rewritten(&s), 5);
    s.crash_everywhere(5);
    let_go(s);
}

#[test]
fn parts_that_come_while_their_block_is_written_are_the_next() {
    let (mut s, seen) = lone(OpKind::Write);
    s.write(0, CLUSTER + 1, 1, false);
    assert!(s.until(|s| s.world.held() == 1), "its block is being written");
    let late = [2, 1, 7].map(|sector| s.write(0, CLUSTER + sector, 1, false));
    idle(&mut s);
    assert!(late.iter().all(|tag| s.outcome(*tag).is_none()), "they wait");
    s.world.release_held(false);
    s.drain();
    assert_eq!((seen.reads(), seen.writes()), (2, 2), "one read and one write for those late");
    let_go(s);
}

/// More blocks than there is memory for, and one piece larger than all of it.
#[test]
fn who_finds_no_memory_waits() {
    let mut profile = Profile { clusters: 12, queues: 1, depth: 64, ..Profile::plain() };
    profile.world.caps.offset_align = 4096;
    let mut s = Scenario::with(9, profile);
    s.open();
    for n in 0..64 {
        s.write(0, CLUSTER + n * 8 + n % 8, 1, n % 5 == 0);
    }
    s.write(0, CLUSTER + 1, 4 * CLUSTER, true);
    s.drain();
    let read = s.read(0, 0, 11 * CLUSTER);
    s.wait(read).unwrap();
    assert_eq!(rewritten(&s), 65);
    assert_ne!(s.turn(), Turn::Dead);
    s.close();
}
