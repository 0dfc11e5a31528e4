//! Clients that lie, stall, flood and die: the server sheds them, and honest ones go on.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod common;

use common::client::{Client, option};
use common::{Setup, limits, noise};
use ploop_nbd::NbdOptions;
use ploop_nbd::protocol::request::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn hasty(millis: u64) -> NbdOptions {
    NbdOptions { handshake_timeout: Duration::from_millis(millis), ..NbdOptions::default() }
}

/// An honest client is served.
fn alive(server: &common::TestServer) {
    let mut client = Client::connect(&server.addr, true);
    assert_eq!(client.write_at(0, 0, &[5; 512]), 0);
    assert_eq!(client.read_at(0, 512).unwrap(), [5; 512]);
}

#[test]
fn a_slow_handshake_is_cut_off() {
    for tcp in [false, true] {
        let server = Setup { options: hasty(300), tcp, ..Setup::default() }.serve();
        let start = Instant::now();
        let mut silent = Client::raw(&server.addr);
        let mut slow = Client::raw(&server.addr);
        // One byte now and then does not win time.
        for byte in [0u8, 0, 0, 3, b'I', b'H'] {
            if slow.stream.write_all(&[byte]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(80));
        }
        assert!(silent.is_closed());
        assert!(slow.is_closed());
        assert!(start.elapsed() < Duration::from_secs(5));
        alive(&server);
        server.until("all are gone", |s| s.server.clients() == 0);
    }
}

#[test]
fn a_client_after_the_handshake_has_no_timeout() {
    let server = Setup { options: hasty(100), ..Setup::default() }.serve();
    let mut client = Client::connect(&server.addr, true);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(client.read_at(0, 512).unwrap(), [0; 512]);
}

#[test]
fn a_flood_of_handshakes_does_not_keep_others_out() {
    let server = Setup::default().serve();
    let _silent: Vec<_> = (0..100).map(|_| Client::raw(&server.addr)).collect();
    alive(&server);
}

#[test]
fn wrong_magics_and_flags_close() {
    let server = Setup::default().serve();
    let bad_flags = vec![0xff; 4];
    let bad_magic = [&[0, 0, 0, 3][..], &[0; 16]].concat();
    let huge = [&[0, 0, 0, 3][..], &option(7, &[])[..12], &[0xff; 4]].concat();
    for bytes in [bad_flags, bad_magic, huge] {
        let mut client = Client::raw(&server.addr);
        client.write(&bytes);
        assert!(client.is_closed(), "{bytes:?}");
    }
    let mut flood = Client::raw(&server.addr);
    flood.write(&[0, 0, 0, 3]);
    let many = option(3, &[]).repeat(5000);
    // The server may close while we still write.
    let _ = flood.stream.write_all(&many);
    assert!(flood.is_closed());
    let mut client = Client::connect(&server.addr, true);
    client.write(&[0x25; 28]);
    assert!(client.is_closed(), "wrong request magic");
    alive(&server);
    server.until("all are gone", |s| s.server.clients() == 0);
}

