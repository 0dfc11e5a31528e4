//! An open disk, served: threads, front ends, stop sequence.
//!
//! | part | what |
//! |---|---|
//! | [`spec`] | what to serve and how |
//! | [`mod@open`] | the disk, opened with words about who holds it |
//! | [`session`] | queue threads and the keeper thread of one device, and their end |
//! | [`multi`] | several front ends on one queue |
//! | [`nbd`] | listening sockets, and their front end on each queue |
//! | `ublk` | a ublk device, and its front ends on the queues |
//! | `kernel_nbd` | a device of the kernel's NBD client |
//! | `vhost` | vhost-user sockets for virtual machines |
//! | [`exports`] | FUSE files, the loop device and its partition; starts the ublk device |
//! | `leaving` | who has the block device; taking it away when nobody has |
//! | [`means`] | what the host and the user have for that |
//! | [`copier`] | copies of layers: several at a time, at a rate |
//! | [`cursor`] | the device as something to read, write and seek in |
//! | [`mapping`] | where the disk is stored |
//! | [`layers`], [`jobs`] | snapshot, merge, grow and pause of an open disk; what takes long |
//! | [`raise`] | a merge's copy-up, beside guests |
//! | [`methods`] | what the control socket does |
//! | [`mod@serve`] | the life of a server: start, wait, stop |
//! | `holder` | who has an image open, for an error message (T6) |
//! | `link` | the link `/dev/ploop/NAME` |
//! | `memory` | the server survives when the host is short of memory (D7) |
//! | `partition` | the first partition of an attached device (T2) |
//! | `signals` | SIGTERM, SIGINT and SIGHUP ask for a clean stop |
//!
//! Queue and keeper threads touch nothing but descriptors opened before (D8): exports are made and
//! taken away by the thread that called [`serve()`], control clients have threads of their own.

pub mod copier;
pub mod cursor;
pub mod exports;
pub mod holder;
pub mod jobs;
mod kernel_nbd;
pub mod layers;
mod leaving;
mod link;
pub mod mapping;
pub mod means;
pub mod memory;
pub mod methods;
pub mod multi;
pub mod nbd;
pub mod open;
pub mod partition;
pub mod raise;
pub mod serve;
pub mod session;
pub mod signals;
pub mod spec;
mod ublk;
mod vhost;

pub use link::check as check_name;
pub use multi::MultiFront;
pub use open::open;
pub use ploop_fuse::{freeze, partition as blkpg};
pub use serve::serve;
pub use session::Session;
pub use spec::{Export, OnFull, RingChoice, ServeSpec, UblkCopies};
