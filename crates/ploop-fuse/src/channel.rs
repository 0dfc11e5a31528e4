//! One descriptor of a FUSE connection: requests in, answers out, one system call each.

use crate::protocol::abi::DEV_IOC_CLONE;
use crate::protocol::reply::{Reply, header};
use crate::protocol::request::HEAD;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The first bytes of a message; a WRITE's payload begins right behind them.
pub(crate) type Head = [u8; HEAD];

/// What a read gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// A message of so many bytes.
    Message(usize),
    /// Nothing there now.
    Empty,
    /// The connection has ended.
    Gone,
}

/// A descriptor of /dev/fuse that belongs to a connection.
#[derive(Debug)]
pub(crate) struct Channel {
    fd: OwnedFd,
}

impl Channel {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// One more descriptor of the same connection, which does not block. What is read from one
    /// must be answered on the same.
    pub(crate) fn another(&self) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
        let mut of = self.fd.as_raw_fd() as u32;
        // SAFETY: the argument is a u32 that lives through the call, as the number says.
        let done =
            unsafe { libc::ioctl(fd.as_raw_fd(), DEV_IOC_CLONE as libc::Ioctl, &raw mut of) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { fd }) }
    }

    pub(crate) fn raw(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Reads one message. `payload` must have room for the longest write.
    pub(crate) fn receive(&self, head: &mut Head, payload: [&mut [u8]; 2]) -> Received {
        let [first, second] = payload;
        let mut parts = [IoSliceMut::new(head), IoSliceMut::new(first), IoSliceMut::new(second)];
        loop {
            match rustix::io::readv(&self.fd, &mut parts) {
                Ok(len) => return Received::Message(len),
                // ENOENT: the request was taken back before it was read.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(Errno::AGAIN) => return Received::Empty,
                Err(Errno::NODEV | Errno::CONNABORTED) => return Received::Gone,
                Err(error) => {
                    tracing::error!(%error, "the FUSE connection is broken");
                    return Received::Gone;
                }
            }
        }
    }

    pub(crate) fn answer(&self, reply: &Reply) {
        self.told(rustix::io::write(&self.fd, reply.bytes()));
    }

    pub(crate) fn answer_data(&self, unique: u64, data: &[u8]) {
        let header = header(unique, 0, data.len());
        self.told(rustix::io::writev(&self.fd, &[IoSlice::new(&header), IoSlice::new(data)]));
    }

    /// An answer nobody waits for any more (`ENOENT`), or an ended connection, is no loss.
    fn told(&self, result: rustix::io::Result<usize>) {
        match result {
            Ok(_) | Err(Errno::NOENT | Errno::NODEV | Errno::NOTCONN) => {}
            Err(error) => tracing::warn!(%error, "an answer to the kernel was refused"),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
