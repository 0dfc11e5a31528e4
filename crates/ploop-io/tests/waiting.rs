//! Sleep, wake, timeouts and watches on every engine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Kind, Lcg, PATIENCE};
use ploop_io::{Completion, Interest, Io};

macro_rules! on_every_engine {
    ($($test:ident)*) => {
        on_every_engine! { @ uring, Kind::Uring, $($test)* }
        on_every_engine! { @ threads, Kind::Threads, $($test)* }
        on_every_engine! { @ null, Kind::Null, $($test)* }
    };
    (@ $name:ident, $kind:expr, $($test:ident)*) => {
        mod $name {
            use super::*;
            $(#[test]
            fn $test() {
                if let Some(mut io) = common::engine($kind) {
                    super::$test(&mut io);
                }
            })*
        }
    };
}

on_every_engine! {
    a_wait_ends_with_its_timeout
    a_wake_before_the_wait_ends_it
    a_wait_that_is_not_idle_returns_at_once
    a_thread_that_was_woken_can_sleep_again
    no_wake_is_lost
    no_message_is_slept_over
    a_readable_socket_completes_its_watch
    a_watch_fires_once
    a_closed_peer_completes_the_watch
    a_writable_socket_completes_its_watch
    two_watches_on_one_descriptor
    an_unwatched_descriptor_is_silent
    a_watch_shows_without_a_wait
    a_watch_on_a_bad_descriptor_fails
    many_watches
}

fn wait(io: &mut Box<dyn Io>, limit: Duration) -> Vec<Completion> {
    let start = Instant::now();
    let mut got = Vec::new();
    while got.is_empty() && start.elapsed() < limit {
        let left = limit.saturating_sub(start.elapsed());
        io.wait(Some(left), &|| true).unwrap();
        io.reap(&mut got);
    }
    got
}

fn a_wait_ends_with_its_timeout(io: &mut Box<dyn Io>) {
    let start = Instant::now();
    io.wait(Some(Duration::from_millis(50)), &|| true).unwrap();
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(45), "{took:?}");
    assert!(took < PATIENCE, "{took:?}");
    io.wait(Some(Duration::ZERO), &|| true).unwrap();
    let mut got = Vec::new();
    io.reap(&mut got);
    assert_eq!(got, []);
}

fn a_wake_before_the_wait_ends_it(io: &mut Box<dyn Io>) {
    let waker = io.waker();
    waker.wake();
    waker.wake();
    let start = Instant::now();
    io.wait(Some(PATIENCE), &|| true).unwrap();
    assert!(start.elapsed() < PATIENCE);
    // Both wakes are used up.
    let start = Instant::now();
    io.wait(Some(Duration::from_millis(50)), &|| true).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(45));
}

fn a_wait_that_is_not_idle_returns_at_once(io: &mut Box<dyn Io>) {
    let start = Instant::now();
    io.wait(Some(PATIENCE), &|| false).unwrap();
    assert!(start.elapsed() < PATIENCE);
}

/// What a wake leaves behind does not keep a thread awake that has nothing to reap.
fn a_thread_that_was_woken_can_sleep_again(io: &mut Box<dyn Io>) {
    for _ in 0..5 {
        let waker = io.waker();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(5));
            waker.wake();
        });
        io.wait(Some(PATIENCE), &|| true).unwrap();
        other.join().unwrap();
    }
    // The last bell may end one wait early, not two.
    io.wait(Some(Duration::from_millis(50)), &|| true).unwrap();
    let start = Instant::now();
    io.wait(Some(Duration::from_millis(50)), &|| true).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(45));
}

/// Another thread counts up and wakes; the sleeper never relies on `idle`.
fn no_wake_is_lost(io: &mut Box<dyn Io>) {
    ping_pong(io, true);
}

/// The other thread's message is pushed before its wake, and `idle` sees it.
fn no_message_is_slept_over(io: &mut Box<dyn Io>) {
    ping_pong(io, false);
}

fn ping_pong(io: &mut Box<dyn Io>, always_idle: bool) {
    const ROUNDS: u64 = 10_000;
    /// On a host so busy that the rounds take longer, fewer are enough.
    const LONG_ENOUGH: Duration = Duration::from_secs(5);
    let begun = Instant::now();
    let over = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let seen = Arc::new(AtomicU64::new(0));
    let waker = io.waker();
    let other = {
        let (sent, seen, over) = (Arc::clone(&sent), Arc::clone(&seen), Arc::clone(&over));
        thread::spawn(move || {
            let mut random = Lcg(42);
            for round in 1..=ROUNDS {
                for _ in 0..random.next(2000) {
                    std::hint::spin_loop();
                }
                sent.store(round, Ordering::Release);
                waker.wake();
                while seen.load(Ordering::Acquire) < round {
                    thread::park();
                }
                if begun.elapsed() > LONG_ENOUGH {
                    break;
                }
            }
            over.store(true, Ordering::Release);
            waker.wake();
        })
    };
    let mut random = Lcg(7);
    let mut have = 0;
    while !over.load(Ordering::Acquire) {
        let start = Instant::now();
        let news = || over.load(Ordering::Acquire) || sent.load(Ordering::Acquire) != have;
        let idle = || always_idle || !news();
        io.wait(Some(PATIENCE), &idle).unwrap();
        assert!(start.elapsed() < PATIENCE, "a wake after round {have} was lost");
        have = sent.load(Ordering::Acquire);
        for _ in 0..random.next(500) {
            std::hint::spin_loop();
        }
        seen.store(have, Ordering::Release);
        other.thread().unpark();
    }
    other.join().unwrap();
    assert!(have > 0);
}

