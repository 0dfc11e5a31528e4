//! Writes whose every sector tells which write it is, and the account of what a disk may hold.
//!
//! Ranges in flight never overlap, so the writes of one sector are ordered. A sector may hold the
//! last durable write that covers it or a later one (I3, I5); a trimmed one may also be zero.

use crate::nbd_client::{Command, FUA};
use crate::requests::Requests;
use std::collections::HashMap;
use std::io;

/// The unit in which nothing may be torn.
pub const SECTOR: usize = 512;
/// Requests kept in flight.
pub const WINDOW: usize = 32;
const SIZES: [u32; 10] = [1, 1, 2, 7, 8, 8, 16, 64, 128, 256];

/// xorshift64*: a test that fails says its seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator; the seed 0 is replaced, as it would give zeroes for ever.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }
}

#[derive(Debug, Clone, Copy)]
struct Op {
    command: Command,
    first: u32,
    count: u32,
}

/// What was sent, what was answered, what is durable.
#[derive(Debug)]
pub struct Ledger {
    seed: u64,
    random: Random,
    /// By sequence number; number 0 is the empty disk.
    ops: Vec<Op>,
    /// By sector: the last durable operation.
    floor: Vec<u32>,
    /// By sector: later ones.
    later: Vec<Vec<u32>>,
    /// Answered, not yet durable.
    answered: Vec<u32>,
    /// What the traffic did so far.
    pub count: Count,
}

/// Numbers for the report.
#[derive(Debug, Default, Clone, Copy)]
pub struct Count {
    /// Operations answered.
    pub answered: u64,
    /// Flushes answered.
    pub flushes: u64,
    /// Operations in flight when the connection broke.
    pub cut_off: u64,
    /// Sectors that were read back with a write newer than the last durable one.
    pub newer: u64,
    /// Sectors that were read back with exactly the last durable write.
    pub exact: u64,
}

impl Ledger {
    /// The account of the first `bytes` of a new disk.
    #[must_use]
    pub fn new(bytes: u64, seed: u64) -> Self {
        let sectors = usize::try_from(bytes).unwrap_or(0) / SECTOR;
        let empty = Op { command: Command::WriteZeroes, first: 0, count: u32::MAX };
        Self {
            seed,
            random: Random::new(seed),
            ops: vec![empty],
            floor: vec![0; sectors],
            later: vec![Vec::new(); sectors],
            answered: Vec::new(),
            count: Count::default(),
        }
    }

    /// Sends random operations, [`WINDOW`] in flight, until `operations` are sent and answered or
    /// the connection breaks. `Ok(false)`: it broke.
    ///
    /// # Errors
    /// The server answered a request with an error.
    pub fn traffic(&mut self, client: &mut impl Requests, operations: u64) -> io::Result<bool> {
        let mut flight = Flight::default();
        let mut left = operations;
        loop {
            while left > 0 && flight.ops.len() < WINDOW {
                left -= 1;
                if self.send(client, &mut flight).is_err() {
                    return Ok(self.broken(&flight));
                }
            }
            if client.in_flight() == 0 {
                return Ok(true);
            }
            let Ok(reply) = client.receive() else { return Ok(self.broken(&flight)) };
            if reply.error != 0 {
                return Err(io::Error::other(format!("the server answered errno {}", reply.error)));
            }
            self.settle(&mut flight, reply.cookie);
        }
    }

    /// I14: the host lives on, so what was answered is there, flushed or not.
    fn broken(&mut self, flight: &Flight) -> bool {
        self.count.cut_off += flight.ops.len() as u64;
        std::mem::take(&mut self.answered).into_iter().for_each(|seq| self.durable(seq));
        false
    }

