//! Waking a ring's thread: one word says whether it sleeps, an eventfd ends the sleep.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

use crate::Wake;

const AWAKE: u32 = 0;
const NOTIFIED: u32 = 1;
const ASLEEP: u32 = 2;

/// The word and the eventfd. `wake` costs one atomic exchange while the thread is awake.
///
/// A message pushed before `wake` is never slept over: either the waker sees `ASLEEP` and writes
/// the eventfd, or the sleeper sees `NOTIFIED` and does not sleep.
#[derive(Debug)]
pub(crate) struct EventWaker {
    state: AtomicU32,
    fd: OwnedFd,
}

impl EventWaker {
    /// The eventfd is blocking for a ring that keeps a read armed, else non-blocking.
    pub(crate) fn new(nonblocking: bool) -> io::Result<Self> {
        let mut flags = EventfdFlags::CLOEXEC;
        flags.set(EventfdFlags::NONBLOCK, nonblocking);
        Ok(Self { state: AtomicU32::new(AWAKE), fd: eventfd(0, flags)? })
    }

    /// The owner says it is about to sleep. `false`: a wake is due, do not sleep.
    pub(crate) fn announce(&self) -> bool {
        let slept =
            self.state.compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        // The caller looks at its queues next: those loads stay behind the announcement.
        fence(Ordering::SeqCst);
        slept
    }

    /// The owner is awake again; takes the notification with it.
    pub(crate) fn awake(&self) {
        self.state.swap(AWAKE, Ordering::SeqCst);
    }

    /// Makes the eventfd readable whatever the state.
    pub(crate) fn ring_bell(&self) {
        // A full counter (EAGAIN) is as good as a write; nothing else can fail here.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Empties a non-blocking eventfd.
    pub(crate) fn clear_bell(&self) {
        let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Wake for EventWaker {
    fn wake(&self) {
        if self.state.swap(NOTIFIED, Ordering::SeqCst) == ASLEEP {
            self.ring_bell();
        }
    }
}
