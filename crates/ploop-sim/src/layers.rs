//! Operations on the layers of a closed disk, as a table: a row is an operation.

use crate::life::{OpenError, open_options};
use crate::scene::DESCRIPTOR;
use ploop_image::{Disk, snapshot};
use ploop_io::sim::SimWorld;
use std::path::Path;
use std::sync::Arc;

/// One kind of operation. None of them changes what the device reads.
#[derive(Clone, Copy, Debug)]
pub struct LayerOp {
    /// Its name.
    pub name: &'static str,
    /// Does it, with a number for the names it makes.
    pub run: fn(&SimWorld, u64) -> Result<(), String>,
    /// Levels more when it has succeeded.
    pub adds: usize,
}

/// All of them.
pub const OPS: &[LayerOp] = &[
    LayerOp { name: "snapshot", run: take_snapshot, adds: 1 },
    LayerOp { name: "open-and-abort", run: open_and_abort, adds: 0 },
];

fn take_snapshot(world: &SimWorld, number: u64) -> Result<(), String> {
    let (dir, entropy) = (world.dir(), world.entropy(number));
    snapshot(&dir, &entropy, Path::new(DESCRIPTOR), None, &open_options(false))
        .map(|_| ())
        .map_err(|e| OpenError::Image(e).to_string())
}

fn open_and_abort(world: &SimWorld, _number: u64) -> Result<(), String> {
    let disk = Disk::open(Arc::new(world.dir()), Path::new(DESCRIPTOR), &open_options(false));
    disk.and_then(Disk::abort).map_err(|e| OpenError::Image(e).to_string())
}
