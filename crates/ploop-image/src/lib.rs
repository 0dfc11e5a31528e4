//! A ploop disk directory: descriptor, chain, locks, in-use mark, check, create, snapshot.
//!
//! | part | what |
//! |---|---|
//! | [`locate`] | what a path means: descriptor, directory, lone image |
//! | [`gate`] | which files a descriptor may name |
//! | [`open`] | [`Disk`]: locks, header and BAT checks, in-use mark, the engine's spec |
//! | `close` | [`Disk::close`], [`Disk::abort`] |
//! | [`create`](fn@create) | a new image and its descriptor |
//! | [`check`](mod@check) | the check table of the original, reporting only |
//!
//! Every file is reached through [`ploop_io::Dir`], so the simulator drives this code too.

pub mod check;
mod close;
mod create;
pub mod descriptor;
mod error;
mod extension;
mod fields;
pub mod gate;
mod head;
pub mod locate;
mod lock;
pub mod open;
pub mod scan;
mod store;
mod table;
mod xml;

pub use check::{CheckOptions, CheckReport, check};
pub use create::{CreateOptions, Created, Kind, Progress, create};
pub use error::{ErrorKind, ImageError, Result};
pub use gate::{AnyFile, InsideDirectory, OpenGate};
pub use lock::LockWait;
pub use open::{Disk, Note, OpenOptions, Who};
