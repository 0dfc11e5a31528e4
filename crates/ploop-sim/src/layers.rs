//! Operations on the layers of a closed disk, as a table: a row is an operation.

use crate::life::{OpenError, open_options};
use crate::scene::DESCRIPTOR;
use ploop_format::{Descriptor, Guid, Sector};
use ploop_image::layers::{
    InTurn, Which, Work, delete, drop_covered, grow, merge, merge_leftovers, switch, turn,
};
use ploop_image::{Disk, ErrorKind, ImageError, info, snapshot};
use ploop_io::sim::{SimDir, SimEntropy, SimWorld};
use std::path::Path;
use std::sync::Arc;

/// One kind of operation. None of them changes what the device reads.
#[derive(Clone, Copy, Debug)]
pub struct LayerOp {
    /// Its name.
    pub name: &'static str,
    /// Does it, with a number for the choices and names it makes.
    pub run: fn(&Scene<'_>, u64) -> Result<(), String>,
    /// Levels the disk must have for it, at least and at most.
    pub levels: (usize, usize),
    /// Changes images below the top, as it should.
    pub changes_lower: bool,
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
    LayerOp { name: "grow", run: grow_some, levels: (1, 9), changes_lower: false },
];

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
}

impl<'a> Scene<'a> {
    /// The disk of a world.
    #[must_use]
    pub fn new(world: &'a SimWorld) -> Self {
        Self { world, dir: world.dir() }
    }

    fn entropy(&self, number: u64) -> SimEntropy {
        self.world.entropy(number)
    }

    fn descriptor(&self) -> Result<Descriptor, String> {
        let text = self.world.read_file(Path::new(DESCRIPTOR)).map_err(|e| e.to_string())?;
        Descriptor::parse(&text).map_err(|e| e.to_string())
    }

    /// A name of the chain that is not the base's.
    fn upper(&self, number: u64) -> Result<Guid, String> {
        let chain = self.descriptor()?.chain().map_err(|e| e.to_string())?;
        let upper = &chain[1..];
        Ok(upper[number as usize % upper.len()].guid)
    }

    fn turn(&self, which: Which, number: u64) -> Result<(), String> {
        let (entropy, target) = (self.entropy(number), Path::new(DESCRIPTOR));
        said(turn(&self.dir, &entropy, target, which, &open_options(false)))
    }

    fn merge(&self, which: Which, number: u64) -> Result<(), String> {
        let (entropy, target) = (self.entropy(number), Path::new(DESCRIPTOR));
        said(merge(&self.dir, &entropy, target, which, &open_options(false), &mut quiet!()))
    }
}

/// A refusal is an answer: other snapshots may lie on what would change.
fn said<T>(result: Result<T, ImageError>) -> Result<(), String> {
    match result {
        Err(error) if error.kind() == ErrorKind::Param => Ok(()),
        result => result.map(drop).map_err(|e| OpenError::Image(e).to_string()),
    }
}

fn take_snapshot(scene: &Scene<'_>, number: u64) -> Result<(), String> {
    let entropy = scene.entropy(number);
    said(snapshot(&scene.dir, &entropy, Path::new(DESCRIPTOR), None, &open_options(false)))
}

fn open_and_abort(scene: &Scene<'_>, _number: u64) -> Result<(), String> {
    let dir = Arc::new(scene.world.dir());
    let disk = Disk::open(dir, Path::new(DESCRIPTOR), &open_options(false));
    said(disk.and_then(Disk::abort))
}

/// A snapshot, and back to it: nothing was written in between.
fn go_back(scene: &Scene<'_>, number: u64) -> Result<(), String> {
    let (entropy, target) = (scene.entropy(number), Path::new(DESCRIPTOR));
    let options = open_options(false);
    let taken = snapshot(&scene.dir, &entropy, target, None, &options);
    let taken = taken.map_err(|e| OpenError::Image(e).to_string())?;
    said(switch(&scene.dir, &entropy, target, taken.guid, number.is_multiple_of(4), &options))
}

/// A snapshot, and the empty top on it dropped.
fn drop_top(scene: &Scene<'_>, number: u64) -> Result<(), String> {
    take_snapshot(scene, number)?;
    let (entropy, target) = (scene.entropy(number + 1), Path::new(DESCRIPTOR));
    let options = open_options(false);
    said(delete(&scene.dir, &entropy, target, Guid::TOP, &options, &mut quiet!()))
}

fn merge_top(scene: &Scene<'_>, number: u64) -> Result<(), String> {
    scene.merge(Which::Top, number)
}

fn merge_one(scene: &Scene<'_>, number: u64) -> Result<(), String> {
    scene.merge(Which::One(scene.upper(number)?), number)
}

fn turn_top(scene: &Scene<'_>, number: u64) -> Result<(), String> {
    scene.turn(Which::Top, number)
}

fn turn_all(scene: &Scene<'_>, number: u64) -> Result<(), String> {
    scene.turn(Which::All, number)
}

/// Refused until everything is copied up; an offline merge may come first.
fn end_turn(scene: &Scene<'_>, number: u64) -> Result<(), String> {
    let (entropy, target) = (scene.entropy(number), Path::new(DESCRIPTOR));
    said(drop_covered(&scene.dir, &entropy, target, &open_options(false)))
}

fn merge_all(scene: &Scene<'_>, number: u64) -> Result<(), String> {
    scene.merge(Which::All, number)
}

fn delete_one(scene: &Scene<'_>, number: u64) -> Result<(), String> {
    let descriptor = scene.descriptor()?;
    let below = descriptor.shot(scene.upper(number)?).map_or(Guid::NONE, |shot| shot.parent);
    let (entropy, target) = (scene.entropy(number), Path::new(DESCRIPTOR));
    said(delete(&scene.dir, &entropy, target, below, &open_options(false), &mut quiet!()))
}

fn leftovers(scene: &Scene<'_>, number: u64) -> Result<(), String> {
    let (entropy, target) = (scene.entropy(number), Path::new(DESCRIPTOR));
    said(merge_leftovers(&scene.dir, &entropy, target, &open_options(false), &mut quiet!()))
}

/// By some clusters, now and then past the first cluster of the BAT.
fn grow_some(scene: &Scene<'_>, number: u64) -> Result<(), String> {
    let target = Path::new(DESCRIPTOR);
    let options = open_options(false);
    let now = info(&scene.dir, target, &options).map_err(|e| OpenError::Image(e).to_string())?;
    let cluster = u64::from(now.blocksize);
    let clusters = match number % 3 {
        0 => (now.size / cluster).max(8176 + (number >> 8) % 16),
        _ => now.size / cluster + 1 + (number >> 8) % 5,
    };
    let size = Sector((clusters * cluster).max(now.size));
    said(grow(&scene.dir, target, size, &options))
}
