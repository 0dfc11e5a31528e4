//! Clients of the real server that begin and stop: what a client beside them waits for. The times
//! are printed; the test wants that each read ends, in order, whoever stalls.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use ploop_e2e::World;
use ploop_e2e::nbd_client::{Client, Command};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const READS: u32 = 2000;
const STALLED: usize = 8;
const LONG: u32 = 32 << 20;

/// The 99th of a hundred times of a 4 KiB read, and the longest.
fn times(socket: &Path) -> (Duration, Duration) {
    let mut client = Client::connect(socket).unwrap();
    let mut took: Vec<Duration> = (0..READS)
        .map(|n| {
            let offset = u64::from(n.wrapping_mul(2_654_435_761) % 8192) * 4096;
            let start = Instant::now();
            assert_eq!(client.read(offset, 4096).unwrap().len(), 4096);
            start.elapsed()
        })
        .collect();
    took.sort_unstable();
    client.disconnect().unwrap();
    (took[READS as usize * 99 / 100 - 1], took[READS as usize - 1])
}

/// The header of the longest write, and nothing behind it.
fn header_only(socket: &Path) -> Client {
    let client = Client::connect(socket).unwrap();
    let mut header = Vec::from(0x2560_9513_u32.to_be_bytes());
    header.extend([0, 0, 0, 1]);
    header.extend([0; 16]);
    header.extend(LONG.to_be_bytes());
    client.stream().unwrap().write_all(&header).unwrap();
    client
}

/// Much is asked for, nothing is read.
fn reads_nothing(socket: &Path) -> Client {
    let mut client = Client::connect(socket).unwrap();
    for _ in 0..4 {
        client.send(Command::Read, 0, 0, LONG, &[]).unwrap();
    }
    client
}

#[test]
fn clients_that_stall_hold_up_no_other() {
    let world = World::new("nbd-stalls").unwrap();
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-t", "none", &image]);
    let socket = world.path("nbd.sock");
    let address = format!("unix:{}", socket.display());
    // All on one queue, where the memory is shared.
    let server = world.serve(&["a", "--queues", "1", "--nbd", &address], 1);
    let mut writer = Client::connect(&socket).unwrap();
    let block: Vec<u8> = (0..LONG).map(|n| (n / 4096) as u8).collect();
    writer.write(0, &block).unwrap();
    let alone = times(&socket);
    println!("alone: p99 {:?}, longest {:?}", alone.0, alone.1);
    for (what, stall) in
        [("header only", header_only as fn(&Path) -> Client), ("replies not taken", reads_nothing)]
    {
        let stalled: Vec<_> = (0..STALLED).map(|_| stall(&socket)).collect();
        let beside = times(&socket);
        let ratio = beside.0.as_secs_f64() / alone.0.as_secs_f64();
        println!("{STALLED} x {what}: p99 {:?} ({ratio:.1} x), longest {:?}", beside.0, beside.1);
        // Long requests go on too.
        writer.write(0, &block).unwrap();
        assert!(writer.read(0, LONG).unwrap() == block);
        drop(stalled);
    }
    writer.disconnect().unwrap();
    assert_eq!(server.end("-TERM"), 0);
}
