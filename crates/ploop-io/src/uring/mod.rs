//! The `io_uring` engine: one ring, owned by the thread that made it.
//!
//! ```text
//! push -> queue -> fill -> submission ring -> kernel -> completion ring -> drain -> done -> reap
//!           ^                                                               |
//!           +------------------------ EINTR, EAGAIN ------------------------+
//! ```
//! * Not more operations are in flight than the completion ring has room for (D5); what does not
//!   fit waits in `queue`. Watches and commands come on top: should they overflow the ring, the
//!   kernel keeps the completions and `submit` fetches them.
//! * With `DEFER_TASKRUN` a completion shows only after this thread entered the kernel for it, so
//!   `submit` enters when the ring's `TASKRUN` flag is up, even with nothing to submit.
//! * A short transfer of a file that lives in memory is made at once: the kernel would hand it to a
//!   worker, which costs many times the copy.
//! * A read of the waker's eventfd is kept armed; [`crate::wake`] decides whether it is used.

mod entry;
mod setup;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, squeue, types};

use self::setup::Abilities;
use self::slots::{Key, Slots, Work};
use crate::aligned::AlignedBuf;
use crate::pool::Pool;
use crate::wake::EventWaker;
use crate::{Command, Completion, Interest, Io, Op, Waker, sys};

/// `user_data` of the eventfd's read; no [`Key`] is this (an index stays below `u32::MAX`).
const BELL: u64 = u64::MAX;
/// Completions kept free for the eventfd, watches and their cancellation.
const SPARE: u32 = 8;
/// Workers a ring's blocking operations may occupy in the kernel.
const WORKERS: u32 = 16;
/// Buffers of drivers that a ring has places for: sixteen queues of 64 requests.
const LENT: u16 = 1024;
/// Submissions a ring takes unless said otherwise.
pub const DEFAULT_ENTRIES: u32 = 256;

/// A ring. Not `Send`: the kernel takes submissions only from the thread that made it.
pub struct Uring {
    ring: IoUring,
    state: State,
}

struct State {
    abilities: Abilities,
    slots: Slots,
    queue: VecDeque<Key>,
    /// Operations on the ring.
    in_flight: u32,
    limit: u32,
    done: Vec<Completion>,
    watches: HashMap<u64, Key>,
    waker: Arc<EventWaker>,
    bell_armed: bool,
    /// Places of the buffer table that are given out; none: there is no table yet.
    lent: Option<u16>,
    /// Where the kernel puts the eventfd's count; never read.
    bell_count: AlignedBuf,
    helper: Option<Pool>,
    helper_done: Vec<Completion>,
}

/// What became of an enter.
#[derive(PartialEq, Eq)]
enum Entered {
    Yes,
    /// The kernel is short of memory or the completion ring is full: reap first, try again.
    Busy,
}

impl Uring {
    /// A ring on this thread.
    ///
    /// # Errors
    /// There is no `io_uring` here; [`crate::why_no_uring`] puts the reason into words.
    pub fn new(entries: u32) -> io::Result<Self> {
        let (ring, abilities) = setup::open(entries.clamp(2, 4096), WORKERS)?;
        Self::with(ring, abilities)
    }

    fn with(ring: IoUring, abilities: Abilities) -> io::Result<Self> {
        let limit = ring.params().cq_entries().saturating_sub(SPARE).max(1);
        let state = State {
            abilities,
            slots: Slots::default(),
            queue: VecDeque::new(),
            in_flight: 0,
            limit,
            done: Vec::new(),
            watches: HashMap::new(),
            waker: Arc::new(EventWaker::new(false)?),
            bell_armed: false,
            lent: None,
            bell_count: AlignedBuf::new(8)?,
            helper: None,
            helper_done: Vec::new(),
        };
        Ok(Self { ring, state })
    }

    /// Moves what waits onto the submission ring while there is room.
    fn fill(&mut self) {
        let Self { ring, state } = self;
        let mut sq = ring.submission();
        if !state.bell_armed && !sq.is_full() {
            let into = state.bell_count.as_mut_ptr();
            let entry = entry::bell(state.waker.raw_fd(), into).user_data(BELL);
            // SAFETY: `bell_count` and the eventfd live until `drop` has seen this completion.
            state.bell_armed = unsafe { sq.push(&entry) }.is_ok();
        }
        while let Some(&key) = state.queue.front() {
            if sq.is_full() {
                break;
            }
            match state.prepare(key) {
                Prepared::Entry(entry) => {
                    // SAFETY: an operation's memory and file are valid until its completion was
                    // reaped (the promise of `push`), and `drop` waits for it; the other entries
                    // refer to no memory.
                    if unsafe { sq.push(&entry) }.is_err() {
                        break;
                    }
                    state.sent(key);
                }
                Prepared::Elsewhere => {}
                Prepared::Later => break,
            }
            state.queue.pop_front();
        }
    }

