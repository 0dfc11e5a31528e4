//! Which requests a run makes: few clusters, all kinds, awkward ranges.

use crate::stamp::Value;
use crate::traffic::Wish;
use ploop_engine::{Flags, Operation};
use ploop_io::sim::Rng;

/// Makes requests for one device.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Clusters the requests go to.
    pub hot: Vec<u64>,
    /// Sectors of a cluster.
    pub cluster: u64,
    /// Sectors of the device.
    pub size: u64,
    /// Sectors of a logical block.
    pub block: u64,
    /// Little but whole clusters written and discarded, so that clusters are used again soon.
    pub churn: bool,
    /// One of so many writes has a twin; 0: none.
    pub twins: u64,
    /// One of so many writes meets a copy-up of its cluster; 0: none.
    pub merges: u64,
    /// So many of ten changes are FUA.
    pub fua: u64,
    next_value: Value,
}

impl Workload {
    /// Requests go to `count` clusters: some neighbours, the first, the last, and those where one
    /// page of the block table ends.
    #[must_use]
    pub fn new(rng: &mut Rng, clusters: u64, count: usize, cluster: u64) -> Self {
        let mut hot = vec![rng.below(clusters)];
        let places = [0, 1, 1006, 1007, 1008, 1009, clusters - 1];
        while hot.len() < count.min(clusters as usize) {
            let next = match rng.below(3) {
                0 => *rng.pick(&places).unwrap_or(&0),
                1 => hot[hot.len() - 1] + 1,
                _ => rng.below(clusters),
            };
            if next < clusters && !hot.contains(&next) {
                hot.push(next);
            }
        }
        Self {
            hot,
            cluster,
            size: clusters * cluster,
            block: 1,
            churn: false,
            twins: 0,
            merges: 0,
            fua: 2,
            next_value: 0,
        }
    }

    /// A value no sector had before.
    pub fn value(&mut self) -> Value {
        self.next_value += 1;
        self.next_value
    }

    /// A range: whole clusters, single blocks, parts, and across a border.
    fn range(&self, rng: &mut Rng) -> (u64, u64) {
        let start = rng.pick(&self.hot).copied().unwrap_or(0) * self.cluster;
        let blocks = self.cluster / self.block;
        let (from, count) = match rng.below(10) {
            0..2 => (0, self.cluster),
            2..5 => (rng.below(blocks) * self.block, self.block),
            5..8 => {
                let from = rng.below(blocks);
                (from * self.block, rng.between(1, blocks - from) * self.block)
            }
            8 => (rng.below(blocks) * self.block, self.cluster),
            _ => (0, self.cluster * rng.between(2, 3)),
        };
        let first = start + from;
        (first, count.min(self.size - first))
    }

    /// A write, for setting a scene.
    pub fn write(&mut self, rng: &mut Rng) -> Wish {
        let (first, count) = self.range(rng);
        Wish::write(first, count, self.value(), false)
    }

    /// Any request.
    fn wish(&mut self, rng: &mut Rng) -> Wish {
        if self.churn && !rng.chance(1, 4) {
            return self.churn(rng);
        }
        let (first, count) = self.range(rng);
        let kind = rng.below(100);
        let fua = rng.chance(self.fua, 10);
        match kind {
            0..48 => {
                let value = if rng.chance(1, 10) { 0 } else { self.value() };
                let preflush = rng.chance(1, 12);
                let wish = Wish::write(first, count, value, fua);
                Wish { flags: Flags { preflush, ..wish.flags }, ..wish }
            }
            48..64 => Wish::plain(Operation::Read, first, count),
            64..75 => Wish::flush(),
            75..86 => Wish::plain(Operation::Discard, first, count),
            86..97 => {
                let no_unmap = rng.chance(1, 4);
                let fast_zero = rng.chance(1, 8);
                let flags = Flags { fua, no_unmap, fast_zero, ..Flags::default() };
                Wish { flags, ..Wish::plain(Operation::WriteZeroes, first, count) }
            }
            97 => Wish::plain(Operation::Extents, first, count),
            // A merge at work: all of a small device, so that it comes to its end.
            _ if self.size <= 64 * self.cluster => Wish::plain(Operation::Merge, 0, self.size),
            _ => Wish::plain(Operation::Merge, first, count),
        }
    }

    /// The next request, and its twin for another queue.
    pub fn wishes(&mut self, rng: &mut Rng) -> impl Iterator<Item = Wish> + use<> {
        let wish = self.wish(rng);
        [Some(wish), self.twin(wish, rng)].into_iter().flatten()
    }

    /// A write to the same cluster, for another queue at the same time.
    fn twin(&mut self, wish: Wish, rng: &mut Rng) -> Option<Wish> {
        let write = wish.operation == Operation::Write;
        if write && self.merges > 0 && rng.chance(1, self.merges) {
            let first = wish.first - wish.first % self.cluster;
            return Some(Wish::plain(Operation::Merge, first, self.cluster));
        }
        let write = write && self.twins > 0;
        if !write || !rng.chance(1, self.twins) {
            return None;
        }
        let start = wish.first - wish.first % self.cluster;
        let first = start + rng.below(self.cluster / self.block) * self.block;
        Some(Wish::write(first, self.block, self.value(), false))
    }

    fn churn(&mut self, rng: &mut Rng) -> Wish {
        let first = rng.pick(&self.hot).copied().unwrap_or(0) * self.cluster;
        match rng.below(10) {
            0..5 => {
                let (from, count) = if rng.chance(1, 2) { (0, self.cluster) } else { (8, 8) };
                Wish::write(first + from, count, self.value(), false)
            }
            5..8 => Wish::plain(Operation::Discard, first, self.cluster),
            8 => Wish::plain(Operation::Read, first, self.cluster),
            _ => Wish::flush(),
        }
    }

    /// The clusters whose every sector is compared after a crash: all of a small device, else the
    /// hot ones and their neighbours.
    #[must_use]
    pub fn scope(&self) -> Vec<u64> {
        let clusters = self.size / self.cluster;
        if clusters <= 64 {
            return (0..clusters).collect();
        }
        let mut scope: Vec<u64> = self
            .hot
            .iter()
            .flat_map(|c| [c.saturating_sub(1), *c, c + 1, c + 2, c + 3])
            .chain([0, clusters - 1])
            .filter(|c| *c < clusters)
            .collect();
        scope.sort_unstable();
        scope.dedup();
        scope
    }
}