fn a_readable_socket_completes_its_watch(io: &mut Box<dyn Io>) {
    let (here, mut there) = UnixStream::pair().unwrap();
    io.watch(here.as_raw_fd(), Interest::Read, 5);
    assert_eq!(wait(io, Duration::from_millis(20)), []);
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        there.write_all(b"x").unwrap();
        there
    });
    let got = wait(io, PATIENCE);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].token, 5);
    assert_ne!(got[0].result & i32::from(libc::POLLIN), 0);
    writer.join().unwrap();
}

fn a_watch_fires_once(io: &mut Box<dyn Io>) {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    for token in 1..=3 {
        there.write_all(b"x").unwrap();
        io.watch(here.as_raw_fd(), Interest::Read, token);
        assert_eq!(wait(io, PATIENCE).len(), 1);
        assert_eq!(wait(io, Duration::from_millis(10)), [], "still readable, but one-shot");
        here.read_exact(&mut [0]).unwrap();
    }
}

fn a_closed_peer_completes_the_watch(io: &mut Box<dyn Io>) {
    let (here, there) = UnixStream::pair().unwrap();
    io.watch(here.as_raw_fd(), Interest::Read, 6);
    io.submit().unwrap();
    drop(there);
    let got = wait(io, PATIENCE);
    assert_eq!(got.len(), 1);
    assert_ne!(got[0].result & i32::from(libc::POLLHUP), 0);
}

fn a_writable_socket_completes_its_watch(io: &mut Box<dyn Io>) {
    let (here, mut there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    while (&here).write(&[0; 65536]).is_ok() {}
    io.watch(here.as_raw_fd(), Interest::Write, 8);
    assert_eq!(wait(io, Duration::from_millis(20)), []);
    there.set_nonblocking(true).unwrap();
    while there.read(&mut [0; 65536]).is_ok_and(|n| n > 0) {}
    let got = wait(io, PATIENCE);
    assert_eq!(got.len(), 1);
    assert_ne!(got[0].result & i32::from(libc::POLLOUT), 0);
}

fn two_watches_on_one_descriptor(io: &mut Box<dyn Io>) {
    let (here, mut there) = UnixStream::pair().unwrap();
    io.watch(here.as_raw_fd(), Interest::Read, 1);
    io.watch(here.as_raw_fd(), Interest::Write, 2);
    let got = wait(io, PATIENCE);
    assert_eq!(got.iter().map(|c| c.token).collect::<Vec<_>>(), [2]);
    there.write_all(b"x").unwrap();
    let got = wait(io, PATIENCE);
    assert_eq!(got.iter().map(|c| c.token).collect::<Vec<_>>(), [1]);
}

fn an_unwatched_descriptor_is_silent(io: &mut Box<dyn Io>) {
    let (here, mut there) = UnixStream::pair().unwrap();
    for submitted in [false, true] {
        io.watch(here.as_raw_fd(), Interest::Read, 3);
        if submitted {
            assert_eq!(wait(io, Duration::from_millis(10)), []);
        }
        io.unwatch(3);
        there.write_all(b"x").unwrap();
        let got = wait(io, Duration::from_millis(30));
        assert!(got.len() <= 1, "at most the one late completion");
        // The same token works again at once, and speaks of the new watch.
        io.watch(here.as_raw_fd(), Interest::Read, 3);
        let got = wait(io, PATIENCE);
        assert_eq!(got.len(), 1);
        assert_ne!(got[0].result & i32::from(libc::POLLIN), 0);
        assert!(got[0].result > 0);
        (&here).read_exact(&mut [0]).unwrap();
    }
    io.unwatch(12345);
}

fn a_watch_shows_without_a_wait(io: &mut Box<dyn Io>) {
    let (here, mut there) = UnixStream::pair().unwrap();
    io.watch(here.as_raw_fd(), Interest::Read, 4);
    io.submit().unwrap();
    there.write_all(b"x").unwrap();
    let (start, mut got) = (Instant::now(), Vec::new());
    while got.is_empty() {
        assert!(start.elapsed() < PATIENCE);
        io.submit().unwrap();
        io.reap(&mut got);
    }
    assert_eq!(got[0].token, 4);
}

fn a_watch_on_a_bad_descriptor_fails(io: &mut Box<dyn Io>) {
    for fd in [-1, 999_999] {
        io.watch(fd, Interest::Read, 9);
        assert_eq!(wait(io, PATIENCE), [Completion { token: 9, result: -libc::EBADF }]);
    }
}

/// More watches than a small ring has completions; all fire together.
fn many_watches(io: &mut Box<dyn Io>) {
    const COUNT: usize = 400;
    let mut pairs = Vec::new();
    for token in 0..COUNT {
        let Ok(pair) = UnixStream::pair() else {
            common::skip("too few descriptors for 400 sockets");
            return;
        };
        io.watch(pair.0.as_raw_fd(), Interest::Read, token as u64);
        pairs.push(pair);
    }
    io.submit().unwrap();
    for (_, there) in &mut pairs {
        there.write_all(b"x").unwrap();
    }
    let (start, mut got) = (Instant::now(), Vec::new());
    while got.len() < COUNT {
        assert!(start.elapsed() < PATIENCE, "{} of {COUNT}", got.len());
        io.wait(Some(Duration::from_secs(1)), &|| true).unwrap();
        io.reap(&mut got);
    }
    let mut tokens: Vec<_> = got.iter().map(|c| c.token).collect();
    tokens.sort_unstable();
    assert!(tokens.into_iter().eq(0..COUNT as u64));
}
