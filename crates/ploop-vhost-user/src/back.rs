//! The back channel: what a monitor is told unasked, that the disk has another size.
//!
//! A monitor sends the socket for it with SET_BACKEND_REQ_FD. The protocol library keeps that to
//! itself and has no call for this notice, so each message is looked at before the library reads
//! it: peeking at a message gives descriptors of our own for the files that come with it.

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use vhost::vhost_user::message::{BackendReq, FrontendReq};

/// Bytes of a message's header: request, flags, bytes that follow; words of this machine.
const HEADER: usize = 12;
/// Version of the protocol, in the flags. No answer is wished for.
const VERSION: u32 = 1;
/// Most files of a message; others are not ours.
const FILES: usize = 8;

/// Waits for the next message. The socket of a back channel, if it brings one.
pub(crate) fn peek(monitor: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut header = [0; HEADER];
    let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(monitor, &mut [IoSliceMut::new(&mut header)], &mut control, flags)
    })?;
    // What is not taken here is closed with the buffer.
    let mut files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    let ours = u32::from(FrontendReq::SET_BACKEND_REQ_FD).to_ne_bytes();
    Ok(files.next().filter(|_| received.bytes >= ours.len() && header.starts_with(&ours)))
}

/// Says that the configuration space is another one. Never waits for the monitor.
pub(crate) fn config_changed(back: &OwnedFd) -> io::Result<()> {
    let words = [u32::from(BackendReq::CONFIG_CHANGE_MSG), VERSION, 0];
    let message: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    let sent = send(back, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    match sent == HEADER {
        true => Ok(()),
        false => Err(io::Error::other(format!("{sent} of {HEADER} bytes went"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};
    use std::io::{IoSlice, Read, Write};
    use std::os::fd::AsFd;

    fn message(request: FrontendReq, socket: &UnixStream, file: &UnixStream) {
        let words = [u32::from(request), VERSION, 0];
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn the_socket_of_a_back_channel_is_seen_and_left_in_the_message() {
        let (monitor, mut ours) = UnixStream::pair().unwrap();
        let (mut front, back) = UnixStream::pair().unwrap();
        message(FrontendReq::SET_VRING_ERR, &monitor, &back);
        assert!(peek(&ours).unwrap().is_none(), "another message's file");
        ours.read_exact(&mut [0; HEADER]).unwrap();
        message(FrontendReq::SET_BACKEND_REQ_FD, &monitor, &back);
        drop(back);
        let back = peek(&ours).unwrap().unwrap();
        assert!(peek(&ours).unwrap().is_some(), "the message is still there");
        ours.read_exact(&mut [0; HEADER]).unwrap();
        config_changed(&back).unwrap();
        let mut said = [0; HEADER];
        front.read_exact(&mut said).unwrap();
        assert_eq!(said[0], 2, "VHOST_USER_BACKEND_CONFIG_CHANGE_MSG");
        // A monitor that does not read is not waited for, one that is gone is an error.
        while config_changed(&back).is_ok() {}
        drop(front);
        assert!(config_changed(&back).is_err());
        // Less than a request, then nothing any more.
        (&monitor).write_all(&[21]).unwrap();
        assert!(peek(&ours).unwrap().is_none());
        ours.read_exact(&mut [0]).unwrap();
        drop(monitor);
        assert!(peek(&ours).unwrap().is_none());
    }
}
