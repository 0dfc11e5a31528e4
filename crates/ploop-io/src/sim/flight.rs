//! A ring operation from submit to report, and what is left of it when its process dies.

use super::fault::{Attempt, Verdict};
use super::inode::Effect;
use super::world::World;
use crate::{Completion, Op, OpKind};
use std::sync::Arc;

/// The caller's buffer, valid until the operation was reported (the contract of `Io::push`).
#[derive(Clone, Copy)]
pub(super) struct Memory(*mut u8);

// SAFETY: the contract of `Io::push` lends the memory to the ring until the operation is reaped,
// on whatever thread the ring works; the world's mutex keeps two users apart.
unsafe impl Send for Memory {}

/// An operation that the kernel refuses: its errno, and whether nobody may run into it.
struct Refused(i32, bool);

fn moves(kind: OpKind) -> bool {
    matches!(kind, OpKind::Read | OpKind::Write | OpKind::WriteDsync)
}

/// An operation in flight.
pub(super) struct Flight {
    pub(super) ring: u64,
    pub(super) ino: u64,
    pub(super) file: i32,
    pub(super) kind: OpKind,
    offset: u64,
    len: u64,
    token: u64,
    memory: Memory,
    /// What a write held when it was submitted.
    copy: Arc<[u8]>,
    /// Look at the caller's memory again when the operation takes effect.
    fresh: bool,
    /// The ring still exists.
    pub(super) owned: bool,
    verdict: Verdict,
    /// When it was submitted, for syncs.
    start: u64,
    report_delay: u64,
    pub(super) held: bool,
    /// Took effect: the result and the changes.
    pub(super) landed: Option<(i32, Vec<u64>)>,
}

/// An operation whose process died.
#[derive(Clone, Debug)]
pub(super) struct OldOp {
    pub(super) ino: u64,
    pub(super) file: i32,
    pub(super) effects: Vec<Effect>,
}

impl Flight {
    /// The bytes a write brings.
    fn data(&self) -> Arc<[u8]> {
        if !(self.fresh && self.owned) || self.copy.is_empty() {
            return Arc::clone(&self.copy);
        }
        // SAFETY: `push`'s caller keeps the memory valid until the operation is reaped; it was not
        // reported yet and its ring was not dropped.
        unsafe { std::slice::from_raw_parts(self.memory.0, self.copy.len()) }.into()
    }

    /// What it would do to a file of this length, for an operation cut off by a crash or a kill.
    pub(super) fn effects(&self, live_len: u64) -> Vec<Effect> {
        let (at, len) = (self.offset, self.len);
        match self.kind {
            OpKind::Write | OpKind::WriteDsync => {
                let data = self.data();
                let to = at + data.len() as u64;
                let mut effects = vec![Effect::Write { at, data }];
                if to > live_len {
                    effects.push(Effect::Extend { from: live_len, to });
                }
                effects
            }
            OpKind::Punch => vec![Effect::Zero { at, len, keep: false }],
            OpKind::ZeroRange => vec![Effect::Zero { at, len, keep: true }],
            OpKind::Reserve => vec![Effect::Reserve { at, len }],
            OpKind::Truncate => vec![Effect::Len(at)],
            OpKind::Read | OpKind::Datasync | OpKind::Sync => Vec::new(),
        }
    }
}

