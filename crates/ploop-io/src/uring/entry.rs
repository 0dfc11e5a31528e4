//! An operation as a submission queue entry.

use io_uring::{opcode, squeue, types};

use super::setup::Abilities;
use super::slots::Key;
use crate::{Command, Interest, Op, OpKind, sys};

/// The entry for an operation, or `None` when this kernel's ring cannot do it.
pub(super) fn operation(op: &Op, abilities: Abilities) -> Option<squeue::Entry> {
    let fd = types::Fd(op.file.fd());
    // Longer than the contract allows is cut here and comes back short.
    let len = u32::try_from(op.len).unwrap_or(u32::MAX);
    if let Some(place) = op.lent {
        return lent(op, fd, len, place);
    }
    let entry = match op.kind {
        OpKind::Read => opcode::Read::new(fd, op.buf, len).offset(op.offset).build(),
        OpKind::Write => opcode::Write::new(fd, op.buf, len).offset(op.offset).build(),
        OpKind::WriteDsync => {
            opcode::Write::new(fd, op.buf, len).offset(op.offset).rw_flags(libc::RWF_DSYNC).build()
        }
        OpKind::Datasync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        OpKind::Sync => opcode::Fsync::new(fd).build(),
        OpKind::Punch | OpKind::ZeroRange | OpKind::Reserve if abilities.fallocate => {
            opcode::Fallocate::new(fd, op.len)
                .offset(op.offset)
                .mode(sys::fallocate_mode(op.kind))
                .build()
        }
        OpKind::Truncate if abilities.ftruncate => opcode::Ftruncate::new(fd, op.offset).build(),
        OpKind::Punch | OpKind::ZeroRange | OpKind::Reserve | OpKind::Truncate => return None,
    };
    Some(entry)
}

/// A transfer of a driver's buffer.
fn lent(op: &Op, fd: types::Fd, len: u32, place: u16) -> Option<squeue::Entry> {
    let write = opcode::WriteFixed::new(fd, op.buf, len, place).offset(op.offset);
    match op.kind {
        OpKind::Read => {
            Some(opcode::ReadFixed::new(fd, op.buf, len, place).offset(op.offset).build())
        }
        OpKind::Write => Some(write.build()),
        OpKind::WriteDsync => Some(write.rw_flags(libc::RWF_DSYNC).build()),
        _ => None,
    }
}

/// A one-shot poll.
pub(super) fn poll(fd: i32, interest: Interest) -> squeue::Entry {
    let events = match interest {
        Interest::Read => libc::POLLIN,
        Interest::Write => libc::POLLOUT,
    };
    #[expect(clippy::cast_sign_loss, reason = "two small constants")]
    opcode::PollAdd::new(types::Fd(fd), events as u32).build()
}

/// A driver's command.
pub(super) fn command(command: &Command) -> squeue::Entry {
    opcode::UringCmd16::new(types::Fd(command.fd), command.operation)
        .cmd(command.payload)
        .addr(Some(command.addr))
        .build()
}

/// Takes a poll back.
pub(super) fn cancel(key: Key) -> squeue::Entry {
    opcode::PollRemove::new(key.to_u64()).build()
}

/// Reads the 8 bytes of an eventfd.
pub(super) fn bell(fd: i32, into: *mut u8) -> squeue::Entry {
    opcode::Read::new(types::Fd(fd), into, 8).build()
}
