//! What a run does: sizes, rates, and which faults.

use ploop_format::{ClusterSize, Version};
use ploop_io::sim::{Rates, Rng, SimOptions};

/// The shape of a run.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name, for replays.
    pub name: String,
    /// Format of the images.
    pub version: Version,
    /// Deltas of the chain, 1 or more.
    pub levels: usize,
    /// The base is a plain file.
    pub raw: bool,
    /// Clusters of the device.
    pub clusters: u64,
    /// Clusters the workload goes to.
    pub hot: usize,
    /// Queues.
    pub queues: usize,
    /// Requests in flight per queue.
    pub depth: usize,
    /// Opens of the device.
    pub rounds: usize,
    /// Requests per open.
    pub requests: usize,
    /// Write-back delay of the engine.
    pub metadata_delay_ms: u64,
    /// Faults of ring operations while requests are served.
    pub rates: Rates,
    /// Free space beyond what the images take at the start of a round, in clusters.
    pub space: Option<u64>,
    /// One of so many operations of the disk is looked at as a crash point.
    pub crash_every: u64,
    /// Crash plans tried at such a point.
    pub plans: usize,
    /// All subsets are tried where at most so many changes are at stake.
    pub exhaustive: usize,
    /// So many of ten changes are FUA.
    pub fua: u64,
    /// The workload uses clusters again and again.
    pub churn: bool,
    /// Operations on the closed disk between the rounds.
    pub layers: bool,
    /// How many of them, between two rounds.
    pub operations: usize,
    /// A round may end with a kill.
    pub kill: bool,
    /// How operations are ordered.
    pub world: SimOptions,
}

/// The names of the fixed profiles.
pub const NAMES: [&str; 11] = [
    "swarm",
    "crash",
    "fault",
    "layers",
    "operations",
    "plain",
    "chain",
    "faults",
    "syncfail",
    "nospace",
    "kill",
];

/// Words of a record: small, so that an open is quick.
const RECORD_WORDS: usize = 600;

/// 32 KiB: the smallest there is.
#[must_use]
pub fn cluster() -> ClusterSize {
    ClusterSize::from_sectors(ClusterSize::MIN_SECTORS).unwrap_or_else(|| unreachable!())
}

