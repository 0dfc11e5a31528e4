//! SIGKILL under load, the disk being a block device or a FUSE file: what an fsync acknowledged is
//! there, what the server left is taken away, the disk goes on.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use ploop_e2e::checks::{seed, wants_clean, wants_in_use_only};
use ploop_e2e::device::{is_configured, is_running};
use ploop_e2e::requests::Threads;
use ploop_e2e::stamps::{Ledger, Random, WINDOW};
use ploop_e2e::world::wait_until;
use ploop_e2e::{World, can_attach, have};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const ZONE: u64 = 32 << 20;
/// One thread for each request the ledger sends at once, and some for its flushes.
const THREADS: usize = WINDOW + 8;

fn open(path: &str) -> Threads {
    Threads::open(path.as_ref(), THREADS).unwrap()
}

/// Kills the server under traffic, 50 to 500 ms after it began; nothing fails before.
fn kill_under_traffic(ledger: &mut Ledger, pid: u32, mut client: Threads, after: u64) {
    let before = ledger.count;
    let killed = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&killed);
    let raw = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let killer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(after));
        tell.store(true, Ordering::SeqCst);
        kill_process(raw, Signal::KILL).unwrap();
    });
    assert!(!ledger.traffic(&mut client, u64::MAX).unwrap());
    assert!(killed.load(Ordering::SeqCst), "an error before the kill");
    killer.join().unwrap();
    // Every request ends, or this never returns.
    drop(client);
    assert!(wait_until(Duration::from_secs(20), || !is_running(pid)), "{pid} lives");
    assert!(ledger.count.cut_off - before.cut_off >= WINDOW as u64 / 2, "too few in flight");
}

fn nothing_is_left(world: &World, device: &str) {
    assert!(!is_configured(device), "{device} is still there");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&world.text("run")), "{mounts}");
}

#[test]
fn the_block_device_killed_8_times_and_nothing_synced_is_lost() {
    if !can_attach() || !have(&["qemu-img"]) {
        return;
    }
    let world = World::new("kill-device").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-b", "256", "-t", "none", &image]);
    let seed = seed();
    let (mut ledger, mut random) = (Ledger::new(ZONE, seed), Random::new(seed ^ 0xdead));
    for round in 0..8 {
        let attached = world.attach(&["a"]);
        let mut client = open(&attached.device);
        ledger.verify(&mut client).unwrap();
        kill_under_traffic(&mut ledger, attached.pid, client, 50 + random.below(451));
        world.ploop_ok(&["detach", if round % 2 == 0 { "a" } else { &attached.device }]);
        nothing_is_left(&world, &attached.device);
        wants_in_use_only(&world, "a");
        let attached = world.attach(&["a"]);
        ledger.verify(&mut open(&attached.device)).unwrap();
        world.detach(&attached);
        wants_clean(&world, "a");
        if round % 3 == 2 {
            // The next kills are in the middle of copy-ups.
            world.ploop_ok(&["snapshot", "a"]);
        }
    }
    println!("8 kills, seed {seed}: {:?}", ledger.count);
    assert!(ledger.count.flushes > 8 && ledger.count.answered > 800, "{:?}", ledger.count);
}

#[test]
fn the_fuse_file_killed_4_times_and_nothing_synced_is_lost() {
    if !can_attach() || !have(&["qemu-img"]) {
        return;
    }
    let world = World::new("kill-fuse").unwrap();
    let image = world.disk("a").unwrap();
    let file = world.text("disk.raw");
    world.ploop_ok(&["init", "-s", "64M", "-t", "none", &image]);
    let seed = seed();
    let (mut ledger, mut random) = (Ledger::new(ZONE, seed), Random::new(seed ^ 0xdead));
    for _ in 0..4 {
        let server = world.serve(&["a", "--fuse", &file], 1);
        let mut client = open(&file);
        ledger.verify(&mut client).unwrap();
        kill_under_traffic(&mut ledger, server.pid(), client, 50 + random.below(451));
        assert_eq!(server.wait(), -1);
        wants_in_use_only(&world, "a");
        // A dead mount lies over the file: the next server takes it away.
        let server = world.serve(&["a", "--fuse", &file], 1);
        assert_eq!(server.said().lines().count(), 1, "T5: one line, not {}", server.said());
        ledger.verify(&mut open(&file)).unwrap();
        assert_eq!(server.end("-TERM"), 0);
        wants_clean(&world, "a");
    }
    // Killed and nobody comes: whoever looks at the list takes the mount away.
    let server = world.serve(&["a", "--fuse", &file], 1);
    assert_eq!(server.end("-KILL"), -1);
    world.ploop_ok(&["list"]);
    assert!(Path::new(&file).metadata().is_ok_and(|data| data.len() == 0));
    println!("4 kills, seed {seed}: {:?}", ledger.count);
    assert!(ledger.count.flushes > 4 && ledger.count.answered > 400, "{:?}", ledger.count);
}
