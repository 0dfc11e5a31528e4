//! Every operation on every engine, on a disk and on tmpfs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use common::{Kind, Place, Rig};
use ploop_io::{AlignedBuf, Completion, FileId, Io, Op, OpKind};

const NONE: *mut u8 = std::ptr::null_mut();

macro_rules! everywhere {
    ($($test:ident)*) => {
        everywhere! { @ uring_disk, Kind::Uring, Place::Disk, $($test)* }
        everywhere! { @ uring_shm, Kind::Uring, Place::Shm, $($test)* }
        everywhere! { @ threads_disk, Kind::Threads, Place::Disk, $($test)* }
        everywhere! { @ threads_shm, Kind::Threads, Place::Shm, $($test)* }
    };
    (@ $name:ident, $kind:expr, $place:expr, $($test:ident)*) => {
        mod $name {
            use super::*;
            $(#[test]
            fn $test() {
                if let Some(mut rig) = Rig::new($kind, $place) {
                    super::$test(&mut rig);
                }
            })*
        }
    };
}

everywhere! {
    what_was_written_is_read
    a_durable_write_is_a_write
    syncs_succeed
    a_punched_range_reads_as_zeros
    a_zeroed_range_reads_as_zeros_or_is_refused
    a_reservation_keeps_the_length
    truncate_sets_the_length
    a_read_across_the_end_is_short
    a_bad_descriptor_is_an_errno
    far_more_operations_than_the_ring_holds
    completions_show_without_a_wait
    dropped_with_operations_in_flight
}

fn what_was_written_is_read(rig: &mut Rig) {
    assert_eq!(rig.write(4096, 8192, 0xA5), 8192);
    let (got, buf) = rig.read(0, 12288);
    assert_eq!(got, 12288);
    assert!(buf[..4096].iter().all(|&b| b == 0));
    assert!(buf[4096..].iter().all(|&b| b == 0xA5));
}

fn a_durable_write_is_a_write(rig: &mut Rig) {
    let mut buf = AlignedBuf::new(4096).unwrap();
    buf.fill(0x17);
    assert_eq!(rig.run(OpKind::WriteDsync, 8192, 4096, buf.as_mut_ptr()), 4096);
    assert_eq!(&rig.read(8192, 4096).1[..], &buf[..]);
}

fn syncs_succeed(rig: &mut Rig) {
    assert_eq!(rig.write(0, 4096, 1), 4096);
    assert_eq!(rig.run(OpKind::Datasync, 0, 0, NONE), 0);
    assert_eq!(rig.run(OpKind::Sync, 0, 0, NONE), 0);
}

fn a_punched_range_reads_as_zeros(rig: &mut Rig) {
    assert!(rig.file.caps().punch);
    assert_eq!(rig.write(0, 65536, 9), 65536);
    assert_eq!(rig.run(OpKind::Sync, 0, 0, NONE), 0);
    let before = rig.file.allocated().unwrap();
    assert_eq!(rig.run(OpKind::Punch, 8192, 32768, NONE), 0);
    assert!(rig.file.allocated().unwrap() < before);
    let (_, buf) = rig.read(0, 65536);
    assert!(buf[8192..40960].iter().all(|&b| b == 0));
    assert!(buf[..8192].iter().chain(&buf[40960..]).all(|&b| b == 9));
    assert_eq!(rig.file.len().unwrap(), 65536);
}

fn a_zeroed_range_reads_as_zeros_or_is_refused(rig: &mut Rig) {
    assert_eq!(rig.write(0, 16384, 9), 16384);
    let result = rig.run(OpKind::ZeroRange, 4096, 4096, NONE);
    if rig.file.caps().zero_range {
        assert_eq!(result, 0);
        let (_, buf) = rig.read(0, 16384);
        assert!(buf[4096..8192].iter().all(|&b| b == 0));
        assert!(buf[8192..].iter().all(|&b| b == 9));
    } else {
        assert_eq!(result, -libc::EOPNOTSUPP);
    }
}

fn a_reservation_keeps_the_length(rig: &mut Rig) {
    assert_eq!(rig.run(OpKind::Reserve, 0, 1 << 20, NONE), 0);
    assert_eq!(rig.file.len().unwrap(), 0);
    assert!(rig.file.allocated().unwrap() >= 1 << 20);
    assert_eq!(rig.file.caps().reserve, rig.place == Place::Disk);
}

fn truncate_sets_the_length(rig: &mut Rig) {
    assert_eq!(rig.run(OpKind::Truncate, 123_456, 0, NONE), 0);
    assert_eq!(rig.file.len().unwrap(), 123_456);
    assert_eq!(rig.run(OpKind::Truncate, 512, 0, NONE), 0);
    assert_eq!(rig.file.len().unwrap(), 512);
}

