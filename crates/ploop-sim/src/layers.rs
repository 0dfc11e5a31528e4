//! Operations on the layers of a closed disk, as a table: a row is an operation.

use crate::life::open_options;
use crate::scene::DESCRIPTOR;
use ploop_format::{Descriptor, Guid, Sector};
use ploop_image::layers::{
    InTurn, Which, Work, delete, describe, drop_covered, drop_empty, grow, join, lower, merge,
    merge_leftovers, switch, turn,
};
use ploop_image::{
    Disk, ErrorKind, ImageError, OpenOptions, Ready, Wish, info, snapshot, snapshot_as,
};
use ploop_io::sim::{SimDir, SimEntropy, SimWorld};
use std::path::Path;
use std::sync::Arc;

/// One kind of operation. None of them changes what the device reads.
#[derive(Clone, Copy, Debug)]
pub struct LayerOp {
    /// Its name.
    pub name: &'static str,
    /// Does it, with a number for the choices and names it makes.
    pub run: fn(&Scene<'_>, u64) -> Result<(), ImageError>,
    /// Levels the disk must have for it, at least and at most.
    pub levels: (usize, usize),
    /// Changes images below the top, as it should.
    pub changes_lower: bool,
}

impl LayerOp {
    /// Whether it can be done while a device pauses: it leaves files alone that the device has.
    #[must_use]
    pub fn live(&self) -> bool {
        self.name != "open-and-abort"
    }

    /// Whether it is a step of a merge beside traffic, or makes something to merge.
    #[must_use]
    pub fn merges(&self) -> bool {
        let turns = matches!(self.name, "snapshot" | "turn-top" | "turn-all" | "drop-covered");
        turns || self.goes_down()
    }

    /// Whether it is a step of a merge into a raw base.
    #[must_use]
    pub fn goes_down(&self) -> bool {
        matches!(self.name, "lower" | "drop-empty")
    }
}

/// All of them.
pub const OPS: &[LayerOp] = &[
    LayerOp { name: "snapshot", run: take_snapshot, levels: (1, 5), changes_lower: false },
    LayerOp { name: "open-and-abort", run: open_and_abort, levels: (1, 9), changes_lower: false },
    LayerOp { name: "switch", run: go_back, levels: (1, 5), changes_lower: false },
    LayerOp { name: "drop-top", run: drop_top, levels: (1, 5), changes_lower: false },
    LayerOp { name: "merge-top", run: merge_top, levels: (2, 9), changes_lower: true },
    LayerOp { name: "merge-one", run: merge_one, levels: (2, 9), changes_lower: true },
    LayerOp { name: "merge-all", run: merge_all, levels: (3, 9), changes_lower: true },
    LayerOp { name: "delete", run: delete_one, levels: (2, 9), changes_lower: true },
    LayerOp { name: "leftovers", run: leftovers, levels: (2, 9), changes_lower: true },
    LayerOp { name: "turn-top", run: turn_top, levels: (2, 9), changes_lower: true },
    LayerOp { name: "turn-all", run: turn_all, levels: (3, 9), changes_lower: true },
    LayerOp { name: "drop-covered", run: end_turn, levels: (2, 9), changes_lower: true },
    LayerOp { name: "lower", run: go_down, levels: (2, 2), changes_lower: true },
    LayerOp { name: "drop-empty", run: end_down, levels: (2, 2), changes_lower: true },
    LayerOp { name: "grow", run: grow_some, levels: (1, 9), changes_lower: false },
];

/// What a split disk has besides: then it is one no more.
pub const JOIN: LayerOp =
    LayerOp { name: "join", run: join_pieces, levels: (1, 9), changes_lower: true };

/// Work that nobody watches.
macro_rules! quiet {
    () => {
        Work { progress: &mut |_, _| true, copier: &InTurn }
    };
}

/// What an operation works on.
pub struct Scene<'a> {
    world: &'a SimWorld,
    dir: SimDir,
    options: OpenOptions,
    /// A snapshot's files, made beforehand.
    ready: Option<Ready>,
}

impl<'a> Scene<'a> {
    /// The disk of a world.
    #[must_use]
    pub fn new(world: &'a SimWorld) -> Self {
        Self::with(world, open_options(false), None)
    }

    /// The same with files that a device has open.
    #[must_use]
    pub fn with(world: &'a SimWorld, options: OpenOptions, ready: Option<Ready>) -> Self {
        Self { world, dir: world.dir(), options, ready }
    }

    fn entropy(&self, number: u64) -> SimEntropy {
        self.world.entropy(number)
    }

    fn descriptor(&self) -> Result<Descriptor, ImageError> {
        describe(&self.dir, Path::new(DESCRIPTOR))
    }

