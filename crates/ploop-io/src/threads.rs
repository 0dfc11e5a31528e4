//! The engine for hosts without `io_uring`: blocking calls on a bounded pool of threads.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::poller::Poller;
use crate::pool::Pool;
use crate::{Completion, Interest, Io, Op, Waker};

/// Threads a queue starts at most.
const WORKERS: usize = 16;

/// Operations run on up to 16 threads in any order; watches and wakes by epoll.
pub struct Threads {
    poller: Poller,
    pool: Pool,
    queued: Vec<Op>,
}

impl Threads {
    /// A new engine with one thread; more start under load.
    ///
    /// # Errors
    /// No descriptor for the epoll set or the eventfd, or no thread.
    pub fn new() -> io::Result<Self> {
        let poller = Poller::new()?;
        let pool = Pool::new(WORKERS, poller.bell())?;
        Ok(Self { poller, pool, queued: Vec::new() })
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("queued", &self.queued.len()).finish_non_exhaustive()
    }
}

impl Io for Threads {
    unsafe fn push(&mut self, op: Op) {
        self.queued.push(op);
    }

    fn submit(&mut self) -> io::Result<()> {
        if !self.queued.is_empty() {
            // SAFETY: each was pushed under the same promise; completions are handed out by
            // `reap`, and dropping `self` drops the pool.
            unsafe { self.pool.send(self.queued.drain(..).map(|op| (op, op.token))) };
        }
        Ok(())
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        self.pool.take_done(out);
        self.poller.reap(out);
    }

    fn wait(&mut self, timeout: Option<Duration>, idle: &dyn Fn() -> bool) -> io::Result<()> {
        self.submit()?;
        if self.pool.has_done() {
            return Ok(());
        }
        self.poller.sleep(timeout, idle)
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
