//! Between those who mount and the queues that serve: what is new for a queue, who has left.

use crate::channel::Channel;
use crate::file::File;
use crate::front::FuseFront;
use ploop_engine::Limits;
use ploop_engine::arena::Arena;
use ploop_io::Waker;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// Bytes for payloads of one queue; bounds what it has in flight.
const MEMORY: usize = 16 << 20;

/// The FUSE side of a device's queues: where files are mounted.
///
/// Made before the queues start, with a [`FuseFront`] for each of them.
#[derive(Clone)]
pub struct FuseQueues {
    pub(crate) inboxes: Arc<[Inbox]>,
    /// Mounts so far: the next one's home is another queue.
    mounted: Arc<AtomicUsize>,
}

/// What others leave for a queue.
#[derive(Default)]
pub(crate) struct Inbox {
    /// Something is in `state`.
    any: AtomicBool,
    state: Mutex<Mail>,
    waker: OnceLock<Waker>,
}

#[derive(Default)]
pub(crate) struct Mail {
    /// The queue takes no more.
    closed: bool,
    /// To be served from now on.
    pub(crate) mounts: Vec<NewMount>,
    /// Places of requests that have got their range.
    pub(crate) granted: Vec<u32>,
}

/// A queue's part of a mount.
pub(crate) struct NewMount {
    pub(crate) channel: Channel,
    pub(crate) file: Arc<File>,
    pub(crate) home: bool,
    pub(crate) present: Present,
}

impl FuseQueues {
    /// For a device of so many queues, with the front end of each.
    ///
    /// # Errors
    /// No memory.
    pub fn new(limits: Limits, queues: usize) -> io::Result<(Self, Vec<FuseFront>)> {
        let inboxes: Arc<[Inbox]> = (0..queues).map(|_| Inbox::default()).collect();
        let front = |queue| {
            let mut arena = Arena::new(MEMORY, limits.buffer_align as usize)?;
            // No payload waits for the system to find memory (D7).
            arena.touch();
            Ok(FuseFront::new(Arc::clone(&inboxes), queue, limits, arena))
        };
        let fronts = (0..queues).map(front).collect::<io::Result<_>>()?;
        Ok((Self { inboxes, mounted: Arc::default() }, fronts))
    }

    /// The queue that serves the next mount when there is not much to do.
    pub(crate) fn next_home(&self) -> usize {
        self.mounted.fetch_add(1, Ordering::Relaxed) % self.inboxes.len().max(1)
    }
}

impl Inbox {
    /// For the queue's own thread, before its first turn.
    pub(crate) fn set_waker(&self, waker: Waker) {
        let _ = self.waker.set(waker);
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    pub(crate) fn mount(&self, mount: NewMount) {
        self.put(|mail| mail.mounts.push(mount));
    }

    pub(crate) fn grant(&self, slot: u32) {
        self.put(|mail| mail.granted.push(slot));
    }

    /// What came since the last time. A lock is taken only when something did.
    pub(crate) fn take(&self) -> Option<Mail> {
        if !self.any.swap(false, Ordering::AcqRel) {
            return None;
        }
        let mut state = self.lock();
        let closed = state.closed;
        Some(std::mem::replace(&mut *state, Mail { closed, ..Mail::default() }))
    }

    /// No more mounts. Grants still come.
    pub(crate) fn close(&self) {
        let left = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.mounts)
        };
        drop(left);
    }

    fn put(&self, change: impl FnOnce(&mut Mail)) {
        let refused = {
            let mut state = self.lock();
            change(&mut state);
            if state.closed { std::mem::take(&mut state.mounts) } else { Vec::new() }
        };
        drop(refused);
        self.any.store(true, Ordering::Release);
        self.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queues that serve a mount.
#[derive(Default)]
pub(crate) struct Party {
    present: Mutex<usize>,
    left: Condvar,
}

/// One queue serves; it has left when this is dropped.
pub(crate) struct Present(Arc<Party>);

impl Party {
    pub(crate) fn join(self: &Arc<Self>) -> Present {
        *self.lock() += 1;
        Present(Arc::clone(self))
    }

    /// Waits until the last has left.
    pub(crate) fn wait(&self) {
        let mut present = self.lock();
        while *present > 0 {
            present = self.left.wait(present).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.left.notify_all();
    }
}
