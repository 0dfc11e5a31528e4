//! Which operation fails, is short, is slow: by rate or by the caller's own rule.

use super::rng::Rng;
use crate::OpKind;
use std::path::PathBuf;

/// An operation about to happen, as a [`Hook`] sees it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What it does. A directory sync is [`OpKind::Sync`] on the directory's path.
    pub kind: OpKind,
    /// The file's path when it was opened.
    pub path: PathBuf,
    /// Byte position (new length for `Truncate`).
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// A blocking call, not one of a ring.
    pub blocking: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Verdict {
    /// As the rates say.
    #[default]
    Normal,
    /// It succeeds whatever the rates say.
    Good,
    /// It fails with this errno; nothing of it is done.
    Fail(i32),
    /// It fails with this errno; any part of a write may be done.
    FailTorn(i32),
    /// At most this many bytes are moved.
    Short(u64),
    /// It takes effect this many nanoseconds after it was submitted, and is reported at once.
    Delay(u64),
    /// It waits for `SimWorld::release_held`. Only for ring operations.
    Hold,
    /// The process is gone before it does this, as at the point of `SimWorld::crash_after`. Only
    /// for blocking calls.
    Die,
}

/// The caller's own rule; asked when an operation is submitted.
pub type Hook = Box<dyn FnMut(&Attempt) -> Verdict + Send>;

/// How often operations fail by themselves, in parts of 65536.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    /// Reads that fail with `EIO`.
    pub read_error: u32,
    /// Writes that fail with `EIO`.
    pub write_error: u32,
    /// Writes, length changes and reservations that fail with `ENOSPC`.
    pub no_space: u32,
    /// The same with `EDQUOT`.
    pub quota: u32,
    /// The same with `EFBIG`.
    pub too_big: u32,
    /// Syncs that fail with `EIO`, writes with `RWF_DSYNC` included.
    pub sync_error: u32,
    /// Punches and zeroings that fail with `EIO`.
    pub zero_error: u32,
    /// Reads and writes that are short.
    pub short: u32,
    /// Ring operations before which the alignment of direct I/O rises to 4096, for good.
    pub realign: u32,
    /// Blocking calls may fail as well (else only ring operations do).
    pub blocking: bool,
}

impl Rates {
    /// Draws the fate of an operation; what is short has whole units.
    pub(super) fn draw(&self, rng: &mut Rng, attempt: &Attempt, unit: u64) -> Verdict {
        if attempt.blocking && !self.blocking {
            return Verdict::Normal;
        }
        let mut hit = |rate: u32| rate > 0 && rng.chance(u64::from(rate), 65536);
        match attempt.kind {
            OpKind::Read if hit(self.read_error) => Verdict::Fail(libc::EIO),
            OpKind::Write | OpKind::WriteDsync if hit(self.write_error) => {
                Verdict::FailTorn(libc::EIO)
            }
            OpKind::Write | OpKind::WriteDsync | OpKind::Reserve | OpKind::Truncate
                if hit(self.no_space) =>
            {
                Verdict::Fail(libc::ENOSPC)
            }
            OpKind::Write | OpKind::WriteDsync | OpKind::Reserve | OpKind::Truncate
                if hit(self.quota) =>
            {
                Verdict::Fail(libc::EDQUOT)
            }
            OpKind::Write | OpKind::WriteDsync | OpKind::Reserve | OpKind::Truncate
                if hit(self.too_big) =>
            {
                Verdict::Fail(libc::EFBIG)
            }
            OpKind::WriteDsync | OpKind::Sync | OpKind::Datasync if hit(self.sync_error) => {
                Verdict::FailTorn(libc::EIO)
            }
            OpKind::Punch | OpKind::ZeroRange if hit(self.zero_error) => {
                Verdict::FailTorn(libc::EIO)
            }
            OpKind::Read | OpKind::Write | OpKind::WriteDsync
                if !attempt.blocking && attempt.len > unit && hit(self.short) =>
            {
                Verdict::Short((rng.below(attempt.len.div_ceil(unit) - 1) + 1) * unit)
            }
            _ => Verdict::Normal,
        }
    }
}