impl Profile {
    /// One delta, no faults but crashes.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            name: "plain".into(),
            version: Version::V2,
            levels: 1,
            raw: false,
            clusters: 24,
            hot: 6,
            queues: 2,
            depth: 8,
            rounds: 4,
            requests: 60,
            metadata_delay_ms: 5,
            rates: Rates::default(),
            space: None,
            crash_every: 1,
            plans: 2,
            exhaustive: 1,
            layers: false,
            operations: 1,
            churn: false,
            fua: 2,
            kill: false,
            world: SimOptions { record_words: RECORD_WORDS, ..SimOptions::default() },
        }
    }

    /// By name; `None` when there is none of it.
    #[must_use]
    pub fn named(name: &str, seed: u64) -> Option<Self> {
        let plain = Self { name: name.into(), ..Self::plain() };
        let rates = Rates::default();
        Some(match name {
            "plain" => plain,
            "swarm" => Self::swarm(seed),
            "crash" => Self {
                name: name.into(),
                rates,
                space: None,
                kill: false,
                clusters: 8 + seed % 5,
                crash_every: 1,
                plans: 12,
                exhaustive: 4,
                requests: 40,
                ..Self::swarm(seed)
            },
            "fault" => {
                let some = 65536 / 40;
                let rates = Rates {
                    read_error: some,
                    write_error: some,
                    zero_error: some,
                    short: some,
                    no_space: some / 2,
                    sync_error: if seed.is_multiple_of(4) { some } else { 0 },
                    ..rates
                };
                Self { name: name.into(), rates, kill: true, ..Self::swarm(seed) }
            }
            "layers" => Self { name: name.into(), layers: true, rounds: 6, ..Self::swarm(seed) },
            // Little traffic, and what follows it looked at closely.
            "operations" => Self {
                name: name.into(),
                layers: true,
                operations: 4,
                requests: 12,
                crash_every: 1000,
                clusters: 8 + seed % 9,
                space: None,
                rates: Rates::default(),
                ..Self::swarm(seed)
            },
            "chain" => Self { levels: 3, ..plain },
            "faults" => {
                let some = 65536 / 40;
                let rates = Rates {
                    read_error: some,
                    write_error: some,
                    zero_error: some,
                    short: some,
                    ..rates
                };
                Self { levels: 2, rates, ..plain }
            }
            "syncfail" => {
                Self { levels: 2, rates: Rates { sync_error: 65536 / 15, ..rates }, ..plain }
            }
            "nospace" => Self {
                levels: 2,
                space: Some(5),
                rates: Rates { no_space: 65536 / 40, ..rates },
                ..plain
            },
            "kill" => Self { levels: 2, kill: true, ..plain },
            _ => return None,
        })
    }

    /// Changes one field, as a shrunk failure names it. `false` when there is no such field.
    pub fn set(&mut self, field: &str, value: u64) -> bool {
        let count = value as usize;
        match field {
            "levels" => self.levels = count,
            "clusters" => self.clusters = value,
            "hot" => self.hot = count,
            "queues" => self.queues = count,
            "depth" => self.depth = count,
            "rounds" => self.rounds = count,
            "requests" => self.requests = count,
            "crash_every" => self.crash_every = value,
            "plans" => self.plans = count,
            "exhaustive" => self.exhaustive = count,
            "raw" => self.raw = value != 0,
            "kill" => self.kill = value != 0,
            "fua" => self.fua = value,
            "churn" => self.churn = value != 0,
            "layers" => self.layers = value != 0,
            "operations" => self.operations = count,
            "reorder" => self.world.reorder = value != 0,
            "straggler" => self.world.straggler = value,
            "space" => self.space = (value != 0).then_some(value),
            "read_error" => self.rates.read_error = value as u32,
            "write_error" => self.rates.write_error = value as u32,
            "zero_error" => self.rates.zero_error = value as u32,
            "sync_error" => self.rates.sync_error = value as u32,
            "no_space" => self.rates.no_space = value as u32,
            "short" => self.rates.short = value as u32,
            _ => return false,
        }
        true
    }

    /// The present value of a field that [`Profile::set`] changes.
    #[must_use]
    pub fn get(&self, field: &str) -> u64 {
        match field {
            "levels" => self.levels as u64,
            "clusters" => self.clusters,
            "hot" => self.hot as u64,
            "queues" => self.queues as u64,
            "depth" => self.depth as u64,
            "rounds" => self.rounds as u64,
            "requests" => self.requests as u64,
            "crash_every" => self.crash_every,
            "plans" => self.plans as u64,
            "exhaustive" => self.exhaustive as u64,
            "raw" => u64::from(self.raw),
            "kill" => u64::from(self.kill),
            "fua" => self.fua,
            "churn" => u64::from(self.churn),
            "layers" => u64::from(self.layers),
            "operations" => self.operations as u64,
            "reorder" => u64::from(self.world.reorder),
            "straggler" => self.world.straggler,
            "space" => self.space.unwrap_or(0),
            "read_error" => u64::from(self.rates.read_error),
            "write_error" => u64::from(self.rates.write_error),
            "zero_error" => u64::from(self.rates.zero_error),
            "sync_error" => u64::from(self.rates.sync_error),
            "no_space" => u64::from(self.rates.no_space),
            "short" => u64::from(self.rates.short),
            _ => 0,
        }
    }

    /// A different mix for each seed.
    #[must_use]
    pub fn swarm(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x0005_7A12);
        let rate = |rng: &mut Rng| {
            if rng.chance(1, 3) { 65536 / rng.between(4, 60) as u32 } else { 0 }
        };
        let rates = Rates {
            read_error: rate(&mut rng),
            write_error: rate(&mut rng),
            no_space: rate(&mut rng),
            sync_error: rate(&mut rng) / 2,
            zero_error: rate(&mut rng),
            short: rate(&mut rng),
            blocking: false,
        };
        let mut world = SimOptions { reorder: !rng.chance(1, 8), ..SimOptions::default() };
        world.caps.punch = !rng.chance(1, 10);
        world.caps.zero_range = !rng.chance(1, 5);
        world.caps.reserve = !rng.chance(1, 5);
        world.caps.direct = !rng.chance(1, 4);
        let words = [0, 17, 20, 30, RECORD_WORDS, RECORD_WORDS, RECORD_WORDS, RECORD_WORDS];
        world.record_words = *rng.pick(&words).unwrap_or(&RECORD_WORDS);
        world.straggler = *rng.pick(&[0, 0, 20, 100]).unwrap_or(&0);
        world.delay_max = *rng.pick(&[2_000, 200_000, 20_000_000]).unwrap_or(&200_000);
        let big = rng.chance(1, 8);
        let churn = rng.chance(1, 4);
        if churn {
            // I11: a slow I/O on a freed cluster, and everybody else goes on.
            world.reorder = true;
            world.straggler = *rng.pick(&[10, 20, 50]).unwrap_or(&20);
            world.delay_max = *rng.pick(&[20_000, 200_000]).unwrap_or(&200_000);
        }
        Self {
            name: "swarm".into(),
            version: if rng.chance(1, 4) { Version::V1 } else { Version::V2 },
            levels: rng.between(1, 4) as usize,
            raw: rng.chance(1, 5),
            clusters: if big { 1100 } else { rng.between(8, 40) },
            hot: rng.between(2, 10) as usize,
            queues: rng.between(1, 3) as usize,
            depth: rng.between(1, 16) as usize,
            rounds: 4,
            requests: rng.between(10, 120) as usize,
            metadata_delay_ms: *rng.pick(&[0, 1, 5, 250]).unwrap_or(&5),
            rates: if rng.chance(1, 2) { rates } else { Rates::default() },
            space: (churn || rng.chance(1, 6)).then(|| rng.between(2, 12)),
            crash_every: *rng.pick(&[1, 1, 2, 7]).unwrap_or(&1),
            plans: rng.between(1, 4) as usize,
            exhaustive: rng.between(1, 2) as usize,
            layers: rng.chance(1, 2),
            operations: 1,
            churn,
            fua: *rng.pick(&[2, 2, 8]).unwrap_or(&2),
            kill: rng.chance(1, 2),
            world,
        }
    }
}
