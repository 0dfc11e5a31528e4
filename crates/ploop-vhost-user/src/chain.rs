//! A descriptor chain as a request of the device (virtio 1.2, 2.7 and 5.2.6).

use crate::config::RANGES;
use crate::memory::{Memory, Piece};
use ploop_engine::{Errno, Operation};
use std::ptr::NonNull;
use virtio_bindings::virtio_blk as blk;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

/// Bytes of the header: type, reserved, sector.
const HEADER: usize = 16;
/// Bytes of a range of a discard or write-zeroes: sector, sectors, flags.
const RANGE: usize = 16;
const UNMAP: u32 = 1;

/// A range of the device in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Range {
    pub offset: u64,
    pub len: u64,
    pub no_unmap: bool,
}

/// What a chain asks for. Kept from request to request: nothing is allocated for most.
#[derive(Default)]
pub(crate) struct Parsed {
    /// `None`: the text that names the disk.
    pub operation: Option<Operation>,
    /// First byte on the device, of a read or a write.
    pub offset: u64,
    /// The guest's memory for the data.
    pub data: Vec<Piece>,
    /// Of a discard or write-zeroes.
    pub ranges: Vec<Range>,
    /// Where the answer goes. `None`: the guest left no room for one.
    pub status: Option<Piece>,
    out: Vec<Piece>,
}

impl Parsed {
    /// Bytes of data.
    pub fn len(&self) -> u64 {
        self.data.iter().map(|piece| piece.len as u64).sum()
    }

    /// Reads the chain of a head. The status is known even if the rest is wrong.
    ///
    /// # Errors
    /// What the guest is told.
    pub fn read(&mut self, memory: &Memory, table: u64, size: u16, head: u16) -> Result<(), Errno> {
        (self.operation, self.offset, self.status) = (None, 0, None);
        self.data.clear();
        self.ranges.clear();
        self.out.clear();
        self.walk(memory, table, size, head)?;
        // The last byte that may be written is the status.
        let last = self.data.last_mut().ok_or(Errno::IO)?;
        last.len -= 1;
        // SAFETY: inside the piece, which had at least this byte.
        let status = unsafe { last.ptr.add(last.len) };
        self.status = Some(Piece { ptr: status, len: 1 });
        if last.len == 0 {
            self.data.pop();
        }
        let mut header = [0; HEADER];
        if copy_out(&self.out, &mut header) != HEADER {
            return Err(Errno::IO);
        }
        self.understand(header)
    }

    /// Collects what may be read (`out`) and what may be written (`data`).
    fn walk(&mut self, memory: &Memory, table: u64, size: u16, head: u16) -> Result<(), Errno> {
        let (mut table, mut size, mut next) = (table, size, head);
        let (mut left, mut indirect) = (size, false);
        loop {
            if next >= size || left == 0 {
                return Err(Errno::IO);
            }
            left -= 1;
            let at = u64::from(next) * size_of::<Descriptor>() as u64;
            let at = GuestAddress(table.checked_add(at).ok_or(Errno::IO)?);
            let found: Descriptor = memory.map().read_obj(at).map_err(|_| Errno::IO)?;
            if found.refers_to_indirect_table() {
                let entries = found.len() / size_of::<Descriptor>() as u32;
                let odd = !found.len().is_multiple_of(size_of::<Descriptor>() as u32);
                if indirect || odd || found.has_next() {
                    return Err(Errno::IO);
                }
                indirect = true;
                table = found.addr().0;
                size = u16::try_from(entries).map_err(|_| Errno::IO)?;
                (left, next) = (size, 0);
                continue;
            }
            let into = if found.is_write_only() { &mut self.data } else { &mut self.out };
            if !memory.pieces(found.addr().0, found.len(), into) {
                return Err(Errno::IO);
            }
            match found.has_next() {
                true => next = found.next(),
                false => return Ok(()),
            }
        }
    }

    fn understand(&mut self, header: [u8; HEADER]) -> Result<(), Errno> {
        let [a, b, c, d, ..] = header;
        let kind = u32::from_le_bytes([a, b, c, d]);
        let sector = u64::from_le_bytes(std::array::from_fn(|n| header[8 + n]));
        let operation = match kind {
            blk::VIRTIO_BLK_T_IN => Operation::Read,
            blk::VIRTIO_BLK_T_OUT => Operation::Write,
            blk::VIRTIO_BLK_T_FLUSH => Operation::Flush,
            blk::VIRTIO_BLK_T_DISCARD => Operation::Discard,
            blk::VIRTIO_BLK_T_WRITE_ZEROES => Operation::WriteZeroes,
            blk::VIRTIO_BLK_T_GET_ID => return Ok(()),
            _ => return Err(Errno::OPNOTSUPP),
        };
        self.operation = Some(operation);
        match operation {
            Operation::Read | Operation::Write => {
                self.offset = sector.checked_mul(512).ok_or(Errno::IO)?;
            }
            Operation::Flush => self.data.clear(),
            _ => {}
        }
        if operation == Operation::Write {
            skip(&mut self.out, HEADER);
            std::mem::swap(&mut self.data, &mut self.out);
        }
        if matches!(operation, Operation::Discard | Operation::WriteZeroes) {
            self.data.clear();
            skip(&mut self.out, HEADER);
            self.read_ranges(operation)?;
        }
        Ok(())
    }

