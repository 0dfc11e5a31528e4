//! A disk through any sequence of opens, requests, snapshots, closes and kills: the device against
//! a flat model, every snapshot against what the device held when it was taken.
//!
//! Real image code, real engine, simulated host. proptest makes and shrinks the sequences.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use ploop_engine::{Flags, Operation};
use ploop_format::Version;
use ploop_image::{OpenOptions, Snapshot, snapshot};
use ploop_io::sim::{Rng, SimWorld};
use ploop_sim::life::{Life, OpenError, Opening, open_options};
use ploop_sim::model::Model;
use ploop_sim::profile::Profile;
use ploop_sim::recover::{self, Subject};
use ploop_sim::scene;
use ploop_sim::stamp::{self, Found, SECTOR, Value};
use ploop_sim::traffic::{Traffic, Wish};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CLUSTERS: u64 = 9;
const CLUSTER: u64 = 64;
const SIZE: u64 = CLUSTERS * CLUSTER;

/// The disk as it is created.
#[derive(Clone, Copy, Debug)]
struct Shape {
    version: Version,
    raw: bool,
    queues: usize,
    seed: u64,
}

/// A request, its range cut to the device.
#[derive(Clone, Copy, Debug)]
struct Ask {
    operation: Operation,
    first: u64,
    count: u64,
    fua: bool,
}

/// One step; what cannot be done in the present state is made possible first.
#[derive(Clone, Debug)]
enum Step {
    /// Requests, all in flight together.
    Serve(Vec<Ask>),
    Flush,
    Close,
    Reopen,
    Snapshot,
    /// The process dies with these requests in flight; `land` of their operations still happen.
    Kill(Vec<Ask>, usize),
    /// Reads the disk as it was at one of the snapshots.
    LookBack(prop::sample::Index),
}

struct Machine {
    shape: Shape,
    world: SimWorld,
    life: Option<Life>,
    traffic: Traffic,
    model: Model,
    /// After a kill: opening, or taking a snapshot, still has to bring in what is on record.
    killed: bool,
    /// The image on top.
    top: PathBuf,
    /// Frozen images and what the device held.
    snapshots: Vec<(PathBuf, Vec<(u64, Value)>)>,
    lower: BTreeMap<PathBuf, u64>,
    rng: Rng,
    value: Value,
}

fn descriptor() -> &'static Path {
    Path::new(scene::DESCRIPTOR)
}

fn good<T>(result: Result<T, String>) -> T {
    result.unwrap_or_else(|what| panic!("{what}"))
}

impl Machine {
    fn new(shape: Shape) -> Self {
        let (version, raw) = (shape.version, shape.raw);
        let profile = Profile { version, raw, clusters: CLUSTERS, ..Profile::plain() };
        let world = SimWorld::new(shape.seed, profile.world.clone());
        good(scene::create_disk(&world, &profile));
        Self {
            shape,
            world,
            life: None,
            traffic: Traffic::default(),
            model: Model::new(),
            killed: false,
            top: Path::new(scene::HOME).join("root.hds"),
            snapshots: Vec::new(),
            lower: BTreeMap::new(),
            rng: Rng::new(shape.seed),
            value: 0,
        }
    }

    fn opening(&mut self) -> Opening {
        let (queues, seed) = (self.shape.queues, self.rng.next_u64());
        Opening { queues, depth: 6, metadata_delay_ms: 40, seed, direct: true }
    }

    /// Everything the device holds, read through an open device.
    fn found(&mut self, life: &mut Life) -> Vec<(u64, Value)> {
        let scope: Vec<u64> = (0..CLUSTERS).collect();
        let opening = self.opening();
        let subject = Subject { target: descriptor(), opening, scope: &scope, cluster: CLUSTER };
        // They come in the order of the answers.
        let mut found = good(recover::read_raw(life, &subject, &mut self.rng));
        found.sort_unstable();
        found
    }

    fn open(&mut self) {
        if self.life.is_some() {
            return;
        }
        let opening = self.opening();
        let opened = Life::open(&self.world, descriptor(), opening);
        let mut life = opened.unwrap_or_else(|error| panic!("does not open: {error}"));
        let found = self.found(&mut life);
        good(recover::compare(&self.model, &found));
        self.model.restart(&found);
        self.killed = false;
        self.life = Some(life);
    }

