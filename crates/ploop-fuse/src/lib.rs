//! A ploop disk as one FUSE file, and a loop device over it.
//!
//! | part | what |
//! |---|---|
//! | [`FuseServer`] | mounts the file, serves it, unmounts it |
//! | [`LoopDevice`] | a loop device over a file, bound to the life of this process |
//! | [`partition`] | adds and deletes partitions of a block device by `BLKPG` |
//! | `fs` | the file system: one regular file that is its own root |
//! | `transfer` | requests to the engine: widening, splitting, read-modify-write |
//! | `ranges` | who writes where, so that a read-modify-write loses nobody's data |
//! | `pool` | aligned bounce buffers |
//! | `worker` | what a FUSE thread touches before it serves |
//! | `mount` | mount(2), umount(2), mountinfo, stale mounts |
//!
//! **Invariant: no FUSE worker waits for the engine.** A worker copies the request's data, hands
//! the request in and reads the next one; the queue's thread sends the reply from its callback.
//! A read-modify-write is a chain of such callbacks. So `stat` answers while writes are held.

mod error;
mod fs;
mod loop_status;
mod loopdev;
mod mount;
pub mod partition;
mod pool;
mod ranges;
mod server;
mod transfer;
mod worker;

pub use error::{Error, Result};
pub use loop_status::LoopStatus;
pub use loopdev::{LoopDevice, LoopOptions, device_size};
pub use mount::clear_stale;
pub use server::{FuseOptions, FuseServer};
