//! The way out: outcomes of the engine to replies on a socket.

use crate::block_status;
use crate::connection::{Body, Handle, Moved, Phase, Reply};
use crate::front::NbdFront;
use crate::inflight::{Inflight, Ticket};
use crate::protocol::NbdError;
use crate::protocol::reply::{self, Head};
use crate::protocol::request::{Command, CommandFlags, Header};

/// Calls of `sendmsg` for one client in a row; a long reply must not hold up the others.
const SENDS: usize = 4;

impl NbdFront {
    /// Every part of a request completed.
    pub(crate) fn finish(&mut self, ticket: Ticket) {
        let Some(request) = self.table.remove(ticket) else { return };
        let handle = request.owner;
        let Some((connection, arena)) = self.parts(handle) else {
            // The client is gone; only now may its memory be used again.
            if let (Some(block), Some(arena)) = (request.block, self.arena.as_mut()) {
                arena.free(block);
            }
            return;
        };
        connection.in_flight -= 1;
        let structured = connection.agreed.structured;
        let Inflight { header, block, error, filled, .. } = request;
        let (cookie, len) = (header.cookie, header.len);
        match (header.command, block, error) {
            (Command::Read, Some(block), None) => {
                let head = if structured {
                    Head::data(cookie, header.offset, len)
                } else {
                    Head::simple(cookie, None)
                };
                self.reply(handle, Reply { head, body: Body::Block(block, len as usize) });
            }
            (Command::BlockStatus, Some(block), None) => {
                let one = header.flags.has(CommandFlags::REQ_ONE);
                let extents =
                    block_status::extents(arena.bytes(&block, 0, filled as usize), len, one);
                arena.free(block);
                if extents.is_empty() {
                    return self.fail(handle, &header, NbdError::Io, "the device told no extent");
                }
                let (head, body) = reply::block_status(cookie, &extents);
                self.reply(handle, Reply { head, body: Body::Bytes(body) });
            }
            (_, block, error) => {
                block.into_iter().for_each(|block| arena.free(block));
                match error {
                    None => self.succeed(handle, &header),
                    Some(errno) => {
                        let message = format!("{:?} failed: {errno}", header.command);
                        self.fail(handle, &header, NbdError::from_errno(errno), &message);
                    }
                }
            }
        }
    }

    /// Answers a request that has no content.
    pub(crate) fn succeed(&mut self, handle: Handle, header: &Header) {
        let Some(connection) = self.connection(handle) else { return };
        // Simple replies stay legal for what has no payload, and are shorter; a read never has one.
        let head = if connection.agreed.structured && header.command == Command::Read {
            Head::none(header.cookie)
        } else {
            Head::simple(header.cookie, None)
        };
        self.reply(handle, Reply { head, body: Body::None });
    }

    /// Answers a request with an error.
    pub(crate) fn fail(&mut self, handle: Handle, header: &Header, error: NbdError, why: &str) {
        let Some(connection) = self.connection(handle) else { return };
        let reply = if connection.agreed.structured {
            let (head, body) = reply::error(header.cookie, error, None, why);
            Reply { head, body: Body::Bytes(body) }
        } else {
            Reply { head: Head::simple(header.cookie, Some(error)), body: Body::None }
        };
        self.reply(handle, reply);
    }

    /// Answers a request that came too late.
    pub(crate) fn refuse_stopped(&mut self, handle: Handle, header: &Header) {
        self.fail(handle, header, NbdError::Shutdown, "the server is stopping");
    }

    /// Sends what waits for one client, as far as its socket takes it.
    pub(crate) fn send(&mut self, handle: Handle) {
        let now = self.now;
        let Some((connection, arena)) = self.parts(handle) else { return };
        connection.dirty = false;
        for _ in 0..SENDS {
            if connection.blocked || connection.out.is_empty() {
                break;
            }
            match connection.send(arena, now) {
                Moved::Full => {}
                Moved::Partly | Moved::End => connection.blocked = true,
                Moved::Failed(errno) => {
                    tracing::debug!(peer = %connection.peer, %errno, "sending failed");
                    return self.kill(handle, "sending failed");
                }
            }
        }
        // Not done and not blocked: its turn is over; a watch fires at once and brings it back.
        connection.blocked |= !connection.out.is_empty();
        let blocked = connection.blocked;
        let resume = connection.readable && !matches!(connection.phase, Phase::Waiting(_));
        if blocked {
            self.to_arm.push(handle);
        }
        if resume {
            self.enqueue(handle);
        }
        self.close_if_done(handle);
    }
}
