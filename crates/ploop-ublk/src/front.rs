//! The front end of one ublk queue: fetches on the queue's own ring, requests into the engine,
//! answers back with the next fetch.
//!
//! ```text
//! FETCH(tag) -> result 0 -> descriptor -> Request -> complete -> COMMIT_AND_FETCH(tag) -> ...
//!            -> -ENODEV: the disk is gone, this tag is done
//! ```
//! Each tag has a buffer for itself; with zero copy the data stays in the request's own memory, and
//! the buffer is for what the engine has to see.

use crate::abi::{IoCmd, IoDesc, io};
use crate::copies::{Copies, Places};
use crate::descriptors::Descriptors;
use ploop_engine::{Buffer, Errno, Flags, FrontEnd, Intake, Operation, Outcome, Request};
use ploop_io::{AlignedBuf, Command};
use std::collections::VecDeque;
use std::io::Result;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a tag is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tag {
    /// A command has to go to the driver.
    Due,
    /// With the driver.
    Fetching,
    /// With us.
    Serving,
    /// The driver wants it no more.
    Gone,
}

/// What the device says to its queues.
#[derive(Clone)]
pub(crate) struct Life {
    /// The kernel has a disk.
    pub started: Arc<AtomicBool>,
    /// Another server goes on with it.
    pub leaving: Arc<AtomicBool>,
}

/// The front end of a queue.
pub struct UblkFront {
    file: Arc<OwnedFd>,
    descriptors: Descriptors,
    queue: u16,
    places: Places,
    buffers: Vec<AlignedBuf>,
    tags: Vec<Tag>,
    /// Answers to go out with the next fetch; none: the first fetch.
    results: Vec<Option<i32>>,
    due: VecDeque<u16>,
    /// Requests the engine had no room for.
    waiting: VecDeque<u16>,
    life: Life,
    stopping: bool,
    /// The last `poll` has sent something, which is not with the driver yet.
    sent: bool,
    wake: Option<ploop_io::Waker>,
}

impl UblkFront {
    /// For a queue of an open device; the buffers are touched now (D7).
    pub(crate) fn new(
        file: Arc<OwnedFd>,
        descriptors: Descriptors,
        queue: u16,
        (max_io, copies): (usize, Copies),
        life: Life,
    ) -> Result<Self> {
        let depth = usize::from(descriptors.depth());
        let mut buffers = Vec::with_capacity(depth);
        for _ in 0..depth {
            buffers.push(AlignedBuf::new(max_io)?);
        }
        Ok(Self {
            places: Places::new(copies, Arc::clone(&file), queue),
            file,
            queue,
            buffers,
            tags: vec![Tag::Due; depth],
            results: vec![None; depth],
            due: (0..descriptors.depth()).collect(),
            waiting: VecDeque::with_capacity(depth),
            descriptors,
            life,
            stopping: false,
            sent: false,
            wake: None,
        })
    }

    /// Tells how to wake this queue's thread. Before the first `poll`.
    pub fn set_waker(&mut self, waker: ploop_io::Waker) {
        self.wake = Some(waker);
    }

    /// Sends what is due to the driver.
    fn send(&mut self, intake: &mut dyn Intake) {
        while let Some(tag) = self.due.pop_front() {
            let n = usize::from(tag);
            let result = self.results[n].take();
            let operation = if result.is_some() { io::COMMIT_AND_FETCH } else { io::FETCH };
            let (memory, addr) = self.places.addresses(tag, self.buffers[n].as_mut_ptr());
            let result = result.unwrap_or(0);
            let payload = IoCmd { queue: self.queue, tag, result, addr: memory }.encode();
            let fd = self.file.as_raw_fd();
            let command = Command { token: 0, fd, operation, payload, addr };
            // SAFETY: the tag's buffer lives as long as this front end, which keeps it (`drop`)
            // while the driver has the tag.
            let sent = unsafe { intake.command(u32::from(tag), command) };
            self.sent = true;
            self.tags[n] = if sent { Tag::Fetching } else { Tag::Gone };
        }
    }

    /// Hands waiting requests to the engine while it has room.
    fn hand_in(&mut self, intake: &mut dyn Intake) {
        while intake.room() > 0 {
            let Some(tag) = self.waiting.pop_front() else { return };
            let memory = &mut self.buffers[usize::from(tag)];
            let wish = self.descriptors.get(tag).ok_or(Errno::INVAL);
            match wish.and_then(|wish| request(tag, wish, memory, &self.places)) {
                Ok(request) => intake.push(request),
                Err(errno) => self.answer(tag, -errno.raw_os_error()),
            }
        }
    }

    fn answer(&mut self, tag: u16, result: i32) {
        let n = usize::from(tag);
        self.results[n] = Some(result);
        self.tags[n] = Tag::Due;
        self.due.push_back(tag);
    }

    /// The device waits for another server once this queue has ended.
    fn leaves(&self) -> bool {
        self.stopping && self.life.leaving.load(Ordering::SeqCst)
    }

    /// Bytes of a transfer, which the driver wants to hear; it ignores them elsewhere. What was
    /// read is with the driver now.
    fn moved(&self, tag: u16) -> i32 {
        let Some(wish) = self.descriptors.get(tag) else { return 0 };
        let bytes = u64::from(wish.sectors) << 9;
        if wish.operation == READ && self.places.by_hand(wish.unregistered) {
            let memory = &self.buffers[usize::from(tag)][..bytes as usize];
            if let Err(error) = self.places.lent(tag).write(0, memory) {
                tracing::error!(%error, tag, queue = self.queue, "ublk does not take data");
                return -Errno::IO.raw_os_error();
            }
        }
        i32::try_from(bytes).unwrap_or(0)
    }
}

