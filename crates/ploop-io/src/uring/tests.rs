//! Older kernels, acted out: each kind of ring, and a ring without the newer operations.

use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use super::setup::{STEPS, Step};
use super::*;
use crate::{FileId, OpKind};

fn run(ring: &mut Uring, op: Op) -> i32 {
    // SAFETY: the tests below use no memory, or memory that outlives the loop.
    unsafe { ring.push(op) };
    let mut got = Vec::new();
    while got.is_empty() {
        ring.wait(Some(Duration::from_secs(10)), &|| true).unwrap();
        ring.reap(&mut got);
    }
    assert_eq!(got.len(), 1);
    got[0].result
}

fn plain(kind: OpKind, file: &std::fs::File, offset: u64, len: u64) -> Op {
    Op {
        token: 1,
        kind,
        file: FileId(file.as_raw_fd()),
        offset,
        len,
        buf: std::ptr::null_mut(),
        lent: None,
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test says why")]
fn ring(step: Step) -> Option<Uring> {
    match setup::open_step(64, WORKERS, step) {
        Ok((ring, abilities)) => Some(Uring::with(ring, abilities).unwrap()),
        Err(error) => {
            eprintln!("skip: no {step:?} ring here: {error}");
            None
        }
    }
}

#[test]
fn every_kind_of_ring_syncs_wakes_and_times_out() {
    for step in STEPS {
        let Some(mut ring) = ring(step) else { continue };
        let file = tempfile::tempfile().unwrap();
        assert_eq!(run(&mut ring, plain(OpKind::Truncate, &file, 4096, 0)), 0, "{step:?}");
        assert_eq!(run(&mut ring, plain(OpKind::Sync, &file, 0, 0)), 0, "{step:?}");
        for _ in 0..200 {
            let waker = ring.waker();
            let other = thread::spawn(move || waker.wake());
            let start = std::time::Instant::now();
            ring.wait(Some(Duration::from_secs(10)), &|| true).unwrap();
            assert!(start.elapsed() < Duration::from_secs(10), "{step:?}");
            other.join().unwrap();
        }
        // A completion shows to a thread that only submits and reaps.
        // SAFETY: no memory.
        unsafe { ring.push(plain(OpKind::Datasync, &file, 0, 0)) };
        let (start, mut got) = (std::time::Instant::now(), Vec::new());
        while got.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(10), "{step:?}");
            ring.submit().unwrap();
            ring.reap(&mut got);
        }
    }
}

#[test]
fn what_the_ring_cannot_do_a_thread_does() {
    let Some(mut ring) = ring(Step::Plain) else { return };
    ring.state.abilities = Abilities { fallocate: false, ftruncate: false };
    let file = tempfile::tempfile().unwrap();
    assert_eq!(run(&mut ring, plain(OpKind::Truncate, &file, 1 << 20, 0)), 0);
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    assert_eq!(run(&mut ring, plain(OpKind::Reserve, &file, 0, 1 << 20)), 0);
    assert_eq!(run(&mut ring, plain(OpKind::Punch, &file, 0, 4096)), 0);
    let closed = Op { file: FileId(999_999), ..plain(OpKind::Truncate, &file, 0, 0) };
    assert_eq!(run(&mut ring, closed), -libc::EBADF);
    // Dropped with work at the helper.
    for _ in 0..10 {
        // SAFETY: no memory.
        unsafe { ring.push(plain(OpKind::Truncate, &file, 0, 0)) };
    }
    ring.submit().unwrap();
}

