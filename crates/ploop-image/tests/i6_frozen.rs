//! I6: a frozen delta's bytes never change, whatever is done to the disk above it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod crashing;
use crashing::*;
use std::path::Path;

#[test]
fn opens_closes_and_snapshots_leave_a_frozen_delta_alone() {
    let scene = || {
        let world = with_disk();
        take_snapshot(&world).unwrap();
        world
    };
    let frozen = scene().read_file(Path::new(IMAGE)).unwrap();
    let same = |world: &ploop_io::sim::SimWorld, at: &str| {
        assert_eq!(world.read_file(Path::new(IMAGE)).unwrap(), frozen, "{at}");
        assert_whole(world, at);
        assert_eq!(world.read_file(Path::new(IMAGE)).unwrap(), frozen, "{at}");
    };
    let open = |world: &ploop_io::sim::SimWorld| open_and_abort(world);
    crash_everywhere(scene, open, same);
    let again = |world: &ploop_io::sim::SimWorld| {
        let (dir, entropy) = (world.dir(), world.entropy(3));
        ploop_image::snapshot(&dir, &entropy, Path::new(HOME), None, &options()).map(drop)
    };
    crash_everywhere(scene, again, same);
}
