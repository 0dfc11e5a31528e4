//! The first words with the kernel, and the last: on threads of their own, never on a queue's.

use crate::channel::{Channel, Received};
use crate::error::{Error, Result};
use crate::file::{File, Plan, failed};
use crate::protocol::LONGEST;
use crate::protocol::init::{Handshake, negotiate};
use crate::protocol::reply::Reply;
use crate::protocol::request::{HEAD, Request, parse};
use crate::queues::Party;
use ploop_engine::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::path::Path;

/// How long the kernel may take to say the first word.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Agrees with the kernel on a version. `path` is for errors only.
pub(crate) fn shake(channel: &Channel, max_background: u16, path: &Path) -> Result<()> {
    let refused = |what: String| Error::system("serve", path, io::Error::other(what));
    let (mut head, mut payload) = ([0; HEAD], payload());
    loop {
        let mut fds = [PollFd::new(channel, PollFlags::IN)];
        match poll(&mut fds, Some(&PATIENCE)) {
            Ok(0) => return Err(refused("the kernel says nothing".to_owned())),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::system("serve", path, error)),
        }
        let Received::Message(len) = channel.receive(&mut head, [&mut payload, &mut []]) else {
            return Err(refused("the connection ended before it began".to_owned()));
        };
        let (header, request) =
            parse(&head, &payload, len).map_err(|bad| refused(format!("{bad:?}")))?;
        let Request::Init(asked) = request else {
            channel.answer(&Reply::error(header.unique, Errno::IO));
            return Err(refused(format!("operation {} before INIT", header.opcode)));
        };
        match negotiate(&asked, max_background, rustix::param::page_size()) {
            Handshake::Agreed(out) => {
                tracing::debug!(minor = out.minor, flags = out.flags, flags2 = out.flags2, "FUSE");
                channel.answer(&Reply::with(header.unique, &out));
                return Ok(());
            }
            Handshake::Again(out) => channel.answer(&Reply::with(header.unique, &out)),
            Handshake::TooOld => {
                channel.answer(&Reply::error(header.unique, Errno::PROTO));
                return Err(refused(format!(
                    "the kernel speaks FUSE {}.{}, 7.31 is the oldest that works",
                    asked.major, asked.minor
                )));
            }
        }
    }
}

/// Waits until no queue serves the mount. If the device has stopped rather than the file been
/// unmounted, whoever still has it open gets errors until the last one closes it.
pub(crate) fn linger(channel: &Channel, file: &File, party: &Party) {
    party.wait();
    let (mut head, mut payload) = ([0; HEAD], payload());
    while let Received::Message(len) = channel.receive(&mut head, [&mut payload, &mut []]) {
        match parse(&head, &payload, len) {
            Ok((header, request)) => match file.plan(header.unique, &request) {
                Plan::Nothing => {}
                Plan::Answer(reply) => channel.answer(&reply),
                _ => channel.answer(&failed(header.unique, Errno::SHUTDOWN)),
            },
            Err(bad) => {
                if let Some(unique) = bad.unique {
                    channel.answer(&Reply::error(unique, Errno::INVAL));
                }
            }
        }
    }
}

/// Room for the longest write.
fn payload() -> Vec<u8> {
    vec![0; LONGEST as usize]
}
