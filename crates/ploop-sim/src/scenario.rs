//! A history told by a test: requests one by one, operations held and let go, crashes between.
//!
//! Every method panics when a rule is broken: this is for tests.

#![allow(clippy::panic, reason = "for tests: a broken rule ends the test")]

use crate::life::{Life, Opening, Turn};
use crate::model::Model;
use crate::profile::{Profile, cluster};
use crate::recover::{self, Mark, Subject};
use crate::scene;
use crate::traffic::{Traffic, Wish};
use ploop_engine::{Flags, Operation, Outcome};
use ploop_io::sim::{Attempt, Rng, SimWorld, SurvivorPlan, Verdict};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Sectors of a cluster.
pub const CLUSTER: u64 = 64;

/// A disk, an open device, and the model that watches it.
pub struct Scenario {
    /// The host.
    pub world: SimWorld,
    /// What the device may hold.
    pub model: Model,
    /// The open device.
    pub life: Option<Life>,
    /// Its requests.
    pub traffic: Traffic,
    profile: Profile,
    rng: Rng,
    scope: Vec<u64>,
    next_value: u64,
}

/// Whether an operation is a write of a page of the block table.
#[must_use]
pub fn is_page(attempt: &Attempt) -> bool {
    use ploop_io::OpKind::{Write, WriteDsync};
    matches!(attempt.kind, Write | WriteDsync)
        && !attempt.blocking
        && attempt.offset < cluster().bytes()
}

/// Whether an operation is a sync on a ring.
#[must_use]
pub fn is_sync(attempt: &Attempt) -> bool {
    use ploop_io::OpKind::{Datasync, Sync};
    matches!(attempt.kind, Sync | Datasync) && !attempt.blocking
}

