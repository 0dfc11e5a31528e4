//! A ploop disk directory: descriptor, chain, locks, in-use mark, check, create, snapshot.
//!
//! | part | what |
//! |---|---|
//! | [`locate`] | what a path means: descriptor, directory, lone image |
//! | [`gate`] | which files a descriptor may name |
//! | [`open`] | [`Disk`]: locks, header and BAT checks, in-use mark, the engine's spec |
//! | `exchange` | an operation on layers while a device pauses |
//! | `close` | [`Disk::close`], [`Disk::abort`] |
//! | [`create`](fn@create) | a new image and its descriptor |
//! | [`snapshot`](fn@snapshot) | freezes the top of a disk that is not open |
//! | [`layers`] | switch, delete, merge, grow |
//! | [`info`](mod@info), [`restore_descriptor`] | facts; a descriptor for a lone image |
//! | [`check`](mod@check) | the check table of the original, reporting only |
//! | `head` | the header of an open image |
//! | `scan` | one pass over a BAT: the clusters in use, the bad entries |
//! | `extension` | the format extension of an open image |
//! | `lock` | locks of images and of the descriptor |
//! | `held` | open and locked files handed on from one opening of a disk to the next |
//! | `store` | writing a descriptor, with one rename |
//! | `moved` | a bundle that is not where it was made |
//! | `owner` | owner, group and mode of new files |
//! | `restore` | a descriptor for a lone image |
//! | `error` | what can go wrong with a disk directory, and its exit code |
//!
//! Every file is reached through [`ploop_io::Dir`], so the simulator drives this code too.

pub mod check;
mod close;
mod create;
mod error;
mod exchange;
mod extension;
pub mod gate;
mod head;
mod held;
pub mod info;
pub mod layers;
pub mod locate;
mod lock;
mod moved;
pub mod open;
mod owner;
mod restore;
pub mod scan;
mod snapshot;
mod store;

pub use check::{CheckOptions, CheckReport, check};
pub use create::{CreateOptions, Created, Kind, Progress, create};
pub use error::{ErrorKind, ImageError, Result};
pub use exchange::Exchange;
pub use gate::{AnyFile, InsideDirectory, OpenGate};
pub use held::Held;
pub use info::{Info, SnapshotEntry, StatFs, info, snapshots, statfs};
pub use lock::LockWait;
pub use open::{Disk, Note, OpenOptions, Who};
pub use restore::restore_descriptor;
pub use snapshot::{Ready, Snapshot, Wish, snapshot, snapshot_as};
pub use store::Spares;
