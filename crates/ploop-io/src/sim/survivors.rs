//! A host crash: which of the operations not covered by a completed sync survive.

use super::inode::{Effect, Entry, Fate, Inode};
use super::locks::Locks;
use super::names::Names;
use super::rng::Rng;
use super::world::{SimWorld, World};
use super::{content::Content, names::Node};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A change that a crash may lose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsynced {
    /// A name of the file, or the changed name.
    pub path: PathBuf,
    /// What kind of change.
    pub kind: UnsyncedKind,
    /// First byte (the new length for [`UnsyncedKind::Length`]).
    pub offset: u64,
    /// Bytes; 0 where it means nothing.
    pub len: u64,
    /// Its operation was not reported yet.
    pub in_flight: bool,
}

/// What a change changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum UnsyncedKind {
    /// Bytes of a file.
    Data,
    /// Zeros by punch or zero-range.
    Zero,
    /// The length of a file.
    Length,
    /// Space without bytes.
    Space,
    /// A name.
    Name,
}

/// A caller's choice.
pub type Predicate = Arc<dyn Fn(&Unsynced) -> bool + Send + Sync>;

/// Which unsynced changes survive. The changes are numbered from the oldest to the newest.
#[derive(Clone)]
pub enum SurvivorPlan {
    /// All are lost.
    None,
    /// All survive.
    All,
    /// Each is drawn: lost, kept, or torn; those in flight land in any order.
    Random(u64),
    /// The oldest is lost, all others survive.
    OldestLost,
    /// The newest is lost, all others survive.
    NewestLost,
    /// All survive, but every one of three sectors or more without its middle.
    TornMiddle,
    /// Those survive for which the caller says so (only metadata, only data, ...).
    Only(Predicate),
    /// Change i survives when bit i is set: for going through all subsets of few changes.
    Mask(u128),
}

impl fmt::Debug for SurvivorPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::All => f.write_str("All"),
            Self::Random(seed) => write!(f, "Random({seed})"),
            Self::OldestLost => f.write_str("OldestLost"),
            Self::NewestLost => f.write_str("NewestLost"),
            Self::TornMiddle => f.write_str("TornMiddle"),
            Self::Only(_) => f.write_str("Only(..)"),
            Self::Mask(mask) => write!(f, "Mask({mask:#b})"),
        }
    }
}

/// The host after a crash.
#[derive(Clone, Debug)]
pub struct Crashed {
    /// The new world: same behaviour, no hook, no process.
    pub world: SimWorld,
    /// A hash of the set of survivors: equal sets of equal changes have equal hashes.
    pub survivors: u64,
    /// How many changes were at stake.
    pub unsynced: usize,
    /// How many of them survived whole or in part.
    pub survived: usize,
}

/// Makes the plans for so many changes at stake.
type MakePlans = Box<dyn FnMut(usize) -> Vec<SurvivorPlan> + Send>;

/// Crashes at every boundary of a stretch of blocking calls.
pub(super) struct Watch {
    plans: MakePlans,
    seen: Vec<(u64, Crashed)>,
}

impl Watch {
    /// A boundary of `world` has come.
    pub(super) fn look(&mut self, world: &World) {
        for plan in (self.plans)(world.changes().len()) {
            self.seen.push((world.operations, world.crash(&plan)));
        }
    }
}

/// Where a change comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// Sequence number in an inode's log or the log of names.
    Log(u64),
    /// In flight: number of the operation, and of the change inside it.
    Flight(u64, usize),
}

struct Change {
    source: Source,
    ino: u64,
    effect: Option<Effect>,
    shown: Unsynced,
}

fn kind_of(effect: &Effect) -> UnsyncedKind {
    match effect {
        Effect::Write { .. } => UnsyncedKind::Data,
        Effect::Zero { .. } => UnsyncedKind::Zero,
        Effect::Len(_) | Effect::Extend { .. } => UnsyncedKind::Length,
        Effect::Reserve { .. } => UnsyncedKind::Space,
    }
}