impl World {
    /// Refuses what the kernel would refuse.
    fn check(&self, op: &Op) -> Result<u64, Refused> {
        let misuse = |code| Err(Refused(code, true));
        let Some(file) = self.open.get(&op.file.0).filter(|f| !f.closed) else {
            return misuse(libc::EBADF);
        };
        let moves = moves(op.kind);
        let syncs = matches!(op.kind, OpKind::Datasync | OpKind::Sync);
        if !(file.write || syncs || op.kind == OpKind::Read) {
            return misuse(libc::EBADF);
        }
        let caps = self.options.caps;
        let align = u64::from(caps.offset_align);
        let odd = |v: u64, a: u64| a > 1 && !v.is_multiple_of(a);
        if moves && file.direct {
            let bad_memory = odd(op.buf as usize as u64, u64::from(caps.mem_align));
            if odd(op.offset, align) || odd(op.len, align) || bad_memory {
                // It may fit what the file was opened with: then this is how one learns better.
                let told = u64::from(file.told);
                let known = odd(op.offset, told) || odd(op.len, told) || bad_memory;
                return Err(Refused(libc::EINVAL, known));
            }
        }
        match op.kind {
            OpKind::Punch | OpKind::ZeroRange | OpKind::Reserve if op.len == 0 => {
                misuse(libc::EINVAL)
            }
            OpKind::Punch if !caps.punch => misuse(libc::EOPNOTSUPP),
            OpKind::ZeroRange if !caps.zero_range => misuse(libc::EOPNOTSUPP),
            OpKind::Reserve if !caps.reserve => misuse(libc::EOPNOTSUPP),
            _ => Ok(file.ino),
        }
    }

    /// Takes an operation from a ring.
    pub(super) fn launch(&mut self, ring: u64, op: Op) {
        self.tick += 1;
        if moves(op.kind) {
            self.maybe_realign();
        }
        self.note(op.offset ^ op.len.rotate_left(40) ^ (op.kind as u64) << 56 ^ ring << 48);
        let (ino, verdict) = match self.check(&op) {
            Ok(ino) => {
                let path = self.open.get(&op.file.0).map(|f| f.path.clone()).unwrap_or_default();
                let (offset, len) = (op.offset, op.len);
                let attempt = Attempt { kind: op.kind, path, offset, len, blocking: false };
                (ino, self.judge(&attempt))
            }
            Err(Refused(code, misuse)) => {
                if misuse {
                    self.violations.push(format!("{op:?} refused with errno {code}"));
                }
                (0, Verdict::Fail(code))
            }
        };
        let copy = self.take_copy(&op, verdict);
        let (effect_delay, report_delay) = self.draw_delays(ring, verdict);
        let id = self.next_flight;
        self.next_flight += 1;
        let fresh = self.rng.chance(1, 2);
        let flight = Flight {
            ring,
            ino,
            file: op.file.0,
            kind: op.kind,
            offset: op.offset,
            len: op.len,
            token: op.token,
            memory: Memory(op.buf),
            copy,
            fresh,
            owned: true,
            verdict,
            start: self.tick,
            report_delay,
            held: verdict == Verdict::Hold,
            landed: None,
        };
        if !flight.held {
            self.plan(id, effect_delay);
        }
        self.flights.insert(id, flight);
    }

    /// Copies what a write brings; poisons what a read will fill.
    fn take_copy(&self, op: &Op, verdict: Verdict) -> Arc<[u8]> {
        let refused = matches!(verdict, Verdict::Fail(libc::EBADF | libc::EINVAL));
        let len = op.len as usize;
        if len == 0 || op.buf.is_null() || refused {
            return Arc::new([]);
        }
        match op.kind {
            OpKind::Write | OpKind::WriteDsync => {
                // SAFETY: the memory is valid for `len` bytes by the contract of `Io::push`.
                unsafe { std::slice::from_raw_parts(op.buf, len) }.into()
            }
            OpKind::Read if self.options.poison_reads => {
                // SAFETY: as above, and writable for a read.
                unsafe { std::ptr::write_bytes(op.buf, 0xA5, len) };
                Arc::new([])
            }
            _ => Arc::new([]),
        }
    }

