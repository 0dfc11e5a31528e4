//! Operations from a seed, and the flat file they are compared with.

use crate::nbd_client::{Client, Command, FUA};
use crate::stamps::{Random, SECTOR};
use std::io;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Writes [`Op::data`].
    Write,
    /// Writes zeroes.
    Zeroes,
    /// Gives the range back.
    Discard,
    /// Makes everything durable.
    Flush,
    /// Closes the image and opens it again.
    Reopen,
}

/// One operation.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    /// What.
    pub kind: Kind,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What a write writes follows from it.
    pub value: u64,
}

impl Op {
    /// The content of a write: no two sectors of two operations are equal.
    #[must_use]
    pub fn data(&self) -> Vec<u8> {
        let mut random = Random::new(self.value);
        let words = (0..self.len / 8).map(|_| random.below(1 << 48).to_le_bytes());
        words.flatten().collect()
    }

    /// Does it through our server and waits. `Reopen` is the caller's.
    ///
    /// # Errors
    /// The server says no.
    pub fn send(&self, client: &mut Client, fua: bool) -> io::Result<()> {
        let len = u32::try_from(self.len).map_err(io::Error::other)?;
        let flags = if fua { FUA } else { 0 };
        match self.kind {
            Kind::Write => {
                client.call(Command::Write, flags, self.offset, len, &self.data()).map(drop)
            }
            Kind::Zeroes => {
                client.call(Command::WriteZeroes, flags, self.offset, len, &[]).map(drop)
            }
            Kind::Discard => client.call(Command::Trim, flags, self.offset, len, &[]).map(drop),
            Kind::Flush => client.flush(),
            Kind::Reopen => Ok(()),
        }
    }
}

/// The device that operations are made for.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Bytes of the device, maybe not whole clusters.
    pub size: u64,
    /// Bytes of a cluster.
    pub cluster: u64,
    /// Longest operation.
    pub longest: u64,
}

impl Shape {
    /// A random operation: half of them in few clusters, so that they meet; sectors, parts of a
    /// cluster, whole clusters, several, and across borders.
    pub fn op(&self, random: &mut Random) -> Op {
        let kind = match random.below(20) {
            0..11 => Kind::Write,
            11..14 => Kind::Zeroes,
            14..18 => Kind::Discard,
            18 => Kind::Flush,
            _ => Kind::Reopen,
        };
        let clusters = self.size.div_ceil(self.cluster);
        let cluster = match random.below(8) {
            0..4 => random.below(clusters.min(12)),
            7 => clusters - 1,
            _ => random.below(clusters),
        };
        let inside = random.below(self.cluster / SECTOR as u64) * SECTOR as u64;
        let (from, len) = match random.below(6) {
            0 | 1 => (0, self.cluster),
            2 => (0, self.cluster * (1 + random.below(3))),
            3 => (inside, SECTOR as u64 * (1 + random.below(16))),
            _ => (inside, SECTOR as u64 * (1 + random.below(2 * self.cluster / SECTOR as u64))),
        };
        let offset = (cluster * self.cluster + from).min(self.size - SECTOR as u64);
        let len = len.min(self.longest).min(self.size - offset);
        let value = 1 + random.below(1 << 40);
        // Discards of whole clusters mostly: what others leave standing is nobody's promise.
        if kind == Kind::Discard && random.below(4) > 0 {
            let offset = cluster * self.cluster;
            let len = self.cluster * (1 + random.below(3));
            return Op { kind, offset, len: len.min(self.size - offset), value };
        }
        match kind {
            Kind::Flush | Kind::Reopen => Op { kind, offset: 0, len: 0, value: 0 },
            _ => Op { kind, offset, len, value },
        }
    }
}

/// What the device holds.
#[derive(Debug, Clone)]
pub struct Flat {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// By sector: a discard of a part of a cluster went over it, it may be zero as well.
    maybe: Vec<bool>,
    shape: Shape,
    lenient: bool,
}