    fn give(&mut self, asks: &[Ask]) {
        let life = self.life.as_mut().unwrap();
        for ask in asks {
            self.value += 1;
            let value = if ask.operation == Operation::Write { self.value } else { 0 };
            let count = ask.count.min(SIZE - ask.first);
            let flags = Flags { fua: ask.fua, ..Flags::default() };
            let wish = Wish { flags, value, ..Wish::plain(ask.operation, ask.first, count) };
            let lane = self.rng.below(self.shape.queues as u64) as usize;
            self.traffic.give(life, lane, wish, self.world.now());
        }
    }

    fn drain(&mut self) {
        let life = self.life.as_mut().unwrap();
        good(recover::drain(life, &mut self.traffic, &mut self.model, &mut self.rng));
        assert_eq!(self.traffic.failed, 0, "a request failed");
    }

    fn close(&mut self) {
        let Some(life) = self.life.take() else { return };
        good(recover::close(life, &mut self.rng));
        self.model.closed();
        good(recover::nothing(&self.world, descriptor()));
    }

    fn kill(&mut self, asks: &[Ask], land: usize) {
        self.open();
        self.give(asks);
        for _ in 0..self.rng.below(8) {
            let life = self.life.as_mut().unwrap();
            life.turn(&mut self.rng);
            for lane in 0..self.shape.queues {
                good(self.traffic.settle(life, lane, &mut self.model));
            }
        }
        self.world.kill();
        // Engine, then buffers: the life may still point into them.
        self.life = None;
        self.traffic = Traffic::default();
        // I14: the host lives on, so everything answered is there.
        self.model.closed();
        self.model.abandon();
        if self.world.old_life() > 0 {
            let opening = self.opening();
            let early = Life::open(&self.world, descriptor(), opening);
            assert!(early.is_err_and(|error| recover::in_use(&error)), "I17");
            assert!(self.take_snapshot().is_err(), "I17");
        }
        self.world.deliver_old_life(land);
        self.world.drop_old_life();
        self.killed = true;
        good(recover::only_the_mark(&self.world, descriptor()));
    }

    fn take_snapshot(&self) -> Result<Snapshot, String> {
        let records: Arc<dyn ploop_io::Records> = Arc::new(self.world.records());
        let options = OpenOptions { records: Some(records), ..open_options(true) };
        let entropy = self.world.entropy(100 + self.snapshots.len() as u64);
        snapshot(&self.world.dir(), &entropy, descriptor(), None, &options)
            .map_err(|error| OpenError::Image(error).to_string())
    }

    fn snapshot(&mut self) {
        self.close();
        let taken = good(self.take_snapshot());
        let frozen = std::mem::replace(&mut self.top, taken.image);
        // After a kill only the frozen image tells which of the last writes came through.
        let found = self.read_frozen(&frozen);
        good(recover::compare(&self.model, &found));
        self.model.restart(&found);
        self.killed = false;
        self.snapshots.push((frozen, found));
        self.lower = good(scene::lower_images(&self.world));
        good(recover::nothing(&self.world, descriptor()));
    }

    fn is_raw(&self, image: &Path) -> bool {
        self.shape.raw && self.snapshots.first().is_none_or(|(base, _)| base == image)
    }

    fn read_frozen(&mut self, image: &Path) -> Vec<(u64, Value)> {
        if self.is_raw(image) {
            return read_raw(&self.world.read_file(image).unwrap());
        }
        let opening = self.opening();
        let opened = Life::open(&self.world, image, opening);
        let mut life = opened.unwrap_or_else(|error| panic!("{}: {error}", image.display()));
        assert!(life.device().limits().read_only, "{} is frozen", image.display());
        let found = self.found(&mut life);
        good(recover::close(life, &mut self.rng));
        found
    }