    /// Nanoseconds until the operation takes effect, and from there until it is reported.
    fn draw_delays(&mut self, ring: u64, verdict: Verdict) -> (u64, u64) {
        if let Verdict::Delay(nanos) = verdict {
            return (nanos, 0);
        }
        let (low, high, reorder, now) =
            (self.options.delay_min, self.options.delay_max, self.options.reorder, self.now);
        let straggler = self.options.straggler;
        let Some(state) = self.rings.get_mut(&ring) else { return (low, 0) };
        let mut first = state.rng.between(low, high);
        if reorder {
            if straggler > 0 && state.rng.chance(1, straggler) {
                first *= 1000;
            }
            return (first, state.rng.between(0, high));
        }
        state.last = state.last.max(now + first) + 1;
        (state.last - now, 0)
    }

    fn plan(&mut self, id: u64, delay: u64) {
        let mix = self.rng.next_u64();
        self.events.insert((self.now + delay, mix, id));
    }

    pub(super) fn release_held(&mut self, reverse: bool) -> usize {
        let mut ids: Vec<u64> =
            self.flights.iter().filter(|(_, f)| f.held).map(|(id, _)| *id).collect();
        if reverse {
            ids.reverse();
        }
        for (place, id) in ids.iter().enumerate() {
            if let Some(flight) = self.flights.get_mut(id) {
                flight.held = false;
                flight.report_delay = 0;
            }
            self.plan(*id, 1 + 2 * place as u64);
        }
        ids.len()
    }

    pub(super) fn advance_to(&mut self, time: u64) {
        while let Some(&(next, _, _)) = self.events.first() {
            if next > time || self.dead {
                break;
            }
            self.now = self.now.max(next);
            self.run_one();
        }
        if !self.dead {
            self.now = self.now.max(time);
        }
    }

    /// Lets the first event happen: an operation takes effect, or is reported.
    pub(super) fn run_one(&mut self) {
        let Some((_, _, id)) = self.events.pop_first() else { return };
        let Some(mut flight) = self.flights.remove(&id) else { return };
        self.tick += 1;
        self.note(id ^ self.now.rotate_left(20));
        if flight.landed.is_some() {
            return self.report(flight);
        }
        self.last = flight.kind;
        flight.landed = Some(self.land(&flight).unwrap_or_else(|code| (-code, Vec::new())));
        let delay = flight.report_delay;
        self.flights.insert(id, flight);
        self.plan(id, delay);
        self.boundary();
    }

    /// The operation takes effect.
    fn land(&mut self, flight: &Flight) -> Result<(i32, Vec<u64>), i32> {
        let code = match flight.verdict {
            Verdict::Fail(code) => return Err(code),
            Verdict::FailTorn(code) => Some(code),
            _ => None,
        };
        let most = match flight.verdict {
            Verdict::Short(most) => most.min(flight.len),
            _ => flight.len,
        };
        match flight.kind {
            OpKind::Read => match code {
                Some(code) => Err(code),
                None => Ok((self.fill(flight, most), Vec::new())),
            },
            OpKind::Write | OpKind::WriteDsync => {
                let data = flight.data();
                if let Some(code) = code {
                    let seqs = self.write_torn(flight.ino, flight.offset, &data, None);
                    return Ok((-code, seqs));
                }
                let part = &data[..(most as usize).min(data.len())];
                let seqs = self.write(flight.ino, flight.offset, part, None)?;
                Ok((part.len() as i32, seqs))
            }
            OpKind::Datasync | OpKind::Sync => Ok((code.map_or(0, |code| -code), Vec::new())),
            kind => {
                if let Some(code) = code {
                    let part = self.rng.below(flight.len / 2 + 1) & !(super::SECTOR - 1);
                    if part == 0 {
                        return Err(code);
                    }
                    return Ok((-code, self.act(flight.ino, kind, flight.offset, part, None)?));
                }
                Ok((0, self.act(flight.ino, kind, flight.offset, flight.len, None)?))
            }
        }
    }

