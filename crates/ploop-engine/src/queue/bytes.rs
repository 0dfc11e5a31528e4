//! What the processor itself does with a request's bytes: zeros for holes, and a look whether all
//! are zero. The data may be with a driver; then it goes through the driver's file.

use super::Queue;
use crate::front::{Errno, Outcome};
use ploop_io::Io;

impl<I: Io> Queue<I> {
    /// Fills a piece's buffer with zeros, from byte `from` of the piece on.
    pub(super) fn fill_zeros(&self, index: u32, from: u64) -> Outcome {
        let piece = &self.slots.pieces[index as usize];
        if from == piece.len {
            return Ok(0);
        }
        let buffer = self.slots.requests[piece.request as usize].request.buffer;
        let (start, end) = (piece.buffer + from, piece.buffer + piece.len);
        let Some(lent) = buffer.at_driver() else {
            let to = buffer.ptr().wrapping_add(start as usize);
            // SAFETY: the piece lies inside the request's buffer (its length was checked on
            // admission), which is writable for a read until the request completes.
            unsafe { std::ptr::write_bytes(to, 0, (end - start) as usize) };
            return Ok(0);
        };
        let mut at = start;
        while at < end {
            let zeros = &self.zeros[..self.zeros.len().min((end - at) as usize)];
            if let Err(error) = lent.write(at, zeros) {
                tracing::error!(%error, "a driver does not take the zeros of a hole");
                return Err(Errno::IO);
            }
            at += zeros.len() as u64;
        }
        Ok(0)
    }

    /// Whether the guest's bytes of a write are all zero.
    pub(super) fn all_zero(&self, index: u32) -> bool {
        let piece = &self.slots.pieces[index as usize];
        let buffer = self.slots.requests[piece.request as usize].request.buffer;
        let start = buffer.ptr().wrapping_add(piece.buffer as usize);
        let len = piece.len as usize;
        let Some(lent) = buffer.at_driver() else {
            // SAFETY: as in `fill_zeros`; readable for a write. A guest that changes its buffer
            // during its own write gets either content.
            return ploop_format::is_zero(unsafe { std::slice::from_raw_parts(start, len) });
        };
        // SAFETY: as in `fill_zeros`; the data is elsewhere, so this memory is the engine's alone.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start, len) };
        // What cannot be looked at is written as it is.
        lent.read(piece.buffer, bytes).is_ok() && ploop_format::is_zero(bytes)
    }
}
