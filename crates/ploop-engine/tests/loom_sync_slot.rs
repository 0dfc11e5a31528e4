//! Model of the sync slot: one sync in flight per file (F5), the keeper is not passed over for
//! ever, and a queue's own flush never leaves a change behind (I3), under every interleaving and
//! every legal reordering.
//!
//! Run by `cargo xtask loom`.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;
use ploop_engine::sync_slot::SyncSlot;

/// What the threads of a model share.
#[derive(Default)]
struct World {
    slot: SyncSlot,
    syncing: AtomicU64,
    woken: AtomicBool,
    failed: AtomicBool,
}

/// A sync, with nobody beside it. Returns whether the keeper must be woken.
fn sync(world: &World) -> bool {
    assert_eq!(world.syncing.fetch_add(1, Ordering::SeqCst), 0, "two syncs at a time");
    world.syncing.fetch_sub(1, Ordering::SeqCst);
    world.slot.give_back()
}

fn queue(world: &World) {
    if world.slot.take_for_flush() && sync(world) {
        world.woken.store(true, Ordering::SeqCst);
    }
}

#[test]
fn one_at_a_time_and_the_keeper_gets_its_turn() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let world = Arc::new(World::default());
        let queues = [(), ()].map(|()| {
            let world = world.clone();
            thread::spawn(move || queue(&world))
        });
        let got = world.slot.take_or_want();
        if got {
            let _ = sync(&world);
        }
        for queue in queues {
            queue.join().unwrap();
        }
        // Whoever stood in its way woke it, and nobody does any more.
        assert!(got || world.woken.load(Ordering::SeqCst), "the keeper sleeps for ever");
        assert!(got || world.slot.take_or_want());
    });
}

/// A change was answered before the flush came: the queue must see it as dirty.
#[test]
fn an_answered_change_is_dirty_for_every_queue() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let world = Arc::new(World::default());
        let answered = Arc::new(AtomicBool::new(false));
        let keeper = {
            let (world, answered) = (world.clone(), answered.clone());
            thread::spawn(move || {
                world.slot.mark_dirty();
                answered.store(true, Ordering::Release);
            })
        };
        let flush_covers_it = answered.load(Ordering::Acquire);
        let own = world.slot.take_for_flush();
        assert!(!(flush_covers_it && own), "a flush that leaves an answered change behind");
        keeper.join().unwrap();
    });
}

/// F5: a sync that begins after a failed one finds that it failed.
#[test]
fn no_sync_succeeds_after_a_failed_one() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let world = Arc::new(World::default());
        assert!(world.slot.take_for_flush());
        let other = {
            let world = world.clone();
            thread::spawn(move || {
                if world.slot.take_for_flush() {
                    assert!(world.failed.load(Ordering::SeqCst), "it would be answered well");
                }
            })
        };
        world.failed.store(true, Ordering::SeqCst);
        let _ = world.slot.give_back();
        other.join().unwrap();
    });
}
