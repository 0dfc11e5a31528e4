//! The long part of a merge of an open disk: what the levels under the top have is copied up by the
//! engine, cluster by cluster, while guests go on.

use super::jobs::Running;
use super::mapping;
use crate::{Code, Failure, Result};
use ploop_engine::remote::RemoteHandle;
use ploop_engine::{Buffer, Errno, Flags, Limits, Operation, Request};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Clusters under way: a guest's copy-ups find buffers too (D4).
const IN_FLIGHT: usize = 4;

/// What is copied up, and how far it is.
pub struct Raise<'a> {
    /// The queues.
    pub remotes: &'a [RemoteHandle],
    /// Of the device.
    pub limits: Limits,
    /// The levels to take from: this one and all between it and the top.
    pub floor: u32,
    /// The top.
    pub top: u32,
    /// Bytes that the levels hold, as far as is known.
    pub total: u64,
}

struct Window {
    sender: Sender<Option<Errno>>,
    ended: Receiver<Option<Errno>>,
    open: usize,
    next: usize,
}

impl Raise<'_> {
    /// Copies everything up.
    ///
    /// # Errors
    /// Cancelled (29), or a cluster cannot be copied.
    pub fn run(&self, job: &Running) -> Result<()> {
        let (sender, ended) = channel();
        let mut window = Window { sender, ended, open: 0, next: 0 };
        let copied = self.copy(job, &mut window);
        // Nothing is left under way, whatever happened.
        while window.open > 0 {
            let _ = window.wait();
        }
        copied
    }

    fn copy(&self, job: &Running, window: &mut Window) -> Result<()> {
        let (mut at, mut done) = (0, 0);
        while at < self.limits.size {
            let part = mapping::map(&self.remotes[0], self.limits, at)?;
            for extent in part.extents {
                let end = extent.offset_bytes + extent.length_bytes;
                at = end;
                if !extent.level.is_some_and(|level| (self.floor..self.top).contains(&level)) {
                    continue;
                }
                let mut from = extent.offset_bytes;
                while from < end {
                    if !job.go_on(done, self.total) {
                        return Err(Failure::new(Code::Internal, "stopped as asked")
                            .kind("cancelled")
                            .hint("the disk is whole; ploop snapshot-merge goes on with it"));
                    }
                    let len = (self.limits.cluster - from % self.limits.cluster).min(end - from);
                    window.submit(self.remotes, from, len)?;
                    from += len;
                    done += len;
                }
            }
        }
        while window.open > 0 {
            window.wait()?;
        }
        let _ = job.go_on(done, done);
        Ok(())
    }
}

impl Window {
    fn submit(&mut self, remotes: &[RemoteHandle], offset: u64, len: u64) -> Result<()> {
        if self.open >= IN_FLIGHT {
            self.wait()?;
        }
        let request = Request {
            tag: 0,
            operation: Operation::CopyUp,
            flags: Flags::default(),
            offset,
            len,
            buffer: Buffer::NONE,
        };
        let sender = self.sender.clone();
        let done = Box::new(move |outcome: Result<u32, Errno>| {
            let _ = sender.send(outcome.err());
        });
        self.open += 1;
        self.next = (self.next + 1) % remotes.len();
        remotes[self.next].submit(request, done);
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        self.open -= 1;
        match self.ended.recv() {
            Ok(None) => Ok(()),
            Ok(Some(errno)) => {
                Err(Failure::new(Code::Write, format!("a cluster cannot be copied up: {errno}")))
            }
            Err(_) => Err(Failure::new(Code::Internal, "a copy was never answered")),
        }
    }
}
