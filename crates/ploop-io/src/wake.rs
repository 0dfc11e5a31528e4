//! Waking a ring's thread: one word says whether it sleeps, an eventfd ends the sleep.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::Wake;
use crate::wake_word::WakeWord;

/// The word and the eventfd. `wake` costs one atomic exchange while the thread is awake.
#[derive(Debug)]
pub(crate) struct EventWaker {
    word: WakeWord,
    fd: OwnedFd,
}

impl EventWaker {
    /// The eventfd is blocking for a ring that keeps a read armed, else non-blocking.
    pub(crate) fn new(nonblocking: bool) -> io::Result<Self> {
        let mut flags = EventfdFlags::CLOEXEC;
        flags.set(EventfdFlags::NONBLOCK, nonblocking);
        Ok(Self { word: WakeWord::new(), fd: eventfd(0, flags)? })
    }

    /// The owner says it is about to sleep. `false`: a wake is due, do not sleep.
    pub(crate) fn announce(&self) -> bool {
        self.word.announce()
    }

    /// The owner is awake again; takes the notification with it.
    pub(crate) fn awake(&self) {
        self.word.awake();
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
        if self.word.notify() {
            self.ring_bell();
        }
    }
}