fn a_read_across_the_end_is_short(rig: &mut Rig) {
    assert_eq!(rig.write(0, 5000, 3), 5000);
    let (got, buf) = rig.read(4096, 4096);
    assert_eq!(got, 904);
    assert!(buf[..904].iter().all(|&b| b == 3));
    assert!(buf[904..].iter().all(|&b| b == 0xEE));
    assert_eq!(rig.read(1 << 30, 4096).0, 0);
}

fn a_bad_descriptor_is_an_errno(rig: &mut Rig) {
    let mut buf = AlignedBuf::new(512).unwrap();
    for (token, kind) in
        [OpKind::Read, OpKind::Sync, OpKind::Punch, OpKind::Truncate].into_iter().enumerate()
    {
        let op =
            Op { file: FileId(999_999), ..rig.op(token as u64, kind, 0, 512, buf.as_mut_ptr()) };
        // SAFETY: the buffer lives; a descriptor that is not open is refused.
        unsafe { rig.io.push(op) };
        assert_eq!(rig.until(token as u64), -libc::EBADF, "{kind:?}");
    }
}

/// 5000 operations on a ring of 64; each completes exactly once, each moved its own bytes.
fn far_more_operations_than_the_ring_holds(rig: &mut Rig) {
    const COUNT: u64 = 5000;
    let mut buf = AlignedBuf::new(COUNT as usize * 512).unwrap();
    for (i, block) in buf.chunks_exact_mut(512).enumerate() {
        block.fill((i % 251) as u8);
    }
    for token in 0..COUNT {
        // SAFETY: within the buffer, which outlives the loop below.
        let at = unsafe { buf.as_mut_ptr().add(token as usize * 512) };
        let op = rig.op(token, OpKind::Write, token * 512, 512, at);
        // SAFETY: each has a block of its own in the buffer.
        unsafe { rig.io.push(op) };
    }
    for token in 0..COUNT {
        assert_eq!(rig.until(token), 512);
    }
    let (got, back) = rig.read(0, COUNT as usize * 512);
    assert_eq!(got as usize, back.len());
    assert_eq!(&back[..], &buf[..]);
}

/// A thread that never sleeps sees completions too: `submit` runs the ring's task work.
fn completions_show_without_a_wait(rig: &mut Rig) {
    assert_eq!(rig.write(0, 4096, 1), 4096);
    let op = rig.op(1, OpKind::Sync, 0, 0, NONE);
    // SAFETY: no memory.
    unsafe { rig.io.push(op) };
    let start = Instant::now();
    let mut got = Vec::new();
    while got.is_empty() {
        rig.io.submit().unwrap();
        rig.io.reap(&mut got);
        std::thread::yield_now();
        assert!(start.elapsed() < common::PATIENCE);
    }
    assert_eq!(got, [Completion { token: 1, result: 0 }]);
}

/// After the drop no memory is written any more.
fn dropped_with_operations_in_flight(rig: &mut Rig) {
    const PIECE: usize = 1 << 20;
    const COUNT: usize = 24;
    // Direct where that is possible: then the reads really are under way at the drop.
    rig.file = common::create(&rig.dir.path().join("direct"), true);
    rig.file.write_at(&AlignedBuf::new(COUNT * PIECE).unwrap(), 0).unwrap();
    let mut buf = AlignedBuf::new(COUNT * PIECE).unwrap();
    buf.fill(0xEE);
    for i in 0..COUNT {
        // SAFETY: within the buffer.
        let at = unsafe { buf.as_mut_ptr().add(i * PIECE) };
        let op = rig.op(i as u64, OpKind::Read, (i * PIECE) as u64, PIECE as u64, at);
        // SAFETY: the buffer outlives the engine, which is dropped below.
        unsafe { rig.io.push(op) };
    }
    rig.io.submit().unwrap();
    let null: Box<dyn Io> = common::engine(Kind::Null).unwrap();
    drop(std::mem::replace(&mut rig.io, null));
    buf.fill(0x55);
    std::thread::sleep(Duration::from_millis(30));
    assert!(buf.iter().all(|&b| b == 0x55));
}

#[test]
fn null_completes_everything_in_full() {
    let mut rig = Rig::new(Kind::Null, Place::Shm).unwrap();
    let (got, buf) = rig.read(0, 4096);
    assert_eq!(got, 4096);
    assert!(buf.iter().all(|&b| b == 0xEE));
    assert_eq!(rig.run(OpKind::Sync, 0, 0, NONE), 0);
    assert_eq!(rig.run(OpKind::Punch, 0, 1 << 40, NONE), 0);
}
