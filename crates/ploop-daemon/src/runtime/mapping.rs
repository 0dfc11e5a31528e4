//! Where a disk is stored: extents by the engine, gathered.

use crate::control::types::{Extent, MapReply};
use crate::{Code, Failure, Result};
use ploop_engine::remote::RemoteHandle;
use ploop_engine::{Buffer, ExtentRecord, Flags, Limits, Operation, Request};
use ploop_format::GuestCluster;
use ploop_format::units;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Records asked for at a time.
const RECORDS: usize = 1024;
/// Extents of one reply.
const EXTENTS: usize = 8192;
/// Pages of the map read side by side.
const WARM_PAGES: usize = 64;
/// A reply comes after this long with what is known by then: a map that is not in memory must be
/// read first.
const REPLY_AFTER: Duration = Duration::from_secs(2);

/// Where the disk is stored, from `offset` on: a limited number of extents.
///
/// # Errors
/// The engine's: a page of the map cannot be read.
pub fn map(remote: &RemoteHandle, limits: Limits, offset: u64) -> Result<MapReply> {
    map_within(remote, limits, offset, REPLY_AFTER)
}

/// The same, with what is known after `limit`.
///
/// # Errors
/// As [`map`].
pub fn map_within(
    remote: &RemoteHandle,
    limits: Limits,
    offset: u64,
    limit: Duration,
) -> Result<MapReply> {
    let size = limits.size;
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = offset;
    let mut buffer = vec![0u8; RECORDS * ExtentRecord::BYTES];
    let began = Instant::now();
    let mut warm_until = offset;
    while at < size && extents.len() < EXTENTS {
        if at > offset && began.elapsed() > limit {
            break;
        }
        if at >= warm_until {
            warm_until = warm(remote, limits, at);
        }
        let filled = ask(remote, at, size - at, &mut buffer)?;
        let before = at;
        for record in ExtentRecord::parse(&buffer[..filled]) {
            let level = (record.level != ExtentRecord::HOLE).then_some(record.level);
            let len = record.len.min(size - at);
            match extents.last_mut() {
                Some(last) if last.level == level => last.length_bytes += len,
                _ => extents.push(Extent { offset_bytes: at, length_bytes: len, level }),
            }
            at += len;
        }
        if at == before {
            let message = format!("the map has no record for byte {at}");
            return Err(Failure::new(Code::Internal, message));
        }
    }
    Ok(MapReply { extents, next_bytes: (at < size).then_some(at) })
}

fn ask(remote: &RemoteHandle, offset: u64, len: u64, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: `call` returns only after the request was completed.
    let memory = unsafe { Buffer::new(buffer.as_mut_ptr(), buffer.len()) };
    let filled = remote
        .call(request(offset, len, memory))
        .map_err(|errno| Failure::new(Code::Read, format!("the map at byte {offset}: {errno}")))?;
    Ok((filled as usize).min(buffer.len()))
}

const fn request(offset: u64, len: u64, buffer: Buffer) -> Request {
    let flags = Flags { fua: false, preflush: false, no_unmap: false, fast_zero: false };
    Request { tag: 0, operation: Operation::Extents, flags, offset, len, buffer }
}

/// Has the next pages of the map read, side by side: one after the other, each would wait for the
/// one before. Returns where they end. What goes wrong shows when the page is asked for.
fn warm(remote: &RemoteHandle, limits: Limits, from: u64) -> u64 {
    let first = GuestCluster(from / limits.cluster).slot().page.0;
    // Page 0 begins with the header.
    let start = |page: u64| {
        let cluster = (page * units::PAGE_WORDS).saturating_sub(units::HEADER_WORDS);
        cluster.saturating_mul(limits.cluster).min(limits.size)
    };
    let (sender, ended) = channel();
    let mut answers = [[0u8; ExtentRecord::BYTES]; WARM_PAGES];
    let mut asked = 0;
    for (page, answer) in (first..).zip(&mut answers) {
        let at = start(page).max(from);
        if at >= limits.size {
            break;
        }
        // SAFETY: `answers` lives until all that was asked has ended, below.
        let memory = unsafe { Buffer::new(answer.as_mut_ptr(), answer.len()) };
        let sender = sender.clone();
        let done = Box::new(move |_| sender.send(()).unwrap_or_default());
        remote.submit(request(at, u64::from(limits.block), memory), done);
        asked += 1;
    }
    drop(sender);
    // Ends when every callback was called or dropped.
    while ended.recv().is_ok() {}
    start(first + asked)
}

#[cfg(test)]
mod tests {
    use ploop_format::units::{GuestCluster, HEADER_WORDS, PAGE_WORDS};

    #[test]
    fn pages_begin_where_their_first_cluster_is() {
        for page in 1..5 {
            let first = GuestCluster(page * PAGE_WORDS - HEADER_WORDS);
            assert_eq!((first.slot().page.0, first.slot().index), (page, 0));
        }
    }
}
