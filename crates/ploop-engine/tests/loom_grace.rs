//! Model of the in-flight protection (F9, I11): a queue that found a cluster mapped is out before
//! the keeper frees it, under every interleaving and every legal reordering.
//!
//! Run by `cargo xtask loom`.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;
use ploop_engine::grace::Grace;

const MAPPED: u64 = 1;

fn reader(grace: &Grace, lane: usize, cell: &AtomicU64, freed: &AtomicBool) {
    let ticket = grace.enter(lane);
    if cell.load(Ordering::Acquire) == MAPPED {
        assert!(!freed.load(Ordering::Relaxed), "I/O to a freed cluster");
    }
    let _ = grace.leave(lane, ticket);
}

fn free(grace: &Grace, cell: &AtomicU64, freed: &AtomicBool) {
    cell.store(0, Ordering::Release);
    let mut period = grace.begin();
    while !grace.poll(&mut period) {
        thread::yield_now();
    }
    freed.store(true, Ordering::Relaxed);
}

#[test]
fn no_io_reaches_a_freed_cluster() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let grace = Arc::new(Grace::new(1));
        let cell = Arc::new(AtomicU64::new(MAPPED));
        let freed = Arc::new(AtomicBool::new(false));
        let queue = {
            let (grace, cell, freed) = (grace.clone(), cell.clone(), freed.clone());
            thread::spawn(move || reader(&grace, 0, &cell, &freed))
        };
        free(&grace, &cell, &freed);
        queue.join().unwrap();
    });
}

/// The second period must wait for a queue that read the epoch before the first one.
#[test]
fn two_periods_in_a_row() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let grace = Arc::new(Grace::new(1));
        let cells = Arc::new([AtomicU64::new(MAPPED), AtomicU64::new(MAPPED)]);
        let freed = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let queue = {
            let (grace, cells, freed) = (grace.clone(), cells.clone(), freed.clone());
            thread::spawn(move || reader(&grace, 0, &cells[1], &freed[1]))
        };
        free(&grace, &cells[0], &freed[0]);
        free(&grace, &cells[1], &freed[1]);
        queue.join().unwrap();
    });
}