/// Number of the driver's operation that fills memory.
const READ: u8 = 0;

/// A request in the engine's words.
fn request(
    tag: u16,
    wish: IoDesc,
    memory: &mut [u8],
    places: &Places,
) -> std::result::Result<Request, Errno> {
    let (operation, data) = match wish.operation {
        READ => (Operation::Read, true),
        1 => (Operation::Write, true),
        2 => (Operation::Flush, false),
        3 => (Operation::Discard, false),
        5 => (Operation::WriteZeroes, false),
        _ => return Err(Errno::OPNOTSUPP),
    };
    let len = u64::from(wish.sectors) << 9;
    let flush = operation == Operation::Flush;
    // A flush has no range; the driver leaves all ones in its first sector.
    let start = if flush { 0 } else { wish.start };
    let offset = start.checked_mul(512).ok_or(Errno::INVAL)?;
    let bytes = usize::try_from(len).map_err(|_| Errno::INVAL)?;
    let buffer = if data {
        let memory = memory.get_mut(..bytes).ok_or(Errno::INVAL)?;
        let write = operation == Operation::Write;
        places.buffer(tag, wish.unregistered, write, memory).map_err(|_| Errno::IO)?
    } else {
        Buffer::NONE
    };
    let flags = Flags { fua: wish.fua && !flush, no_unmap: wish.no_unmap, ..Flags::default() };
    let len = if flush { 0 } else { len };
    Ok(Request { tag: u64::from(tag), operation, flags, offset, len, buffer })
}

impl FrontEnd for UblkFront {
    fn poll(&mut self, intake: &mut dyn Intake) {
        self.stopping = intake.stopping();
        self.sent = false;
        if self.leaves() {
            // The driver hands them over again when this queue has ended.
            for tag in self.waiting.drain(..) {
                self.tags[usize::from(tag)] = Tag::Gone;
            }
        }
        if self.places.want_room() {
            self.places.room(intake.lend(self.descriptors.depth()));
        }
        self.hand_in(intake);
        self.send(intake);
        if self.sent && self.leaves() {
            intake.poll_at(intake.now());
        }
    }

    fn ready(&mut self, key: u32, result: i32) {
        let Ok(tag) = u16::try_from(key) else { return };
        let Some(place) = self.tags.get_mut(usize::from(tag)) else { return };
        if *place != Tag::Fetching {
            return;
        }
        if result == 0 {
            *place = Tag::Serving;
            self.waiting.push_back(tag);
        } else {
            // -ENODEV when the disk goes; anything else is a command the driver refused.
            *place = Tag::Gone;
            if result != -Errno::NODEV.raw_os_error() {
                tracing::error!(errno = -result, tag, queue = self.queue, "ublk refused a fetch");
            }
        }
    }

    fn complete(&mut self, tag: u64, outcome: Outcome) {
        let Ok(tag) = u16::try_from(tag) else { return };
        let result = match outcome {
            Ok(_) => self.moved(tag),
            Err(errno) => -errno.raw_os_error(),
        };
        self.answer(tag, result);
    }

    fn flush_replies(&mut self) {
        // Only `poll` can send, and the queue may sleep now without another one.
        if !self.due.is_empty()
            && let Some(wake) = &self.wake
        {
            wake.wake();
        }
    }

    fn finished(&self) -> bool {
        // A device without a disk has no requests; its fetches end with the ring.
        let never = !self.life.started.load(Ordering::SeqCst);
        let leaves = self.leaves() && !self.sent;
        let idle = |tag: &Tag| *tag == Tag::Gone || leaves && *tag == Tag::Fetching;
        self.stopping && (never || self.tags.iter().all(idle))
    }
}

impl Drop for UblkFront {
    fn drop(&mut self) {
        if self.tags.iter().any(|tag| matches!(tag, Tag::Fetching | Tag::Serving)) {
            // The driver may still copy into them.
            self.buffers.drain(..).for_each(std::mem::forget);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_in_the_engines_words() {
        let mut memory = [0u8; 4096];
        let wish = IoDesc {
            operation: 1,
            fua: true,
            no_unmap: false,
            unregistered: false,
            sectors: 8,
            start: 1 << 40,
        };
        let file = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let places = Places::new(Copies::Driver, Arc::clone(&file), 0);
        let mut ask = |wish| request(3, wish, &mut memory, &places);
        let write = ask(wish).unwrap();
        assert_eq!((write.operation, write.offset, write.len), (Operation::Write, 1 << 49, 4096));
        assert!(write.flags.fua && write.buffer.len() == 4096 && write.tag == 3);
        let flush = ask(IoDesc { operation: 2, start: u64::MAX, ..wish }).unwrap();
        assert_eq!((flush.operation, flush.len, flush.flags.fua), (Operation::Flush, 0, false));
        let zero = IoDesc { operation: 5, no_unmap: true, sectors: 1 << 30, ..wish };
        let zero = ask(zero).unwrap();
        assert_eq!((zero.len, zero.flags.no_unmap), (1 << 39, true));
        assert_eq!(ask(IoDesc { sectors: 9, ..wish }).unwrap_err(), Errno::INVAL);
        assert_eq!(ask(IoDesc { start: u64::MAX, ..wish }).unwrap_err(), Errno::INVAL);
        assert_eq!(ask(IoDesc { operation: 4, ..wish }).unwrap_err(), Errno::OPNOTSUPP);
        let mut places = Places::new(Copies::Zero, file, 2);
        places.room(Some(64));
        let lent = request(3, wish, &mut memory, &places).unwrap().buffer.at_driver().unwrap();
        assert_eq!((lent.place, lent.at), (67, crate::abi::copy_position(2, 3)));
        assert_eq!(places.addresses(3, std::ptr::null_mut()), (0, 0x1_0043));
    }
}