    /// Whether more could go onto the submission ring once it is emptied.
    fn more(&self) -> bool {
        !self.state.queue.is_empty() && self.state.in_flight < self.state.limit
    }

    fn unsubmitted(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Whether the kernel holds back completions until this thread enters.
    fn held_back(&mut self) -> bool {
        let sq = self.ring.submission();
        sq.taskrun() || sq.cq_overflow()
    }

    /// Submits what is on the submission ring and waits for `want` completions.
    fn enter(&mut self, want: usize, timeout: Option<Duration>) -> io::Result<Entered> {
        let submitter = self.ring.submitter();
        let result = match timeout {
            None => submitter.submit_and_wait(want),
            Some(limit) => {
                let limit = types::Timespec::from(limit);
                submitter.submit_with_args(want, &types::SubmitArgs::new().timespec(&limit))
            }
        };
        match result {
            Ok(_) => Ok(Entered::Yes),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::ETIME) => Ok(Entered::Yes),
                Some(libc::EAGAIN | libc::EBUSY) => {
                    self.drain();
                    Ok(Entered::Busy)
                }
                _ => Err(error),
            },
        }
    }

    /// Takes every completion that shows on the ring or came from the helper.
    fn drain(&mut self) {
        let Self { ring, state } = self;
        for cqe in ring.completion() {
            state.landed(cqe.user_data(), cqe.result());
        }
        if let Some(helper) = &state.helper {
            helper.take_done(&mut state.helper_done);
            while let Some(end) = state.helper_done.pop() {
                state.finish(end.token, end.result);
            }
        }
    }
}

/// Where a piece of work goes.
enum Prepared {
    Entry(squeue::Entry),
    /// Not for the ring: handed to the helper, or no longer wanted.
    Elsewhere,
    /// The completion ring has no room for it yet.
    Later,
}

impl State {
    fn prepare(&mut self, key: Key) -> Prepared {
        let data = key.to_u64();
        match self.slots.get(key).copied() {
            Some(Work::Op { .. }) if self.in_flight >= self.limit => Prepared::Later,
            Some(Work::Op { op, retries }) => match entry::operation(&op, self.abilities) {
                // Tried again: on a worker, which may block, so that it does not spin here.
                Some(entry) if retries > 0 => {
                    Prepared::Entry(entry.user_data(data).flags(squeue::Flags::ASYNC))
                }
                Some(entry) => Prepared::Entry(entry.user_data(data)),
                None => self.help(key, op),
            },
            Some(Work::Watch { fd, interest, .. }) => {
                Prepared::Entry(entry::poll(fd, interest).user_data(data))
            }
            Some(Work::Command(command)) => {
                Prepared::Entry(entry::command(&command).user_data(data))
            }
            Some(Work::Cancel(target)) => Prepared::Entry(entry::cancel(target).user_data(data)),
            Some(Work::Silenced) => {
                self.slots.remove(key);
                Prepared::Elsewhere
            }
            None => Prepared::Elsewhere,
        }
    }

    /// What this kernel's ring cannot do is done by a thread.
    fn help(&mut self, key: Key, op: Op) -> Prepared {
        if self.helper.is_none() {
            match Pool::new(1, Arc::clone(&self.waker)) {
                Ok(pool) => self.helper = Some(pool),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
                    let errno = if errno == libc::EAGAIN { libc::ENOMEM } else { errno };
                    self.finish(key.to_u64(), -errno);
                    return Prepared::Elsewhere;
                }
            }
        }
        if let Some(helper) = &mut self.helper {
            // SAFETY: the promise of `push`; `drop` ends the helper before anything else.
            unsafe { helper.send(std::iter::once((op, key.to_u64()))) };
        }
        Prepared::Elsewhere
    }

    /// The entry is on the submission ring now.
    fn sent(&mut self, key: Key) {
        if let Some(Work::Op { .. }) = self.slots.get(key) {
            self.in_flight += 1;
        }
    }

    /// A completion came out of the ring.
    fn landed(&mut self, data: u64, result: i32) {
        if data == BELL {
            self.bell_armed = false;
            return;
        }
        if let Some(Work::Op { .. }) = self.slots.get(Key::from_u64(data)) {
            self.in_flight -= 1;
        }
        self.finish(data, result);
    }

    fn finish(&mut self, data: u64, result: i32) {
        let key = Key::from_u64(data);
        match self.slots.get(key) {
            Some(Work::Op { op, retries }) => {
                if *retries < sys::MAX_RETRIES && sys::may_retry(op.kind, -result) {
                    *retries += 1;
                    self.queue.push_back(key);
                    return;
                }
                let token = op.token;
                self.done.push(Completion { token, result });
            }
            Some(Work::Watch { token, .. }) => {
                let token = *token;
                self.watches.remove(&token);
                self.done.push(Completion { token, result });
            }
            Some(Work::Command(command)) => {
                let token = command.token;
                self.done.push(Completion { token, result });
            }
            Some(Work::Silenced | Work::Cancel(_)) | None => {}
        }
        self.slots.remove(key);
    }
}