    /// Copies bytes of the file into the caller's memory.
    fn fill(&self, flight: &Flight, most: u64) -> i32 {
        let Some(inode) = self.inodes.get(&flight.ino) else { return -libc::EBADF };
        let there = inode.live.len.saturating_sub(flight.offset).min(most);
        if flight.owned && there > 0 {
            // SAFETY: the memory is valid and writable until the operation is reaped; it was not
            // reported yet and its ring was not dropped.
            let out = unsafe { std::slice::from_raw_parts_mut(flight.memory.0, there as usize) };
            inode.live.read(flight.offset, out);
        }
        there as i32
    }

    /// The operation is reported: now a sync, or a write's own sync, has its effect on durability.
    fn report(&mut self, flight: Flight) {
        let Some((result, seqs)) = flight.landed else { return };
        let tick = self.tick;
        if let Some(inode) = self.inodes.get_mut(&flight.ino) {
            inode.report(&seqs, tick);
            match flight.kind {
                OpKind::WriteDsync if result >= 0 => inode.cover(&seqs),
                OpKind::Datasync | OpKind::Sync if result >= 0 => inode.cover_before(flight.start),
                OpKind::Datasync | OpKind::Sync => inode.doubt_all(0),
                OpKind::WriteDsync if !no_space(result) => inode.doubt_all(tick),
                _ => {}
            }
        }
        if self.open.get(&flight.file).is_some_and(|f| f.closed)
            && !self.flights.values().any(|f| f.file == flight.file)
        {
            self.close(flight.file);
        }
        if let Some(ring) = self.rings.get_mut(&flight.ring) {
            ring.ready.push(Completion { token: flight.token, result });
            let syncs = [OpKind::Datasync, OpKind::Sync, OpKind::WriteDsync].contains(&flight.kind);
            ring.unheard |= syncs && result < 0;
        }
    }

    /// A description is gone, with its locks.
    pub(super) fn close(&mut self, file: i32) {
        self.open.remove(&file);
        self.locks.close(file);
    }

    pub(super) fn kill(&mut self) {
        self.life += 1;
        self.tick += 1;
        let tick = self.tick;
        for flight in std::mem::take(&mut self.flights).into_values() {
            if let Some((_, seqs)) = &flight.landed {
                if let Some(inode) = self.inodes.get_mut(&flight.ino) {
                    inode.report(seqs, tick);
                }
                continue;
            }
            let len = self.inodes.get(&flight.ino).map_or(0, |inode| inode.live.len);
            let effects = flight.effects(len);
            let fails = matches!(flight.verdict, Verdict::Fail(_));
            if !effects.is_empty() && !fails {
                self.old_life.push(OldOp { ino: flight.ino, file: flight.file, effects });
            }
        }
        self.events.clear();
        self.rings.clear();
        for file in self.open.keys().copied().collect::<Vec<_>>() {
            match self.old_life.iter().any(|op| op.file == file) {
                true => {
                    if let Some(open) = self.open.get_mut(&file) {
                        open.closed = true;
                    }
                }
                false => self.close(file),
            }
        }
    }

    pub(super) fn deliver_old_life(&mut self, count: usize) -> usize {
        let mut landed = 0;
        while landed < count && !self.old_life.is_empty() && !self.dead {
            let at = self.rng.below(self.old_life.len() as u64) as usize;
            let op = self.old_life.swap_remove(at);
            self.tick += 1;
            for effect in op.effects {
                self.change(op.ino, Some(self.tick), effect);
            }
            self.boundary();
            landed += 1;
        }
        self.close_old_files();
        landed
    }

    pub(super) fn drop_old_life(&mut self) {
        self.old_life.clear();
        self.close_old_files();
    }

    fn close_old_files(&mut self) {
        let done: Vec<i32> = self
            .open
            .iter()
            .filter(|(file, open)| open.closed && !self.old_life.iter().any(|op| op.file == **file))
            .map(|(file, _)| *file)
            .collect();
        for file in done {
            self.close(file);
        }
    }
}

/// Nothing was written, so nothing is in doubt.
fn no_space(result: i32) -> bool {
    [libc::ENOSPC, libc::EDQUOT, libc::EFBIG].contains(&-result)
}
