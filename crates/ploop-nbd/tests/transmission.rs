//! Every command over a real socket, against a device in memory.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod common;

use common::client::{Client, SIMPLE};
use common::{CLUSTER, Setup, limits, noise};
use ploop_engine::{Errno, Operation};
use ploop_nbd::protocol::request::{Command, CommandFlags as F};
use std::sync::atomic::Ordering;

#[test]
fn what_was_written_is_read_with_both_kinds_of_reply() {
    for (structured, tcp) in [(false, false), (true, false), (true, true)] {
        let mut server = Setup { tcp, ..Setup::default() }.serve();
        let mut client = Client::connect(&server.addr, structured);
        assert_eq!(client.size, 64 << 20);
        let data = noise(100 * 512, 3);
        assert_eq!(client.write_at(0, 512, &data), 0);
        assert_eq!(client.call(Command::Flush, 0, 0, 0), 0);
        assert_eq!(client.read_at(512, 100 * 512).unwrap(), data);
        assert_eq!(client.read_at(0, 512).unwrap(), [0; 512]);
        assert_eq!(server.device.bytes.lock().unwrap()[512..512 + data.len()], data);
        client.send(Command::Disconnect, 0, 0, 0);
        assert!(client.is_closed());
        server.stop();
    }
}

#[test]
fn the_longest_requests_are_cut_for_the_engine() {
    let mut server = Setup { queues: 2, ..Setup::default() }.serve();
    let mut client = Client::connect(&server.addr, true);
    let data = noise(32 << 20, 5);
    assert_eq!(client.write_at(F::FUA, 4096, &data), 0);
    let seen = server.device.seen();
    // It goes on while it comes, cut where no piece of a whole cluster is lost.
    assert_eq!(seen.len(), 33);
    assert_eq!(seen.iter().map(|s| s.len).sum::<u64>(), 32 << 20);
    assert!(seen.iter().all(|s| s.offset == 4096 || s.offset.is_multiple_of(1 << 20)));
    assert!(seen.iter().all(|s| s.operation == Operation::Write && s.flags.fua));
    assert!(client.read_at(4096, 32 << 20).unwrap() == data);
    assert_eq!(client.read_at(0, (32 << 20) + 512), Err(22));
    assert_eq!(client.call(Command::WriteZeroes, F::NO_HOLE, 0, 64 << 20), 0);
    let zeroes = server.device.seen();
    let zeroes: Vec<_> = zeroes.iter().filter(|s| s.operation == Operation::WriteZeroes).collect();
    assert_eq!(zeroes.len(), 16);
    assert!(zeroes.iter().all(|s| s.flags.no_unmap && !s.flags.fua));
    assert!(server.device.bytes.lock().unwrap().iter().all(|b| *b == 0));
    drop(client);
    server.stop();
}

#[test]
fn no_payload_is_copied_in_user_space() {
    let mut server = Setup::default().serve();
    let mut client = Client::connect(&server.addr, true);
    let mut expect = vec![0; 8 << 20];
    for n in 0..400u64 {
        // Disjoint: replies come in any order.
        let (at, len) = (n * 20_480, 512 + n as usize * 7 % 40 * 512);
        let data = noise(len, n);
        expect[at as usize..at as usize + len].copy_from_slice(&data);
        client.send_write(0, at, &data);
        // Many in one go, so that header and payload of several writes lie in the socket together.
        if n % 40 == 39 {
            (0..40).for_each(|_| assert_eq!(client.chunk(0).error, 0));
        }
    }
    assert!(client.read_at(0, 8 << 20).unwrap() == expect);
    drop(client);
    assert_eq!(server.stop()[0].copied_bytes(), 0);
}

#[test]
fn a_client_that_turns_from_reading_to_writing_keeps_its_data() {
    let mut server = Setup::default().serve();
    let mut client = Client::connect(&server.addr, true);
    for round in 0..20u64 {
        let mut batch = Vec::new();
        for n in 0..60 {
            batch.extend_from_slice(&client.header(Command::Read, 0, n * 512, 512).to_bytes());
        }
        let data = noise(8192, round);
        let header = client.header(Command::Write, 0, 65536, 8192);
        batch.extend_from_slice(&header.to_bytes());
        batch.extend_from_slice(&data);
        batch.extend_from_slice(&client.header(Command::Flush, 0, 0, 0).to_bytes());
        client.write(&batch);
        (0..62).for_each(|_| assert_eq!(client.chunk(0).error, 0));
        assert_eq!(client.read_at(65536, 8192).unwrap(), data);
    }
    drop(client);
    assert!(server.stop()[0].copied_bytes() <= 20 * 4096);
}

