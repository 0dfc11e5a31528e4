//! SIGKILL under load: what was answered is there, flushed or not; the image is sound, the disk
//! goes on.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use ploop_e2e::checks::{seed, wants_clean, wants_in_use_only};
use ploop_e2e::nbd_client::Client;
use ploop_e2e::stamps::{Ledger, Random, WINDOW};
use ploop_e2e::world::Server;
use ploop_e2e::{World, have};
use rustix::process::{Pid, Signal, kill_process};
use std::thread;
use std::time::Duration;

const DISK: u64 = 64 << 20;
const ZONE: u64 = 32 << 20;

fn serve(world: &World) -> (Server, Client) {
    let socket = world.text("s");
    let server = world.serve(&["a", "--nbd", &format!("unix:{socket}")], 1);
    let client = Client::connect(socket.as_ref()).unwrap();
    assert_eq!(client.size, DISK);
    (server, client)
}

/// Kills the server under traffic, 50 to 500 ms after it began.
fn kill_under_traffic(ledger: &mut Ledger, server: Server, mut client: Client, after: u64) {
    let pid = Pid::from_raw(server.pid().try_into().unwrap()).unwrap();
    let before = ledger.count;
    let killer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(after));
        kill_process(pid, Signal::KILL).unwrap();
    });
    let lives = ledger.traffic(&mut client, u64::MAX).unwrap();
    killer.join().unwrap();
    assert!(!lives);
    assert_eq!(server.wait(), -1);
    assert!(ledger.count.cut_off - before.cut_off >= WINDOW as u64 / 2, "too few in flight");
}

fn stop(server: Server, client: Client) {
    client.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
}

fn kills(world: &World, ledger: &mut Ledger, times: u64, seed: u64) {
    let mut random = Random::new(seed ^ 0xdead);
    for round in 0..times {
        let (server, mut client) = serve(world);
        ledger.verify(&mut client).unwrap();
        kill_under_traffic(ledger, server, client, 50 + random.below(451));
        wants_in_use_only(world, "a");
        let (server, mut client) = serve(world);
        assert_eq!(server.said().lines().count(), 1, "T5: one line, not {}", server.said());
        ledger.verify(&mut client).unwrap();
        // Now and then the server that put things right is killed too, idle.
        if round % 4 == 3 {
            drop((server, client));
            wants_in_use_only(world, "a");
            continue;
        }
        stop(server, client);
        wants_clean(world, "a");
    }
    let (server, mut client) = serve(world);
    ledger.verify(&mut client).unwrap();
    stop(server, client);
    wants_clean(world, "a");
    println!("{times} kills, seed {seed}: {:?}", ledger.count);
    assert!(ledger.count.flushes > times && ledger.count.answered > 100 * times);
}

#[test]
fn killed_20_times_and_nothing_answered_is_lost() {
    if !have(&["qemu-img"]) {
        return;
    }
    let world = World::new("kill").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-t", "none", &image]);
    let seed = seed();
    kills(&world, &mut Ledger::new(ZONE, seed), 20, seed);
}

#[test]
fn killed_in_the_middle_of_copy_ups() {
    if !have(&["qemu-img"]) {
        return;
    }
    let world = World::new("kill-chain").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-b", "128", "-t", "none", &image]);
    let seed = seed();
    let mut ledger = Ledger::new(ZONE, seed);
    for _ in 0..2 {
        let (server, mut client) = serve(&world);
        assert!(ledger.traffic(&mut client, 300).unwrap());
        stop(server, client);
        world.ploop_ok(&["snapshot", "a"]);
    }
    kills(&world, &mut ledger, 10, seed);
}
