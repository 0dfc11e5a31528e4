//! What both ways of rewriting parts of blocks share (F19): a queue that is the only one does it by
//! itself (`queue/rewrite.rs`), else the keeper does (`keeper/patch.rs`).

use crate::chain::Level;
use crate::device::Shared;
use crate::front::Buffer;
use crate::limits::{PATCH_LARGE, PATCH_SMALL, PATCHES_LARGE, PATCHES_SMALL};
use crate::spec::LevelKind;
use ploop_format::{GuestCluster, Sector};
use ploop_io::AlignedBuf;
use std::ops::Range;

/// What the guest has over the old bytes of a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Over {
    /// Zeros, or nothing.
    Zeros,
    /// These bytes; valid until the request is answered.
    Bytes(Buffer),
    /// All of it, written by the queue.
    ByQueue,
}

/// Puts the guest's bytes, from byte `skip` of them on, in their place. `false`: the driver that
/// has them does not give them.
#[must_use]
pub(crate) fn lay_over(over: Over, skip: u64, place: &mut [u8]) -> bool {
    match over {
        Over::Zeros => place.fill(0),
        Over::ByQueue => {}
        Over::Bytes(data) => {
            let part = data.part(skip, place.len() as u64);
            if let Some(lent) = part.at_driver() {
                return lent.read(0, place).is_ok();
            }
            // SAFETY: the front end's memory, which is readable for a write until its request is
            // answered, and that happens after this; a piece lies inside of it. Our own buffer is
            // nobody else's. A guest that changes its memory meanwhile gets either content.
            unsafe { std::ptr::copy_nonoverlapping(part.ptr(), place.as_mut_ptr(), place.len()) };
        }
    }
    true
}

/// The whole blocks of `unit` bytes that a range lies in.
pub(crate) fn whole_blocks(range: &Range<u64>, unit: u64) -> Range<u64> {
    range.start / unit * unit..range.end.next_multiple_of(unit)
}

/// They have bytes in common.
pub(crate) fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// What rewriting a cluster must know of the end of its file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// Where a plain file ended when it was opened: zeros lie behind it (F18).
    pub was: u64,
    /// And where it ends after a write of its last block.
    pub keep: u64,
}

impl End {
    /// For a cluster that lies there.
    pub fn of(shared: &Shared, cluster: GuestCluster, level: &Level, at: Sector) -> Self {
        if level.kind != LevelKind::Raw {
            return Self { was: u64::MAX, keep: u64::MAX };
        }
        let size = shared.chain.cluster;
        let left = shared.limits.size - size.guest_start(shared.pieces.guest(cluster));
        let shown = at.bytes() + left.min(size.bytes());
        Self { was: level.len, keep: level.len.max(shown) }
    }
}

/// Buffers for whole blocks.
#[derive(Default)]
pub(crate) struct Memory {
    small: Vec<AlignedBuf>,
    large: Vec<AlignedBuf>,
    filled: bool,
}

impl Memory {
    /// Takes the memory, once.
    pub fn fill(&mut self) {
        if !self.filled {
            self.small.resize_with(PATCHES_SMALL, || crate::memory::buffer(PATCH_SMALL as usize));
            self.large.resize_with(PATCHES_LARGE, || crate::memory::buffer(PATCH_LARGE as usize));
            self.filled = true;
        }
    }

    /// Whether there is a buffer for so many bytes, or for the first of them.
    pub fn has(&self, len: u64) -> bool {
        len <= PATCH_SMALL && !self.small.is_empty() || !self.large.is_empty()
    }

    pub fn take(&mut self, len: u64) -> Option<AlignedBuf> {
        let small = if len <= PATCH_SMALL { self.small.pop() } else { None };
        small.or_else(|| self.large.pop())
    }

    pub fn give(&mut self, buffer: AlignedBuf) {
        let small = buffer.len() as u64 == PATCH_SMALL;
        if small { self.small.push(buffer) } else { self.large.push(buffer) }
    }
}