    /// A write mostly; now and then zeroes or a trim; every 40th a flush beside it.
    fn send(&mut self, client: &mut impl Requests, flight: &mut Flight) -> io::Result<()> {
        if self.random.below(40) == 0 {
            let cookie = client.send(Command::Flush, 0, 0, 0, &[])?;
            flight.flushes.insert(cookie, self.answered.clone());
        }
        let op = self.choose(flight);
        let seq = u32::try_from(self.ops.len()).map_err(io::Error::other)?;
        self.ops.push(op);
        for sector in op.first..op.first + op.count {
            self.later[sector as usize].push(seq);
        }
        let fua = op.command == Command::Write && self.random.below(16) == 0;
        let (offset, bytes) = (u64::from(op.first) * SECTOR as u64, op.count * SECTOR as u32);
        let data = if op.command == Command::Write { self.payload(op, seq) } else { Vec::new() };
        let flags = if fua { FUA } else { 0 };
        // Listed before it is sent: a connection that breaks may have carried it.
        let cookie = client.send(op.command, flags, offset, bytes, &data)?;
        flight.ops.insert(cookie, (seq, fua));
        Ok(())
    }

    fn choose(&mut self, flight: &Flight) -> Op {
        let command = match self.random.below(32) {
            0 => Command::Trim,
            1 => Command::WriteZeroes,
            _ => Command::Write,
        };
        loop {
            let count = SIZES[self.random.below(SIZES.len() as u64) as usize];
            // A trim of a few sectors frees nothing.
            let count = if command == Command::Write { count } else { 256 };
            let mut first = self.random.below(self.floor.len() as u64 - u64::from(count)) as u32;
            if self.random.below(2) == 0 {
                first -= first % 8;
            }
            let free = |&(seq, _): &(u32, bool)| {
                let other = self.ops[seq as usize];
                first + count <= other.first || other.first + other.count <= first
            };
            if flight.ops.values().all(free) {
                return Op { command, first, count };
            }
        }
    }

    fn settle(&mut self, flight: &mut Flight, cookie: u64) {
        if let Some(covered) = flight.flushes.remove(&cookie) {
            self.count.flushes += 1;
            covered.into_iter().for_each(|seq| self.durable(seq));
            let ops = &self.ops;
            let floor = &self.floor;
            self.answered.retain(|&seq| floor[ops[seq as usize].first as usize] < seq);
        } else if let Some((seq, fua)) = flight.ops.remove(&cookie) {
            self.count.answered += 1;
            if fua {
                self.durable(seq);
            } else {
                self.answered.push(seq);
            }
        }
    }

    /// From now on older content is a loss. A trim promises nothing: it stays among the later ones.
    fn durable(&mut self, seq: u32) {
        let op = self.ops[seq as usize];
        if op.command == Command::Trim {
            return;
        }
        for sector in op.first as usize..(op.first + op.count) as usize {
            if self.floor[sector] < seq {
                self.floor[sector] = seq;
                self.later[sector].retain(|&other| other > seq);
            }
        }
    }

    /// Reads everything back, compares, and takes what is there as the new state, which a flush
    /// makes durable.
    ///
    /// # Errors
    /// A sector that holds what it may not hold; or the connection broke.
    pub fn verify(&mut self, client: &mut impl Requests) -> io::Result<()> {
        let step = 1 << 20;
        let bytes = self.floor.len() * SECTOR;
        for offset in (0..bytes).step_by(step) {
            let length = step.min(bytes - offset) as u32;
            let data = client.alone(Command::Read, offset as u64, length)?;
            self.verify_at(offset / SECTOR, &data)?;
        }
        client.alone(Command::Flush, 0, 0).map(drop)
    }

    /// The same with bytes that come from elsewhere.
    ///
    /// # Errors
    /// A sector that holds what it may not hold.
    pub fn verify_at(&mut self, first: usize, data: &[u8]) -> io::Result<()> {
        for (sector, held) in (first..).zip(data.chunks(SECTOR)) {
            let seq = self.identify(sector, held).map_err(|what| self.complaint(sector, &what))?;
            if seq == self.floor[sector] {
                self.count.exact += 1;
            } else {
                self.count.newer += 1;
            }
            self.floor[sector] = seq;
            self.later[sector].clear();
        }
        Ok(())
    }

