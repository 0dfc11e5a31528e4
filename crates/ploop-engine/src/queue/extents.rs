//! Extents: where a range is stored, told from the map.

use super::Queue;
use super::slots::Stage;
use crate::front::{ExtentRecord, Outcome};
use crate::limits::EXTENT_CLUSTERS;
use crate::map::Place;
use crate::message::ToKeeper;
use ploop_format::GuestCluster;
use ploop_format::units::PAGE_WORDS;
use ploop_io::Io;

impl<I: Io> Queue<I> {
    /// Fills the request's buffer with records, or asks for the page it needs first.
    pub(super) fn extents(&mut self, index: u32) -> Option<Outcome> {
        let n = self.slots.pieces[index as usize].request;
        let request = self.slots.requests[n as usize].request;
        let size = self.shared.chain.cluster;
        let capacity = request.buffer.len() / ExtentRecord::BYTES;
        let mut records: Vec<ExtentRecord> = Vec::with_capacity(capacity.min(64));
        let end = request.offset + request.len;
        let mut at = request.offset;
        for _ in 0..EXTENT_CLUSTERS {
            if at >= end {
                break;
            }
            let guest = size.guest(at);
            let cluster = self.shared.pieces.place(guest);
            let Some(cell) = self.shared.map.get(cluster) else {
                if !records.is_empty() {
                    break;
                }
                self.slots.pieces[index as usize].stage = Stage::Asked;
                let message = ToKeeper::Load(self.caller(index), cluster.slot().page);
                self.shared.keeper.send(message);
                return None;
            };
            let level = match cell.place {
                Place::Hole => ExtentRecord::HOLE,
                Place::At { level, .. } => u32::from(level),
                // A broken entry reads as EIO: it is not a hole.
                Place::Bad => {
                    let piece = self.shared.pieces.of(cluster);
                    u32::from(self.shared.chain.top_of(piece).id)
                }
            };
            let clusters = self.alike(cluster);
            let len = size.guest_start(GuestCluster(guest.0 + clusters)).min(end) - at;
            let full = records.len() == capacity;
            match records.last_mut() {
                Some(last) if last.level == level => last.len += len,
                _ if full => break,
                _ => records.push(ExtentRecord { len, level, reserved: 0 }),
            }
            at += len;
        }
        for (i, record) in records.iter().enumerate() {
            let to = request.buffer.ptr().wrapping_add(i * ExtentRecord::BYTES);
            // SAFETY: there are at most `capacity` records, so all lie inside the buffer, which
            // is the front end's promise to be writable until the request completes.
            unsafe {
                std::ptr::copy_nonoverlapping(record.to_bytes().as_ptr(), to, ExtentRecord::BYTES);
            }
        }
        Some(Ok((records.len() * ExtentRecord::BYTES) as u32))
    }

    /// How many clusters from this one on one look has told of: all of a page of holes.
    fn alike(&self, cluster: GuestCluster) -> u64 {
        let slot = cluster.slot();
        if self.shared.map.is_holes(slot.page) {
            (PAGE_WORDS - slot.index as u64).min(self.shared.pieces.rest(cluster))
        } else {
            1
        }
    }
}