    fn look_back(&mut self, which: usize) {
        let (image, wanted) = self.snapshots[which].clone();
        // I6: beside the disk in use, and when it is closed.
        let found = self.read_frozen(&image);
        assert!(found == wanted, "the disk at {} is another", image.display());
        if self.life.is_some() {
            let opening = self.opening();
            let second = Life::open(&self.world, descriptor(), opening);
            assert!(second.is_err_and(|error| recover::in_use(&error)), "T6: one writer");
        }
        self.close();
        let found = self.read_frozen(&image);
        assert!(found == wanted, "the disk at {} is another now", image.display());
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Serve(asks) => {
                self.open();
                self.give(asks);
                self.drain();
            }
            Step::Flush => {
                self.open();
                let life = self.life.as_mut().unwrap();
                self.traffic.give(life, 0, Wish::flush(), self.world.now());
                self.drain();
            }
            Step::Close => self.close(),
            Step::Reopen => {
                self.close();
                self.open();
            }
            Step::Snapshot => self.snapshot(),
            Step::Kill(asks, land) => self.kill(asks, *land),
            Step::LookBack(which) if !self.snapshots.is_empty() => {
                self.look_back(which.index(self.snapshots.len()));
            }
            Step::LookBack(_) => {}
        }
        let lower = good(scene::lower_images(&self.world));
        assert!(lower == self.lower, "I6: a lower image changed");
        good(recover::no_misuse(&self.world));
    }

    /// Everything again, in the end.
    fn finish(mut self) {
        self.close();
        self.open();
        for which in 0..self.snapshots.len() {
            self.look_back(which);
        }
        self.close();
        let lower = good(scene::lower_images(&self.world));
        assert!(lower == self.lower, "I6: a lower image changed");
        good(recover::no_misuse(&self.world));
    }
}

/// A raw base: nobody opens it by its name, as its content does not say what it is.
fn read_raw(bytes: &[u8]) -> Vec<(u64, Value)> {
    assert_eq!(bytes.len() as u64, SIZE * SECTOR as u64);
    let sectors = bytes.chunks_exact(SECTOR).zip(0..);
    let values = sectors.map(|(bytes, sector)| match stamp::parse(bytes, sector) {
        Found::Value(value) => (sector, value),
        other => panic!("sector {sector} of the base holds {other:?}"),
    });
    values.collect()
}

fn shape() -> impl Strategy<Value = Shape> {
    let version = prop_oneof![Just(Version::V1), Just(Version::V2)];
    (version, prop::bool::weighted(0.2), 1..3usize, any::<u64>()).prop_map(
        |(version, raw, queues, seed)| Shape {
            // What grows on a raw base is of version 2.
            version: if raw { Version::V2 } else { version },
            raw,
            queues,
            seed,
        },
    )
}

fn ask() -> impl Strategy<Value = Ask> {
    let operation = prop_oneof![
        6 => Just(Operation::Write),
        2 => Just(Operation::Discard),
        2 => Just(Operation::WriteZeroes),
        1 => Just(Operation::Read),
    ];
    let range = prop_oneof![
        2 => (0..CLUSTERS).prop_map(|cluster| (cluster * CLUSTER, CLUSTER)),
        2 => (0..SIZE, 1..20u64),
        1 => (0..SIZE, 1..150u64),
    ];
    (operation, range, prop::bool::weighted(0.2)).prop_map(|(operation, (first, count), fua)| {
        let fua = fua && operation != Operation::Read;
        Ask { operation, first, count, fua }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(ask(), 1..5).prop_map(Step::Serve),
        2 => Just(Step::Flush),
        2 => Just(Step::Close),
        2 => Just(Step::Reopen),
        3 => Just(Step::Snapshot),
        3 => (prop::collection::vec(ask(), 0..5), 0..6usize)
            .prop_map(|(asks, land)| Step::Kill(asks, land)),
        2 => any::<prop::sample::Index>().prop_map(Step::LookBack),
    ]
}

/// `PROPTEST_CASES=N` for more.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").map_or(64, |text| text.parse().unwrap());
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn device_and_snapshots_are_as_the_model_says(
        shape in shape(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut machine = Machine::new(shape);
        for step in &steps {
            machine.step(step);
        }
        machine.finish();
    }
}
