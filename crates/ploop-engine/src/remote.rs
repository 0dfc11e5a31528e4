//! The front end for code on other threads: FUSE workers, tests, tools.
//!
//! [`RemoteHandle`] is cloned to any thread; [`RemoteFront`] lives on a queue's thread.

use crate::front::{Errno, FrontEnd, Intake, Operation, Outcome, Request};
use crossbeam_queue::SegQueue;
use ploop_io::Waker;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Called with the outcome, on the queue's thread; must not block.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

struct Shared {
    inbox: SegQueue<(Request, Done)>,
    waker: OnceLock<Waker>,
    closed: AtomicBool,
    /// Requests between `submit` and their `Done`.
    open: AtomicUsize,
}

/// Hands requests to a queue from any thread.
#[derive(Clone)]
pub struct RemoteHandle {
    shared: Arc<Shared>,
}

/// The end of a [`RemoteHandle`] that lives on a queue.
pub struct RemoteFront {
    shared: Arc<Shared>,
    waiting: HashMap<u64, Done>,
    next: u64,
    stopping: bool,
}

/// A connected pair.
#[must_use]
pub fn remote() -> (RemoteHandle, RemoteFront) {
    let shared = Arc::new(Shared {
        inbox: SegQueue::new(),
        waker: OnceLock::new(),
        closed: AtomicBool::new(false),
        open: AtomicUsize::new(0),
    });
    let front = RemoteFront {
        shared: Arc::clone(&shared),
        waiting: HashMap::new(),
        next: 0,
        stopping: false,
    };
    (RemoteHandle { shared }, front)
}

impl RemoteHandle {
    /// Hands a request in; `done` gets the outcome. `request.tag` is not used.
    pub fn submit(&self, request: Request, done: Done) {
        self.shared.open.fetch_add(1, Ordering::SeqCst);
        if self.shared.closed.load(Ordering::SeqCst) {
            self.shared.open.fetch_sub(1, Ordering::SeqCst);
            done(Err(Errno::SHUTDOWN));
            return;
        }
        self.shared.inbox.push((request, done));
        if let Some(waker) = self.shared.waker.get() {
            waker.wake();
        }
    }

    /// Hands a request in and waits for it. Not for a queue's own thread.
    ///
    /// # Errors
    /// The request's own.
    pub fn call(&self, request: Request) -> Outcome {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.submit(
            request,
            Box::new(move |outcome| {
                let _ = sender.send(outcome);
            }),
        );
        receiver.recv().unwrap_or(Err(Errno::SHUTDOWN))
    }

    /// Reads `buf.len()` bytes at `offset` and waits.
    ///
    /// # Errors
    /// The request's own. The buffer must be aligned as [`crate::Limits::buffer_align`] says.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Outcome {
        // SAFETY: `call` returns only after the request was completed.
        let buffer = unsafe { crate::Buffer::new(buf.as_mut_ptr(), buf.len()) };
        self.call(Request {
            tag: 0,
            operation: Operation::Read,
            flags: crate::Flags::default(),
            offset,
            len: buf.len() as u64,
            buffer,
        })
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }
}

impl RemoteFront {
    /// Tells the handles how to wake the queue; called by the thread that runs it.
    pub fn set_waker(&self, waker: Waker) {
        let _ = self.shared.waker.set(waker);
    }
}

impl FrontEnd for RemoteFront {
    fn poll(&mut self, intake: &mut dyn Intake) {
        if intake.stopping() && !self.stopping {
            self.stopping = true;
            self.shared.closed.store(true, Ordering::SeqCst);
        }
        while intake.room() > 0 {
            let Some((mut request, done)) = self.shared.inbox.pop() else { break };
            request.tag = self.next;
            self.waiting.insert(self.next, done);
            self.next += 1;
            intake.push(request);
        }
    }

    fn ready(&mut self, _key: u32, _events: i32) {}

    fn complete(&mut self, tag: u64, outcome: Outcome) {
        if let Some(done) = self.waiting.remove(&tag) {
            done(outcome);
            self.shared.open.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn finished(&self) -> bool {
        // What raced with `closed` is counted in `open` until it was served.
        self.stopping && self.shared.open.load(Ordering::SeqCst) == 0
    }
}