impl Flat {
    /// An empty device.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        let size = usize::try_from(shape.size).unwrap_or(0);
        Self { bytes: vec![0; size], maybe: vec![false; size / SECTOR], shape, lenient: false }
    }

    /// The same for a program that may ignore a discard which is not of whole clusters.
    #[must_use]
    pub fn lenient(shape: Shape) -> Self {
        Self { lenient: true, ..Self::new(shape) }
    }

    /// Takes an operation. A discard zeroes the clusters it covers, of the edges nobody knows.
    pub fn apply(&mut self, op: &Op) {
        let (from, to) = (op.offset as usize, (op.offset + op.len) as usize);
        match op.kind {
            Kind::Write => self.set(from, &op.data()),
            Kind::Zeroes => self.set(from, &vec![0; to - from]),
            Kind::Discard => self.discard(from, to),
            Kind::Flush | Kind::Reopen => {}
        }
    }

    fn set(&mut self, from: usize, data: &[u8]) {
        let to = from + data.len();
        self.bytes[from..to].copy_from_slice(data);
        self.maybe[from / SECTOR..to / SECTOR].fill(false);
    }

    fn discard(&mut self, from: usize, to: usize) {
        self.maybe[from / SECTOR..to / SECTOR].fill(true);
        let cluster = self.shape.cluster as usize;
        let first = from.next_multiple_of(cluster);
        // A last cluster that the device cuts short is covered when its part of the device is.
        let last = if to == self.bytes.len() { to } else { to / cluster * cluster };
        let whole = (first, last) == (from, to) && to.is_multiple_of(cluster);
        if first < last && (whole || !self.lenient) {
            self.set(first, &vec![0; last - first]);
        }
    }

    /// The first sector of `found` that is not as it should be.
    #[must_use]
    pub fn differs(&self, found: &[u8]) -> Option<usize> {
        if found.len() != self.bytes.len() {
            return Some(found.len().min(self.bytes.len()) / SECTOR);
        }
        let sectors = found.chunks(SECTOR).zip(self.bytes.chunks(SECTOR)).zip(&self.maybe);
        let mut wrong = sectors.map(|((found, wanted), maybe)| {
            found != wanted && !(*maybe && found.iter().all(|byte| *byte == 0))
        });
        wrong.position(|wrong| wrong)
    }

    /// Takes what was read, where it is right, for what there is from now on.
    pub fn learn(&mut self, found: &[u8]) {
        self.bytes.copy_from_slice(found);
        self.maybe.fill(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { size: 10 * 1024, cluster: 4096, longest: 1 << 20 };

    #[test]
    fn a_discard_zeroes_whole_clusters_and_leaves_the_edges_open() {
        let mut flat = Flat::new(SHAPE);
        let all = Op { kind: Kind::Write, offset: 0, len: SHAPE.size, value: 7 };
        flat.apply(&all);
        let old = flat.bytes.clone();
        flat.apply(&Op { kind: Kind::Discard, offset: 3584, len: SHAPE.size - 3584, ..all });
        assert_eq!(flat.differs(&flat.bytes.clone()), None);
        assert_eq!(flat.differs(&old), Some(8));
        let mut found = flat.bytes.clone();
        found[3584..4096].fill(0);
        assert_eq!(flat.differs(&found), None);
        found[3583] ^= 1;
        assert_eq!(flat.differs(&found), Some(6));
        let mut flat = Flat::lenient(SHAPE);
        flat.apply(&all);
        flat.apply(&Op { kind: Kind::Discard, offset: 3584, len: SHAPE.size - 3584, ..all });
        assert_eq!(flat.differs(&old), None);
    }

    #[test]
    fn operations_stay_inside_and_are_whole_sectors() {
        let mut random = Random::new(3);
        for _ in 0..2000 {
            let op = SHAPE.op(&mut random);
            assert!(op.offset + op.len <= SHAPE.size && (op.len | op.offset).is_multiple_of(512));
            assert_eq!(op.data().len() as u64, op.len);
        }
    }
}
