//! A ploop disk as one FUSE file, and a loop device over it.
//!
//! | part | what |
//! |---|---|
//! | [`FuseServer`] | mounts the file, unmounts it |
//! | [`FuseQueues`], [`FuseFront`] | the queues that serve it, and the front end on each |
//! | [`LoopDevice`] | a loop device over a file, bound to the life of this process |
//! | [`apart()`] | a thread of its own for what may wait for our own device |
//! | [`partition`] | adds and deletes partitions of a block device by `BLKPG` |
//! | `protocol/` | the kernel's bytes to types and back, the handshake |
//! | `channel` | a descriptor of /dev/fuse: one system call for a request, one for an answer |
//! | `file` | what each request means: one regular file that is its own root |
//! | `front`, `receive` | turns of a queue; the way in, payloads where the kernel put them |
//! | `job`, `slow` | requests on their way; partial blocks, zeroing, searches |
//! | `ranges` | who writes where, so that a read-modify-write loses nobody's data |
//! | `queues` | what others leave for a queue; who still serves a mount |
//! | `handshake` | the first words with the kernel, and errors after the device has stopped |
//! | `mount`, `fusermount` | mount(2), umount(2), mountinfo, stale mounts |
//! | `server` | mounts the file, has it served by the queues, unmounts it |
//! | `loopdev` | loop devices over the FUSE file or any other |
//! | `loop_status` | what the kernel tells about loop devices |
//! | `freeze` | freezes and thaws a mounted file system |
//! | `error` | what can go wrong around a FUSE file or a loop device |
//! | `fuzz` | the body of the fuzz target |
//!
//! **A request never leaves the queue that read it.** Each queue has its own descriptor of the
//! connection, reads from it, hands in to the engine on the same thread and answers from there: no
//! other thread, no copy of whole blocks, no allocation per request. A partial block is read,
//! changed and written in turns. So `stat` answers while writes are held, as long as what is held
//! fits into the queue's memory (16 MiB).

mod apart;
mod channel;
mod error;
mod file;
pub mod freeze;
mod front;
mod fusermount;
#[doc(hidden)]
pub mod fuzz;
mod handshake;
mod job;
mod loop_status;
mod loopdev;
mod mount;
pub mod partition;
pub mod protocol;
mod queues;
mod ranges;
mod receive;
mod server;
mod slow;

pub use apart::apart;
pub use error::{Error, Result};
pub use front::FuseFront;
pub use loop_status::LoopStatus;
pub use loopdev::{LoopDevice, LoopOptions, device_size, free_dead};
pub use mount::{abort, clear_stale};
pub use queues::FuseQueues;
pub use server::{FuseOptions, FuseServer};
