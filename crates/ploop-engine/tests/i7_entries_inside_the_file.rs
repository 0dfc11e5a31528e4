//! I7: every entry on disk lies inside the file, behind the BAT, and the file is whole clusters,
//! at every moment that a guest was told of.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use common::*;
use ploop_engine::*;
use ploop_io::EngineChoice;

#[test]
fn after_every_fua_write_the_table_on_disk_is_sound() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let g = Geometry::new(64, 16 << 20);
    let path = dir.path().join("top");
    make_image(&path, g, &[]);
    let options = DeviceOptions { metadata_delay_ms: 0, ..DeviceOptions::default() };
    let spec = spec(g, std::slice::from_ref(&path), false);
    let rig = Rig::start(spec, options, EngineChoice::Uring);
    let mut rng = Rng(7);
    let fua = Flags { fua: true, ..Flags::default() };
    for round in 0..200 {
        let cluster = rng.below(g.entries());
        let at = cluster * g.cluster.bytes();
        if round % 5 == 4 {
            rig.plain(0, Operation::WriteZeroes, at, g.cluster.bytes(), fua).unwrap();
            assert!(!scan(&path, g).contains_key(&cluster), "an acknowledged unmapping is there");
        } else {
            rig.write(0, at, &pattern(&mut rng, 4096), fua).unwrap();
            assert!(scan(&path, g).contains_key(&cluster), "an acknowledged mapping is there");
        }
    }
    assert!(rig.stop().clean);
    scan(&path, g);
}
