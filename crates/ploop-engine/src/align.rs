//! What direct I/O wants of a transfer: by the files of the chain, and it may rise while they are
//! open. What the device shows to its clients does not depend on it (T14).

use crate::chain::Chain;
use crate::spec::LevelKind;
use ploop_format::units::PAGE;
use std::sync::atomic::{AtomicU32, Ordering};

/// The strictest alignments in a chain; 1 where everything is buffered.
#[derive(Debug)]
pub struct Align {
    offset: AtomicU32,
    memory: AtomicU32,
}

impl Align {
    /// As the files say it now. A file whose clusters do not begin at whole pages is buffered.
    #[must_use]
    pub fn of(chain: &Chain) -> Self {
        for level in &chain.levels {
            let LevelKind::Ploop { data_start, .. } = level.kind else { continue };
            if data_start % PAGE != 0
                && let Err(error) = level.file.buffer()
            {
                tracing::warn!(path = %level.file.path().display(), %error, "O_DIRECT stays on");
            }
        }
        let align = Self { offset: AtomicU32::new(1), memory: AtomicU32::new(1) };
        align.ask(chain);
        align
    }

    /// Asks the files again.
    pub fn ask(&self, chain: &Chain) {
        let (mut memory, mut offset) = (1, 1);
        for level in &chain.levels {
            let (m, o) = level.file.realign().direct_align();
            (memory, offset) = (m.max(memory), o.max(offset));
        }
        let was = self.offset.swap(offset, Ordering::AcqRel);
        self.memory.store(memory, Ordering::Release);
        if was > 1 && was != offset {
            tracing::info!("direct I/O wants {offset} bytes now, {was} before");
        }
    }

    /// Of offset and length in a file: a power of two, at most a page.
    #[must_use]
    pub fn offset(&self) -> u64 {
        u64::from(self.offset.load(Ordering::Relaxed))
    }

    /// Where a transfer goes on that came from `before` to `done`: at a whole block, when it has
    /// passed one.
    #[must_use]
    pub fn going_on(&self, before: u64, done: u64) -> u64 {
        let whole = done & !(self.offset() - 1);
        if whole > before { whole } else { done }
    }

    /// Whether a transfer can be handed to the disk as it is.
    #[must_use]
    pub fn fits(&self, offset: u64, len: u64, memory: *const u8) -> bool {
        let mask = self.offset() - 1;
        let memory_mask = self.memory.load(Ordering::Relaxed) as usize - 1;
        (offset | len) & mask == 0 && memory.addr() & memory_mask == 0
    }
}
