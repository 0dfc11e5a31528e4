//! An engine that does nothing, at once: to measure everything but the disk.

use std::io;
use std::time::Duration;

use crate::poller::Poller;
use crate::{Completion, Interest, Io, Op, OpKind, Waker, sys};

/// Completes everything in full; a read leaves the buffer as it is. Watches and wakes are real.
#[derive(Debug)]
pub struct Null {
    poller: Poller,
    done: Vec<Completion>,
    reads: bool,
}

impl Null {
    /// A new engine.
    ///
    /// # Errors
    /// No descriptor for the epoll set or the eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self { poller: Poller::new()?, done: Vec::new(), reads: false })
    }

    /// One that really reads and changes lengths, at once and blocking, and does nothing else: for
    /// a keeper, which must see the mapping for its queues to have something to look up, and
    /// leave a file that is as long as it believes.
    ///
    /// # Errors
    /// As [`Null::new`].
    pub fn that_reads() -> io::Result<Self> {
        Ok(Self { reads: true, ..Self::new()? })
    }
}

impl Io for Null {
    unsafe fn push(&mut self, op: Op) {
        if self.reads && matches!(op.kind, OpKind::Read | OpKind::Truncate) {
            // SAFETY: the promise of `push`.
            let result = unsafe { sys::perform(&op) };
            self.done.push(Completion { token: op.token, result });
            return;
        }
        let moved = match op.kind {
            OpKind::Read | OpKind::Write | OpKind::WriteDsync => op.len,
            _ => 0,
        };
        let result = i32::try_from(moved).unwrap_or(-libc::EINVAL);
        self.done.push(Completion { token: op.token, result });
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.done);
        self.poller.reap(out);
    }

    fn wait(&mut self, timeout: Option<Duration>, idle: &dyn Fn() -> bool) -> io::Result<()> {
        if self.done.is_empty() { self.poller.sleep(timeout, idle) } else { Ok(()) }
    }

    fn waker(&self) -> Waker {
        self.poller.waker()
    }

    fn watch(&mut self, fd: i32, interest: Interest, token: u64) {
        self.poller.watch(fd, interest, token);
    }

    fn unwatch(&mut self, token: u64) {
        self.poller.unwatch(token);
    }
}
