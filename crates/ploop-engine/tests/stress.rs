//! Contention: many clients on many queues work on the same clusters and the same BAT pages, over a
//! chain of three, with clusters freed and given to others all the time. Every sector is stamped,
//! so that a lost, torn, old or foreign one shows.
//!
//! Three seconds by default; `PLOOP_STRESS_SECONDS` makes it minutes (`cargo xtask full` does).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod common;

use common::*;
use ploop_engine::*;
use ploop_io::EngineChoice;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLUSTER: u64 = 32 << 10;
const SECTOR: u64 = 512;
const QUEUES: usize = 4;
const CLIENTS: u64 = 16;
/// Clusters in which each client has some sectors.
const SHARED: u64 = 24;
/// Clusters that belong to one client.
const OWN: u64 = 12;
/// Sectors of a client in a shared cluster.
const STRIPE: u64 = CLUSTER / SECTOR / CLIENTS;

/// What a sector holds: whose it is, which write, and where. 0 = zeros.
fn stamp(client: u64, count: u64, sector: u64) -> [u8; SECTOR as usize] {
    let mut bytes = [0; SECTOR as usize];
    if count > 0 {
        for word in bytes.chunks_exact_mut(24) {
            word[..8].copy_from_slice(&client.to_le_bytes());
            word[8..16].copy_from_slice(&count.to_le_bytes());
            word[16..].copy_from_slice(&sector.to_le_bytes());
        }
    }
    bytes
}

/// One client: it alone writes its sectors, and knows what they hold.
struct Client<'a> {
    rig: &'a Rig,
    me: u64,
    rng: Rng,
    count: u64,
    /// By sector of the device; only its own are used.
    held: Vec<u64>,
}

impl Client<'_> {
    fn queue(&mut self) -> usize {
        self.rng.below(QUEUES as u64) as usize
    }

    /// A range of its own sectors: first, number.
    fn place(&mut self, whole: bool) -> (u64, u64) {
        let per = CLUSTER / SECTOR;
        let own = SHARED + self.me * OWN + self.rng.below(OWN);
        if whole {
            return (own * per, per);
        }
        if self.rng.below(2) == 0 {
            let first = self.rng.below(SHARED) * per + self.me * STRIPE;
            let skip = self.rng.below(STRIPE);
            return (first + skip, 1 + self.rng.below(STRIPE - skip));
        }
        let skip = self.rng.below(per);
        (own * per + skip, 1 + self.rng.below(per - skip))
    }

    fn step(&mut self) {
        let flags = Flags { fua: self.rng.below(16) == 0, ..Flags::default() };
        let queue = self.queue();
        match self.rng.below(100) {
            0..45 => {
                let (first, number) = self.place(false);
                self.count += 1;
                let bytes: Vec<u8> =
                    (first..first + number).flat_map(|s| stamp(self.me, self.count, s)).collect();
                self.rig.write(queue, first * SECTOR, &bytes, flags).unwrap();
                self.set(first, number, self.count);
            }
            45..75 => self.check(false),
            75..85 => {
                let (first, number) = self.place(true);
                let (at, len) = (first * SECTOR, number * SECTOR);
                self.rig.plain(queue, Operation::Discard, at, len, flags).unwrap();
                self.learn(first, number);
            }
            85..96 => {
                let whole = self.rng.below(2) == 0;
                let (first, number) = self.place(whole);
                let (at, len) = (first * SECTOR, number * SECTOR);
                self.rig.plain(queue, Operation::WriteZeroes, at, len, flags).unwrap();
                self.set(first, number, 0);
            }
            _ => {
                let none = Flags::default();
                self.rig.plain(queue, Operation::Flush, 0, 0, none).unwrap();
            }
        }
    }

    fn set(&mut self, first: u64, number: u64, count: u64) {
        self.held[first as usize..(first + number) as usize].fill(count);
    }

    fn check(&mut self, whole: bool) {
        let (first, number) = self.place(whole);
        let queue = self.queue();
        let got = self.rig.read(queue, first * SECTOR, (number * SECTOR) as usize).unwrap();
        for (sector, bytes) in (first..).zip(got.chunks(SECTOR as usize)) {
            let want = stamp(self.me, self.held[sector as usize], sector);
            assert!(bytes == want, "{}", self.complaint(sector, bytes));
        }
    }

    /// After a discard: old or zero, fixed from now on.
    fn learn(&mut self, first: u64, number: u64) {
        let queue = self.queue();
        let got = self.rig.read(queue, first * SECTOR, (number * SECTOR) as usize).unwrap();
        for (sector, bytes) in (first..).zip(got.chunks(SECTOR as usize)) {
            let held = &mut self.held[sector as usize];
            if bytes == [0; SECTOR as usize] {
                *held = 0;
            }
            let want = stamp(self.me, *held, sector);
            assert!(bytes == want, "{}", self.complaint(sector, bytes));
        }
    }

    fn complaint(&self, sector: u64, bytes: &[u8]) -> String {
        let word = |n: usize| u64::from_le_bytes(bytes[n * 8..n * 8 + 8].try_into().unwrap());
        format!(
            "client {} wrote {} to sector {sector}; it holds client {} write {} of sector {}",
            self.me,
            self.held[sector as usize],
            word(0),
            word(1),
            word(2)
        )
    }
}

