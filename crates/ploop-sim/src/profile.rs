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
    /// Pieces that the disk is split into; 1: it is not.
    pub pieces: usize,
    /// The base is another disk's, in that one's directory, and carries a mark of somebody's.
    pub shared: bool,
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
    /// One of so many writes goes to two queues at once, each with its own content; 0: none.
    pub twins: u64,
    /// One of so many writes meets a merge that copies its cluster up, and the layer operations
    /// are those of a merge; 0: none.
    pub merges: u64,
    /// The workload uses clusters again and again.
    pub churn: bool,
    /// Operations on the closed disk between the rounds.
    pub layers: bool,
    /// How many of them, between two rounds.
    pub operations: usize,
    /// One of so many turns has one in the middle of traffic.
    pub live: u64,
    /// One of so many of them meets a directory that takes no new names; 0: none.
    pub stuck: u64,
    /// A round may end with a kill.
    pub kill: bool,
    /// How operations are ordered.
    pub world: SimOptions,
}

/// The names of the fixed profiles.
pub const NAMES: [&str; 16] = [
    "swarm",
    "crash",
    "fault",
    "layers",
    "operations",
    "exchange",
    "merge",
    "down",
    "race",
    "split",
    "plain",
    "chain",
    "faults",
    "syncfail",
    "nospace",
    "kill",
];

/// How densely a swarm's runs are looked at: mostly thinly, for the next seed finds more than the
/// next operation of this one.
const CRASH_EVERY: [u64; 12] = [1, 2, 7, 20, 20, 20, 20, 20, 20, 60, 60, 60];

/// Words of a record: small, so that an open is quick.
const RECORD_WORDS: usize = 600;

/// 32 KiB: the smallest there is.
#[must_use]
pub fn cluster() -> ClusterSize {
    ClusterSize::from_sectors(ClusterSize::MIN_SECTORS).unwrap_or_else(|| unreachable!())
}