impl Io for Uring {
    unsafe fn push(&mut self, op: Op) {
        if sys::is_inline(&op) {
            // SAFETY: the promise of `push`.
            let result = unsafe { sys::perform(&op) };
            self.state.done.push(Completion { token: op.token, result });
            return;
        }
        let key = self.state.slots.insert(Work::Op { op, retries: 0 });
        self.state.queue.push_back(key);
    }

    fn submit(&mut self) -> io::Result<()> {
        loop {
            self.fill();
            if !self.unsubmitted() || self.enter(0, None)? == Entered::Busy || !self.more() {
                break;
            }
        }
        if self.held_back() {
            self.enter(0, None)?;
        }
        Ok(())
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        self.drain();
        out.append(&mut self.state.done);
    }

    fn wait(&mut self, timeout: Option<Duration>, idle: &dyn Fn() -> bool) -> io::Result<()> {
        self.drain();
        self.fill();
        if self.more() || !self.state.bell_armed {
            self.submit()?;
            self.drain();
            self.fill();
        }
        if !self.state.done.is_empty() || !self.state.bell_armed {
            return self.submit();
        }
        if !(self.state.waker.announce() && idle()) {
            self.state.waker.awake();
            return self.submit();
        }
        let entered = self.enter(1, timeout);
        self.state.waker.awake();
        if entered? == Entered::Busy && self.state.done.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.state.waker) as Waker
    }

    fn watch(&mut self, fd: i32, interest: Interest, token: u64) {
        let key = self.state.slots.insert(Work::Watch { fd, interest, token });
        self.state.watches.insert(token, key);
        self.state.queue.push_back(key);
    }

    fn unwatch(&mut self, token: u64) {
        let Some(key) = self.state.watches.remove(&token) else { return };
        if let Some(work) = self.state.slots.get(key) {
            *work = Work::Silenced;
        }
        // Still in the queue: `prepare` drops it. On the ring: the order goes behind it.
        if !self.state.queue.contains(&key) {
            let order = self.state.slots.insert(Work::Cancel(key));
            self.state.queue.push_back(order);
        }
    }

    unsafe fn command(&mut self, command: Command) -> bool {
        let key = self.state.slots.insert(Work::Command(command));
        self.state.queue.push_back(key);
        true
    }

    fn lend(&mut self, count: u16) -> Option<u16> {
        let first = match self.state.lent {
            Some(first) => first,
            // 5.19; a driver that fills the table is younger.
            None => self.ring.submitter().register_buffers_sparse(LENT.into()).map(|()| 0).ok()?,
        };
        let end = first.checked_add(count).filter(|end| *end <= LENT)?;
        self.state.lent = Some(end);
        Some(first)
    }
}

impl Drop for Uring {
    /// Waits for everything the kernel or the helper has: no memory is touched afterwards.
    fn drop(&mut self) {
        self.state.queue.clear();
        // Ends when what it has begun is done; what it reports is not wanted any more.
        self.state.helper = None;
        self.state.waker.ring_bell();
        let mut broken = 0;
        while self.state.bell_armed || self.state.in_flight > 0 {
            if let Err(error) = self.enter(1, None) {
                broken += 1;
                if broken > 100 {
                    tracing::error!(%error, "ring broken with operations in flight");
                    // The kernel may still write into memory the caller is about to free.
                    std::process::abort();
                }
            }
            self.drain();
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("in_flight", &self.state.in_flight)
            .field("waiting", &self.state.queue.len())
            .finish_non_exhaustive()
    }
}