    /// Which operation the content is, if it is a legal one.
    fn identify(&self, sector: usize, held: &[u8]) -> Result<u32, String> {
        let floor = self.floor[sector];
        let zeroes = |seq: &u32| self.ops[*seq as usize].command != Command::Write;
        if held == [0; SECTOR] {
            let zero = self.later[sector].iter().rev().copied().find(|seq| zeroes(seq));
            return zero
                .or_else(|| zeroes(&floor).then_some(floor))
                .ok_or_else(|| "zeroes".to_owned());
        }
        let seq = u64::from_le_bytes(held[..8].try_into().map_err(|_| "short read")?);
        let seq = u32::try_from(seq).ok().filter(|seq| (*seq as usize) < self.ops.len());
        let seq = seq.ok_or_else(|| format!("foreign bytes {:02x?}", &held[..16]))?;
        let op = self.ops[seq as usize];
        if zeroes(&seq) || self.stamp(seq, sector as u32) != held {
            let place = u64::from_le_bytes(held[8..16].try_into().map_err(|_| "short read")?);
            return Err(format!("a torn or misplaced sector: write {seq} {op:?}, sector {place}"));
        }
        if seq == floor || self.later[sector].contains(&seq) {
            return Ok(seq);
        }
        Err(format!("the old write {seq} {op:?}"))
    }

    fn complaint(&self, sector: usize, what: &str) -> io::Error {
        let floor = self.floor[sector];
        let later: Vec<_> =
            self.later[sector].iter().map(|&seq| (seq, self.ops[seq as usize])).collect();
        io::Error::other(format!(
            "seed {}: sector {sector} holds {what}; the last durable write is {floor} {:?}, \
             later ones {later:?}",
            self.seed, self.ops[floor as usize]
        ))
    }

    fn payload(&self, op: Op, seq: u32) -> Vec<u8> {
        (op.first..op.first + op.count).flat_map(|sector| self.stamp(seq, sector)).collect()
    }

    /// Number, sector, and words that no other stamp has.
    fn stamp(&self, seq: u32, sector: u32) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        let base = self.seed ^ u64::from(seq) << 32 ^ u64::from(sector);
        for (word, place) in bytes.chunks_exact_mut(8).enumerate() {
            let value = match word {
                0 => u64::from(seq),
                1 => u64::from(sector),
                _ => (base ^ (word as u64) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            };
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }
}

#[derive(Debug, Default)]
struct Flight {
    /// By cookie: sequence number and whether it is forced.
    ops: HashMap<u64, (u32, bool)>,
    /// By cookie: what had been answered when the flush was sent.
    flushes: HashMap<u64, Vec<u32>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(4 * SECTOR as u64, 7);
        for (command, first) in [(Command::Write, 0), (Command::Write, 0), (Command::Trim, 0)] {
            let seq = ledger.ops.len() as u32;
            ledger.ops.push(Op { command, first, count: 2 });
            (0..2).for_each(|sector| ledger.later[sector].push(seq));
        }
        ledger
    }

    #[test]
    fn nothing_durable_anything_goes_but_foreign_bytes() {
        for seq in [1, 2] {
            let stamp = ledger().stamp(seq, 1);
            assert!(ledger().verify_at(1, &stamp).is_ok());
            assert!(ledger().verify_at(0, &stamp).is_err(), "another sector's");
        }
        assert!(ledger().verify_at(0, &[0; 4 * SECTOR]).is_ok());
        assert!(ledger().verify_at(0, &[1; SECTOR]).is_err());
        let mut torn = ledger().stamp(1, 0);
        let newer = ledger().stamp(2, 0);
        torn[256..].copy_from_slice(&newer[256..]);
        assert!(ledger().verify_at(0, &torn).is_err());
    }

    #[test]
    fn older_than_durable_is_a_loss() {
        let mut ledger = ledger();
        ledger.durable(2);
        ledger.durable(3); // a trim: old or zero
        let (first, second) = (ledger.stamp(1, 0), ledger.stamp(2, 0));
        assert!(ledger.verify_at(0, &first).is_err());
        assert!(ledger.identify(0, &[0; SECTOR]).is_ok());
        assert!(ledger.verify_at(0, &second).is_ok());
        // What was read once stays.
        assert!(ledger.verify_at(0, &[0; SECTOR]).is_err());
    }
}
