//! What to do: said once, the same for a disk and for a plain file.

use ploop_daemon::runtime::RingChoice;
use ploop_daemon::{Failure, Result};

/// The pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// One after the other, reading.
    Read,
    /// One after the other, writing.
    Write,
    /// Anywhere, reading.
    RandRead,
    /// Anywhere, writing.
    RandWrite,
    /// Anywhere, one half each.
    RandRw,
}

impl Mode {
    /// All, with the names fio has for them.
    pub const NAMES: [(&str, Self); 5] = [
        ("read", Self::Read),
        ("write", Self::Write),
        ("randread", Self::RandRead),
        ("randwrite", Self::RandWrite),
        ("randrw", Self::RandRw),
    ];

    /// By its name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, mode)| *mode).ok_or_else(|| {
            Failure::parameter(format!("--rw `{name}`"))
                .hint("read, write, randread, randwrite or randrw")
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }

    /// Whether it changes what is stored.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(self, Self::Write | Self::RandWrite | Self::RandRw)
    }

    /// Whether the next place has nothing to do with the last.
    #[must_use]
    pub fn random(self) -> bool {
        matches!(self, Self::RandRead | Self::RandWrite | Self::RandRw)
    }
}

/// A load.
#[derive(Clone, Debug)]
pub struct Load {
    /// The pattern.
    pub mode: Mode,
    /// Bytes of each request.
    pub block: u64,
    /// Requests in flight on each queue.
    pub depth: usize,
    /// Queues, each with a thread.
    pub queues: usize,
    /// Ends after this many nanoseconds.
    pub nanos: u64,
    /// Ends after this many requests on all queues.
    pub count: Option<u64>,
    /// After this many requests, what kept one of the `depth` places flushes and waits; 0 = never.
    pub flush_every: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes from there on; `None` = to the end.
    pub range: Option<u64>,
    /// Of the random numbers.
    pub seed: u64,
    /// Loads the map first.
    pub warm: bool,
    /// How files are read and written.
    pub engine: RingChoice,
}

impl Load {
    /// The bytes to work on, in what has `size` bytes in all and takes multiples of `align`.
    ///
    /// # Errors
    /// The load does not fit.
    pub fn area(&self, size: u64, align: u64) -> Result<Area> {
        let align = align.max(1);
        let bad = |what: String| Err(Failure::parameter(what));
        if self.block == 0 || !self.block.is_multiple_of(align) {
            return bad(format!("--bs {}: not a multiple of {align} bytes", self.block));
        }
        if !self.offset.is_multiple_of(align) {
            return bad(format!("--offset {}: not a multiple of {align} bytes", self.offset));
        }
        let Some(left) = size.checked_sub(self.offset) else {
            return bad(format!("--offset {} lies behind the end at {size} bytes", self.offset));
        };
        let range = self.range.unwrap_or(left);
        if range > left {
            return bad(format!("--range {range} ends behind the end at {size} bytes"));
        }
        let blocks = range / self.block;
        if blocks < self.queues as u64 {
            let queues = self.queues;
            return bad(format!(
                "{range} bytes have no block of {} for {queues} queues",
                self.block
            ));
        }
        Ok(Area { start: self.offset, blocks })
    }

    /// Completions of a batch worked on before the first submission, the same with a map and
    /// without: a disk that completes many at once stands still until then. Without a disk it
    /// would only cost.
    #[must_use]
    pub const fn stride(&self) -> usize {
        match self.engine {
            RingChoice::Null => usize::MAX,
            _ => 2,
        }
    }

    /// How many requests queue `n` makes.
    #[must_use]
    pub fn share(&self, n: usize) -> u64 {
        let queues = self.queues as u64;
        self.count.map_or(u64::MAX, |all| all / queues + u64::from((n as u64) < all % queues))
    }
}

/// Where requests go.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// First byte.
    pub start: u64,
    /// Whole blocks from there.
    pub blocks: u64,
}
