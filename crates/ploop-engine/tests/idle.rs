//! A keeper with nothing to do sleeps.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use common::*;
use ploop_engine::Device;
use ploop_engine::DeviceOptions;
use ploop_io::{Clock, Engine, EngineChoice, Io, RealClock};
use std::time::Duration;

#[test]
fn the_keeper_of_a_read_only_disk_sleeps_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (g, top) = (Geometry::new(64, 32 << 15), dir.path().join("top"));
    make_image(&top, g, &[(3, vec![1; 1 << 15])]);
    let mut spec = spec(g, &[top], false);
    // As the image code opens it: only a writable open knows what is in use.
    spec.read_only = true;
    spec.used = Default::default();
    let device = Device::new(spec, DeviceOptions::default()).unwrap();
    let (io, _) = Engine::open(EngineChoice::Threads).unwrap();
    let mut keeper = device.keeper(io).unwrap();
    // The map is filled ahead first.
    let mut deadline = None;
    for _ in 0..20 {
        deadline = keeper.step(RealClock.now());
        keeper.io_mut().wait(Some(Duration::from_millis(10)), &|| true).unwrap();
    }
    assert_eq!(deadline, None, "it comes again though nothing can change");
}
