//! Mounting without the right to: `fusermount3` does it and sends the descriptor of /dev/fuse over
//! a socket.

use crate::error::{Error, Result};
use crate::protocol::LONGEST;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

/// The source in mountinfo.
pub(crate) const SOURCE: &str = "ploop";

/// The program.
pub(crate) const PROGRAM: &str = "fusermount3";

/// Has `path` mounted over.
pub(crate) fn mount(path: &Path, read_only: bool) -> Result<OwnedFd> {
    let failed = |error: io::Error| Error::system("mount by fusermount3 over", path, error);
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|error| failed(error.into()))?;
    let options = format!(
        "{},fsname={SOURCE},subtype=ploop,default_permissions,max_read={LONGEST}",
        if read_only { "ro" } else { "rw" },
    );
    // Its standard input is the socket: nothing is inherited that another child could get, too.
    let child = Command::new(PROGRAM)
        .args(["-o", &options, "--"])
        .arg(path)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(io::Error::new(
            error.kind(),
            "mounting needs root, or the program fusermount3, which is not there",
        )),
        _ => failed(error),
    })?;
    let received = receive(&ours);
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(io::Error::other(format!("{}: {said}", output.status))));
    }
    received.map_err(failed)
}

/// Takes the descriptor that comes with one byte.
fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let sent = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    sent.ok_or_else(|| io::Error::other("no descriptor came"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::IoSlice;
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_descriptor_comes_over_the_socket() {
        let (ours, theirs) = pair();
        let sent = [ours.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&sent)));
        sendmsg(&theirs, &[IoSlice::new(&[0])], &mut control, SendFlags::empty()).unwrap();
        let got = receive(&ours).unwrap();
        let ino = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!(ino(&got), ino(&ours));
    }

    #[test]
    fn an_end_without_a_descriptor_is_an_error() {
        let (ours, theirs) = pair();
        drop(theirs);
        assert!(receive(&ours).is_err());
    }
}