impl Scenario {
    /// A fresh disk of one level, not open.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with(seed, Profile { clusters: 12, metadata_delay_ms: 1000, ..Profile::plain() })
    }

    /// A fresh disk of a profile.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn with(seed: u64, profile: Profile) -> Self {
        let world = SimWorld::new(seed, profile.world.clone());
        good(scene::create_disk(&world, &profile));
        let scope = (0..profile.clusters.min(64)).collect();
        let (model, traffic, rng) = (Model::new(), Traffic::default(), Rng::new(seed));
        Self { world, model, life: None, traffic, profile, rng, scope, next_value: 0 }
    }

    /// Closes the device cleanly and puts an empty level on the disk.
    ///
    /// # Panics
    /// It does not close.
    pub fn add_level(&mut self, number: u64) {
        self.close();
        good(scene::add_level(&self.world, number));
    }

    fn opening(&mut self) -> Opening {
        Opening {
            queues: self.profile.queues,
            depth: self.profile.depth,
            metadata_delay_ms: self.profile.metadata_delay_ms,
            seed: self.rng.next_u64(),
            direct: true,
        }
    }

    /// Opens the device.
    ///
    /// # Panics
    /// It does not open.
    pub fn open(&mut self) {
        let opening = self.opening();
        match Life::open(&self.world, Path::new(scene::DESCRIPTOR), opening) {
            Ok(life) => self.life = Some(life),
            Err(error) => panic!("does not open: {error}"),
        }
    }

    fn life(&mut self) -> &mut Life {
        match &mut self.life {
            Some(life) => life,
            None => panic!("the device is not open"),
        }
    }

    /// Closes the device cleanly when it is open; a check then finds nothing.
    ///
    /// # Panics
    /// It does not close.
    pub fn close(&mut self) {
        self.drain();
        if let Some(life) = self.life.take() {
            good(recover::close(life, &mut self.rng));
            self.model.closed();
            good(recover::nothing(&self.world, Path::new(scene::DESCRIPTOR)));
        }
    }

    /// Gives a request to a queue.
    pub fn give(&mut self, lane: usize, wish: Wish) -> u64 {
        let now = self.world.now();
        match &mut self.life {
            Some(life) => self.traffic.give(life, lane, wish, now),
            None => panic!("the device is not open"),
        }
    }

    /// A write with a value of its own.
    pub fn write(&mut self, lane: usize, first: u64, count: u64, fua: bool) -> u64 {
        self.next_value += 1;
        let value = self.next_value;
        self.give(lane, Wish::write(first, count, value, fua))
    }

    /// A zeroing.
    pub fn zero(&mut self, lane: usize, first: u64, count: u64, fua: bool) -> u64 {
        let flags = Flags { fua, ..Flags::default() };
        self.give(lane, Wish { flags, ..Wish::plain(Operation::WriteZeroes, first, count) })
    }

    /// A discard.
    pub fn discard(&mut self, lane: usize, first: u64, count: u64) -> u64 {
        self.give(lane, Wish::plain(Operation::Discard, first, count))
    }

    /// A FLUSH.
    pub fn flush(&mut self, lane: usize) -> u64 {
        self.give(lane, Wish::flush())
    }

    /// A read; what it sees is compared with the model.
    pub fn read(&mut self, lane: usize, first: u64, count: u64) -> u64 {
        self.give(lane, Wish::plain(Operation::Read, first, count))
    }

    /// Makes one turn of the device.
    ///
    /// # Panics
    /// A read saw what it must not see.
    pub fn turn(&mut self) -> Turn {
        let mut rng = self.rng.fork();
        let turn = self.life().turn(&mut rng);
        if let Some(life) = &mut self.life {
            for lane in 0..life.queues() {
                good(self.traffic.settle(life, lane, &mut self.model));
            }
        }
        turn
    }

    /// How a request ended, when it has.
    #[must_use]
    pub fn outcome(&self, tag: u64) -> Option<Outcome> {
        self.traffic.outcomes.get(&tag).copied()
    }

    /// Turns until a request has ended.
    ///
    /// # Panics
    /// It never ends.
    pub fn wait(&mut self, tag: u64) -> Outcome {
        loop {
            if let Some(outcome) = self.outcome(tag) {
                return outcome;
            }
            let turn = self.turn();
            assert!(turn != Turn::Idle || self.outcome(tag).is_some(), "request {tag} hangs");
        }
    }

    /// Turns until nothing is in flight.
    ///
    /// # Panics
    /// Something never ends.
    pub fn drain(&mut self) {
        while !self.traffic.is_empty() {
            let turn = self.turn();
            assert!(turn != Turn::Idle || self.traffic.is_empty(), "requests hang");
        }
    }

    /// Turns until the condition holds; `false` when nothing can happen any more.
    pub fn until(&mut self, mut condition: impl FnMut(&mut Self) -> bool) -> bool {
        for _ in 0..100_000 {
            if condition(self) {
                return true;
            }
            if self.turn() == Turn::Idle {
                return condition(self);
            }
        }
        false
    }

    /// The caller's rule for operations.
    pub fn hook(&self, mut hook: impl FnMut(&Attempt) -> Verdict + Send + 'static) {
        self.world.set_hook(Some(Box::new(move |attempt| hook(attempt))));
    }

    /// Looks at what a crash now would leave: nothing, everything, each one change lost or kept,
    /// every subset when there are few, and `random` drawn sets. Returns how many were looked at.
    ///
    /// # Panics
    /// One of them breaks a rule.
    pub fn crash_everywhere(&mut self, random: u64) -> usize {
        let changes = self.world.unsynced().len();
        let mut plans = vec![SurvivorPlan::None, SurvivorPlan::All, SurvivorPlan::TornMiddle];
        let low = cluster().bytes();
        plans.push(SurvivorPlan::Only(Arc::new(move |change| change.offset < low)));
        plans.push(SurvivorPlan::Only(Arc::new(move |change| change.offset >= low)));
        if changes <= 6 {
            plans.extend((0..1 << changes).map(SurvivorPlan::Mask));
        } else if changes < 128 {
            let all = (1u128 << changes) - 1;
            plans.extend((0..changes).map(|n| SurvivorPlan::Mask(1 << n)));
            plans.extend((0..changes).map(|n| SurvivorPlan::Mask(all & !(1 << n))));
        }
        plans.extend((0..random).map(|_| SurvivorPlan::Random(self.rng.next_u64())));
        for plan in &plans {
            self.look_at(plan);
        }
        plans.len()
    }

    /// Looks at what a crash now would leave with one set of survivors.
    ///
    /// # Panics
    /// It breaks a rule.
    pub fn look_at(&mut self, plan: &SurvivorPlan) {
        let opening = self.opening();
        let target = PathBuf::from(scene::DESCRIPTOR);
        let subject = Subject { target: &target, opening, scope: &self.scope, cluster: CLUSTER };
        let crashed = self.world.crash(plan);
        let mut rng = self.rng.fork();
        let looked =
            recover::after_crash(crashed.world, &subject, &self.model, Mark::May, &mut rng);
        if let Err(what) = looked {
            panic!("crash with {plan:?}: {what}; at stake {:#?}", self.world.unsynced());
        }
    }

    /// The host crashes. The device is open again after it, compared with the model.
    ///
    /// # Panics
    /// A rule is broken.
    pub fn crash(&mut self, plan: &SurvivorPlan) {
        let next = self.world.crash(plan).world;
        self.life = None;
        self.traffic = Traffic::default();
        self.world = next;
        self.come_back();
    }

    /// The process dies. Nothing is open after it; the former process may still write.
    pub fn kill(&mut self) {
        self.world.kill();
        self.life = None;
        self.traffic = Traffic::default();
        if self.profile.world.record_words > 0 {
            // I14: the host lives on, so everything answered is there.
            self.model.closed();
        }
        self.model.abandon();
    }

    /// Opens after a crash or a kill and compares everything with the model.
    ///
    /// # Panics
    /// A rule is broken.
    pub fn come_back(&mut self) {
        self.model.abandon();
        good(recover::only_the_mark(&self.world, Path::new(scene::DESCRIPTOR)));
        self.open();
        let opening = self.opening();
        let target = PathBuf::from(scene::DESCRIPTOR);
        let subject = Subject { target: &target, opening, scope: &self.scope, cluster: CLUSTER };
        let mut rng = self.rng.fork();
        let Some(life) = &mut self.life else { return };
        let found = good(recover::read_raw(life, &subject, &mut rng));
        good(recover::compare(&self.model, &found));
        self.model.restart(&found);
    }
}

fn good<T>(result: Result<T, String>) -> T {
    match result {
        Ok(value) => value,
        Err(what) => panic!("{what}"),
    }
}
