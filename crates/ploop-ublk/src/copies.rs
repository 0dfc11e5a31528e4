//! How the data of requests comes and goes.

use crate::abi::{auto_buffer, copy_position, feature};
use ploop_engine::Buffer;
use ploop_io::Lent;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// What a server wants, or a device has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copies {
    /// The driver puts a request's memory on the queue's ring: the disk reads and writes it there,
    /// and nobody copies (Linux 6.16).
    Zero,
    /// This process copies by the device's file (Linux 6.5): a call more for each request.
    User,
    /// The driver copies between the request and a buffer of ours.
    Driver,
}

impl Copies {
    const ZERO: u64 = feature::AUTO_BUFFERS | feature::ZERO_COPY | feature::USER_COPY;

    /// The best that a driver has. User copy never is: it costs more calls than the driver's.
    #[must_use]
    pub fn best(offered: u64) -> Self {
        if offered & Self::ZERO == Self::ZERO { Self::Zero } else { Self::Driver }
    }

    /// What a device was made with.
    #[must_use]
    pub fn of(flags: u64) -> Self {
        if flags & feature::AUTO_BUFFERS != 0 {
            Self::Zero
        } else if flags & feature::USER_COPY != 0 {
            Self::User
        } else {
            Self::Driver
        }
    }

    /// What the device must be made with.
    #[must_use]
    pub fn flags(self) -> u64 {
        match self {
            Self::Zero => Self::ZERO,
            Self::User => feature::USER_COPY,
            Self::Driver => 0,
        }
    }
}

impl std::fmt::Display for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Zero => "zero copy (Linux 6.16)",
            Self::User => "user copy (Linux 6.5)",
            Self::Driver => "copy by the driver",
        })
    }
}

/// Where the memory of a queue's requests is.
pub struct Places {
    copies: Copies,
    file: Arc<OwnedFd>,
    queue: u16,
    asked: bool,
    /// Place of the first tag's memory on the ring.
    first: Option<u16>,
}

impl Places {
    /// Of a queue.
    pub fn new(copies: Copies, file: Arc<OwnedFd>, queue: u16) -> Self {
        Self { copies, file, queue, asked: false, first: None }
    }

    /// The ring is to have places; the driver falls back to copies where it has none.
    pub fn want_room(&self) -> bool {
        self.copies == Copies::Zero && !self.asked
    }

    /// The ring has them from here on.
    pub fn room(&mut self, first: Option<u16>) {
        if first.is_none() {
            tracing::warn!(queue = self.queue, "no places on the ring: data is copied");
        }
        (self.first, self.asked) = (first, true);
    }

    /// The two addresses that go out with a fetch: of the tag's buffer, and of the submission.
    pub fn addresses(&self, tag: u16, memory: *mut u8) -> (u64, u64) {
        match self.copies {
            Copies::Driver => (memory as u64, 0),
            Copies::User => (0, 0),
            Copies::Zero => (0, auto_buffer(self.place(tag))),
        }
    }

    /// Whether this process has to copy. `unregistered`: the driver's word on the request.
    pub fn by_hand(&self, unregistered: bool) -> bool {
        match self.copies {
            Copies::Driver => false,
            Copies::User => true,
            Copies::Zero => unregistered,
        }
    }

    /// The request's own memory, on the ring and in the file.
    pub fn lent(&self, tag: u16) -> Lent {
        let place = self.place(tag);
        Lent { place, fd: self.file.as_raw_fd(), at: copy_position(self.queue, tag) }
    }

    /// One that no ring has: the driver then says that it could not.
    fn place(&self, tag: u16) -> u16 {
        self.first.map_or(u16::MAX, |first| first + tag)
    }

    /// Memory for a request with data: what is written is there, or stays with the driver.
    pub fn buffer(
        &self,
        tag: u16,
        unregistered: bool,
        write: bool,
        memory: &mut [u8],
    ) -> io::Result<Buffer> {
        let by_hand = self.by_hand(unregistered);
        if by_hand && write {
            self.lent(tag).read(0, memory)?;
        }
        // SAFETY: the tag's own memory; nobody else touches it until the answer, and it lives as
        // long as the front end.
        let buffer = unsafe { Buffer::new(memory.as_mut_ptr(), memory.len()) };
        let at_driver = self.copies == Copies::Zero && !by_hand;
        Ok(if at_driver { buffer.lent(self.lent(tag)) } else { buffer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_that_a_driver_has() {
        assert_eq!(Copies::best(0), Copies::Driver);
        assert_eq!(Copies::best(feature::USER_COPY | feature::ZERO_COPY), Copies::Driver);
        assert_eq!(Copies::best(u64::MAX), Copies::Zero);
        for copies in [Copies::Zero, Copies::User, Copies::Driver] {
            assert_eq!(Copies::of(copies.flags()), copies);
        }
    }
}