#[test]
fn a_thread_that_is_awake_is_woken_without_a_system_call() {
    let Some(ring) = ring(Step::Plain) else { return };
    ring.waker().wake();
    let mut count = [0u8; 8];
    // SAFETY: eight bytes; the eventfd is only made non-blocking for this look.
    let got = unsafe {
        libc::fcntl(ring.state.waker.raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        libc::read(ring.state.waker.raw_fd(), count.as_mut_ptr().cast(), 8)
    };
    assert_eq!(got, -1, "the eventfd was not written");
}

#[test]
fn keys_are_not_used_twice() {
    let mut slots = Slots::default();
    let first = slots.insert(Work::Silenced);
    assert!(slots.remove(first).is_some());
    let second = slots.insert(Work::Silenced);
    assert_ne!(first, second);
    assert!(slots.get(first).is_none() && slots.remove(first).is_none());
    assert_eq!(Key::from_u64(second.to_u64()), second);
}

#[test]
fn interrupted_operations_go_round_again_but_syncs_do_not() {
    let Some(mut ring) = ring(Step::Plain) else { return };
    let state = &mut ring.state;
    let file = tempfile::tempfile().unwrap();
    let key = state.slots.insert(Work::Op { op: plain(OpKind::Punch, &file, 0, 512), retries: 0 });
    state.finish(key.to_u64(), -libc::EINTR);
    assert!(state.done.is_empty() && state.queue.pop_front() == Some(key));
    for _ in 1..sys::MAX_RETRIES {
        state.finish(key.to_u64(), -libc::EAGAIN);
    }
    state.queue.clear();
    state.finish(key.to_u64(), -libc::EAGAIN);
    assert_eq!(state.done.pop(), Some(Completion { token: 1, result: -libc::EAGAIN }));
    let key = state.slots.insert(Work::Op { op: plain(OpKind::Sync, &file, 0, 0), retries: 0 });
    state.finish(key.to_u64(), -libc::EINTR);
    assert_eq!(state.done.pop(), Some(Completion { token: 1, result: -libc::EINTR }));
}

#[test]
fn short_transfers_of_files_in_memory_are_made_at_once() {
    let Some(mut ring) = ring(Step::Plain) else { return };
    let Ok(file) = tempfile::tempfile_in("/dev/shm") else { return };
    let id = FileId::in_memory(file.as_raw_fd());
    assert!(id.is_memory() && id.fd() == file.as_raw_fd());
    assert!(!FileId(-1).is_memory() && !FileId(7).is_memory());
    let mut data = AlignedBuf::new(128 << 10).unwrap();
    data.fill(0x5a);
    let op = |kind, offset, len, buf| Op { token: 9, kind, file: id, offset, len, buf, lent: None };
    let mut out = Vec::new();
    // SAFETY: the buffers outlive the operations, which have completed when they are read.
    unsafe { ring.push(op(OpKind::WriteDsync, 4096, 4096, data.as_mut_ptr())) };
    ring.reap(&mut out);
    assert_eq!(out.pop(), Some(Completion { token: 9, result: 4096 }));
    let mut back = AlignedBuf::new(8192).unwrap();
    // SAFETY: as above.
    unsafe { ring.push(op(OpKind::Read, 0, 8192, back.as_mut_ptr())) };
    ring.reap(&mut out);
    assert_eq!(out.pop(), Some(Completion { token: 9, result: 8192 }));
    assert!(back[..4096].iter().all(|b| *b == 0) && back[4096..].iter().all(|b| *b == 0x5a));
    // A long one goes to the kernel.
    // SAFETY: as above.
    unsafe { ring.push(op(OpKind::Write, 0, 128 << 10, data.as_mut_ptr())) };
    ring.reap(&mut out);
    assert!(out.is_empty());
    while out.is_empty() {
        ring.wait(Some(Duration::from_secs(10)), &|| true).unwrap();
        ring.reap(&mut out);
    }
    assert_eq!(out.pop(), Some(Completion { token: 9, result: 128 << 10 }));
}

/// A socket answers the command `SIOCINQ` (0) since 6.7; older kernels refuse it. Either way there
/// is one completion, under the token, and it is not tried again.
#[test]
fn a_command_completes_once_with_the_drivers_result() {
    for step in STEPS {
        let Some(mut ring) = ring(step) else { continue };
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut near, b"12345").unwrap();
        let command =
            Command { token: 77, fd: far.as_raw_fd(), operation: 0, payload: [0; 16], addr: 0 };
        // SAFETY: the command names no memory.
        assert!(unsafe { ring.command(command) });
        let mut got = Vec::new();
        while got.is_empty() {
            ring.wait(Some(Duration::from_secs(10)), &|| true).unwrap();
            ring.reap(&mut got);
        }
        assert_eq!((got.len(), got[0].token), (1, 77));
        let result = got[0].result;
        let no = [-libc::EOPNOTSUPP, -libc::EINVAL];
        assert!(result == 5 || no.contains(&result), "{step:?}: {result}");
    }
}
