//! Worker threads that perform operations by blocking calls.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::wake::EventWaker;
use crate::{Completion, Op, Wake, sys};

/// An operation on its way to a worker, with the name its completion shall have.
struct Job {
    op: Op,
    name: u64,
}

// SAFETY: the buffer is valid, and nobody else's, until the completion was reaped (the promise of
// `Io::push`); which thread moves the bytes does not matter.
unsafe impl Send for Job {}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    done: Vec<Completion>,
    idle: usize,
    stop: bool,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    bell: Arc<EventWaker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock; should it, the lists are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bounded pool. Threads are started when needed and wait for more afterwards.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    limit: usize,
}

impl Pool {
    /// A pool with one thread running; `bell` is rung after completions.
    pub(crate) fn new(limit: usize, bell: Arc<EventWaker>) -> io::Result<Self> {
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), bell };
        let mut pool = Self { shared: Arc::new(shared), workers: Vec::new(), limit: limit.max(1) };
        pool.spawn()?;
        Ok(pool)
    }

    fn spawn(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let name = format!("ploop-io-{}", self.workers.len());
        let worker = std::thread::Builder::new().name(name).spawn(move || work(&shared))?;
        self.workers.push(worker);
        Ok(())
    }

    /// Hands operations over; their completions carry `name`.
    ///
    /// # Safety
    /// As [`crate::Io::push`], for each operation, until its completion came out of
    /// [`Pool::take_done`] or the pool was dropped.
    pub(crate) unsafe fn send(&mut self, ops: impl Iterator<Item = (Op, u64)>) {
        let (waiting, idle) = {
            let mut state = self.shared.lock();
            state.jobs.extend(ops.map(|(op, name)| Job { op, name }));
            (state.jobs.len(), state.idle)
        };
        for _ in 0..waiting.min(idle) {
            self.shared.work.notify_one();
        }
        let missing = waiting.saturating_sub(idle).min(self.limit - self.workers.len());
        for _ in 0..missing {
            // With at least one worker everything still gets done, only later.
            if self.spawn().is_err() {
                break;
            }
        }
    }

    /// Moves the completions there are to `out`.
    pub(crate) fn take_done(&self, out: &mut Vec<Completion>) {
        out.append(&mut self.shared.lock().done);
    }

    pub(crate) fn has_done(&self) -> bool {
        !self.shared.lock().done.is_empty()
    }
}

impl Drop for Pool {
    /// What no worker has begun is forgotten; what was begun is waited for, so that no memory is
    /// touched afterwards.
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stop = true;
            state.jobs.clear();
        }
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            drop(state);
            // SAFETY: the promise made to `Pool::send`; dropping the pool joins this thread.
            let result = unsafe { sys::perform(&job.op) };
            state = shared.lock();
            state.done.push(Completion { token: job.name, result });
            drop(state);
            shared.bell.wake();
            state = shared.lock();
        } else if state.stop {
            return;
        } else {
            state.idle += 1;
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}
