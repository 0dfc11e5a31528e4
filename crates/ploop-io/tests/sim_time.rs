//! The simulated ring and clock: order, waiting, waking, and the same history for the same seed.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use ploop_io::sim::{Rng, SimOptions, SimWorld, SurvivorPlan};
use ploop_io::{Clock, Dir, Entropy, Interest, Io, Op, OpKind, OpenHow, RawFile};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const PATH: &str = "/root.hds";

fn scene(options: SimOptions) -> (SimWorld, Arc<dyn RawFile>) {
    let world = SimWorld::new(7, options);
    world.put_file(Path::new(PATH), &[1; 8192]);
    let how = OpenHow { write: true, ..OpenHow::default() };
    let file = world.dir().open(Path::new(PATH), how).unwrap();
    (world, file)
}

/// Starts `count` writes and returns the order of their completions.
fn order(options: SimOptions, seed: u64, count: u64) -> (Vec<u64>, u64) {
    let (world, file) = scene(options);
    let mut io = world.io(seed);
    let mut data = [2; 512];
    for token in 0..count {
        let buf = data.as_mut_ptr();
        let op = Op {
            token,
            kind: OpKind::Write,
            file: file.id(),
            offset: 512 * token,
            len: 512,
            buf,
            lent: None,
        };
        // SAFETY: the buffer and the file outlive the ring's work in this function.
        unsafe { io.push(op) };
    }
    let mut out = Vec::new();
    while (out.len() as u64) < count {
        io.wait(None, &|| true).unwrap();
        io.reap(&mut out);
    }
    (out.iter().map(|c| c.token).collect(), world.trace())
}

#[test]
fn one_seed_is_one_history_and_seeds_differ() {
    let first = order(SimOptions::default(), 1, 8);
    assert_eq!(first, order(SimOptions::default(), 1, 8));
    let other = order(SimOptions::default(), 2, 8);
    assert_ne!(first.1, other.1);
    assert_ne!(first.0, (0..8).collect::<Vec<_>>(), "operations overtake each other");
}

#[test]
fn order_is_kept_on_request() {
    let options = SimOptions { reorder: false, ..SimOptions::default() };
    for seed in 0..20 {
        assert_eq!(order(options.clone(), seed, 8).0, (0..8).collect::<Vec<_>>());
    }
}

#[test]
fn nothing_completes_before_its_time() {
    let options = SimOptions { delay_min: 1000, delay_max: 2000, ..SimOptions::default() };
    let (world, file) = scene(options);
    let mut io = world.io(1);
    let probe = io.probe();
    let buf = std::ptr::null_mut();
    let op =
        Op { token: 1, kind: OpKind::Sync, file: file.id(), offset: 0, len: 0, buf, lent: None };
    // SAFETY: a sync has no buffer.
    unsafe { io.push(op) };
    assert_eq!(world.next_event(), None, "pushed is not submitted");
    io.submit().unwrap();
    let mut out = Vec::new();
    world.advance_to(999);
    io.reap(&mut out);
    assert!(out.is_empty() && !probe.runnable());
    world.advance_to(4001);
    assert!(probe.runnable());
    io.reap(&mut out);
    assert_eq!(out.len(), 1);
    assert_eq!(world.clock().now(), 4001);
}

#[test]
fn wait_returns_for_a_wake_a_message_or_the_timeout() {
    let (world, _file) = scene(SimOptions::default());
    let mut io = world.io(1);
    io.wait(Some(Duration::from_secs(2)), &|| true).unwrap();
    assert_eq!(world.now(), 2_000_000_000);
    let wall = world.clock().wall();
    io.waker().wake();
    assert!(io.probe().runnable());
    io.wait(Some(Duration::from_secs(2)), &|| true).unwrap();
    io.wait(Some(Duration::from_secs(2)), &|| false).unwrap();
    assert_eq!(world.now(), 2_000_000_000, "no time has passed");
    assert_eq!(world.clock().wall(), wall);
    io.wait(None, &|| true).unwrap();
}

#[test]
fn watches_fire_once() {
    let (world, _file) = scene(SimOptions::default());
    let mut io = world.io(1);
    let probe = io.probe();
    io.watch(5, Interest::Read, 77);
    io.watch(6, Interest::Read, 78);
    io.unwatch(78);
    assert_eq!((probe.fire(5, 1), probe.fire(5, 1), probe.fire(6, 1)), (1, 0, 0));
    let mut out = Vec::new();
    io.reap(&mut out);
    assert_eq!(out.iter().map(|c| (c.token, c.result)).collect::<Vec<_>>(), [(77, 1)]);
}

#[test]
fn entropy_and_generator_follow_their_seed() {
    let (world, _file) = scene(SimOptions::default());
    let (mut one, mut two) = ([0; 20], [0; 20]);
    world.entropy(5).fill(&mut one);
    world.entropy(5).fill(&mut two);
    assert_eq!(one, two);
    let mut rng = Rng::new(3);
    for _ in 0..1000 {
        assert!((5..=9).contains(&rng.between(5, 9)));
    }
    assert_eq!(rng.below(0), 0);
}

#[test]
fn a_crashed_world_keeps_time_and_forgets_processes() {
    let (world, file) = scene(SimOptions::default());
    world.advance_to(500);
    file.write_at(&[2; 512], 0).unwrap();
    let crashed = world.crash(&SurvivorPlan::None);
    assert_eq!((crashed.unsynced, crashed.survived), (1, 0));
    assert_eq!(crashed.world.now(), 500);
    assert_eq!(crashed.world.operations(), 0);
    assert_eq!(crashed.world.in_flight(), 0);
    assert_eq!(world.read_file(Path::new(PATH)).unwrap()[0], 2, "the old world is untouched");
}

#[test]
fn some_operations_take_a_thousand_times_as_long() {
    let options =
        SimOptions { delay_min: 10, delay_max: 20, straggler: 4, ..SimOptions::default() };
    let (world, file) = scene(options);
    let mut io = world.io(1);
    let buf = std::ptr::null_mut();
    for token in 0..40 {
        let op =
            Op { token, kind: OpKind::Sync, file: file.id(), offset: 0, len: 0, buf, lent: None };
        // SAFETY: a sync has no buffer.
        unsafe { io.push(op) };
    }
    io.submit().unwrap();
    world.advance_to(1000);
    let mut out = Vec::new();
    io.reap(&mut out);
    assert!((20..40).contains(&out.len()), "{}", out.len());
    world.settle();
    io.reap(&mut out);
    assert_eq!(out.len(), 40);
}