#[test]
fn cut_off_anywhere() {
    let mut server = Setup::default().serve();
    let whole = [
        &[0, 0, 0, 3][..],
        &option(8, &[]),
        &option(10, b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation"),
        &option(7, &[0; 6]),
        &{
            let mut any = Client::raw(&server.addr);
            let header = any.header(Command::Write, 0, 4096, 512);
            [&header.to_bytes()[..], &[9; 400]].concat()
        },
    ]
    .concat();
    for cut in 0..=whole.len() {
        let mut client = Client::raw(&server.addr);
        client.write(&whole[..cut]);
    }
    server.until("all are gone", |s| s.server.clients() == 0);
    assert!(server.device.seen().is_empty(), "half a write never reaches the device");
    alive(&server);
    let fronts = server.stop();
    assert_eq!(fronts[0].clients(), 0);
}

#[test]
fn connections_are_counted() {
    let options = NbdOptions { max_connections: 3, ..NbdOptions::default() };
    let server = Setup { options, ..Setup::default() }.serve();
    let mut three: Vec<_> = (0..3).map(|_| Client::connect(&server.addr, false)).collect();
    server.until("three", |s| s.server.clients() == 3);
    let ploop_nbd::NbdAddr::Unix(path) = &server.addr else { panic!("unix") };
    let mut fourth = std::os::unix::net::UnixStream::connect(path).unwrap();
    let mut buf = [0; 18];
    assert_eq!(std::io::Read::read(&mut fourth, &mut buf).unwrap(), 0, "closed at once");
    assert_eq!(three[1].read_at(0, 512).unwrap(), [0; 512]);
    three.pop();
    server.until("a place is free", |s| s.server.clients() == 2);
    alive(&server);
}

#[test]
fn a_client_that_dies_leaves_its_memory_to_the_kernel_until_the_end() {
    let mut server = Setup::default().serve();
    server.device.hold.store(true, Ordering::SeqCst);
    let data = noise(8 << 20, 3);
    for n in 0..4 {
        let mut client = Client::connect(&server.addr, true);
        client.send_write(0, n * (8 << 20), &data);
        client.send(Command::Read, 0, 0, 4 << 20);
        // Gone with a write and a read in the engine.
    }
    std::thread::sleep(Duration::from_millis(200));
    server.device.hold.store(false, Ordering::SeqCst);
    server.queues[0].wake();
    server.until("all are gone", |s| s.server.clients() == 0);
    // All 64 MiB are free again: two of the longest requests fit at once.
    let mut client = Client::connect(&server.addr, true);
    assert!(client.read_at(0, 32 << 20).unwrap() == data.repeat(4));
    drop(client);
    server.stop();
}

#[test]
fn one_who_does_not_read_its_replies_does_not_stop_the_others() {
    let mut server = Setup { limits: limits(64 << 20), ..Setup::default() }.serve();
    let mut rude = Client::connect(&server.addr, true);
    for n in 0..40 {
        rude.send(Command::Read, 0, n << 20, 1 << 20);
    }
    alive(&server);
    // And it gets what it asked for once it reads.
    for _ in 0..40 {
        let chunk = rude.chunk(0);
        assert_eq!((chunk.error, chunk.data.len()), (0, (1 << 20) + 8));
    }
    for n in 0..20 {
        rude.send(Command::Read, 0, n << 20, 1 << 20);
    }
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    server.stop();
    assert!(start.elapsed() < Duration::from_secs(10), "stop waits 5 s for replies, not for ever");
}

#[test]
fn requests_without_end_are_not_taken_without_end() {
    use std::io::{Read, Write};
    let server = Setup::default().serve();
    let mut client = Client::connect(&server.addr, false);
    let refused = client.header(Command::Unknown(77), 0, 0, 0).to_bytes();
    let mut stream = std::os::unix::net::UnixStream::connect(server.path()).unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    stream.write_all(&[&[0, 0, 0, 3][..], &option(1, b"")].concat()).unwrap();
    let mut export = [0; 10];
    stream.read_exact(&mut export).unwrap();
    // Nothing is read back: the server may keep 256 replies, the rest is in the socket buffers.
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut sent = 0;
    while let Ok(more) = stream.write(&refused.repeat(1000)) {
        sent += more;
        assert!(sent < 32 << 20, "the server reads on though nobody takes its replies");
    }
    alive(&server);
    // Once the replies are taken it goes on.
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut reply = [0; 16];
    for _ in 0..sent / refused.len() {
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 22]);
    }
}

#[test]
fn long_requests_wait_for_memory_and_all_are_served() {
    let mut server = Setup { room: 200, ..Setup::default() }.serve();
    std::thread::scope(|scope| {
        for n in 0..6u64 {
            let addr = &server.addr;
            scope.spawn(move || {
                let mut client = Client::connect(addr, true);
                for _ in 0..3 {
                    // 32 MiB read: only two fit; small ones in between.
                    client.send(Command::Read, 0, 0, 32 << 20);
                    client.send(Command::Read, 0, n * 4096, 4096);
                    // A long read may be answered in pieces.
                    let (mut done, mut got) = (0, 0);
                    while done < 2 {
                        let chunk = client.chunk(0);
                        assert_eq!(chunk.error, 0);
                        got += chunk.data.len() - 8;
                        done += u32::from(chunk.done);
                    }
                    assert_eq!(got, 4096 + (32 << 20));
                }
            });
        }
    });
    server.until("all are gone", |s| s.server.clients() == 0);
    server.stop();
}