/// Three levels: the lower ones hold stamp 1 of every client in some clusters.
fn chain(dir: &std::path::Path, g: Geometry) -> (Vec<PathBuf>, Vec<u64>) {
    let per = CLUSTER / SECTOR;
    let mut held = vec![0; (g.entries() * per) as usize];
    let mut rng = Rng(77);
    let mut paths = Vec::new();
    for level in 0..3 {
        let mut content = Vec::new();
        for cluster in (0..g.entries()).filter(|_| level < 2) {
            if rng.below(2) == 0 {
                continue;
            }
            let mut bytes = Vec::new();
            for sector in cluster * per..(cluster + 1) * per {
                let inside = sector % per;
                let shared = cluster < SHARED;
                let client = if shared { inside / STRIPE } else { (cluster - SHARED) / OWN };
                bytes.extend_from_slice(&stamp(client, 1, sector));
                held[sector as usize] = 1;
            }
            content.push((cluster, bytes));
        }
        let path = dir.join(format!("level{level}"));
        make_image(&path, g, &content);
        paths.push(path);
    }
    (paths, held)
}

#[test]
fn clients_on_all_queues_share_clusters_and_space() {
    let seconds = std::env::var("PLOOP_STRESS_SECONDS").map_or(3, |text| text.parse().unwrap());
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let g = Geometry::new(64, (SHARED + CLIENTS * OWN) * CLUSTER);
    let (paths, held) = chain(dir.path(), g);
    let options = DeviceOptions {
        queues: QUEUES,
        depth: 32,
        metadata_delay_ms: 5,
        ..DeviceOptions::default()
    };
    let rig = Rig::start(spec(g, &paths, false), options, EngineChoice::Auto);
    let until = Instant::now() + Duration::from_secs(seconds);
    let steps = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for me in 0..CLIENTS {
            let (rig, held, steps) = (&rig, held.clone(), &steps);
            scope.spawn(move || {
                let mut client = Client { rig, me, rng: Rng(me * 2 + 1), count: 1, held };
                while Instant::now() < until {
                    client.step();
                    steps.fetch_add(1, Ordering::Relaxed);
                }
                (0..200).for_each(|n| client.check(n % 2 == 0));
            });
        }
    });
    let stats = rig.device.keeper_stats();
    println!(
        "{} operations in {seconds} s: {} clusters allocated, {} copied up, {} unmapped",
        steps.load(Ordering::Relaxed),
        stats.allocated.get(),
        stats.copied_up.get(),
        stats.unmapped.get()
    );
    let report = rig.stop();
    assert!(report.clean, "{report:?}");
    scan(paths.last().unwrap(), g);
}
