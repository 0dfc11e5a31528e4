//! A file: what a reader sees now, what is surely on disk, and the operations in between.

use super::SECTOR;
use super::content::Content;
use super::rng::Rng;
use std::sync::Arc;

/// One change of a file.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// Bytes at a place; the length is a change of its own.
    Write { at: u64, data: Arc<[u8]> },
    /// Zeros; `keep` leaves the space reserved.
    Zero { at: u64, len: u64, keep: bool },
    /// The length by `ftruncate`.
    Len(u64),
    /// The length moved by a write behind the end: any length in between is possible.
    Extend { from: u64, to: u64 },
    /// Space without bytes.
    Reserve { at: u64, len: u64 },
}

/// A change that no completed sync covered yet (or that waits for an older one that is not).
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Position in the history of the world.
    pub(super) seq: u64,
    pub(super) effect: Effect,
    /// When its operation was reported; `None` while it is in flight.
    pub(super) done: Option<u64>,
    /// On disk for certain.
    pub(super) covered: bool,
    /// A sync that should have covered it failed: no sync that starts after this moment covers it
    /// (F5).
    pub(super) doubt: Option<u64>,
}

/// What a crash does with one change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Lost,
    Kept,
    /// Some of its sectors; the number seeds which.
    Torn(u64),
    /// All but the middle third.
    NoMiddle,
}

impl Fate {
    /// Which sectors of a change survive: asked with the index and the number of sectors, in order.
    fn sectors(self) -> impl FnMut(u64, u64) -> bool {
        let mut rng = Rng::new(if let Self::Torn(seed) = self { seed } else { 0 });
        let style = rng.below(3);
        let cut = rng.next_u64();
        move |index, count| match (self, style) {
            (Self::Lost, _) => false,
            (Self::Kept, _) => true,
            (Self::NoMiddle, _) => count < 3 || index < count / 3 || index >= count - count / 3,
            (Self::Torn(_), 0) => index < cut % (count + 1),
            (Self::Torn(_), 1) => index >= cut % (count + 1),
            (Self::Torn(_), _) => rng.chance(1, 2),
        }
    }

    /// A number for the sectors of a span that survive: 0 for none, 1 for all.
    pub(super) fn signature(self, at: u64, len: u64, prefix: bool) -> u64 {
        if len == 0 {
            return u64::from(self != Self::Lost);
        }
        let count = (at + len - 1) / SECTOR - at / SECTOR + 1;
        let (mut kept, mut hash) = (0, 2u64);
        let mut keep = self.sectors();
        for index in 0..count {
            let yes = keep(index, count);
            if prefix && !yes {
                break;
            }
            kept += u64::from(yes);
            hash = (hash ^ u64::from(yes)).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
        }
        match kept {
            0 => 0,
            _ if kept == count => 1,
            _ if prefix => kept + 1,
            _ => hash,
        }
    }
}

/// A file's state.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) live: Content,
    pub(super) base: Content,
    pub(super) log: Vec<Entry>,
}

impl Effect {
    /// First byte and number of bytes, for reports and predicates.
    pub(super) fn span(&self) -> (u64, u64) {
        match self {
            Self::Write { at, data } => (*at, data.len() as u64),
            Self::Zero { at, len, .. } | Self::Reserve { at, len } => (*at, *len),
            Self::Len(to) => (*to, 0),
            Self::Extend { from, to } => (*from, to - from),
        }
    }

    pub(super) fn apply(&self, content: &mut Content) {
        match self {
            Self::Write { at, data } => content.write(*at, data),
            Self::Zero { at, len, keep } => content.zero(*at, *len, *keep),
            Self::Len(to) => content.set_len(*to),
            Self::Extend { to, .. } => content.len = content.len.max(*to),
            Self::Reserve { at, len } => content.reserve(*at, *len),
        }
    }

    /// Applies only the sectors for which `keep(index, count)` says so.
    fn apply_some(&self, content: &mut Content, keep: &mut dyn FnMut(u64, u64) -> bool) {
        let (at, len) = self.span();
        if len == 0 {
            return self.apply(content);
        }
        let (first, last) = (at / SECTOR, (at + len - 1) / SECTOR);
        let count = last - first + 1;
        for sector in first..=last {
            if !keep(sector - first, count) {
                if matches!(self, Self::Extend { .. }) {
                    return;
                }
                continue;
            }
            let from = at.max(sector * SECTOR);
            let to = (at + len).min((sector + 1) * SECTOR);
            match self {
                Self::Write { data, .. } => {
                    content.write(from, &data[(from - at) as usize..(to - at) as usize]);
                }
                Self::Zero { keep, .. } => content.zero(from, to - from, *keep),
                Self::Extend { .. } => content.len = content.len.max(to),
                Self::Reserve { .. } | Self::Len(_) => content.reserve(from, to - from),
            }
        }
    }

    /// Applies what survives a crash.
    pub(super) fn survive(&self, content: &mut Content, fate: Fate) {
        match fate {
            Fate::Lost => {}
            Fate::Kept => self.apply(content),
            Fate::NoMiddle | Fate::Torn(_) => self.apply_some(content, &mut fate.sectors()),
        }
    }
}

impl Inode {
    /// Records a change and shows it to readers.
    pub(super) fn change(&mut self, seq: u64, done: Option<u64>, effect: Effect) {
        effect.apply(&mut self.live);
        self.log.push(Entry { seq, effect, done, covered: false, doubt: None });
    }

    /// The operation that made these changes was reported.
    pub(super) fn report(&mut self, seqs: &[u64], tick: u64) {
        for entry in self.log.iter_mut().filter(|e| seqs.contains(&e.seq)) {
            entry.done = Some(tick);
        }
    }

    /// Marks these changes as durable: a write with `RWF_DSYNC` has its own sync, whatever became
    /// of another one meanwhile.
    pub(super) fn cover(&mut self, seqs: &[u64]) {
        for entry in self.log.iter_mut().filter(|e| seqs.contains(&e.seq)) {
            entry.covered = true;
        }
        self.fold();
    }

    /// A sync that started at `start` has ended: what was reported before is durable.
    pub(super) fn cover_before(&mut self, start: u64) {
        for entry in &mut self.log {
            let healed = entry.doubt.is_none_or(|since| start < since);
            if entry.done.is_some_and(|done| done < start) && healed {
                entry.covered = true;
            }
        }
        self.fold();
    }

    /// A sync failed: what is not durable now never will be by a sync that starts after `moment`.
    /// 0 for a whole sync: then not by one that runs beside it either, for errors are told once.
    pub(super) fn doubt_all(&mut self, moment: u64) {
        for entry in self.log.iter_mut().filter(|e| !e.covered) {
            entry.doubt = Some(entry.doubt.map_or(moment, |since| since.min(moment)));
        }
    }

    /// Moves the durable head of the log into the base. A durable change behind one that is not
    /// stays in the log: the order of the changes is kept.
    fn fold(&mut self) {
        let head = self.log.iter().take_while(|e| e.covered).count();
        for entry in self.log.drain(..head) {
            entry.effect.apply(&mut self.base);
        }
    }
}
