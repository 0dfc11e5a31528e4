//! What queues and the keeper tell each other.
//!
//! A piece has at most one message under way, so the inboxes are sized once and never full (D5).

use crate::front::{Buffer, Errno};
use crossbeam_queue::ArrayQueue;
use ploop_format::{BatPage, FileCluster, GuestCluster};
use ploop_io::Waker;
use std::sync::OnceLock;

/// Who waits for an answer: a piece (or a request) of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The queue.
    pub queue: u16,
    /// The queue's slot.
    pub slot: u32,
}

/// From a queue to the keeper.
#[derive(Clone, Copy, Debug)]
pub enum ToKeeper {
    /// Load a BAT page, then look up again.
    Load(Caller, BatPage),
    /// The cluster is claimed: look up again after its release.
    Wait(Caller, GuestCluster),
    /// Map a clean cluster for a hole, then look up again.
    Allocate(Caller, GuestCluster),
    /// Map this clean cluster, handed out ahead, for a hole; the queue writes to it meanwhile.
    /// Retry says that another request was first.
    AllocateAt(Caller, GuestCluster, FileCluster),
    /// Bring the cluster up; the guest covers `from..from+len` of it, with zeros when `zero`.
    CopyUp {
        /// Who.
        caller: Caller,
        /// Which cluster.
        cluster: GuestCluster,
        /// First byte the guest covers, inside the cluster.
        from: u64,
        /// Bytes the guest covers.
        len: u64,
        /// The guest's bytes are zeros; nothing will be written by the queue.
        zero: bool,
        /// The guest's bytes; valid until the answer.
        data: Buffer,
        /// The queue cannot write them as they are, not even a whole cluster.
        odd: bool,
    },
    /// Write a part of blocks, or from memory at an odd address, where the cluster is (F19).
    Patch {
        /// Who.
        caller: Caller,
        /// Which cluster.
        cluster: GuestCluster,
        /// First byte the guest covers, inside the cluster.
        from: u64,
        /// Bytes the guest covers.
        len: u64,
        /// With zeros.
        zero: bool,
        /// The guest's bytes; valid until the answer.
        data: Buffer,
        /// Durable before the answer.
        dsync: bool,
    },
    /// Direct I/O that fitted was refused: ask the files for their alignment, then look up again.
    Realign(Caller),
    /// Bring the cluster down to the plain file under the top.
    CopyDown(Caller, GuestCluster),
    /// A queue has written a whole cluster to its new place, or could not.
    CopyUpWritten(Caller, GuestCluster, Result<(), Errno>),
    /// Take the mapping away; the cluster reads as zeros.
    Unmap(Caller, GuestCluster),
    /// Map a clean cluster over a lower level's.
    MapClean(Caller, GuestCluster),
    /// Answer when every present change of the page is durable (F3).
    Durable(Caller, BatPage),
    /// Answer when everything acknowledged so far is durable (I3).
    Flush(Caller),
}

impl ToKeeper {
    /// The cluster whose mapping it is about.
    #[must_use]
    pub const fn cluster(&self) -> Option<GuestCluster> {
        match self {
            Self::Wait(_, cluster)
            | Self::Allocate(_, cluster)
            | Self::AllocateAt(_, cluster, _)
            | Self::CopyUp { cluster, .. }
            | Self::Patch { cluster, .. }
            | Self::CopyDown(_, cluster)
            | Self::CopyUpWritten(_, cluster, _)
            | Self::Unmap(_, cluster)
            | Self::MapClean(_, cluster) => Some(*cluster),
            Self::Load(..) | Self::Realign(_) | Self::Durable(..) | Self::Flush(_) => None,
        }
    }
}

/// From the keeper to a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Register and look up again from the start.
    Retry,
    /// Write the whole cluster at this byte of the top, in place of a copy-up.
    WriteAt(u64),
    /// Done.
    Done,
    /// Failed.
    Failed(Errno),
}

/// An inbox and the thread that empties it.
pub struct Link<T> {
    inbox: ArrayQueue<T>,
    waker: OnceLock<Waker>,
}

impl<T> Link<T> {
    /// An inbox that holds at most `capacity` messages.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { inbox: ArrayQueue::new(capacity.max(1)), waker: OnceLock::new() }
    }

    /// Sets the thread to wake.
    pub fn set_waker(&self, waker: Waker) {
        let _ = self.waker.set(waker);
    }

    /// Sends; wakes the receiver when it sleeps.
    pub fn send(&self, message: T) {
        let mut message = message;
        while let Err(back) = self.inbox.push(message) {
            // Not reached while every caller keeps to one message per piece; losing it would
            // lose a request, so wait for room.
            message = back;
            std::hint::spin_loop();
        }
        self.wake();
    }

    /// Wakes the receiver.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    /// The next message.
    pub fn take(&self) -> Option<T> {
        self.inbox.pop()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbox.is_empty()
    }
}
