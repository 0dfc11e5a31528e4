//! One run: a seed and a profile become a history of opens, requests, crashes and closes.

mod exchange;

use crate::explore::{self, Points};
use crate::failure::{Failure, Report};
use crate::layers::{self, LayerOp, Scene};
use crate::life::{Life, OpenError, Opening, Turn};
use crate::model::Model;
use crate::profile::{Profile, cluster};
use crate::recover::{self, Left, Mark, Subject};
use crate::scene;
use crate::traffic::{Traffic, Wish};
use crate::workload::Workload;
use ploop_io::sim::{Crashed, Rates, Rng, SimWorld, Verdict};
use ploop_io::{OpKind, planted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Lines of a story that are kept.
const STORY: usize = 300;

/// Runs a seed, once. Equal seeds and profiles give equal reports.
///
/// # Errors
/// A rule was broken; the failure has no story.
pub fn run_once(seed: u64, profile: &Profile) -> Result<Report, Box<Failure>> {
    attempt(seed, profile, false)
}

/// Runs a seed. Equal seeds and profiles give equal reports.
///
/// # Errors
/// A rule was broken; the failure says which, and how it came to it.
pub fn run(seed: u64, profile: &Profile) -> Result<Report, Box<Failure>> {
    match attempt(seed, profile, false) {
        Ok(report) => Ok(report),
        // Once more, with the story.
        Err(first) => Err(match attempt(seed, profile, true) {
            Err(second) => second,
            Ok(_) => {
                let what = format!("{} (and the second time it did not fail)", first.what);
                Box::new(Failure { what, ..*first })
            }
        }),
    }
}

fn attempt(seed: u64, profile: &Profile, verbose: bool) -> Result<Report, Box<Failure>> {
    let mut sim = Sim::new(seed, profile, verbose);
    let ended = catch_unwind(AssertUnwindSafe(|| sim.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    match ended {
        Ok(()) => Ok(sim.report),
        Err(what) => Err(Box::new(Failure {
            seed,
            profile: profile.name.clone(),
            place: sim.place(),
            what,
            story: sim.story.lines.into(),
        })),
    }
}

/// The last lines of what happened, kept only when a run is repeated.
#[derive(Default)]
struct Story {
    on: bool,
    lines: VecDeque<String>,
}

impl Story {
    fn say(&mut self, line: impl FnOnce() -> String) {
        if self.on {
            if self.lines.len() == STORY {
                self.lines.pop_front();
            }
            self.lines.push_back(line());
        }
    }
}

/// How a round ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Close,
    Crash,
    Kill,
}

struct Sim<'a> {
    profile: &'a Profile,
    rng: Rng,
    world: SimWorld,
    model: Model,
    work: Workload,
    scope: Vec<u64>,
    target: PathBuf,
    /// The lower images as they were made (I6).
    lower: BTreeMap<PathBuf, u64>,
    report: Report,
    story: Story,
    points: Points,
    /// Clusters that requests went to.
    touched: BTreeSet<u64>,
    /// Levels of the disk now.
    levels: usize,
    /// The base that is another disk's, as it was made.
    other: Option<u64>,
    round: usize,
    /// The device did not end with a clean close: what it holds is to be compared as after a crash.
    came_back: bool,
    /// A layer operation failed: the next open may clear the mark of a lower image.
    unsettled: bool,
    /// A layer operation failed: files of it may lie beside the disk.
    littered: bool,
    /// A layer operation failed: until the next open the descriptor may lack the size of a grow.
    missized: bool,
    /// After a kill: what is there unless the host crashes before the next life has opened.
    killed: Option<Model>,
}

type Step<T = ()> = Result<T, String>;

impl<'a> Sim<'a> {
    fn new(seed: u64, profile: &'a Profile, verbose: bool) -> Self {
        let mut rng = Rng::new(seed);
        let world = SimWorld::new(rng.next_u64(), profile.world.clone());
        let sectors = u64::from(cluster().sectors());
        let mut work = Workload::new(&mut rng, profile.clusters, profile.hot, sectors);
        (work.churn, work.twins) = (profile.churn, profile.twins);
        (work.merges, work.fua) = (profile.merges, profile.fua);
        work.block = if rng.chance(1, 2) { 1 } else { 8 };
        Self {
            scope: work.scope(),
            profile,
            rng,
            world,
            model: Model::new(),
            work,
            target: PathBuf::from(scene::DESCRIPTOR),
            lower: BTreeMap::new(),
            report: Report::default(),
            story: Story { on: verbose, lines: VecDeque::new() },
            points: Points::default(),
            touched: BTreeSet::new(),
            levels: 1,
            other: None,
            round: 0,
            came_back: false,
            killed: None,
            unsettled: false,
            littered: false,
            missized: false,
        }
    }

    fn place(&self) -> String {
        format!("round {}, operation {}", self.round, self.world.operations())
    }

    fn opening(&mut self) -> Opening {
        Opening {
            queues: self.profile.queues,
            depth: self.profile.depth,
            metadata_delay_ms: self.profile.metadata_delay_ms,
            seed: self.rng.next_u64(),
            direct: self.profile.world.caps.direct,
        }
    }

    fn run(&mut self) -> Step {
        let _ = planted::visited();
        self.watch();
        scene::create_disk(&self.world, self.profile)?;
        self.look_at_watched("create", Mark::May, true)?;
        self.crash_point("created", Mark::May)?;
        for _ in 1..self.profile.levels {
            self.fill_level()?;
            if self.profile.raw && self.levels == 1 {
                self.cut_raw()?;
            }
            self.layer(&layers::OPS[0])?;
        }
        // A snapshot that was made to fail leaves the base as the top, which is the disk's own.
        if self.profile.shared && self.levels > 1 {
            scene::give_base_away(&self.world)?;
            self.look_at_levels()?;
            self.other = self.world.hash_file(Path::new(scene::OTHER)).ok();
        }
        for round in 0..self.profile.rounds {
            self.round = round + 1;
            self.one_round()?;
            self.lower_as_ever()?;
            recover::no_misuse(&self.world)?;
            for _ in 0..self.profile.operations {
                if self.profile.layers && !self.came_back && self.rng.chance(2, 3) {
                    let op = self.pick_closed();
                    if (op.levels.0..=op.levels.1).contains(&self.levels) {
                        self.layer(&op)?;
                    }
                }
            }
        }
        self.report.operations += self.world.operations();
        self.report.trace = self.world.trace() ^ self.report.requests.rotate_left(32);
        Ok(())
    }

    /// An operation on the closed disk; of a split one now and then its end as such.
    fn pick_closed(&mut self) -> LayerOp {
        if self.profile.pieces > 1 && self.rng.chance(1, 3) {
            return layers::JOIN;
        }
        *self.rng.pick(layers::OPS).unwrap_or(&layers::OPS[0])
    }

    /// I6: no lower image changes.
    fn lower_as_ever(&mut self) -> Step {
        match scene::lower_images(&self.world)? == self.lower {
            true => Ok(()),
            false => Err("I6: a lower image changed".into()),
        }
    }

    /// Does an operation on the closed disk, with a look at every boundary inside it and at
    /// crashes right behind it.
    fn layer(&mut self, op: &LayerOp) -> Step {
        self.story.say(|| format!("layer operation {}", op.name));
        let number = self.rng.next_u64();
        no_faults(&self.world);
        let failing = self.profile.layers && self.rng.chance(1, 4);
        let which = self.rng.below(60);
        let killing = !failing && self.profile.layers && (number >> 48).is_multiple_of(6);
        if failing {
            self.fail_one(which);
        } else if killing {
            self.kill_at(which);
        }
        self.watch();
        let done = (op.run)(&Scene::new(&self.world), number);
        let done = done.map_err(|e| OpenError::Image(e).to_string());
        self.world.set_hook(None);
        self.look_at_watched(op.name, Mark::May, false)?;
        if self.world.is_dead() {
            return self.killed_closed();
        }
        if failing && done.is_err() {
            self.story.say(|| format!("it failed as it was made to: {done:?}"));
            // A failed sync is healed by nothing but a new host.
            self.crash_closed()?;
            self.unsettled = true;
            (self.littered, self.missized) = (true, true);
            return self.look_at_levels();
        }
        done.map_err(|e| format!("{}: {e}", op.name))?;
        if !failing {
            self.nothing(&self.world)?;
        }
        let before = std::mem::take(&mut self.lower);
        self.look_at_levels()?;
        if !op.changes_lower
            && before.iter().any(|(path, hash)| *hash != 0 && self.lower.get(path) != Some(hash))
        {
            return Err(format!("I6: {} changed a lower image", op.name));
        }
        self.littered |= failing;
        self.missized |= failing;
        match failing {
            // What failed may be a clean-up: a file that nobody names stays.
            true => self.crash_point("end", Mark::May),
            false => self.crash_point("closed", Mark::May),
        }
    }

    /// Nothing is found by a check of the closed disk.
    fn nothing(&self, world: &SimWorld) -> Step {
        let left = Left { files: self.littered, size: self.missized };
        recover::nothing_but(world, &self.target, left)
    }

    /// The chain as it is now.
    fn look_at_levels(&mut self) -> Step {
        if self.other.is_some() && self.other != self.world.hash_file(Path::new(scene::OTHER)).ok()
        {
            return Err("I6: a file that is another disk's changed".into());
        }
        self.lower = scene::lower_images(&self.world)?;
        self.levels = scene::levels(&self.world)?;
        Ok(())
    }

    /// Whether a blocking call is to fail, once in `n` chances of a run with faults.
    fn fails(&mut self, n: u64) -> bool {
        self.profile.rates != Rates::default() && self.rng.chance(1, n)
    }

    /// An open of which one call fails: it opens all the same, or nothing is lost. `false` when the
    /// host was restarted, for nothing else heals a sync that failed.
    fn open_failing(&mut self) -> Step<bool> {
        let opening = self.opening();
        let which = self.rng.below(30);
        self.fail_one(which);
        self.watch();
        let opened = Life::open(&self.world, &self.target, opening);
        self.world.set_hook(None);
        self.look_at_watched("open", Mark::May, false)?;
        if self.unsettled {
            // What it has settled of a lower image stays settled.
            self.look_at_levels()?;
        }
        match opened {
            // It needed fewer calls, or none that counts: this life ends where it began.
            Ok(life) => {
                self.world.kill();
                drop(life);
                while self.world.old_life() > 0 {
                    self.world.deliver_old_life(1);
                }
                Ok(true)
            }
            Err(error) => {
                self.story.say(|| format!("the open failed as it was made to: {error}"));
                self.killed = None;
                self.crash_closed()?;
                Ok(false)
            }
        }
    }

    /// One of the blocking calls that follow fails; one time in four a sync of the directory (F12).
    fn fail_one(&mut self, which: u64) {
        let errno = if self.rng.chance(1, 3) { 28 } else { 5 };
        let of_directory = which % 4 == 3;
        let which = if of_directory { which / 4 % 4 } else { which };
        let mut seen = 0;
        self.world.set_hook(Some(Box::new(move |attempt| {
            let sync = attempt.kind == OpKind::Sync;
            if of_directory && !(sync && attempt.path == Path::new(scene::HOME)) {
                return Verdict::Normal;
            }
            let now = seen;
            seen += 1;
            let fits = errno == 5 || of_directory || !(sync || attempt.kind == OpKind::Read);
            if now == which && fits { Verdict::FailTorn(errno) } else { Verdict::Normal }
        })));
    }

    /// The process is killed at one of the blocking calls that follow, most of the time at a sync
    /// of the directory.
    fn kill_at(&mut self, which: u64) {
        let any = which.is_multiple_of(3);
        let which = if any { which } else { which % 4 };
        let mut seen = 0;
        self.world.set_hook(Some(Box::new(move |attempt| {
            let names = attempt.kind == OpKind::Sync && attempt.path == Path::new(scene::HOME);
            if !attempt.blocking || !any && !names {
                return Verdict::Normal;
            }
            seen += 1;
            if seen - 1 == which { Verdict::Die } else { Verdict::Normal }
        })));
    }

    /// An operation on the closed disk was killed: the host lives on, and the next open finds the
    /// chain that is in force now.
    fn killed_closed(&mut self) -> Step {
        self.story.say(|| "its process is killed".into());
        self.world.crash_after(None);
        self.world.kill();
        self.report.kills += 1;
        self.came_back = true;
        self.unsettled = true;
        self.littered = true;
        recover::only_the_mark(&self.world, Path::new(&self.target))?;
        self.look_at_levels()
    }

    /// Begins to look at every boundary of the blocking calls that follow.
    fn watch(&mut self) {
        let mut rng = self.rng.fork();
        let profile = self.profile.clone();
        self.world.watch(move |changes| explore::plans(&mut rng, &profile, changes));
    }

    /// Looks at the crashes since [`Sim::watch`]. With `fresh` there may be no disk yet.
    fn look_at_watched(&mut self, phase: &str, mark: Mark, fresh: bool) -> Step {
        for (boundary, crashed) in self.world.watched() {
            let disk = crashed.world.read_file(&self.target).is_ok();
            if !self.points.is_new(boundary, crashed.survivors, crashed.unsynced) {
                continue;
            }
            self.count_point(phase, false);
            if disk || !fresh {
                let text = format!("in {phase} at {boundary}");
                self.look(crashed, phase, mark, &text)?;
            }
        }
        Ok(())
    }

    fn count_point(&mut self, phase: &str, serving: bool) {
        self.report.crash_points += 1;
        let name = match serving {
            true => format!("{phase} {:?}", self.world.last_kind()),
            false => phase.to_owned(),
        };
        *self.report.points.entry(name).or_default() += 1;
    }

    /// Some writes for a level that will be a lower one.
    fn fill_level(&mut self) -> Step {
        let opening = self.opening();
        let mut life = Life::open(&self.world, &self.target, opening)
            .map_err(|e| format!("a fresh disk does not open: {e}"))?;
        let mut traffic = Traffic::default();
        for _ in 0..self.rng.between(1, self.work.hot.len() as u64) {
            let wish = self.work.write(&mut self.rng);
            self.touch(wish);
            traffic.give(&mut life, 0, wish, self.world.now());
            recover::drain(&mut life, &mut traffic, &mut self.model, &mut self.rng)?;
        }
        self.count(&traffic);
        recover::close(life, &mut self.rng)?;
        self.model.closed();
        self.nothing(&self.world)?;
        self.crash_point("closed", Mark::May)
    }

    /// A raw base may end anywhere behind its data (F18).
    fn cut_raw(&mut self) -> Step {
        let last = self.model.touched().filter(|s| self.model.after_crash(*s) != [0]).max();
        let (path, start) = scene::base_of(self.profile, last.unwrap_or(0));
        let sectors = last.map_or(1, |last| last + 1 - start) + self.rng.below(7);
        self.world.cut_file(&path, sectors * 512).map_err(|e| e.to_string())
    }

    fn touch(&mut self, wish: Wish) {
        let last = wish.first + wish.count.max(1) - 1;
        self.touched.extend(wish.first / self.work.cluster..=last / self.work.cluster);
    }

    fn count(&mut self, traffic: &Traffic) {
        self.report.requests += traffic.answered;
        self.report.failed += traffic.failed;
    }

    fn one_round(&mut self) -> Step {
        no_faults(&self.world);
        if self.fails(8) && !self.open_failing()? {
            return Ok(());
        }
        let mut life = self.open()?;
        // Nothing failed: what it puts right is put right (F20).
        self.missized = false;
        if std::mem::take(&mut self.unsettled) {
            self.look_at_levels()?;
        }
        self.verify(&mut life)?;
        self.world.set_rates(self.profile.rates);
        if let Some(clusters) = self.profile.space {
            let more = clusters * cluster().bytes();
            self.world.set_capacity(Some(self.world.allocated() + more));
        }
        let told = self.story.on.then(Vec::new);
        let mut traffic = Traffic::default();
        traffic.told = told;
        let ended = self.serve(&mut life, &mut traffic);
        self.count(&traffic);
        let lost = !ended?;
        let sync_failed = life.device().is_failed() || lost;
        let ending = match self.rng.below(6) {
            // Nothing heals a failed sync but a new host.
            _ if sync_failed => Ending::Crash,
            0..3 if self.profile.kill => Ending::Kill,
            0 | 3 => Ending::Crash,
            _ => Ending::Close,
        };
        self.story.say(|| format!("the round ends with {ending:?}"));
        match ending {
            Ending::Crash => {
                self.crash(life)?;
                if lost {
                    self.unsettled = true;
                    self.look_at_levels()?;
                }
                Ok(())
            }
            Ending::Kill => self.kill(life, &traffic),
            Ending::Close => self.close(life, traffic),
        }
    }

    /// Opens the disk, after a crash with further crashes on the way.
    fn open(&mut self) -> Step<Life> {
        let opening = self.opening();
        let scope = self.scope.clone();
        let target = self.target.clone();
        let subject =
            Subject { target: &target, opening, scope: &scope, cluster: self.work.cluster };
        if !self.came_back {
            self.watch();
            let opened = Life::open(&self.world, &target, opening);
            self.look_at_watched("open", Mark::May, false)?;
            return opened.map_err(|e| format!("after a clean close it does not open: {e}"));
        }
        if self.rng.chance(1, 2) {
            self.watch();
            let opened = Life::open(&self.world, &target, opening);
            self.look_at_watched("open again", Mark::May, false)?;
            if let Some(killed) = self.killed.take() {
                self.model = killed;
            }
            return opened.map_err(|e| format!("does not open: {e}"));
        }
        let again = recover::open_again(self.world.clone(), &subject, &mut self.rng)?;
        self.world = again.world;
        if let Some(killed) = self.killed.take().filter(|_| !again.crashed) {
            // I14: the host lived on, so everything answered is there.
            self.model = killed;
        }
        Ok(again.life)
    }

    /// Everything must be as the model says.
    fn verify(&mut self, life: &mut Life) -> Step {
        let scope = self.scope.clone();
        let target = self.target.clone();
        let opening = self.opening();
        let cluster = self.work.cluster;
        let subject = Subject { target: &target, opening, scope: &scope, cluster };
        if self.came_back {
            let found = recover::read_raw(life, &subject, &mut self.rng)?;
            recover::compare(&self.model, &found)?;
            // F6: the open synced the top before it read it, so what is there now is durable.
            self.model.restart(&found);
            self.came_back = false;
            return Ok(());
        }
        recover::read_all(life, &subject, &mut self.model, &mut self.rng).map(|_| ())
    }

    /// The requests of a round, with crash points on the way.
    /// `false` when the device was lost in an exchange.
    fn serve(&mut self, life: &mut Life, traffic: &mut Traffic) -> Step<bool> {
        let mut left = self.profile.requests;
        let most = self.rng.between(1, (self.profile.depth * self.profile.queues) as u64 + 2);
        let drain = self.rng.chance(1, 2);
        let mut last = self.world.operations();
        for _ in 0..recover::MANY_TURNS {
            if left == 0 && (!drain || traffic.is_empty()) {
                return Ok(true);
            }
            let live = self.profile.layers && self.rng.chance(1, self.profile.live);
            if live && !life.device().is_failed() && !self.exchange(life, traffic)? {
                return Ok(false);
            }
            if left > 0 && (traffic.len() as u64) < most && self.rng.chance(1, 2) {
                let lane = self.rng.below(life.queues() as u64) as usize;
                for (n, wish) in self.work.wishes(&mut self.rng).enumerate() {
                    let lane = (lane + n) % life.queues();
                    self.touch(wish);
                    let tag = traffic.give(life, lane, wish, self.world.now());
                    self.story.say(|| format!("queue {lane} request {tag}: {wish:?}"));
                }
                left -= 1;
            }
            let turn = life.turn(&mut self.rng);
            self.settle(life, traffic)?;
            if turn == Turn::Idle && !traffic.is_empty() {
                let wishes: Vec<_> = traffic.wishes().take(4).collect();
                return Err(format!("I16: requests hang, among them {wishes:?}"));
            }
            self.space(life, traffic)?;
            let before = std::mem::replace(&mut last, self.world.operations());
            if before / self.profile.crash_every != last / self.profile.crash_every {
                self.crash_point("serve", Mark::Must)?;
            }
        }
        Err(format!("I16: {} requests never end", traffic.len()))
    }

    fn settle(&mut self, life: &mut Life, traffic: &mut Traffic) -> Step {
        let now = self.world.now();
        for lane in 0..life.queues() {
            let settled = traffic.settle(life, lane, &mut self.model);
            if let Some(lines) = &mut traffic.told {
                for line in lines.drain(..) {
                    self.story.say(|| format!("{now}: {line}"));
                }
            }
            settled?;
        }
        Ok(())
    }

    /// A full host gets space again when requests have been held for a while; nothing else may
    /// take long.
    fn space(&mut self, life: &Life, traffic: &Traffic) -> Step {
        let Some(oldest) = traffic.oldest() else { return Ok(()) };
        let waited = self.world.now().saturating_sub(oldest);
        if waited > 500_000_000 && life.parked() > 0 {
            self.world.set_capacity(None);
            self.story.say(|| "the host has space again".into());
        }
        if waited > 600_000_000_000 {
            let wishes: Vec<_> = traffic.wishes().take(4).collect();
            return Err(format!("I16: a request waits for {waited} ns: {wishes:?}"));
        }
        Ok(())
    }

    /// Looks at what a crash here would leave; the run goes on.
    fn crash_point(&mut self, phase: &str, mark: Mark) -> Step {
        let decisions = planted::visited();
        let (boundary, changes) = (self.world.operations(), self.world.at_stake());
        let before = self.report.crash_points;
        for plan in explore::plans(&mut self.rng, self.profile, changes) {
            let crashed = self.world.crash(&plan);
            if self.points.is_new(boundary, crashed.survivors, crashed.unsynced) {
                self.count_point(phase, phase == "serve");
                self.look(crashed, phase, mark, &format!("{plan:?}"))?;
            }
        }
        self.report.cover.count(&decisions, self.report.crash_points - before);
        Ok(())
    }

    /// Lets a crashed host come up, and compares.
    fn look(&mut self, crashed: Crashed, phase: &str, mark: Mark, plan: &str) -> Step {
        // One queue is enough to read everything.
        let opening = Opening { queues: 1, depth: 8, ..self.opening() };
        let mut rng = self.rng.fork();
        // Every cluster a request ever went to, and one of the others.
        let other = rng.pick(&self.scope).copied();
        let touched = |c: &u64| self.touched.contains(c) || Some(*c) == other;
        let scope: Vec<u64> = self.scope.iter().copied().filter(touched).collect();
        let cluster = self.work.cluster;
        let subject = Subject { target: &self.target, opening, scope: &scope, cluster };
        no_faults(&crashed.world);
        let closed = match phase {
            "closed" => self.nothing(&crashed.world),
            _ => Ok(()),
        };
        let levels = self.levels;
        let world = crashed.world.clone();
        let looked = closed.and_then(|()| {
            recover::after_crash(crashed.world, &subject, &self.model, mark, &mut rng)
        });
        let looked = looked.and_then(|()| match phase {
            "closed" if scene::levels(&world)? != levels => {
                Err("I9: a finished layer operation is gone".into())
            }
            _ => Ok(()),
        });
        let _ = planted::visited();
        looked.map_err(|what| {
            for change in self.world.unsynced() {
                self.story.say(|| format!("at stake: {change:?}"));
            }
            format!("{what} ({phase}, plan {plan}, survivors {:x})", crashed.survivors)
        })
    }

    fn crash(&mut self, life: Life) -> Step {
        self.crash_point("end", Mark::May)?;
        let plan = explore::plan(&mut self.rng);
        self.story.say(|| format!("crash with {plan:?}"));
        self.report.operations += self.world.operations();
        let next = self.world.crash(&plan).world;
        // Buffers, then the engine, then the world: the life may still point into it.
        drop(life);
        self.world = next;
        no_faults(&self.world);
        self.model.abandon();
        self.came_back = true;
        recover::only_the_mark(&self.world, Path::new(&self.target))
    }

    /// The process dies; a new one opens as soon as the locks let it (F7).
    fn kill(&mut self, life: Life, traffic: &Traffic) -> Step {
        if self.world.unheard() {
            // Nothing but a new host tells what is there.
            return self.crash(life);
        }
        self.world.kill();
        self.report.kills += 1;
        let in_flight = traffic.len();
        let old = self.world.old_life();
        self.story.say(|| format!("kill with {in_flight} requests and {old} operations in flight"));
        drop(life);
        no_faults(&self.world);
        if self.profile.world.record_words > 0 {
            let mut killed = self.model.clone();
            killed.closed();
            killed.abandon();
            self.killed = Some(killed);
        }
        self.model.abandon();
        self.came_back = true;
        while self.world.old_life() > 0 {
            let opening = self.opening();
            match Life::open(&self.world, &self.target, opening) {
                Ok(_) => return Err("I17: opened while the former process still writes".into()),
                Err(error) if recover::in_use(&error) => {}
                Err(error) => return Err(format!("after a kill it does not open: {error}")),
            }
            if self.rng.chance(1, 3) {
                self.world.drop_old_life();
            } else {
                self.world.deliver_old_life(1);
            }
        }
        recover::only_the_mark(&self.world, Path::new(&self.target))
    }

    /// Stops, closes, and crashes on the way now and then.
    fn close(&mut self, mut life: Life, mut traffic: Traffic) -> Step {
        let (before, failed) = (traffic.answered, traffic.failed);
        if self.rng.chance(1, 3) {
            let limit = self.world.operations() + self.rng.between(1, 25);
            self.world.crash_after(Some(limit));
        }
        if self.rng.chance(1, 2) {
            self.world.set_rates(Rates::default());
        }
        life.stop();
        let mut turns = 0;
        let mut closing = false;
        while !(closing && life.closed()) {
            let turn = life.turn(&mut self.rng);
            self.settle(&mut life, &mut traffic)?;
            turns += 1;
            if turn == Turn::Dead {
                return self.crash(life);
            }
            if !closing && life.stopped() {
                closing = true;
                life.begin_close();
            } else if turn == Turn::Idle && !(closing && life.closed())
                || turns > recover::MANY_TURNS
            {
                let wishes: Vec<_> = traffic.wishes().take(4).collect();
                return Err(format!("I16: close hangs (keeper {closing}), left {wishes:?}"));
            }
        }
        self.report.requests += traffic.answered - before;
        self.report.failed += traffic.failed - failed;
        if !traffic.is_empty() {
            return Err(format!("{} requests were never answered", traffic.len()));
        }
        let was_failed = life.device().is_failed();
        let failing = self.fails(4);
        if failing {
            let which = self.rng.below(8);
            self.fail_one(which);
        }
        self.watch();
        let (report, closed) = life.close();
        self.world.set_hook(None);
        self.look_at_watched("close", Mark::May, false)?;
        if self.world.is_dead() {
            return self.crash_closed();
        }
        match closed {
            Ok(()) if was_failed => Err("I10: a failed device closed as clean".into()),
            Ok(()) => {
                self.world.crash_after(None);
                self.report.closes += 1;
                self.model.closed();
                self.nothing(&self.world)?;
                self.crash_point("closed", Mark::May)
            }
            Err(_) if was_failed || failing => self.crash_closed(),
            Err(error) => Err(format!("close failed: {error} ({report:?})")),
        }
    }

    /// A crash when no engine runs.
    fn crash_closed(&mut self) -> Step {
        self.crash_point("end", Mark::May)?;
        let plan = explore::plan(&mut self.rng);
        self.report.operations += self.world.operations();
        self.world = self.world.crash(&plan).world;
        no_faults(&self.world);
        self.model.abandon();
        self.came_back = true;
        Ok(())
    }
}

/// From now on nothing fails, and the host has space.
fn no_faults(world: &SimWorld) {
    world.set_rates(Rates::default());
    world.set_capacity(None);
}
