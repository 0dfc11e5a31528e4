//! The memory for payloads: whatever some clients hold and for however long, each other client is
//! served.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod common;

use common::client::{Client, SIMPLE};
use common::{Setup, TestServer, limits, noise};
use ploop_engine::{Errno, Operation};
use ploop_nbd::protocol::request::{Command, CommandFlags};
use std::collections::HashMap;

const MIB: usize = 1 << 20;
const LONG: usize = 32 * MIB;

/// Clients that announce the longest write and send nothing, or the beginning, of it.
fn stalled_writers(server: &TestServer, count: usize, sent: usize) -> Vec<Client> {
    let one = |_| {
        let mut client = Client::connect(&server.addr, true);
        let header = client.header(Command::Write, 0, 0, LONG as u32);
        client.write(&header.to_bytes());
        client.write(&vec![1; sent]);
        client
    };
    (0..count).map(one).collect()
}

/// Clients that ask for much and read none of it.
fn deaf_readers(server: &TestServer, count: usize) -> Vec<Client> {
    let one = |_| {
        let mut client = Client::connect(&server.addr, true);
        for n in 0..64 {
            client.send(Command::Read, 0, n * MIB as u64, MIB as u32);
        }
        client
    };
    (0..count).map(one).collect()
}

/// A read of any length, its chunks put together.
fn read_long(client: &mut Client, flags: u16, offset: u64, len: usize) -> Result<Vec<u8>, u32> {
    let cookie = client.send(Command::Read, flags, offset, len as u32);
    let mut data = vec![0; len];
    let mut got = 0;
    loop {
        let chunk = client.chunk(len);
        assert_eq!(chunk.cookie, cookie);
        if chunk.error != 0 {
            return Err(chunk.error);
        }
        if chunk.kind == SIMPLE {
            return Ok(chunk.data);
        }
        assert!(chunk.done || flags == 0, "a request that must not be fragmented was");
        let at = u64::from_be_bytes(chunk.data[..8].try_into().unwrap()) - offset;
        let part = &chunk.data[8..];
        data[at as usize..][..part.len()].copy_from_slice(part);
        got += part.len();
        if chunk.done {
            assert_eq!(got, len);
            return Ok(data);
        }
    }
}

/// Small and long requests of both kinds, with right content, at whoever else is connected.
fn is_served(server: &TestServer) {
    for structured in [true, false] {
        let mut client = Client::connect(&server.addr, structured);
        for n in 0..200u64 {
            assert_eq!(client.write_at(0, n * 4096, &[n as u8; 4096]), 0);
            assert_eq!(client.read_at(n * 4096, 4096).unwrap(), [n as u8; 4096]);
        }
        let data = noise(LONG, 7);
        assert_eq!(client.write_at(0, 12 << 10, &data), 0);
        assert!(read_long(&mut client, 0, 12 << 10, LONG).unwrap() == data);
        if structured {
            let flags = CommandFlags::DF;
            assert!(read_long(&mut client, flags, 12 << 10, LONG).unwrap() == data);
            assert!(!client.block_status(0, 0, LONG as u32).is_empty());
        }
    }
}

#[test]
fn a_header_holds_up_nobody() {
    for sent in [0, 100, 3 * MIB] {
        let mut server = Setup::default().serve();
        let stalled = stalled_writers(&server, 8, sent);
        is_served(&server);
        assert!(server.server.clients() >= 8, "nobody had to be cut off for it");
        drop(stalled);
        server.until("all are gone", |s| s.server.clients() == 0);
        server.stop();
    }
}

#[test]
fn replies_nobody_takes_hold_up_nobody() {
    let mut server = Setup { limits: limits(64 * MIB), ..Setup::default() }.serve();
    let mut deaf = deaf_readers(&server, 30);
    is_served(&server);
    assert!(server.server.clients() >= 30, "nobody had to be cut off for it");
    // And they get what they asked for once they read.
    for client in &mut deaf[..2] {
        let mut left = 64 * MIB;
        while left > 0 {
            let chunk = client.chunk(0);
            assert_eq!(chunk.error, 0);
            left -= chunk.data.len() - 8;
        }
    }
    drop(deaf);
    server.until("all are gone", |s| s.server.clients() == 0);
    server.stop();
}

#[test]
fn as_many_as_there_may_be_hold_up_nobody() {
    let mut server = Setup { limits: limits(64 * MIB), ..Setup::default() }.serve();
    let stalled = stalled_writers(&server, 120, 100_000);
    let deaf = deaf_readers(&server, 120);
    is_served(&server);
    drop((stalled, deaf));
    server.until("all are gone", |s| s.server.clients() == 0);
    server.stop();
}