#[test]
fn trim_zeroes_cache_and_their_flags() {
    let server = Setup::default().serve();
    let mut client = Client::connect(&server.addr, true);
    assert_eq!(client.write_at(0, 0, &noise(65536, 1)), 0);
    server.device.seen();
    assert_eq!(client.call(Command::Trim, F::FUA, 0, 4096), 0);
    assert_eq!(client.call(Command::WriteZeroes, F::FAST_ZERO, 4096, 4096), 0);
    assert_eq!(client.call(Command::Cache, 0, 0, 65536), 0);
    assert_eq!(client.call(Command::Trim, 0, 0, 0), 0);
    let seen = server.device.seen();
    assert_eq!(seen.len(), 2, "CACHE and empty requests do not reach the engine: {seen:?}");
    assert!(seen[0].operation == Operation::Discard && seen[0].flags.fua);
    assert!(seen[1].operation == Operation::WriteZeroes && seen[1].flags.fast_zero);
    assert_eq!(client.read_at(0, 8192).unwrap(), [0; 8192]);
    assert_eq!(client.call(Command::Read, F::FUA, 0, 0), 0, "an empty read");
}

#[test]
fn wrong_requests_get_an_error_and_the_connection_stays() {
    for structured in [false, true] {
        let server = Setup::default().serve();
        let mut client = Client::connect(&server.addr, structured);
        let size = client.size;
        assert_eq!(client.call(Command::Read, 0, size - 511, 512), 22);
        assert_eq!(client.call(Command::Read, 0, size, 512), 22);
        assert_eq!(client.write_at(0, size - 512, &[1; 1024]), 28);
        assert_eq!(client.write_at(0, size - 299_999, &[1; 300_000]), 28);
        assert_eq!(client.write_at(1 << 12, 0, &[1; 512]), 22);
        assert_eq!(client.call(Command::Trim, 0, size, 512), 22);
        assert_eq!(client.call(Command::WriteZeroes, 0, size, 512), 28);
        assert_eq!(client.call(Command::Unknown(8), 0, 0, 0), 22);
        assert_eq!(client.call(Command::Flush, 0, 0, 512), 22);
        if !structured {
            assert_eq!(client.call(Command::BlockStatus, 0, 0, 512), 22);
            assert_eq!(client.call(Command::Read, F::DF, 0, 512), 22);
        }
        assert!(server.device.seen().is_empty());
        assert_eq!(client.read_at(0, 512).unwrap(), [0; 512]);
    }
}

/// Clients may ignore block sizes: the engine gets every range as it came.
#[test]
fn ranges_that_are_not_aligned_are_served() {
    for structured in [false, true] {
        let server = Setup::default().serve();
        let mut client = Client::connect(&server.addr, structured);
        assert_eq!(client.write_at(0, 12_345, b"abc"), 0);
        assert_eq!(client.read_at(12_344, 5).unwrap(), b"\0abc\0");
        assert_eq!(client.call(Command::WriteZeroes, 0, 12_346, 1), 0);
        assert_eq!(client.call(Command::Trim, 0, 7, 3), 0);
        assert_eq!(client.read_at(12_345, 3).unwrap(), b"a\0c");
        let ranges: Vec<_> = server.device.seen().iter().map(|s| (s.offset, s.len)).collect();
        assert_eq!(ranges, [(12_345, 3), (12_344, 5), (12_346, 1), (7, 3), (12_345, 3)]);
    }
}

#[test]
fn a_write_longer_than_the_maximum_is_skipped() {
    let server = Setup { limits: limits(64 << 20), ..Setup::default() }.serve();
    let mut client = Client::connect(&server.addr, false);
    assert_eq!(client.write_at(0, 0, &vec![1; (32 << 20) + 512]), 22);
    assert_eq!(client.read_at(0, 512).unwrap(), [0; 512]);
}

#[test]
fn errors_of_the_device_reach_the_client() {
    let server = Setup::default().serve();
    for structured in [false, true] {
        let mut client = Client::connect(&server.addr, structured);
        let cases = [
            (Operation::Read, Command::Read, Errno::IO, 5),
            (Operation::Flush, Command::Flush, Errno::IO, 5),
            (Operation::Discard, Command::Trim, Errno::NOSPC, 28),
            (Operation::WriteZeroes, Command::WriteZeroes, Errno::OPNOTSUPP, 95),
        ];
        for (operation, command, errno, code) in cases {
            *server.device.fail.lock().unwrap() = Some((operation, errno));
            let len = if command == Command::Flush { 0 } else { 2 << 20 };
            assert_eq!(client.call(command, 0, 0, len), code);
        }
        *server.device.fail.lock().unwrap() = Some((Operation::Write, Errno::NOSPC));
        assert_eq!(client.write_at(0, 0, &vec![1; 3 << 20]), 28);
        *server.device.fail.lock().unwrap() = None;
        assert_eq!(client.write_at(0, 0, &[1; 512]), 0);
    }
}

#[test]
fn a_structured_error_says_why() {
    let server = Setup::default().serve();
    let mut client = Client::connect(&server.addr, true);
    client.send(Command::Read, 0, 1 << 60, 512);
    let chunk = client.chunk(0);
    assert_eq!(chunk.kind, 0x8001);
    assert_eq!(&chunk.data[6..], b"past the end of the export");
    client.send(Command::Flush, 0, 0, 0);
    assert_eq!(client.chunk(0).kind, SIMPLE);
}

