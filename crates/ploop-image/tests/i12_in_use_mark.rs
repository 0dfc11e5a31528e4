//! I12: the mark is durable before the first change, and goes after everything else is durable.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod crashing;
use crashing::*;
use ploop_image::{CheckOptions, Disk, ImageError, check};
use ploop_io::sim::SimWorld;
use std::path::Path;
use std::sync::Arc;

#[test]
fn open_and_close_survive_a_crash_anywhere() {
    crash_everywhere(with_disk, open_and_close, assert_whole);
}

#[test]
fn a_failed_operation_of_open_close_or_snapshot_leaves_a_whole_disk() {
    let judge = |world: &SimWorld, done: Result<(), ImageError>, at: &str| {
        if let Err(error) = &done {
            assert_ne!(error.exit_code(), 0, "{at}");
        }
        assert_whole(world, at);
    };
    fail_everywhere(with_disk, open_and_close, judge);
    fail_everywhere(with_disk, take_snapshot, judge);
}

#[test]
fn a_kill_leaves_the_mark_and_nothing_else() {
    let world = with_disk();
    drop(Disk::open(Arc::new(world.dir()), Path::new(HOME), &options()).unwrap());
    world.kill();
    let report = check(&world.dir(), Path::new(HOME), &CheckOptions::default(), &options());
    assert_eq!(report.unwrap().exit_code(), 37);
    assert_whole(&world, "after a kill");
}

/// The top's bytes change only while the mark is durable: whatever a crash leaves that differs
/// from the closed image carries the mark.
#[test]
fn no_change_without_the_mark() {
    let closed = with_disk().read_file(Path::new(IMAGE)).unwrap();
    crash_everywhere(with_disk, open_and_close, |world, at| {
        let image = world.read_file(Path::new(IMAGE)).unwrap();
        let header = ploop_format::Header::parse(&image).unwrap();
        // The first header still says Empty; the one a close writes does not.
        if !header.in_use().is_in_use() && header.claims_empty() {
            assert_eq!(image.len(), closed.len(), "{at}");
            assert_eq!(image[64..], closed[64..], "{at}");
        }
    });
}
