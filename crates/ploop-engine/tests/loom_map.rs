//! Model of the map as queues read it while the keeper changes it, under every interleaving and
//! every legal reordering (F3, I4, I15).
//!
//! Run by `cargo xtask loom`.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use ploop_engine::map::{Cell, Map, Page};
use ploop_format::{BatPage, GuestCluster, Sector};

const PAGE: BatPage = BatPage(0);
const HERE: GuestCluster = GuestCluster(3);
const TOP: Cell = Cell::at(0, Sector(2048), false);

/// A map of one page of holes.
fn map() -> Arc<Map> {
    let map = Map::new(8);
    map.install_holes(PAGE);
    Arc::new(map)
}

/// The keeper's order: own cells, dirty mark, cell.
fn publish(map: &Map) {
    map.own(PAGE);
    if let Some(page) = map.page(PAGE) {
        page.mark_dirty();
        page.set(HERE.slot().index, TOP);
    }
}

fn page(map: &Map) -> &Page {
    map.page(PAGE).unwrap_or_else(|| unreachable!("it was installed"))
}

/// F3: a queue that sees the mapping and finds the page durable may acknowledge FUA; then the
/// mapping must be durable.
#[test]
fn a_mapping_that_is_seen_is_not_taken_for_durable() {
    loom::model(|| {
        let map = map();
        let on_disk = Arc::new(AtomicBool::new(false));
        let queue = {
            let (map, on_disk) = (map.clone(), on_disk.clone());
            thread::spawn(move || {
                if map.get(HERE) == Some(TOP) && page(&map).is_durable() {
                    assert!(on_disk.load(Ordering::Relaxed), "FUA acknowledged too early");
                }
            })
        };
        publish(&map);
        on_disk.store(true, Ordering::Relaxed);
        page(&map).mark_durable();
        queue.join().unwrap();
    });
}

/// The same when the page was durable before, with another change of it.
#[test]
fn a_page_that_is_dirty_again_is_not_taken_for_durable() {
    loom::model(|| {
        let map = map();
        map.own(PAGE);
        page(&map).mark_dirty();
        page(&map).mark_durable();
        let on_disk = Arc::new(AtomicBool::new(false));
        let queue = {
            let (map, on_disk) = (map.clone(), on_disk.clone());
            thread::spawn(move || {
                if map.get(HERE) == Some(TOP) && page(&map).is_durable() {
                    assert!(on_disk.load(Ordering::Relaxed), "FUA acknowledged too early");
                }
            })
        };
        publish(&map);
        on_disk.store(true, Ordering::Relaxed);
        page(&map).mark_durable();
        queue.join().unwrap();
    });
}

/// I15: who hears of an acknowledgement sees the mapping, also where all pages of holes were one.
#[test]
fn a_read_after_the_acknowledgement_sees_the_mapping() {
    loom::model(|| {
        let map = map();
        let answered = Arc::new(AtomicBool::new(false));
        let queue = {
            let (map, answered) = (map.clone(), answered.clone());
            thread::spawn(move || {
                let heard = answered.load(Ordering::Acquire);
                let seen = map.get(HERE);
                assert!(!heard || seen == Some(TOP), "{seen:?} after the acknowledgement");
                assert!(seen == Some(TOP) || seen == Some(Cell::HOLE));
            })
        };
        publish(&map);
        answered.store(true, Ordering::Release);
        queue.join().unwrap();
    });
}