/// Simple replies have no pieces: what completes while a long read is sent waits for its end.
#[test]
fn no_reply_comes_within_another() {
    let mut server = Setup { limits: limits(64 * MIB), room: 8, ..Setup::default() }.serve();
    let data = noise(64 * MIB, 3);
    server.device.bytes.lock().unwrap().copy_from_slice(&data);
    let deaf = deaf_readers(&server, 30);
    let mut client = Client::connect(&server.addr, false);
    let mut asked = HashMap::new();
    for round in 0..20u64 {
        for (offset, len) in [(round << 16, 4096), (round << 18, 3 * MIB), (round << 17, 512)] {
            let cookie = client.send(Command::Read, 0, offset, len as u32);
            asked.insert(cookie, (offset as usize, len));
        }
    }
    while !asked.is_empty() {
        assert_eq!(client.read::<8>(), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
        let cookie = u64::from_be_bytes(client.read());
        let (offset, len) = asked.remove(&cookie).unwrap();
        assert!(client.read_vec(len) == data[offset..offset + len], "{offset} {len}");
    }
    drop((client, deaf));
    server.until("all are gone", |s| s.server.clients() == 0);
    server.stop();
}

/// Where the client can be told of the error it is; where it cannot the connection ends.
#[test]
fn a_long_read_that_fails_on_the_way() {
    let mut server = Setup { limits: limits(64 * MIB), ..Setup::default() }.serve();
    let deaf = deaf_readers(&server, 120);
    for structured in [true, false] {
        let mut client = Client::connect(&server.addr, structured);
        client.send(Command::Read, 0, 0, LONG as u32);
        if structured {
            assert!(!client.chunk(0).done);
        } else {
            client.read::<{ 16 + 4096 }>();
        }
        *server.device.fail.lock().unwrap() = Some((Operation::Read, Errno::IO));
        if structured {
            let mut chunk = client.chunk(0);
            while !chunk.done {
                chunk = client.chunk(0);
            }
            assert_eq!(chunk.error, 5);
            *server.device.fail.lock().unwrap() = None;
            assert_eq!(client.read_at(0, 512).unwrap(), [0; 512]);
        } else {
            assert!(client.is_closed());
            *server.device.fail.lock().unwrap() = None;
        }
    }
    drop(deaf);
    server.until("all are gone", |s| s.server.clients() == 0);
    server.stop();
}

/// A write that comes in pieces is one request: one reply, the error of any piece.
#[test]
fn a_write_in_pieces_is_answered_once() {
    let mut server = Setup { limits: limits(64 * MIB), ..Setup::default() }.serve();
    let mut client = Client::connect(&server.addr, true);
    let data = noise(LONG, 5);
    assert_eq!(client.write_at(CommandFlags::FUA, 512, &data), 0);
    assert!(server.device.seen().iter().all(|seen| seen.flags.fua));
    assert!(server.device.bytes.lock().unwrap()[512..512 + LONG] == data);
    *server.device.fail.lock().unwrap() = Some((Operation::Write, Errno::NOSPC));
    assert_eq!(client.write_at(0, 512, &data), 28);
    *server.device.fail.lock().unwrap() = None;
    assert_eq!(client.read_at(0, 512).unwrap(), [0; 512]);
    drop(client);
    server.stop();
}

#[test]
fn those_who_hoard_memory_are_cut_off_when_others_could_use_it() {
    // Twenty seconds of the device in one of ours.
    let limits = limits(64 * MIB);
    let mut server = Setup { limits, speed: 20, ..Setup::default() }.serve();
    let hoarders = deaf_readers(&server, 20);
    // An idle client holds nothing others want.
    let mut idle = Client::connect(&server.addr, true);
    let mut honest = Client::connect(&server.addr, true);
    // As many as it takes to give the honest one its share.
    while server.server.clients() == 22 {
        assert_eq!(read_long(&mut honest, 0, 0, LONG).unwrap(), vec![0; LONG]);
    }
    drop(hoarders);
    std::thread::sleep(std::time::Duration::from_millis(2000));
    assert_eq!(idle.write_at(0, 0, &noise(16 << 20, 1)), 0);
    drop((honest, idle));
    server.stop();
}

/// Each failure gives its memory back: after many of them a long read still finds some.
#[test]
fn failed_pieces_leave_no_memory_behind() {
    let mut server = Setup { limits: limits(64 * MIB), ..Setup::default() }.serve();
    let deaf = deaf_readers(&server, 120);
    let mut client = Client::connect(&server.addr, true);
    for _ in 0..100 {
        *server.device.fail.lock().unwrap() = Some((Operation::Read, Errno::IO));
        assert_eq!(read_long(&mut client, 0, 0, LONG), Err(5));
        *server.device.fail.lock().unwrap() = None;
        assert_eq!(client.read_at(0, 64 << 10).unwrap(), vec![0; 64 << 10]);
    }
    drop((client, deaf));
    server.until("all are gone", |s| s.server.clients() == 0);
    server.stop();
}