    /// A name of the chain that is not the base's.
    fn upper(&self, number: u64) -> Result<Guid, ImageError> {
        let parsed = self.descriptor()?;
        let chain = parsed.chain().unwrap_or_default();
        let upper = chain.get(1..).unwrap_or_default();
        Ok(upper.get(number as usize % upper.len().max(1)).map_or(Guid::NONE, |image| image.guid))
    }

    fn turn(&self, which: Which, number: u64) -> Result<(), ImageError> {
        let (entropy, target) = (self.entropy(number), Path::new(DESCRIPTOR));
        said(turn(&self.dir, &entropy, target, which, &self.options))
    }

    fn merge(&self, which: Which, number: u64) -> Result<(), ImageError> {
        let (entropy, target) = (self.entropy(number), Path::new(DESCRIPTOR));
        said(merge(&self.dir, &entropy, target, which, &self.options, &mut quiet!()))
    }
}

/// A refusal is an answer: other snapshots may lie on what would change, or it is another disk's.
fn said<T>(result: Result<T, ImageError>) -> Result<(), ImageError> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::Param | ErrorKind::Shared) => Ok(()),
        result => result.map(drop),
    }
}

fn take_snapshot(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    let entropy = scene.entropy(number);
    let wish = Wish { ready: scene.ready.clone(), ..Wish::default() };
    said(snapshot_as(&scene.dir, &entropy, Path::new(DESCRIPTOR), &wish, &scene.options))
}

fn open_and_abort(scene: &Scene<'_>, _number: u64) -> Result<(), ImageError> {
    let dir = Arc::new(scene.world.dir());
    let disk = Disk::open(dir, Path::new(DESCRIPTOR), &scene.options);
    said(disk.and_then(Disk::abort))
}

/// A snapshot, and back to it: nothing was written in between.
fn go_back(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    let (entropy, target) = (scene.entropy(number), Path::new(DESCRIPTOR));
    let options = scene.options.clone();
    let taken = snapshot(&scene.dir, &entropy, target, None, &options)?;
    said(switch(&scene.dir, &entropy, target, taken.guid, number.is_multiple_of(4), &options))
}

/// A snapshot, and the empty top on it dropped.
fn drop_top(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    take_snapshot(scene, number)?;
    let (entropy, target) = (scene.entropy(number + 1), Path::new(DESCRIPTOR));
    let options = scene.options.clone();
    said(delete(&scene.dir, &entropy, target, Guid::TOP, &options, &mut quiet!()))
}

fn merge_top(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    scene.merge(Which::Top, number)
}

fn merge_one(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    scene.merge(Which::One(scene.upper(number)?), number)
}

fn turn_top(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    scene.turn(Which::Top, number)
}

fn turn_all(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    scene.turn(Which::All, number)
}

/// Refused until everything is copied up; an offline merge may come first.
fn end_turn(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    let (entropy, target) = (scene.entropy(number), Path::new(DESCRIPTOR));
    said(drop_covered(&scene.dir, &entropy, target, &scene.options))
}

/// Refused where the base is not raw.
fn go_down(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    let (entropy, target) = (scene.entropy(number), Path::new(DESCRIPTOR));
    said(lower(&scene.dir, &entropy, target, &scene.options))
}

/// Refused until nothing is left in the top.
fn end_down(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    let (entropy, target) = (scene.entropy(number), Path::new(DESCRIPTOR));
    said(drop_empty(&scene.dir, &entropy, target, &scene.options))
}

fn merge_all(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    scene.merge(Which::All, number)
}

/// The pieces become one; of a disk in one piece nothing changes.
fn join_pieces(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    let (entropy, target) = (scene.entropy(number), Path::new(DESCRIPTOR));
    said(join(&scene.dir, &entropy, target, &scene.options, &mut quiet!()))
}

fn delete_one(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    let descriptor = scene.descriptor()?;
    let below = descriptor.shot(scene.upper(number)?).map_or(Guid::NONE, |shot| shot.parent);
    let (entropy, target) = (scene.entropy(number), Path::new(DESCRIPTOR));
    said(delete(&scene.dir, &entropy, target, below, &scene.options, &mut quiet!()))
}

fn leftovers(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    let (entropy, target) = (scene.entropy(number), Path::new(DESCRIPTOR));
    said(merge_leftovers(&scene.dir, &entropy, target, &scene.options, &mut quiet!()))
}

/// By some clusters, now and then past the first cluster of the BAT.
fn grow_some(scene: &Scene<'_>, number: u64) -> Result<(), ImageError> {
    let target = Path::new(DESCRIPTOR);
    let options = scene.options.clone();
    let now = info(&scene.dir, target, &options)?;
    let cluster = u64::from(now.blocksize);
    let clusters = match number % 3 {
        0 => (now.size / cluster).max(8176 + (number >> 8) % 16),
        _ => now.size / cluster + 1 + (number >> 8) % 5,
    };
    let size = Sector((clusters * cluster).max(now.size));
    said(grow(&scene.dir, target, size, &options))
}