impl SurvivorPlan {
    fn fates(&self, changes: &[Change]) -> Vec<Fate> {
        let last = changes.len().saturating_sub(1);
        let mut rng = Rng::new(if let Self::Random(seed) = self { *seed } else { 0 });
        let (keep, torn) = (rng.between(1, 9), rng.below(4));
        let keep_if = |yes: bool| if yes { Fate::Kept } else { Fate::Lost };
        let fate = |(index, change): (usize, &Change)| match self {
            Self::None => Fate::Lost,
            Self::All => Fate::Kept,
            Self::OldestLost => keep_if(index != 0),
            Self::NewestLost => keep_if(index != last),
            Self::TornMiddle => Fate::NoMiddle,
            Self::Only(choose) => keep_if(choose(&change.shown)),
            Self::Mask(mask) => keep_if(index < 128 && mask >> index & 1 == 1),
            Self::Random(_) => {
                let seed = rng.next_u64();
                match (rng.chance(torn, 10), rng.chance(keep, 10)) {
                    (true, _) => Fate::Torn(seed),
                    (_, kept) => keep_if(kept),
                }
            }
        };
        changes.iter().enumerate().map(fate).collect()
    }
}

impl SimWorld {
    /// What a crash now may lose, oldest first: the order of [`SurvivorPlan::Mask`].
    #[must_use]
    pub fn unsynced(&self) -> Vec<Unsynced> {
        self.lock().changes().into_iter().map(|change| change.shown).collect()
    }

    /// How many changes a crash now may lose.
    #[must_use]
    pub fn at_stake(&self) -> usize {
        self.lock().changes().len()
    }

    /// From now on every boundary of an operation leaves what crashes there would leave, with the
    /// plans that `plans` makes for the number of changes at stake.
    pub fn watch(&self, plans: impl FnMut(usize) -> Vec<SurvivorPlan> + Send + 'static) {
        self.lock().watch = Some(Watch { plans: Box::new(plans), seen: Vec::new() });
    }

    /// Ends [`SimWorld::watch`]: the boundaries, as counts of operations, with their crashes.
    #[must_use]
    pub fn watched(&self) -> Vec<(u64, Crashed)> {
        self.lock().watch.take().map(|watch| watch.seen).unwrap_or_default()
    }

    /// The host crashes and comes up again. This world stays as it is, so that one moment can be
    /// looked at with many plans.
    ///
    /// Call it while the buffers of the operations in flight still exist.
    #[must_use]
    pub fn crash(&self, plan: &SurvivorPlan) -> Crashed {
        self.lock().crash(plan)
    }
}

impl World {
    fn path_of(&self, ino: u64) -> PathBuf {
        let named = |(_, node): &(&PathBuf, &Node)| **node == Node::File(ino);
        self.names.live.iter().find(named).map(|(path, _)| path.clone()).unwrap_or_default()
    }

    fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (ino, inode) in &self.inodes {
            let path = self.path_of(*ino);
            for entry in inode.log.iter().filter(|e| !e.covered) {
                changes.push(logged(*ino, path.clone(), entry));
            }
        }
        for entry in self.names.log.iter().filter(|e| !e.covered) {
            let shown = Unsynced {
                path: entry.effect.path().to_path_buf(),
                kind: UnsyncedKind::Name,
                offset: 0,
                len: 0,
                in_flight: false,
            };
            changes.push(Change { source: Source::Log(entry.seq), ino: 0, effect: None, shown });
        }
        let old = self.old_life.iter().enumerate();
        for (number, op) in old {
            self.flying(number as u64, op.ino, &op.effects, &mut changes);
        }
        let first = self.old_life.len() as u64;
        for (id, flight) in self.flights.iter().filter(|(_, f)| f.landed.is_none()) {
            let len = self.inodes.get(&flight.ino).map_or(0, |inode| inode.live.len);
            self.flying(first + id, flight.ino, &flight.effects(len), &mut changes);
        }
        changes.sort_by_key(|change| change.source);
        changes
    }

    fn flying(&self, number: u64, ino: u64, effects: &[Effect], changes: &mut Vec<Change>) {
        for (part, effect) in effects.iter().enumerate() {
            let (offset, len) = effect.span();
            let path = self.path_of(ino);
            let shown = Unsynced { path, kind: kind_of(effect), offset, len, in_flight: true };
            let source = Source::Flight(number, part);
            changes.push(Change { source, ino, effect: Some(effect.clone()), shown });
        }
    }

    fn crash(&self, plan: &SurvivorPlan) -> Crashed {
        let mut changes = self.changes();
        if let SurvivorPlan::Random(seed) = plan {
            shuffle_flights(&mut changes, Rng::new(*seed ^ 0xF1_1687));
        }
        let fates = plan.fates(&changes);
        let kept: BTreeMap<u64, Fate> = changes
            .iter()
            .zip(&fates)
            .filter_map(|(change, fate)| match change.source {
                Source::Log(seq) => Some((seq, *fate)),
                Source::Flight(..) => None,
            })
            .collect();
        let names = self.names_after(&kept);
        let reachable: BTreeSet<u64> = names
            .live
            .values()
            .filter_map(|node| if let Node::File(ino) = node { Some(*ino) } else { None })
            .collect();
        let mut contents: BTreeMap<u64, Content> = self
            .inodes
            .iter()
            .filter(|(ino, _)| reachable.contains(ino))
            .map(|(ino, inode)| (*ino, content_after(inode, &kept)))
            .collect();
        for (change, fate) in changes.iter().zip(&fates) {
            if let (Some(effect), Some(content)) = (&change.effect, contents.get_mut(&change.ino)) {
                effect.survive(content, *fate);
            }
        }
        let survivors = hash(&changes, &fates);
        let survived = fates.iter().filter(|fate| **fate != Fate::Lost).count();
        let world = self.reborn(names, contents, survivors);
        Crashed { world, survivors, unsynced: changes.len(), survived }
    }

    fn names_after(&self, kept: &BTreeMap<u64, Fate>) -> Names {
        let mut live = self.names.base.clone();
        for entry in &self.names.log {
            let lost = kept.get(&entry.seq).is_some_and(|fate| *fate == Fate::Lost);
            if entry.covered || !lost {
                entry.effect.apply(&mut live);
            }
        }
        Names { base: live.clone(), live, log: Vec::new() }
    }

    fn reborn(&self, names: Names, contents: BTreeMap<u64, Content>, seed: u64) -> SimWorld {
        let fresh = SimWorld::new(self.trace ^ seed, self.options.clone());
        {
            let mut world = fresh.lock();
            world.now = self.now;
            world.next_file = self.next_file;
            world.next_ino = self.next_ino;
            world.locks = Locks::default();
            world.names = names;
            world.trace = self.trace;
            world.note(seed);
            world.violations = self.violations.clone();
            world.inodes = contents
                .into_iter()
                .map(|(ino, mut live)| {
                    live.seal();
                    (ino, Inode { base: live.clone(), live, log: Vec::new() })
                })
                .collect();
        }
        fresh
    }
}

fn logged(ino: u64, path: PathBuf, entry: &Entry) -> Change {
    let (offset, len) = entry.effect.span();
    let in_flight = entry.done.is_none();
    let shown = Unsynced { path, kind: kind_of(&entry.effect), offset, len, in_flight };
    Change { source: Source::Log(entry.seq), ino, effect: None, shown }
}

fn content_after(inode: &Inode, kept: &BTreeMap<u64, Fate>) -> Content {
    let mut content = inode.base.clone();
    for entry in &inode.log {
        let fate = if entry.covered { Some(&Fate::Kept) } else { kept.get(&entry.seq) };
        entry.effect.survive(&mut content, *fate.unwrap_or(&Fate::Lost));
    }
    content
}

/// Operations in flight have no order among themselves.
fn shuffle_flights(changes: &mut [Change], mut rng: Rng) {
    let first = changes.partition_point(|change| matches!(change.source, Source::Log(_)));
    let flying = &mut changes[first..];
    for end in (1..flying.len()).rev() {
        flying.swap(end, rng.below(end as u64 + 1) as usize);
    }
}

fn hash(changes: &[Change], fates: &[Fate]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    let mut mix = |word: u64| hash = (hash ^ word).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
    for (change, fate) in changes.iter().zip(fates) {
        let shown = &change.shown;
        let prefix = shown.kind == UnsyncedKind::Length;
        let kept = fate.signature(shown.offset, shown.len, prefix);
        if kept == 0 {
            continue;
        }
        mix(kept);
        mix(change.ino);
        mix(change.shown.kind as u64);
        mix(change.shown.offset);
        mix(change.shown.len);
    }
    hash
}