#[test]
fn a_read_only_export_of_a_writable_device() {
    let server = Setup { read_only: true, ..Setup::default() }.serve();
    let mut client = Client::connect(&server.addr, true);
    assert_eq!(client.flags & 2, 2);
    assert_eq!(client.write_at(0, 0, &[1; 4096]), 1);
    assert_eq!(client.call(Command::Trim, 0, 0, 512), 1);
    assert_eq!(client.call(Command::WriteZeroes, 0, 0, 512), 1);
    assert_eq!(client.call(Command::Flush, 0, 0, 0), 0);
    assert_eq!(client.read_at(0, 4096).unwrap(), [0; 4096]);
}

#[test]
fn block_status_merges_levels() {
    let server = Setup::default().serve();
    let mut client = Client::connect(&server.addr, true);
    let c = CLUSTER as u32;
    client.write_at(0, u64::from(c), &noise(4 * CLUSTER, 1));
    let expect = [(c, 3), (4 * c, 0), (5 * c, 3)];
    assert_eq!(client.block_status(0, 0, 10 * c), expect);
    assert_eq!(client.block_status(F::REQ_ONE, 0, 10 * c), expect[..1]);
    assert_eq!(client.block_status(F::REQ_ONE, u64::from(c) + 512, 10 * c), [(4 * c - 512, 0)]);
    assert_eq!(client.block_status(0, 512, 512), [(512, 3)]);
    assert_eq!(client.call(Command::BlockStatus, 0, 0, 0), 22);
}

#[test]
fn many_clients_and_little_room_do_not_mix_data() {
    let mut server =
        Setup { queues: 2, room: 3, limits: limits(16 << 20), ..Setup::default() }.serve();
    std::thread::scope(|scope| {
        for client in 0..8u64 {
            let addr = &server.addr;
            scope.spawn(move || {
                let mut conn = Client::connect(addr, client % 2 == 0);
                let base = client * (2 << 20);
                let data = noise(2 << 20, client + 100);
                for (n, piece) in data.chunks(40_960).enumerate() {
                    conn.send_write(0, base + n as u64 * 40_960, piece);
                }
                let pieces = data.chunks(40_960).count();
                (0..pieces).for_each(|_| assert_eq!(conn.chunk(0).error, 0));
                assert_eq!(conn.call(Command::Flush, 0, 0, 0), 0);
                assert!(conn.read_at(base, 2 << 20).unwrap() == data);
            });
        }
    });
    server.until("all clients left", |s| s.server.clients() == 0);
    server.stop();
}

#[test]
fn stopping_answers_what_is_in_flight() {
    let mut server = Setup::default().serve();
    let mut client = Client::connect(&server.addr, true);
    server.device.hold.store(true, Ordering::SeqCst);
    let data = noise(4096, 9);
    client.send_write(0, 0, &data);
    client.send(Command::Read, 0, 8192, 4096);
    // Half a write: it never happened.
    let half = client.header(Command::Write, 0, 65536, 8192);
    client.write(&half.to_bytes());
    client.write(&[0xee; 100]);
    std::thread::sleep(std::time::Duration::from_millis(100));
    let device = std::sync::Arc::clone(&server.device);
    let release = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        device.hold.store(false, Ordering::SeqCst);
    });
    server.server.stop();
    let mut queue = server.queues.remove(0);
    let stopped = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(250));
        queue.wake();
        queue.stop()
    });
    let errors = [client.chunk(0).error, client.chunk(0).error];
    assert_eq!(errors, [0, 0]);
    assert!(client.is_closed());
    release.join().unwrap();
    assert_eq!(stopped.join().unwrap().clients(), 0);
    assert_eq!(server.device.bytes.lock().unwrap()[..4096], data);
    assert!(server.device.bytes.lock().unwrap()[65536..65536 + 100].iter().all(|b| *b == 0));
}

#[test]
fn one_device_read_only_and_writable_on_two_addresses() {
    use ploop_nbd::{ExportInfo, NbdAddr, NbdOptions, NbdServer};
    let device = common::Device::new(limits(1 << 20));
    let any = NbdAddr::parse("tcp:127.0.0.1:0").unwrap();
    let export = |read_only| ExportInfo {
        name: String::new(),
        description: String::new(),
        read_only,
        limits: device.limits,
    };
    let mut server = NbdServer::new(NbdOptions::default());
    let writable = server.bind(&any, export(false)).unwrap();
    let readable = server.bind(&any, export(true)).unwrap();
    let front = server.front(device.limits).unwrap();
    let _queue = common::FakeQueue::spawn(front, std::sync::Arc::clone(&device));
    server.start().unwrap();
    let mut writer = Client::connect(&writable, true);
    let mut reader = Client::connect(&readable, true);
    assert_eq!(writer.write_at(0, 0, &[7; 512]), 0);
    assert_eq!(reader.write_at(0, 0, &[8; 512]), 1);
    assert_eq!(reader.read_at(0, 512).unwrap(), [7; 512]);
}