/// A field's name, and how it is read and written as a number.
type Field = (&'static str, fn(&Profile) -> u64, fn(&mut Profile, u64));

macro_rules! field {
    ($name:ident: bool $($at:ident)*) => {
        (stringify!($name), |p| u64::from(p.$($at.)*$name), |p, v| p.$($at.)*$name = v != 0)
    };
    ($name:ident: $kind:ident $($at:ident)*) => {
        (stringify!($name), |p| p.$($at.)*$name as u64, |p, v| p.$($at.)*$name = v as $kind)
    };
}

/// Everything a profile is made of.
const FIELDS: &[Field] = &[
    (
        "version",
        |p| if p.version == Version::V1 { 1 } else { 2 },
        |p, v| p.version = if v == 1 { Version::V1 } else { Version::V2 },
    ),
    ("space", |p| p.space.unwrap_or(0), |p, v| p.space = (v != 0).then_some(v)),
    field!(levels: usize),
    field!(raw: bool),
    field!(pieces: usize),
    field!(shared: bool),
    field!(clusters: u64),
    field!(hot: usize),
    field!(queues: usize),
    field!(depth: usize),
    field!(rounds: usize),
    field!(requests: usize),
    field!(metadata_delay_ms: u64),
    field!(crash_every: u64),
    field!(plans: usize),
    field!(exhaustive: usize),
    field!(fua: u64),
    field!(twins: u64),
    field!(merges: u64),
    field!(churn: bool),
    field!(layers: bool),
    field!(operations: usize),
    field!(live: u64),
    field!(stuck: u64),
    field!(kill: bool),
    field!(reorder: bool world),
    field!(straggler: u64 world),
    field!(delay_min: u64 world),
    field!(delay_max: u64 world),
    field!(record_words: usize world),
    field!(poison_reads: bool world),
    field!(direct: bool world caps),
    field!(mem_align: u32 world caps),
    field!(offset_align: u32 world caps),
    field!(block: u32 world caps),
    field!(punch: bool world caps),
    field!(zero_range: bool world caps),
    field!(reserve: bool world caps),
    field!(read_error: u32 rates),
    field!(write_error: u32 rates),
    field!(zero_error: u32 rates),
    field!(sync_error: u32 rates),
    field!(no_space: u32 rates),
    field!(quota: u32 rates),
    field!(too_big: u32 rates),
    field!(short: u32 rates),
    field!(realign: u32 rates),
];

impl Profile {
    /// One delta, no faults but crashes.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            name: "plain".into(),
            version: Version::V2,
            levels: 1,
            raw: false,
            pieces: 1,
            shared: false,
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
            live: 200,
            stuck: 0,
            twins: 0,
            merges: 0,
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
            "fault" => Self::fault(seed),
            "layers" => {
                let swarm = Self::swarm(seed);
                Self { name: name.into(), layers: true, live: 200, rounds: 6, ..swarm }
            }
            "operations" => Self::operations(seed),
            "exchange" => Self::exchange(seed),
            "merge" => Self::merge(seed),
            "down" => Self::down(seed),
            "race" => Self::race(seed),
            "split" => Self::split(seed),
            "chain" => Self { levels: 3, ..plain },
            "faults" => {
                let some = 65536 / 40;
                let rates = Rates { read_error: some, write_error: some, ..rates };
                let rates = Rates { zero_error: some, short: some, ..rates };
                Self { levels: 2, rates, ..plain }
            }
            "syncfail" => {
                Self { levels: 2, rates: Rates { sync_error: 65536 / 15, ..rates }, ..plain }
            }
            "nospace" => Self {
                levels: 2,
                space: Some(5),
                rates: Rates {
                    no_space: 65536 / 40,
                    quota: 65536 / 80,
                    too_big: 65536 / 80,
                    ..rates
                },
                ..plain
            },
            "kill" => Self { levels: 2, kill: true, ..plain },
            _ => return None,
        })
    }

    /// Changes one field, as a kept failure names it. `false` when there is no such field.
    pub fn set(&mut self, field: &str, value: u64) -> bool {
        match FIELDS.iter().find(|(name, ..)| *name == field) {
            Some((_, _, set)) => {
                set(self, value);
                true
            }
            None => false,
        }
    }

    /// The present value of a field; 0 when there is no such field.
    #[must_use]
    pub fn get(&self, field: &str) -> u64 {
        FIELDS.iter().find(|(name, ..)| *name == field).map_or(0, |(_, get, _)| get(self))
    }

    /// All fields with their values: a profile that is written down whole stays what it is when the
    /// mix of its name changes.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, u64)> {
        FIELDS.iter().map(|(name, get, _)| (*name, get(self))).collect()
    }

    /// A different mix for each seed.
    #[must_use]
    pub fn swarm(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x0005_7A12);
        let rate = |rng: &mut Rng| {
            if rng.chance(1, 3) { 65536 / rng.between(4, 60) as u32 } else { 0 }
        };
        let mut rates = Rates {
            read_error: rate(&mut rng),
            write_error: rate(&mut rng),
            no_space: rate(&mut rng),
            quota: 0,
            too_big: 0,
            sync_error: rate(&mut rng) / 2,
            zero_error: rate(&mut rng),
            short: rate(&mut rng),
            realign: 0,
            blocking: false,
        };
        if rng.chance(1, 4) {
            // Nothing else fails the device before a sync does.
            rates = Rates { sync_error: 65536 / rng.between(10, 60) as u32, ..Rates::default() };
        }
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
            crash_every: *rng.pick(&CRASH_EVERY).unwrap_or(&20),
            plans: rng.between(1, 4) as usize,
            exhaustive: rng.between(1, 2) as usize,
            layers: rng.chance(1, 4),
            operations: 1,
            live: 400,
            stuck: 4,
            churn,
            fua: *rng.pick(&[2, 2, 8]).unwrap_or(&2),
            kill: rng.chance(1, 2),
            world,
            ..Self::plain()
        }
        .with_twins(&mut rng)
        .with_alignment(&mut rng)
    }

    /// Operations that fail, alignments that rise, and a server that is killed.
    fn fault(seed: u64) -> Self {
        let some = 65536 / 40;
        let rates = Rates {
            read_error: some,
            write_error: some,
            zero_error: some,
            short: some,
            no_space: some / 2,
            quota: some / 4,
            too_big: some / 4,
            sync_error: if seed.is_multiple_of(4) { some } else { 0 },
            realign: some / 4,
            ..Rates::default()
        };
        let swarm = Self::swarm(seed);
        // A lone queue rewrites parts of blocks by itself, of several the keeper does it (F19).
        let queues = if seed.is_multiple_of(2) { 1 } else { swarm.queues.max(2) };
        Self { name: "fault".into(), rates, kill: true, queues, ..swarm }
    }

    /// Little traffic, and what follows it looked at closely.
    fn operations(seed: u64) -> Self {
        let swarm = Self::swarm(seed);
        let shared = seed % 4 == 3 && !swarm.raw;
        Self {
            name: "operations".into(),
            layers: true,
            shared,
            levels: swarm.levels.max(if shared { 2 } else { 1 }),
            operations: 4,
            live: 20,
            stuck: 3,
            requests: 12,
            crash_every: 1000,
            clusters: 8 + seed % 9,
            space: None,
            // Hardly any of the disk's operations fail, but some of the calls.
            rates: Rates { short: u32::from(seed.is_multiple_of(2)), ..Rates::default() },
            ..swarm
        }
    }

    /// Layer operations in the middle of traffic whose calls fail, and a crash soon after each.
    fn exchange(seed: u64) -> Self {
        Self {
            name: "exchange".into(),
            shared: false,
            levels: 1 + seed as usize % 3,
            rounds: 2,
            operations: 1,
            live: 5,
            requests: 20,
            crash_every: 30,
            plans: 2,
            // The files and the device are in order, so that what fails is the operation.
            rates: Rates { short: 1, ..Rates::default() },
            ..Self::operations(seed)
        }
    }

    /// A merge beside traffic.
    fn merge(seed: u64) -> Self {
        let swarm = Self::swarm(seed);
        let raw = seed.is_multiple_of(3);
        let levels = if raw { 2 } else { swarm.levels.max(2) };
        // A lone queue rewrites parts of blocks by itself, of several the keeper does it (F19).
        let queues = if seed % 4 == 1 { 1 } else { swarm.queues.max(2) };
        let mut world = SimOptions { reorder: true, straggler: 20, ..swarm.world };
        world.delay_max = 200_000;
        Self {
            name: "merge".into(),
            layers: true,
            live: 60,
            merges: 2,
            levels,
            queues,
            raw,
            churn: false,
            clusters: 8 + seed % 9,
            space: None,
            crash_every: swarm.crash_every.max(20),
            world,
            ..swarm
        }
    }

    /// A merge beside traffic that goes down into a raw base, and a server that is killed.
    fn down(seed: u64) -> Self {
        let merge = Self::merge(seed);
        Self { name: "down".into(), raw: true, levels: 2, kill: true, ..merge }
    }

    /// Writes of two queues to one hole at once, and I/O that takes its time.
    fn race(seed: u64) -> Self {
        let swarm = Self::swarm(seed);
        let mut world = SimOptions { reorder: true, straggler: 10, ..swarm.world };
        world.delay_max = 200_000;
        Self {
            name: "race".into(),
            queues: swarm.queues.max(2),
            levels: 1 + seed as usize % 2,
            clusters: 8 + seed % 33,
            twins: 1,
            layers: false,
            crash_every: swarm.crash_every.max(20),
            world,
            ..swarm
        }
    }

    /// A disk in pieces: requests across their borders, kills, and operations on its layers.
    fn split(seed: u64) -> Self {
        let swarm = Self::swarm(seed);
        let pieces = 2 + (seed % 3) as usize;
        // Now and then the first page of a piece's block table ends inside the piece.
        let big = seed % 16 == 7;
        let clusters = if big { 1030 * pieces as u64 } else { 3 * pieces as u64 + seed % 9 };
        Self {
            name: "split".into(),
            pieces,
            clusters,
            hot: swarm.hot.max(4),
            levels: swarm.levels.min(3),
            layers: true,
            kill: true,
            live: 60,
            operations: 2,
            requests: swarm.requests.min(40),
            crash_every: swarm.crash_every.max(20),
            // An operation works on the files of every piece: there are points enough.
            plans: 1,
            exhaustive: 1,
            ..swarm
        }
    }

    /// Some runs are on 4096-byte storage, and in some a copy of the images makes it so (F19).
    fn with_alignment(mut self, rng: &mut Rng) -> Self {
        match rng.below(6) {
            0 => self.world.caps.offset_align = 4096,
            1 | 2 => self.rates.realign = 65536 / rng.between(20, 400) as u32,
            _ => {}
        }
        self
    }

    /// Some runs have writes that race for a hole.
    fn with_twins(mut self, rng: &mut Rng) -> Self {
        // No space, whoever says so.
        let rates = &mut self.rates;
        (rates.quota, rates.too_big) = (rates.no_space / 2, rates.no_space / 4);
        if rng.chance(1, 3) {
            self.twins = rng.between(1, 4);
            self.queues = self.queues.max(2);
        }
        self
    }
}