    fn read_ranges(&mut self, operation: Operation) -> Result<(), Errno> {
        let mut bytes = [0; RANGE * RANGES];
        let got = copy_out(&self.out, &mut bytes);
        let all: usize = self.out.iter().map(|piece| piece.len).sum();
        if all != got || got == 0 || !got.is_multiple_of(RANGE) {
            return Err(Errno::IO);
        }
        for range in bytes[..got].chunks_exact(RANGE) {
            let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| range[at + n]));
            let sector = u64::from_le_bytes(std::array::from_fn(|n| range[n]));
            let (sectors, flags) = (word(8), word(12));
            // A flag that is not known, or one that means nothing here.
            if flags & !UNMAP != 0 || (flags != 0 && operation == Operation::Discard) {
                return Err(Errno::OPNOTSUPP);
            }
            let offset = sector.checked_mul(512).ok_or(Errno::IO)?;
            let len = u64::from(sectors) << 9;
            // A discard always gives back.
            let no_unmap = operation == Operation::WriteZeroes && flags & UNMAP == 0;
            self.ranges.push(Range { offset, len, no_unmap });
        }
        Ok(())
    }
}

/// Forgets the first bytes.
fn skip(pieces: &mut Vec<Piece>, mut bytes: usize) {
    let whole = pieces.iter().take_while(|piece| {
        let gone = piece.len <= bytes;
        bytes -= if gone { piece.len } else { 0 };
        gone
    });
    let whole = whole.count();
    pieces.drain(..whole);
    if let Some(first) = pieces.first_mut() {
        // SAFETY: inside the piece, which is longer.
        first.ptr = unsafe { first.ptr.add(bytes) };
        first.len -= bytes;
    }
}

/// Copies what the guest left, as far as there is some and it fits.
fn copy_out(pieces: &[Piece], into: &mut [u8]) -> usize {
    let mut done = 0;
    for piece in pieces {
        let len = piece.len.min(into.len() - done);
        // SAFETY: the guest's memory, mapped for as long as its ring is served, and never part of
        // `into`. It may change meanwhile: any bytes will do.
        unsafe { piece.ptr.copy_to(NonNull::from(&mut into[done..]).cast(), len) };
        done += len;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(parts: &mut [Vec<u8>]) -> Vec<Piece> {
        let piece = |part: &mut Vec<u8>| Piece {
            ptr: NonNull::new(part.as_mut_ptr()).unwrap(),
            len: part.len(),
        };
        parts.iter_mut().map(piece).collect()
    }

    #[test]
    fn pieces_are_skipped_and_copied_across_their_borders() {
        let mut parts = [vec![1, 2, 3], vec![4, 5], vec![6, 7, 8, 9]];
        let mut all = pieces(&mut parts);
        let mut out = [0; 6];
        assert_eq!(copy_out(&all, &mut out), 6);
        assert_eq!(out, [1, 2, 3, 4, 5, 6]);
        skip(&mut all, 4);
        let mut out = [0; 9];
        assert_eq!(copy_out(&all, &mut out), 5);
        assert_eq!(out[..5], [5, 6, 7, 8, 9]);
        skip(&mut all, 5);
        assert!(all.is_empty());
        skip(&mut all, 5);
    }

    fn understood(kind: u32, sector: u64, data: Vec<u8>) -> (Result<(), Errno>, Parsed) {
        let mut parts = [vec![0; 16], data];
        let mut parsed = Parsed { out: pieces(&mut parts), ..Parsed::default() };
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let result = parsed.understand(header);
        parsed.out.clear();
        (result, parsed)
    }

    fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    }

    #[test]
    fn requests_in_the_engines_words() {
        let (result, parsed) = understood(blk::VIRTIO_BLK_T_OUT, 3, vec![7; 512]);
        assert!(result.is_ok());
        assert_eq!((parsed.operation, parsed.offset), (Some(Operation::Write), 1536));
        let ranges = [range(8, 16, 0), range(0, 8, UNMAP)].concat();
        let (result, parsed) = understood(blk::VIRTIO_BLK_T_WRITE_ZEROES, 0, ranges);
        assert!(result.is_ok());
        let first = Range { offset: 4096, len: 8192, no_unmap: true };
        let second = Range { offset: 0, len: 4096, no_unmap: false };
        assert_eq!(parsed.ranges, [first, second]);
        assert_eq!(understood(99, 0, vec![]).0, Err(Errno::OPNOTSUPP));
        assert_eq!(understood(blk::VIRTIO_BLK_T_OUT, u64::MAX, vec![]).0, Err(Errno::IO));
        let wrong = |bytes| understood(blk::VIRTIO_BLK_T_DISCARD, 0, bytes).0;
        assert_eq!(wrong(range(0, 8, UNMAP)), Err(Errno::OPNOTSUPP));
        assert_eq!(wrong(range(0, 8, 4)), Err(Errno::OPNOTSUPP));
        assert_eq!(wrong(vec![]), Err(Errno::IO));
        assert_eq!(wrong(vec![0; 17]), Err(Errno::IO));
        assert_eq!(wrong(range(0, 8, 0).repeat(RANGES + 1)), Err(Errno::IO));
        let (result, parsed) = understood(blk::VIRTIO_BLK_T_DISCARD, 0, range(0, 8, 0));
        assert_eq!((result, parsed.ranges[0].no_unmap), (Ok(()), false));
    }
}
