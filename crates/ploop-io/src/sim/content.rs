//! The bytes of a file: sparse 4 KiB blocks, cheap to clone.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of an allocation unit.
pub(super) const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = BLOCK as usize;

/// A block that takes space.
#[derive(Clone, Debug)]
enum Block {
    /// Reserved and never written: reads as zeros.
    Reserved,
    /// Holds bytes.
    Data(Arc<[u8; BLOCK_BYTES]>),
}

/// Length and bytes. Bytes beyond the length may exist while a crash is put together; `cut` and
/// `seal` remove them.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) len: u64,
    /// Shared by worlds that have come from one another, until one of them changes it.
    blocks: Arc<BTreeMap<u64, Block>>,
}

/// The pieces of `at..at+len` that lie in one block each: block number, offset in it, bytes.
fn pieces(at: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = at + len;
    let mut pos = at;
    std::iter::from_fn(move || {
        if pos >= end {
            return None;
        }
        let inside = pos % BLOCK;
        let take = (BLOCK - inside).min(end - pos);
        let piece = (pos / BLOCK, inside as usize, take as usize);
        pos += take;
        Some(piece)
    })
}

impl Content {
    /// Fills `buf` from `at`; what was never written is zero.
    pub(super) fn read(&self, at: u64, buf: &mut [u8]) {
        let mut done = 0;
        for (block, inside, take) in pieces(at, buf.len() as u64) {
            let out = &mut buf[done..done + take];
            match self.blocks.get(&block) {
                Some(Block::Data(bytes)) => out.copy_from_slice(&bytes[inside..inside + take]),
                _ => out.fill(0),
            }
            done += take;
        }
    }

    /// Stores bytes; the length stays.
    pub(super) fn write(&mut self, at: u64, data: &[u8]) {
        let mut done = 0;
        for (block, inside, take) in pieces(at, data.len() as u64) {
            self.bytes_of(block)[inside..inside + take].copy_from_slice(&data[done..done + take]);
            done += take;
        }
    }

    fn bytes_of(&mut self, block: u64) -> &mut [u8; BLOCK_BYTES] {
        let slot = Arc::make_mut(&mut self.blocks).entry(block).or_insert(Block::Reserved);
        if matches!(slot, Block::Reserved) {
            *slot = Block::Data(Arc::new([0; BLOCK_BYTES]));
        }
        match slot {
            Block::Data(bytes) => Arc::make_mut(bytes),
            Block::Reserved => unreachable!("made data just above"),
        }
    }

    /// Zeroes a range. Whole blocks lose their space, or keep it reserved with `keep`.
    pub(super) fn zero(&mut self, at: u64, len: u64, keep: bool) {
        let end = at.saturating_add(len);
        if at >= end {
            return;
        }
        let hit: Vec<u64> =
            self.blocks.range(at / BLOCK..=(end - 1) / BLOCK).map(|(block, _)| *block).collect();
        for block in hit {
            let from = at.max(block * BLOCK);
            let to = end.min((block + 1) * BLOCK);
            if to - from < BLOCK {
                if matches!(self.blocks.get(&block), Some(Block::Data(_))) {
                    let inside = (from % BLOCK) as usize;
                    self.bytes_of(block)[inside..inside + (to - from) as usize].fill(0);
                }
            } else if keep {
                Arc::make_mut(&mut self.blocks).insert(block, Block::Reserved);
            } else {
                Arc::make_mut(&mut self.blocks).remove(&block);
            }
        }
        if keep {
            self.reserve(at, len);
        }
    }

    /// Gives every block of a range space.
    pub(super) fn reserve(&mut self, at: u64, len: u64) {
        let blocks = Arc::make_mut(&mut self.blocks);
        for (block, _, _) in pieces(at, len) {
            blocks.entry(block).or_insert(Block::Reserved);
        }
    }

    /// Sets the length; what lies behind it is gone.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.drop_behind(len);
        }
        self.len = len;
    }

    /// Drops bytes behind the length, at the end of putting a crash together. Reserved blocks
    /// behind it stay (`KEEP_SIZE`).
    pub(super) fn seal(&mut self) {
        let behind: Vec<u64> = self
            .blocks
            .range(self.len / BLOCK..)
            .filter(|(_, block)| matches!(block, Block::Data(_)))
            .map(|(block, _)| *block)
            .collect();
        for block in behind {
            let from = self.len.max(block * BLOCK);
            self.zero(from, (block + 1) * BLOCK - from, false);
        }
    }

    fn drop_behind(&mut self, len: u64) {
        if let Some((last, _)) = self.blocks.last_key_value() {
            let end = (last + 1) * BLOCK;
            if end > len {
                self.zero(len, end - len, false);
            }
        }
    }

    /// A hash of length and bytes; holes are zeros.
    pub(super) fn hash(&self) -> u64 {
        let mut hash = self.len;
        let mut mix = |word: u64| {
            hash = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            hash ^= hash >> 29;
        };
        for (number, block) in self.blocks.range(..self.len.div_ceil(BLOCK)) {
            let Block::Data(bytes) = block else { continue };
            if bytes.iter().fold(0, |all, byte| all | byte) == 0 {
                continue;
            }
            mix(*number);
            for chunk in bytes.chunks_exact(8) {
                mix(chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
            }
        }
        hash
    }

    /// Bytes of space in use.
    pub(super) fn allocated(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK
    }

    /// Blocks of a range that have no space yet.
    pub(super) fn missing(&self, at: u64, len: u64) -> u64 {
        pieces(at, len).filter(|(block, _, _)| !self.blocks.contains_key(block)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_read_as_zeros_and_high_positions_work() {
        let mut content = Content::default();
        let far = (16 << 40) + 700;
        content.write(far, b"end of the world");
        content.set_len(far + 16);
        let mut buf = [9; 32];
        content.read(far - 16, &mut buf);
        assert_eq!(&buf[..16], &[0; 16]);
        assert_eq!(&buf[16..], b"end of the world");
        assert_eq!(content.allocated(), BLOCK);
    }

    #[test]
    fn punch_gives_space_back_and_cuts_edges() {
        let mut content = Content::default();
        content.write(0, &[7; 3 * BLOCK_BYTES]);
        content.set_len(3 * BLOCK);
        content.zero(100, 2 * BLOCK, false);
        assert_eq!(content.allocated(), 2 * BLOCK);
        let mut buf = vec![1; 3 * BLOCK_BYTES];
        content.read(0, &mut buf);
        let end = 100 + 2 * BLOCK_BYTES;
        assert!(buf[..100].iter().all(|b| *b == 7));
        assert!(buf[100..end].iter().all(|b| *b == 0));
        assert!(buf[end..].iter().all(|b| *b == 7));
    }

    #[test]
    fn a_shorter_length_forgets_what_was_behind() {
        let mut content = Content::default();
        content.write(0, &[7; 2 * BLOCK_BYTES]);
        content.set_len(2 * BLOCK);
        content.set_len(1000);
        content.set_len(2 * BLOCK);
        let mut buf = vec![1; 2 * BLOCK_BYTES];
        content.read(0, &mut buf);
        assert!(buf[..1000].iter().all(|b| *b == 7));
        assert!(buf[1000..].iter().all(|b| *b == 0));
    }
}
